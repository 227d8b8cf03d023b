"""One cell, stage by stage, to a record: the Python API.

This module is imported with the package, so it leaves torch and all else heavy to the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mibench.progress import SILENT, Progress

if TYPE_CHECKING:
    from mibench.record import Record
    from mibench.types import Preset


def run(
    *,
    protocol: str = "synthfaces-32",
    target: str | None = None,
    defense: str = "none",
    attack: str = "improved-kedmi",
    seed: int = 0,
    root: str | Path | None = None,
    preset: Preset | None = None,
    data: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    budget: float = 1.0,
    store: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
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
        seed: seed of target, prior, students and attack, from 0 to 2⁶³ − 1.
        root: image folder with one sub-folder per identity, for the protocol ``folder``.
        preset: ``"small"`` or ``"paper"``, sizes of the protocol ``folder``; None: ``"paper"``
            where there is a GPU, else ``"small"``.
        data: folder of data sets that ``mibench data prepare`` made, for the protocols on them;
            None: ``MIBENCH_DATA`` or the user's cache folder.
        overrides: dotted paths and values, as ``{"attack.iterations": 600}``.
        budget: share of all epochs and steps, and of what is attacked and judged, in (0, 1]; less
            than 1 is for trying out, and boards refuse such records.
        store: folder of cached stages; None: ``MIBENCH_STORE`` or the user's cache folder.
        out: run folder for record, reconstructions and picture, which holds no other cell's
            record; None: below ``mibench-runs/``, under a name that no other cell has.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``; auto takes a CUDA GPU
            where there is one, else the CPU.
        progress: told of stages and steps.
        command: what the record states as its command; None reconstructs one.

    Returns:
        The record; also written to ``<out>/record.json`` beside ``reconstructions.safetensors``
        and ``reconstructions.png``.

    Raises:
        RequestError: the request is wrong; raised before anything is computed.
        MibenchError: a stage failed.
    """
    from mibench.cell.request import check_device, make_request
    from mibench.files import output_folder

    check_device(device)
    store = None if store is None else output_folder(store, "the store")
    out = None if out is None else output_folder(out, "the run folder")
    spec = make_request(
        protocol=protocol,
        target=target,
        defense=defense,
        attack=attack,
        seed=seed,
        root=None if root is None else str(root),
        preset=preset,
        data=None if data is None else str(data),
        overrides={} if overrides is None else overrides,
        budget=budget,
    )
    from mibench.cell.pipeline import run_cell  # imports torch

    return run_cell(spec, store=store, out=out, device=device, progress=progress, command=command)
