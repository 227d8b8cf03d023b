"""PPA against its steps computed by hand: the pool's best, one crop a step, Adam, the surest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mibench.attacks.ppa import Ppa
from mibench.cell.request import Request
from mibench.cell.resolve import resolve
from mibench.inversion.attack import Problem
from mibench.inversion.identity import IdentityLoss
from mibench.inversion.selection import CROPS, Pool, scored_pool
from mibench.priors import Prior
from mibench.progress import SILENT
from mibench.streams import RowStreams, stream
from tests.kit.problems import CPU, RESOLUTION, reconstruct, tiny_classifier, tiny_problem

Array = NDArray[np.float64]
SIZE, LATENTS, LABELS = 8, 4, (2, 0)
PIXELS = 3 * SIZE * SIZE


def numbers(name: str, *shape: int) -> Array:
    drawn: Array = torch.randn(*shape, generator=stream(0, "ppa", name)).double().numpy()
    return drawn


MATRIX, CENTRES, POOL = numbers("G", LATENTS, PIXELS), numbers("c", 5, PIXELS), numbers("z", 9, 4)
SCORES = numbers("scores", 9, 5)


class LinearPrior(Prior):
    """Pictures that are linear in four latents."""

    size = LATENTS

    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return (latents @ torch.tensor(MATRIX).float()).view(-1, 3, SIZE, SIZE)

    def realism(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        return {}


class Squares(IdentityLoss):
    """½‖x − c_y‖², whose gradient is x − c_y."""

    def __init__(self) -> None:
        pass

    def __call__(self, images: Tensor, labels: Tensor, streams: RowStreams) -> Tensor:
        return (images.flatten(1) - torch.tensor(CENTRES).float()[labels]).square().sum(1) / 2


def weights(side: float, offset: float) -> Array:
    """The bilinear enlargement of a part of a line of pixels: ``(pixels, pixels)``.

    Args:
        side: length of the part, of a line of length 1.
        offset: where it starts, 0 to 1, of the room that there is.
    """
    made = np.zeros((SIZE, SIZE))
    for to in range(SIZE):
        place = (offset * (1 - side) + side * (to + 0.5) / SIZE) * SIZE - 0.5
        place = min(max(place, 0), SIZE - 1)
        low = int(place)
        made[to, low] += 1 - (place - low)
        if low + 1 < SIZE:
            made[to, low + 1] += place - low
    return made


def crop(draws: Array) -> Array:
    """A square of 90 to 100 % of the area, enlarged: ``(pixels, pixels)`` of one flat image."""
    area, _, top, left, _, _ = draws
    side = (0.9 + 0.1 * area) ** 0.5
    return np.kron(np.eye(3), np.kron(weights(side, top), weights(side, left)))


def linear_problem(samples: int) -> Problem:
    pool = Pool(torch.tensor(POOL).float(), torch.tensor(SCORES).float())
    made = tiny_problem(Ppa, LABELS, samples)
    return replace(made, prior=LinearPrior(), identity_loss=Squares(), pool=pool)


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_steps_of_adam_from_the_pools_best_on_crops(iterations: int, beta: float) -> None:
    config = Ppa.Config(iterations=iterations, learning_rate=0.3, beta=beta)
    given = linear_problem(samples=2)
    found = Ppa(config).invert(given).double().numpy()
    apart = 0.0
    for row, label in enumerate(LABELS):
        for copy, start in enumerate(SCORES[:, label].argsort()[::-1][:2]):
            z, m, v = POOL[start], np.zeros(LATENTS), np.zeros(LATENTS)
            draws = given.stream(label, f"crops/{copy}")
            for step in range(1, iterations + 1):
                part = crop(torch.empty(6).uniform_(generator=draws).double().numpy())
                gradient = MATRIX @ (part.T @ (part @ (z @ MATRIX) - CENTRES[label]))
                m = beta * m + (1 - beta) * gradient
                v = beta * v + (1 - beta) * gradient**2
                z = z - 0.3 * (m / (1 - beta**step)) / (np.sqrt(v / (1 - beta**step)) + 1e-8)
            apart = max(apart, float(np.abs(part - np.eye(PIXELS)).max()))
            np.testing.assert_allclose(
                found[row, copy].ravel(), z @ MATRIX, atol=2e-4, err_msg=f"{label}, {copy}"
            )
    assert apart > 0.05, "the crops are crops"


def test_the_defaults_are_those_of_the_celeba_run() -> None:
    config = Ppa.Config()
    assert (config.identity.objective, config.iterations, config.beta) == ("poincare", 70, 0.1)
    assert config.selection.model_dump() == {"pool": 5000, "candidates": 20, "crops": 100}


def made(samples: int, pool: int | None = 24, candidates: int | None = None) -> tuple[Any, Problem]:
    selection = {"pool": pool, "candidates": candidates, "crops": 3}
    given = tiny_problem(Ppa, (0, 1, 2), samples, objective="poincare")
    config = Ppa.Config(iterations=2, learning_rate=1e-6, selection=selection)
    return Ppa(config), given


def test_it_starts_from_the_latents_that_the_target_scores_highest() -> None:
    attack, given = made(samples=3)
    found = reconstruct(attack, given)
    pool = scored_pool(
        given.black_box(),
        given.prior,
        given.labels,
        24,
        seed=given.seed,
        mirror=True,
        device=CPU,
        progress=SILENT,
    )
    with torch.no_grad():
        for label, images in enumerate(found):
            order = pool.scores[:, label].argsort(descending=True)[:3]
            starts = given.prior.images(pool.latents[order])
            torch.testing.assert_close(images, starts, atol=1e-3, rtol=0)


def test_of_more_candidates_the_surest_over_crops_are_kept() -> None:
    every = reconstruct(*made(samples=6))
    attack, given = made(samples=2, candidates=6)
    kept = reconstruct(attack, given)
    assert kept.shape == (3, 2, 3, RESOLUTION, RESOLUTION)
    for label, (images, found) in enumerate(zip(every, kept, strict=True)):
        rows = given.of(torch.tensor([label])).streams("final selection", 6)
        sure = torch.zeros(6)
        with torch.no_grad():
            for _ in range(3):
                sure += tiny_classifier()(CROPS(images, rows)).softmax(1)[:, label]
        torch.testing.assert_close(
            found, images[sure.argsort(descending=True)[:2]], atol=1e-4, rtol=0
        )
    # A pool of images and mirror images, two steps, three crops of each candidate.
    assert given.target.queries == 2 * 24 + 3 * 6 * (2 + 3)


@pytest.mark.usefixtures("tiny")
def test_the_name_decides_between_poincare_and_the_improved_objective() -> None:
    for name, objective in (
        ("ppa", "poincare"),
        ("ppa+ma", "poincare"),
        ("ppa+taa", "poincare"),
        ("ppa+lom", "logit"),
        ("improved-ppa", "logit"),
    ):
        config = resolve(Request(protocol="tiny", attack=name)).attack_config
        assert config.identity.objective == objective, name
        assert config.model_dump()["selection"]["pool"] == 5000
