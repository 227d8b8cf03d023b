"""Prepared data sets: one folder each, its pictures in one memory-mapped file.

``<data folder>/<name>-<resolution>/`` (with ``-crop<N>`` after it for a crop that was asked for):

========== =====================================================================
images.npy ``uint8`` ``(n, 3, resolution, resolution)``, RGB, rows sorted by source
labels.npy ``int32`` ``(n,)``, positions in the index's ``names``
parts.npy  ``uint8`` ``(n,)``, positions in :data:`mibench.data.source.PARTS`
sources.txt name of each row's picture, one a line
index.json what it is, and the checksums of the files above (:class:`Index`)
========== =====================================================================
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from mibench.data.catalog import NAMES, reader
from mibench.errors import MibenchError, RequestError
from mibench.files import UnusableFile, read_regular, sha256, user_path
from mibench.store.artifact import FileEntry
from mibench.store.store import cache_folder
from mibench.types import Frozen, digest

INDEX = "index.json"
IMAGES, LABELS, ROW_PARTS, SOURCES = "images.npy", "labels.npy", "parts.npy", "sources.txt"
FILES = (IMAGES, LABELS, ROW_PARTS, SOURCES)
PARTIAL = ".{}.partial"  # a folder while it is being prepared, by its final name


class Originals(Frozen):
    """What a prepared folder was made from.

    Attributes:
        root: folder of the originals.
        digest: SHA-256 of their list, with the size and the times of each file.
    """

    root: str
    digest: str


class Index(Frozen):
    """What a prepared folder holds.

    Attributes:
        format: version of the folder's format.
        layout: which of the data set's layouts it was made from.
        crop: the crop that was asked for; None: the data set's own.
        images: number of rows.
        complete: whether the counts are the published ones.
        files: checksum and size of each file; that of ``sources.txt`` is the list of pictures'.
        originals: what it was made from; None: an earlier release made it.
        equal: groups of rows whose pixels are equal; None: an earlier release made it.
        notes: what was left out of the published lists, and why.
        mibench, pillow: versions that made it.
    """

    format: Literal[1] = 1
    dataset: str
    layout: str
    resolution: int
    crop: int | None
    preprocessing: str
    images: int
    complete: bool
    names: tuple[str, ...]
    files: dict[str, FileEntry]
    originals: Originals | None = None
    equal: tuple[tuple[int, ...], ...] | None = None
    notes: tuple[str, ...] = ()
    mibench: str
    pillow: str

    @property
    def digest(self) -> str:
        """SHA-256 of the contents, however they came about."""
        contents = {"dataset", "resolution", "names", "files"}
        return digest(self.model_dump(mode="json", include=contents))


@dataclass(frozen=True)
class Prepared:
    """A prepared data set.

    Attributes:
        images: memory-mapped ``uint8`` ``(n, 3, resolution, resolution)``.
        labels: ``int32`` ``(n,)``, positions in ``names``.
        parts: ``uint8`` ``(n,)``, positions in :data:`mibench.data.source.PARTS`.
    """

    folder: Path
    index: Index
    images: np.memmap[Any, np.dtype[np.uint8]]
    labels: NDArray[np.int32]
    parts: NDArray[np.uint8]

    @property
    def names(self) -> tuple[str, ...]:
        """Identity names, sorted."""
        return self.index.names

    @property
    def digest(self) -> str:
        """SHA-256 of the contents, as the index gives it."""
        return self.index.digest

    def copies(self) -> tuple[set[int], set[int]]:
        """Rows whose pixels are those of an earlier row of their identity, and of another one.

        Both are empty where an earlier release prepared the set, which did not look.
        """
        alike: set[int] = set()
        doubtful: set[int] = set()
        for group in self.index.equal or ():
            if len(set(self.labels[list(group)].tolist())) > 1:
                doubtful.update(group)
            else:
                alike.update(group[1:])
        return alike, doubtful

    @functools.cached_property
    def sources(self) -> Sequence[str]:
        """Name of each row's picture, sorted."""
        try:
            names = read_regular(self.folder / SOURCES, 2**29).decode("utf-8").split("\n")[:-1]
        except (UnusableFile, UnicodeDecodeError) as error:
            raise self._damaged(f"{SOURCES} {error}") from error
        if len(names) != self.index.images:
            raise self._damaged(f"{SOURCES} has {len(names):,} lines, not {self.index.images:,}")
        return names

    def _damaged(self, what: str) -> MibenchError:
        index = self.index
        command = prepare_command(index.dataset, index.resolution, index.crop, self.folder.parent)
        return damaged(self.folder, what, command)

    def rows(self, index: NDArray[np.int64]) -> Tensor:
        """A copy of some rows, ``uint8`` ``(len(index), 3, resolution, resolution)``.

        They are read from the file, not through the memory map, whose pages would count as this
        process's memory a second time.

        Raises:
            MibenchError: the file could not be read.
        """
        result = torch.empty(len(index), *self.images.shape[1:], dtype=torch.uint8)
        path = self.folder / IMAGES
        size = self.images[0].nbytes
        try:
            with path.open("rb", buffering=0) as file:
                for row, target in zip(index.tolist(), result.numpy(), strict=True):
                    file.seek(self.images.offset + row * size)
                    if file.readinto(memoryview(target).cast("B")) != size:
                        raise OSError(0, "the file ends too soon")
        except OSError as error:
            raise MibenchError(
                f"{path} cannot be read ({error.strerror}): see `mibench data check`"
            ) from error
        return result


