"""MIRROR's genetic search: its parents, children and mutations by hand, and what it asks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mibench.attacks.mirror_blackbox import MirrorBlackbox
from mibench.inversion.attack import Problem
from mibench.models.access import BlackBoxTarget
from mibench.priors import Prior
from mibench.streams import RowStreams, stream
from tests.kit.problems import CPU, LATENT, reconstruct, tiny_classifier, tiny_problem


def attack(**fields: Any) -> MirrorBlackbox:
    return MirrorBlackbox(MirrorBlackbox.Config(**fields))


def streams(rows: int = 1) -> RowStreams:
    return RowStreams([stream(0, "breeding", row) for row in range(rows)], CPU)


def p_y(images: Tensor) -> Tensor:
    """The target's score of each image for its identity ``(identities, samples)``."""
    with torch.no_grad():
        scores = tiny_classifier()(images.flatten(0, 1)).softmax(1).unflatten(0, images.shape[:2])
    return torch.stack([scores[label, :, label] for label in range(len(images))])


@pytest.mark.parametrize("scores", [[0.6, 0.1, 0.25, 0.04], [1e-20, 3e-20, 0.0, 1e-21]])
def test_children_by_hand(scores: list[float]) -> None:
    """Parents by the inverse of the cumulative scores; p₁/(p₁ + p₂); own mutations."""
    number, d = 5, 3
    generator = stream(0, "breeding", 0)

    def uniform(*shape: int) -> Any:
        return torch.empty(*shape).uniform_(generator=generator).double().numpy()

    parents = torch.randn(4, d, generator=stream(0, "parents"))
    σ = torch.tensor([1.0, 2.0, 0.5])
    made = attack(population=number + 1, mutation=0.4, mutation_size=0.3)
    found = made.children(parents[None], torch.tensor([scores]), streams(), σ)[0]

    weights = np.maximum(np.array(scores), float(torch.finfo(torch.float32).tiny))
    up_to = np.cumsum(weights / weights.sum())
    drawn = [int((up_to <= u).sum()) for u in uniform(2 * number)]
    of_first = uniform(number, d)
    mutates, amount = uniform(2, number, d)
    for child in range(number):
        one, two = drawn[child], drawn[number + child]
        share = weights[one] / (weights[one] + weights[two])
        for i in range(d):
            wanted = float(parents[one if of_first[child, i] < share else two, i])
            if mutates[child, i] < 0.4:
                wanted += 0.3 * float(σ[i]) * (2 * amount[child, i] - 1)
            assert found[child, i] == pytest.approx(wanted, abs=1e-5)


def test_the_better_parent_gives_more() -> None:
    """Of scores .6 and .2 each coordinate is the better one's with probability .9375.

    Both parents are the better one with probability 9/16, one of them with 6/16, which then gives
    a coordinate with 3/4. A share of logarithms would give less than the worse parent's own.
    """
    z = torch.tensor([[[1.0] * 50, [0.0] * 50]])
    made = attack(population=2001, mutation=0)
    found = made.children(z, torch.tensor([[0.6, 0.2]]), streams(), torch.ones(50))
    expected = 9 / 16 + 6 / 16 * 3 / 4
    assert float(found.mean()) == pytest.approx(expected, abs=0.02)
    mixed = found[0][(found[0] > 0).any(1) & (found[0] < 1).any(1)]
    assert float(mixed.mean()) == pytest.approx(3 / 4, abs=0.02)


def test_scores_that_are_all_nothing_breed_evenly() -> None:
    z = torch.arange(4.0).view(1, 4, 1).expand(1, 4, 10)
    made = attack(population=2001, mutation=0)
    found = made.children(z, torch.zeros(1, 4), streams(), torch.ones(10))
    shares = [float((found == parent).float().mean()) for parent in range(4)]
    assert shares == pytest.approx([0.25] * 4, abs=0.03)


def test_mutations_are_a_childs_own_and_of_their_size() -> None:
    made = attack(population=4001, mutation=0.1, mutation_size=0.1)
    σ = torch.tensor([1.0, 3.0])
    found = made.children(torch.zeros(1, 2, 2), torch.ones(1, 2), streams(), σ)[0]
    assert (found != 0).float().mean(0).tolist() == pytest.approx([0.1, 0.1], abs=0.02)
    assert (found.abs().amax(0) <= 0.1 * σ).all()
    assert found.abs().amax(0).tolist() == pytest.approx([0.1, 0.3], rel=0.05)
    changed = found[found[:, 0] != 0, 0]
    assert len(changed.unique()) > 0.9 * len(changed)
    assert float(changed.mean()) == pytest.approx(0, abs=0.01)


