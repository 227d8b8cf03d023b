"""Running a plan: which stage may start, what failed, and which cells that concerns."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mibench.errors import MibenchError
from mibench.files import write_atomic
from mibench.grid.plan import GridCell, Plan, PlannedStage
from mibench.grid.work import Job, JobOutcome

MakeJob = Callable[[GridCell, PlannedStage], Job]


class Executor(ABC):
    """Computes jobs, some at a time."""

    @property
    @abstractmethod
    def capacity(self) -> int:
        """How many jobs may be under way."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Start a job, or have it start soon."""

    @abstractmethod
    def wait(self, seconds: float) -> list[JobOutcome]:
        """Jobs that ended since the last call; waits for the first at most so long."""

    @abstractmethod
    def close(self) -> None:
        """Stop what is under way and let go of the workers."""


class Listener:
    """Told how a grid goes on. This base class shows nothing."""

    def started(self, planned: PlannedStage) -> None:
        """A stage was handed to the executor."""

    def ended(self, planned: PlannedStage, outcome: JobOutcome) -> None:
        """A stage ended."""

    def tick(self) -> None:
        """Some time passed."""


@dataclass
class Result:
    """How a grid ended.

    Attributes:
        outcomes: of the stages that were tried, by key.
        failed: for each failed cell (its index), the stage that failed and its traceback.
        wall: seconds from start to end.
    """

    outcomes: dict[str, JobOutcome] = field(default_factory=dict)
    failed: dict[int, tuple[str, str]] = field(default_factory=dict)
    wall: float = 0.0

    @property
    def computed(self) -> float:
        """Seconds that workers spent in computing stages, over all workers."""
        return sum(outcome.computed for outcome in self.outcomes.values())


def run_plan(plan: Plan, executor: Executor, make_job: MakeJob, listener: Listener) -> Result:
    """Compute a plan's stages, each as soon as what it stands on is there.

    A stage that fails takes the cells with it that need it; the others go on. Each of those cells
    finds the traceback in ``error.txt`` in its run folder.
    """
    result, start = Result(), time.monotonic()
    waiting, running = dict(plan.planned), dict[str, PlannedStage]()
    lost: set[str] = set()  # keys that will not be computed
    try:
        while waiting or running:
            for planned in _ready(waiting, running, executor.capacity - len(running)):
                running[planned.stage.key] = waiting.pop(planned.stage.key)
                executor.submit(make_job(plan.cells[planned.cell], planned))
                listener.started(planned)
            for outcome in executor.wait(0.25):
                planned = running.pop(outcome.key)
                result.outcomes[outcome.key] = outcome
                if outcome.error is not None:
                    lost.add(outcome.key)
                    _fail(plan, planned, outcome.error, waiting, lost, result)
                listener.ended(planned, outcome)
                for other in waiting:
                    waiting[other] = _without(waiting[other], outcome.key)
            listener.tick()
    finally:
        executor.close()
        result.wall = time.monotonic() - start
    return result


def _ready(
    waiting: dict[str, PlannedStage], running: dict[str, PlannedStage], room: int
) -> list[PlannedStage]:
    """Stages that stand on nothing missing, in the plan's order, at most ``room``."""
    free = [planned for planned in waiting.values() if not planned.parents]
    if not free and not running and waiting:
        raise MibenchError(f"no stage of {len(waiting)} can start: the plan is broken")
    return free[: max(0, room)]


def _without(planned: PlannedStage, key: str) -> PlannedStage:
    if key not in planned.parents:
        return planned
    return PlannedStage(planned.stage, planned.cell, planned.parents - {key}, planned.cells)


def _fail(
    plan: Plan,
    planned: PlannedStage,
    error: str,
    waiting: dict[str, PlannedStage],
    lost: set[str],
    result: Result,
) -> None:
    """Take a failed stage's descendants out, and tell the cells that need them."""
    cells = set(planned.cells)
    for key, other in list(waiting.items()):  # parents come first, so one pass is enough
        if other.parents & lost:
            lost.add(key)
            cells |= set(other.cells)
            del waiting[key]
    # A stage that only failed cells wanted is not worth computing any more.
    dead = cells | result.failed.keys()
    for key, other in list(waiting.items()):
        if set(other.cells) <= dead:
            del waiting[key]
    for index in cells:
        result.failed.setdefault(index, (planned.stage.name, error))
        folder: Path = plan.cells[index].folder
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "error.txt", f"stage {planned.stage.name}\n\n{error}".encode())
