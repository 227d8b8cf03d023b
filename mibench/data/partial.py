"""A data set that is being prepared: its partial folder, filled chunk by chunk.

The folder records which chunks are done, and the checksum of each, so that a stopped run continues
there and notices bytes that never reached the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import PIL

from mibench import provenance
from mibench.artifacts import FileEntry, save_json, sync
from mibench.data.pixels import Chunk
from mibench.data.prepared import IMAGES, INDEX, LABELS, ROW_PARTS, SOURCES, Index
from mibench.data.source import Listing, Reader
from mibench.data.workers import fill_all
from mibench.errors import MibenchError, RequestError
from mibench.files import sha256, write_atomic
from mibench.progress import Progress

CHUNK_BYTES = 4 * 2**20  # of pixels: what a worker holds, and what a killed run loses
_SHOWN = 10  # files that an error message lists
_RECORD_SECONDS = 2.0  # between records of finished chunks
_PLAN, _DONE, _UNUSABLE = "plan.json", "done.json", "unusable.txt"
_SPARE = 2**24  # bytes beside the pictures


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
    done: dict[int, int] = field(default_factory=dict)  # checksum by chunk
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
        if _read_json(self.folder / _PLAN) == plan and images.exists():
            self.header = images.stat().st_size - len(self.listing) * self.row_bytes
            self.done = self._intact(_read_json(self.folder / _DONE) or {})
            return
        shutil.rmtree(self.folder, ignore_errors=True)
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
                            self._record(start // self.step, filled.checksum)
                        progress.advance(count)
                    # Here, while the workers decode: no second pass over the file is needed.
                    hashed.update(file.read(count * self.row_bytes))
        finally:
            progress.end()
            self._write_record()
        if unusable:
            raise self._refused(unusable)
        return hashed.hexdigest()

    def finish(self, digest: str, complete: bool) -> None:
        """Write labels, sources and the index beside the pictures."""
        for name, array in ((LABELS, self.listing.labels), (ROW_PARTS, self.listing.parts)):
            with (self.folder / name).open("wb") as file:
                np.save(file, array, allow_pickle=False)
        write_atomic(self.folder / SOURCES, self._sources())
        sums = {n: sha256(self.folder / n) for n in (LABELS, ROW_PARTS, SOURCES)} | {IMAGES: digest}
        index = Index(
            dataset=self.source.card.name,
            layout=self.listing.layout,
            resolution=self.resolution,
            crop=self.crop,
            preprocessing=self.source.card.preprocessing,
            images=len(self.listing),
            complete=complete,
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
        )

    def _intact(self, recorded: dict[str, int]) -> dict[int, int]:
        """The recorded chunks whose bytes are still those that were written."""
        intact = {}
        with self._written() as file:
            for text, checksum in recorded.items():
                start = int(text) * self.step
                file.seek(self.header + start * self.row_bytes)
                if zlib.crc32(file.read(self._count(start) * self.row_bytes)) == checksum:
                    intact[int(text)] = checksum
        return intact

    def _written(self) -> BinaryIO:
        """The rows, unbuffered: a buffer would hold rows from before their worker wrote them."""
        return cast(BinaryIO, (self.folder / IMAGES).open("rb", buffering=0))

    def _record(self, chunk: int, checksum: int) -> None:
        self.done[chunk] = checksum
        if time.monotonic() - self.recorded > _RECORD_SECONDS:
            self._write_record()

    def _write_record(self) -> None:
        save_json(self.folder / _DONE, {str(chunk): value for chunk, value in self.done.items()})
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


def _read_json(path: Path) -> Any:
    """A JSON file's value, or None when it is absent or was half-written."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
