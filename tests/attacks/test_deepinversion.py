"""DeepInversion's terms against explicit computations, and its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.attacks import deepinversion
from mibench.attacks.deepinversion import (
    DeepInversion,
    norms,
    recorded,
    rolled,
    statistics_distance,
    total_variation,
)
from mibench.cell.request import Request
from mibench.cell.resolve import check, resolve
from mibench.errors import RequestError
from mibench.inversion.attack import Problem
from mibench.inversion.identity import IdentityConfig, IdentityLoss
from mibench.models.classifiers import Outputs
from mibench.settings import scaled
from mibench.streams import noise_like, stream
from tests.defenses.test_contract import private
from tests.kit import training
from tests.kit.problems import CLASSES, RESOLUTION, reconstruct, tiny_classifier, tiny_problem

Array = NDArray[np.float64]


def images(name: str, count: int, size: int = 8) -> Tensor:
    return torch.rand(count, 3, size, size, generator=stream(0, "deepinversion", name))


def network() -> nn.Sequential:
    """Three BatchNorms, of pixels and of features, with statistics of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Sequential(
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 5, 3),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(5 * 36, 4),
            nn.BatchNorm1d(4),
        )
        for _ in range(20):
            made.train()(torch.rand(16, 3, 8, 8))
    return made.eval().requires_grad_(False)


def inputs_of(model: nn.Sequential, x: Tensor) -> Iterator[tuple[nn.Module, Array]]:
    """Each BatchNorm, and what goes into it ``(n, channels, places)``."""
    for layer in model:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            yield layer, x.flatten(2).double().numpy() if x.ndim > 2 else x[:, :, None].numpy()
        x = layer(x)


def wanted(model: nn.Sequential, batch: Tensor, first_weight: float) -> float:
    """Mean and biased variance of the batch, layer by layer."""
    total = 0.0
    for number, (layer, x) in enumerate(inputs_of(model, batch)):
        mean, variance = x.mean((0, 2)), x.var((0, 2))
        running: Any = layer
        apart = np.linalg.norm(mean - running.running_mean.numpy())
        apart += np.linalg.norm(variance - running.running_var.numpy())
        total += float(apart) * (first_weight if number == 0 else 1)
    return total


def test_the_distance_is_each_batchs_own() -> None:
    model, own = network(), images("own", 12)
    layers = norms(model)
    assert len(layers) == 3

    def distance(*passes: Tensor) -> Tensor:
        with recorded(layers) as moments:
            for x in passes:
                model(x)
        return statistics_distance(moments, 4, 10)

    found = distance(own)
    for batch, each in zip(own.split(4), found.tolist(), strict=True):
        assert each == pytest.approx(wanted(model, batch, 10), rel=1e-4)
    # Of several passes, as with views, it is the mean.
    both = (found + distance(own.flip(3))) / 2
    torch.testing.assert_close(distance(own, own.flip(3)), both)
    assert not torch.allclose(both, found)


def test_images_like_the_training_ones_are_nearer_than_noise_and_grey() -> None:
    """What the term is for. Beside a fixed bank of other images it says nothing of the one."""
    model = training.classifier("test_resnet").train()
    seen = private(256).images / 255
    with torch.no_grad():
        for batch in seen.repeat(8, 1, 1, 1).split(64):
            model(batch)
    layers = norms(model.eval())

    def distance(batch: Tensor) -> float:
        with torch.no_grad(), recorded(layers) as moments:
            model(batch)
        return statistics_distance(moments, 64, 1).item()

    alike = distance(private(320).images[256:] / 255)
    noise = distance(torch.rand(64, 3, 32, 32, generator=stream(0, "noise")))
    grey = distance(torch.full((64, 3, 32, 32), 0.5))
    assert alike < 0.5 * min(noise, grey), (alike, noise, grey)


def test_a_training_batch_has_these_statistics() -> None:
    """What BatchNorm itself takes of a batch while it trains."""
    batch = images("own", 7)
    layer = nn.BatchNorm2d(3, momentum=1.0)
    layer.train()(batch)
    count = 7 * 64
    assert layer.running_var is not None
    layer.running_var.mul_((count - 1) / count)  # it keeps the unbiased variance
    with recorded([layer.eval()]) as moments:
        layer(batch)
    assert statistics_distance(moments, 7, 1).item() == pytest.approx(0, abs=1e-5)


