"""Records as a table of numbers: the seeds of a cell together, and curves over strengths."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd

from mibench.errors import RequestError
from mibench.leaderboard.board import (
    DASH,
    TOP1,
    Board,
    Curve,
    CurvePoint,
    Measure,
    QueryCurve,
    Value,
)
from mibench.leaderboard.checks import HEADLINE, trusted_evaluator
from mibench.leaderboard.fit import number
from mibench.leaderboard.names import command_of_record, method_label, overrides
from mibench.leaderboard.records import Filed
from mibench.record import CEILING, FLOOR_PRIOR, FLOOR_PUBLIC, BoardCard, Record

UNDEFENDED = "none"
Line = TypeVar("Line", Curve, QueryCurve)

_LONG = 300  # characters of settings that a table shows
_UTILITY = (
    "natural_accuracy", "evaluator_accuracy", "second_evaluator_accuracy", "validation_accuracy",
    "validation_images", "chance_accuracy", "epsilon", "delta",
)  # fmt: skip
_BOUNDS = {"floor_prior": FLOOR_PRIOR, "floor_public": FLOOR_PUBLIC, "ceiling": CEILING}


def target_of(record: Record) -> Hashable:
    """What tells one trained target from another; None where a record says nothing of it.

    A stage's key also changes with the release whose code trained it. Where ranks are known, those
    of the public images that the target scores highest are told instead, with its accuracies: of
    some 500 images among thousands no other network picks the same.
    """
    looked = record.references.get(FLOOR_PUBLIC, {}).get("median_rank")
    if looked is None or not looked.ranks:
        return record.artifacts.get("target")
    accuracies = (record.utility.get(k) for k in ("natural_accuracy", "validation_accuracy"))
    return (record.target.name, record.seed, *accuracies, looked.ranks)


def framed(filed: Iterable[Filed]) -> pd.DataFrame:
    """Records as rows, in the order given; :func:`mibench.leaderboard.frame` has the columns."""
    return pd.DataFrame([_row(each) for each in filed])


def _row(filed: Filed) -> dict[str, Any]:
    record = filed.record
    passed, strength, place = overrides(record), record.strength, record.environment
    row: dict[str, Any] = {
        "path": filed.path,
        "cell": filed.path.rpartition("_seed")[0],
        "protocol": record.protocol.name,
        "version": record.protocol.version,
        "target": method_label(record.target),
        "defense": method_label(record.defense),
        "attack": method_label(record.attack),
        "access": record.access,
        "seed": record.seed,
        "status": record.status,
        "settings": settings_of(record),
        "default": not passed,
        "swept": strength is not None and set(passed) == {strength.path},
        "knob": strength.path if strength else None,
        "strength": strength.value if strength else None,
        "control": strength is not None and strength.control,
        "prior_kind": record.prior.kind,
        "prior": record.prior.recipe,
        "prior_pinned": record.prior.pinned,
        "people": record.people,
        "queries": queries_an_identity(record),
        **{key: number(record.utility.get(key)) for key in _UTILITY},
        "privacy_unit": record.utility.get("privacy_unit"),
    }
    for key, metric in record.metrics.items():
        row[key], row[f"{key}_n"] = metric.value, metric.n
        row[f"{key}_low"], row[f"{key}_high"] = metric.interval or (None, None)
    for key, name in _BOUNDS.items():
        bound = record.references.get(name, {}).get(HEADLINE)
        row[key] = bound.value if bound else None
    return row | {
        "ranked": record.status == "complete" and trusted_evaluator(record),
        "verification": filed.state,
        "verified_by": ", ".join(filed.verification.verified_by) if filed.verification else "",
        "seconds": sum(cost.seconds for cost in record.costs),
        "device": place.device,
        "mibench": place.mibench,
        "commit": place.commit,
        "dirty": place.dirty,
        "created": record.created,
        "command": command_of_record(record),
    }


def queries_an_identity(record: Record) -> float | None:
    """How often the target was asked for each attacked identity, by all stages that ask it.

    None where the attack does not tell it, or a student, or a prior of its own kind; the stage of
    the general prior has another name, and never sees the target.
    """
    top1 = record.metrics.get(HEADLINE)
    identities = len(top1.per_identity or ()) if top1 else 0
    untold = [
        cost.stage
        for cost in record.costs
        if cost.queries is None
        and (cost.stage in ("prior", "reconstructions") or cost.stage.startswith("student "))
    ]
    told = [cost.queries for cost in record.costs if cost.queries is not None]
    return sum(told) / identities if told and identities and not untold else None


def settings_of(record: Record) -> str:
    """What was passed through ``--set``, ``"defense.scale=0"``; empty for nothing."""
    text = ", ".join(f"{path}={value}" for path, value in sorted(overrides(record).items()))
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


@dataclass(frozen=True)
class Series:
    """The records of one cell at all its seeds.

    Attributes:
        attack, defense, target: names, as tables show them.
        filed: the records, in the order of seeds.
        rows: the framed records that did not diverge, in that order.
        default: whether everything is as the protocol and the methods have it.
        control: whether nothing but the defense's main knob was set, to 0.
    """

    attack: str
    defense: str
    target: str
    filed: tuple[Filed, ...]
    rows: pd.DataFrame
    default: bool
    control: bool

    @property
    def first(self) -> Record:
        """The record of the first seed."""
        return self.filed[0].record

    @property
    def complete(self) -> dict[int, Record]:
        """The records that did not diverge, by seed."""
        records = (each.record for each in self.filed)
        return {each.seed: each for each in records if each.status == "complete"}

    @property
    def diverged(self) -> list[int]:
        """Seeds that diverged."""
        return [f.record.seed for f in self.filed if f.record.status == "diverged"]

    @property
    def settings(self) -> str:
        """What was set, ``"defense.scale=0 (control)"``; ``"defaults"`` for nothing."""
        text = settings_of(self.first)
        return f"{text} (control)" if self.control else text or "defaults"

    def mean(self, column: str) -> Value:
        """Mean and spread of a column over seeds; a dash where a seed lacks it."""
        if self.rows.empty:
            return Value(text="diverged")
        if column not in self.rows or self.rows[column].isna().any():
            return DASH
        return over_seeds(self.rows[column])


def series(filed: Sequence[Filed]) -> list[Series]:
    """Records of a protocol as cells with all their seeds, in the order of their names."""
    found = []
    for (target, defense, attack, _), rows in framed(filed).groupby(
        ["target", "defense", "attack", "cell"]
    ):
        rows = rows.sort_values("seed")
        found.append(
            Series(
                attack=str(attack),
                defense=str(defense),
                target=str(target),
                filed=tuple(filed[i] for i in rows.index),
                rows=rows[rows["status"] == "complete"],
                default=bool(rows["default"].all()),
                control=bool((rows["swept"] & rows["control"]).any()),
            )
        )
    return found


def by_seed(
    one: Mapping[int, Sequence[float]], other: Mapping[int, Sequence[float]]
) -> list[list[float]]:
    """One minus the other, identity by identity, a row for each seed that both have."""
    return [
        [a - b for a, b in zip(one[seed], other[seed], strict=True)]
        for seed in sorted(one.keys() & other.keys())
    ]


def paired(rows: Sequence[Sequence[float]], card: BoardCard) -> Value:
    """The mean of differences, a row a seed and a column an identity, with its 95 % interval.

    A dash without a seed; without an interval where the card's is over seeds and there is one, or
    over identities and there is one.
    """
    if not rows:
        return DASH
    import torch  # here, so that boards without differences do without it

    from mibench.metrics.intervals import paired_interval, seeds_interval

    difference = torch.tensor(rows, dtype=torch.float64)
    if len(rows if card.interval == "seeds" else rows[0]) < 2:
        return Value(float(difference.mean()))
    interval = seeds_interval if card.interval == "seeds" else paired_interval
    mean, low, high = interval(difference)
    return Value(mean, interval=(low, high))


def over_seeds(values: Iterable[float]) -> Value:
    """Mean of one value a seed, with their standard deviation where there are two or more.

    Exact, unlike pandas' own: equal values have no spread, and no figure changes by a rounding.
    """
    some = [float(value) for value in values]
    return Value(statistics.mean(some), statistics.stdev(some) if len(some) > 1 else None)


def seeds_text(seeds: Sequence[int]) -> str:
    """``"0–2"`` for 0, 1, 2; ``"0, 2"`` where one is missing."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds)) or "—"


