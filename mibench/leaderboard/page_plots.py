"""Privacy–utility plots for the page, as plain data that its script draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mibench.leaderboard.axes import Axis, attack_axis, natural_axis, position, reach
from mibench.leaderboard.board import Board, Curve, CurvePoint

_COLOURS = 6  # as many as the style sheet names, for light and for dark
_SHAPES = ("square", "diamond", "up", "cross", "star", "down")


def _place(number: float) -> float:
    """The page must not hold the last digits, which depend on a machine's rounding."""
    return round(number, 5)


def _percent(number: float, spread: float | None) -> str:
    return f"{100 * number:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def _knob(curve: Curve, point: CurvePoint) -> str:
    """Strength of a point: ``scale = 2 (default)``."""
    notes = [word for word in ("control", "default") if getattr(point, word)]
    notes += [] if point.ranked else ["not ranked"]
    text = f"{curve.knob} = {point.strength:g}" if curve.knob else "strength"
    return text + (f" ({', '.join(notes)})" if notes else "")


def curve_numbers(curve: Curve) -> dict[str, Any]:
    """The numbers of a curve, for readers who cannot see the plot."""
    points = sorted(curve.points, key=lambda point: point.strength)
    return {
        "title": f"{curve.defense} under {curve.attack} on {curve.target}",
        "rows": [
            (
                _knob(curve, each),
                _percent(each.natural, each.natural_spread),
                _percent(each.attack, each.attack_spread),
                ", ".join(map(str, each.seeds)),
            )
            for each in points
        ],
    }


def plots(board: Board) -> list[dict[str, Any]]:
    """One plot for each architecture and attack.

    Places are in the axes' units, names are text. Colours are names of the style sheet's
    variables, which differ between light and dark.
    """
    defenses = sorted({curve.defense for curve in board.curves} - {"none"})
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in board.curves:
        groups.setdefault((curve.target, curve.attack), []).append(curve)
    return [
        _plot(board, target, attack, curves, defenses)
        for (target, attack), curves in groups.items()
    ]


def _plot(
    board: Board, target: str, attack: str, curves: Sequence[Curve], defenses: Sequence[str]
) -> dict[str, Any]:
    own = board.references if board.reference_target in ("", target) else ()
    known = [(name, value.number) for name, value in own if value.number is not None]
    references = sorted(known, key=lambda each: -each[1])
    points = [point for curve in curves for point in curve.points]
    vertical = attack_axis(points, [number for _, number in references])
    return {
        "title": f"{attack} on {target}",
        "facets": {"architecture": [target], "attack": [attack]},
        "x": _axis(natural_axis(points)),
        "y": _axis(vertical),
        "references": [
            {
                "y": min(_place(100 * number), _place(vertical.high)),
                "short": f"{name.partition(':')[0]} {100 * number:.1f}",
                "label": f"{name} {100 * number:.1f}",
                "beyond": 100 * number > vertical.high,
            }
            for name, number in references
        ],
        "curves": [_line(curve, defenses) for curve in curves],
    }


def _axis(axis: Axis) -> dict[str, Any]:
    return {
        "low": _place(axis.low),
        "high": _place(axis.high),
        "ticks": [(_place(place), text) for place, text in axis.ticks],
    }


def _line(curve: Curve, defenses: Sequence[str]) -> dict[str, Any]:
    plain = curve.defense == "none"
    index = 0 if plain else defenses.index(curve.defense)
    return {
        "name": curve.defense,
        "colour": "var(--plain)" if plain else f"var(--series-{index % _COLOURS})",
        "shape": "circle" if plain else _SHAPES[index % len(_SHAPES)],
        "dashed": plain,
        "points": [
            _point(curve, each) for each in sorted(curve.points, key=lambda point: point.strength)
        ],
    }


def _point(curve: Curve, point: CurvePoint) -> dict[str, Any]:
    across = [position(end) for end in reach(point.natural, point.natural_spread)]
    upright = [100 * end for end in reach(point.attack, point.attack_spread)]
    return {
        "x": _place(position(point.natural)),
        "y": _place(100 * point.attack),
        "across": [_place(each) for each in across] if point.natural_spread else None,
        "upright": [_place(each) for each in upright] if point.attack_spread else None,
        "default": point.default,
        "control": point.control,
        "lines": [
            curve.defense,
            _knob(curve, point),
            f"natural {_percent(point.natural, point.natural_spread)} %",
            f"attack {_percent(point.attack, point.attack_spread)} %",
            f"seeds {', '.join(map(str, point.seeds))}",
        ],
        "files": list(point.files),
    }
