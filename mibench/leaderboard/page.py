"""The page: one static HTML file from boards and records, readable without a network.

It holds its own style sheet and script and loads nothing but pictures that lie beside it. A
browser that keeps to its policy runs that one script, whatever else may have got into the page.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
)
from mibench.leaderboard.formats import decimals, heading, of_a_page, shown
from mibench.leaderboard.names import GALLERIES, RECORDS, command_of_record, method_label
from mibench.leaderboard.papers import Paper, Papers
from mibench.leaderboard.plots import SHORT, plots, said
from mibench.leaderboard.records import Filed
from mibench.leaderboard.series import UNDEFENDED, measure_of, settings_of
from mibench.record import CEILING, FLOOR_PRIOR, FLOOR_PUBLIC, LOOKALIKE

FACETS = ("protocol", "architecture", "attack", "defense", "access")
_COLUMNS = {"architecture": "target", "attack": "attack", "defense": "defense", "access": "access"}
_DASHES = {"", "—"}
Parts = list[tuple[str, Paper | None]]  # of a text, of which some link to a paper
# As many colours as the style sheet names, for light and for dark.
_COLOURS = 6
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
    """A record as the page speaks of it: links are relative to the page."""

    href: str
    label: str
    seed: int
    command: str
    facets: Mapping[str, str]
    version: int | None
    note: str
    picture: str | None


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
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("mibench.leaderboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sources = {each.path: _source(each, pictures) for each in filed}
    known = papers or Papers()
    views = [_board(board, sources, files, known) for board in boards]
    # Of all boards the same, so that they stand once, behind all of them.
    published = next((table for view in views for table in view["published"]), None)
    used = {file for view in views for file in view["files"]}
    script = environment.get_template("page.js").render()
    return environment.get_template("page.html").render(
        boards=views,
        published=published,
        options=_options(views),
        policy=_policy(script),
        script=Markup(script),
        data={
            "records": {
                file: {"href": each.href, "label": each.label, "seed": each.seed}
                | {"command": each.command, "picture": each.picture}
                for file, each in sources.items()
                if file in used
            },
            "plots": {view["id"]: view["plots"] for view in views},
        },
    )


def _policy(script: str) -> str:
    """The content security policy: the page's own script by its hash, pictures, and no network."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src 'self' file:; base-uri 'none'; form-action 'none'"
    )


def _source(filed: Filed, pictures: Collection[str]) -> Source:
    record = filed.record
    attack, defense = method_label(record.attack), method_label(record.defense)
    passed = settings_of(record)
    measure = measure_of(record)
    told = record.metrics.get(measure.key)
    value = told.value if told else None
    note = "top-1 " * (measure is not BITS)
    note += f"{measure.scale * (value or 0):.{measure.digits}f} {measure.unit}"
    picture = f"{filed.path.removesuffix('.json')}.png"
    return Source(
        href=quote(f"{RECORDS}/{filed.path}"),
        label=f"{attack} · {defense} · {record.target.name}" + (f" ({passed})" * bool(passed)),
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
    for file in sorted(files - sources.keys()):
        raise MibenchError(
            f"the board of {board.protocol} names the record {file}, which is not among the "
            "records given"
        )
    pictures = [
        {
            "source": source,
            "title": f"{source.label} · seed {source.seed}",
            "note": source.note,
            "facets": {name: [value] for name, value in source.facets.items()},
        }
        for file, source in sources.items()
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
        "attacks": _attacks(board, sources),
        "plots": _plots(board, papers),
        "numbers": [_numbers(curve, board.measure) for curve in board.curves],
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


def _attacks(board: Board, sources: Mapping[str, Source]) -> str:
    """The attacks that a new row needs: those that are columns of a table, else the headline."""
    known = {source.facets["attack"] for source in sources.values()}
    columns = [column.key for table in board.tables for column in table.columns]
    return ",".join(key for key in dict.fromkeys(columns) if key in known) or board.headline


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
        rows.append(
            {
                "cells": cells,
                "files": files,
                "command": table.commands[index] if index < len(table.commands) else "",
                "facets": _facets(
                    "" if printed else board.protocol, row, [sources[file] for file in files]
                ),
                "reasons": [
                    f"{column.title}: {cell['reason']}"
                    for column, cell in zip(table.columns, cells, strict=True)
                    if cell["reason"]
                ],
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
        rows = [row for table in view["tables"] for row in table["rows"] if row["files"]]
        for each in [*rows, *view["pictures"]]:
            for name, values in each["facets"].items():
                found[name] |= set(values)
    return {name: sorted(values) for name, values in found.items() if len(values) > 1}


def _shown(column: Column, value: Value | None, digits: int = 1) -> dict[str, Any]:
    """A cell: its text, what stands beside it, the number it sorts by, and why it is missing.

    Below a number stands its note, behind a text it is a hint.
    """
    cell: dict[str, Any] = {"text": "", "beside": "", "order": None}
    cell |= {"reason": "", "note": "", "hint": ""}
    if value is None or (value.number is None and value.text in _DASHES):
        return cell
    text = shown(column, value, digits)
    if column.kind == "text" or (value.number is None and len(text) <= _SHORT):
        return cell | {"text": text, "hint": value.note}
    if value.number is None:
        return cell | {"reason": text}
    text, _, beside = text.partition(" ")
    order = f"{value.number:.12g}"
    return cell | {"text": text, "beside": beside, "order": order, "note": value.note}


def _plots(board: Board, papers: Papers) -> list[dict[str, Any]]:
    """Plots as the page's script draws them; colours are variables of its light and dark style."""
    defenses = sorted({curve.defense for curve in board.curves} - {UNDEFENDED})
    styles = {
        name: {"colour": f"var(--series-{i % _COLOURS})", "shape": _SHAPES[i % len(_SHAPES)]}
        for i, name in enumerate(defenses)
    }
    styles[UNDEFENDED] = {"colour": "var(--plain)", "shape": "circle"}
    found = []
    for plot in plots(board):
        facets = {"architecture": [plot["target"]], "attack": [plot["attack"]]}
        references = [
            {
                "y": min(each["y"], plot["y"].high),
                "band": None if each["beyond"] else each["band"],
                "name": each["name"],
                "label": f"{each['name']} {each['y']:.1f}",
                "beyond": each["beyond"],
            }
            for each in plot["references"]
        ]
        curves = [
            {
                "name": curve["name"],
                **styles[curve["name"]],
                "dashed": curve["name"] == UNDEFENDED,
                "paper": paper.url if (paper := papers.defenses.get(curve["name"])) else None,
                "points": curve["points"],
            }
            for curve in plot["curves"]
        ]
        shown = {"title": f"{plot['attack']} on {plot['target']}", "facets": facets}
        unit = "" if board.measure is BITS else f", {board.measure.unit}"
        shown["upright"] = f"{board.measure.title} of {plot['attack']}{unit}"
        shown |= {"x": dataclasses.asdict(plot["x"]), "y": dataclasses.asdict(plot["y"])}
        found.append(_rounded({**shown, "references": references, "curves": curves}))
    return found


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
