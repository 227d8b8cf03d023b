"""The page: one static HTML file from boards and records, readable without a network.

It holds its own style sheet and script and loads nothing but pictures that lie beside it. A
browser that keeps to its policy runs that one script, whatever else may have got into the page.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

from mibench.errors import MibenchError
from mibench.leaderboard.board import (
    BITS,
    CLASSES,
    Board,
    Column,
    Curve,
    Measure,
    Method,
    Sentence,
    Table,
    Value,
    measure_of,
)
from mibench.leaderboard.formats import decimals, heading, of_a_page, shown
from mibench.leaderboard.html import environment, policy
from mibench.leaderboard.names import GALLERIES, command_of_record, method_label
from mibench.leaderboard.over_queries import query_plots, said_of_queries
from mibench.leaderboard.papers import Paper, Papers
from mibench.leaderboard.plots import SHORT, looks, plots, said
from mibench.leaderboard.records import Filed
from mibench.leaderboard.series import UNDEFENDED, settings_of
from mibench.record import CEILING, FLOOR_PRIOR, FLOOR_PUBLIC, LOOKALIKE

_OF = ("architecture", "attack", "defense", "access")  # of a record, whose protocol holds it
FACETS = ("protocol", *_OF)
_COLUMNS = {"architecture": "target", "attack": "attack", "defense": "defense", "access": "access"}
_DASHES = {"", "—"}
Parts = list[tuple[str, Paper | None]]  # of a text, of which some link to a paper
_SHAPES = ("square", "diamond", "up", "cross", "star", "down")
_REFERENCES = {
    FLOOR_PRIOR: "of the attacker's image prior: nothing known of the {one}",
    FLOOR_PUBLIC: "the public images that the classifier scores highest: no attack at all",
    LOOKALIKE: "the public image most like the {one}, found with the private images",
    CEILING: "private test images of the same {one}",
}
_SHORT = 12  # a reason of so few letters stands in its cell, a longer one behind a dash
# A heading of more letters stands in several lines, and leaves room for reasons below it.
_BROAD, _REASON = 24, 40


@dataclass(frozen=True)
class Source:
    """A record as the page speaks of it."""

    name: str  # of its file, which lies in its protocol's folder
    settings: str
    seed: int
    command: str
    facets: Mapping[str, str]
    version: int | None
    note: str
    picture: str | None  # relative to the page

    @property
    def label(self) -> str:
        facets = self.facets
        said = f"{facets['attack']} · {facets['defense']} · {facets['architecture']}"
        return said + f" ({self.settings})" * bool(self.settings)

    @property
    def told(self) -> dict[str, Any]:
        """What the page's script is told of it; a command as usual it makes itself."""
        facets = self.facets
        usual = f"mibench run --protocol {facets['protocol']} --attack {facets['attack']}"
        usual += f" --defense {facets['defense']} --seed {self.seed}"
        more = {"settings": self.settings, "picture": bool(self.picture)}
        if self.command != usual:
            more["command"] = self.command
        of = [facets[name] for name in _OF]
        return {"of": of, "seed": self.seed} | {key: each for key, each in more.items() if each}


def render_page(
    boards: Sequence[Board],
    filed: Sequence[Filed],
    pictures: Collection[str],
    files: Collection[str],
    papers: Papers | None = None,
) -> str:
    """The page's HTML. Equal arguments give equal pages.

    Args:
        boards: what to show, in this order.
        filed: the records behind them, which lie in ``records/`` beside the page.
        pictures: which of them have one, ``<protocol>/<cell>.png`` in ``galleries/``.
        files: tables and figures that lie beside the page, by their names: they are linked.
        papers: what names of methods link to.

    Raises:
        MibenchError: a board names a record that is not among ``filed``.
    """
    from markupsafe import Markup

    sources = {each.path: _source(each, pictures) for each in filed}
    known = papers or Papers()
    views = [_board(board, sources, files, known) for board in boards]
    # Of all boards the same, so that they stand once, behind all of them.
    published = next((table for view in views for table in view["published"]), None)
    records: dict[str, dict[str, Any]] = {}
    for view in views:
        for source in (*map(sources.__getitem__, view["files"]), *view["pictures"]):
            records.setdefault(source.facets["protocol"], {})[source.name] = source.told
    templates = environment()
    script = templates.get_template("page.js").render()
    return templates.get_template("page.html").render(
        boards=views,
        published=published,
        options=_options(views),
        policy=policy(script, "'self' file:"),
        script=Markup(script),
        data={
            "facets": _OF,
            "papers": known.titles(),
            "records": records,
            "plots": {
                **{view["id"]: view["plots"] for view in views},
                **{f"{v['id']}-queries": v["over_queries"] for v in views if v["over_queries"]},
            },
        },
    )


