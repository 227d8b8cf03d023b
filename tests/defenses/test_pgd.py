"""PGD against closed forms, and the two defenses that train with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.data.images import ImageSet
from mibench.defenses import _pgd, adversarial_training, at_at
from mibench.defenses._pgd import ascended, statistics_kept
from mibench.defenses.adversarial_training import AdversarialTraining
from mibench.defenses.at_at import AtAt, other_labels
from mibench.errors import RequestError
from mibench.models.classifiers import Classifier
from mibench.streams import stream
from mibench.training.defense import Defense
from mibench.training.loop import Hooks, TrainingConfig, TrainState, train
from tests.kit import training

CLASSES = 5


def state(seed: int = 0) -> TrainState:
    return TrainState(0, 0, 1, 1, stream(seed, "pgd"))


def batch(count: int = 10, size: int = 32) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 3, size, size, generator=stream(0, "images"))
    return images, torch.arange(count) % CLASSES


class Linear(nn.Module):
    """Two classes, told apart by one direction: the worst perturbation is known."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * size * size, generator=stream(0, "direction")))
        self.classes = 2

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1) @ self.weight
        return torch.stack([score, -score], 1)


@pytest.mark.parametrize("sign", [1, -1], ids=["raised", "lowered"])
def test_linear_scores_reach_the_corner_of_ball_and_range(sign: int) -> None:
    """The best point within ε and [0, 1] moves each pixel to its bound, as its weight says."""
    model, epsilon = Linear(), 0.1
    images, _ = batch(6, 4)
    images[0], images[1] = 0.0, 1.0  # where the range cuts the ball
    found = ascended(lambda x: sign * model(x)[:, 0].sum(), images, epsilon, 0.05, 4, stream(1))
    towards = sign * model.weight.detach().sign().view(3, 4, 4)
    expected = (images + epsilon * towards).clamp(0, 1)
    torch.testing.assert_close(found, expected)
    assert model.weight.grad is None


def test_few_short_steps_stay_near_a_uniform_start() -> None:
    images = torch.full((8, 3, 16, 16), 0.5)
    reached = ascended(lambda x: 0 * x.sum(), images, 0.2, 0.01, 3, stream(1)) - images
    assert reached.abs().max() <= 0.2 + 1e-6
    assert reached.min() < -0.19
    assert reached.max() > 0.19
    assert reached.mean().abs() < 0.01
    assert reached.std().item() == pytest.approx(0.2 / 3**0.5, rel=0.03)  # of U(−0.2, 0.2)
    moved = ascended(lambda x: x.sum(), images, 0.2, 0.01, 3, stream(1)) - images
    inside = reached < 0.16
    torch.testing.assert_close(moved[inside], reached[inside] + 0.03)


@pytest.mark.parametrize("epsilon", [2.5e-4, 0.03])
def test_a_networks_perturbations_stay_in_ball_and_range_and_raise_its_loss(epsilon: float) -> None:
    model, (images, labels) = training.classifier(classes=CLASSES).eval(), batch()
    images[:2], images[2:4] = 0, 1

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(model(x), labels, reduction="sum")

    found = ascended(loss, images, epsilon, epsilon / 5, 8, stream(1))
    assert (found - images).abs().max() <= epsilon + 1e-6
    assert 0 <= found.min() < found.max() <= 1
    assert loss(found) > loss(images)
    assert loss(ascended(lambda x: -loss(x), images, epsilon, epsilon / 5, 8, stream(1))) < loss(
        images
    )
    assert all(p.grad is None for p in model.parameters())
    assert not found.requires_grad


def test_gradients_that_parameters_have_are_left_alone() -> None:
    model, (images, _) = Linear(), batch(4, 4)
    model.weight.grad = torch.ones_like(model.weight)
    ascended(lambda x: model(x)[:, 0].sum(), images, 0.1, 0.1, 2, stream(1))
    assert (model.weight.grad == 1).all()
    assert model.weight.requires_grad


def test_running_statistics_are_kept_and_then_updated_again() -> None:
    model, (images, _) = training.classifier().train(), batch()
    before = {name: value.clone() for name, value in model.named_buffers()}
    with statistics_kept(model):
        batchwise = model(images)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    torch.testing.assert_close(model(images), batchwise)
    assert not all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    with pytest.raises(ZeroDivisionError), statistics_kept(model):
        raise ZeroDivisionError
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.track_running_stats for norm in norms)


