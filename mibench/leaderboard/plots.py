"""Privacy–utility plots as places on axes, for the figure and for the page.

Natural accuracies crowd below 100 %, with few far off: the horizontal axis shows the error,
1 − accuracy, on a logarithmic scale, so that 98 and 99 % lie as far apart as 80 and 90 %. The
vertical axis, in the unit of the board's measure, starts at 0 and ends above what was measured; of
bits, which run to a logarithm of people, above the ceiling. Defenses differ by a bit or two of
sixteen, so that what lies far from all points is drawn closer together there.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mibench.leaderboard.board import (
    BITS,
    TOP1,
    Board,
    Curve,
    CurvePoint,
    Measure,
    QueryPoint,
    Value,
)
from mibench.leaderboard.series import UNDEFENDED
from mibench.record import CEILING, FLOOR_PRIOR, FLOOR_PUBLIC, LOOKALIKE

LEAST_ERROR = 0.001  # a smaller one is drawn as this

# References in a word or two, as labels beside a plot have room for.
SHORT = {
    FLOOR_PRIOR: "random samples",
    FLOOR_PUBLIC: "look-up",
    LOOKALIKE: "look-alike",
    CEILING: "ceiling",
}

_LONGEST = 24  # characters of another reference's name
_PADDING = 0.06  # of an axis, on either side of the data
_LOW, _HIGH = 0.15, 0.3  # height of what is drawn closer, of that of the points' surroundings
_FAR = 1.6  # references so many times above all points are named, and not reached
_USUAL = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9)


@dataclass(frozen=True)
class Axis:
    """What an axis spans, and its ticks: positions with their texts.

    Attributes:
        near: positions of the ends of what is drawn at full scale; None: all of it.
        knots: values with their positions, between which it is linear; empty: a value is its
            position.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    near: tuple[float, float] | None = None
    knots: tuple[tuple[float, float], ...] = ()

    def at(self, value: float) -> float:
        """The position of a value of at least 0."""
        for (low, start), (high, end) in itertools.pairwise(self.knots):
            if low <= value <= high:
                return start + (value - low) / (high - low) * (end - start)
        return value if not self.knots else max(self.high, value)

    def apart(self) -> list[tuple[float, float]]:
        """Positions between which it is drawn closer together."""
        if self.near is None:
            return []
        ends = ((self.low, self.near[0]), (self.near[1], self.high))
        return [(low, high) for low, high in ends if low < high]

    def placed(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """A point or a reference with positions for the values ``y`` and those of its ends."""
        there = [key for key in ("upright", "band") if drawn.get(key)]
        ends = {key: [self.at(end) for end in drawn[key]] for key in there}
        return {**drawn, "value": drawn["y"], "y": self.at(drawn["y"]), **ends}


def position(natural: float) -> float:
    """Where a natural accuracy (a fraction) lies: 0 for 0 %, 1 for 90 %, 2 for 99 %."""
    return -math.log10(min(max(1 - natural, LEAST_ERROR), 1))


def reach(value: float, spread: float | None, most: float = 1) -> tuple[float, float]:
    """Both ends of an error bar around a value, within [0, most]; a fraction is at most 1."""
    return max(value - (spread or 0), 0), min(value + (spread or 0), most)


def _reach(point: CurvePoint | QueryPoint, measure: Measure) -> tuple[float, float]:
    most = 1.0 if measure.kind == "percent" else math.inf
    return reach(point.attack, point.attack_spread, most)


def said(curve: Curve, point: CurvePoint, measure: Measure) -> tuple[str, str, str, str]:
    """A point in words: ``scale = 2 (default)``, natural accuracy, what leaks, seeds."""
    notes = [word for word in ("control", "default") if getattr(point, word)]
    notes += [] if point.ranked else ["not ranked"]
    text = f"{curve.knob} = {point.strength:g}" if curve.knob else "strength"
    return (
        text + (f" ({', '.join(notes)})" if notes else ""),
        with_spread(point.natural, point.natural_spread, TOP1),
        with_spread(point.attack, point.attack_spread, measure),
        ", ".join(map(str, point.seeds)),
    )


def with_spread(number: float, spread: float | None, measure: Measure) -> str:
    """``"7.12 ± 0.10"``, in the measure's unit; without a spread the number alone."""
    both = [number] if spread is None else [number, spread]
    return " ± ".join(f"{measure.scale * each:.{measure.digits}f}" for each in both)


def plots(board: Board, shared: bool = False) -> list[dict[str, Any]]:
    """One plot for each architecture and attack: places in the axes' units, and texts.

    ``references`` are from above, each with its ``band`` over seeds; of those ``beyond`` the axis
    only the names are shown. The points of a curve are in the order of strengths; ``across`` and
    ``upright`` are the ends of error bars.

    Args:
        board: the board.
        shared: whether all have one vertical axis.
    """
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in board.curves:
        groups.setdefault((curve.target, curve.attack), []).append(curve)
    bounds = [
        reference(name, v, board.measure) for name, v in board.references if v.number is not None
    ]
    bounds.sort(key=lambda each: -each["y"])
    found = []
    for (target, attack), curves in groups.items():
        own = bounds if board.reference_target in ("", target) else []
        points = [point for curve in curves for point in curve.points]
        over = [point for curve in board.curves for point in curve.points] if shared else points
        near = [each["y"] / board.measure.scale for each in (bounds if shared else own)]
        upright = attack_axis(over, near, board.measure)
        found.append(
            {
                "target": target,
                "attack": attack,
                "x": natural_axis(points),
                "y": upright,
                "references": references(own, upright),
                "curves": [
                    {
                        "name": curve.defense,
                        "points": [
                            upright.placed(_point(curve, point, board.measure))
                            for point in sorted(curve.points, key=lambda point: point.strength)
                        ],
                    }
                    for curve in curves
                ],
            }
        )
    return found


def reference(name: str, value: Value, measure: Measure) -> dict[str, Any]:
    """A floor or the ceiling as a line, with a band where seeds differ."""
    number = value.number or 0.0
    most = 1.0 if measure.kind == "percent" else math.inf
    ends = [measure.scale * end for end in reach(number, value.spread, most)]
    return {
        "name": SHORT.get(name, name[:_LONGEST]),
        "y": measure.scale * number,
        "band": ends if value.spread else None,
    }


def references(lines: Iterable[dict[str, Any]], upright: Axis) -> list[dict[str, Any]]:
    """References at their places; of those ``beyond`` the axis, the names alone are shown."""
    placed = [upright.placed(each) for each in lines]
    return [{**each, "beyond": each["y"] > upright.high} for each in placed]


def _point(curve: Curve, point: CurvePoint, measure: Measure) -> dict[str, Any]:
    strength, natural, attack, seeds = said(curve, point, measure)
    across = [position(end) for end in reach(point.natural, point.natural_spread)]
    upright = [measure.scale * end for end in _reach(point, measure)]
    return {
        "x": position(point.natural),
        "y": measure.scale * point.attack,
        "across": across if point.natural_spread else None,
        "upright": upright if point.attack_spread else None,
        "default": point.default,
        "control": point.control,
        "lines": [
            curve.defense,
            strength,
            f"natural accuracy {natural} %",
            f"{curve.attack} {attack} {measure.unit}",
            f"seeds {seeds}",
        ],
        "files": list(point.files),
    }


def looks(names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Numbers of a colour and of a marker, below 6, for each name of a curve but the undefended's.

    The page's style sheet names as many colours. The seventh name has the first one's colour with
    another marker: 36 look different.
    """
    others = sorted(set(names) - {UNDEFENDED})
    return {name: (i % 6, (i + i // 6) % 6) for i, name in enumerate(others)}


def natural_axis(points: Sequence[CurvePoint]) -> Axis:
    """The horizontal axis of some points, in :func:`position`'s unit; at least one point."""
    ends = [end for each in points for end in reach(each.natural, each.natural_spread)]
    low, high = position(min(ends)), position(max(ends))
    padding = max(_PADDING * (high - low), 0.02)
    low, high = low - padding, high + padding
    inside = [each for each in _USUAL if low <= position(each / 100) <= high]
    if len(inside) < 4:
        first, last = (100 * (1 - 10**-end) for end in (low, high))
        inside = [each for each in _steps(max(first, 0), last, 8) if each < 100]
    ticks = tuple((position(each / 100), f"{each:.6g}") for each in inside)
    return Axis(low, high, ticks)


def attack_axis(
    points: Sequence[CurvePoint | QueryPoint], references: Iterable[float], measure: Measure = TOP1
) -> Axis:
    """The vertical axis, as it is shown: from 0 to above all points and the references near them.

    Of bits, what lies far below and far above all points is drawn closer together, unless the
    points take half of the axis anyway.

    Args:
        points: at least one.
        references: floors and ceiling, in the measure; of bits, all of them are near.
        measure: what leaks.
    """
    most = max(_reach(each, measure)[1] for each in points)
    near = [each for each in references if measure is BITS or each <= _FAR * most]
    high = max(measure.scale * (1 + _PADDING) * max(most, *near, 0.01), 1)
    least = min(_reach(each, measure)[0] for each in points)
    room = max(0.1 * (most - least), 0.25)
    # Halves of a bit, so that the ends of the full scale are round.
    start, end = max(math.floor(2 * (least - room)) / 2, 0.0), math.ceil(2 * (most + room)) / 2
    if measure is not BITS or end - start > high / 2:
        return Axis(0, high, _ticks(_steps(0, high, 5)))
    return _closer_axis(start, end, max(high, end))


def _closer_axis(start: float, end: float, high: float) -> Axis:
    """An axis from 0 to ``high`` that has its full scale from ``start`` to ``end`` alone."""
    full = end - start
    first = min(_LOW * full, start)
    last = first + full
    top = last + min(_HIGH * full, high - end)
    knots = {0.0: 0.0, start: first, end: last, high: top}  # two of them may be one
    axis = Axis(0, top, (), (first, last), tuple(knots.items()))
    ticks = [0.0] * (start > 0) + _steps(start, end, 5)
    ticks += [each for each in _steps(0, high, 4) if each > end + (high - end) / 4]
    return dataclasses.replace(axis, ticks=_ticks(ticks, axis.at))


def _ticks(
    values: Iterable[float], at: Callable[[float], float] = float
) -> tuple[tuple[float, str], ...]:
    return tuple((at(each), f"{each:.4g}") for each in values)


def _steps(low: float, high: float, most: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, about as many as ``most``."""
    rough = max(high - low, 1e-9) / most
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(each for each in (1, 2, 2.5, 5, 10) if each * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + k) * step, 6) for k in range(max(count, 0))]