def test_hooks_are_gone_afterwards_also_after_an_error() -> None:
    def hooks(model: nn.Module) -> int:
        return sum(len(each._forward_pre_hooks) for each in model.modules())

    layers = norms(model := network())

    def fail() -> None:
        assert hooks(model) == 3
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), recorded(layers):
        fail()
    assert hooks(model) == 0
    given = problem()
    target, _ = given.white_box()
    before = hooks(target.model)
    run(given)
    assert hooks(target.model) == before


def test_total_variation_by_numpy() -> None:
    x = images("variation", 6, 6).unflatten(0, (2, 3))
    for batch, found in zip(x.double().numpy(), total_variation(x).tolist(), strict=True):
        pairs = (
            np.diff(batch, axis=2),
            np.diff(batch, axis=3),
            batch[..., 1:, 1:] - batch[..., :-1, :-1],
            batch[..., 1:, :-1] - batch[..., :-1, 1:],
        )
        assert found == pytest.approx(sum(float(np.sqrt((d**2).sum())) for d in pairs), rel=1e-5)


@pytest.mark.parametrize("mirror", [True, False])
def test_images_are_rolled_and_mirrored_each_its_own_way(mirror: bool) -> None:
    x = images("rolled", 4, 6)
    draws = torch.tensor([[0.0, 0.99, 0.9], [0.5, 0.5, 0.4], [0.99, 0.3, 0.6], [0.2, 0.7, 0.1]])
    shifts = [(-2, 2), (0, 0), (2, -1), (-1, 1)]  # floor(5u) − 2
    found = rolled(x, draws, 2, mirror)
    for image, result, (down, across), side in zip(x, found, shifts, draws[:, 2], strict=True):
        turned = image.flip(2) if mirror and side < 0.5 else image
        assert torch.equal(result, turned.roll((down, across), (1, 2)))
    assert torch.equal(rolled(x, draws, 0, False), x)


def problem(**options: Any) -> Problem:
    return tiny_problem(DeepInversion, (0, 3), **options)


def run(given: Problem, **fields: Any) -> Tensor:
    few: dict[str, Any] = {"iterations": 2, "batch": 4}
    return reconstruct(DeepInversion(DeepInversion.Config(**{**few, **fields})), given)


def test_one_step_is_down_the_gradient_of_all_terms() -> None:
    """Adam's first step is the sign of the gradient, computed here from the terms themselves."""
    given = problem()
    target, _ = given.white_box()
    model, layers, size = target.model, norms(target.model), 8
    fields: dict[str, Any] = {"learning_rate": 1e-2, "batch": size, "statistics_weight": 0.7}
    fields |= {"first_weight": 3, "total_variation": 0.02, "l2": 0.5}
    found = run(given, iterations=1, **fields)
    starts = given.streams("start", size).normal(3, RESOLUTION, RESOLUTION).split(size)
    moves = given.streams("jitter", size).uniform(3).split(size)
    others = (given.streams("labels").uniform(size) * CLASSES).long()
    for place, label in enumerate((0, 3)):  # a batch of its own
        x, labels = starts[place].requires_grad_(True), others[place]
        labels[:2] = label
        assert len(labels.unique()) > 2
        with recorded(layers) as moments:
            logits = model(rolled(x, moves[place], 2, True) * model.std + model.mean)
        loss = F.cross_entropy(logits, labels) + 0.7 * statistics_distance(moments, size, 3)
        loss = loss + 0.02 * total_variation(x[None]) + 0.5 * x.flatten(1).norm(dim=1).mean()
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        with torch.no_grad():
            stepped = (x - 1e-2 * gradient.sign()) * model.std + model.mean
        large = (gradient.abs() > 1e-4 * gradient.abs().max())[:2]
        assert large.float().mean() > 0.95
        apart = (found[place] - stepped.clamp(0, 1)[:2]).abs()
        assert apart[large].max() < 1e-4


