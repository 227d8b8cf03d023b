"""The axes of privacy–utility plots, for the figure and for the page.

Natural accuracies crowd below 100 %, with few far off: the horizontal axis shows the error,
1 − accuracy, on a logarithmic scale, so that 98 and 99 % lie as far apart as 80 and 90 %. The
vertical axis starts at 0 and ends above what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mibench.leaderboard.board import CurvePoint

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
