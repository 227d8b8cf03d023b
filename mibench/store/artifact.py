"""One artifact: its manifest, its files, and writing files so that none is ever half there."""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import ConfigDict, ValidationError, field_validator
from torch import Tensor

from mibench.errors import ArtifactError
from mibench.files import sha256, write_atomic
from mibench.record import Environment
from mibench.store import environment
from mibench.types import Frozen, canonical_json, digest

MANIFEST = "manifest.json"


class FileEntry(Frozen):
    """Checksum and size in bytes of one file."""

    sha256: str
    size: int


class Manifest(Frozen):
    """What an artifact is, and how it came about.

    Attributes:
        inputs: what its key was made of.
        files: by path relative to the artifact, with forward slashes.
        maker: the code, versions and machine that made it, whoever reads it later; None in
            artifacts of mibench before there was this field, which no key names any more.
        cost: what computing it cost, as its stage reported it.
        checksum: SHA-256 of all other fields.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    stage: str
    inputs: dict[str, Any]
    files: dict[str, FileEntry]
    maker: Environment | None = None
    created: str
    cost: dict[str, Any]
    checksum: str

    @field_validator("files")
    @classmethod
    def _lie_below(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            odd = set(name) & {"\\", ":", "\0"} or {"", ".", ".."} & set(name.split("/"))
            if odd or name == MANIFEST:
                raise ValueError(f"{name!r} is no file of an artifact")
        return files

    @property
    def mibench(self) -> str | None:
        """Version of mibench that made it."""
        return self.maker.mibench if self.maker else None


@dataclass(frozen=True)
class Artifact:
    """A verified artifact; ``cached`` tells whether it had been computed before."""

    path: Path
    manifest: Manifest
    cached: bool

    def file(self, name: str) -> Path:
        """Path of one of the artifact's files.

        Raises:
            ArtifactError: the artifact has no such file.
        """
        if name not in self.manifest.files:
            held = ", ".join(sorted(self.manifest.files))
            raise ArtifactError(f"{self.manifest.stage} artifact {self.path} has no {name}: {held}")
        return self.path / name

    def load_tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors of a safetensors file, on the CPU."""
        path = self.file(name)
        try:
            return safetensors.torch.load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise ArtifactError(f"cannot read {path}: {error}") from error

    def load_json(self, name: str) -> Any:
        """Value of a JSON file."""
        path = self.file(name)
        try:
            return json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ArtifactError(f"cannot read {path}: {error}") from error


def save_tensors(
    path: Path, tensors: dict[str, Tensor], texts: dict[str, str] | None = None
) -> None:
    """Write tensors from any device, and texts about them, to a safetensors file, atomically."""
    own: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory (tied weights, rows of a larger tensor).
        if value.untyped_storage().data_ptr() in storages:
            value = value.clone()
        storages.add(value.untyped_storage().data_ptr())
        own[name] = value
    write_atomic(path, safetensors.torch.save(own, texts))


def save_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON with sorted keys, atomically; NaN is refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def make_manifest(
    folder: Path,
    stage: str,
    key: str,
    inputs: dict[str, Any],
    cost: dict[str, Any],
    device: torch.device | str,
    sha256: Callable[[Path], str] = sha256,
) -> Manifest:
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "size": path.stat().st_size}
        for path in folder.rglob("*")
        if path.is_file()
    }
    fields = {
        "key": key,
        "stage": stage,
        "inputs": inputs,
        "files": files,
        "maker": environment.environment(device).model_dump(mode="json"),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cost": cost,
    }
    fields = json.loads(canonical_json(fields))  # as it will be read: tuples become lists
    return Manifest(**fields, checksum=digest(fields))


def parse_manifest(folder: Path, stage: str, key: str) -> Manifest:
    """Manifest of an artifact's folder; ArtifactError when it is not what was written."""
    path = folder / MANIFEST
    try:
        fields = json.loads(path.read_bytes())
        manifest = Manifest(**fields)
        del fields["checksum"]
        intact = digest(fields) == manifest.checksum
    except (OSError, ValueError, TypeError, RecursionError, ValidationError) as error:
        why = "it is none" if isinstance(error, ValidationError) else error
        raise ArtifactError(f"corrupt {stage} artifact: {path} cannot be read ({why})") from error
    if not intact:
        raise ArtifactError(f"corrupt {stage} artifact: {path} does not match its checksum")
    if (manifest.stage, manifest.key) != (stage, key):
        raise ArtifactError(
            f"corrupt {stage} artifact: {path} belongs to {manifest.stage}/{manifest.key}"
        )
    return manifest


def sync(path: Path) -> None:
    """Have the disk hold a file or folder, so that a rename never outlives what it names."""
    if sys.platform == "win32" and path.is_dir():
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
