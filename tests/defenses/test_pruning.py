"""Pruning: which weights, when, how many, and that they stay zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mibench.data.images import ImageSet
from mibench.defenses.pruning import Pruner, Pruning, prunable, smallest
from mibench.models.classifiers import Classifier
from mibench.streams import stream
from mibench.training.loop import Hooks, Job, TrainingConfig, TrainState, train
from tests.defenses.test_contract import private
from tests.kit.training import classifier, job


def share_of_zeros(model: Classifier) -> float:
    """Over the weights of convolutions and linear layers but the head's, found by their names."""
    found = []
    for name, module in model.named_modules():
        if name.startswith("backbone.") and isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            found.append(module.weight.detach().flatten())
    weights = torch.cat(found)
    return float((weights == 0).double().mean())


def sparsity_in_the_end(sparsity: float, model: Classifier) -> float:
    count = sum(each.numel() for each in prunable(model))
    return round(sparsity * count) / count


def trained(defense: Hooks, architecture: str = "test_resnet", **config: Any) -> Job:
    settings = {"epochs": 5, "batch_size": 8, "learning_rate": 0.05, **config}
    given = job(private(), TrainingConfig(**settings), classifier(architecture), stream(1))
    assert train(given, defense).diverged is None
    return given


def defense(sparsity: float = 0.8, **fields: Any) -> Pruning:
    return Pruning(Pruning.Config(sparsity=sparsity, **fields))


@pytest.mark.parametrize(
    "config",
    [
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0},
        {"optimizer": "adam", "weight_decay": 0.1, "learning_rate": 1e-3},
        {"optimizer": "adamw", "weight_decay": 0.1, "learning_rate": 1e-3},
        {"epochs": 0.25},
        {"epochs": 0.5},
        {"epochs": 0.75},
    ],
)
@pytest.mark.parametrize("sparsity", [0.5, 0.95])
def test_the_deployed_target_is_exactly_as_sparse(config: dict[str, Any], sparsity: float) -> None:
    model = trained(defense(sparsity), **config).model
    assert share_of_zeros(model) == sparsity_in_the_end(sparsity, model)
    assert abs(share_of_zeros(model) - sparsity) < 1e-5
    assert isinstance(model.head, nn.Linear)
    assert (model.head.weight != 0).all()


def test_nothing_is_left_of_it_in_the_target_or_the_defense() -> None:
    given, used = trained(defense()), defense()
    before = dict(vars(used))
    again = trained(used)
    assert vars(used) == before
    fresh = classifier()
    for model in (given.model, again.model):
        assert model.state_dict().keys() == fresh.state_dict().keys()
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not hasattr(module, "parametrizations")
        for p in model.parameters():
            assert not p._backward_hooks
            assert not hasattr(p, "mask")


def test_one_defense_trains_twice_as_two_do() -> None:
    used = defense()
    trained(used, epochs=3)  # of another length
    second, other = trained(used), trained(defense())
    for one, same in zip(second.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, same)


def test_the_control_is_the_plain_training() -> None:
    control, plain = trained(defense(0)), trained(Hooks())
    for one, same in zip(control.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, same)
    assert share_of_zeros(control.model) == 0


class Watched(Pruning):
    """Notes what the weights are before each of the loop's steps."""

    def optimizer(self, job: Job) -> torch.optim.Optimizer:
        self.seen: list[Tensor] = []
        return super().optimizer(job)

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        weights = [each.detach().flatten() for each in prunable(model)]
        self.seen.append(torch.cat(weights).clone())
        return super().loss(model, images, labels, state)


def test_the_sparsity_rises_as_published_and_pruned_weights_stay_so() -> None:
    watched = Watched(Pruning.Config(sparsity=0.9, updates=10))
    model = trained(watched, epochs=10).model  # 40 steps, pruned from 10 to 30, every other one
    seen = [*watched.seen, torch.cat([each.detach().flatten() for each in prunable(model)])]
    assert len(seen) == 41
    for done, weights in enumerate(seen):
        # Zhu and Gupta: s_f + (s_i − s_f)(1 − (t − t₀)/(nΔt))³ with s_i = 0, t₀ = 10, n = 10 and
        # Δt = 2, held between the updates.
        update = min(max(0, (done - 10) // 2), 10)
        expected = 0.9 + (0 - 0.9) * (1 - 2 * update / 20) ** 3
        share = float((weights == 0).double().mean())
        assert share == pytest.approx(expected, abs=1e-5), done
        if done:
            before = seen[done - 1]
            assert (weights[before == 0] == 0).all(), "a pruned weight came back"
            chosen = (before != 0) & (weights == 0)
            assert bool(chosen.any()) == (10 < done <= 30 and done % 2 == 0), done
    last = seen[-1]
    assert not torch.equal(seen[-2][last != 0], last[last != 0]), "what is left is trained"


def test_masks_are_chosen_at_intervals_and_not_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(weights: list[Tensor], sparsity: float) -> list[Tensor]:
        calls.append(sparsity)
        return smallest(weights, sparsity)

    monkeypatch.setattr("mibench.defenses.pruning.smallest", counted)
    trained(defense(0.8, updates=3), epochs=10)
    assert calls == pytest.approx([0.8 * (1 - (2 / 3) ** 3), 0.8 * (1 - (1 / 3) ** 3), 0.8])


def test_the_smallest_of_all_weights_are_pruned_across_layers() -> None:
    first, second = torch.tensor([[5.0, -0.1], [0.3, -4.0]]), torch.tensor([0.2, -6.0])
    masks = smallest([first, second], 0.5)
    assert masks[0].tolist() == [[False, True], [True, False]]
    assert masks[1].tolist() == [True, False]
    # Ties do not make it more or less.
    assert sum(int(m.sum()) for m in smallest([torch.ones(5), torch.ones(5)], 0.3)) == 3


def test_masks_fit_weights_in_any_memory_format() -> None:
    weight = torch.randn(4, 3, 2, 2, generator=stream(0)).to(memory_format=torch.channels_last)
    (mask,) = smallest([weight], 0.5)
    assert weight[mask].abs().max() < weight[~mask].abs().min()


def test_a_step_prunes_what_the_optimizer_moved() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 30.0, -40.0]))
    pruner = Pruner([weight], 0.5, steps=4, updates=1)
    for step in range(1, 5):
        with torch.no_grad():
            weight += 0.5
        pruner()
        assert (weight == 0).tolist() == ([False] * 4 if step < 3 else [True, True, False, False])


def test_normalisations_biases_and_the_head_are_kept() -> None:
    model = classifier("test_vit")
    names = {id(p): name for name, p in model.named_parameters()}
    pruned = {names[id(p)] for p in prunable(model)}
    assert pruned == {
        name
        for name in names.values()
        if name.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"))
    }
    assert len(pruned) > 10


def test_what_is_left_learns() -> None:
    """At 80 % the colours of four identities are still told apart."""
    data: ImageSet = private(64)
    config = TrainingConfig(epochs=15, batch_size=16, learning_rate=0.05)
    given = job(data, config, classifier(), stream(0))
    result = train(given, defense(0.8))
    with torch.no_grad():
        right = given.model(data.images / 255).argmax(1) == data.labels
    assert result.loss < 1
    assert right.float().mean() > 0.9
