"""Templates, galleries and their rounding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mibench.judges import Gallery, dequantised, leave_one_out, quantised, template


def embeddings(*shape: int) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return F.normalize(made, dim=-1)


def test_a_template_is_the_normalised_mean() -> None:
    made = embeddings(3, 4, 8)
    mean = made.sum(1) / 4
    torch.testing.assert_close(template(made), mean / mean.norm(dim=1, keepdim=True))


def test_leaving_an_image_out_is_the_template_of_the_others() -> None:
    made = embeddings(3, 4, 8)
    found = leave_one_out(made)
    for image in range(4):
        others = [each for each in range(4) if each != image]
        torch.testing.assert_close(found[:, image], template(made[:, others]))
    with pytest.raises(ValueError, match="another image"):
        leave_one_out(embeddings(3, 1, 8))


def test_private_templates_are_rounded_as_the_decoys_are() -> None:
    """Else the decoys' rounding would tell them from private identities."""
    made, decoys = embeddings(5, 10, 16), embeddings(7, 16)
    gallery = Gallery(quantised(decoys), images=9)
    assert len(gallery) == 7
    for templates in (gallery.enrolled(made), gallery.held_out(made)):
        again = dequantised(quantised(templates))
        torch.testing.assert_close(again, templates)
        torch.testing.assert_close(templates.norm(dim=-1), torch.ones(templates.shape[:-1]))
    torch.testing.assert_close(
        gallery.enrolled(made), dequantised(quantised(template(made[:, :9])))
    )
    # Of ten images, the template without the last one is the one that reconstructions meet.
    torch.testing.assert_close(gallery.held_out(made)[:, 9], gallery.enrolled(made))


def test_templates_of_unlike_sizes_are_refused() -> None:
    gallery = Gallery(quantised(embeddings(7, 16)), images=9)
    with pytest.raises(ValueError, match="9 images an identity; decoys are of 9"):
        gallery.held_out(embeddings(5, 9, 16))
    with pytest.raises(ValueError, match="8 images an identity; decoys are of 9"):
        gallery.enrolled(embeddings(5, 8, 16))


def test_of_more_images_than_needed_the_first_count() -> None:
    """Each image is scored against as many others as a decoy's template holds, never itself."""
    made, gallery = embeddings(2, 5, 16), Gallery(quantised(embeddings(7, 16)), images=2)
    found = gallery.held_out(made)
    for image, others in enumerate([(1, 2), (0, 2), (0, 1), (0, 1), (0, 1)]):
        expected = dequantised(quantised(template(made[:, list(others)])))
        torch.testing.assert_close(found[:, image], expected)


def test_the_rounded_zero_is_no_number() -> None:
    """A network that gives nothing is not a face like any other: its rank is the last."""
    assert torch.equal(quantised(torch.zeros(1, 4)), torch.zeros(1, 4, dtype=torch.int8))
