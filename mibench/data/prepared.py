"""Prepared data sets: artifacts of a store whose root is the data folder.

``<data folder>/<name>-<resolution>/<key>/`` (with ``-crop<N>`` after the resolution for a crop that
was asked for), where the key says what the pictures were made from, and by which code:

========== =====================================================================
images.npy ``uint8`` ``(n, 3, resolution, resolution)``, RGB, in the source's order
labels.npy ``int32`` ``(n,)``, positions in the index's ``names``
parts.npy  ``uint8`` ``(n,)``, positions in :data:`mibench.data.source.PARTS`
sources.txt name of each row's picture, one a line
index.json what it is (:class:`Index`)
========== =====================================================================
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mibench.data.division import Pictures, copies
from mibench.data.source import Source, source_named
from mibench.errors import ArtifactError, MibenchError, RequestError
from mibench.files import user_path
from mibench.store.artifact import Artifact
from mibench.store.store import Store, cache_folder
from mibench.types import Frozen, digest

IMAGES, LABELS, ROW_PARTS, SOURCES = "images.npy", "labels.npy", "parts.npy", "sources.txt"
CONTENTS = (IMAGES, LABELS, ROW_PARTS, SOURCES)
INDEX = "index.json"

_SET = re.compile(r"(?P<name>.+?)-(?P<resolution>[0-9]+)(-crop(?P<crop>[0-9]+))?")


class Index(Frozen):
    """What a prepared set holds."""

    dataset: str
    layout: str  # which of the data set's layouts it was made from
    resolution: int
    crop: int | None  # that was asked for; None: the data set's own
    preprocessing: str
    images: int
    complete: bool  # whether the counts are the published ones
    names: tuple[str, ...]  # of the identities, sorted
    root: str  # where its originals were
    originals: str  # what tells them from others
    equal: tuple[tuple[int, ...], ...]  # groups of rows whose pixels are equal
    notes: tuple[str, ...]  # what was left out of the published lists, and why


class DataFolder(Store):
    """The data folder: a store of prepared sets, each a stage that is called as the set is."""

    what = "the data folder"
    choose = "choose another with --data or MIBENCH_DATA"
    free = f"free some space and repeat the command, which continues, or {choose}"

    def __init__(self, chosen: str | Path | None = None) -> None:
        super().__init__(data_root(chosen))

    def sets(self, name: str | None = None) -> list[str]:
        """The prepared sets of one data set or of all, sorted: ``lfw-64``."""
        try:
            if self.root.exists():
                next(self.root.iterdir(), None)  # the search below would not tell of an error
        except OSError as error:
            raise RequestError(
                f"the data folder {self.root} cannot be listed ({error.strerror}): {self.choose}"
            ) from error
        found = {stage: _SET.fullmatch(stage) for stage, _ in self._artifacts()}
        return [s for s, match in found.items() if match and name in (None, match["name"])]

    def key(self, prepared: str) -> str | None:
        """Key of a prepared set, the one that was made last; None where there is none."""
        keys = [key for stage, key in self._artifacts() if stage == prepared]
        found = {key: self.manifest(prepared, key) for key in keys}
        return max(keys, key=lambda key: getattr(found[key], "created", ""), default=None)

    def folder(self, prepared: str) -> Path:
        return self.root / prepared / (self.key(prepared) or "")

    def problem(self, prepared: str) -> str | None:
        """What is wrong with a prepared set, all of whose files are read, and what to do."""
        try:
            self.open(prepared, self.key(prepared) or "")
        except ArtifactError as error:
            return str(self.damaged(prepared, error))
        return None

    def damaged(self, prepared: str, what: object) -> MibenchError:
        """An error for a prepared set that is not what was written."""
        command = prepare_command(*self.parts(prepared), self.root)
        folder = self.folder(prepared)
        return MibenchError(f"{folder} is damaged ({what}): to make it again, run {command}")

    @staticmethod
    def parts(prepared: str) -> tuple[str, int, int | None]:
        """Data set, resolution and crop."""
        found = _SET.fullmatch(prepared)
        assert found is not None
        return (
            found["name"],
            int(found["resolution"]),
            int(found["crop"]) if found["crop"] else None,
        )

    @contextlib.contextmanager
    def partial(self, prepared: str, plan: str) -> Iterator[Path]:
        """Where a set is prepared, while no other process does so by the same plan.

        It outlives a preparation that is stopped; :meth:`forget` removes it.
        """
        with self._locked(prepared, plan):
            yield self.root / "partial" / f"{prepared}-{plan}"

    def unfinished(self, prepared: str = "*") -> list[Path]:
        """Folders of preparations that were stopped, which the same command continues."""
        return sorted(self.root.glob(f"partial/{prepared}-{'[0-9a-f]' * 64}"))

    def forget(self, prepared: str) -> None:
        """Remove what was stopped of a set that is done, but for what another process works on."""
        for path in self.unfinished(prepared):
            with self._if_free(prepared, path.name[-64:]) as free:
                if free:
                    shutil.rmtree(path, ignore_errors=True)

    def known(self, path: Path, sum_: str) -> None:
        """Spare a file that was just written a second reading: its SHA-256 is this one."""
        self._sha256(path, sum_)


@dataclass(frozen=True)
class Prepared:
    """A prepared data set; its arrays are those of its files, ``images`` memory-mapped.

    Its ``digest`` is the SHA-256 of its contents, however they came about.
    """

    source: Source
    folder: Path
    index: Index
    digest: str
    images: np.memmap[Any, np.dtype[np.uint8]]
    labels: NDArray[np.int32]
    parts: NDArray[np.uint8]
    sources: Sequence[str]

    @property
    def names(self) -> tuple[str, ...]:
        return self.index.names

    @functools.cached_property
    def copies(self) -> tuple[set[int], set[int]]:
        """Rows whose pixels are those of an earlier row of their identity, and of another one."""
        found = list(copies(self.index.equal, self.labels))
        return {r for r, _, doubt in found if not doubt}, {r for r, _, doubt in found if doubt}

    def pictures(self) -> Pictures:
        """What is divided; without copies where nobody has the published pictures."""
        rows = np.arange(len(self.labels))
        if self.source.card.always_partial:
            rows = rows[~np.isin(rows, [row for each in self.copies for row in each])]
        name, where = self.index.dataset, str(self.folder)
        return Pictures(name, where, self.names, self.labels, self.parts, self.sources, rows)

    def rows(self, index: NDArray[np.int64]) -> Tensor:
        """A copy of some rows, ``uint8`` ``(len(index), 3, resolution, resolution)``.

        They are read from the file, not through the memory map, whose pages would count as this
        process's memory a second time.

        Raises:
            MibenchError: the file could not be read.
        """
        result = torch.empty(len(index), *self.images.shape[1:], dtype=torch.uint8)
        path, size = self.folder / IMAGES, self.images[0].nbytes
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


def set_name(name: str, resolution: int, crop: int | None = None) -> str:
    """What a prepared set is called: ``lfw-64``."""
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
    check: bool = False,
) -> Prepared:
    """Open the data set of a source, as it was prepared; pictures are read for ``check`` only.

    Raises:
        RequestError: it is not there; names the command that prepares it.
        MibenchError: its files are damaged; says how to make it again.
    """
    source, data = source_named(name), DataFolder(data_folder)
    card, prepared = source.card, set_name(source.card.name, resolution, crop)
    key = data.key(prepared)
    if key is None:
        raise RequestError(
            f"{card.title} is not prepared at {resolution}×{resolution}: looked for "
            f"{data.root / prepared} (--data or MIBENCH_DATA name another data folder). Prepare it "
            f"with\n  {prepare_command(name, resolution, crop, data_folder)}\nwhere DIR holds\n"
            f"{textwrap.indent(card.layout, '  ')}\n{card.how_to_get}"
        )
    try:
        return opened(source, data.open(prepared, key, () if check else (IMAGES,)))
    except ArtifactError as error:
        raise data.damaged(prepared, error) from error


def opened(source: Source, artifact: Artifact) -> Prepared:
    """A prepared set from its artifact, whose files were checked."""
    folder, files = artifact.path, artifact.manifest.files
    index = Index.model_validate(artifact.load_json(INDEX))
    contents = {name: files[name].model_dump() for name in CONTENTS}
    fields = {"dataset": index.dataset, "resolution": index.resolution, "names": index.names}
    return Prepared(
        source=source,
        folder=folder,
        index=index,
        digest=digest({**fields, "files": contents}),
        images=np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False),
        labels=np.load(folder / LABELS, allow_pickle=False),
        parts=np.load(folder / ROW_PARTS, allow_pickle=False),
        sources=(folder / SOURCES).read_bytes().decode().split("\n")[:-1],
    )
