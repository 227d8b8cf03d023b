"""From records to everything that is generated: README, tables, figures, page and schema.

The result is a function of the folder's records and pictures, and of what the cards of protocols
say of their boards and those of methods of their papers and their adaptive attacks: it holds no
date and nothing of the machine, so that building twice gives the same bytes. What anyone may have
put into the folder cannot stop a build: what is wrong is left out and named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mibench.errors import RequestError
from mibench.files import read_plain
from mibench.leaderboard.assembly import build_board
from mibench.leaderboard.board import Board, Column, DefenseFacts, Method, Sentence, Table, Value
from mibench.leaderboard.figure import privacy_utility_figure, queries_figure
from mibench.leaderboard.folder import (
    BUILT,
    LeftOut,
    manifest,
    plain_files,
    refuse_link,
    unlisted,
    write_all,
)
from mibench.leaderboard.formats import csv_text, latex, markdown, markdown_text
from mibench.leaderboard.galleries import fault
from mibench.leaderboard.names import GALLERIES, RECORDS
from mibench.leaderboard.papers import IMPROVEMENTS, VIEWED, Paper, Papers
from mibench.leaderboard.records import Filed, schema, survey
from mibench.leaderboard.tables.defenses import KEYS
from mibench.record import BoardCard

# Of whoever builds without the registries: names are plain text, and cards unknown.
_NONE = Papers()
_NO_CARDS: Mapping[str, DefenseFacts] = {}
_VARIANTS = {IMPROVEMENTS: "LOM and MA", VIEWED: "TAA and PAA"}  # of attacks, by their paper
PAGE, README, SCHEMA, TABLES = "index.html", "README.md", "record.schema.json", "tables"

_FIGURE, _OVER_QUERIES = "privacy-utility-{}.svg", "queries-{}.svg"
_MATPLOTLIB = re.compile(rb"<dc:title>(Matplotlib [^<]*)</dc:title>")
_DATA = re.compile(rb"<dc:description>(data [0-9a-f]{64})</dc:description>")


@dataclass(frozen=True)
class Made:
    """What a folder's records give.

    Attributes:
        boards: one a protocol; those that say most of a person come first (:attr:`Board.order`).
        filed: the records behind them.
        problems: files that were left out, each with its reason.
    """

    boards: tuple[Board, ...]
    filed: tuple[Filed, ...]
    problems: tuple[str, ...]


def boards(
    folder: Path,
    cards: Mapping[str, BoardCard],
    facts: Mapping[str, DefenseFacts] = _NO_CARDS,
) -> Made:
    """The boards of all protocols that have records.

    Args:
        folder: the leaderboards folder.
        cards: what the board of each protocol shows, by its name.
        facts: what the cards of defenses say of their adaptive attacks, by their names.

    Raises:
        RequestError: there is no record that a board can take; the message names the others.
    """
    filed, problems = survey(folder)
    if not filed and not problems:
        raise RequestError(
            f"there is no record in {folder / RECORDS}; --folder names a leaderboards folder, and "
            "`mibench leaderboard add` files records"
        )
    unknown = sorted(filed.keys() - cards.keys())
    problems += [
        LeftOut(f"{name}/", "this mibench has no protocol of that name") for name in unknown
    ]
    known = {name: filed[name] for name in sorted(filed.keys() & cards.keys())}
    made = [build_board(name, own, cards[name], facts) for name, own in known.items()]
    if not made:
        listed = "\n  ".join(map(str, problems))
        raise RequestError(f"no record in {folder / RECORDS} can be taken:\n  {listed}")
    taken = [each for own in known.values() for each in own]
    made.sort(key=lambda board: board.order)
    return Made(tuple(made), tuple(taken), tuple(map(str, problems)))


def build(
    folder: Path,
    cards: Mapping[str, BoardCard],
    papers: Papers = _NONE,
    facts: Mapping[str, DefenseFacts] = _NO_CARDS,
) -> tuple[list[Path], list[str], list[str]]:
    """Write all that is made from a leaderboards folder's records, into the same folder.

    Args:
        folder, cards, facts: as of :func:`boards`.
        papers: what names of methods link to.

    Returns:
        The files that were written; records and pictures that were left out, each with its reason;
        and tables and figures in the folder that are left alone, as no build is known to have made
        them.

    Raises:
        RequestError: as :func:`boards`, or a link is in the way; nothing was written
            then.
    """
    files, problems = _files(folder, cards, papers, facts)
    write_all(folder, files)
    return [folder / name for name in (*files, BUILT)], problems, unlisted(folder, files)


def stale(
    folder: Path,
    cards: Mapping[str, BoardCard],
    papers: Papers = _NONE,
    facts: Mapping[str, DefenseFacts] = _NO_CARDS,
) -> tuple[list[str], list[str]]:
    """What a build would change, by the names of files, and the problems that it would name.

    A figure that another version of matplotlib drew is compared by the data that it shows.

    Raises:
        RequestError: as :func:`build`.
    """
    files, problems = _files(folder, cards, papers, facts)
    there = {name: _there(folder, name) for name in (*files, BUILT)}
    wrong = [name for name, data in files.items() if not _same(name, there[name], data)]
    # Another matplotlib's figures have other checksums there.
    exact = all(there[name] == data for name, data in files.items())
    if exact and there[BUILT] != manifest(files):
        wrong.append(BUILT)
    return sorted([*wrong, *unlisted(folder, files)]), problems


def _there(folder: Path, name: str) -> bytes | None:
    refuse_link(folder, name)
    return read_plain(folder / name, "the built file") if (folder / name).is_file() else None


def _same(name: str, there: bytes | None, built: bytes) -> bool:
    if there is None or there == built or not name.endswith(".svg"):
        return there == built
    if _MATPLOTLIB.findall(there) == _MATPLOTLIB.findall(built):
        return False
    return bool(_DATA.findall(there)) and _DATA.findall(there) == _DATA.findall(built)


def _files(
    folder: Path,
    cards: Mapping[str, BoardCard],
    papers: Papers,
    facts: Mapping[str, DefenseFacts],
) -> tuple[dict[str, bytes], list[str]]:
    """All generated files by their names, and what was left out of them."""
    from mibench.leaderboard.page import render_page

    made = boards(folder, cards, facts)
    pictures, unshown = _pictures(folder, made.filed)
    files = _texts(made.boards, papers)
    files[PAGE] = render_page(made.boards, made.filed, pictures, files, papers).encode()
    return files, [*made.problems, *unshown]


def _pictures(folder: Path, filed: Sequence[Filed]) -> tuple[set[str], list[str]]:
    """Pictures of filed records that can be shown, relative to galleries/, and the others."""
    there, problems = plain_files(folder, GALLERIES, ".png")
    shown = set()
    records = {each.path.removesuffix(".json"): each.record for each in filed}
    for name in there:
        record = records.get(name.removesuffix(".png"))
        if record is None:
            continue
        reason = fault(folder / GALLERIES / name)
        if record.people:
            reason = "reconstructions of people are not published: remove it"
        if reason:
            problems.append(LeftOut(f"{GALLERIES}/{name}", reason))
        else:
            shown.add(name)
    return shown, list(map(str, problems))


def _texts(made: Sequence[Board], papers: Papers) -> dict[str, bytes]:
    """All generated files but the page, by their names."""
    files = {README: _readme(made, papers).encode(), SCHEMA: schema().encode()}
    for board in made:
        for table in board.tables:
            place = f"{TABLES}/{board.protocol}/{table.key}"
            files[f"{place}.csv"] = csv_text(table).encode()
            files[f"{place}.tex"] = latex(table).encode()
        if board.curves:
            files[_FIGURE.format(board.protocol)] = privacy_utility_figure(board)
        if board.over_queries:
            files[_OVER_QUERIES.format(board.protocol)] = queries_figure(board)
    return files


def _readme(made: Sequence[Board], papers: Papers) -> str:
    parts = [
        "# Leaderboards",
        f"Made by `mibench leaderboard build` from the files in [{RECORDS}/]({RECORDS}); not to be "
        f"edited. The same to sort, filter and look at: [{PAGE}]({PAGE}). The same as CSV and "
        f"LaTeX: [{TABLES}/]({TABLES}). A record's schema: [{SCHEMA}]({SCHEMA}).",
        "A record joins with `mibench leaderboard add RECORD`; `mibench leaderboard verify RECORD` "
        "checks one against its reconstructions, or by running its cell anew.",
    ]
    for board in made:
        parts += _section(board, papers)
    published = {table.key: table for board in made for table in board.tables}.get("published")
    if published is not None:
        parts += [f"## {published.title}", *_folded(published)]
    return "\n\n".join(parts) + "\n"


def _section(board: Board, papers: Papers) -> list[str]:
    tables = {table.key: table for table in board.tables}
    parts = [
        f"## {board.protocol}, version {board.version}",
        f"{markdown_text(board.title)}.",
        " ".join(_markdown(sentence, papers) for sentence in board.summary),
        *_sources(tables["cells"], papers),
    ]
    for key in (*KEYS.values(), "improvement"):
        if key in tables:
            parts += [f"### {tables[key].title}", *filter(None, [tables[key].about])]
            parts += [markdown(tables[key]).rstrip()]
    if board.references:
        measure = board.measure
        column = Column("bound", measure.title, measure.kind)
        rows = tuple({"name": Value(text=name), "bound": value} for name, value in board.references)
        table = Table(
            "references",
            "Floors and ceiling",
            (Column("name", "images"), column),
            rows,
            (
                f"{measure.title.capitalize()} that no attack has to earn, and what none can beat, "
                f"for undefended {board.reference_target} targets.",
            ),
        )
        parts += [f"### {table.title}", markdown(table).rstrip()]
    if board.curves:
        name = _FIGURE.format(board.protocol)
        parts += ["### Privacy and utility", f"![Attack over natural accuracy]({name})"]
    if board.over_queries:
        name = _OVER_QUERIES.format(board.protocol)
        parts += ["### What queries bring", f"![Attack over queries of the target]({name})"]
    return [*parts, *_folded(tables["cells"])]


def _markdown(sentence: Sentence, papers: Papers) -> str:
    return "".join(
        _linked(each, papers) if isinstance(each, Method) else markdown_text(each)
        for each in sentence
    )


def _linked(method: Method, papers: Papers) -> str:
    """A method's name, of which the parts that are from a paper link to it."""
    return "".join(
        markdown_text(text) if paper is None else f"[{markdown_text(text)}]({paper.url})"
        for text, paper in papers.parts(method.kind, method.name)
    )


def _sources(cells: Table, papers: Papers) -> list[str]:
    """One line of all methods of a board that have a paper: links in tables would make these wide.

    What attacks' variants have in common is said once.
    """
    found: dict[Paper, str] = {}
    kinds: tuple[Literal["attack", "defense"], ...] = ("attack", "defense")
    for kind in kinds:
        for name in sorted({row[kind].text for row in cells.rows}):
            for text, paper in papers.parts(kind, name):
                if paper is not None:
                    found.setdefault(paper, _VARIANTS.get(paper, text))
    links = [f"[{text}]({paper.url})" for paper, text in found.items()]
    return [f"Papers: {', '.join(links)}."] if links else []


def _folded(table: Table) -> list[str]:
    """A long table that opens on a click."""
    summary = f"<summary>{table.title}: {len(table.rows)} rows</summary>"
    return [f"<details>\n{summary}", markdown(table).rstrip(), "</details>"]
