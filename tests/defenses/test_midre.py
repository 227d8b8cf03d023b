"""MIDRE: what is erased of training images, and that nothing is of others."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from mibench.cell.request import Request
from mibench.cell.resolve import resolve
from mibench.defenses.midre import Midre, erase
from mibench.errors import RequestError
from mibench.streams import stream
from mibench.training.loop import Hooks, TrainingConfig, TrainState, shift_and_mirror, train
from tests.defenses.test_contract import private
from tests.kit.training import classifier, job

FILL = (0.25, 0.5, 0.75)


def marked(count: int, height: int = 32, width: int = 32) -> Tensor:
    """Images in which every value differs from every channel's fill."""
    images = 2 + torch.rand(count, 3, height, width, generator=stream(0, "images"))
    assert images.min() >= 2
    return images


def squares(images: Tensor, erased: Tensor) -> list[tuple[int, int, int]]:
    """Top, left and side of each image's erased square, or a failure where it is none."""
    found = []
    for before, after in zip(images, erased, strict=True):
        painted = (after == torch.tensor(FILL).view(3, 1, 1)).all(0)
        assert torch.equal(after[:, ~painted], before[:, ~painted]), "outside is touched"
        rows, columns = painted.any(1).nonzero()[:, 0], painted.any(0).nonzero()[:, 0]
        top, bottom = int(rows.min()), int(rows.max()) + 1
        left, right = int(columns.min()), int(columns.max()) + 1
        assert painted[top:bottom, left:right].all(), "a hole in it"
        assert bottom - top == right - left, "no square"
        found.append((top, left, bottom - top))
    return found


@pytest.mark.parametrize("most", [0.2, 0.4, 0.9])
@pytest.mark.parametrize("side", [32, 64])
def test_areas_are_uniform_and_places_in_the_image(most: float, side: int) -> None:
    images = marked(800, side, side)
    original = images.clone()
    found = squares(images, erase(images, most, FILL, stream(0)))
    assert torch.equal(images, original), "in place"
    smallest, largest = (round(math.sqrt(area) * side) for area in (0.1, most))
    assert {size for _, _, size in found} == set(range(smallest, largest + 1))
    # A side s comes of areas in [(s − ½)², (s + ½)²] of those in [.1, most].
    low, high = 0.1 * side**2, most * side**2
    expected, counted = [], []
    for size in range(smallest, largest + 1):
        share = min(high, (size + 0.5) ** 2) - max(low, (size - 0.5) ** 2)
        expected.append(share / (high - low) * len(found))
        counted.append(sum(each == size for _, _, each in found))
    assert stats.chisquare(counted, expected).pvalue > 1e-4
    # Places: corners are reached, and the mean is the middle of those that there are.
    for axis in (0, 1):
        places = [(square[axis], side - square[2]) for square in found]
        assert any(place == 0 for place, _ in places)
        assert any(place == last for place, last in places)
        mean = sum(place / last for place, last in places) / len(places)
        assert abs(mean - 0.5) < 0.05
    assert len({(top, left) for top, left, _ in found}) > 100


def test_what_is_not_square_is_erased_in_squares_too() -> None:
    for top, left, size in squares(
        marked(200, 24, 40), erase(marked(200, 24, 40), 0.9, FILL, stream(0))
    ):
        assert 0 <= top <= 24 - size
        assert 0 <= left <= 40 - size


def test_every_image_has_a_square_of_its_own_by_the_given_generator() -> None:
    images = marked(64)
    one, same, other = (erase(images, 0.4, FILL, stream(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert squares(images, one) != squares(images, other)
    torch.manual_seed(5)
    assert torch.equal(erase(images, 0.4, FILL, stream(0)), one), "another generator decides"


def state(augment: bool, seed: int = 0) -> TrainState:
    return TrainState(0, 0, 1, 1, stream(seed), augment)


def test_the_standard_augmentation_comes_first_and_does_not_silence_it() -> None:
    defense, images = Midre(Midre.Config(fill=FILL)), marked(32)
    labels = torch.zeros(32, dtype=torch.int64)
    squares(images, defense.augment(images, labels, state(augment=False)))
    rng = stream(0)
    moved = shift_and_mirror(images, rng)
    expected = erase(moved, 0.4, FILL, rng)
    assert torch.equal(defense.augment(images, labels, state(augment=True)), expected)


def test_the_default_fill_is_the_published_value_after_normalisation() -> None:
    # ImageNet's mean v, painted after (x − .5)/.5, is the pixel x = (v + 1)/2.
    expected = [(value + 1) / 2 for value in (0.485, 0.456, 0.406)]
    assert list(Midre.Config().fill) == pytest.approx(expected)
    painted = erase(marked(1), 0.9, Midre.Config().fill, stream(0))
    assert {tuple(each) for each in painted.flatten(2)[0].T.tolist() if max(each) < 2} == {
        tuple(torch.tensor(expected).tolist())
    }


def test_the_control_erases_nothing() -> None:
    control, images = Midre(Midre.Config(area=0)), marked(8)
    labels = torch.zeros(8, dtype=torch.int64)
    assert torch.equal(control.augment(images, labels, state(augment=False)), images)
    plain = Hooks().augment(images, labels, state(augment=True))
    assert torch.equal(control.augment(images, labels, state(augment=True)), plain)


def test_only_training_erases() -> None:
    """The loop's batches hold squares of the fill; the deployed target erases nothing."""
    seen = []

    class Noted(Midre):
        def loss(self, model: Any, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
            seen.append(images.detach().clone())
            return super().loss(model, images, labels, state)

    defense, config = Noted(Midre.Config(fill=FILL)), TrainingConfig(epochs=1, batch_size=16)
    given = job(private(), config, classifier(), stream(0))
    train(given, defense)
    fill = torch.tensor(FILL).view(1, 3, 1, 1)
    shares = (torch.cat(seen) == fill).all(1).float().mean((1, 2))
    assert len(shares) == 32
    assert ((shares > 0.08) & (shares < 0.43)).all()
    plain = classifier().eval()
    plain.load_state_dict(given.model.state_dict())
    images = marked(4) / 3
    torch.testing.assert_close(given.model(images), plain(images))


@pytest.mark.parametrize("area", [0.05, 0.1, 0.91, 1, -0.1, math.nan])
def test_areas_that_are_refused(area: float) -> None:
    with pytest.raises(ValidationError):
        Midre.Config(area=area)


def test_an_area_without_room_is_refused_with_the_reason() -> None:
    asked = Request(
        protocol="synthfaces-32", attack="gmi", defense="midre", overrides={"defense.area": 0.1}
    )
    with pytest.raises(RequestError, match=r"defense\.area.*the least is 0\.1.*0 for the control"):
        resolve(asked)


@pytest.mark.parametrize("fill", [(0, 0, 1.1), (0, 0, -0.1), (0, 0), (0, 0, 0, 0)])
def test_fills_that_are_refused(fill: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        Midre.Config(fill=fill)
