"""Random views against geometry computed by hand, and the loss that is averaged over them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mibench.data.views import Jitter, Views
from mibench.inversion.identity import IdentityConfig, IdentityLoss
from mibench.inversion.selection import CROPS
from mibench.inversion.views import TRANSFORMED
from mibench.models.classifiers import Outputs
from mibench.streams import RowStreams, stream

CPU = torch.device("cpu")


def streams(*rows: int) -> RowStreams:
    return RowStreams([stream(0, "views", row) for row in rows], CPU)


class Told(RowStreams):
    """Numbers that a test chose: area, ratio, top, left, side, turn."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = torch.tensor([numbers])

    def uniform(self, *shape: int) -> Tensor:
        return self.numbers


def picture(size: int = 16) -> Tensor:
    return torch.rand(1, 3, size, size, generator=stream(0, "picture"))


def test_the_whole_image_is_itself() -> None:
    x = picture()
    torch.testing.assert_close(Views(scale=(1, 1))(x, streams(0)), x)


def test_a_crop_is_the_part_enlarged() -> None:
    """A quarter of the area: half of each side, from a corner that the draws say."""
    x = picture()
    for top, left in ((0, 0), (1, 0), (0, 1), (0.5, 0.5)):
        seen = Views(scale=(0.25, 0.25))(x, Told(0, 0.5, top, left, 1, 0.5))
        y0, x0 = int(top * 8), int(left * 8)
        part = x[:, :, y0 : y0 + 8, x0 : x0 + 8]
        wanted = F.interpolate(part, size=16, mode="bilinear", align_corners=False)
        # At the crop's border the view looks beyond it, where an enlarged part repeats its edge.
        torch.testing.assert_close(seen[:, :, 1:-1, 1:-1], wanted[:, :, 1:-1, 1:-1])


def test_a_mirrored_view_is_the_mirror_image_and_digits_have_none() -> None:
    x, view = picture(), Views(scale=(1, 1), mirror=True)
    torch.testing.assert_close(view(x, Told(0, 0.5, 0, 0, 0.2, 0.5)), x.flip(3))
    torch.testing.assert_close(view(x, Told(0, 0.5, 0, 0, 0.7, 0.5)), x)
    torch.testing.assert_close(view(x, Told(0, 0.5, 0, 0, 0.2, 0.5), mirror=False), x)


def test_a_right_angle_turns_the_image() -> None:
    x, view = picture(), Views(scale=(1, 1), degrees=90)
    turned = view(x, Told(0, 0.5, 0, 0, 1, 1))
    torch.testing.assert_close(turned, torch.rot90(x, 1, (2, 3)), atol=1e-5, rtol=1e-4)


def test_area_and_ratio_are_within_their_bounds() -> None:
    """Read off an image whose value is its place, of which a view's range is the crop's size."""
    ramp = torch.linspace(0.5 / 64, 1 - 0.5 / 64, 64)
    places = torch.stack([ramp[:, None].expand(64, 64), ramp[None].expand(64, 64)])
    x = torch.cat([places, places[:1]]).expand(200, 3, 64, 64)
    view = Views(scale=(0.5, 0.9), ratio=(0.8, 1.2))
    seen = view(x, streams(*range(200)))
    height, width = (seen[:, axis].flatten(1) for axis in (0, 1))
    h, w = ((each.amax(1) - each.amin(1)) * 64 / 63 for each in (height, width))
    area, ratio = h * w, w / h
    assert 0.5 - 0.01 < area.min() < 0.55
    assert 0.85 < area.max() < 0.9 + 0.01
    assert 0.8 - 0.01 < ratio.min() < 0.84
    assert 1.14 < ratio.max() < 1.2 + 0.01
    assert (seen >= 0).all()
    assert (seen <= 1).all()


def test_some_views_alone_are_cropped_or_turned() -> None:
    """A view that is neither is the image; the others are what they would be if all were."""
    x, rows = picture().expand(400, -1, -1, -1), range(400)
    every, some = (
        Views(scale=(0.5, 0.5), degrees=45, crops=crops, turns=turns)(x, streams(*rows))
        for crops, turns in ((1, 1), (0.3, 0.6))
    )
    only_cropped = Views(scale=(0.5, 0.5))(x, streams(*rows))
    kinds = {"both": every, "cropped": only_cropped, "neither": x}
    same = {name: (some - kind).abs().amax((1, 2, 3)) < 1e-5 for name, kind in kinds.items()}
    shares = {name: found.float().mean().item() for name, found in same.items()}
    assert shares == pytest.approx({"both": 0.18, "cropped": 0.12, "neither": 0.28}, abs=0.06)


