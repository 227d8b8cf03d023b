"""Pinned files, checked by their SHA-256: those of this folder, and networks of the user's own."""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
import lzma
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor, nn

from mibench.errors import ArtifactError
from mibench.files import user_path
from mibench.types import Frozen


class Asset(Frozen):
    """A file and the SHA-256 that it must have."""

    file: str = Field(
        min_length=1, description="a file of the package's, or a path: `./arcface.safetensors`"
    )
    sha256: str = Field(
        description="what it must be; of a packed file (`.xz`), that of what it holds"
    )

    @property
    def of_package(self) -> bool:
        """Whether it is a file of this folder."""
        return not any(separator in self.file for separator in ("/", "\\"))


def load_json(asset: Asset) -> Any:
    """What a pinned JSON file says.

    Raises:
        ArtifactError: the file is missing or is not the pinned one.
    """
    return json.loads(_content(asset)[1])


def load_asset(asset: Asset) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (as float32) and description of a pinned asset, empty where it has none.

    Safetensors, or a state dict as PyTorch writes it, which is read with ``weights_only=True``: no
    code of the file runs.

    Raises:
        ArtifactError: the file is missing, is not the pinned one, or holds something else.
    """
    path, content = _content(asset)
    try:
        if path.suffix in (".safetensors", ".xz"):
            tensors = safetensors.torch.load(content)
            length = int.from_bytes(content[:8], "little")  # the format's header is JSON
            said = json.loads(content[8 : 8 + length]).get("__metadata__", {})
            description = json.loads(said.get("description", "{}"))
        else:
            tensors = torch.load(io.BytesIO(content), "cpu", weights_only=True)
            tensors, description = tensors.get("state_dict", tensors), {}
        return {name: widened(value) for name, value in tensors.items()}, description
    except Exception as error:  # whatever a file of another kind raises
        raise ArtifactError(
            f"{path} holds no tensors that can be read ({type(error).__name__}: {error}): mibench "
            "reads safetensors, and state dicts that torch.load(…, weights_only=True) reads"
        ) from error


def _content(asset: Asset) -> tuple[Path, bytes]:
    """The file of an asset and what it holds, unpacked, if that is the pinned one."""
    if asset.of_package:
        path = Path(str(importlib.resources.files(__name__) / asset.file))
        where, remedy = "in the installed package", "reinstall mibench"
    else:
        path = user_path(asset.file, "the path of a pinned network")
        where, remedy = f"at {path.absolute()}", "restore it, or name the file that is meant"
    if not path.is_file():
        raise ArtifactError(f"the pinned asset {asset.file} is not {where}; {remedy}")
    content = path.read_bytes()
    if path.suffix == ".xz":
        try:
            content = lzma.decompress(content)
        except lzma.LZMAError as error:
            raise ArtifactError(f"{path} is damaged ({error}); {remedy}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != asset.sha256:
        raise ArtifactError(
            f"{path} has sha256 {found[:12]}…, the protocol pins {asset.sha256[:12]}…; {remedy}"
        )
    return path, content


def widened(value: Tensor) -> Tensor:
    """Half-precision weights as float32; counters stay what they are."""
    return value.float() if value.dtype == torch.float16 else value


def halved(module: nn.Module) -> nn.Module:
    """Round a module's weights to half precision, in place, as an asset stores them."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.half().float()
    return module
