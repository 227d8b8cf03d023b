"""Privacy–utility plots as places on axes, for the figure and for the page.

Natural accuracies crowd below 100 %, with few far off: the horizontal axis shows the error,
1 − accuracy, on a logarithmic scale, so that 98 and 99 % lie as far apart as 80 and 90 %. The
vertical axis, in per cent, starts at 0 and ends above what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mibench.leaderboard.board import Board, Curve, CurvePoint
from mibench.leaderboard.series import UNDEFENDED

LEAST_ERROR = 0.001  # a smaller one is drawn as this

_PADDING = 0.06  # of an axis, on either side of the data
_FAR = 1.6  # references so many times above all points are named, and not reached
_USUAL = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9)


@dataclass(frozen=True)
class Axis:
    """What an axis spans, and its ticks: positions with their texts."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


def position(natural: float) -> float:
    """Where a natural accuracy (a fraction) lies: 0 for 0 %, 1 for 90 %, 2 for 99 %."""
    return -math.log10(min(max(1 - natural, LEAST_ERROR), 1))


def reach(value: float, spread: float | None) -> tuple[float, float]:
    """Both ends of an error bar around a fraction, within [0, 1]."""
    return max(value - (spread or 0), 0), min(value + (spread or 0), 1)


@dataclass(frozen=True)
class Mark:
    """A point of a curve on the axes, with the ends of its error bars, None where it has none."""

    point: CurvePoint
    x: float
    y: float
    across: tuple[float, float] | None
    upright: tuple[float, float] | None


@dataclass(frozen=True)
class Line:
    """A curve: its marks in the order of strengths.

    Attributes:
        index: which of the defenses it is, which gives colour and shape; None for none.
    """

    curve: Curve
    index: int | None
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Bound:
    """A floor or the ceiling: its height, and whether that is above the axis."""

    name: str
    y: float
    beyond: bool


@dataclass(frozen=True)
class Plot:
    """One architecture under one attack; floors and ceiling from above."""

    target: str
    attack: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    bounds: tuple[Bound, ...]


def plots(board: Board, shared: bool = False) -> list[Plot]:
    """One plot for each architecture and attack.

    Args:
        board: the board.
        shared: whether all have one vertical axis.
    """
    defenses = sorted({curve.defense for curve in board.curves} - {UNDEFENDED})
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in board.curves:
        groups.setdefault((curve.target, curve.attack), []).append(curve)
    known = [(name, value.number) for name, value in board.references if value.number is not None]
    known.sort(key=lambda each: -each[1])
    found = []
    for (target, attack), curves in groups.items():
        own = known if board.reference_target in ("", target) else []
        points = [point for curve in curves for point in curve.points]
        over = [point for curve in board.curves for point in curve.points] if shared else points
        upright = attack_axis(over, [number for _, number in (known if shared else own)])
        found.append(
            Plot(
                target,
                attack,
                natural_axis(points),
                upright,
                tuple(_line(curve, defenses) for curve in curves),
                tuple(Bound(name, 100 * n, 100 * n > upright.high) for name, n in own),
            )
        )
    return found


def _line(curve: Curve, defenses: Sequence[str]) -> Line:
    marks = []
    for point in sorted(curve.points, key=lambda point: point.strength):
        left, right = (position(end) for end in reach(point.natural, point.natural_spread))
        low, high = (100 * end for end in reach(point.attack, point.attack_spread))
        across = (left, right) if point.natural_spread else None
        upright = (low, high) if point.attack_spread else None
        marks.append(Mark(point, position(point.natural), 100 * point.attack, across, upright))
    index = None if curve.defense == UNDEFENDED else defenses.index(curve.defense)
    return Line(curve, index, tuple(marks))


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
    ticks = tuple((position(each / 100), f"{each:.4g}") for each in inside)
    return Axis(low, high, ticks)


def attack_axis(points: Sequence[CurvePoint], references: Iterable[float]) -> Axis:
    """The vertical axis, in per cent: from 0 to above all points and the references near them.

    Args:
        points: at least one.
        references: top-1 accuracies of floors and ceiling, fractions.
    """
    most = max(reach(each.attack, each.attack_spread)[1] for each in points)
    near = [each for each in references if each <= _FAR * most]
    high = max(100 * (1 + _PADDING) * max(most, *near, 0.01), 1)
    return Axis(0, high, tuple((each, f"{each:.4g}") for each in _steps(0, high, 5)))


def _steps(low: float, high: float, most: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, about as many as ``most``."""
    rough = max(high - low, 1e-9) / most
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(each for each in (1, 2, 2.5, 5, 10) if each * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + k) * step, 6) for k in range(max(count, 0))]
