"""Ranks at matched natural accuracy: privacy is compared only where utility is the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mibench.leaderboard.board import Curve, CurvePoint
from mibench.leaderboard.groups import UNDEFENDED

MOST_COST = 0.05  # of natural accuracy, that a default strength may cost
WINDOW = 0.01
_SLACK = 1e-9

RULE = (
    "Ranks compare defenses where they cost the same. The matched natural accuracy is that of the "
    "costliest default strength that costs at most 5 points against none; every defense takes part "
    "with the point of its curve (its control excepted) that is nearest to it, none with its "
    "early-stopping points, and is ranked by the attack accuracy there if that point is within 1 "
    "point of natural accuracy. Ranks are of means; differences within ± may be chance. Each "
    "architecture has a matched natural accuracy of its own."
)


@dataclass(frozen=True)
class Match:
    """What a defense is ranked by.

    Attributes:
        point: its point nearest to the matched natural accuracy; None where it is not ranked.
        rank: 1 for the lowest attack accuracy; equal accuracies share it.
        reason: why it is not ranked.
    """

    point: CurvePoint | None = None
    rank: int | None = None
    reason: str = ""


def anchor(curves: Iterable[Curve]) -> float | None:
    """The matched natural accuracy of one architecture's curves; None without undefended targets.

    The lowest natural accuracy of default strengths among those that lie at most 5 points below
    the undefended one.
    """
    defaults = {curve.defense: point for curve in curves for point in curve.points if point.default}
    undefended = defaults.get(UNDEFENDED)
    if undefended is None or not undefended.ranked:
        return None
    least = undefended.natural - MOST_COST - _SLACK
    return min(p.natural for p in defaults.values() if p.ranked and p.natural >= least)


def matches(curves: Iterable[Curve]) -> dict[str, Match]:
    """How each defense of one architecture is ranked, under one attack.

    Args:
        curves: one curve a defense, of one attack on one architecture.
    """
    by_defense: Mapping[str, Curve] = {curve.defense: curve for curve in curves}
    level = anchor(by_defense.values())
    if level is None:
        return {name: Match(reason="no undefended target to match") for name in by_defense}
    chosen: dict[str, CurvePoint] = {}
    found: dict[str, Match] = {}
    for name, curve in by_defense.items():
        points = [point for point in curve.points if point.ranked and not point.control]
        if not points:
            found[name] = Match(
                reason="shown, not ranked: evaluator below 90 %, or a seed diverged"
            )
            continue
        nearest = min(points, key=lambda p: (abs(p.natural - level), -len(p.seeds), p.strength))
        if abs(nearest.natural - level) <= WINDOW + _SLACK:
            chosen[name] = nearest
        else:
            found[name] = Match(reason=f"no point within 1 point of {100 * level:.1f} %")
    for name, point in chosen.items():
        if len(chosen) == 1:
            return {**found, name: Match(reason=f"nothing else near {100 * level:.1f} %")}
        better = sum(other.attack < point.attack for other in chosen.values())
        found[name] = Match(point, better + 1)
    return found
