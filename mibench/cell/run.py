"""One cell, from a request to its record."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mibench.cell.enough import require_enough
from mibench.cell.graph import Graph
from mibench.cell.record import claim, make_record, run_folder, write
from mibench.cell.request import Request, check_device, make_request
from mibench.cell.resolve import Cell, check, resolve
from mibench.cell.stage import Bench, Stage, has
from mibench.data.divided import Divided
from mibench.errors import DivergedError, RequestError
from mibench.files import output_folder
from mibench.progress import SILENT, Progress
from mibench.record import AUDIT, Record
from mibench.settings import NEEDED_BYTES
from mibench.store.hub import Hub, source_of
from mibench.store.store import Store, default_root
from mibench.types import Preset


def run(
    *,
    protocol: str = "synthfaces-32",
    target: str | None = None,
    defense: str = "none",
    attack: str = "improved-kedmi",
    prior: str | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    preset: Preset | None = None,
    data: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    budget: float = 1.0,
    store: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    hub: str | None = None,
    progress: Progress = SILENT,
    command: str | None = None,
) -> Record:
    """Run one cell and return its record; stages that the store holds are not computed again.

    Args:
        protocol: evaluation setting: a name, ``"folder"`` together with ``root``, or your own as
            ``path/to/mine.toml`` or ``path/to/mine.py:CARD``.
        target: timm architecture; None takes the protocol's own.
        defense: name of a defense, or ``path/to/file.py:Class``.
        attack: name of an attack: ``X``, ``X+lom``, ``X+ma`` or ``improved-X``.
        prior: kind of the attacker's image prior, a name or ``path/to/file.py:Class``; None takes
            the attack's own.
        seed: seed of target, prior, students and attack, from 0 to 2⁶³ − 1.
        root: image folder with one sub-folder per identity, or a file or folder in another of the
            layouts of :mod:`mibench.data.layout`, for the protocol ``folder``.
        preset: ``"small"`` or ``"paper"``, sizes of the protocol ``folder``; None: ``"paper"``
            where there is a GPU, else ``"small"``.
        data: folder of data sets that ``mibench data prepare`` made, for the protocols on them;
            None: ``MIBENCH_DATA`` or the user's cache folder.
        overrides: dotted paths and values, as ``{"attack.iterations": 600}``.
        budget: share of all epochs and steps, and of what is attacked and judged, in (0, 1]; less
            than 1 is for trying out, and boards refuse such records.
        store: folder of cached stages; None: ``MIBENCH_STORE`` or the user's cache folder.
        out: run folder for record, reconstructions and report, which holds no other cell's
            record; None: below ``mibench-runs/``, under a name that no other cell has.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``; auto takes a CUDA GPU
            where there is one, else the CPU.
        hub: URL of a hub that stages are taken from before they are computed; None:
            ``MIBENCH_HUB``, or no hub.
        progress: told of stages and steps.
        command: what the record states as its command; None reconstructs one.

    Returns:
        The record; also written to ``<out>/record.json`` beside ``reconstructions.safetensors``,
        ``reconstructions.png`` and ``report.html``.

    Raises:
        RequestError: the request is wrong; raised before anything is computed.
        MibenchError: a stage failed.
    """
    check_device(device)
    store = None if store is None else output_folder(store, "the store")
    out = None if out is None else output_folder(out, "the run folder")
    request = make_request(
        protocol=protocol,
        target=target,
        defense=defense,
        attack=attack,
        prior=prior,
        seed=seed,
        root=None if root is None else str(root),
        preset=preset,
        data=None if data is None else str(data),
        overrides={} if overrides is None else overrides,
        budget=budget,
    )
    source = source_of(hub, progress)
    return run_cell(request, store, out, device, progress, command, source).record


@dataclass(frozen=True)
class Finished:
    """A cell's record and the folder that holds it."""

    record: Record
    folder: Path


def run_cell(
    request: Request,
    store: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    command: str | None = None,
    hub: Hub | None = None,
) -> Finished:
    """Run the cell that is asked for; :func:`run` says what the arguments mean."""
    cell = check(resolve(settled(request)))
    bench = open_bench(store or default_root(), device, progress, hub)
    bench.store.require_space(NEEDED_BYTES)
    graph = Graph(cell, divide(cell, progress))
    folder = claim(out or run_folder(cell, graph.images), cell, graph.images)
    todo = graph.needed(lambda stage: has(stage, bench.store, hub))
    progress.expect([stage.name for stage in todo])
    for stage in todo:
        compute(stage, graph, bench)
        if stage is graph.target and bench.get(graph.target).diverged:
            break  # nothing else is needed
    return Finished(finish(graph, bench, folder, command), folder)


def compute(stage: Stage[Any], graph: Graph, bench: Bench) -> None:
    """Compute one stage, or find it in the store; but for the last, only on a target that trained.

    A student or an attack that diverges is no error here: what reads them says so.
    """
    with graph.cell.contained(), contextlib.suppress(DivergedError):
        last = stage in (graph.metrics, graph.picture)
        if last or graph.target not in stage.parents or not bench.get(graph.target).diverged:
            bench.get(stage)


def finish(graph: Graph, bench: Bench, folder: Path, command: str | None) -> Record:
    """Write the run folder of a cell, computing what is missing."""
    with graph.cell.contained():
        record = make_record(graph, bench, command)
        write(folder, record, graph, bench)
    return record


def divide(cell: Cell, progress: Progress) -> Divided:
    """The images of a cell, each of which has its use. Nothing is written.

    Raises:
        RequestError: files are missing, unusable or too few, or divide otherwise than the protocol
            pins it; or there is too little of something that the cell needs.
    """
    card, request = cell.protocol, cell.request
    drawn = not (request.root or card.data.sets)
    if not drawn:
        progress.stage("split", "computing")
    divided = card.data.divide(
        resolution=card.resolution,
        root=request.root,
        data=request.data,
        progress=progress,
        **cell.places,
    )
    if card.split and divided.complete and divided.split != card.split:
        sets = " and ".join(name for name, _ in card.data.sets)
        raise RequestError(
            f"the pictures of {sets} divide otherwise than {card.name} pins it (split "
            f"{str(divided.split)[:12]}, pinned {card.split[:12]}): their names or identities are "
            "not the published ones; prepare the published files again, or change protocol.data, "
            "which boards refuse"
        )
    require_enough(cell, divided)
    if not drawn:
        progress.stage("split", "done")
    return divided


def settled(request: Request) -> Request:
    """The request with what it leaves to this machine stated: others may resolve it elsewhere.

    That is the size of the protocols ``folder`` and ``audit``: the papers' where there is a GPU.
    """
    if request.protocol not in ("folder", AUDIT) or request.preset is not None:
        return request
    preset = "paper" if torch.cuda.is_available() else "small"
    return request.model_copy(update={"preset": preset})


def open_bench(store: Path, device: str, progress: Progress, hub: Hub | None = None) -> Bench:
    """A bench at a store, on the device that a name stands for (:func:`select_device`).

    From here on this process's convolutions on GPUs are in full single precision: cuDNN's default
    there, TF32, keeps 10 bits of each factor, and images would be ranked otherwise than on a CPU.

    Raises:
        RequestError: the device is none, or not on this machine.
    """
    torch.backends.cudnn.allow_tf32 = False
    return Bench(Store(store), select_device(device), progress, hub)


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
