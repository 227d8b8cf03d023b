from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch import Tensor

from mibench.errors import RequestError
from mibench.inversion.identity import (
    IdentityConfig,
    IdentityLoss,
    Objective,
    PenultimateGaussian,
)
from mibench.models.classifiers import Outputs
from mibench.streams import RowStreams, noise_like, stream
from mibench.training.students import distillation_loss

Array = NDArray[np.float64]
ROWS, CLASSES, DIMS = 4, 5, 6
LABELS = [2, 0, 4, 2]
IMAGES = torch.zeros(ROWS, 3, 2, 2)


def normal(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=stream(0, name))


LOGITS, FEATURES = 2 * normal("logits", ROWS, CLASSES), normal("features", ROWS, DIMS)
STATISTICS = PenultimateGaussian(normal("mean", DIMS), normal("std", DIMS).abs() + 0.2)


def streams(rows: Any = range(ROWS)) -> RowStreams:
    return RowStreams([stream(0, "row", row) for row in rows], torch.device("cpu"))


def target(logits: Tensor = LOGITS, features: Tensor = FEATURES) -> Callable[[Tensor], Outputs]:
    return lambda images: Outputs(logits, features, (), {})


def loss_of(
    students: tuple[Tensor, ...] = (),
    config: IdentityConfig | None = None,
    statistics: PenultimateGaussian | None = STATISTICS,
    noise: RowStreams | None = None,
) -> Array:
    config = config or IdentityConfig(objective="logit")
    models: Any = [lambda images, logits=logits: logits for logits in students]
    loss = IdentityLoss(target(), models, config, statistics)
    return loss(IMAGES, torch.tensor(LABELS), noise or streams()).numpy()


def cross_entropy(logits: Tensor) -> Array:
    return np.array([-log_softmax(logits.numpy()[i])[k] for i, k in enumerate(LABELS)])


def minus_logit(logits: Tensor) -> Array:
    return np.array([-logits.numpy()[i, k] for i, k in enumerate(LABELS)])


def squared_distance(wanted: Array) -> Array:
    return np.array([sum((FEATURES.numpy()[i] - wanted[i]) ** 2) / DIMS for i in range(ROWS)])


@pytest.mark.parametrize("objective", ["cross-entropy", "logit"])
def test_the_terms_are_minus_the_logit_and_cross_entropy(objective: Objective) -> None:
    wanted = {"cross-entropy": cross_entropy, "logit": minus_logit}[objective](LOGITS)
    config = IdentityConfig(objective=objective, regularizer=0)
    np.testing.assert_allclose(loss_of(config=config), wanted, rtol=1e-5)


def test_the_feature_distance_is_a_mean_over_dimensions() -> None:
    config = IdentityConfig(objective="logit", feature_target="mean")
    features, penultimate = torch.tensor([[1.0, 2, 5]]), torch.tensor([1.0, 0, 0])
    loss = IdentityLoss(
        target(torch.zeros(1, 1), features), (), config, PenultimateGaussian(penultimate, FEATURES)
    )
    found = loss(IMAGES[:1], torch.tensor([0]), streams([0]))
    assert found.tolist() == [pytest.approx((0 + 4 + 25) / 3)]


def test_feature_statistics_are_mean_and_standard_deviation_per_dimension() -> None:
    features = normal("many", 50, DIMS) * torch.arange(1, DIMS + 1) + 3
    statistics = PenultimateGaussian.of(features)
    np.testing.assert_allclose(statistics.mean, features.numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics.std, features.numpy().std(0, ddof=1), rtol=1e-5)


def test_one_image_has_no_statistics() -> None:
    with pytest.raises(RequestError, match="at least two public images, not 1"):
        PenultimateGaussian.of(FEATURES[:1])


