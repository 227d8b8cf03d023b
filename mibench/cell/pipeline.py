"""What a run does: select the place, go through the stages, assemble and write the record."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import ValidationError

from mibench.cell.enough import require_enough
from mibench.cell.keys import Task, needed
from mibench.cell.request import Request, check_device
from mibench.cell.resolve import PARTS, Cell, resolve
from mibench.cell.results import IMAGES, RECORD, record, references, result, write
from mibench.cell.stages import Stages
from mibench.data.division import Division, prepared_split
from mibench.data.folder import make_split, write_split
from mibench.data.identity_split import IdentitySplit
from mibench.data.rendered import SynthFacesData
from mibench.data.splits import FolderSplit
from mibench.errors import DivergedError, RequestError
from mibench.progress import Progress
from mibench.record import Record
from mibench.registry import contained
from mibench.settings import plain_settings, setting_token
from mibench.store.store import NEEDED_BYTES, Store, default_root
from mibench.types import canonical_json, digest

RUNS = Path("mibench-runs")
SPLIT = "split.json"
_LONGEST_NAME = 200  # bytes; file systems take 255


def run_cell(
    spec: Request,
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
    split = split_of(cell, progress)
    images = None if split is None else split.digest
    folder = Path(out) if out is not None else run_folder(cell, images)
    claim(folder, cell, images)
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
    cell = stages.cell
    with contained(cell.defense_class, cell.attack_class), contextlib.suppress(DivergedError):
        work[name]()


def finish(stages: Stages, folder: Path, command: str | None) -> Record:
    """Write the run folder of a cell, computing what is missing.

    The split of an image folder is written beside the record.
    """
    with contained(stages.cell.defense_class, stages.cell.attack_class):
        artifact = result(stages)
        made = record(stages, artifact, command)
    if isinstance(stages.split, FolderSplit):
        write_split(stages.split, folder / SPLIT)
    write(folder, made, artifact)
    return made


def select_device(name: str) -> torch.device:
    """The device that a name stands for; ``auto`` is a CUDA GPU where there is one, else the CPU.

    Raises:
        RequestError: it is no name of a device that mibench computes on, or is not on this machine.
    """
    check_device(name)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise RequestError(
            f"--device {name}: torch {torch.__version__} sees {gpus} CUDA devices here; use "
            "--device cpu, or see `mibench doctor`"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RequestError(
            f"--device mps: torch {torch.__version__} finds no GPU of Apple's here; use --device "
            "cpu, or see `mibench doctor`"
        )
    return device


def run_folder(cell: Cell, images: str | None) -> Path:
    """Where a cell's results go unless told otherwise: its name holds all that they depend on.

    ``<attack>_<defense>[-<settings>]_<architecture>_seed<N>`` as on boards, where a method of
    someone else has a digest of its code, and other settings, a budget and images that the
    protocol does not draw itself follow.

    Args:
        images: digest of these images (of the :class:`~mibench.data.division.Division`), or None.
    """
    spec = cell.spec
    mains = {k: v for k, v in spec.overrides.items() if k.startswith(("defense.", "target."))}
    others = {k: v for k, v in spec.overrides.items() if k not in mains}
    attack = cell.attack.full + _digest_of(cell.attack_source)
    defense = cell.defense_name + _digest_of(cell.defense_source)
    defense += f"-{setting_token(mains)}" if mains else ""
    name = f"{attack}_{defense}_{cell.architecture}_seed{spec.seed}"
    name += f"-set-{setting_token(others)}" if others else ""
    name += f"-{spec.preset}" if spec.preset is not None else ""
    name += f"-budget-{spec.budget!r}" if spec.budget != 1 else ""
    name += f"-data{_digest_of(images)}" if images else ""
    if len(name.encode()) > _LONGEST_NAME:
        name = f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{digest(name)[:8]}"
    return RUNS / (cell.protocol.name + _digest_of(cell.protocol_source)) / name


def _digest_of(source: str | None) -> str:
    return f"-{source[:8]}" if source else ""


def claim(folder: Path, cell: Cell, images: str | None) -> None:
    """Make a cell's run folder, unless it holds another cell's record.

    Raises:
        RequestError: it does, or it cannot be made; raised before anything is computed.
    """
    path = folder / RECORD
    try:
        folder.mkdir(parents=True, exist_ok=True)
        old = Record.model_validate_json(path.read_bytes()) if path.exists() else None
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{RECORD} there is no record"
        raise RequestError(f"the run folder {folder} cannot be used: {reason}") from error
    if old is None:
        return
    mine = {
        "protocol": cell.protocol.name,
        "target": cell.architecture,
        "defense": cell.defense_name,
        "attack": cell.attack.full,
        "seed": cell.spec.seed,
        "settings": plain_settings([cell.passed(part) for part in PARTS]),
    }
    theirs = {
        "protocol": old.protocol.name,
        "target": old.target.name,
        "defense": old.defense.name,
        "attack": old.attack.name,
        "seed": old.seed,
        "settings": plain_settings([getattr(old, part).passed for part in PARTS]),
    }
    if images and IMAGES in old.artifacts:
        mine[IMAGES], theirs[IMAGES] = images, old.artifacts[IMAGES]
    # As JSON, for a record's lists may have been tuples.
    other = [name for name in mine if canonical_json(mine[name]) != canonical_json(theirs[name])]
    if other:
        raise RequestError(
            f"the run folder {folder} holds the record of another cell, which would be lost "
            f"({old.attack.name} against {old.target.name} under {old.defense.name} on "
            f"{old.protocol.name}, seed {old.seed}; it differs in {', '.join(other)}): name "
            "another one with --out, or remove that record"
        )


def split_of(cell: Cell, progress: Progress) -> Division | None:
    """How the images are divided; None where the protocol draws them itself. Nothing is written.

    Raises:
        RequestError: files are missing, unusable or too few, or divide otherwise than the protocol
            pins it; or there is too little of something that the cell needs.
    """
    options = cell.protocol.data
    if isinstance(options, SynthFacesData):
        require_enough(cell, None)
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
    require_enough(cell, split)
    progress.stage("split", "done")
    return split