def curves(
    filed: Sequence[Filed],
    attack: str,
    measure: Measure = TOP1,
    undefended_controls: Collection[str] = (),
) -> tuple[Curve, ...]:
    """The privacy–utility curve of each defense on each architecture under one attack.

    A point holds the records of one strength: those of the default settings, and those in which
    nothing but the defense's main knob was set. Diverged records are no points, but keep that
    strength from being ranked. A defense without a main knob has one point, of strength 1. The
    curves of ``undefended_controls`` start from the undefended target, which is their control.
    """
    rows = framed(filed)
    # What training finds, as noise for a given ε, lacks where it diverged: a cell has one strength.
    strengths = rows.groupby("cell")["strength"].transform("first")
    rows["strength"] = strengths.astype(float).where(rows["knob"].notna(), 1.0)
    rows = rows[(rows["attack"] == attack) & (rows["default"] | rows["swept"])]
    if measure.key not in rows:
        return ()
    rows = rows[rows["status"].ne("complete") | rows[measure.key].notna()]
    whole = rows["status"].eq("complete").groupby(rows["cell"]).transform("any")
    found = []
    for (target, defense), own in rows[whole].groupby(["target", "defense"]):
        knob = str(own["knob"].iloc[0] or "").partition(".")[2]
        points = tuple(
            _point(strength, each, measure) for strength, each in own.groupby("strength")
        )
        found.append(Curve(defense, attack, target, knob, points))
    plain = {
        curve.target: dataclasses.replace(point, strength=0.0, default=False, control=True)
        for curve in found
        if curve.defense == UNDEFENDED
        for point in curve.points
        if point.default
    }
    for i, curve in enumerate(found):
        if curve.defense in undefended_controls and curve.target in plain:
            own = (point for point in curve.points if not point.control)
            found[i] = dataclasses.replace(curve, points=(plain[curve.target], *own))
    return tuple(found)


