"""A record as tables for a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mibench.cli.show.tables import pairs, right, table
from mibench.record import Record
from mibench.reports import words

_FILES = {
    "report.html": "all of it as a page: open it in a browser",
    "record.json": "numbers, configuration, hashes",
    "reconstructions*.safetensors": "all reconstructions",
    "reconstructions.png": "a picture of them, for looking",
}


def show_record(record: Record, console: Console, folder: Path, store: Path) -> None:
    """Print metrics, utility, costs and where everything is.

    Args:
        folder: the run folder.
        store: the folder of cached stages.
    """
    console.print(Text(words.headline(record), style="bold"))
    if record.status == "diverged":
        console.print("Training or attack diverged: there is no number.", style="red")
    for line in words.leak_in_words(record):
        console.print(Text(line, style="bold"))
    console.print(_metrics(record))
    for line in words.missing_reasons(record):
        console.print(Text(line, style="dim"))
    console.print(pairs(words.utility(record), title="Utility"))
    for note in [*words.warnings(record), *words.notes(record)]:
        console.print(Text(note, style="yellow"))
    columns = map(right, ("time", "iterations", "queries", "peak memory"))
    console.print(table(words.costs(record), "stage", *columns, title="Cost"))
    places = [("run folder", str(folder))]
    for pattern, what in _FILES.items():
        places += [(f"  {path.name}", what) for path in sorted(folder.glob(pattern))]
    console.print(pairs([*places, ("store", str(store))], title="Where everything is"))


def _metrics(record: Record) -> Table:
    found = words.metric_table(record)
    rows = [(row.title, row.attack, *row.references) for row in found.rows]
    columns = map(right, ("attack [95 % interval]", *map(Text, found.columns)))
    return table(rows, "metric", *columns, title="What leaked", caption=found.caption)
