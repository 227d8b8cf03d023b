"""How ``mibench grid`` shows a plan, its progress and its end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import TextIO

import rich.console
import rich.live
import rich.table
from rich.text import Text

from mibench.cli.show.progress import duration
from mibench.cli.show.record import warnings
from mibench.grid.plan import Node, Plan
from mibench.grid.schedule import Listener, Result
from mibench.grid.work import Outcome
from mibench.progress import Progress
from mibench.record import Record

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
        self.running: dict[str, tuple[Node, float]] = {}
        self.ended_nodes: dict[str, Outcome] = {}
        self.failed: set[int] = set()
        self.step = ""  # of the stage that runs in this process
        self._loop = [0, 0]  # steps done and in all
        self._told = time.monotonic()
        live = self.console.is_terminal and not self.console.is_dumb_terminal
        self._live = rich.live.Live(console=self.console, transient=True) if live else None

    def __enter__(self) -> GridDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    # Listener

    def started(self, node: Node) -> None:
        """A stage runs, or waits for a worker of its cluster."""
        self.running[node.stage.key] = (node, time.monotonic())
        self.step = ""

    def ended(self, node: Node, outcome: Outcome) -> None:
        """Print a line for a stage that ended."""
        self.running.pop(node.stage.key, None)
        self.ended_nodes[node.stage.key] = outcome
        mark, style = {"done": ("✓", None), "cached": ("=", "dim"), "failed": ("✗", "red")}[
            outcome.status
        ]
        cell = self.plan.cells[node.cell].name
        text = f"{mark} {node.stage.name}  {cell}  {duration(outcome.seconds)}"
        if outcome.error is not None:
            self.failed |= set(node.cells)
            text += f"  {outcome.error.strip().splitlines()[-1]}"
        self.console.print(Text(text, style=style or ""), soft_wrap=True)
        self._plain(always=True)

    def tick(self) -> None:
        """Show how things stand."""
        if self._live is not None:
            self._live.update(self._status())
        else:
            self._plain()

    # Progress of a stage in this process

    def begin(self, total: int, label: str) -> None:
        """A loop of a stage starts."""
        self._loop = [0, total]

    def advance(self, steps: int) -> None:
        """Steps of a stage are done."""
        self._loop[0] += steps
        self.step = f"{self._loop[0]:,}/{self._loop[1]:,}"
        if time.monotonic() - self._told > 0.5:
            self._told = time.monotonic()
            self.tick()

    def eta(self) -> float | None:
        """Seconds that are left, if anything is known about them."""
        left = [node.stage for key, node in self.plan.nodes.items() if key not in self.ended_nodes]
        stages = {node.stage.key: node.stage.kind for node in self.plan.nodes.values()}
        seen: dict[str, list[float]] = {}
        for key, outcome in self.ended_nodes.items():
            if outcome.status == "done":
                seen.setdefault(stages[key], []).append(outcome.seconds)
        total, now = 0.0, time.monotonic()
        for task in left:
            if task.key in self.plan.cached:
                continue
            expected = self.plan.seconds.get(task.key)
            if task.kind in seen:
                here = sum(seen[task.kind]) / len(seen[task.kind])
                # What this run measured says more than another run's time on another machine.
                expected = here if expected is None else (expected + here) / 2
            if expected is None:
                return None
            since = now - self.running[task.key][1] if task.key in self.running else 0.0
            total += max(0.0, expected - since)
        return total / max(1, self.workers)

    def _counts(self) -> str:
        ended = sum(cell.goal in self.ended_nodes for cell in self.plan.cells) - len(self.failed)
        cells = f"{max(0, ended)}/{len(self.plan.cells)} cells"
        if self.failed:
            cells += f" ({len(self.failed)} failed)"
        left = self.eta()
        parts = [cells, f"{len(self.ended_nodes)}/{len(self.plan.nodes)} stages"]
        parts += [f"{len(self.running)} running"] if self.running else []
        parts += [f"ETA {duration(left)}"] if left is not None and self.running else []
        return " · ".join(parts)

    def _status(self) -> rich.table.Table:
        table = rich.table.Table.grid(padding=(0, 2))
        for node, since in self.running.values():
            expected = self.plan.seconds.get(node.stage.key)
            about = f"of about {duration(expected)}" if expected else self.step
            cell = self.plan.cells[node.cell].name
            since_then = duration(time.monotonic() - since)
            table.add_row(*map(Text, ("…", node.stage.name, cell, since_then, about)))
        outer = rich.table.Table.grid()
        outer.add_row(table)
        outer.add_row(Text(self._counts(), style="bold"))
        return outer

    def _plain(self, always: bool = False) -> None:
        now = time.monotonic()
        if self._live is None and (always or now - self._told > _LINE_SECONDS):
            self._told = now
            names = ", ".join(node.stage.name for node, _ in self.running.values())
            line = self._counts() + (f" · {names} {self.step}".rstrip() if names else "")
            self.console.print(Text(line, style="dim"), soft_wrap=True)


def show_plan(plan: Plan, workers: int, console: rich.console.Console) -> None:
    """Print what is cached, what will be computed, and how long that may take."""
    todo, cached = Counter[str](), Counter[str]()
    seconds: dict[str, float] = {}
    for node in plan.to_compute:
        todo[node.stage.kind] += 1
        took = plan.seconds.get(node.stage.key)
        if took is not None:
            seconds[node.stage.kind] = seconds.get(node.stage.kind, 0.0) + took
    for task in plan.cached.values():
        cached[task.kind] += 1
    table = rich.table.Table("stage", "cached", "to compute", "about", box=None, pad_edge=False)
    every = [stage for cell in plan.cells for stage in cell.graph.stages.values()]
    for stage in dict.fromkeys(each.kind for each in every):
        about = duration(seconds[stage]) if stage in seconds else ("?" if todo[stage] else "")
        table.add_row(Text(stage), str(cached[stage]), str(todo[stage]), about)
    console.print(table)
    total, unknown = plan.estimate()
    stages = len(plan.to_compute)
    text = f"{len(plan.cells)} cells, {stages} stages to compute"
    if stages > unknown:
        text += f", about {duration(total / max(1, workers))} on {workers} worker" + "s" * (
            workers > 1
        )
    if unknown:
        text += f" ({unknown} stages were never measured)"
    distinct = len({each.key for each in every})
    text += (
        f". Cells share stages: {distinct} in all, where cell-by-cell scripts would compute "
        f"{plan.separately}."
    )
    console.print(Text(text), soft_wrap=True)


def show_result(
    plan: Plan, result: Result, records: dict[int, Record], console: rich.console.Console
) -> None:
    """Print one line a cell, the failures, and where everything is."""
    table = rich.table.Table(box=None, pad_edge=False)
    for title in ("cell", "status", "attack top-1", "validation accuracy", "natural accuracy"):
        table.add_column(title, justify="left" if title in ("cell", "status") else "right")
    for index, cell in enumerate(plan.cells):
        record = records.get(index)
        if record is None:
            stage = result.failed[index][0] if index in result.failed else ""
            status = Text(f"failed in {stage}" if stage else "not run", style="red")
            table.add_row(Text(cell.name), status, "—", "—", "—")
            continue
        utility = record.utility
        shares = (
            record.metrics["attack_accuracy_top1"].value,
            utility.get("validation_accuracy"),
            utility.get("natural_accuracy"),
        )
        numbers = [f"{each:.1%}" if isinstance(each, float | int) else "—" for each in shares]
        table.add_row(Text(cell.name), record.status, *numbers)
    console.print(table)
    for index, record in records.items():
        for warning in warnings(record):
            text = f"{plan.cells[index].name}: {warning}"
            console.print(Text(text, style="yellow"), soft_wrap=True)
    computed = sum(outcome.status == "done" for outcome in result.outcomes.values())
    console.print(
        Text(
            f"{len(records)} of {len(plan.cells)} cells done; {computed} stages computed in "
            f"{duration(result.wall)} ({duration(result.computed)} of computing)"
        ),
        soft_wrap=True,
    )
    for index, (stage, error) in result.failed.items():
        last = error.strip().splitlines()[-1]
        place = plan.cells[index].folder / "error.txt"
        console.print(
            Text(f"failed: {plan.cells[index].name}, {stage}: {last}\n  {place}", style="red"),
            soft_wrap=True,
        )
