"""What a run does: select the place, go through the stages, assemble and write the record."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch

from mibench.data.division import Division, prepared_split
from mibench.data.folder import make_split, write_split
from mibench.data.identity_split import IdentitySplit
from mibench.data.rendered import SynthFacesData
from mibench.errors import DivergedError, RequestError
from mibench.keys import Task, needed
from mibench.progress import Progress
from mibench.resolve import Cell, resolve
from mibench.results import record, references, result, write
from mibench.stages import Stages
from mibench.store import Store, default_root
from mibench.types import NEEDED_BYTES, Record, RunSpec, digest

RUNS = Path("mibench-runs")


def run_cell(
    spec: RunSpec,
    *,
    store: str | Path | None,
    out: str | Path | None,
    device: str,
    progress: Progress,
    command: str | None,
) -> Record:
    """Run the cell that ``spec`` asks for; :func:`mibench.run` says what the arguments mean."""
    cell = resolve(spec)
    place = select_device(device)
    artifacts = Store(store or default_root())
    artifacts.require_space(NEEDED_BYTES)
    folder = Path(out) if out is not None else run_folder(cell)
    folder.mkdir(parents=True, exist_ok=True)
    split = split_of(cell, folder, progress)
    stages = Stages(cell, artifacts, place, progress, split)
    plan = stages.plan()
    todo = needed(plan, lambda t: artifacts.manifest(t.stage, t.key) is not None)
    progress.expect([task.name for task in todo])
    # The last stage computes the references itself: both judge with the same networks.
    todo = [task for task in todo if task.stage not in ("references", "metrics")]
    # The target first: if it diverges, nothing else is needed. Then the evaluators, without which
    # an attack cannot be judged.
    first = ("data", "target", "evaluator")
    for task in sorted(todo, key=lambda t: first.index(t.stage) if t.stage in first else 3):
        compute(stages, task)
        if task.stage == "target" and stages.target_result["diverged"]:
            break
    return finish(stages, folder, command)


def compute(stages: Stages, task: Task) -> None:
    """Compute one stage, or find it in the store; nothing happens after a diverged target.

    A student or an attack that diverges is no error here: the stages say so themselves.
    """
    on_target = task.stage != "metrics" and "target" in task.parents
    if on_target and stages.target_result["diverged"]:
        return
    name, _, detail = task.name.partition(" ")
    work: dict[str, Callable[[], object]] = {
        "data": lambda: stages.data,
        "target": lambda: stages.target_result,
        "general-prior": stages.general_prior,
        "prior": lambda: stages.prior,
        "student": lambda: stages.student(detail),
        "reconstructions": lambda: stages.reconstructions,
        "evaluator": lambda: stages.evaluator(detail or name),
        "references": lambda: references(stages),
        "metrics": lambda: result(stages),
    }
    with contextlib.suppress(DivergedError):
        work[name]()


def finish(stages: Stages, folder: Path, command: str | None) -> Record:
    """Write the run folder of a cell, computing what is missing."""
    artifact = result(stages)
    made = record(stages, artifact, command)
    write(folder, made, artifact)
    return made


def select_device(name: str) -> torch.device:
    """The device that a name stands for.

    Raises:
        RequestError: the name is none of torch's, or asks for a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"--device {name!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise RequestError(
            f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "devices here; use --device cpu, or see `mibench doctor`"
        )
    return device


def run_folder(cell: Cell) -> Path:
    """Where a cell's results go unless told otherwise."""
    defense = cell.spec.defense.rpartition(":")[2]
    changed = f"-set-{digest(cell.spec.overrides)[:8]}" if cell.spec.overrides else ""
    if cell.spec.budget != 1:
        changed += f"-budget-{cell.spec.budget!r}"
    name = f"{cell.attack.full}_{defense}_{cell.architecture}_seed{cell.spec.seed}{changed}"
    return RUNS / cell.protocol.name / name


def split_of(cell: Cell, folder: Path, progress: Progress) -> Division | None:
    """How the images are divided; None where the protocol draws them itself.

    The split of an image folder is also written to the run folder, which is made for it.

    Raises:
        RequestError: files are missing, unusable or too few, or divide otherwise than the protocol
            pins it.
    """
    options = cell.protocol.data
    if isinstance(options, SynthFacesData):
        return None
    progress.stage("split", "computing")
    split: Division
    if isinstance(options, IdentitySplit):
        split = prepared_split(options, cell.protocol.resolution, cell.spec.data)
        pinned = cell.protocol.split
        if pinned and split.complete and split.split != pinned:
            raise RequestError(
                f"the pictures of {options.dataset} divide otherwise than {cell.protocol.name} "
                f"pins it (split {split.split[:12]}, pinned {pinned[:12]}): their names or "
                "identities are not the published ones; prepare the published files again, or "
                "change protocol.data, which boards refuse"
            )
    else:
        assert cell.spec.root is not None
        split = make_split(cell.spec.root, **options.model_dump())
        folder.mkdir(parents=True, exist_ok=True)
        write_split(split, folder / "split.json")
    progress.stage("split", "done")
    return split
