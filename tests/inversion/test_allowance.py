"""The queries of an identity: dealt out to its runs, and never one more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mibench.attacks.brep_mi import BrepMi
from mibench.attacks.mirror_blackbox import MirrorBlackbox
from mibench.attacks.rlb_mi import RlbMi
from mibench.cell.request import Request
from mibench.cell.resolve import Cell, resolve
from mibench.errors import RequestError
from mibench.inversion.allowance import Allowance
from mibench.inversion.attack import Attack
from mibench.settings import scaled
from mibench.streams import RowStreams
from tests.kit.problems import LATENT, OfIdentities, reconstruct, tiny_problem


@pytest.mark.parametrize(
    ("queries", "runs", "dealt"),
    [(1, 1, [1]), (1, 3, [1, 0, 0]), (7, 3, [3, 2, 2]), (9, 3, [3, 3, 3]), (2, 4, [1, 1, 0, 0])],
)
def test_queries_are_dealt_out_evenly_and_wholly(queries: int, runs: int, dealt: list[int]) -> None:
    allowance = Allowance(tiny_problem(BrepMi, (3, 1)), queries, runs)
    assert allowance.left.tolist() == dealt * 2
    assert allowance.labels.tolist() == [3] * runs + [1] * runs


def test_the_first_points_of_a_run_are_asked_about_as_long_as_it_may() -> None:
    given = tiny_problem(BrepMi, (3, 1))
    allowance = Allowance(given, 7, 2)  # 4 and 3 an identity
    seen: list[Tensor] = []

    def answer(images: Tensor, labels: Tensor, streams: RowStreams) -> Tensor:
        seen.append(images)
        given.target.predict(images, streams)
        return torch.stack([labels, 10 * labels], 1)

    latents = torch.randn(2, 3, LATENT)
    runs = torch.tensor([3, 0])
    first = allowance.ask(runs, latents, answer, otherwise=-1)
    assert first[..., 0].tolist() == [[1, 1, 1], [3, 3, 3]]
    assert first[..., 1].tolist() == [[10, 10, 10], [30, 30, 30]]
    assert allowance.left.tolist() == [1, 3, 4, 0]
    again = allowance.ask(runs, latents, answer, otherwise=-1)
    assert again[..., 0].tolist() == [[-1, -1, -1], [3, -1, -1]]
    images = given.prior.images(latents.flatten(0, 1))
    torch.testing.assert_close(torch.cat(seen), images[[0, 1, 2, 3, 4, 5, 3]])
    assert given.target.own_queries.tolist() == [0, 3, 0, 4, 0]
    assert given.target.queries == 7
    nothing = allowance.ask(torch.tensor([3]), latents[:1], answer, otherwise=-1)
    assert nothing.tolist() == [[-1, -1, -1]]


FEW: list[tuple[type[Attack[Any]], dict[str, Any]]] = [
    (BrepMi, {"directions": 5, "draws": 4}),
    (BrepMi, {"directions": 5, "pool": 20}),
    (MirrorBlackbox, {"population": 4, "pool": None, "confidence": 1}),
    (MirrorBlackbox, {"population": 4, "pool": 20, "confidence": 1}),
    (RlbMi, {"hidden": 4, "batch_size": 4}),
]


@pytest.mark.parametrize(("attack", "fields"), FEW)
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 11, 29])
def test_no_attack_asks_one_question_too_many(
    attack: type[Attack[Any]], fields: dict[str, Any], queries: int
) -> None:
    given = tiny_problem(attack, (4, 0), samples=3)
    images = reconstruct(attack(attack.Config(**fields, queries=queries)), given)
    assert images.shape == (2, 3, 3, 32, 32)
    own = given.target.own_queries.tolist()
    assert max(own) <= queries
    assert own[1:4] == [0, 0, 0]
    assert given.target.queries == sum(own) + (fields.get("pool") or 0)
    if attack is not BrepMi:  # whose steps are of `directions` questions, or none
        assert own[0] == own[4] == queries


@pytest.mark.parametrize(("attack", "fields"), [each for each in FEW if each[1].get("pool")])
@pytest.mark.parametrize("queries", [20, 23, 61])
def test_a_pool_of_an_identity_is_of_its_queries(
    attack: type[Attack[Any]], fields: dict[str, Any], queries: int
) -> None:
    given = replace(tiny_problem(attack, (4, 0), samples=3), prior=OfIdentities())
    reconstruct(attack(attack.Config(**fields, queries=queries)), given)
    own = given.target.own_queries.tolist()
    assert own[1:4] == [0, 0, 0]
    assert min(own[0], own[4]) >= 20
    assert max(own) <= queries
    assert given.target.queries == sum(own)
    if attack is not BrepMi:
        assert own[0] == own[4] == queries


@pytest.mark.parametrize("attack", ["brep-mi", "mirror-blackbox"])
def test_a_pool_of_an_identity_that_exceeds_its_queries_is_refused_at_once(attack: str) -> None:
    def resolved(name: str = attack, prior: str | None = "t-acgan", **fields: int) -> Cell:
        overrides = {f"attack.{field}": value for field, value in fields.items()}
        request = Request(protocol="synthfaces-32", attack=name, prior=prior, overrides=overrides)
        return resolve(request)

    for within in (
        resolved(pool=300, queries=300),
        resolved(pool=301, queries=300, prior=None),  # asked about once for all identities
        resolved(f"{attack}+repeat", pool=10, queries=320),
    ):
        assert within.attack.base == attack
    with pytest.raises(RequestError, match=r"attack.pool: 301 .* 300 images .* set attack.pool"):
        resolved(pool=301, queries=300)
    with pytest.raises(RequestError, match=r"attack.pool: 10 .* 9 images"):
        resolved(f"{attack}+repeat", pool=10, queries=319)


def test_a_share_of_the_budget_is_a_share_of_the_queries() -> None:
    for attack in (BrepMi, MirrorBlackbox, RlbMi):
        whole = attack.Config()
        assert scaled(whole, 0.1).queries == whole.queries // 10
