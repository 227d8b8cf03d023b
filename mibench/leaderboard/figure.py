"""The privacy–utility figure of a board, as SVG for READMEs and papers."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

from mibench.leaderboard.board import Board, Curve
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
_WIDTH, _HEIGHT, _LEGEND = 4.8, 4.2, 1.6  # of a panel and the legend, in inches


def figure_data(board: Board) -> str:
    """Digest of all that the figure shows."""
    lines = [dataclasses.asdict(curve) for curve in board.curves]
    bounds = [(name, value.number) for name, value in board.references]
    return digest([board.protocol, board.version, lines, bounds, board.reference_target])


def privacy_utility_figure(board: Board) -> bytes:
    """Attack accuracy over natural accuracy, a line a defense, a panel an architecture.

    The same board gives the same bytes with the same matplotlib, whose version is in the metadata,
    as is :func:`figure_data`. Only for boards that have curves.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    targets = list(dict.fromkeys(curve.target for curve in board.curves))
    names = sorted({curve.defense for curve in board.curves} - {UNDEFENDED})
    styles = {UNDEFENDED: ("#444444", "o")}
    styles |= {name: _STYLES[i % len(_STYLES)] for i, name in enumerate(names)}
    with mpl.rc_context({"svg.hashsalt": "mibench", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(_WIDTH * len(targets) + _LEGEND, _HEIGHT), layout="constrained")
        FigureCanvasSVG(figure)
        panels = figure.subplots(1, len(targets), squeeze=False, sharey=True)[0]
        handles: dict[str, Any] = {}
        for axis, target in zip(panels, targets, strict=True):
            if target == board.reference_target:
                _references(axis, board)
            for curve in board.curves:
                if curve.target == target:
                    handles[curve.defense] = _curve(axis, curve, styles[curve.defense])
            axis.set_title(f"{board.protocol} v{board.version}, {target}", fontsize=10)
            axis.set_xlabel("natural accuracy %")
            axis.grid(color="#e4e4e4", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel(f"top-1 attack accuracy % ({board.headline})")
        panels[0].set_ylim(0, 103)
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
        metadata = {"Date": None, "Description": f"data {figure_data(board)}"}
        figure.savefig(buffer, format="svg", metadata=metadata)
    # No blanks before line ends, as in the repository's other texts.
    lines = buffer.getvalue().decode().splitlines()
    return ("\n".join(line.rstrip() for line in lines) + "\n").encode()


def _curve(axis: Any, curve: Curve, style: tuple[str, str]) -> Any:
    """Draw a line in the order of strengths; the default strength's point is filled and larger."""
    colour, marker = style
    natural = [100 * point.natural for point in curve.points]
    attack = [100 * point.attack for point in curve.points]
    dashes = "--" if curve.defense == UNDEFENDED else "-"
    (line,) = axis.plot(
        natural, attack, dashes, color=colour, marker=marker, markersize=5, markerfacecolor="white"
    )
    for point in curve.points:
        if point.control:
            axis.plot([100 * point.natural], [100 * point.attack], "x", color=colour, markersize=9)
        if point.default:
            axis.errorbar(
                [100 * point.natural],
                [100 * point.attack],
                xerr=None if point.natural_spread is None else [100 * point.natural_spread],
                yerr=None if point.attack_spread is None else [100 * point.attack_spread],
                fmt=marker,
                color=colour,
                markersize=8,
                capsize=2,
                elinewidth=1,
                zorder=3,
            )
    return line


def _references(axis: Any, board: Board) -> None:
    """Floors and ceiling as thin lines with their names."""
    for name, value in board.references:
        if value.number is None:
            continue
        axis.axhline(100 * value.number, color="#888888", linewidth=0.7, linestyle=":", zorder=1)
        axis.text(
            0.01,
            100 * value.number + 0.6,
            name,
            transform=axis.get_yaxis_transform(),
            fontsize=7,
            color="#666666",
        )