class Watched(Prior):
    """The tiny prior, which remembers what it made images of."""

    def __init__(self, prior: Prior, spread: float = 1.0, centre: float = 0.0) -> None:
        super().__init__()
        self.inner, self.size = prior, prior.size
        self.spread, self.centre = spread, centre
        self.seen: list[Tensor] = []

    def latents(self, streams: RowStreams, n: int | None = None) -> Tensor:
        return self.centre + self.spread * super().latents(streams, n)

    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        self.seen.append(latents)
        return self.inner.images(latents)

    def description(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("pool", [None, 64])
def test_every_latent_is_in_the_box(pool: int | None) -> None:
    """Mean ± c·σ of what the prior draws; mutations of that size would leave it at once."""
    given = tiny_problem(MirrorBlackbox)
    prior = Watched(given.prior, spread=2, centre=5)
    fields = {"mutation": 1, "mutation_size": 3, "confidence": 1, "population": 8}
    reconstruct(attack(pool=pool, queries=80, box=1.5, **fields), replace(given, prior=prior))
    z = torch.cat(prior.seen)
    assert len(z) > 3 * 80
    assert float((z - 5).abs().max()) == pytest.approx(1.5 * 2, rel=0.05)
    assert ((z - 5).abs() > 1.5 * 2 * 0.95).float().mean() > 0.05


def searched(queries: int, **fields: Any) -> tuple[Tensor, Problem]:
    given = tiny_problem(MirrorBlackbox, (0, 1, 2), samples=2)
    fields = {"population": 6, "pool": None, "confidence": 1, **fields}
    return reconstruct(attack(queries=queries, **fields), given), given


def test_generations_never_lose_the_best() -> None:
    """A longer search is the shorter one gone on with, and the elite stays."""
    sure = [p_y(searched(2 * (6 + 5 * more))[0]) for more in range(6)]
    for before, after in pairwise(sure):
        assert (after >= before - 1e-5).all()
    assert (sure[-1] > sure[0] + 1e-3).all()


def test_a_generation_may_end_in_the_middle() -> None:
    """What is left over is asked about, and what is not asked about is not the best."""
    images, given = searched(2 * (6 + 5) + 3)
    assert given.target.own_queries.tolist()[:3] == [25] * 3
    assert (p_y(images) >= p_y(searched(2 * (6 + 5))[0]) - 1e-5).all()


def test_the_pools_best_are_dealt_out_in_turn() -> None:
    """Without generations, the answers are the pool's best, and nobody's own questions."""
    images, given = searched(100, pool=50, generations=0)
    assert given.target.queries == 50
    made = attack(pool=50).pool(given)
    assert made is not None
    best, scores = made.ranked(given.labels, 2)
    expected = given.prior.images(best.flatten(0, 1)).view_as(images)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(p_y(images), scores, atol=1e-4, rtol=0)
    z, _, _ = attack()._box(given)
    assert made.latents.shape == (50, LATENT)
    assert (made.latents >= z).all()


def test_searches_of_a_small_pool_share_it() -> None:
    images, given = searched(40, pool=5, population=30)
    assert images.isfinite().all()
    assert given.target.own_queries.tolist()[:3] == [40] * 3


def test_a_sure_search_stops_asking() -> None:
    """Each at its own time; whoever is sure from the start asks nothing of its own."""
    _, given = searched(400, pool=200, confidence=1e-6)
    assert given.target.own_queries.sum() == 0
    images, given = searched(2000, pool=200, population=20, confidence=0.9)
    own = given.target.own_queries.tolist()[:3]
    assert min(own) < 2000
    sure = p_y(images)
    for label, asked in enumerate(own):
        if asked < 2000:
            assert (sure[label] > 0.9 - 1e-4).any()
    whole = searched(2000, pool=200, population=20, confidence=1)[1]
    assert whole.target.own_queries.tolist()[:3] == [2000] * 3


def test_generations_are_bounded_too() -> None:
    _, given = searched(10**9, generations=3)
    assert given.target.own_queries.tolist()[:3] == [2 * (6 + 3 * 5)] * 3


def test_it_asks_for_scores_and_nothing_else() -> None:
    given = tiny_problem(MirrorBlackbox)
    assert type(given.target) is BlackBoxTarget
    assert not MirrorBlackbox.varied()
