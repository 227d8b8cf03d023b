"""What attacks without the weights learn over what they ask: a curve an attack.

An attack that is run with several budgets of queries against undefended targets makes a curve. Its
points are the cells in which nothing was set, or nothing but that budget. They lie at what was
asked, as the records count it, whatever the budget was called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mibench.leaderboard.board import Board, Measure, QueryCurve, QueryPoint
from mibench.leaderboard.names import overrides
from mibench.leaderboard.plots import (
    Axis,
    attack_axis,
    reach,
    reference,
    references,
    with_spread,
)
from mibench.leaderboard.series import UNDEFENDED, Series
from mibench.record import FLOOR_PUBLIC

# Settings that are budgets of queries: an attack's own or, where its prior is what asks, the steps
# of training that.
_BUDGETS = ("attack.queries", "prior.steps")
_LEAST = 3  # points of a curve
_PADDING = 0.05  # of the axis, on either side of the points


def query_curves(cells: Sequence[Series], measure: Measure) -> tuple[QueryCurve, ...]:
    """The curve of each attack and architecture that has three points or more.

    Args:
        cells: those of a protocol.
        measure: what leaks.
    """
    groups: dict[tuple[str, str], list[Series]] = {}
    for each in cells:
        if each.defense == UNDEFENDED and each.first.access != "white-box":
            groups.setdefault((each.target, each.attack), []).append(each)
    found = []
    for (target, attack), own in sorted(groups.items()):
        lines = [_points(own, path, measure) for path in _BUDGETS]
        points = next((line for line in lines if len(line) >= _LEAST), None)
        if points:
            found.append(QueryCurve(attack, own[0].first.access, target, points))
    return tuple(found)


def _points(own: Sequence[Series], path: str, measure: Measure) -> tuple[QueryPoint, ...]:
    part, _, name = path.partition(".")
    at: dict[float, QueryPoint] = {}
    # The default budget may have been asked for by name, too: then the default's cell counts.
    for each in sorted(own, key=lambda each: each.default):
        if not (each.default or overrides(each.first).keys() == {path}):
            continue
        budget = getattr(each.first, part).resolved.get(name)
        asked, leak = each.mean("queries").number, each.mean(measure.key)
        if not isinstance(budget, int | float) or not asked or leak.number is None:
            continue
        at[budget] = QueryPoint(
            queries=asked,
            attack=leak.number,
            attack_spread=leak.spread,
            setting="" if each.default else f"{path} = {budget:g}",
            seeds=tuple(each.complete),
            files=tuple(filed.path for filed in each.filed),
        )
    return tuple(sorted(at.values(), key=lambda point: point.queries))


def query_plots(board: Board) -> list[dict[str, Any]]:
    """One plot an architecture, as :func:`mibench.leaderboard.plots.plots` gives them.

    The horizontal axis is logarithmic; look-up's images are the one reference. All have one
    vertical axis.
    """
    measure, found = board.measure, []
    lookup = [
        (name, value)
        for name, value in board.references
        if name == FLOOR_PUBLIC and value.number is not None
    ]
    every = [point for curve in board.over_queries for point in curve.points]
    near = [value.number or 0.0 for _, value in lookup]
    if not every:
        return []
    upright = attack_axis(every, near, measure)
    for target in dict.fromkeys(curve.target for curve in board.over_queries):
        curves = [curve for curve in board.over_queries if curve.target == target]
        points = [point for curve in curves for point in curve.points]
        own = lookup if board.reference_target in ("", target) else []
        lines = [reference(name, value, measure) for name, value in own]
        found.append(
            {
                "target": target,
                "x": queries_axis([point.queries for point in points]),
                "y": upright,
                "references": references(lines, upright),
                "curves": [
                    {
                        "name": curve.attack,
                        "points": [
                            upright.placed(_place(curve, point, measure)) for point in curve.points
                        ],
                    }
                    for curve in curves
                ],
            }
        )
    return found


def _place(curve: QueryCurve, point: QueryPoint, measure: Measure) -> dict[str, Any]:
    most = 1.0 if measure.kind == "percent" else math.inf
    upright = [measure.scale * each for each in reach(point.attack, point.attack_spread, most)]
    setting, queries, leak, seeds = said_of_queries(point, measure)
    return {
        "x": math.log10(point.queries),
        "y": measure.scale * point.attack,
        "across": None,
        "upright": upright if point.attack_spread else None,
        "default": not point.setting,
        "control": False,
        "lines": [
            f"{curve.attack} ({curve.access})",
            setting,
            f"{queries} queries an identity",
            f"{leak} {measure.unit}",
            f"seeds {seeds}",
        ],
        "files": list(point.files),
    }


def said_of_queries(point: QueryPoint, measure: Measure) -> tuple[str, str, str, str]:
    """A point in words: what was set, queries an identity, what leaks, seeds."""
    return (
        point.setting or "default budget",
        f"{point.queries:,.0f}",
        with_spread(point.attack, point.attack_spread, measure),
        ", ".join(map(str, point.seeds)),
    )


def queries_axis(queries: Sequence[float]) -> Axis:
    """A logarithmic axis over some numbers of queries; at least one, all above 0."""
    low, high = math.log10(min(queries)), math.log10(max(queries))
    padding = max(_PADDING * (high - low), 0.05)
    low, high = low - padding, high + padding
    for digits in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10))):
        ticks = [
            (math.log10(digit * 10**power), f"{digit * 10**power:,}")
            for power in range(max(math.floor(low), 0), math.ceil(high) + 1)
            for digit in digits
            if low <= math.log10(digit * 10**power) <= high
        ]
        if len(ticks) >= 3:
            break
    return Axis(low, high, tuple(ticks))
