"""Bring the tables of README.md and docs/ up to date with the records, or check that they are.

    python tools/readme_tables.py [--check]

A table follows a comment that holds the options of `mibench leaderboard export`:
`<!-- table: --table improvement -->`, say. It ends at `<!-- end -->`, and between them is what that
command writes, without the notes below its table.
"""

from __future__ import annotations

import argparse
import functools
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import click

from mibench.cli.known import defense_facts
from mibench.cli.leaderboard import board_cards, conditions_of, export, table_of
from mibench.errors import RequestError
from mibench.files import write_atomic
from mibench.leaderboard.board import Board
from mibench.leaderboard.build import boards
from mibench.leaderboard.formats import markdown

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"(<!-- table: (?P<options>.*?) -->\n)(?P<table>.*?)(<!-- end -->)", re.DOTALL)


@functools.cache
def all_boards() -> Mapping[str, Board]:
    """The boards by protocol: they are made once for all tables, which takes a while.

    Raises:
        SystemExit: there are records that cannot be taken.
    """
    made = boards(ROOT / "leaderboards", board_cards(), defense_facts())
    if made.problems:
        raise SystemExit("\n".join(made.problems))
    return {board.protocol: board for board in made.boards}


def exported(options: str) -> str:
    """The rows that `mibench leaderboard export` writes in Markdown.

    Raises:
        SystemExit: the options in the document are wrong.
    """
    try:
        given = export.make_context("export", shlex.split(options)).params
        table = table_of(
            all_boards()[given["protocol"]],
            given["table"],
            conditions_of(given["conditions"]),
            given["columns"],
        )
    except (click.ClickException, RequestError, KeyError) as error:
        raise SystemExit(f"export {options}: {error}") from error
    return "".join(line for line in markdown(table).splitlines(True) if line.startswith("|"))


def with_tables(text: str) -> str:
    """A document's text with every table made anew."""
    return TABLE.sub(lambda found: found[1] + exported(found["options"]) + found[4], text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    check = parser.parse_args().check
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text()
        anew = with_tables(text)
        if anew != text and check:
            raise SystemExit(
                f"{path.name}'s tables are not what the records say: run this without --check"
            )
        if anew != text:
            write_atomic(path, anew.encode())


if __name__ == "__main__":
    main()