def _point(strength: float, rows: pd.DataFrame, measure: Measure) -> CurvePoint:
    # The default strength may have been asked for by name, too: one record a seed.
    some = rows[rows["status"] == "complete"].sort_values("default", ascending=False, kind="stable")
    some = some.drop_duplicates("seed").sort_values("seed")
    natural, attack = over_seeds(some["natural_accuracy"]), over_seeds(some[measure.key])
    return CurvePoint(
        strength=float(strength),
        natural=natural.number or 0.0,
        attack=attack.number or 0.0,
        natural_spread=natural.spread,
        attack_spread=attack.spread,
        seeds=tuple(map(int, some["seed"])),
        default=bool(rows["default"].any()),
        files=tuple(some["path"]),
        control=bool((rows["swept"] & rows["control"]).any()),
        ranked=bool(rows["status"].eq("complete").all() and some["ranked"].all()),
    )


def curves_of(board: Board, conditions: Mapping[str, Collection[str]]) -> Board:
    """A board with the curves that have one of the given names in each given column.

    Args:
        conditions: keys are ``defense`` and ``target``.

    Raises:
        RequestError: a key is another one, or there is no such curve.
    """
    kept = _chosen(board.curves, "defense", conditions, board.protocol)
    return dataclasses.replace(board, curves=kept)


def query_curves_of(board: Board, conditions: Mapping[str, Collection[str]]) -> Board:
    """The same of the curves over queries: keys are ``attack`` and ``target``.

    Raises:
        RequestError: a key is another one, or there is no such curve.
    """
    kept = _chosen(board.over_queries, "attack", conditions, board.protocol)
    return dataclasses.replace(board, over_queries=kept)


def _chosen(
    curves: Sequence[Line], key: str, conditions: Mapping[str, Collection[str]], protocol: str
) -> tuple[Line, ...]:
    if unknown := sorted(conditions.keys() - {key, "target"}):
        raise RequestError(f"a figure's curves have {key} and target, and no {unknown[0]!r}")
    kept = tuple(
        curve
        for curve in curves
        if all(getattr(curve, name) in values for name, values in conditions.items())
    )
    if not kept:
        there = ", ".join(f"{getattr(curve, key)} on {curve.target}" for curve in curves)
        raise RequestError(f"there is no such curve of {protocol}; there are: {there or 'none'}")
    return kept
