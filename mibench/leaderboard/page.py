"""The page: one static HTML file from boards, records and pictures, readable without a network.

Its libraries are those that the packages plotly and itables ship. They are written beside the page,
into ``assets/``, and are no part of it: the page is the same whatever their versions.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mibench.errors import MibenchError
from mibench.files import write_atomic
from mibench.leaderboard.board import Board, Column, Table, Value
from mibench.leaderboard.checks import HEADLINE
from mibench.leaderboard.formats import decimals, heading, shown
from mibench.leaderboard.names import method_label, overrides
from mibench.leaderboard.page_plots import curve_numbers, plots
from mibench.leaderboard.records import parse

FACETS = ("protocol", "architecture", "attack", "defense", "access")
_COLUMNS = {"architecture": "target", "attack": "attack", "defense": "defense", "access": "access"}
_DASHES = {"", "—"}
_SHORT = 12  # a reason of so few letters stands in its cell, a longer one behind a dash


@dataclass(frozen=True)
class Source:
    """A record as the page speaks of it: links are relative to the page."""

    href: str
    label: str
    seed: int
    command: str
    facets: Mapping[str, str]
    version: int | None
    top1: float | None
    picture: str | None


def render_page(
    boards: Sequence[Board], records_folder: Path, galleries_folder: Path, out: Path
) -> None:
    """Write the page, and beside it the folder ``assets`` with the libraries that it uses.

    The page is a function of the boards, of the records below ``records_folder`` and of which
    pictures and tables there are: the same ones give the same bytes.

    Args:
        boards: what to show, in this order.
        records_folder: holds ``<protocol>/<cell>.json``.
        galleries_folder: holds ``<protocol>/<cell>.png`` for those cells that have a picture.
        out: the HTML file; links are relative to its folder. Tables that lie beside it as
            ``tables/<protocol>/<table>.csv`` and ``.tex`` are linked.

    Raises:
        MibenchError: a board names a record that is not in ``records_folder``, or a record there
            cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mibench.leaderboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sources: dict[str, Source] = {}
    for protocol in dict.fromkeys(board.protocol for board in boards):
        sources |= _sources(protocol, records_folder, galleries_folder, out.parent)
    attacks = sorted({each.facets["attack"] for each in sources.values()})
    views = [_board(board, sources, records_folder, out.parent) for board in boards]
    used = {file for view in views for file in view["files"]}
    page = environment.get_template("page.html").render(
        boards=views,
        attacks=attacks,
        heading=heading,
        options=_options(views),
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
    for name, text in _libraries().items():
        write_atomic(out.parent / "assets" / name, text.encode())
    write_atomic(out, page.encode())


def _libraries() -> dict[str, str]:
    """The script files that the page loads, from the installed packages."""
    import itables.options
    from plotly.offline import get_plotlyjs

    # A page opened as a file may not import a module from a file, but may from a `data:` address.
    bundle = base64.b64encode(Path(itables.options.dt_bundle).read_bytes()).decode()
    return {
        "plotly.min.js": get_plotlyjs(),
        "datatables.js": f'window.dataTables=import("data:text/javascript;base64,{bundle}");\n',
    }


def _sources(protocol: str, records: Path, galleries: Path, base: Path) -> dict[str, Source]:
    """The records of a protocol by their file, relative to the records folder."""
    found = {}
    for path in sorted((records / protocol).glob("*.json")):
        try:
            record = parse(path.read_bytes())
        except MibenchError as error:
            raise MibenchError(f"{path}: {error}") from error
        picture = galleries / protocol / f"{path.stem}.png"
        attack, defense = method_label(record.attack), method_label(record.defense)
        passed = ", ".join(f"{key}={value}" for key, value in overrides(record).items())
        headline = record.metrics.get(HEADLINE)
        found[f"{protocol}/{path.name}"] = Source(
            href=_link(path, base),
            label=f"{attack} · {defense} · {record.target.name}" + (f" ({passed})" * bool(passed)),
            seed=record.seed,
            command=record.command,
            facets={
                "protocol": protocol,
                "architecture": record.target.name,
                "attack": attack,
                "defense": defense,
                "access": record.access,
            },
            version=record.protocol.version,
            top1=headline.value if headline else None,
            picture=_link(picture, base) if picture.exists() else None,
        )
    return found


def _link(path: Path, base: Path) -> str:
    return quote(Path(os.path.relpath(path, base)).as_posix())


def _board(
    board: Board, sources: Mapping[str, Source], records: Path, base: Path
) -> dict[str, Any]:
    """What the template shows of a board."""
    files = {file for table in board.tables for row in table.files for file in row}
    files |= {file for curve in board.curves for point in curve.points for file in point.files}
    for file in sorted(files - sources.keys()):
        raise MibenchError(
            f"the board of {board.protocol} names the record {file}, which is not in {records}: "
            "build the boards from that folder"
        )
    pictures = [
        {
            "source": source,
            "title": f"{source.label} · seed {source.seed}",
            "note": "" if source.top1 is None else f"top-1 {100 * source.top1:.1f} %",
            "facets": {name: [value] for name, value in source.facets.items()},
        }
        for file, source in sources.items()
        if source.picture
        and source.facets["protocol"] == board.protocol
        and source.version == board.version
    ]
    percent = Column("reference", "reference", "percent")
    return {
        "id": f"{board.protocol}-v{board.version}",
        "board": board,
        "references": [(name, _shown(percent, value)) for name, value in board.references],
        "tables": [_table(board.protocol, table, sources, base) for table in board.tables],
        "attacks": _attacks(board, sources),
        "plots": plots(board),
        "numbers": [curve_numbers(curve) for curve in board.curves],
        "pictures": pictures,
        "files": files,
    }


def _attacks(board: Board, sources: Mapping[str, Source]) -> str:
    """The attacks that a new row needs: those that are columns of a table, else the headline."""
    known = {source.facets["attack"] for source in sources.values()}
    columns = [column.key for table in board.tables for column in table.columns]
    return ",".join(key for key in dict.fromkeys(columns) if key in known) or board.headline


def _table(
    protocol: str, table: Table, sources: Mapping[str, Source], base: Path
) -> dict[str, Any]:
    """What the template shows of a table: texts of cells, and what filters read of each row."""
    digits = {column.key: decimals(table, column) for column in table.columns}
    rows = []
    for index, row in enumerate(table.rows):
        files = table.files[index] if index < len(table.files) else ()
        cells = [_shown(each, row.get(each.key), digits[each.key]) for each in table.columns]
        rows.append(
            {
                "cells": cells,
                "files": files,
                "command": table.commands[index] if index < len(table.commands) else "",
                "facets": _facets(protocol, row, [sources[file] for file in files]),
                "reasons": [
                    f"{column.title}: {cell['reason']}"
                    for column, cell in zip(table.columns, cells, strict=True)
                    if cell["reason"]
                ],
            }
        )
    texts = [k for k, column in enumerate(table.columns) if column.kind == "text"]
    heads = [k for k in texts if table.columns[k].key in ("defense", "attack")] or texts
    place = base / "tables" / protocol
    downloads = [(place / f"{table.key}.csv", "CSV"), (place / f"{table.key}.tex", "LaTeX")]
    return {
        "table": table,
        "downloads": [(_link(path, base), name) for path, name in downloads if path.exists()],
        "rows": rows,
        "head": heads[0] if heads else 0,
        "sourced": any(row["files"] or row["command"] for row in rows),
    }


def _facets(
    protocol: str, row: Mapping[str, Value], sources: Iterable[Source]
) -> dict[str, list[str]]:
    """What filters know of a row: from its records, else from columns of these names."""
    found: dict[str, set[str]] = {"protocol": {protocol}}
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
    """A cell: its text, the spread beside it, the number it sorts by, and why it is missing."""
    cell: dict[str, Any] = {"text": "", "beside": "", "order": None, "reason": ""}
    if value is None or (value.number is None and value.text in _DASHES):
        return cell
    text = shown(column, value, digits)
    if column.kind == "text" or (value.number is None and len(text) <= _SHORT):
        return cell | {"text": text}
    if value.number is None:
        return cell | {"reason": text}
    text, _, beside = text.partition(" ")
    return cell | {"text": text, "beside": beside, "order": f"{value.number:.12g}"}
