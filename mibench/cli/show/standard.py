"""How `mibench run --attack standard` ends: the worst case of each access."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from mibench.cli.show.tables import right, table
from mibench.grid.standard import Standard, WorstCase
from mibench.leaderboard.board import TOP1
from mibench.leaderboard.series import queries_an_identity
from mibench.progress import ABSENT
from mibench.record import MetricValue
from mibench.reports.words import with_interval


def show_standard(found: Standard, console: Console) -> None:
    """Print a table of each access's attacks, with the worst case below it."""
    for worst in found.worst_cases:
        measure = worst.measure or TOP1
        rows = []
        for attack in worst.attacks:
            record = found.records.get(attack)
            asked = None if record is None else queries_an_identity(record)
            leak = None if record is None else record.metrics.get(measure.key)
            rows.append(
                (
                    attack,
                    worst.missing.get(attack, "complete"),
                    ABSENT if leak is None else with_interval(measure.key, leak),
                    ABSENT if asked is None else f"{asked:,.0f}",
                )
            )
        numbers = map(right, (f"{measure.title} [95 % interval]", "queries an identity"))
        title = f"{worst.access} attacks (list {worst.list_version})"
        console.print(table(rows, "attack", "status", *numbers, title=title))
        console.print(Text(in_words(worst), style="bold"), soft_wrap=True)


def in_words(worst: WorstCase) -> str:
    """``"Worst case, white-box: 7.12 [6.80, 7.45] bits"``, and what it is without."""
    start = f"Worst case, {worst.access}: "
    if worst.value is None or worst.measure is None:
        return f"{start}none, as no attack of the list says what leaks"
    entry = MetricValue(value=worst.value, interval=worst.interval)
    text = start + with_interval(worst.measure.key, entry)
    text += "" if worst.measure.kind == "percent" else f" {worst.measure.unit}"
    if worst.missing:
        told = ", ".join(f"{attack} ({reason})" for attack, reason in worst.missing.items())
        text += f"; without {told}, so that it may well be more"
    return text
