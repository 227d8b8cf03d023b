"""Weight decay: the sum of both decays, in every optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mibench.defenses.weight_decay import WeightDecay
from mibench.streams import stream
from mibench.training.loop import Hooks, TrainingConfig, train
from tests.defenses.test_contract import private
from tests.kit.training import classifier, job


def weights(hooks: Hooks, **config: Any) -> Tensor:
    given = job(private(), TrainingConfig(batch_size=16, **config), classifier(), stream(1))
    assert train(given, hooks).diverged is None
    return torch.cat([p.detach().flatten() for p in given.model.parameters()])


def defense(decay: float) -> WeightDecay:
    return WeightDecay(WeightDecay.Config(decay=decay))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_it_is_the_plain_training_with_more_decay(optimizer: Any) -> None:
    config: dict[str, Any] = {"epochs": 2, "optimizer": optimizer}
    defended = weights(defense(0.25), weight_decay=0.5, **config)
    assert torch.equal(defended, weights(Hooks(), weight_decay=0.75, **config))
    assert not torch.allclose(defended, weights(Hooks(), weight_decay=0.5, **config))


def test_one_step_by_hand() -> None:
    """w ← w − η(1 + μ)(g + (λ + d)w), the first step of Nesterov's momentum."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, -2.0]))

        def forward(self, images: Tensor) -> Tensor:
            return images[:, 0, 0, :2] * 0 + self.w

    model = Linear()
    config = TrainingConfig(
        epochs=1,
        batch_size=16,
        learning_rate=0.1,
        momentum=0.5,
        weight_decay=0.01,
        warmup=0,
        schedule="constant",
    )
    made = defense(0.03).optimizer(job(private(), config, model))
    (model(torch.ones(4, 3, 32, 32)) * torch.tensor([3.0, 5.0])).mean(0).sum().backward()
    made.step()
    expected = [1 - 0.1 * 1.5 * (3 + 0.04 * 1), -2 - 0.1 * 1.5 * (5 + 0.04 * -2)]
    torch.testing.assert_close(model.w.detach(), torch.tensor(expected))


def test_the_control_is_the_plain_training_and_the_job_keeps_its_settings() -> None:
    assert torch.equal(weights(defense(0), epochs=1), weights(Hooks(), epochs=1))
    given = job(private(), TrainingConfig(weight_decay=0.5), classifier())
    defense(0.25).optimizer(given)
    assert given.config.weight_decay == 0.5


def test_stronger_decay_leaves_smaller_weights() -> None:
    sizes = [weights(defense(d), epochs=4, learning_rate=0.05).norm() for d in (0, 0.02, 2)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.9 * sizes[0]
