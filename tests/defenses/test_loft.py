"""LoFt: its formula, and the rank of what it lets through."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mibench.data.images import ImageSet
from mibench.defenses.loft import Loft, NeckHead
from mibench.models.classifiers import Classifier
from mibench.streams import seeded, stream
from mibench.training.loop import TrainingConfig, train
from tests.kit import training

CLASSES = 150  # more than `test_resnet` has features, so that these bound the control's rank


def built(rank: int, architecture: str = "test_resnet") -> Classifier:
    with seeded(3):
        model = Classifier(architecture, CLASSES, 32)
        return Loft(Loft.Config(rank=rank)).built(model).eval()


def rank_of(values: Tensor) -> int:
    """Directions in which values ``(n, d)`` vary, to a part in 10⁹ of the largest."""
    values = values.detach().double()
    return int(torch.linalg.matrix_rank(values - values.mean(0), rtol=1e-9))


def test_head_computes_the_formula() -> None:
    head = NeckHead(9, 4, 3, tanh=True)
    features = torch.randn(5, 9)
    logits, extra = head.read(features)
    neck = features @ head.neck.weight.T + head.neck.bias
    squeezed = (neck.exp() - (-neck).exp()) / (neck.exp() + (-neck).exp())
    torch.testing.assert_close(extra["neck"], squeezed)
    torch.testing.assert_close(logits, squeezed @ head.classify.weight.T + head.classify.bias)


def test_the_controls_head_is_a_linear_one() -> None:
    head, features = NeckHead(9, 9, 3, tanh=False), torch.randn(5, 9)
    weight = head.classify.weight @ head.neck.weight
    bias = head.classify.weight @ head.neck.bias + head.classify.bias
    torch.testing.assert_close(head(features), features @ weight.T + bias)


@pytest.mark.parametrize(("rank", "expected"), [(0, 96), (1000, 96), (50, 50), (10, 10), (1, 1)])
def test_logits_have_the_rank_of_the_neck(rank: int, expected: int) -> None:
    """Over many features; without the neck's bound they would have 96 directions."""
    model = built(rank).double()
    features = 3 * torch.randn(400, 96, generator=stream(0), dtype=torch.float64)
    logits, extra = model.head.read(features)
    assert rank_of(features) == 96
    assert extra["neck"].shape == (400, expected)
    assert rank_of(logits) == rank_of(extra["neck"]) == expected
    assert (extra["neck"].abs().max() <= 1) == (rank > 0)


def test_images_reach_the_logits_in_that_many_directions() -> None:
    """In a whole network; its features, which white-box attacks read, keep theirs."""
    images = torch.rand(300, 3, 32, 32, generator=stream(0), dtype=torch.float64)
    outputs = built(7).double().outputs(images)
    assert outputs.features.shape == (300, 96)
    assert rank_of(outputs.features) > 20
    assert rank_of(outputs.logits) == 7
    plain = training.classifier(classes=CLASSES).eval().double()
    torch.testing.assert_close(outputs.features, plain.features(images))


def test_every_strength_has_its_own_head() -> None:
    shapes = [tuple(built(int(rank)).head.neck.weight.shape) for rank in Loft.strengths]  # type: ignore[attr-defined]
    assert shapes == [(96, 96), (96, 96), (50, 96), (20, 96), (10, 96)]
    named = [built(rank).head.activation for rank in (0, 100)]  # type: ignore[attr-defined]
    assert [type(each).__name__ for each in named] == ["Identity", "Tanh"]


def test_a_narrow_neck_still_learns() -> None:
    labels = torch.arange(40) % 4
    colours = torch.rand(4, 3, 1, 1, generator=stream(0))[labels]
    images = (255 * colours.expand(-1, -1, 32, 32)).byte()
    data, config = ImageSet(images, labels, tuple("abcd")), TrainingConfig(epochs=20, batch_size=20)
    with seeded(0):
        model = Loft(Loft.Config(rank=3)).built(Classifier("test_resnet", 4, 32))
    train(training.job(data, config, model), Loft(Loft.Config(rank=3)))
    assert (model(images.float() / 255).argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("rank", [-1, 2.5, 10**7])
def test_impossible_ranks_are_refused(rank: float) -> None:
    with pytest.raises(ValidationError, match="rank"):
        Loft.Config(rank=rank)
