"""Privacy–utility curves: natural accuracy against attack accuracy over a defense's strength."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence

from mibench.errors import RequestError
from mibench.leaderboard.board import Board, Curve, CurvePoint
from mibench.leaderboard.checks import HEADLINE, trusted_evaluator
from mibench.leaderboard.groups import Group, strength_of
from mibench.leaderboard.records import Filed
from mibench.leaderboard.settings import FILE, Settings
from mibench.record import Record


def curves(groups: Iterable[Group], attack: str) -> tuple[Curve, ...]:
    """The curve of each defense on each architecture under one attack.

    A point holds the records of one strength: those of the default settings, and those in which
    nothing but the defense's main knob was set. Diverged records are no points, nor are those of
    which :func:`strength_fault` finds a fault.
    """
    found: dict[tuple[str, str], list[Group]] = {}
    for each in groups:
        if each.attack == attack and (each.default or each.swept) and each.complete:
            found.setdefault((each.target, each.defense), []).append(each)
    return tuple(
        Curve(
            defense=defense,
            attack=attack,
            target=target,
            knob=(members[0].knob or "").partition(".")[2],
            points=_points(members),
        )
        for (target, defense), members in found.items()
    )


def curves_of(board: Board, conditions: Mapping[str, Collection[str]]) -> Board:
    """A board with the curves that have one of the given names in each given column.

    Args:
        conditions: keys are ``defense`` and ``target``.

    Raises:
        RequestError: a key is another one, or there is no such curve.
    """
    if unknown := sorted(conditions.keys() - {"defense", "target"}):
        raise RequestError(f"a figure's curves have defense and target, and no {unknown[0]!r}")
    kept = tuple(
        curve
        for curve in board.curves
        if all(getattr(curve, key) in values for key, values in conditions.items())
    )
    if not kept:
        there = ", ".join(f"{curve.defense} on {curve.target}" for curve in board.curves)
        raise RequestError(f"there is no such curve of {board.protocol}; there are: {there}")
    return dataclasses.replace(board, curves=kept)


def strength_fault(record: Record, settings: Settings) -> str:
    """What is wrong with the strength of a record's defense; empty where there is nothing."""
    defense = record.defense.name
    knob = settings.strengths.get(defense)
    if knob is None or record.status == "diverged" or strength_of(record, knob) is not None:
        return ""
    return f"{FILE} says that the main knob of {defense} is {knob}, and it has no number there"


def _points(groups: Sequence[Group]) -> tuple[CurvePoint, ...]:
    strengths: dict[float, list[Group]] = {}
    for each in groups:
        strength = 1.0 if each.knob is None else each.strength
        if strength is not None:
            strengths.setdefault(strength, []).append(each)
    points = []
    for strength, members in sorted(strengths.items()):
        # The default strength may have been asked for by name, too: one record a seed.
        members.sort(key=lambda g: not g.default)
        seeds: dict[int, Filed] = {}
        for member in members:
            for filed in member.complete:
                seeds.setdefault(filed.record.seed, filed)
        points.append(_point(strength, members, [seeds[seed] for seed in sorted(seeds)]))
    return tuple(points)


def _point(strength: float, members: Sequence[Group], filed: Sequence[Filed]) -> CurvePoint:
    natural = [float(each.record.utility["natural_accuracy"] or 0) for each in filed]
    attack = [float(each.record.metrics[HEADLINE].value or 0) for each in filed]
    return CurvePoint(
        strength=strength,
        natural=statistics.mean(natural),
        attack=statistics.mean(attack),
        natural_spread=statistics.stdev(natural) if len(natural) > 1 else None,
        attack_spread=statistics.stdev(attack) if len(attack) > 1 else None,
        seeds=tuple(each.record.seed for each in filed),
        default=any(member.default for member in members),
        files=tuple(each.path for each in filed),
        control=any(member.control for member in members),
        ranked=not any(member.diverged for member in members)
        and all(trusted_evaluator(each.record) for each in filed),
    )
