"""Privacy–utility plots as places on axes, for the figure and for the page.

Natural accuracies crowd below 100 %, with few far off: the horizontal axis shows the error,
1 − accuracy, on a logarithmic scale, so that 98 and 99 % lie as far apart as 80 and 90 %. The
vertical axis, in per cent, starts at 0 and ends above what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mibench.leaderboard.board import Board, Curve, CurvePoint

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


def said(curve: Curve, point: CurvePoint) -> tuple[str, str, str, str]:
    """A point in words: ``scale = 2 (default)``, natural and attack accuracy in per cent, seeds."""
    notes = [word for word in ("control", "default") if getattr(point, word)]
    notes += [] if point.ranked else ["not ranked"]
    text = f"{curve.knob} = {point.strength:g}" if curve.knob else "strength"
    return (
        text + (f" ({', '.join(notes)})" if notes else ""),
        _percent(point.natural, point.natural_spread),
        _percent(point.attack, point.attack_spread),
        ", ".join(map(str, point.seeds)),
    )


def _percent(number: float, spread: float | None) -> str:
    return f"{100 * number:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def plots(board: Board, shared: bool = False) -> list[dict[str, Any]]:
    """One plot for each architecture and attack: places in the axes' units, and texts.

    ``references`` are from above; of those ``beyond`` the axis only the names are shown. The points
    of a curve are in the order of strengths; ``across`` and ``upright`` are the ends of error bars.

    Args:
        board: the board.
        shared: whether all have one vertical axis.
    """
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in board.curves:
        groups.setdefault((curve.target, curve.attack), []).append(curve)
    bounds = [(name, value.number) for name, value in board.references if value.number is not None]
    bounds.sort(key=lambda each: -each[1])
    found = []
    for (target, attack), curves in groups.items():
        own = bounds if board.reference_target in ("", target) else []
        points = [point for curve in curves for point in curve.points]
        over = [point for curve in board.curves for point in curve.points] if shared else points
        upright = attack_axis(over, [number for _, number in (bounds if shared else own)])
        found.append(
            {
                "target": target,
                "attack": attack,
                "x": natural_axis(points),
                "y": upright,
                "references": [
                    {"name": name, "y": 100 * n, "beyond": 100 * n > upright.high}
                    for name, n in own
                ],
                "curves": [
                    {
                        "name": curve.defense,
                        "points": [
                            _point(curve, point)
                            for point in sorted(curve.points, key=lambda point: point.strength)
                        ],
                    }
                    for curve in curves
                ],
            }
        )
    return found


def _point(curve: Curve, point: CurvePoint) -> dict[str, Any]:
    strength, natural, attack, seeds = said(curve, point)
    across = [position(end) for end in reach(point.natural, point.natural_spread)]
    upright = [100 * end for end in reach(point.attack, point.attack_spread)]
    return {
        "x": position(point.natural),
        "y": 100 * point.attack,
        "across": across if point.natural_spread else None,
        "upright": upright if point.attack_spread else None,
        "default": point.default,
        "control": point.control,
        "lines": [
            curve.defense,
            strength,
            f"natural {natural} %",
            f"attack {attack} %",
            f"seeds {seeds}",
        ],
        "files": list(point.files),
    }


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
