"""Label smoothing: its loss, and the schedule of a negative factor."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from mibench.defenses.label_smoothing import LabelSmoothing
from mibench.streams import stream
from mibench.training.loop import Hooks, TrainingConfig, TrainState, train
from tests.defenses.test_contract import private
from tests.kit.training import classifier, job

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]])
LABELS = torch.tensor([0, 2])


def state(step: int, steps: int) -> TrainState:
    return TrainState(0, step, 1, steps, stream(0))


def loss(alpha: float, step: int = 0, steps: int = 1) -> Tensor:
    defense: Any = LabelSmoothing(LabelSmoothing.Config(alpha=alpha))
    return defense.loss(lambda _: LOGITS, torch.empty(0), LABELS, state(step, steps))


def published(alpha: float, epochs: int, epoch: int) -> float:
    """The released code's schedule, generalised in nothing but its three epochs."""
    start, end = epochs / 2, 3 * epochs / 4
    if alpha > 0:
        return alpha
    if epoch < start:
        return 0
    return alpha * (epoch + 1 - start) / (epochs - start) if epoch < end else alpha


def seen(alpha: float, epochs: float, per_epoch: int = 8) -> list[tuple[int, float]]:
    """Epoch and factor of every step, as a training of 16 images in batches of 2 asks for them."""
    found = []

    class Noted(LabelSmoothing):
        def loss(self, model: Any, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
            found.append((state.epoch, self.factor(state.step, state.steps)))
            return model(images).mean()

    small = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(4))
    small(torch.zeros(1, 3, 32, 32))
    config = TrainingConfig(epochs=epochs, batch_size=16 // per_epoch)
    train(job(private(16), config, small), Noted(LabelSmoothing.Config(alpha=alpha)))
    return found


def test_a_positive_factor_is_torchs_label_smoothing_at_every_step() -> None:
    expected = F.cross_entropy(LOGITS, LABELS, label_smoothing=0.2)
    for step in (0, 50, 99):
        torch.testing.assert_close(loss(0.2, step, 100), expected)


def test_a_negative_factor_by_hand() -> None:
    found = []
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        total = sum(map(math.exp, row))
        surprise = [-math.log(math.exp(each) / total) for each in row]
        found.append(1.05 * surprise[label] - 0.05 * sum(surprise) / 3)
    assert loss(-0.05, 99, 100).item() == pytest.approx(sum(found) / 2, rel=1e-6)
    assert loss(-0.05, 0, 100).item() == F.cross_entropy(LOGITS, LABELS).item()


def test_the_schedule_of_100_epochs_is_the_published_one() -> None:
    steps = seen(-0.05, 100)
    assert len(steps) == 800
    for epoch, factor in steps:
        assert factor == pytest.approx(published(-0.05, 100, epoch), abs=1e-15), epoch
    factors = dict(steps)
    assert [factors[49], factors[50], factors[74], factors[75]] == pytest.approx(
        [0, -0.001, -0.025, -0.05]
    )


def test_a_training_of_20_epochs_goes_through_the_same_factors() -> None:
    steps = seen(-0.1, 20)
    last = dict(steps)  # of each epoch
    for epoch in range(20):
        assert last[epoch] == pytest.approx(published(-0.1, 20, epoch), abs=1e-15), epoch
    rising = [factor for epoch, factor in steps if 10 <= epoch < 15]
    assert rising == sorted(rising, reverse=True)
    assert {factor for epoch, factor in steps if epoch < 10} == {0}
    assert {factor for epoch, factor in steps if epoch >= 15} == {-0.1}


@pytest.mark.parametrize("epochs", [0.5, 1, 2, 3.3])
def test_a_short_training_is_defended_too(epochs: float) -> None:
    factors = [factor for _, factor in seen(-0.05, epochs)]
    half, quarter = math.ceil(len(factors) / 2), math.ceil(3 * len(factors) / 4)
    assert set(factors[:half]) == {0}
    assert all(-0.0251 < factor < 0 for factor in factors[half:quarter])
    assert set(factors[quarter:]) == {-0.05}


def test_a_positive_factor_does_not_wait() -> None:
    assert {factor for _, factor in seen(0.1, 2)} == {0.1}


def weights(hooks: Hooks) -> Tensor:
    config = TrainingConfig(epochs=2, batch_size=16)
    given = job(private(), config, classifier(), stream(1))
    assert train(given, hooks).diverged is None
    return torch.cat([p.detach().flatten() for p in given.model.parameters()])


def test_the_control_is_the_plain_training() -> None:
    plain = weights(Hooks())
    assert torch.equal(weights(LabelSmoothing(LabelSmoothing.Config(alpha=0))), plain)
    assert not torch.equal(weights(LabelSmoothing(LabelSmoothing.Config())), plain)


@pytest.mark.parametrize("alpha", [1, 2.0, -11, math.nan, math.inf])
def test_factors_that_are_refused(alpha: float) -> None:
    with pytest.raises(ValidationError):
        LabelSmoothing.Config(alpha=alpha)