def test_the_baseline_is_cross_entropy_alone() -> None:
    np.testing.assert_allclose(loss_of(config=IdentityConfig()), cross_entropy(LOGITS), rtol=1e-5)
    # Statistics and a large λ change nothing for the baseline.
    heavy = IdentityConfig(regularizer=100)
    np.testing.assert_allclose(loss_of(config=heavy), cross_entropy(LOGITS), rtol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("students", [0, 1, 3])
def test_the_improved_loss_with_a_fixed_p_reg(weight: float, students: int) -> None:
    others = tuple(normal(f"student {i}", ROWS, CLASSES) for i in range(students))
    config = IdentityConfig(objective="logit", feature_target="mean", regularizer=weight)
    terms = np.mean([minus_logit(each) for each in (LOGITS, *others)], axis=0)
    wanted = np.tile(STATISTICS.mean.numpy(), (ROWS, 1))
    expected = terms + weight * squared_distance(wanted)  # added whole, not averaged over models
    np.testing.assert_allclose(loss_of(others, config), expected, rtol=1e-5)


def test_model_augmentation_averages_the_baselines_terms() -> None:
    others = (normal("one", ROWS, CLASSES), normal("two", ROWS, CLASSES))
    expected = np.mean([cross_entropy(each) for each in (LOGITS, *others)], axis=0)
    np.testing.assert_allclose(loss_of(others, IdentityConfig()), expected, rtol=1e-5)


def test_p_reg_is_sampled_anew_from_each_rows_stream() -> None:
    generators = [stream(0, "row", row) for row in range(ROWS)]
    noise = streams()
    for _ in range(3):  # three calls of one attack
        draws = np.stack([torch.randn(DIMS, generator=g).numpy() for g in generators])
        wanted = STATISTICS.mean.numpy() + STATISTICS.std.numpy() * draws
        expected = minus_logit(LOGITS) + squared_distance(wanted)
        np.testing.assert_allclose(loss_of(noise=noise), expected, rtol=1e-4)


def test_a_fixed_p_reg_draws_nothing() -> None:
    noise = streams()
    loss_of(config=IdentityConfig(objective="logit", feature_target="mean"), noise=noise)
    assert torch.equal(noise.normal(3), streams().normal(3))


class Noisy:
    """A stochastic target, which counts its passes."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, images: Tensor) -> Outputs:
        self.passes += 1
        base = images.mean((2, 3)).repeat(1, 2)[:, :CLASSES]
        noise = noise_like(base)
        return Outputs(base + noise, images.flatten(1)[:, :DIMS], (), {})


def noisy_loss(rows: list[int], **fields: Any) -> tuple[Array, Noisy]:
    model = Noisy()
    images = normal("images", ROWS, 3, 2, 2)[rows]
    loss = IdentityLoss(model, (), IdentityConfig(**fields), STATISTICS, stochastic=True)
    return loss(images, torch.tensor(LABELS)[rows], streams(rows)).numpy(), model


def test_eot_averages_the_losses_of_its_passes() -> None:
    value, model = noisy_loss(list(range(ROWS)), eot=3)
    assert model.passes == 3
    images = normal("images", ROWS, 3, 2, 2).numpy()
    for row in range(ROWS):
        generator = stream(0, "row", row)
        losses = []
        for _ in range(3):
            base = np.tile(images[row].mean((1, 2)), 2)[:CLASSES]
            logits = base + torch.randn(CLASSES, generator=generator).numpy()
            losses.append(-log_softmax(logits)[LABELS[row]])
        assert value[row] == pytest.approx(np.mean(losses), rel=1e-5)


def test_eot_averages_the_regulariser_too() -> None:
    images = normal("images", ROWS, 3, 2, 2)
    config = {"objective": "logit", "feature_target": "mean", "eot": 3}
    gap = (images.flatten(1)[:, :DIMS] - STATISTICS.mean).numpy()
    with_it, _ = noisy_loss(list(range(ROWS)), **config)
    without, _ = noisy_loss(list(range(ROWS)), regularizer=0, **config)
    np.testing.assert_allclose(with_it - without, (gap**2).mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", ["cross-entropy", "logit"])
def test_a_rows_noise_does_not_depend_on_its_batch_mates(objective: str) -> None:
    together, _ = noisy_loss([0, 1, 2, 3], objective=objective, eot=2)
    alone, _ = noisy_loss([2], objective=objective, eot=2)
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-5)


def test_a_deterministic_target_takes_one_pass() -> None:
    model = Noisy()
    loss = IdentityLoss(model, (), IdentityConfig(eot=7), STATISTICS)
    loss(IMAGES, torch.tensor(LABELS), streams())
    assert model.passes == 1


def test_gradients_reach_the_images_through_every_model() -> None:
    images = normal("images", ROWS, 3, 2, 2).requires_grad_(True)
    student: Any = lambda batch: batch.flatten(1)[:, -CLASSES:]  # noqa: E731

    def attacked(batch: Tensor) -> Outputs:
        return Outputs(batch.flatten(1)[:, :CLASSES], FEATURES, (), {})

    loss = IdentityLoss(attacked, [student], IdentityConfig(), None)
    loss(images, torch.tensor(LABELS), streams()).sum().backward()
    assert images.grad is not None
    gradient = images.grad.flatten(1)
    assert (gradient[:, :CLASSES] != 0).all()
    assert (gradient[:, -CLASSES:] != 0).all()


def test_the_improved_objective_needs_statistics() -> None:
    with pytest.raises(ValueError, match="needs the target's feature statistics"):
        loss_of(statistics=None)


def test_distillation_is_kl_of_teacher_and_student() -> None:
    student, teacher = normal("student", ROWS, CLASSES), 3 * normal("teacher", ROWS, CLASSES)
    p, q = softmax(teacher.numpy(), axis=1), softmax(student.numpy(), axis=1)
    expected = np.mean([entropy(p[i], q[i]) for i in range(ROWS)])
    assert distillation_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert distillation_loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


# --- objectives ------------------------------------------------------------------------------


def objective(name: str, logits: Tensor, labels: Tensor, **fields: Any) -> Tensor:
    config = IdentityConfig.model_validate({"objective": name, **fields})

    def target(images: Tensor) -> Outputs:
        return Outputs(logits, images.flatten(1))

    rows = RowStreams([stream(0, row) for row in range(len(logits))], torch.device("cpu"))
    return IdentityLoss(target, (), config)(torch.zeros(len(logits), 3, 2, 2), labels, rows)


SCORES = torch.tensor([[3.0, 1.0, -2.0, 0.5], [0.25, 4.0, 2.0, -1.0]])
OWN = torch.tensor([0, 3])


def test_margins_by_hand() -> None:
    assert objective("max-margin", SCORES, OWN).tolist() == [1 - 3, 4 + 1]
    found = objective("top-k-margin", SCORES, OWN, top_k=2)
    assert found.tolist() == [(1 + 0.5) / 2 - 3, (4 + 2) / 2 + 1]
    assert objective("top-k-margin", SCORES, OWN, top_k=0).tolist() == [-3, 1]
    # Of four identities there are three others, however many are asked for.
    found = objective("top-k-margin", SCORES, OWN, top_k=20)
    torch.testing.assert_close(found, torch.tensor([-0.5 / 3 - 3, 6.25 / 3 + 1]))


def test_poincare_distance_by_hand() -> None:
    """Computed in Python's own numbers, term by term."""
    wanted = []
    for logits, label in zip(SCORES.tolist(), OWN.tolist(), strict=True):
        size = sum(abs(value) for value in logits)
        u = [value / size for value in logits]
        v = [0.9999 if each == label else 0.0 for each in range(4)]
        apart = sum((a - b) ** 2 for a, b in zip(u, v, strict=True))
        room = (1 - sum(a * a for a in u)) * (1 - 0.9999**2)
        wanted.append(math.acosh(1 + 2 * apart / room))
    found = objective("poincare", SCORES, OWN)
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(objective("poincare", 7 * SCORES, OWN), found)
    assert not torch.allclose(objective("poincare", SCORES + 1, OWN), found)


def test_poincare_stays_finite_where_one_logit_is_all() -> None:
    logits = torch.tensor([[5.0, 0, 0], [0, 5.0, 0]], requires_grad=True)
    loss = objective("poincare", logits, torch.tensor([0, 0]))
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()
    assert loss[0] < loss[1]


def test_a_class_that_nobody_takes_for_the_identity_still_pulls() -> None:
    """Where cross-entropy's gradient has died, those of the margins and of Poincaré have not."""
    logits = torch.tensor([[40.0, 1.0, 0.0]], requires_grad=True)
    size = {}
    for name in ("cross-entropy", "max-margin", "poincare"):
        loss = objective(name, logits, torch.tensor([0])).sum()
        size[name] = torch.autograd.grad(loss, logits)[0].norm().item()
    assert size["cross-entropy"] < 1e-12
    assert size["max-margin"] > 1
    assert size["poincare"] > 1e-3
