"""How the command line shows long work."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from mibench.progress import SILENT, Progress, StageState, duration

if TYPE_CHECKING:
    import rich.progress
    from torch import Tensor

_LINE_SECONDS = 10.0  # without a terminal: a line at least so often …
_LINE_SHARE = 0.1  # … or whenever so much more is done,
_LEAST_SECONDS = 1.0  # but never more often than this
_BAR_SECONDS = 0.25


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


class Lines(Progress):
    """Plain lines, for logs and pipes: when a stage begins and ends, and now and then between.

    Steps are reported far more often than anyone can read: a report costs a clock reading and a
    comparison, and :meth:`_show` is called a few times a second at most.
    """

    interval = _LEAST_SECONDS

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.stages: list[str] = []  # being computed, the innermost last
        self.loops: list[_Loop] = []
        self.planned: set[str] = set()  # stages of the run that are still to come
        self.total = 0  # of the stages of the run

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        """Put away what was shown."""

    def expect(self, stages: Sequence[str]) -> None:
        self.planned, self.total = set(stages), len(set(stages))

    def stage(self, name: str, state: StageState, seconds: float = 0.0) -> None:
        if state == "computing":
            self.stages.append(name)
        elif name in self.stages:
            self.stages.remove(name)
        self._show_stage(name, state, seconds)
        if state != "computing":
            self.planned.discard(name)

    def begin(self, total: int, label: str) -> None:
        now = time.monotonic()
        self.loops.append(_Loop(label, total, now, now))
        self._show_loop()

    def advance(self, steps: int) -> None:
        loop = self.loops[-1]
        loop.done += steps
        now = time.monotonic()
        if now - loop.shown >= self.interval:
            self._show(loop, now)

    def report(self, **values: float | Tensor) -> None:
        if self.loops:
            self.loops[-1].values = values

    def end(self) -> None:
        self.loops.pop()
        self._show_loop()

    def position(self) -> str:
        """Which stage of how many a run is at, ``"[3/8] "``; nothing where no plan is known."""
        if not self.total:
            return ""
        return f"[{min(self.total - len(self.planned) + 1, self.total)}/{self.total}] "

    def name(self, loop: _Loop) -> str:
        """What a loop is called: its stage, and its label where that says more."""
        stage = self.stages[-1] if self.stages else ""
        if not stage or loop.label in stage:
            return self.position() + (stage or loop.label)
        return f"{self.position()}{stage} ({loop.label})"

    def _show_stage(self, name: str, state: StageState, seconds: float) -> None:
        text = f"done in {duration(seconds)}" if state == "done" else state
        print(f"{self.position()}{name}: {text}", file=self.stream, flush=True)

    def _show_loop(self) -> None:
        """The innermost loop is another one now."""

    def _show(self, loop: _Loop, now: float) -> None:
        enough = loop.done - loop.shown_done >= _LINE_SHARE * loop.total
        if enough or now - loop.shown >= _LINE_SECONDS:
            print(f"{self.name(loop)}: {loop.detail(now)}", file=self.stream, flush=True)
            loop.shown, loop.shown_done = now, loop.done


class Bars(Lines):
    """A live line on a terminal, finished stages above it."""

    interval = _BAR_SECONDS

    def __init__(self, bars: rich.progress.Progress) -> None:
        super().__init__(sys.stderr)  # not written to: the console is
        self.bars = bars
        self.task = bars.add_task("", total=None, visible=False, detail="")

    def __enter__(self) -> Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def _show_stage(self, name: str, state: StageState, seconds: float) -> None:
        lines = {"done": f"✓ {name}  {duration(seconds)}"}
        lines |= {"cached": f"= {name}  cached", "fetched": f"↓ {name}  fetched"}
        if state in lines:
            self.bars.console.print(self.position() + lines[state], markup=False, highlight=False)
        self._show_loop()

    def _show_loop(self) -> None:
        what: dict[str, Any] = {"total": None, "description": "", "detail": ""}
        if self.loops:
            loop = self.loops[-1]
            what = {"total": loop.total, "completed": loop.done, "description": self.name(loop)}
            what["detail"] = f"{loop.done:,}/{loop.total:,}"
        elif self.stages:
            what["description"] = self.position() + self.stages[-1]
        self.bars.reset(self.task, visible=bool(what["description"]), **what)

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