def test_other_labels_are_uniform_over_the_others() -> None:
    labels = torch.arange(4).repeat(5000)
    others = other_labels(labels, 4, stream(0))
    counts = torch.zeros(4, 4).index_put((labels, others), torch.ones(len(labels)), True) / 5000
    assert (counts.diagonal() == 0).all()
    assert (counts[~torch.eye(4, dtype=torch.bool)] - 1 / 3).abs().max() < 0.03
    assert other_labels(torch.tensor([0, 1]), 2, stream(0)).tolist() == [1, 0]


def test_at_ats_loss_on_a_linear_model() -> None:
    """Two classes: the target is the other one, and δ is at the corner towards it."""
    model: Any = Linear()
    images, labels = 0.2 + 0.6 * batch(6, 4)[0], torch.arange(6) % 2
    config = AtAt.Config(weight=0.3, epsilon=0.1, step=0.1, iterations=3)
    found = AtAt(config).loss(model, images, labels, state())
    # The score is the first class's logit: it is to rise where the label is the second.
    towards = torch.where(labels == 1, 1.0, -1.0)[:, None] * model.weight.detach().sign()
    scores = [images.flatten(1) @ model.weight, (images.flatten(1) + 0.1 * towards) @ model.weight]
    signs = torch.where(labels == 0, 1.0, -1.0)
    clean = torch.log1p(torch.exp(-2 * signs * scores[0])).mean()
    fooled = torch.log1p(torch.exp(2 * signs * scores[1])).mean()
    torch.testing.assert_close(found, clean + 0.3 * fooled)
    (slope,) = torch.autograd.grad(found, model.weight)
    (expected,) = torch.autograd.grad(clean + 0.3 * fooled, model.weight)
    torch.testing.assert_close(slope, expected)  # δ counts as a constant


def test_adversarial_trainings_loss_on_a_linear_model() -> None:
    """The worst case of a linear model: its margin less ε‖w‖₁."""
    model: Any = Linear()
    images, labels = 0.2 + 0.6 * batch(6, 4)[0], torch.arange(6) % 2
    found = AdversarialTraining(AdversarialTraining.Config(epsilon=0.1, step=0.25)).loss(
        model, images, labels, state()
    )
    margins = torch.where(labels == 0, 1.0, -1.0) * (images.flatten(1) @ model.weight)
    worst = margins - 0.1 * model.weight.abs().sum()
    torch.testing.assert_close(found, torch.log1p(torch.exp(-2 * worst)).mean())


DEFENDED: list[tuple[Defense[Any], int]] = [
    (AtAt(AtAt.Config()), 2),
    (AdversarialTraining(AdversarialTraining.Config()), 1),
]
IDS = ["at-at", "adversarial-training"]


@pytest.mark.parametrize(("defense", "passes"), DEFENDED, ids=IDS)
def test_running_statistics_are_of_the_batches_that_are_trained_on(
    defense: Defense[Any], passes: int
) -> None:
    """PGD's passes are in training mode and leave no trace in BatchNorm's statistics."""
    model, (images, labels) = training.classifier(classes=CLASSES).train(), batch()
    modes: list[bool] = []
    hook = model.head.register_forward_pre_hook(  # type: ignore[attr-defined]
        lambda *_: modes.append(model.training)
    )
    model.head.read = lambda f: (model.head(f), {})  # type: ignore[method-assign,assignment,operator]
    defense.loss(model, images, labels, state())
    hook.remove()
    assert modes == [True] * (passes + defense.config.iterations)
    counted = {v.item() for k, v in model.named_buffers() if k.endswith("num_batches_tracked")}
    assert counted == {passes}


