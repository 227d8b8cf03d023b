"""``run_grid``: plan, executor and progress put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mibench.grid.plan import GridCell, Plan, PlannedStage
from mibench.grid.schedule import Executor, Listener, Result, run_plan
from mibench.grid.work import Job, job_of
from mibench.record import Record


def run_grid(
    plan: Plan,
    store: Path,
    executor: Executor,
    listener: Listener,
    device: str = "auto",
    hub: str | None = None,
) -> Result:
    """Compute a plan's stages and write its cells' run folders.

    Args:
        plan: of :func:`~mibench.grid.plan.make_plan`.
        store: root of the store that the plan was made for.
        executor: where stages run.
        listener: told how it goes on.
        device: for executors that leave the choice to the job.
        hub: URL of what stages are taken from before they are computed; the plan's, too.
    """

    def make_job(cell: GridCell, planned: PlannedStage) -> Job:
        return job_of(cell, planned.stage, store, device, hub)

    return run_plan(plan, executor, make_job, listener)


def records(cells: Sequence[GridCell], result: Result) -> dict[int, Record]:
    """The records of the cells that ended, by index."""
    return {
        index: Record.model_validate_json((cell.folder / "record.json").read_text("utf-8"))
        for index, cell in enumerate(cells)
        if index not in result.failed and cell.goal in result.outcomes
    }
