"""What one number says of a defense: its rank at matched natural accuracy, and its worst case.

Privacy is compared only where utility is the same. The worst case is over a fixed set of attacks,
within one target: for each identity the attack is chosen on one half of its samples and scored on
the other half, and the other way round; the two scores are averaged. Choosing and scoring on the
same samples would take the luck of the draw for strength.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mibench.leaderboard.board import Curve, CurvePoint, Value
from mibench.leaderboard.checks import HEADLINE
from mibench.leaderboard.series import UNDEFENDED, Series, over_seeds

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


def worst_of_target(hits: Sequence[Sequence[str]]) -> float:
    """Worst-case top-1 accuracy against one target, a fraction in [0, 1].

    Args:
        hits: for each attack, for each identity, a text of 0s and 1s, a character a sample. The
            halves are the samples at even and at odd positions. Attacks that tie on the choosing
            half share the score of their mean.

    Raises:
        ValueError: attacks differ in identities or samples, or there are fewer than two samples.
    """
    shapes = {tuple(len(row) for row in attack) for attack in hits}
    if len(shapes) != 1 or min(next(iter(shapes)), default=0) < 2:
        raise ValueError("attacks need hits of the same identities and samples, two or more each")
    identities = len(hits[0])
    scores = []
    for identity in range(identities):
        rows = [attack[identity] for attack in hits]
        even, odd = [row[::2] for row in rows], [row[1::2] for row in rows]
        scores.append((_scored(even, odd) + _scored(odd, even)) / 2)
    return math.fsum(scores) / identities


def _scored(choose: Sequence[str], score: Sequence[str]) -> float:
    most = max(row.count("1") for row in choose)
    chosen = [other for row, other in zip(choose, score, strict=True) if row.count("1") == most]
    return math.fsum(row.count("1") / len(row) for row in chosen) / len(chosen)


def worst_case(cells: Mapping[str, Series], attacks: Sequence[str]) -> Value:
    """Worst case over ``attacks``, mean and spread over the seeds that have all of them.

    Args:
        cells: those of one defense and architecture by attack.
        attacks: the fixed set.

    Returns:
        The fraction; without a number and with the reason as text where an attack is missing, or
        where the attacks did not see one and the same target.
    """
    by_attack = {attack: cells[attack].complete for attack in attacks if attack in cells}
    missing = [attack for attack in attacks if not by_attack.get(attack)]
    if missing:
        return Value(text=f"lacks {', '.join(missing)}")
    seeds = set.intersection(*(set(records) for records in by_attack.values()))
    values = []
    for seed in sorted(seeds):
        records = [records[seed] for records in by_attack.values()]
        hits = [record.metrics[HEADLINE].hits for record in records]
        if len({record.artifacts.get("target") for record in records}) > 1:
            continue
        if all(rows and min(map(len, rows)) > 1 for rows in hits):
            values.append(worst_of_target([rows for rows in hits if rows]))
    if not seeds:
        return Value(text="no seed has all its attacks")
    if not values:
        return Value(text="its attacks saw different targets, or have one sample an identity")
    return over_seeds(values)
