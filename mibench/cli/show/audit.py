"""How ``mibench audit`` begins and ends: what the network knows, and what it gives away."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from mibench.cli.show.standard import show_standard
from mibench.cli.show.tables import pairs, right, table
from mibench.grid.audit import Audited, AuditPlan, Known
from mibench.grid.standard import Standard
from mibench.leaderboard.board import measure_of
from mibench.progress import ABSENT
from mibench.reports import words


def show_known(known: Known, planned: AuditPlan, console: Console) -> None:
    """Print how well the network knows the people, and which attacks are left out."""
    line = f"{known.model} is right on {known.accuracy:.1%} of the {known.images:,} private images."
    console.print(Text(line, style="bold"), soft_wrap=True)
    if known.hint is not None:
        hint = f"But {known.hint}: was it said as it was trained?"
        console.print(Text(hint, style="yellow"), soft_wrap=True)
    for reason in planned.left_out.values():
        console.print(Text(f"Left out: {reason}", style="dim"), soft_wrap=True)


def show_audit(found: Audited, console: Console) -> None:
    """Print a table of the attacks, the worst case, what that means, and where everything is."""
    if found.worst_cases:
        show_standard(Standard(found.records, found.worst_cases, found.failed), console)
    else:
        _attacks(found, console)
    worst = found.worst
    if worst is not None:
        verdict = words.verdict(worst)
        title = f"{verdict.headline} ({worst.attack.name}, {worst.access})"
        console.print(Text(title, style="bold"), soft_wrap=True)
        for reason in verdict.reasons:
            console.print(Text(reason), soft_wrap=True)
        for note in [*words.warnings(worst), *words.notes(worst)]:
            console.print(Text(note, style="yellow"), soft_wrap=True)
    for attack, reason in found.failed.items():
        console.print(Text(f"{attack} {reason}", style="red"), soft_wrap=True)
    places = [("reports", str(found.folder.absolute() / "ATTACK" / "report.html"))]
    if found.overview is not None:
        places.append(("overview", str(found.overview.absolute())))
    console.print(pairs(places, title="Where everything is"))


def _attacks(found: Audited, console: Console) -> None:
    rows = []
    for attack, record in found.records.items():
        measure = measure_of(record)
        leak = record.metrics.get(measure.key)
        text = ABSENT if leak is None else words.with_interval(measure.key, leak)
        rows.append((attack, record.access, record.status, measure.title, text))
    columns = ("attack", "access", "status", "measure", right("value [95 % interval]"))
    console.print(table(rows, *columns, title="What leaked"))
