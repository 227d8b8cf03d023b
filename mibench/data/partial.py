"""A data set that is being prepared: its partial folder, filled chunk by chunk.

The folder records which chunks are done, with the digests of their rows and what tells their
originals from others. So a stopped run continues there, notices bytes that never reached the disk,
and makes anew what was made from files that have changed since.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import PIL
from numpy.typing import NDArray

from mibench.data.pixels import Chunk, originals, row_digests
from mibench.data.prepared import IMAGES, INDEX, LABELS, ROW_PARTS, SOURCES, Index, Originals
from mibench.data.source import Listing, Reader
from mibench.data.workers import fill_all
from mibench.errors import MibenchError, RequestError
from mibench.files import UnusableFile, read_regular, sha256, write_atomic
from mibench.progress import Progress
from mibench.store import environment as provenance
from mibench.store.artifact import FileEntry, save_json, sync
from mibench.store.source import code_digest
from mibench.types import digest

CHUNK_BYTES = 4 * 2**20  # of pixels: what a worker holds, and what a killed run loses
_SHOWN = 10  # files that an error message lists
_RECORD_SECONDS = 2.0  # between records of finished chunks
_PLAN, _DONE, _UNUSABLE = "plan.json", "done.json", "unusable.txt"
_SPARE = 2**24  # bytes beside the pictures
# What makes pixels of a picture, beside the reader's own module.
_SOURCES = ("mibench.data.pixels", "mibench.data.decode", "mibench.data.source")


@dataclass(frozen=True)
class Done:
    """A finished chunk: the digests of its rows, and what tells its originals from others."""

    rows: bytes
    originals: str


@dataclass
class Work:
    """The preparation of one data set.

    Attributes:
        source: the data set's reader.
        root: where its originals are.
        folder: the partial folder.
        resolution, crop: as they were asked for.
    """

    source: Reader
    root: Path
    listing: Listing
    folder: Path
    resolution: int
    crop: int | None
    done: dict[int, Done] = field(default_factory=dict)  # by chunk
    header: int = 0  # bytes before the first row
    recorded: float = 0.0

    @property
    def row_bytes(self) -> int:
        return 3 * self.resolution**2

    @property
    def step(self) -> int:
        """Rows of a chunk."""
        return max(1, CHUNK_BYTES // self.row_bytes)

    @property
    def starts(self) -> range:
        """First row of each chunk."""
        return range(0, len(self.listing), self.step)

    def begin(self) -> None:
        """Continue a partial folder that was made for the same work, else make a new one."""
        images = self.folder / IMAGES
        shape = (len(self.listing), 3, self.resolution, self.resolution)
        plan = self._plan()
        if _read_json(self.folder / _PLAN) == plan and (header := _header(images, shape)):
            self.header = header
            self.done = self._intact(_read_done(self.folder / _DONE))
            return
        _remove(self.folder)
        needed = len(self.listing) * self.row_bytes + _SPARE
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder.parent).free
        if free < needed:
            raise MibenchError(
                f"{self.folder.parent} needs {needed / 2**20:,.0f} MiB and has "
                f"{free / 2**20:,.0f}: free some, or choose another folder with --data"
            )
        self.folder.mkdir()
        mapped = np.lib.format.open_memmap(images, mode="w+", dtype=np.uint8, shape=shape)
        self.header = mapped.offset
        del mapped
        save_json(self.folder / _PLAN, plan)

    def fill(self, workers: int, progress: Progress) -> str:
        """Fill all rows; returns the SHA-256 of the file with them.

        Raises:
            RequestError: some pictures are unusable; what could be used stays done.
            MibenchError: originals changed meanwhile.
        """
        todo = [start for start in self.starts if start // self.step not in self.done]
        results = fill_all(map(self._chunk, todo), min(workers, len(todo)))
        unusable: list[tuple[str, str]] = []
        progress.begin(sum(map(self._count, todo)), f"pictures of {self.source.card.name}")
        try:
            with self._written() as file, contextlib.closing(results):
                hashed = hashlib.sha256(file.read(self.header))
                for start in self.starts:
                    count = self._count(start)
                    if start // self.step not in self.done:
                        filled = next(results)
                        unusable += filled.unusable
                        if not filled.unusable:
                            self._record(start // self.step, Done(filled.rows, filled.originals))
                        progress.advance(count)
                    # Here, while the workers decode: no second pass over the file is needed.
                    hashed.update(file.read(count * self.row_bytes))
        finally:
            progress.end()
            self._write_record()
        if unusable:
            raise self._refused(unusable)
        if changed := sum(self._changed(chunk) for chunk in self.done):
            raise MibenchError(
                f"files of {self.root} changed while they were prepared ({changed} of "
                f"{len(self.done)} parts): repeat the command, which makes those anew"
            )
        return hashed.hexdigest()

    def finish(self, images: str, complete: bool) -> None:
        """Write labels, sources and the index beside the pictures, whose SHA-256 is given."""
        for name, array in ((LABELS, self.listing.labels), (ROW_PARTS, self.listing.parts)):
            with (self.folder / name).open("wb") as file:
                np.save(file, array, allow_pickle=False)
        write_atomic(self.folder / SOURCES, self._sources())
        sums = {n: sha256(self.folder / n) for n in (LABELS, ROW_PARTS, SOURCES)} | {IMAGES: images}
        index = Index(
            dataset=self.source.card.name,
            layout=self.listing.layout,
            resolution=self.resolution,
            crop=self.crop,
            preprocessing=self.source.card.preprocessing,
            images=len(self.listing),
            complete=complete,
            originals=originals_of(self.root, self.listing),
            equal=self._equal(),
            notes=self.listing.notes,
            names=self.listing.names,
            files={
                name: FileEntry(sha256=value, size=(self.folder / name).stat().st_size)
                for name, value in sums.items()
            },
            mibench=provenance.package_version("mibench"),
            pillow=PIL.__version__,
        )
        save_json(self.folder / INDEX, index.model_dump(mode="json"))
        for name in (_PLAN, _DONE, _UNUSABLE):
            (self.folder / name).unlink(missing_ok=True)
        for path in (*self.folder.iterdir(), self.folder):
            sync(path)

    def _plan(self) -> dict[str, Any]:
        """What must be equal for a partial folder to be continued."""
        boxes = self.listing.boxes
        return {
            "root": str(self.root),
            "sources": hashlib.sha256(self._sources()).hexdigest(),
            "files": hashlib.sha256("\n".join(self.listing.files).encode()).hexdigest(),
            "resolution": self.resolution,
            "crop": self.crop,
            "step": self.step,
            "boxes": None if boxes is None else hashlib.sha256(boxes.tobytes()).hexdigest(),
            "sums": hashlib.sha256("\n".join(self.listing.sums).encode()).hexdigest(),
            "code": code_digest(*_SOURCES, type(self.source).__module__),
            "preprocessing": self.source.card.preprocessing,
            "pillow": PIL.__version__,
        }

    def _sources(self) -> bytes:
        return "".join(f"{source}\n" for source in self.listing.sources).encode()

    def _count(self, start: int) -> int:
        """Rows of the chunk that begins at a row."""
        return min(self.step, len(self.listing) - start)

    def _chunk(self, start: int) -> Chunk:
        rows = slice(start, start + self.step)
        boxes, pixels = self.listing.boxes, self.listing.pixels
        return Chunk(
            dataset=self.source.card.name,
            root=str(self.root),
            target=str(self.folder / IMAGES),
            offset=self.header + start * self.row_bytes,
            resolution=self.resolution,
            crop=self.crop,
            files=tuple(self.listing.files[rows]),
            boxes=None if boxes is None else boxes[rows],
            pixels=None if pixels is None else pixels[rows],
            sums=tuple(self.listing.sums[rows]),
        )

    def _intact(self, recorded: dict[int, Done]) -> dict[int, Done]:
        """The recorded chunks whose bytes are those that were written, from today's originals."""
        self.done = recorded
        intact = {}
        with self._written() as file:
            for chunk, done in recorded.items():
                start = chunk * self.step
                if start not in self.starts or self._changed(chunk):
                    continue
                file.seek(self.header + start * self.row_bytes)
                rows = np.fromfile(file, np.uint8, self._count(start) * self.row_bytes)
                if row_digests(rows.reshape(-1, self.row_bytes)) == done.rows:
                    intact[chunk] = done
        return intact

    def _changed(self, chunk: int) -> bool:
        """Whether a finished chunk was made from other originals than there are now."""
        now = self._chunk(chunk * self.step)
        return originals(now.root, now.files, now.pixels) != self.done[chunk].originals

    def _equal(self) -> tuple[tuple[int, ...], ...]:
        """Groups of rows whose pixels are equal."""
        digests = b"".join(self.done[start // self.step].rows for start in self.starts)
        numbers = np.frombuffer(digests, dtype=np.uint64)
        _, group, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        rows = np.flatnonzero(counts[group] > 1)
        order = rows[np.argsort(group[rows], kind="stable")]
        groups = np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else []
        return tuple(sorted(tuple(each.tolist()) for each in groups))

    def _written(self) -> BinaryIO:
        """The rows, unbuffered: a buffer would hold rows from before their worker wrote them."""
        return cast(BinaryIO, (self.folder / IMAGES).open("rb", buffering=0))

    def _record(self, chunk: int, done: Done) -> None:
        self.done[chunk] = done
        if time.monotonic() - self.recorded > _RECORD_SECONDS:
            self._write_record()

    def _write_record(self) -> None:
        entries = {str(chunk): [e.rows.hex(), e.originals] for chunk, e in self.done.items()}
        save_json(self.folder / _DONE, entries)
        self.recorded = time.monotonic()

    def _refused(self, unusable: list[tuple[str, str]]) -> RequestError:
        """An error that lists the first unusable files; all of them are written to a file."""
        path = self.folder / _UNUSABLE
        write_atomic(path, "".join(f"{file}\t{reason}\n" for file, reason in unusable).encode())
        lines = [f"  {self.root / file}: {reason}" for file, reason in unusable[:_SHOWN]]
        if len(unusable) > _SHOWN:
            lines.append(f"  ... and {len(unusable) - _SHOWN} more")
        listed = "\n".join(lines)
        return RequestError(
            f"{len(unusable)} pictures of {self.source.card.name} cannot be used:\n{listed}\n"
            f"{path} lists them all. Fetch them again and repeat the command, which continues; or "
            "delete them and pass --incomplete"
        )


def originals_of(root: Path, listing: Listing) -> Originals:
    """Where a data set's originals are, and what tells them and their lists from others."""
    lists: list[NDArray[Any]] = [listing.labels, listing.parts]
    if listing.boxes is not None:
        lists.append(listing.boxes)
    state = [
        originals(str(root), listing.files, listing.pixels),
        listing.names,
        list(listing.sources),
        list(listing.sums),
        *(hashlib.sha256(each.tobytes()).hexdigest() for each in lists),
    ]
    return Originals(root=str(root), digest=digest(state))


def _header(images: Path, shape: tuple[int, ...]) -> int | None:
    """Bytes before the first row of a file that has room for all rows; None: it is none."""
    if not images.is_file():
        return None
    try:
        mapped = np.load(images, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = isinstance(mapped, np.memmap) and mapped.shape == shape and mapped.dtype == np.uint8
    return mapped.offset if fits else None


def _remove(folder: Path) -> None:
    """Remove a partial folder, or whatever has its name; a link's target is left alone."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def _read_json(path: Path) -> Any:
    """A JSON file's value, or None when it is absent or was half-written."""
    try:
        return json.loads(read_regular(path))
    except (UnusableFile, ValueError, RecursionError):
        return None


def _read_done(path: Path) -> dict[int, Done]:
    """The recorded chunks; none when the record is not what was written."""
    try:
        found = _read_json(path).items()
        return {int(chunk): Done(bytes.fromhex(r), str(made)) for chunk, (r, made) in found}
    except (AttributeError, TypeError, ValueError):
        return {}