CHANGES: list[dict[str, Any]] = [
    {"iterations": 3},
    {"coarse_iterations": 1},
    {"learning_rate": 0.2},
    {"beta1": 0.5},
    {"beta2": 0.5},
    {"statistics_weight": 0},
    {"first_weight": 10},
    {"total_variation": 1.0},
    {"l2": 5.0},
    {"jitter": 0},
    {"batch": 3},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_field_changes_the_result(change: dict[str, Any]) -> None:
    assert (run(problem()) - run(problem(), **change)).abs().max() > 1e-4


def test_every_own_field_is_in_the_list_above() -> None:
    assert {name for change in CHANGES for name in change} == set(
        DeepInversion.Config.__annotations__
    )


def test_first_steps_are_at_half_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem()
    sizes, reaches = [], []
    original = deepinversion.rolled

    def spy(x: Tensor, draws: Tensor, reach: int, mirror: bool) -> Tensor:
        sizes.append(x.shape[2])
        reaches.append(reach)
        return original(x, draws, reach, mirror)

    monkeypatch.setattr(deepinversion, "rolled", spy)
    found = run(given, coarse_iterations=3, iterations=2, jitter=4)
    assert sizes == [RESOLUTION // 2] * 3 + [RESOLUTION] * 2
    assert reaches == [2, 2, 2, 4, 4]
    assert found.shape == (2, 2, 3, RESOLUTION, RESOLUTION)
    # One tiny step at the whole size leaves squares of equal pixels.
    found = run(given, coarse_iterations=3, iterations=1, learning_rate=1e-6).flatten(0, 1)
    squares = F.interpolate(found[:, :, ::2, ::2], size=RESOLUTION)
    torch.testing.assert_close(found, squares, atol=1e-4, rtol=0)


def test_a_share_of_the_budget_is_one_of_both_sizes() -> None:
    share = scaled(DeepInversion.Config(coarse_iterations=2000, iterations=1000), 0.1)
    assert (share.coarse_iterations, share.iterations) == (200, 100)
    assert scaled(DeepInversion.Config(), 0.1).coarse_iterations == 0


def test_every_image_of_the_batch_is_a_question_and_no_public_one_is() -> None:
    given = problem()
    found = run(given, batch=5)
    assert given.target.queries == 2 * 2 * 5
    assert found.shape[:2] == (2, 2)
    black = replace(given.public, images=torch.zeros_like(given.public.images))
    assert torch.equal(run(replace(given, public=black), batch=5), found)


def test_a_batch_holds_at_least_the_reconstructions() -> None:
    attack = DeepInversion(DeepInversion.Config(batch=3, max_rows=10))
    assert (attack.rows_per_identity(2), attack.rows_per_identity(5)) == (3, 5)
    assert (attack.chunk(2), attack.chunk(5)) == (3, 2)
    assert run(problem(), batch=2).shape == run(problem(), batch=3).shape


class Noisy(nn.Module):
    """A target that adds noise before its first BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        inner = tiny_classifier(fold=False)
        self.inner, self.mean, self.std = inner, inner.mean, inner.std
        self.normalise, self.classes = inner.normalise, inner.classes

    def outputs(self, x: Tensor) -> Outputs:
        return self.inner.outputs(x + 0.1 * noise_like(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(x).logits


def test_a_stochastic_targets_noise_is_the_seeds() -> None:
    results = []
    for _ in range(2):
        given = problem()
        target = type(given.white_box()[0])(Noisy())  # type: ignore[arg-type]
        loss = IdentityLoss(target.outputs, (), IdentityConfig(), stochastic=True)
        results.append(run(replace(given, target=target, identity_loss=loss)))
    assert torch.equal(*results)


@pytest.mark.usefixtures("tiny")
def test_targets_without_running_statistics_are_refused() -> None:
    for options, named in (({"target": "test_vit"}, "test_vit"), ({"defense": "dp-sgd"}, "DP-SGD")):
        request = Request(protocol="tiny", attack="deepinversion", **options)  # type: ignore[arg-type]
        with pytest.raises(RequestError, match="reads BatchNorm's running statistics") as caught:
            check(resolve(request))
        assert named in str(caught.value)
    assert check(resolve(Request(protocol="tiny", attack="deepinversion")))