def _source(filed: Filed, pictures: Collection[str]) -> Source:
    record = filed.record
    attack, defense = method_label(record.attack), method_label(record.defense)
    measure = measure_of(record)
    told = record.metrics.get(measure.key)
    value = told.value if told else None
    note = "top-1 " * (measure is not BITS)
    note += f"{measure.scale * (value or 0):.{measure.digits}f} {measure.unit}"
    picture = f"{filed.path.removesuffix('.json')}.png"
    return Source(
        name=PurePosixPath(filed.path).stem,
        settings=settings_of(record),
        seed=record.seed,
        command=command_of_record(record),
        facets={
            "protocol": record.protocol.name,
            "architecture": record.target.name,
            "attack": attack,
            "defense": defense,
            "access": record.access,
        },
        version=record.protocol.version,
        note="" if value is None else note,
        picture=quote(f"{GALLERIES}/{picture}") if picture in pictures else None,
    )


def _board(
    board: Board, sources: Mapping[str, Source], there: Collection[str], papers: Papers
) -> dict[str, Any]:
    """What the template shows of a board."""
    files = {file for table in board.tables for row in table.files for file in row}
    files |= {file for curve in board.curves for point in curve.points for file in point.files}
    files |= {file for line in board.over_queries for each in line.points for file in each.files}
    for file in sorted(files - sources.keys()):
        raise MibenchError(
            f"the board of {board.protocol} names the record {file}, which is not among the "
            "records given"
        )
    pictures = [
        source
        for source in sources.values()
        if source.picture
        and source.facets["protocol"] == board.protocol
        and source.version == board.version
    ]
    tables = [_table(board, table, sources, there, papers) for table in board.tables]
    return {
        "id": f"{board.protocol}-v{board.version}",
        "board": board,
        "summary": [_sentence(each, papers) for each in board.summary],
        "references": _scale(board, papers),
        "tables": [each for each in tables if each["table"].key != "published"],
        "published": [each for each in tables if each["table"].key == "published"],
        "figure": figure if (figure := f"privacy-utility-{board.protocol}.svg") in there else None,
        "plots": _plots(board, papers),
        "numbers": [_numbers(curve, board.measure) for curve in board.curves],
        "queries_figure": figure if (figure := f"queries-{board.protocol}.svg") in there else None,
        "over_queries": _over_queries(board, papers),
        "queries_numbers": [
            {
                "title": f"{curve.attack} on {curve.target}",
                "rows": [said_of_queries(point, board.measure) for point in curve.points],
            }
            for curve in board.over_queries
        ],
        "last_defenses": sum(table.key.startswith("defenses") for table in board.tables),
        "pictures": pictures,
        "files": files,
    }


def _sentence(sentence: Sentence, papers: Papers) -> Parts:
    """A sentence in parts, of which those with a paper link to it."""
    parts: Parts = []
    for each in sentence:
        parts += papers.parts(each.kind, each.name) if isinstance(each, Method) else [(each, None)]
    return parts


def _scale(board: Board, papers: Papers) -> list[dict[str, Any]]:
    """Floors and ceiling from the lowest up, and the strongest attack among them."""
    column = Column("reference", "reference", board.measure.kind)
    one = "class" if board.measure is CLASSES else "person"
    found: list[tuple[Parts, Value, str, bool]] = [
        ([(SHORT.get(name, name), None)], value, _REFERENCES.get(name, "").format(one=one), False)
        for name, value in board.references
    ]
    if board.strongest is not None:
        name, value = board.strongest
        said = "the strongest attack here, on an undefended classifier"
        found.append((papers.parts("attack", name), value, said, True))
    return [
        {
            "name": parts,
            "cell": _shown(column, value, board.measure.digits),
            "said": said,
            "strongest": strongest,
        }
        for parts, value, said, strongest in sorted(found, key=lambda each: each[1].number or 0.0)
    ]


