"""How the command line shows long work, and numbers with their units."""

from __future__ import annotations

import contextlib
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from mibench.progress import SILENT, Progress, StageState

if TYPE_CHECKING:
    import rich.progress
    from torch import Tensor

_LINE_SECONDS = 10.0  # without a terminal: a line at least so often …
_LINE_SHARE = 0.1  # … or whenever so much more is done,
_LEAST_SECONDS = 1.0  # but never more often than this
_BAR_SECONDS = 0.25


def duration(seconds: float) -> str:
    """A time as a person writes it: ``"3.2 s"``, ``"2 min 05 s"``, ``"1 h 04 min"``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes as a person writes them: ``"512 B"``, ``"1.4 MiB"``."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1023.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


@dataclass
class _Loop:
    """A loop that is running, and when it was last shown."""

    label: str
    total: int
    began: float
    shown: float
    done: int = 0
    shown_done: int = 0
    values: dict[str, float | Tensor] = field(default_factory=dict)

    def detail(self, now: float) -> str:
        """Steps, rate, values and the time that is left."""
        parts = [f"{self.done:,}/{self.total:,}"]
        rate = self.done / (now - self.began) if now > self.began else 0.0
        if rate:
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s/step")
        parts += [f"{name} {float(value):.4g}" for name, value in self.values.items()]
        if rate and self.done < self.total:
            parts.append(f"ETA {duration((self.total - self.done) / rate)}")
        return " · ".join(parts)


class Display(Progress, ABC):
    """Shows stages and their loops; a context manager, for whatever has to be put away.

    Steps are reported far more often than anyone can read: a report costs a clock reading and a
    comparison, and :meth:`_show` is called a few times a second at most.
    """

    interval: float

    def __init__(self) -> None:
        self.stages: list[str] = []  # being computed, the innermost last
        self.loops: list[_Loop] = []
        self.planned: set[str] = set()  # stages of the run that are still to come
        self.total = 0  # of the stages of the run

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put away what was shown."""

    def stage(self, name: str, state: StageState, seconds: float = 0.0) -> None:
        """Show that a stage starts, ended, or was found."""
        if state == "computing":
            self.stages.append(name)
        elif name in self.stages:
            self.stages.remove(name)
        self._show_stage(name, state, seconds)
        if state != "computing":
            self.planned.discard(name)

    def expect(self, stages: Sequence[str]) -> None:
        """Count the stages of a run, to show where it stands."""
        self.planned, self.total = set(stages), len(set(stages))

    def position(self) -> str:
        """Which stage of how many a run is at, ``"[3/8] "``; nothing where no plan is known."""
        if not self.total:
            return ""
        return f"[{min(self.total - len(self.planned) + 1, self.total)}/{self.total}] "

    def begin(self, total: int, label: str) -> None:
        """Start showing a loop."""
        now = time.monotonic()
        self.loops.append(_Loop(label, total, now, now))
        self._show_loop()

    def advance(self, steps: int) -> None:
        """Count steps of the innermost loop, and show them when it is time."""
        loop = self.loops[-1]
        loop.done += steps
        now = time.monotonic()
        if now - loop.shown >= self.interval:
            self._show(loop, now)

    def report(self, **values: float | Tensor) -> None:
        """Remember the values of the current step; they are shown with the step."""
        if self.loops:
            self.loops[-1].values = values

    def end(self) -> None:
        """Stop showing the innermost loop."""
        self.loops.pop()
        self._show_loop()

    def name(self, loop: _Loop) -> str:
        """What a loop is called: its stage, and its label where that says more."""
        stage = self.stages[-1] if self.stages else ""
        if not stage or loop.label in stage:
            return self.position() + (stage or loop.label)
        return f"{self.position()}{stage} ({loop.label})"

    @abstractmethod
    def _show_stage(self, name: str, state: StageState, seconds: float) -> None:
        """Show what became of a stage."""

    def _show_loop(self) -> None:
        """The innermost loop is another one now."""

    @abstractmethod
    def _show(self, loop: _Loop, now: float) -> None:
        """Show how far a loop is."""


class Lines(Display):
    """Plain lines, for logs and pipes: when a stage begins and ends, and now and then between."""

    interval = _LEAST_SECONDS

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream

    def _show_stage(self, name: str, state: StageState, seconds: float) -> None:
        text = {
            "computing": f"{name}: computing",
            "done": f"{name}: done in {duration(seconds)}",
            "cached": f"{name}: cached",
        }[state]
        print(self.position() + text, file=self.stream, flush=True)

    def _show(self, loop: _Loop, now: float) -> None:
        enough = loop.done - loop.shown_done >= _LINE_SHARE * loop.total
        if enough or now - loop.shown >= _LINE_SECONDS:
            print(f"{self.name(loop)}: {loop.detail(now)}", file=self.stream, flush=True)
            loop.shown, loop.shown_done = now, loop.done


class Bars(Display):
    """A live line on a terminal, finished stages above it."""

    interval = _BAR_SECONDS

    def __init__(self, bars: rich.progress.Progress) -> None:
        super().__init__()
        self.bars = bars
        self.task = bars.add_task("", total=None, visible=False, detail="")

    def __enter__(self) -> Bars:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def _show_stage(self, name: str, state: StageState, seconds: float) -> None:
        if state == "done":
            self._print(f"{self.position()}✓ {name}  {duration(seconds)}")
        elif state == "cached":
            self._print(f"{self.position()}= {name}  cached")
        self._show_loop()

    def _print(self, line: str) -> None:
        self.bars.console.print(line, markup=False, highlight=False)

    def _show_loop(self) -> None:
        if self.loops:
            loop = self.loops[-1]
            self.bars.reset(
                self.task,
                total=loop.total,
                completed=loop.done,
                description=self.name(loop),
                visible=True,
                detail=f"{loop.done:,}/{loop.total:,}",
            )
        else:
            stage = self.position() + self.stages[-1] if self.stages else ""
            self.bars.reset(
                self.task, total=None, description=stage, visible=bool(stage), detail=""
            )

    def _show(self, loop: _Loop, now: float) -> None:
        self.bars.update(self.task, completed=loop.done, detail=loop.detail(now))
        loop.shown, loop.shown_done = now, loop.done


def display(
    stream: TextIO | None = None, *, quiet: bool = False
) -> contextlib.AbstractContextManager[Progress]:
    """Bars when the stream (default: standard error) is a terminal, else plain lines."""
    if quiet:
        return contextlib.nullcontext(SILENT)
    stream = stream or sys.stderr
    if not stream.isatty():
        return Lines(stream)
    import rich.console
    import rich.progress as parts

    console = rich.console.Console(file=stream)
    if console.is_dumb_terminal:
        return Lines(stream)
    return Bars(
        parts.Progress(
            parts.SpinnerColumn(),
            parts.TextColumn("{task.description}", markup=False),
            parts.BarColumn(bar_width=24),
            parts.TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,
            refresh_per_second=4,
        )
    )
