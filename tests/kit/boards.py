"""Boards of records made by hand, and what tests read off them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mibench.leaderboard.assembly import build_board
from mibench.leaderboard.board import TOP1, Board, DefenseFacts, Table, Value
from mibench.leaderboard.ranking import entries, strengths
from mibench.leaderboard.series import series
from mibench.record import CEILING, FLOOR_PRIOR, FLOOR_PUBLIC, BoardCard, Record
from tests.conftest import TINY
from tests.kit.board_records import filed, make, metric

IK = "improved-kedmi"

TAA = "improved-gmi+taa"

NO_CARDS: Mapping[str, DefenseFacts] = {}

MOST = ["1111"] * 5

LEAST = ["1000"] * 5


def board_of(
    *records: Record,
    card: BoardCard = TINY.board,
    facts: Mapping[str, DefenseFacts] = NO_CARDS,
) -> Board:
    return build_board("tiny", filed(*records), card, facts)


def table_of(key: str, *records: Record, **options: Any) -> Table:
    return next(t for t in board_of(*records, **options).tables if t.key == key)


def row_of(table: Table, **texts: str) -> dict[str, Value]:
    (row,) = [r for r in table.rows if all(r[k].text == v for k, v in texts.items())]
    return row


def told(validation: float, *, hits: int | list[str] = 10, **options: Any) -> list[Record]:
    """Records of both attacks of the fixed list against one target, for seeds 0 and 1."""
    given = {"seeds": (0, 1), "attacks": ("gmi", IK), "epsilons": {}, **options}
    seeds, attacks, more = given.pop("seeds"), given.pop("attacks"), given.pop("epsilons")
    utility = {"natural_accuracy": 0.9, "evaluator_accuracy": 0.95, **more}
    utility |= {"validation_accuracy": validation, "validation_images": 1000}
    utility |= given.pop("utility", {})
    return [
        make(hits, attack=attack, seed=seed, utility=utility, **given)
        for seed in seeds
        for attack in attacks
    ]


def at(scale: float, **options: Any) -> dict[str, Any]:
    return {"defense": "bido", "scale": scale, "passed": {"defense.scale": scale}, **options}


def entered(
    *records: Record,
    budget: float = 0.05,
    card: BoardCard = TINY.board,
    facts: Mapping[str, DefenseFacts] = NO_CARDS,
) -> Any:
    known = strengths(series(filed(*records)), "test_resnet", facts)
    return entries(known, budget, card, TOP1, facts)


def black(hits: Any, **options: Any) -> list[Record]:
    """Records of a black-box attack for seeds 0 and 1."""
    return told(0.98, hits=hits, attacks=("lookup",), access="black-box", **options)


def judged(rank: int | None, **options: Any) -> list[Record]:
    """Records of a protocol with judges; without a rank, of a machine that lacks them."""
    made = []
    for record in told(0.98, **options):
        data = record.model_dump(mode="json")
        data["protocol"]["resolved"]["judges"] = [{"kind": "embedding"}]
        absent = {"value": None, "reason": "no judge"}
        data["metrics"] |= {"identity_bits": absent, "median_rank": absent}
        if rank is not None:
            bits = metric([math.log2(1001 / rank)] * 5, 20)
            ranks = {**metric([float(rank)] * 5, 20), "ranks": [[rank] * 4] * 5, "among": 1001}
            data["metrics"] |= {"identity_bits": bits, "median_rank": ranks}
        made.append(Record.model_validate(data))
    return made


def sentences(*records: Record, card: BoardCard = TINY.board) -> list[str]:
    """A board's sentences as texts."""
    said = board_of(*records, card=card).summary
    return ["".join(p if isinstance(p, str) else p.name for p in each) for each in said]


def with_references(records: list[Record], nominal: bool = False) -> list[Record]:
    """Judged records with look-up at rank 200 of 1,001, and random samples at 400."""
    made = []
    for record in records:
        data = record.model_dump(mode="json")
        for name, rank in ((FLOOR_PRIOR, 400), (FLOOR_PUBLIC, 200), (CEILING, 1)):
            bits = metric([math.log2(1001 / rank)] * 5, 20)
            ranks = metric([float(rank)] * 5, 20)
            data["references"].setdefault(name, {})
            data["references"][name] |= {"identity_bits": bits, "median_rank": ranks}
        data["protocol"]["resolved"]["data"]["decoys"] = "rare" if nominal else None
        made.append(Record.model_validate(data))
    return made