def _table(
    board: Board,
    table: Table,
    sources: Mapping[str, Source],
    there: Collection[str],
    papers: Papers,
) -> dict[str, Any]:
    """What the template shows of a table: texts of cells, and what filters read of each row."""
    digits = {column.key: decimals(table, column) for column in table.columns}
    kinds: dict[str, Literal["attack", "defense"]] = {"attack": "attack", "defense": "defense"}
    printed = table.key == "published"
    rows = []
    for index, row in enumerate(table.rows):
        files = table.files[index] if index < len(table.files) else ()
        cells = [_shown(each, row.get(each.key), digits[each.key]) for each in table.columns]
        for column, cell in zip(table.columns, cells, strict=True):
            kind = kinds.get(column.key)
            cell["told"] = len(column.title) > _BROAD and len(cell["reason"]) <= _REASON
            cell["parts"] = _parts(kind, cell["text"], papers, printed) if kind else None
        command = table.commands[index] if index < len(table.commands) else ""
        if files and command == sources[files[0]].command:
            command = ""  # which stands with the record
        rows.append(
            {
                "cells": cells,
                "files": [sources[file].name for file in files],
                "command": command,
                "facets": _facets(
                    "" if printed else board.protocol, row, [sources[file] for file in files]
                ),
            }
        )
    texts = [k for k, column in enumerate(table.columns) if column.kind == "text"]
    heads = [k for k in texts if table.columns[k].key in ("defense", "attack")] or texts
    head = heads[0] if heads else 0
    wanted, said = of_a_page(table)
    attacks = {source.facets["attack"] for source in sources.values()}
    place = f"tables/{board.protocol}/{table.key}"
    downloads = [(f"{place}.csv", "CSV"), (f"{place}.tex", "LaTeX")]
    return {
        "table": table,
        "columns": _columns(table, head, wanted, attacks, papers),
        "notes": [note for note in (*said, *table.notes) if note != board.rule],
        "downloads": [(quote(path), name) for path, name in downloads if path in there],
        "rows": rows,
        "head": head,
        "sourced": any(row["files"] or row["command"] for row in rows),
    }


def _columns(
    table: Table, head: int, wanted: Collection[Column], attacks: Collection[str], papers: Papers
) -> list[dict[str, Any]]:
    """What the template shows of a table's headings.

    Args:
        table: whose columns they are.
        head: place of the column that names a row.
        wanted: the columns that are shown at once.
        attacks: names of attacks, which may be columns.
        papers: what these link to.
    """
    # What leads up to the name of a row stays in sight with it, if it is but a rank.
    stuck = range(head + 1) if head == 1 and table.columns[0].key == "rank" else (head,)
    return [
        {
            "column": column,
            "attack": column.key in attacks,
            "parts": papers.parts("attack", column.key) if column.key in attacks else None,
            "words": heading(column).replace(" %", "\u00a0%").split(" "),
            "broad": len(column.title) > _BROAD,
            "detail": column not in wanted and place not in stuck,
            "stuck": stuck.index(place) + 1 if place in stuck else 0,
        }
        for place, column in enumerate(table.columns)
    ]


def _parts(kind: Literal["attack", "defense"], text: str, papers: Papers, printed: bool) -> Parts:
    """A method's name in parts with their papers; papers print names in capitals."""
    parts, at = [], 0
    for part, paper in papers.parts(kind, text.lower() if printed else text):
        parts.append((text[at : at + len(part)], paper))
        at += len(part)
    return parts


def _facets(
    protocol: str, row: Mapping[str, Value], sources: Iterable[Source]
) -> dict[str, list[str]]:
    """What filters know of a row: from its records, else from columns of these names."""
    found: dict[str, set[str]] = {"protocol": {protocol}} if protocol else {}
    for source in sources:
        for name, value in source.facets.items():
            found.setdefault(name, set()).add(value)
    for name, key in _COLUMNS.items():
        if name not in found and key in row:
            found[name] = {row[key].text.lower().replace(" ", "")}
    return {name: sorted(values) for name, values in found.items()}


