"""Runs beside each other, in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from mibench.cli.show.tables import folded, pairs, right, table, whole
from mibench.reports.comparison import Comparison, differing


def show_comparison(comparison: Comparison, console: Console) -> None:
    """Print what is compared, what the differences say, and all numbers beside each other."""
    runs, first = comparison.runs, comparison.runs[0].letter
    console.print(pairs(((run.letter, run.title) for run in runs), box=None, pad_edge=False))
    for line in comparison.headlines:
        console.print(Text(line, style="bold"))
    if unlike := differing(runs):
        letters = (folded(run.letter) for run in runs)
        rows = ((name, *values) for name, values in unlike.items())
        console.print(table(rows, whole("what differs"), *letters))
    numbers: list[tuple[str | Text, ...]] = []
    for row in comparison.rows:
        differences = []
        for place in range(len(row.differences)):
            leaks = row.leaks(place)
            style = {"more": "red", "less": "green"}.get(leaks, "")
            differences.append(Text(f"{row.shown(place)} {leaks}".rstrip(), style))
        numbers.append((row.title, *differences, *row.values))
    columns = [right(f"{run.letter} − {first} [95 %]") for run in runs[1:]]
    columns += [right(run.letter) for run in runs]
    caption = (
        "↑ / ↓: higher / lower leaks more; more, less: the interval does not hold 0; differences "
        "of shares are in points"
    )
    console.print(table(numbers, "metric", *columns, caption=caption))
    for note in comparison.notes:
        console.print(Text(note, style="yellow"))