def data_root(chosen: str | Path | None = None) -> Path:
    """The data folder: ``chosen``, else ``MIBENCH_DATA``, else ``mibench/data`` in the cache."""
    named = os.environ.get("MIBENCH_DATA") or None if chosen is None else chosen
    if named is not None:
        return user_path(named, "the data folder (--data or MIBENCH_DATA)").absolute()
    return cache_folder() / "data"


def folder_name(name: str, resolution: int, crop: int | None = None) -> str:
    """Name of a prepared folder."""
    return f"{name}-{resolution}" + (f"-crop{crop}" if crop else "")


def prepare_command(
    name: str, resolution: int, crop: int | None = None, data_folder: str | Path | None = None
) -> str:
    """The command that prepares a data set, in another data folder than the usual one if named."""
    extra = f" --crop {crop}" if crop else ""
    if data_folder is not None and data_root(data_folder) != data_root():
        extra += f" --data {shlex.quote(str(data_folder))}"
    return f"mibench data prepare {name} --root DIR --resolution {resolution}{extra}"


def open_prepared(
    name: str,
    resolution: int,
    data_folder: str | Path | None = None,
    *,
    crop: int | None = None,
) -> Prepared:
    """Open a prepared data set; nothing is read but its index, labels and the files' headers.

    Args:
        name: one of :data:`mibench.data.catalog.NAMES`.
        resolution: height and width in pixels.
        data_folder: see :func:`data_root`.
        crop: as it was prepared.

    Raises:
        RequestError: it is not there; names the command that prepares it.
        MibenchError: its files are damaged; says how to make it again.
    """
    card = reader(name).card
    folder = data_root(data_folder) / folder_name(name, resolution, crop)
    command = prepare_command(name, resolution, crop, data_folder)
    if not folder.is_dir():
        raise RequestError(
            f"{card.title} is not prepared at {resolution}×{resolution}: looked for {folder} "
            "(--data or MIBENCH_DATA name another data folder). Prepare it with\n"
            f"  {command}\nwhere DIR holds\n{textwrap.indent(card.layout, '  ')}\n{card.how_to_get}"
        )
    index = read_index(folder)
    shape = (index.images, 3, resolution, resolution)
    for name in (IMAGES, LABELS, ROW_PARTS):
        if not (folder / name).is_file():
            raise damaged(folder, f"{name} is missing", command)
    try:
        images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / LABELS, allow_pickle=False)
        parts = np.load(folder / ROW_PARTS, allow_pickle=False)
    # A header that is not what was written may ask for all memory, or for more than there is.
    except (OSError, ValueError, EOFError, MemoryError, OverflowError) as error:
        raise damaged(folder, str(error), command) from error
    if (
        images.shape != shape
        or images.dtype != np.uint8
        or not labels.shape == parts.shape == shape[:1]
    ):
        raise damaged(folder, f"{IMAGES} has not the shape {shape}", command)
    if (
        not np.issubdtype(labels.dtype, np.integer)
        or ((labels < 0) | (labels >= len(index.names))).any()
    ):
        raise damaged(folder, f"{LABELS} names identities that there are not", command)
    return Prepared(folder, index, images, labels, parts)


def read_index(folder: Path) -> Index:
    """The index of a prepared folder.

    Raises:
        MibenchError: it is missing or is not what was written.
    """
    try:
        return Index.model_validate_json(read_regular(folder / INDEX))
    except (UnusableFile, ValidationError) as error:
        valid = isinstance(error, UnusableFile)
        what = str(error) if valid else "cannot be read: it is not a valid index"
        name, resolution, *crop = folder.name.split("-")
        side = int(crop[0].removeprefix("crop")) if crop else None
        command = prepare_command(name, int(resolution), side, folder.parent)
        raise damaged(folder, f"{INDEX} {what}", command) from error


def prepared_folders(data_folder: Path, name: str | None = None) -> list[Path]:
    """Prepared folders of one data set or of all, sorted by name."""
    return _folders(data_folder, name, "{}")


def partial_folders(data_folder: Path, name: str | None = None) -> list[Path]:
    """Folders of preparations that were stopped, and continue with the same command."""
    return _folders(data_folder, name, PARTIAL.replace(".", r"\."))


def _folders(data_folder: Path, name: str | None, form: str) -> list[Path]:
    wanted = NAMES if name is None else (name,)
    made = re.compile(form.format(f"(?:{'|'.join(wanted)})-[0-9]+(?:-crop[0-9]+)?"))
    if not data_folder.exists():
        return []
    try:
        return sorted(p for p in data_folder.iterdir() if made.fullmatch(p.name) and p.is_dir())
    except OSError as error:
        raise RequestError(
            f"the data folder {data_folder} cannot be listed ({error.strerror}): name another "
            "with --data or MIBENCH_DATA"
        ) from error


def verify(folder: Path) -> list[str]:
    """Check a prepared folder's files against their checksums.

    Returns:
        What is wrong, a sentence each that says how to make the folder again; empty when intact.
    """
    try:
        index = read_index(folder)
    except MibenchError as error:
        return [str(error)]
    command = prepare_command(index.dataset, index.resolution, index.crop, folder.parent)
    problems = []
    for name in FILES:
        entry, path = index.files.get(name), folder / name
        if entry is None or not path.is_file():
            problems.append(f"{name} is missing")
        elif (size := path.stat().st_size) != entry.size:
            problems.append(f"{name} has {size:,} bytes instead of {entry.size:,}")
        elif sha256(path) != entry.sha256:
            problems.append(f"the contents of {name} do not match their checksum")
    return [str(damaged(folder, problem, command)) for problem in problems]


def damaged(folder: Path, what: str, command: str) -> MibenchError:
    """An error for a prepared folder that is not what was written."""
    return MibenchError(f"{folder} is damaged ({what}): to make it again, run {command}")
