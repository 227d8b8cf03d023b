"""One cell, stage by stage, to a record: the Python API.

This module is imported with the package, so it leaves torch and all else heavy to the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mibench.errors import RequestError
from mibench.progress import SILENT, Progress

if TYPE_CHECKING:
    from mibench.types import Record


def run(
    *,
    protocol: str = "synthfaces-32",
    target: str | None = None,
    defense: str = "none",
    attack: str = "improved-kedmi",
    seed: int = 0,
    root: str | Path | None = None,
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
        protocol: evaluation setting, or ``"folder"`` together with ``root``.
        target: timm architecture; None takes the protocol's own.
        defense: name of a defense, or ``path/to/file.py:Class``.
        attack: name of an attack: ``X``, ``X+lom``, ``X+ma`` or ``improved-X``.
        seed: seed of target, prior, students and attack.
        root: image folder with one sub-folder per identity, for the protocol ``folder``.
        data: folder of data sets that ``mibench data prepare`` made, for the protocols on them;
            None: ``MIBENCH_DATA`` or the user's cache folder.
        overrides: dotted paths and values, as ``{"attack.iterations": 600}``.
        budget: share of all epochs and steps, in (0, 1]; less than 1 is for trying out, and boards
            refuse such records.
        store: folder of cached stages; None: ``MIBENCH_STORE`` or the user's cache folder.
        out: run folder for record, reconstructions and picture, which holds no other cell's
            record; None: below ``mibench-runs/``, under a name that no other cell has.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        progress: told of stages and steps.
        command: what the record states as its command; None reconstructs one.

    Returns:
        The record; also written to ``<out>/record.json`` beside ``reconstructions.safetensors``
        and ``reconstructions.png``.

    Raises:
        RequestError: the request is wrong; raised before anything is computed.
        MibenchError: a stage failed.
    """
    from mibench.pipeline import run_cell
    from mibench.types import RunSpec

    if not 0 < budget <= 1:
        raise RequestError(f"budget {budget}: a share of all epochs and steps, over 0 and up to 1")
    spec = RunSpec(
        protocol=protocol,
        target=target,
        defense=defense,
        attack=attack,
        seed=seed,
        root=None if root is None else str(root),
        data=None if data is None else str(data),
        overrides=dict(overrides or {}),
        budget=budget,
    )
    return run_cell(spec, store=store, out=out, device=device, progress=progress, command=command)
