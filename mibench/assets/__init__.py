"""Pinned files of the ``synthfaces`` protocols, checked by their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mibench.errors import ArtifactError
from mibench.types import Frozen


class Asset(Frozen):
    """A file of this folder and the SHA-256 that it must have."""

    file: str
    sha256: str


def load_json(asset: Asset) -> Any:
    """What a pinned JSON file says.

    Raises:
        ArtifactError: the file is missing or is not the pinned one.
    """
    with _pinned(asset) as path:
        return json.loads(path.read_text(encoding="utf-8"))


def load_asset(asset: Asset) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (as float32) and description of a pinned asset.

    Raises:
        ArtifactError: the file is missing or is not the pinned one.
    """
    with _pinned(asset) as path, safe_open(path, framework="pt") as opened:
        description = json.loads(opened.metadata()["description"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return {name: widened(value) for name, value in tensors.items()}, description


@contextlib.contextmanager
def _pinned(asset: Asset) -> Iterator[Path]:
    """The file of an asset, if it is the pinned one."""
    source = importlib.resources.files(__name__) / asset.file
    with importlib.resources.as_file(source) as path:
        if not path.exists():
            raise ArtifactError(
                f"the pinned asset {asset.file} is not in the installed package; reinstall mibench"
            )
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != asset.sha256:
            raise ArtifactError(
                f"{path} has sha256 {found[:12]}…, the protocol pins {asset.sha256[:12]}…; "
                "reinstall mibench"
            )
        yield path


def widened(value: Tensor) -> Tensor:
    """Half-precision weights as float32; counters stay what they are."""
    return value.float() if value.dtype == torch.float16 else value


def halved(module: nn.Module) -> nn.Module:
    """Round a module's weights to half precision, in place, as an asset stores them."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.half().float()
    return module
