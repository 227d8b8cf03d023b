"""What a worker does: one stage of one cell, in whatever process it runs."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mibench.cell.keys import Task
from mibench.cell.pipeline import compute, finish, select_device
from mibench.cell.request import Request, command_of
from mibench.cell.resolve import resolve
from mibench.cell.stages import Stages
from mibench.data.division import Division
from mibench.errors import MibenchError
from mibench.grid.plan import GridCell
from mibench.progress import SILENT, Progress
from mibench.store.store import Store
from mibench.types import digest

Status = Literal["done", "cached", "failed"]


@dataclass(frozen=True)
class Job:
    """One stage to compute, as it is sent to a worker.

    Attributes:
        spec, split: the cell and, unless its images are rendered, its split.
        folder: the cell's run folder.
        task: the stage; the last one, ``metrics``, also writes the run folder.
        goal: key of the cell's last stage, which holds all that the cell depends on.
        store: root of the store. device: ``"auto"``, ``"cpu"``, ``"cuda:1"``.
        cwd: folder that relative paths start from.
    """

    spec: Request
    split: Division | None
    folder: Path
    task: Task
    goal: str
    store: Path
    device: str
    cwd: Path


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended.

    Attributes:
        key: of its stage. seconds: wall time of the job. worker: host and process.
        computed: seconds spent in stages that were computed, 0 when all were found.
        error: the traceback of a failed job.
    """

    key: str
    status: Status
    seconds: float
    computed: float
    worker: str
    error: str | None = None


def worker_name() -> str:
    """Host and process, as tables show a worker."""
    return f"{socket.gethostname()}:{os.getpid()}"


def work(job: Job, progress: Progress = SILENT) -> JobOutcome:
    """Compute one stage; an exception is an outcome, so that only its cells fail.

    ``KeyboardInterrupt`` and other ways to stop a process pass through.
    """
    start = time.monotonic()
    try:
        stages = _stages(job)
        stages.progress = progress
        before, spent = set(stages.computed), stages.seconds
        if job.task.stage == "metrics":
            finish(stages, job.folder, command_of(job.spec))
            with contextlib.suppress(FileNotFoundError):
                (job.folder / "error.txt").unlink()
        else:
            compute(stages, job.task)
        status: Status = "done" if stages.computed - before else "cached"
        return JobOutcome(
            job.task.key,
            status,
            time.monotonic() - start,
            stages.seconds - spent,
            worker_name(),
        )
    except Exception:
        error = traceback.format_exc()
        return JobOutcome(
            job.task.key, "failed", time.monotonic() - start, 0.0, worker_name(), error
        )


# The stages of the cell that this process worked on last, with its data and networks.
_kept: dict[str, Stages] = {}


def _stages(job: Job) -> Stages:
    key = digest([job.spec.model_dump(mode="json"), job.goal, str(job.store), job.device])
    if key not in _kept:
        _kept.clear()  # before the next cell's data and networks come
        device = select_device(job.device)
        stages = Stages(resolve(job.spec), Store(job.store), device, SILENT, job.split)
        if stages.metrics_key != job.goal:
            raise MibenchError(
                f"the code, packages or weights of {worker_name()} are not those that the grid was "
                "planned with: leave them alone while it runs, have the same on every node, and "
                "start it again"
            )
        _kept[key] = stages
    return _kept[key]


def job_of(cell: GridCell, task: Task, store: Path, device: str) -> Job:
    """The job of a stage for one of its cells."""
    return Job(
        cell.spec, cell.split, cell.folder, task, cell.goal, store.absolute(), device, Path.cwd()
    )
