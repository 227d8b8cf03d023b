"""The figures of a board, over accuracy and over queries: SVG for READMEs, PDF for papers."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from mibench.leaderboard.board import Board, Curve, QueryCurve
from mibench.leaderboard.over_queries import query_plots
from mibench.leaderboard.plots import Axis, looks, plots
from mibench.leaderboard.series import UNDEFENDED
from mibench.types import digest

Shape = Literal["svg", "pdf"]
# Okabe and Ito's colours, told apart by colour-blind readers, and markers for print in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("s", "^", "D", "v", "P", "X")
_APART = 0.04  # of the axis, between names of references
_WIDTH, _HEIGHT, _LEGEND = 4.8, 4.2, 2.6  # of a panel, the legend and names, in inches


def privacy_utility_figure(board: Board, shape: Shape = "svg") -> bytes:
    """What leaks over natural accuracy, a line a defense, a panel an architecture and attack.

    Axes are those of :mod:`mibench.leaderboard.plots`. The same board gives the same bytes with the
    same matplotlib, whose version is in the SVG's metadata, as is a digest of all that is shown.
    Only for boards that have curves.
    """
    panels = plots(board, shared=True)
    attacks = list(dict.fromkeys(plot["attack"] for plot in panels))
    for plot in panels:
        plot["title"] = plot["target"] + (f", {plot['attack']}" if len(attacks) > 1 else "")
    return _figure(
        board,
        panels,
        across="natural accuracy % (error on a logarithmic scale)",
        upright=f" ({' or '.join(attacks)})",
        styles=_styles(curve.defense for curve in board.curves),
        legend="filled: default strength\ncrossed: control",
        data=board.curves,
        shape=shape,
    )


def queries_figure(board: Board, shape: Shape = "svg") -> bytes:
    """What leaks from undefended targets over queries, a line an attack, a panel an architecture.

    Like :func:`privacy_utility_figure`, with the axes of :mod:`mibench.leaderboard.over_queries`.
    Only for boards that have curves over queries.
    """
    panels = query_plots(board)
    for plot in panels:
        plot["title"] = plot["target"]
    return _figure(
        board,
        panels,
        across="queries an identity (logarithmic scale)",
        upright="",
        styles=_styles(curve.attack for curve in board.over_queries),
        legend="filled: default budget",
        data=board.over_queries,
        shape=shape,
    )


def _styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each curve's name."""
    pairs = {name: (_COLOURS[one], _MARKERS[other]) for name, (one, other) in looks(names).items()}
    return {UNDEFENDED: ("#444444", "o"), **pairs}


