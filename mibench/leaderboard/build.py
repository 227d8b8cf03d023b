"""From records to everything that is generated: README, tables, figures, page and schema.

The result is a function of the folder's records, pictures and ``boards.toml``: it holds no date and
nothing of the machine, so that building twice gives the same bytes.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mibench.errors import RequestError
from mibench.files import write_atomic
from mibench.leaderboard.board import Board, Column, Table, Value
from mibench.leaderboard.figure import privacy_utility_figure
from mibench.leaderboard.formats import csv_text, latex, markdown
from mibench.leaderboard.records import GALLERIES, RECORDS, load, schema
from mibench.leaderboard.settings import FILE, read_settings
from mibench.leaderboard.tables import build_board
from mibench.leaderboard.verifications import VERIFICATIONS

PAGE, README, SCHEMA, TABLES = "index.html", "README.md", "record.schema.json", "tables"

_FIGURE = "privacy-utility-{}.svg"
_MATPLOTLIB = re.compile(rb"<dc:title>(Matplotlib [^<]*)</dc:title>")
_DATA = re.compile(rb"<dc:description>(data [0-9a-f]{64})</dc:description>")


def boards(folder: Path) -> list[Board]:
    """The boards of all protocols that have records, in the order of their names.

    Raises:
        MibenchError: a record is damaged, or ``boards.toml`` lacks a protocol.
        RequestError: there is no record.
    """
    filed = load(folder)
    if not filed:
        raise RequestError(
            f"there is no record in {folder / RECORDS}; --folder names a leaderboards folder, and "
            "`mibench leaderboard add` files records"
        )
    settings = read_settings(folder)
    return [build_board(protocol, filed[protocol], settings) for protocol in sorted(filed)]


def build(folder: Path) -> list[Path]:
    """Write all that is made from a leaderboards folder's records, into the same folder.

    Returns:
        The files that were written, without the page's libraries below ``assets/``.

    Raises:
        MibenchError: as :func:`boards`; nothing was written then.
    """
    from mibench.leaderboard.page import render_page

    made = boards(folder)
    files = _texts(made)
    for stale in _left_over(folder, files):
        (folder / stale).unlink()
    for name, data in files.items():
        write_atomic(folder / name, data)
    render_page(made, folder / RECORDS, folder / GALLERIES, folder / PAGE)
    return [folder / name for name in (*files, PAGE)]


def stale(folder: Path) -> list[str]:
    """Generated files that are absent, left over, or not what the records say, by their names.

    A figure that another version of matplotlib drew is compared by the data that it shows.

    Raises:
        MibenchError: as :func:`boards`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "leaderboards"
        copy.mkdir()
        for name in (RECORDS, GALLERIES, VERIFICATIONS):
            if (folder / name).is_dir():
                shutil.copytree(folder / name, copy / name)
        if (folder / FILE).exists():
            shutil.copy(folder / FILE, copy / FILE)
        built = {path.relative_to(copy).as_posix(): path.read_bytes() for path in build(copy)}
    wrong = [name for name, data in built.items() if not _same(folder / name, data)]
    return sorted([*wrong, *_left_over(folder, built)])


def _same(path: Path, built: bytes) -> bool:
    if not path.is_file():
        return False
    there = path.read_bytes()
    if there == built or path.suffix != ".svg":
        return there == built
    if _MATPLOTLIB.findall(there) == _MATPLOTLIB.findall(built):
        return False
    return bool(_DATA.findall(there)) and _DATA.findall(there) == _DATA.findall(built)


def _left_over(folder: Path, files: Sequence[str] | dict[str, bytes]) -> list[str]:
    """Tables and figures of protocols that have no records any more."""
    there = [*(folder / TABLES).glob("*/*.*"), *folder.glob(_FIGURE.format("*"))]
    names = (path.relative_to(folder).as_posix() for path in there)
    return sorted(name for name in names if name not in files)


def _texts(made: Sequence[Board]) -> dict[str, bytes]:
    """All generated files but the page, by their names."""
    files = {README: _readme(made).encode(), SCHEMA: schema().encode()}
    for board in made:
        for table in board.tables:
            place = f"{TABLES}/{board.protocol}/{table.key}"
            files[f"{place}.csv"] = csv_text(table).encode()
            files[f"{place}.tex"] = latex(table).encode()
        if board.curves:
            files[_FIGURE.format(board.protocol)] = privacy_utility_figure(board)
    return files


def _readme(made: Sequence[Board]) -> str:
    parts = [
        "# Leaderboards",
        f"Made by `mibench leaderboard build` from the files in [{RECORDS}/]({RECORDS}); not to be "
        f"edited. The same to sort, filter and look at: [{PAGE}]({PAGE}). The same as CSV and "
        f"LaTeX: [{TABLES}/]({TABLES}). A record's schema: [{SCHEMA}]({SCHEMA}).",
        "A record joins with `mibench leaderboard add RECORD`; `mibench leaderboard verify RECORD` "
        "checks one against its reconstructions, or by running its cell anew.",
    ]
    for board in made:
        parts += _section(board)
    published = {table.key: table for board in made for table in board.tables}.get("published")
    if published is not None:
        parts += [f"## {published.title}", *_folded(published)]
    return "\n\n".join(parts) + "\n"


def _section(board: Board) -> list[str]:
    tables = {table.key: table for table in board.tables}
    parts = [f"## {board.protocol}, version {board.version}", f"{board.title}."]
    for key in ("defenses", "improvement"):
        parts += [f"### {tables[key].title}", markdown(tables[key]).rstrip()]
    if board.references:
        percent = Column("top1", "top-1", "percent")
        rows = tuple({"name": Value(text=name), "top1": value} for name, value in board.references)
        table = Table(
            "references",
            "Floors and ceiling",
            (Column("name", "images"), percent),
            rows,
            (
                f"Top-1 accuracies that no attack has to earn, and what none can beat, for "
                f"undefended {board.reference_target} targets.",
            ),
        )
        parts += [f"### {table.title}", markdown(table).rstrip()]
    if board.curves:
        name = _FIGURE.format(board.protocol)
        parts += ["### Privacy and utility", f"![Attack over natural accuracy]({name})"]
    return [*parts, *_folded(tables["cells"])]


def _folded(table: Table) -> list[str]:
    """A long table that opens on a click."""
    summary = f"<summary>{table.title}: {len(table.rows)} rows</summary>"
    return [f"<details>\n{summary}", markdown(table).rstrip(), "</details>"]
