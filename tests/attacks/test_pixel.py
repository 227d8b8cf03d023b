"""Descent on pixels against steps by hand, on a target whose gradients are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

from mibench.attacks.pixel import START, Pixel, variation
from mibench.data.images import ImageSet
from mibench.inversion.attack import Problem
from mibench.inversion.identity import IdentityConfig, IdentityLoss
from mibench.models.access import WhiteBoxTarget
from mibench.models.classifiers import Outputs
from mibench.streams import RowStreams, stream
from tests.kit.problems import tiny_problem

Array = NDArray[np.float64]
SIZE, CLASSES, LABELS = 4, 5, (0, 3)
PIXELS = 3 * SIZE * SIZE
WEIGHTS: Array = torch.randn(CLASSES, PIXELS, generator=stream(0, "pixel")).double().numpy()


class Linear(nn.Module):
    """A target whose logits are linear in the pixels."""

    def outputs(self, images: Tensor) -> Outputs:
        return Outputs(images.flatten(1) @ torch.tensor(WEIGHTS).float().T, images.flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs(images).logits

    classes = CLASSES


def problem(samples: int = 2, labels: tuple[int, ...] = LABELS) -> Problem:
    target = WhiteBoxTarget(Linear())  # type: ignore[arg-type]
    pixels = torch.zeros(4, 3, SIZE, SIZE, dtype=torch.uint8)
    return replace(
        tiny_problem(Pixel, labels, samples),
        target=target,
        identity_loss=IdentityLoss(target.outputs, (), IdentityConfig()),
        public=ImageSet(pixels, torch.arange(4), ("a", "b", "c", "d")),
    )


def start(given: Problem, label: int, copy: int) -> Array:
    drawn = torch.randn(3, SIZE, SIZE, generator=given.stream(label, f"start/{copy}"))
    faint: Array = (START * drawn).clamp(0, 1).double().numpy().ravel()
    return faint


def cost_and_gradient(x: Array, label: int, λ: float) -> tuple[float, Array, float]:
    """Cross-entropy and weighted variation, their gradient, and the identity's confidence."""
    p = softmax(WEIGHTS @ x)
    gradient = WEIGHTS.T @ (p - np.eye(CLASSES)[label])
    image = x.reshape(3, SIZE, SIZE)
    total, slope = 0.0, np.zeros_like(image)
    pairs = 3 * SIZE * (SIZE - 1)
    for c in range(3):
        for i in range(SIZE):
            for j in range(SIZE):
                for k, m in ((i + 1, j), (i, j + 1)):
                    if k < SIZE and m < SIZE:
                        apart = image[c, k, m] - image[c, i, j]
                        total += apart**2 / pairs
                        slope[c, k, m] += 2 * apart / pairs
                        slope[c, i, j] -= 2 * apart / pairs
    return -np.log(p[label]) + λ * total, gradient + λ * slope.ravel(), float(p[label])


@pytest.mark.parametrize("λ", [0.0, 3.0])
def test_steps_are_down_the_gradient_and_clipped(λ: float) -> None:
    given = problem()
    config = Pixel.Config(iterations=6, learning_rate=0.05, total_variation=λ, confidence=1)
    found = Pixel(config).invert(given).double().numpy()
    clipped = 0
    for row, label in enumerate(LABELS):
        for copy in range(2):
            x, visited = start(given, label, copy), []
            for _ in range(6):
                cost, gradient, _ = cost_and_gradient(x, label, λ)
                visited.append((cost, x))
                x = np.clip(x - 0.05 * gradient, 0, 1)
                clipped += int((x == 0).sum())
            best = min(visited, key=lambda each: each[0])[1]
            np.testing.assert_allclose(found[row, copy].ravel(), best, atol=1e-5)
    assert clipped > 0


def test_total_variation_is_a_mean_square() -> None:
    x = torch.rand(2, 3, 5, 7, generator=stream(0, "variation"))
    for image, found in zip(x.numpy(), variation(x), strict=True):
        wanted = (np.diff(image, axis=1) ** 2).mean() + (np.diff(image, axis=2) ** 2).mean()
        assert found.item() == pytest.approx(wanted, rel=1e-5)
    assert variation(torch.full((1, 3, 5, 7), 0.3)).item() == 0


def test_a_row_stops_where_the_target_is_sure_while_others_go_on() -> None:
    """Each result is the first of its own path that is sure, whenever the others' are."""
    given = problem(samples=3)
    config = Pixel.Config(iterations=400, learning_rate=0.01, confidence=0.9)
    found = Pixel(config).invert(given).double().numpy()
    steps = []
    for row, label in enumerate(LABELS):
        for copy in range(3):
            x = start(given, label, copy)
            for step in range(1, 401):  # noqa: B007
                _, gradient, sure = cost_and_gradient(x, label, 0)
                if sure >= 0.9:
                    break
                x = np.clip(x - 0.01 * gradient, 0, 1)
            steps.append(step)
            np.testing.assert_allclose(found[row, copy].ravel(), x, atol=1e-4)
    assert len(set(steps)) > 1, "rows stop at steps of their own"
    assert max(steps) < 400
    # A step asks for the loss and for the confidence, of the rows alone that go on.
    assert given.target.queries == 2 * sum(steps)


class Scripted(IdentityLoss):
    """Costs that a test chose, step by step, whatever the image; a gradient of 1 all the same."""

    def __init__(self, costs: list[list[float]]) -> None:
        self.costs, self.seen = costs, [0] * len(costs)
        self.images: list[list[Tensor]] = [[] for _ in costs]

    def __call__(self, images: Tensor, labels: Tensor, streams: RowStreams) -> Tensor:
        found = []
        for image, label in zip(images, labels.tolist(), strict=True):
            self.images[label].append(image.detach().clone())
            found.append(self.costs[label][self.seen[label]] + image.sum() - image.sum().detach())
            self.seen[label] += 1
        return torch.stack(found)


def test_patience_and_the_best_image() -> None:
    """The cost must fall below the lowest so far; the image that had it is the answer."""
    costs = [
        [5.0, 4, 4.5, 3, 3, 3.5, 9, 0, 0, 0],  # 3 steps without a lower one after the 4th
        [5.0, 4, 3, 2, 1, 0, -1, -2, -3, -4],  # falls all along
    ]
    loss = Scripted(costs)
    given = replace(problem(1, (0, 1)), identity_loss=loss)
    config = Pixel.Config(iterations=10, learning_rate=1e-3, patience=3, confidence=1)
    found = Pixel(config).invert(given)
    assert loss.seen == [7, 10]
    assert torch.equal(found[0, 0], loss.images[0][3])
    assert torch.equal(found[1, 0], loss.images[1][9])


def test_a_step_without_a_number_is_no_lower_cost() -> None:
    nan = float("nan")
    loss = Scripted([[nan, 2.0, nan, nan, 1.0]])
    given = replace(problem(1, (0,)), identity_loss=loss)
    found = Pixel(Pixel.Config(iterations=5, patience=2, confidence=1)).invert(given)
    assert loss.seen == [4]
    assert torch.equal(found[0, 0], loss.images[0][1])


@pytest.mark.parametrize("labels", [(0,), (3, 0)])
def test_others_do_not_change_a_row(labels: tuple[int, ...]) -> None:
    run: Callable[[Any], Tensor] = Pixel(
        Pixel.Config(iterations=60, learning_rate=0.01, confidence=0.8)
    ).invert
    together, alone = run(problem(labels=LABELS)), run(problem(labels=labels))
    torch.testing.assert_close(alone[labels.index(0)], together[0], atol=1e-5, rtol=0)