def _options(views: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The choices of each filter: what records say; a filter with one choice is left out."""
    found: dict[str, set[str]] = {name: set() for name in FACETS}
    for view in views:
        found["protocol"].add(view["board"].protocol)
        for row in (row for table in view["tables"] for row in table["rows"] if row["files"]):
            for name, values in row["facets"].items():
                found[name] |= set(values)
        for source in view["pictures"]:
            for name, value in source.facets.items():
                found[name].add(value)
    return {name: sorted(values) for name, values in found.items() if len(values) > 1}


def _shown(column: Column, value: Value | None, digits: int = 1) -> dict[str, Any]:
    """A cell: its text, what stands beside it, whether it is a number, and why one is missing.

    Below a number stands its note, behind a text it is a hint.
    """
    cell: dict[str, Any] = {"text": "", "beside": "", "measured": False}
    cell |= {"reason": "", "note": "", "hint": ""}
    if value is None or (value.number is None and value.text in _DASHES):
        return cell
    text = shown(column, value, digits)
    if column.kind == "text" or (value.number is None and len(text) <= _SHORT):
        return cell | {"text": text, "hint": value.note}
    if value.number is None:
        return cell | {"reason": text}
    text, _, beside = text.partition(" ")
    return cell | {"text": text, "beside": beside, "measured": True, "note": value.note}


def _plots(board: Board, papers: Papers) -> list[dict[str, Any]]:
    """Plots over accuracy as the page's script draws them, a line a defense."""
    styles = _styles(curve.defense for curve in board.curves)
    found = []
    for plot in plots(board):
        facets = {"architecture": [plot["target"]], "attack": [plot["attack"]]}
        shown = {"title": f"{plot['attack']} on {plot['target']}", "facets": facets}
        shown |= {"across": "natural accuracy, %", "better": "right is better"}
        upright = f"{board.measure.title} of {plot['attack']}"
        found.append(_plot(plot, board, upright, shown, "defense", styles, papers.defenses))
    return found


def _over_queries(board: Board, papers: Papers) -> list[dict[str, Any]]:
    """Plots over queries as the page's script draws them, a line an attack."""
    styles = _styles(curve.attack for curve in board.over_queries)
    found = []
    for plot in query_plots(board):
        shown = {"title": f"on {plot['target']}", "facets": {"architecture": [plot["target"]]}}
        shown |= {"across": "queries an identity", "better": "on a logarithmic scale"}
        upright = board.measure.title
        found.append(_plot(plot, board, upright, shown, "attack", styles, papers.attacks))
    return found


def _styles(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour, a variable of the page's light and dark style, and marker of each curve's name."""
    styles = {
        name: {"colour": f"var(--series-{colour})", "shape": _SHAPES[marker]}
        for name, (colour, marker) in looks(names).items()
    }
    return styles | {UNDEFENDED: {"colour": "var(--plain)", "shape": "circle"}}


def _plot(
    plot: Mapping[str, Any],
    board: Board,
    upright: str,
    shown: dict[str, Any],
    facet: Literal["attack", "defense"],
    styles: Mapping[str, Mapping[str, str]],
    papers: Mapping[str, Paper],
) -> dict[str, Any]:
    """A plot as the page's script draws it.

    Args:
        plot: of :func:`~mibench.leaderboard.plots.plots` or ``query_plots``.
        board: whose it is.
        upright: what the vertical axis shows, without its unit.
        shown: its title and facets, and what the horizontal axis shows.
        facet: what the names of its curves are of.
        styles: colour and marker of each name.
        papers: what names link to.
    """
    references = [
        {
            "y": min(each["y"], plot["y"].high),
            "band": None if each["beyond"] else each["band"],
            "name": each["name"],
            "label": f"{each['name']} {each['value']:.1f}",
            "beyond": each["beyond"],
        }
        for each in plot["references"]
    ]
    curves = [
        {
            "name": curve["name"],
            **styles[curve["name"]],
            "dashed": curve["name"] == UNDEFENDED,
            "facets": {facet: [curve["name"]]},
            "paper": paper.url if (paper := papers.get(curve["name"])) else None,
            "points": [
                {key: each for key, each in point.items() if key != "value"}
                | {"files": [PurePosixPath(file).stem for file in point["files"]]}
                for point in curve["points"]
            ],
        }
        for curve in plot["curves"]
    ]
    unit = "" if board.measure is BITS else f", {board.measure.unit}"
    axes = {
        key: {"low": axis.low, "high": axis.high, "ticks": axis.ticks, "apart": axis.apart()}
        for key, axis in ((key, plot[key]) for key in ("x", "y"))
    }
    told = {**shown, "upright": upright + unit, **axes}
    return _rounded({**told, "references": references, "curves": curves})


def _rounded(value: Any) -> Any:
    """The page must not hold the last digits, which depend on a machine's rounding."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return round(value, 5) if isinstance(value, float) else value


def _numbers(curve: Curve, measure: Measure) -> dict[str, Any]:
    """The numbers of a curve, for readers who cannot see the plot."""
    points = sorted(curve.points, key=lambda point: point.strength)
    return {
        "title": f"{curve.defense} under {curve.attack} on {curve.target}",
        "rows": [said(curve, point, measure) for point in points],
    }