def test_the_views_of_published_attacks_are_drawn_from_the_published_ranges() -> None:
    """AlignMI's TAA (arXiv 2509.20177) and PPA's final selection, as docs/parity.md has them."""
    assert Views(scale=(0.8, 1), ratio=(0.9, 1.1), mirror=True, degrees=5) == TRANSFORMED
    assert Views(scale=(0.5, 0.9), ratio=(0.8, 1.2), mirror=True) == CROPS


def test_a_rows_view_is_its_own_and_changes_with_each_step() -> None:
    x = picture().expand(3, -1, -1, -1)
    together, alone = TRANSFORMED(x, streams(0, 1, 2)), TRANSFORMED(x[:1], streams(2))
    torch.testing.assert_close(together[2:], alone)
    assert not torch.allclose(together[0], together[1])
    again = streams(0, 1, 2)
    assert not torch.allclose(TRANSFORMED(x, again), TRANSFORMED(x, again))


def test_gradients_reach_the_pixels() -> None:
    x = picture().requires_grad_(True)
    TRANSFORMED(x, streams(0)).sum().backward()
    assert x.grad is not None
    # Bilinear weights of a view sum to one for each of its pixels.
    assert x.grad.sum() == pytest.approx(3 * 16 * 16, rel=1e-4)


class Shades(RowStreams):
    """Numbers that a test chose: chance, brightness, contrast."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = torch.tensor([numbers])

    def uniform(self, *shape: int) -> Tensor:
        assert shape == (3,)
        return self.numbers


def test_jitter_by_hand() -> None:
    """Two pixels of .2 and .6 red, .5 green and no blue: gray .2990·.4 + .587·.5 on average."""
    x = torch.tensor([[[[0.2, 0.6]], [[0.5, 0.5]], [[0.0, 0.0]]]])
    brighter = Jitter(0.2)(x, Shades(0, 1, 0.5))
    torch.testing.assert_close(brighter, 1.2 * x)
    gray = 0.299 * 0.4 + 0.587 * 0.5
    torch.testing.assert_close(Jitter(0.2)(x, Shades(0, 0.5, 0)), 0.8 * x + 0.2 * gray)
    # Contrast is of what brightness left, and clipped.
    both = Jitter(0.2)(x, Shades(0, 0, 1))
    torch.testing.assert_close(both, (1.2 * 0.8 * x - 0.2 * 0.8 * gray).clamp_min(0))
    assert both.min() == 0
    white = Jitter(0.5)(torch.full((1, 3, 2, 2), 0.9), Shades(0, 1, 0.5))
    assert (white == 1).all()
    for chance, changed in ((0.49, True), (0.51, False)):
        seen = Jitter(0.2, share=0.5)(x, Shades(chance, 1, 1))
        assert torch.equal(seen, x) != changed


def test_a_rows_jitter_is_its_own_and_passes_gradients() -> None:
    x = picture().expand(3, -1, -1, -1).clone().requires_grad_(True)
    seen = Jitter(0.2)(x, streams(0, 1, 2))
    torch.testing.assert_close(seen[2:], Jitter(0.2)(x[:1], streams(2)))
    assert not torch.allclose(seen[0], seen[1])
    seen[1].sum().backward()
    assert x.grad is not None
    assert (x.grad[1] != 0).any()
    assert not x.grad[[0, 2]].any()


def loss(config: IdentityConfig, x: Tensor, rows: RowStreams, mirror: bool = True) -> Tensor:
    weights = torch.randn(4, 3 * 16 * 16, generator=stream(0, "weights"))

    def target(images: Tensor) -> Outputs:
        return Outputs(images.flatten(1) @ weights.T / 10, images.flatten(1))

    labels = torch.arange(len(x)) % 4
    return IdentityLoss(target, (), config, mirror=mirror)(x, labels, rows)


@pytest.mark.parametrize("kind", ["taa", "paa"])
def test_the_loss_is_the_mean_over_views(kind: str) -> None:
    x = torch.cat([picture(), picture().flip(2)])
    config = IdentityConfig.model_validate({"views": kind, "view_count": 3, "view_noise": 0.1})
    found, plain = loss(config, x, streams(0, 1)), IdentityConfig()
    rows = streams(0, 1)
    each = []
    for _ in range(3):
        view = TRANSFORMED(x, rows) if kind == "taa" else x + 0.1 * rows.normal(3, 16, 16)
        each.append(loss(plain, view, streams(0, 1)))
    torch.testing.assert_close(found, torch.stack(each).mean(0))
    assert not torch.allclose(found, loss(plain, x, streams(0, 1)))
