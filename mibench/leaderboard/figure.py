"""The privacy–utility figure of a board: SVG for READMEs, PDF for papers."""

from __future__ import annotations

import dataclasses
import io
from typing import Any, Literal

from mibench.leaderboard.axes import attack_axis, natural_axis, position, reach
from mibench.leaderboard.board import Board, Curve, CurvePoint
from mibench.leaderboard.groups import UNDEFENDED
from mibench.types import digest

# Okabe and Ito's colours, told apart by colour-blind readers, and markers for print in grey.
_STYLES = (
    ("#0072B2", "s"),
    ("#D55E00", "^"),
    ("#009E73", "D"),
    ("#CC79A7", "v"),
    ("#E69F00", "P"),
    ("#56B4E9", "X"),
)
_LONGEST = 60  # characters of a name
_WIDTH, _HEIGHT, _LEGEND = 4.8, 4.2, 1.6  # of a panel and the legend, in inches


def figure_data(board: Board) -> str:
    """Digest of all that the figure shows."""
    lines = [dataclasses.asdict(curve) for curve in board.curves]
    bounds = [(name, value.number) for name, value in board.references]
    return digest([board.protocol, board.version, lines, bounds, board.reference_target])


def privacy_utility_figure(board: Board, shape: Literal["svg", "pdf"] = "svg") -> bytes:
    """Attack accuracy over natural accuracy, a line a defense, a panel an architecture.

    Axes are those of :mod:`mibench.leaderboard.axes`. The same board gives the same bytes with the
    same matplotlib, whose version is in the SVG's metadata, as is :func:`figure_data`. Only for
    boards that have curves.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    targets = list(dict.fromkeys(curve.target for curve in board.curves))
    names = sorted({curve.defense for curve in board.curves} - {UNDEFENDED})
    bounds = [value.number for _, value in board.references if value.number is not None]
    upright = attack_axis([point for curve in board.curves for point in curve.points], bounds)
    styles = {UNDEFENDED: ("#444444", "o")}
    styles |= {name: _STYLES[i % len(_STYLES)] for i, name in enumerate(names)}
    # Names are text: a dollar sign in one begins no formula.
    style: Any = {"svg.hashsalt": "mibench", "svg.fonttype": "path", "pdf.fonttype": 42}
    style |= {"font.size": 9, "text.parse_math": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDTH * len(targets) + _LEGEND, _HEIGHT), layout="constrained")
        panels = figure.subplots(1, len(targets), squeeze=False, sharey=True)[0]
        handles: dict[str, Any] = {}
        for axis, target in zip(panels, targets, strict=True):
            own = [curve for curve in board.curves if curve.target == target]
            for curve in own:
                handles[curve.defense] = _curve(axis, curve, styles[curve.defense])
            across = natural_axis([point for curve in own for point in curve.points])
            axis.set_xlim(across.low, across.high)
            axis.set_xticks(
                [place for place, _ in across.ticks], [text for _, text in across.ticks]
            )
            axis.minorticks_off()
            if target == board.reference_target:
                _references(axis, board, upright.high)
            axis.set_title(f"{board.protocol} v{board.version}, {target}", fontsize=10)
            axis.set_xlabel("natural accuracy % (error on a logarithmic scale)")
            axis.grid(color="#e4e4e4", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel(f"top-1 attack accuracy % ({board.headline})")
        panels[0].set_ylim(upright.low, upright.high)
        order = [name for name in styles if name in handles]
        labels = ["none (early stopping)" if name == UNDEFENDED else name for name in order]
        figure.legend(
            [handles[name] for name in order],
            labels,
            loc="outside right upper",
            title="filled: default strength\ncrossed: control",
            frameon=False,
        )
        buffer = io.BytesIO()
        if shape == "pdf":
            figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
            return buffer.getvalue()
        metadata = {"Date": None, "Description": f"data {figure_data(board)}"}
        figure.savefig(buffer, format="svg", metadata=metadata)
    # No blanks before line ends, as in the repository's other texts.
    lines = buffer.getvalue().decode().splitlines()
    return ("\n".join(line.rstrip() for line in lines) + "\n").encode()


def _curve(axis: Any, curve: Curve, style: tuple[str, str]) -> Any:
    """Draw a line in the order of strengths; the default strength's point is filled and larger."""
    colour, marker = style
    natural = [position(point.natural) for point in curve.points]
    attack = [100 * point.attack for point in curve.points]
    dashes = "--" if curve.defense == UNDEFENDED else "-"
    (line,) = axis.plot(
        natural, attack, dashes, color=colour, marker=marker, markersize=5, markerfacecolor="white"
    )
    for point in curve.points:
        place, height = [position(point.natural)], [100 * point.attack]
        if point.control:
            axis.plot(place, height, "x", color=colour, markersize=9)
        if point.default:
            across, upright = _bars(point)
            axis.errorbar(
                place,
                height,
                xerr=across,
                yerr=upright,
                fmt=marker,
                color=colour,
                markersize=8,
                capsize=2,
                elinewidth=1,
                zorder=3,
            )
    return line


def _bars(point: CurvePoint) -> tuple[Any, Any]:
    """How far a point's error bars reach in both directions, in the axes' units; None without."""
    left, right = (position(end) for end in reach(point.natural, point.natural_spread))
    low, high = (100 * end for end in reach(point.attack, point.attack_spread))
    place, height = position(point.natural), 100 * point.attack
    return (
        None if point.natural_spread is None else [[place - left], [right - place]],
        None if point.attack_spread is None else [[height - low], [high - height]],
    )


def _references(axis: Any, board: Board, top: float) -> None:
    """Floors and ceiling as thin lines with their names; of those above the axis, the names."""
    known = [(value.number, name) for name, value in board.references if value.number is not None]
    beyond = 0
    for number, name in sorted(known, reverse=True):
        height, text = 100 * number, name[:_LONGEST]
        if height > top:
            height, text = top * (0.97 - 0.04 * beyond), f"↑ {text} {height:.1f}"
            beyond += 1
        else:
            axis.axhline(height, color="#888888", linewidth=0.7, linestyle=":", zorder=1)
        axis.text(
            0.01,
            height + 0.006 * top,
            text,
            transform=axis.get_yaxis_transform(),
            fontsize=7,
            color="#666666",
        )
