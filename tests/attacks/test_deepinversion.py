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
from mibench.data.images import ImageSet, to_float
from mibench.errors import RequestError
from mibench.inversion.attack import Problem
from mibench.inversion.identity import IdentityConfig, IdentityLoss
from mibench.models.classifiers import Outputs
from mibench.settings import scaled
from mibench.streams import noise_like, stream
from tests.kit.problems import RESOLUTION, public_images, reconstruct, tiny_classifier, tiny_problem

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


def wanted(model: nn.Sequential, image: Tensor, bank: Tensor, first_weight: float) -> float:
    """Mean and biased variance of the joint batch, layer by layer."""
    total = 0.0
    for number, (layer, x) in enumerate(inputs_of(model, torch.cat([bank, image[None]]))):
        mean, variance = x.mean((0, 2)), x.var((0, 2))
        running: Any = layer
        apart = np.linalg.norm(mean - running.running_mean.numpy())
        apart += np.linalg.norm(variance - running.running_var.numpy())
        total += float(apart) * (first_weight if number == 0 else 1)
    return total


def test_the_distance_is_that_of_a_batch_of_the_image_and_the_bank() -> None:
    model, own, bank = network(), images("own", 3), images("bank", 6)
    layers = norms(model)
    assert len(layers) == 3
    with recorded(layers) as of_bank:
        model(bank)
    with recorded(layers) as seen:
        model(own)
    found = statistics_distance(seen, of_bank, 10)
    for image, distance in zip(own, found.tolist(), strict=True):
        assert distance == pytest.approx(wanted(model, image, bank, 10), rel=1e-4)
    # Of several passes, as with views, it is the mean.
    with recorded(layers) as passes:
        for x in (own, own.flip(3)):
            model(x)
    with recorded(layers) as other:
        model(own.flip(3))
    both = (found + statistics_distance(other, of_bank, 10)) / 2
    torch.testing.assert_close(statistics_distance(passes, of_bank, 10), both)
    assert not torch.allclose(both, found)


def test_a_training_batch_has_these_statistics() -> None:
    """What BatchNorm itself takes of the joint batch while it trains."""
    own, bank = images("own", 1), images("bank", 6)
    layer = nn.BatchNorm2d(3, momentum=1.0)
    layer.train()(torch.cat([bank, own]))
    count = 7 * 64
    assert layer.running_var is not None
    layer.running_var.mul_((count - 1) / count)  # it keeps the unbiased variance
    with recorded([layer.eval()]) as of_bank:
        layer(bank)
    with recorded([layer]) as seen:
        layer(own)
    assert statistics_distance(seen, of_bank, 1).item() == pytest.approx(0, abs=1e-5)


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
    x = images("variation", 2, 6)
    for image, found in zip(x.double().numpy(), total_variation(x).tolist(), strict=True):
        pairs = (
            np.diff(image, axis=1),
            np.diff(image, axis=2),
            image[:, 1:, 1:] - image[:, :-1, :-1],
            image[:, 1:, :-1] - image[:, :-1, 1:],
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


def problem(count: int = 16, **options: Any) -> Problem:
    return replace(tiny_problem(DeepInversion, (0, 3), **options), public=public_images(count))


def run(given: Problem, **fields: Any) -> Tensor:
    return reconstruct(DeepInversion(DeepInversion.Config(**{"iterations": 2, **fields})), given)


def test_one_step_is_down_the_gradient_of_all_terms() -> None:
    """Adam's first step is the sign of the gradient, computed here from the terms themselves."""
    given = problem()
    target, _ = given.white_box()
    model, layers, batch = target.model, norms(target.model), 8
    fields: dict[str, Any] = {"learning_rate": 1e-2, "bank": batch - 1, "statistics_weight": 0.7}
    fields |= {"first_weight": 3, "total_variation": 0.02, "l2": 0.5}
    found = run(given, iterations=1, **fields)
    x = given.streams("start", 2).normal(3, RESOLUTION, RESOLUTION).requires_grad_(True)
    seen = rolled(x, given.streams("jitter", 2).uniform(3), 2, True)
    drawn = torch.randperm(16, generator=stream(given.seed, "bank"))[: batch - 1]
    with torch.no_grad(), recorded(layers) as bank:
        model(to_float(given.public.images[drawn]))
    with recorded(layers) as own:
        logits = model(seen * model.std + model.mean)
    loss = F.cross_entropy(logits, torch.tensor([0, 0, 3, 3]), reduction="none")
    loss = loss + 0.7 * batch * statistics_distance(own, bank, 3)
    loss = loss + 0.02 * batch**0.5 * total_variation(x) + 0.5 * x.flatten(1).norm(dim=1)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    with torch.no_grad():
        stepped = (x - 1e-2 * gradient.sign()) * model.std + model.mean
    large = gradient.abs() > 1e-4 * gradient.abs().max()
    assert large.float().mean() > 0.95
    apart = (found.flatten(0, 1) - stepped.clamp(0, 1)).abs()
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
    {"bank": 3},
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


def test_the_bank_is_drawn_of_all_public_images_and_asked_once_a_chunk() -> None:
    """Sorted by identity, the first ones would be of a few people."""
    given = problem()
    run(given, bank=5)
    assert given.target.queries == 5 + 2 * 4
    public = given.public
    shuffled = torch.randperm(16, generator=stream(given.seed, "bank"))[:5]
    kept = torch.zeros_like(public.images)
    kept[shuffled] = public.images[shuffled]
    others_black = replace(given, public=ImageSet(kept, public.labels, public.names))
    assert torch.equal(run(others_black, bank=5), run(given, bank=5))


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
