"""What a worker does: one stage of one cell, in whatever process it runs."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mibench.cell.graph import Graph
from mibench.cell.request import Request, command_of
from mibench.cell.resolve import check, resolve
from mibench.cell.run import compute, finish, open_bench
from mibench.cell.stage import Bench, Stage
from mibench.data.divided import Divided
from mibench.errors import MibenchError
from mibench.grid.plan import GridCell
from mibench.progress import SILENT, Progress
from mibench.store.hub import ready_hub
from mibench.types import digest

Status = Literal["done", "cached", "failed"]


@dataclass(frozen=True)
class Job:
    """One stage to compute, as it is sent to a worker.

    Attributes:
        request, divided: the cell and its images.
        folder: the cell's run folder.
        name, kind, key: the stage; the last one, ``picture``, also writes the run folder.
        goal: key of the cell's last stage, which holds all that the cell depends on.
        store: root of the store. device: ``"auto"``, ``"cpu"``, ``"cuda:1"``.
        cwd: folder that relative paths start from.
        hub: URL of what stages are taken from before they are computed.
    """

    request: Request
    divided: Divided
    folder: Path
    name: str
    kind: str
    key: str
    goal: str
    store: Path
    device: str
    cwd: Path
    hub: str | None = None


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended.

    Attributes:
        key: of its stage. seconds: wall time of the job. worker: host and process.
        computed: seconds spent in stages that were computed, 0 when all were found.
        error: the traceback of a failed job.
        again: whether a fresh process may do better: its GPU failed, which no process outlives, or
            had no memory left.
    """

    key: str
    status: Status
    seconds: float
    computed: float
    worker: str
    error: str | None = None
    again: bool = False


def worker_name() -> str:
    """Host and process, as tables show a worker."""
    return f"{socket.gethostname()}:{os.getpid()}"


def work(job: Job, progress: Progress = SILENT) -> JobOutcome:
    """Compute one stage; an exception is an outcome, so that only its cells fail.

    ``KeyboardInterrupt`` and other ways to stop a process pass through.
    """
    start = time.monotonic()
    try:
        graph, bench = _cell(job)
        bench.progress = progress
        before, spent = set(bench.computed), bench.seconds
        if job.key == job.goal:
            finish(graph, bench, job.folder, command_of(job.request))
            with contextlib.suppress(FileNotFoundError):
                (job.folder / "error.txt").unlink()
        else:
            compute(graph.stages[job.name], graph, bench)
        status: Status = "done" if bench.computed - before else "cached"
        took = time.monotonic() - start
        return JobOutcome(job.key, status, took, bench.seconds - spent, worker_name())
    except Exception as failure:
        error, took = traceback.format_exc(), time.monotonic() - start
        again = isinstance(failure, (torch.AcceleratorError, torch.OutOfMemoryError))
        return JobOutcome(job.key, "failed", took, 0.0, worker_name(), error, again)


_hub = functools.cache(ready_hub)  # what is said of one that is gone is said once a process


# The cell that this process worked on last, with its data and networks.
_kept: dict[str, tuple[Graph, Bench]] = {}


def _cell(job: Job) -> tuple[Graph, Bench]:
    place = [str(job.store), job.device, job.hub]
    key = digest([job.request.model_dump(mode="json"), job.goal, *place])
    if key not in _kept:
        _kept.clear()  # before the next cell's data and networks come
        bench = open_bench(job.store, job.device, SILENT, _hub(job.hub))
        graph = Graph(check(resolve(job.request)), job.divided)
        if graph.picture.key != job.goal:
            raise MibenchError(
                f"the code, packages or weights of {worker_name()} are not those that the grid was "
                "planned with: leave them alone while it runs, have the same on every node, and "
                "start it again"
            )
        _kept[key] = graph, bench
    return _kept[key]


def job_of(
    cell: GridCell, stage: Stage[Any], store: Path, device: str, hub: str | None = None
) -> Job:
    """The job of a stage for one of its cells."""
    graph = cell.graph
    return Job(
        graph.cell.request,
        graph.images.divided,
        cell.folder,
        stage.name,
        stage.kind,
        stage.key,
        cell.goal,
        store.absolute(),
        device,
        Path.cwd(),
        hub,
    )
