"""The privacy–utility figure of a board: SVG for READMEs, PDF for papers."""

from __future__ import annotations

import dataclasses
import io
from typing import Any, Literal

from mibench.leaderboard.board import Board
from mibench.leaderboard.plots import Line, Plot, plots
from mibench.leaderboard.series import UNDEFENDED
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

    Axes are those of :mod:`mibench.leaderboard.plots`. The same board gives the same bytes with the
    same matplotlib, whose version is in the SVG's metadata, as is :func:`figure_data`. Only for
    boards that have curves.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = plots(board, shared=True)
    # Names are text: a dollar sign in one begins no formula.
    style: Any = {"svg.hashsalt": "mibench", "svg.fonttype": "path", "pdf.fonttype": 42}
    style |= {"font.size": 9, "text.parse_math": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDTH * len(panels) + _LEGEND, _HEIGHT), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        handles: dict[str, Any] = {}
        for axis, plot in zip(axes, panels, strict=True):
            for line in plot.lines:
                handles[line.curve.defense] = _draw(axis, line)
            axis.set_xlim(plot.x.low, plot.x.high)
            axis.set_xticks([at for at, _ in plot.x.ticks], [text for _, text in plot.x.ticks])
            axis.minorticks_off()
            _bounds(axis, plot)
            axis.set_title(f"{board.protocol} v{board.version}, {plot.target}", fontsize=10)
            axis.set_xlabel("natural accuracy % (error on a logarithmic scale)")
            axis.grid(color="#e4e4e4", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel(f"top-1 attack accuracy % ({board.headline})")
        axes[0].set_ylim(panels[0].y.low, panels[0].y.high)
        order = sorted(handles, key=lambda name: (name != UNDEFENDED, name))
        figure.legend(
            [handles[name] for name in order],
            ["none (early stopping)" if name == UNDEFENDED else name for name in order],
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


def _draw(axis: Any, line: Line) -> Any:
    """Draw a line in the order of strengths; the default strength's point is filled and larger."""
    colour, marker = ("#444444", "o") if line.index is None else _STYLES[line.index % len(_STYLES)]
    (drawn,) = axis.plot(
        [mark.x for mark in line.marks],
        [mark.y for mark in line.marks],
        "--" if line.index is None else "-",
        color=colour,
        marker=marker,
        markersize=5,
        markerfacecolor="white",
    )
    for mark in line.marks:
        if mark.point.control:
            axis.plot([mark.x], [mark.y], "x", color=colour, markersize=9)
        if mark.point.default:
            across, upright = (
                ends and [[place - ends[0]], [ends[1] - place]]
                for place, ends in ((mark.x, mark.across), (mark.y, mark.upright))
            )
            axis.errorbar(
                [mark.x],
                [mark.y],
                xerr=across,
                yerr=upright,
                fmt=marker,
                color=colour,
                markersize=8,
                capsize=2,
                elinewidth=1,
                zorder=3,
            )
    return drawn


def _bounds(axis: Any, plot: Plot) -> None:
    """Floors and ceiling as thin lines with their names; of those above the axis, the names."""
    top, beyond = plot.y.high, 0
    for bound in plot.bounds:
        height, text = bound.y, bound.name[:_LONGEST]
        if bound.beyond:
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