@pytest.mark.parametrize(("defense", "passes"), DEFENDED, ids=IDS)
def test_parameters_get_the_gradient_of_the_loss_alone(
    defense: Defense[Any], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the perturbation given, it is the gradient of a sum of cross-entropies."""
    images, labels = batch()
    changed = (images + 0.01).clamp(0, 1)
    seen: list[tuple[Any, ...]] = []

    def given(*arguments: Any) -> Tensor:
        seen.append(arguments)
        real(*arguments)
        return changed

    real: Callable[..., Tensor] = _pgd.ascended
    for module in (at_at, adversarial_training):
        monkeypatch.setattr(module, "ascended", given)
    model = training.classifier(classes=CLASSES).train()
    defense.backward(model, images, labels, state())
    twin = training.classifier(classes=CLASSES).train()
    if passes == 2:
        others = other_labels(labels, CLASSES, stream(0, "pgd"))
        loss = F.cross_entropy(twin(images), labels)
        loss = loss + 0.08 * F.cross_entropy(twin(changed), others)
    else:
        loss = F.cross_entropy(twin(changed), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    (arguments,) = seen
    assert arguments[2:5] == ((2.5e-4, 5e-5, 5) if passes == 2 else (0.005, 0.0005, 10))


def trained(hooks: Hooks) -> Classifier:
    images, labels = batch(20)
    data = ImageSet((images * 255).byte(), labels, tuple("abcde"))
    model = training.classifier(classes=CLASSES)
    config = TrainingConfig(epochs=2, batch_size=10)
    assert train(training.job(data, config, model, stream(1)), hooks).diverged is None
    return model


@pytest.mark.parametrize("cls", [AtAt, AdversarialTraining], ids=IDS)
def test_the_control_is_the_undefended_target(cls: Any) -> None:
    control = trained(cls(cls.Config(**{cls.strength: 0}))).state_dict()
    plain = trained(Hooks()).state_dict()
    assert all(torch.equal(control[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    ("cls", "changes"),
    [
        (AtAt, {"weight": 1.0, "epsilon": 0.01, "step": 2e-4, "iterations": 2}),
        (AdversarialTraining, {"epsilon": 0.02, "step": 0.5, "iterations": 2}),
    ],
    ids=IDS,
)
def test_every_field_changes_the_loss(cls: Any, changes: dict[str, float]) -> None:
    assert changes.keys() == cls.Config.model_fields.keys()
    images, labels = batch()
    model = training.classifier(classes=CLASSES).eval()

    def loss(**fields: float) -> float:
        found: Tensor = cls(cls.Config(**fields)).loss(model, images, labels, state())
        return found.item()

    # AT-AT's perturbations are too small to see in a loss that they enter with 0.08.
    base = {"weight": 50.0} if cls is AtAt else {}
    for field, value in changes.items():
        assert abs(loss(**{**base, field: value}) - loss(**base)) > 1e-7, field


@pytest.mark.parametrize("cls", [AtAt, AdversarialTraining], ids=IDS)
@pytest.mark.parametrize("field", ["epsilon", "step", "iterations"])
def test_impossible_values_are_refused(cls: Any, field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        cls.Config(**{field: -1})


def test_one_class_is_refused_before_training() -> None:
    images, _ = batch(4)
    data = ImageSet((images * 255).byte(), torch.zeros(4, dtype=torch.int64), ("a",))
    work = training.job(data, TrainingConfig(epochs=1), training.classifier(classes=1))
    with pytest.raises(RequestError, match="there is 1: give at least two"):
        train(work, AtAt(AtAt.Config()))


def test_training_moves_robustness_in_opposite_directions() -> None:
    """The loss at the worst image within reach, after a few steps on the same batches."""
    images, labels = batch(20)
    found = {}
    for name, hooks in {
        "at-at": AtAt(AtAt.Config(weight=1, epsilon=0.02, step=0.005)),
        "plain": Hooks(),
        "adversarial": AdversarialTraining(AdversarialTraining.Config(epsilon=0.02)),
    }.items():
        model = training.classifier(classes=CLASSES).train()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        now = state()
        for _ in range(30):
            optimizer.zero_grad()
            hooks.backward(model, images, labels, now)
            optimizer.step()

        def loss(x: Tensor, model: Classifier = model) -> Tensor:
            return F.cross_entropy(model(x), labels, reduction="sum")

        worst = ascended(loss, images, 0.02, 0.005, 8, stream(2))
        found[name] = (loss(worst) - loss(images)).item() / len(labels)
    assert found["at-at"] > 2 * found["plain"] > 4 * found["adversarial"]


@pytest.mark.parametrize("name", ["epsilon", "step"])
def test_at_at_never_perturbs_nothing(name: str) -> None:
    """It would train on wrong labels of the images as they are; its control is weight 0."""
    with pytest.raises(ValidationError, match="greater than 0"):
        AtAt.Config(**{name: 0})
