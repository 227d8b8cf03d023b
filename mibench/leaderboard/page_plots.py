"""Privacy–utility plots for the page, as plotly's figures in plain data."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from mibench.leaderboard.board import Board, Curve, CurvePoint

_COLOURS = 6  # as many as the style sheet names, for light and for dark
_SYMBOLS = ("square", "diamond", "triangle-up", "cross", "star", "triangle-down")


def _points(fraction: float) -> float:
    """Per cent; the page must not hold the last digits, which depend on a machine's rounding."""
    return round(100 * fraction, 6)


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
    """One plot for each architecture and attack, as plotly's figures.

    Colours are names of the style sheet's variables, which the page looks up for light and dark.
    """
    defenses = sorted({curve.defense for curve in board.curves} - {"none"})
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in board.curves:
        groups.setdefault((curve.target, curve.attack), []).append(curve)
    return [
        {
            "title": f"{attack} on {target}",
            "facets": {"architecture": [target], "attack": [attack]},
            "data": [_trace(curve, defenses) for curve in curves],
            "layout": _layout() | (_lines(board) if board.reference_target in ("", target) else {}),
        }
        for (target, attack), curves in groups.items()
    ]


def _trace(curve: Curve, defenses: Sequence[str]) -> dict[str, Any]:
    points = sorted(curve.points, key=lambda point: point.strength)
    plain = curve.defense == "none"
    place = 0 if plain else defenses.index(curve.defense)
    colour = "var(--plain)" if plain else f"var(--series-{place % _COLOURS})"
    name = html.escape(curve.defense)  # plotly reads names and texts as markup
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "meta": curve.defense,
        "x": [_points(each.natural) for each in points],
        "y": [_points(each.attack) for each in points],
        "customdata": [list(each.files) for each in points],
        "hoverinfo": "text",
        "hovertext": [
            f"<b>{name}</b><br>{html.escape(_knob(curve, each))}"
            f"<br>natural {_percent(each.natural, each.natural_spread)} %"
            f"<br>attack {_percent(each.attack, each.attack_spread)} %"
            f"<br>seeds {', '.join(map(str, each.seeds))}"
            for each in points
        ],
        "line": {"color": colour, "width": 2, "dash": "dash" if plain else "solid"},
        "marker": {
            "color": colour,
            "opacity": 1,
            "symbol": "circle" if plain else _SYMBOLS[place % len(_SYMBOLS)],
            "size": [14 if each.default else 8 for each in points],
            "line": {
                "color": "var(--fg)",
                "width": [2 if each.default else 0 for each in points],
            },
        },
    }
    for axis, spreads in (
        ("error_x", [each.natural_spread for each in points]),
        ("error_y", [each.attack_spread for each in points]),
    ):
        if any(spreads):
            array = [_points(spread or 0) for spread in spreads]
            trace[axis] = {"type": "data", "array": array, "thickness": 1, "width": 0}
    return trace


def _layout() -> dict[str, Any]:
    axis = {"gridcolor": "var(--line)", "linecolor": "var(--line)", "zeroline": False}
    return {
        "paper_bgcolor": "var(--bg)",
        "plot_bgcolor": "var(--bg)",
        "font": {"color": "var(--fg)", "family": "system-ui, sans-serif", "size": 13},
        "margin": {"l": 56, "r": 16, "t": 16, "b": 56},
        "xaxis": {**axis, "title": {"text": "natural accuracy, %", "standoff": 6}},
        "yaxis": {
            **axis,
            "title": {"text": "attack accuracy (top-1), %"},
            "range": [-2, 104],
        },
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "var(--raised)", "font": {"color": "var(--fg)"}, "align": "left"},
        "dragmode": False,
    }


def _lines(board: Board) -> dict[str, Any]:
    """Floors and ceiling as thin lines; the lower of two near ones is named below its line."""
    known = [(value.number, name) for name, value in board.references if value.number is not None]
    shapes, labels = [], []
    for number, name in known:
        crowded = any(number < other < number + 0.06 for other, _ in known) or number > 0.97
        place = {"xref": "paper", "yref": "y"}
        height = _points(number)
        line = {"color": "var(--muted)", "width": 1, "dash": "dot"}
        shapes.append(
            {"type": "line", "x0": 0, "x1": 1, "y0": height, "y1": height, "line": line} | place
        )
        short = f"{name.partition(':')[0]} {height:.1f}"  # the whole name stands above the table
        labels.append(
            {"x": 0, "y": height, "xanchor": "left", "yanchor": "top" if crowded else "bottom"}
            | {"text": html.escape(short), "hovertext": html.escape(name), "showarrow": False}
            | {"font": {"size": 11, "color": "var(--muted)"}}
            | place
        )
    return {"shapes": shapes, "annotations": labels}
