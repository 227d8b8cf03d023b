"""How ``mibench grid`` shows a plan, its progress and its end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TextIO

import rich.console
import rich.live
import rich.table
from rich.text import Text

from mibench.cli.show.tables import right, table
from mibench.grid.plan import Plan, PlannedStage
from mibench.grid.schedule import Listener, Result
from mibench.grid.work import JobOutcome
from mibench.leaderboard.board import measure_of
from mibench.progress import ABSENT, Progress, duration
from mibench.record import Record
from mibench.reports.words import percent, warnings, with_interval

_LINE_SECONDS = 30.0  # without a terminal: a line on what is under way at least so often


class GridDisplay(Listener, Progress):
    """Shows finished stages as lines, and below them what each worker does.

    Args:
        plan: what is run. workers: how many stages may run at once.
        stream: standard error where not given; without a terminal there are lines only.
    """

    def __init__(self, plan: Plan, workers: int, stream: TextIO | None = None) -> None:
        self.plan, self.workers = plan, workers
        self.console = rich.console.Console(file=stream or sys.stderr)
        self.running: dict[str, tuple[PlannedStage, float]] = {}
        self.over: dict[str, JobOutcome] = {}
        self.failed: set[int] = set()
        self.step = ""  # of the stage that runs in this process
        self._loop = [0, 0]  # steps done and in all
        self._told = self._ticked = time.monotonic()
        live = self.console.is_terminal and not self.console.is_dumb_terminal
        self._live = rich.live.Live(console=self.console, transient=True) if live else None

    def __enter__(self) -> GridDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, planned: PlannedStage) -> None:
        self.running[planned.stage.key] = (planned, time.monotonic())
        self.step = ""

    def ended(self, planned: PlannedStage, outcome: JobOutcome) -> None:
        self.running.pop(planned.stage.key, None)
        self.over[planned.stage.key] = outcome
        mark, style = {"done": ("✓", ""), "cached": ("=", "dim"), "failed": ("✗", "red")}[
            outcome.status
        ]
        cell = self.plan.cells[planned.cell].name
        text = f"{mark} {planned.stage.name}  {cell}  {duration(outcome.seconds)}"
        if outcome.error is not None:
            self.failed |= set(planned.cells)
            text += f"  {_last_line(outcome.error)}"
        self.console.print(Text(text, style), soft_wrap=True)
        self._plain(always=True)

    def tick(self) -> None:
        if self._live is not None:
            self._live.update(self._status())
        else:
            self._plain()

    def begin(self, total: int, label: str) -> None:
        self._loop = [0, total]  # of a stage in this process

    def advance(self, steps: int) -> None:
        self._loop[0] += steps
        self.step = f"{self._loop[0]:,}/{self._loop[1]:,}"
        if time.monotonic() - self._ticked > 0.5:
            self._ticked = time.monotonic()
            self.tick()

    def eta(self) -> float | None:
        """Seconds that are left, if anything is known about them."""
        seen: dict[str, list[float]] = {}
        for key, outcome in self.over.items():
            if outcome.status == "done":
                stage = self.plan.planned[key].stage.kind
                seen.setdefault(stage, []).append(outcome.seconds)
        total, now = 0.0, time.monotonic()
        for planned in self.plan.to_compute:
            if (key := planned.stage.key) in self.over:
                continue
            expected = self.plan.seconds.get(key)
            if here := seen.get(planned.stage.kind):
                mean = sum(here) / len(here)
                # What this run measured says more than another run's time on another machine.
                expected = mean if expected is None else (expected + mean) / 2
            if expected is None:
                return None
            since = now - self.running[key][1] if key in self.running else 0.0
            total += max(0.0, expected - since)
        return total / max(1, self.workers)

    def _counts(self) -> str:
        ended = sum(cell.goal in self.over for cell in self.plan.cells) - len(self.failed)
        cells = f"{max(0, ended)}/{len(self.plan.cells)} cells"
        if self.failed:
            cells += f" ({len(self.failed)} failed)"
        left = self.eta()
        parts = [cells, f"{len(self.over)}/{len(self.plan.planned)} stages"]
        parts += [f"{len(self.running)} running"] if self.running else []
        parts += [f"ETA {duration(left)}"] if left is not None and self.running else []
        return " · ".join(parts)

    def _status(self) -> rich.table.Table:
        table = rich.table.Table.grid(padding=(0, 2))
        for planned, since in self.running.values():
            expected = self.plan.seconds.get(planned.stage.key)
            about = f"of about {duration(expected)}" if expected else self.step
            cell = self.plan.cells[planned.cell].name
            since_then = duration(time.monotonic() - since)
            table.add_row(*map(Text, ("…", planned.stage.name, cell, since_then, about)))
        outer = rich.table.Table.grid()
        outer.add_row(table)
        outer.add_row(Text(self._counts(), style="bold"))
        return outer

    def _plain(self, always: bool = False) -> None:
        now = time.monotonic()
        if self._live is None and (always or now - self._told > _LINE_SECONDS):
            self._told = now
            names = ", ".join(planned.stage.name for planned, _ in self.running.values())
            line = self._counts() + (f" · {names} {self.step}".rstrip() if names else "")
            self.console.print(Text(line, style="dim"), soft_wrap=True)


def show_plan(plan: Plan, workers: int, console: rich.console.Console) -> None:
    """Print what is cached, what will be computed, and how long that may take."""
    todo = Counter(planned.stage.kind for planned in plan.to_compute)
    cached = Counter(each.kind for each in plan.cached.values())
    seconds: dict[str, float] = {}
    for planned in plan.to_compute:
        if (took := plan.seconds.get(planned.stage.key)) is not None:
            seconds[planned.stage.kind] = seconds.get(planned.stage.kind, 0.0) + took
    every = [stage for cell in plan.cells for stage in cell.graph.stages.values()]
    rows = []
    for stage in dict.fromkeys(each.kind for each in every):
        about = duration(seconds[stage]) if stage in seconds else ("?" if todo[stage] else "")
        rows.append((stage, str(cached[stage]), str(todo[stage]), about))
    console.print(table(rows, "stage", "cached", "to compute", "about", box=None, pad_edge=False))
    total, unknown = plan.estimate()
    stages = len(plan.to_compute)
    text = f"{len(plan.cells)} cells, {stages} stages to compute"
    if stages > unknown:
        each = "worker" if workers == 1 else "workers"
        text += f", about {duration(total / max(1, workers))} on {workers} {each}"
    if unknown:
        text += f" ({unknown} stages were never measured)"
    text += (
        f". Cells share stages: {len({each.key for each in every})} in all, where cell-by-cell "
        f"scripts would compute {plan.separately}."
    )
    console.print(Text(text), soft_wrap=True)
    if plan.filed:
        text = f"{plan.filed} more cells are left out: their records are filed."
        console.print(Text(text), soft_wrap=True)
    if plan.left_out:
        attacks: dict[str, list[str]] = {}
        for attack, defense in plan.left_out:
            attacks.setdefault(defense, []).append(attack)
        pairs = "; ".join(f"{', '.join(names)} on {each}" for each, names in attacks.items())
        text = (
            f"{sum(plan.left_out.values())} more cells are not applicable (n/a) and left out: "
            "these defenses change answers alone, and attacks with the weights take that off: "
        )
        console.print(Text(text + pairs), soft_wrap=True)


def show_result(
    plan: Plan, result: Result, records: dict[int, Record], console: rich.console.Console
) -> None:
    """Print one line a cell, the failures, and where everything is."""
    rows: list[tuple[str | Text, ...]] = []
    titles = {measure_of(record).title: None for record in records.values()}
    for index, cell in enumerate(plan.cells):
        record = records.get(index)
        if record is None:
            stage = result.failed[index][0] if index in result.failed else ""
            status = Text(f"failed in {stage}" if stage else "not run", style="red")
            rows.append((cell.name, status, ABSENT, ABSENT, ABSENT))
            continue
        measure = measure_of(record).key
        found = record.metrics.get(measure)
        told = with_interval(measure, found) if found else ABSENT
        accuracies = map(
            percent, map(record.utility.get, ("validation_accuracy", "natural_accuracy"))
        )
        rows.append((cell.name, record.status, told, *accuracies))
    leak = f"{' or '.join(titles) or 'leak'} [95 % interval]"
    columns = map(right, (leak, "validation accuracy", "natural accuracy"))
    console.print(table(rows, "cell", "status", *columns, box=None, pad_edge=False))

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    warned: dict[str, list[str]] = {}
    for index, record in records.items():
        for warning in warnings(record):
            warned.setdefault(warning, []).append(plan.cells[index].name)
    for warning, cells in warned.items():
        all_of_several = len(cells) == len(records) > 1
        for name in ["all cells"] if all_of_several else cells:
            say(f"{name}: {warning}", "yellow")
    computed = sum(outcome.status == "done" for outcome in result.outcomes.values())
    say(
        f"{len(records)} of {len(plan.cells)} cells done; {computed} stages computed in "
        f"{duration(result.wall)} ({duration(result.computed)} of computing)"
    )
    for index, (stage, error) in result.failed.items():
        cell = plan.cells[index]
        place = cell.folder / "error.txt"
        say(f"failed: {cell.name}, {stage}: {_last_line(error)}\n  {place}", "red")


def _last_line(error: str) -> str:
    return error.strip().splitlines()[-1]