def _figure(
    board: Board,
    panels: Sequence[dict[str, Any]],
    *,
    across: str,
    upright: str,
    styles: Mapping[str, tuple[str, str]],
    legend: str,
    data: Sequence[Curve] | Sequence[QueryCurve],
    shape: Shape,
) -> bytes:
    """Panels side by side with one legend.

    Args:
        board: whose panels they are.
        panels: plots, each with its title.
        across: what the horizontal axes show.
        upright: what stands behind the measure at the vertical axis.
        styles: colour and marker of each curve's name.
        legend: title of the legend.
        data: the curves, of which the SVG states a digest.
        shape: the file's format.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Names are text: a dollar sign in one begins no formula.
    style: Any = {"svg.hashsalt": "mibench", "svg.fonttype": "path", "pdf.fonttype": 42}
    style |= {"font.size": 9, "text.parse_math": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDTH * len(panels) + _LEGEND, _HEIGHT), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        handles: dict[str, Any] = {}
        for axis, plot in zip(axes, panels, strict=True):
            for curve in plot["curves"]:
                handles[curve["name"]] = _curve(axis, curve, *styles[curve["name"]])
            along = plot["x"]
            axis.set_xlim(along.low, along.high)
            axis.set_xticks([at for at, _ in along.ticks], [text for _, text in along.ticks])
            axis.minorticks_off()
            axis.set_yticks(*zip(*plot["y"].ticks, strict=True))
            _closer(axis, plot["y"])
            _references(axis, plot["references"], plot["y"].high)
            axis.set_title(f"{board.protocol} v{board.version}, {plot['title']}", fontsize=10)
            axis.set_xlabel(across)
            axis.grid(color="#e4e4e4", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        unit = " %" if board.measure.kind == "percent" else ""
        closer = ", hatched: drawn closer" if any(plot["y"].near for plot in panels) else ""
        axes[0].set_ylabel(f"{board.measure.title}{unit}{upright}{closer}")
        axes[0].set_ylim(0, max(plot["y"].high for plot in panels))
        order = [name for name in styles if name in handles]
        figure.legend(
            [handles[name] for name in order],
            ["none (early stopping)" if name == UNDEFENDED else name for name in order],
            loc="outside right upper",
            title=legend,
            frameon=False,
        )
        buffer = io.BytesIO()
        if shape == "pdf":
            figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
            return buffer.getvalue()
        metadata = {"Date": None, "Description": f"data {_digest(board, data)}"}
        figure.savefig(buffer, format="svg", metadata=metadata)
    # No blanks before line ends, as in the repository's other texts.
    lines = buffer.getvalue().decode().splitlines()
    return ("\n".join(line.rstrip() for line in lines) + "\n").encode()


def _digest(board: Board, data: Sequence[Curve] | Sequence[QueryCurve]) -> str:
    """Digest of all that a figure shows."""
    lines = [dataclasses.asdict(curve) for curve in data]
    bounds = [(name, value.number, value.spread) for name, value in board.references]
    shown = [board.protocol, board.version, lines, bounds, board.reference_target]
    return digest([*shown, board.measure.title])


def _closer(axis: Any, upright: Axis) -> None:
    """Hatches where the vertical axis is drawn closer together."""
    for low, high in upright.apart():
        axis.axhspan(
            low, high, fill=False, hatch="////", edgecolor="#e4e4e4", linewidth=0, zorder=0
        )


def _curve(axis: Any, curve: dict[str, Any], colour: str, marker: str) -> Any:
    """Draw a line in the order of strengths; the default strength's point is filled and larger."""
    points = curve["points"]
    dashes = "--" if curve["name"] == UNDEFENDED else "-"
    look = {"color": colour, "marker": marker, "markersize": 5, "markerfacecolor": "white"}
    across, upright = ([point[key] for point in points] for key in ("x", "y"))
    (line,) = axis.plot(across, upright, dashes, **look)
    for point in points:
        x, y = point["x"], point["y"]
        if point["control"]:
            axis.plot([x], [y], "x", color=colour, markersize=9)
        if point["default"]:
            left, low = point["across"], point["upright"]
            bars = {
                "xerr": left and [[x - left[0]], [left[1] - x]],
                "yerr": low and [[y - low[0]], [low[1] - y]],
            }
            look = {"fmt": marker, "color": colour, "markersize": 8, "zorder": 3}
            axis.errorbar([x], [y], **bars, **look, capsize=2, elinewidth=1)
    return line


def _references(axis: Any, references: list[dict[str, Any]], top: float) -> None:
    """Floors and ceiling as lines with bands over seeds, named beside the axes, where no point is.

    Of those above the axis, the names alone.
    """
    free = top  # below the names so far
    for each in references:
        height, text = each["y"], f"{each['name']} {each['value']:.1f}"
        if each["beyond"]:
            height, text = top, f"↑ {text}"
        else:
            axis.axhline(height, color="#888888", linewidth=0.8, linestyle=":", zorder=1)
        if each["band"] and not each["beyond"]:
            axis.axhspan(*each["band"], color="#888888", alpha=0.18, linewidth=0, zorder=0.5)
        free = min(height, free)
        place = {"xycoords": axis.get_yaxis_transform(), "textcoords": "offset points"}
        look = {"fontsize": 7, "color": "#555555", "va": "center"}
        axis.annotate(text, (1, free), (4, 0), **place, **look)
        free -= _APART * top
