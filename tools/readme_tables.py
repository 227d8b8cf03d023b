"""Bring the tables of README.md and docs/ up to date with the records, or check that they are.

    python tools/readme_tables.py [--check]

A table follows a comment that holds the options of `mibench leaderboard export`:
`<!-- table: --table improvement -->`, say. It ends at `<!-- end -->`, and between them is what that
command writes, without the notes below its table.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from mibench.cli.leaderboard import leaderboard_commands
from mibench.files import write_atomic

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"(<!-- table: (?P<options>.*?) -->\n)(?P<table>.*?)(<!-- end -->)", re.DOTALL)


def exported(options: str) -> str:
    """The rows that `mibench leaderboard export` writes in Markdown.

    Raises:
        SystemExit: the options in the document are wrong.
    """
    folder = str(ROOT / "leaderboards")
    command = ["export", *shlex.split(options), "--folder", folder]
    result = CliRunner().invoke(leaderboard_commands, command)
    if result.exit_code:
        raise SystemExit(f"export {options}: {result.output or result.exception}")
    return "".join(line for line in result.output.splitlines(True) if line.startswith("|"))


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
