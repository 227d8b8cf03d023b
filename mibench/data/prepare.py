"""``mibench data prepare``: a data set's originals become one artifact of the data folder.

A partial folder ``partial/<set>-<plan>`` fills up chunk by chunk, with a record of the chunks that
are done: the digests of their rows, and what tells their originals from others. So a stopped run
continues there, notices bytes that never reached the disk, and makes anew what was made from files
that have changed since. When all is there it moves into the artifact, whose key says what it was
made from.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from mibench.data import prepared
from mibench.data.pixels import Chunk, Filled, fill, originals, row_digests
from mibench.data.prepared import IMAGES, DataFolder, Index, Prepared
from mibench.data.source import SOURCES, Listing, Source, source_named
from mibench.data.workers import cores, in_processes
from mibench.errors import MibenchError, RequestError
from mibench.files import UnusableFile, read_regular, user_path, write_atomic
from mibench.progress import SILENT, Progress
from mibench.store.artifact import save_json
from mibench.store.source import code_digest
from mibench.store.store import stage_key
from mibench.types import digest

CHUNK_BYTES = 4 * 2**20  # of pixels: what a worker holds, and what a killed run loses
_SHOWN = 10  # files that an error message lists
_DONE, _UNUSABLE = "done.txt", "unusable.txt"
_SPARE = 2**24  # bytes beside the pictures

_log = logging.getLogger("mibench.data")


def prepare(
    name: str,
    root: str | Path,
    data_folder: str | Path | None = None,
    resolution: int | None = None,
    *,
    crop: int | None = None,
    download: bool = False,
    incomplete: bool = False,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Prepared:
    """Check a data set's originals, crop and resize them, and store them as one file.

    What is prepared already is checked, opened and returned; it is made again where it is damaged,
    lacks pictures that are not to be missing, or was made from other originals than ``root`` holds
    now or by other code. A run that was stopped continues where it was, and makes anew what was
    made from files that have changed since. Memory does not grow with the set, apart from about 200
    bytes a picture for its name.

    Args:
        name: of a source, or ``file.py:Class``.
        root: where the originals are; see the layout in the data set's card.
        data_folder: see :func:`mibench.data.prepared.data_root`.
        resolution: height and width in pixels; None: the papers' for this data set.
        crop: side of the central square that is kept, in pixels of the originals; None: the card's.
        download: fetch the originals into ``root`` first, where that is possible.
        incomplete: accept other counts and label files than the published ones.
        workers: processes that decode; None: one for each core.
        progress: told of every finished chunk of pictures.

    Raises:
        RequestError: the files are missing, misplaced, damaged or too few, or an option does not
            fit; says what to do.
        MibenchError: the download failed, the disk is full, or the originals changed meanwhile.
    """
    source = source_named(name)
    resolution = resolution or source.card.resolution
    _check_options(source, resolution, crop)
    base = user_path(root, "the folder of originals (--root)").absolute()
    data = DataFolder(data_folder)
    stage = prepared.set_name(source.card.name, resolution, crop)
    held = _held(data, stage, source, incomplete)
    try:
        if download and held is None:
            source.download(base)
        listing, complete = _listed(source, base, incomplete)
    except RequestError:
        if held is None:
            raise
        # What is prepared stays good when its originals are gone.
        listing, complete = None, False
    if held is not None and (listing is None or held.index.complete > complete):
        progress.stage(f"pictures of {source.card.name}", "cached")
        return held
    assert listing is not None
    made_from = originals_of(base, listing)
    code = code_digest("mibench.data.pixels", type(source), *SOURCES.files_of(type(source)))
    inputs = {"dataset": source.card.name, "resolution": resolution, "crop": crop}
    inputs |= {"preprocessing": source.card.preprocessing, "originals": made_from}
    key = stage_key(stage, inputs, None, [], code)
    if held is not None and held.folder.name != key:
        _log.warning(
            "%s was made from other files than %s holds now, or by other code: it is made again",
            *(held.folder, base),
        )
    work = Work(name, base, listing, resolution, crop)

    def compute(folder: Path) -> dict[str, Any]:
        # Other originals are another artifact, but one that was stopped is continued with them.
        with data.partial(stage, work.plan(code)) as partial:
            work.begin(data, partial)
            pictures = work.fill(workers or cores(), progress)
            index = Index(
                dataset=source.card.name,
                layout=listing.layout,
                resolution=resolution,
                crop=crop,
                preprocessing=source.card.preprocessing,
                images=len(listing),
                complete=complete,
                names=listing.names,
                root=str(base),
                originals=made_from,
                equal=work.equal(),
                notes=listing.notes,
            )
            work.finish(folder, index)
            data.known(folder / IMAGES, pictures)
        return {}

    artifact = data.get_or_compute(stage, key, inputs, compute)
    if artifact.cached:
        progress.stage(f"pictures of {source.card.name}", "cached")
    # Of other originals, or by other code; and what was stopped and is of no use any more.
    data.forget(stage)
    data.gc(0, [stage], [key])
    return prepared.opened(source, artifact)


@dataclass
class Work:
    """The preparation of one data set: its partial folder, filled chunk by chunk.

    Attributes:
        source: name of the source, or ``file.py:Class``.
        root: where its originals are.
        folder: the partial folder, once it was begun.
        done: by chunk, the digests of its rows, and what tells its originals from others.
    """

    source: str
    root: Path
    listing: Listing
    resolution: int
    crop: int | None
    folder: Path = Path()
    done: dict[int, tuple[bytes, str]] = field(default_factory=dict)
    header: int = 0  # bytes before the first row

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

    def plan(self, code: str) -> str:
        """SHA-256 of what must be equal for a stopped run to be continued."""
        listing = self.listing
        boxes = None if listing.boxes is None else listing.boxes.tolist()
        parts = [str(self.root), list(listing.sources), list(listing.files), boxes]
        return digest([*parts, list(listing.sums), self.resolution, self.crop, self.step, code])

    def begin(self, data: DataFolder, folder: Path) -> None:
        """Continue what a stopped run has left in the partial folder, else make a new one."""
        self.folder, images = folder, folder / IMAGES
        shape = (len(self.listing), 3, self.resolution, self.resolution)
        if (header := _header(images, shape)) is not None:
            self.header = header
            self.done = _recorded(folder / _DONE)
            self.done = {chunk: done for chunk, done in self.done.items() if self._intact(chunk)}
        else:
            if folder.exists():
                shutil.rmtree(folder)
            data.require_space(len(self.listing) * self.row_bytes + _SPARE)
            folder.mkdir(parents=True)
            mapped = np.lib.format.open_memmap(images, mode="w+", dtype=np.uint8, shape=shape)
            self.header = mapped.offset
        with (folder / _DONE).open("w") as record:  # what is not intact is forgotten
            record.writelines(_line(chunk, *done) for chunk, done in self.done.items())

    def fill(self, workers: int, progress: Progress) -> str:
        """Fill all rows; returns the SHA-256 of the file with them.

        Raises:
            RequestError: some pictures are unusable; what could be used stays done.
            MibenchError: originals changed meanwhile.
        """
        todo = [start for start in self.starts if start // self.step not in self.done]
        results = in_processes(fill, map(self._chunk, todo), min(workers, len(todo)))
        unusable: list[tuple[str, str]] = []
        title = source_named(self.source).card.name
        progress.begin(sum(map(self._count, todo)), f"pictures of {title}")
        try:
            with (
                self._written() as file,
                (self.folder / _DONE).open("a") as record,
                contextlib.closing(results),
            ):
                hashed = hashlib.sha256(file.read(self.header))
                for start in self.starts:
                    count, chunk = self._count(start), start // self.step
                    if chunk not in self.done:
                        filled: Filled = next(results)
                        unusable += filled.unusable
                        if not filled.unusable:
                            self.done[chunk] = filled.rows, filled.originals
                            record.write(_line(chunk, *self.done[chunk]))
                            record.flush()
                        progress.advance(count)
                    # Here, while the workers decode: no second pass over the file is needed.
                    hashed.update(file.read(count * self.row_bytes))
        finally:
            progress.end()
        if unusable:
            raise self._refused(title, unusable)
        if changed := sum(self._changed(chunk) for chunk in self.done):
            raise MibenchError(
                f"files of {self.root} changed while they were prepared ({changed} of "
                f"{len(self.done)} parts): repeat the command, which makes those anew"
            )
        return hashed.hexdigest()

    def finish(self, folder: Path, index: Index) -> None:
        """Move the pictures into a folder, and write labels, sources and the index beside them."""
        np.save(folder / prepared.LABELS, self.listing.labels, allow_pickle=False)
        np.save(folder / prepared.ROW_PARTS, self.listing.parts, allow_pickle=False)
        sources = "".join(f"{source}\n" for source in self.listing.sources)
        write_atomic(folder / prepared.SOURCES, sources.encode())
        save_json(folder / prepared.INDEX, index.model_dump(mode="json"))
        (self.folder / IMAGES).rename(folder / IMAGES)

    def equal(self) -> tuple[tuple[int, ...], ...]:
        """Groups of rows whose pixels are equal."""
        digests = b"".join(self.done[start // self.step][0] for start in self.starts)
        numbers = np.frombuffer(digests, dtype=np.uint64)
        _, group, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        rows = np.flatnonzero(counts[group] > 1)
        order = rows[np.argsort(group[rows], kind="stable")]
        groups = np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else []
        return tuple(sorted(tuple(each.tolist()) for each in groups))

    def _count(self, start: int) -> int:
        """Rows of the chunk that begins at a row."""
        return min(self.step, len(self.listing) - start)

    def _chunk(self, start: int) -> Chunk:
        rows = slice(start, start + self.step)
        boxes, pixels = self.listing.boxes, self.listing.pixels
        return Chunk(
            source=self.source,
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

    def _intact(self, chunk: int) -> bool:
        """Whether a recorded chunk's bytes are those that were written, from today's originals."""
        start = chunk * self.step
        if start not in self.starts or self._changed(chunk):
            return False
        with self._written() as file:
            file.seek(self.header + start * self.row_bytes)
            rows = np.fromfile(file, np.uint8, self._count(start) * self.row_bytes)
        return row_digests(rows.reshape(-1, self.row_bytes)) == self.done[chunk][0]

    def _changed(self, chunk: int) -> bool:
        """Whether a finished chunk was made from other originals than there are now."""
        now = self._chunk(chunk * self.step)
        return originals(now.root, now.files, now.pixels) != self.done[chunk][1]

    def _written(self) -> BinaryIO:
        """The rows, unbuffered: a buffer would hold rows from before their worker wrote them."""
        return cast(BinaryIO, (self.folder / IMAGES).open("rb", buffering=0))

    def _refused(self, title: str, unusable: Sequence[tuple[str, str]]) -> RequestError:
        """An error that lists the first unusable files; all of them are written to a file."""
        path = self.folder / _UNUSABLE
        write_atomic(path, "".join(f"{file}\t{reason}\n" for file, reason in unusable).encode())
        lines = [f"  {self.root / file}: {reason}" for file, reason in unusable[:_SHOWN]]
        if len(unusable) > _SHOWN:
            lines.append(f"  ... and {len(unusable) - _SHOWN} more")
        listed = "\n".join(lines)
        return RequestError(
            f"{len(unusable)} pictures of {title} cannot be used:\n{listed}\n"
            f"{path} lists them all. Fetch them again and repeat the command, which continues; or "
            "delete them and pass --incomplete"
        )


def stale(made: Prepared) -> bool:
    """Whether the originals of a prepared set are others now than those that it was made from.

    Originals that are there no more, or fewer than a complete set's, say nothing against it.
    """
    try:
        listing, complete = _listed(made.source, Path(made.index.root), incomplete=True)
    except RequestError:
        return False
    if made.index.complete and not complete:
        return False
    return originals_of(Path(made.index.root), listing) != made.index.originals


def originals_of(root: Path, listing: Listing) -> str:
    """What tells a data set's originals and their lists from others, as SHA-256."""
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
    return digest(state)


def _held(data: DataFolder, stage: str, source: Source, incomplete: bool) -> Prepared | None:
    """The set as it is prepared already, if it is intact, and complete if it has to be."""
    key = data.key(stage)
    artifact = data.find(stage, key) if key else None
    if artifact is None:
        return None
    made = prepared.opened(source, artifact)
    return made if incomplete or made.index.complete else None


def _listed(source: Source, root: Path, incomplete: bool) -> tuple[Listing, bool]:
    """The data set's pictures, and whether their counts are the published ones.

    Raises:
        RequestError: there is no such folder, it cannot be entered, does not hold the data set, or
            less of it than was published and nobody said that it may.
    """
    card = source.card
    try:
        if not root.is_dir():
            raise source.refuse(f"there is no folder {root}")
        listing = source.listing(root, incomplete=incomplete)
    except OSError as error:
        raise source.refuse(f"{error.filename or root} cannot be read: {error.strerror}") from error
    if listing.unusable:
        path, reason = min(listing.unusable.items())
        raise source.refuse(f"{path}: {reason}")
    for name in (*listing.files, *listing.sources):
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = ascii(name)
            raise source.refuse(
                f"the file name {shown} is not UTF-8: unpack the archive again with a tool that "
                "keeps its names, or rename the file"
            ) from None
        if "\n" in name:
            raise source.refuse(f"the file name {name!r} holds a line break: rename the file")
    complete = card.published in (None, (len(listing), len(listing.names)))
    if not complete and not incomplete:
        found, published = f"{len(listing):,} pictures", f"{card.images:,}"
        if card.identities:
            found += f" of {len(listing.names):,} identities"
            published += f" of {card.identities:,}"
        advice = (
            "all of them cannot be had any more;"
            if card.always_partial
            else "fetch what is missing or remove what was added, or"
        )
        raise source.refuse(
            f"found {found}, published are {published}: {advice} pass --incomplete to use "
            "what there is (the counts are recorded)."
        )
    return listing, complete


def _check_options(source: Source, resolution: int, crop: int | None) -> None:
    card = source.card
    if resolution < 1:
        raise RequestError(f"--resolution {resolution}: at least 1 pixel")
    if crop is None:
        return
    if card.crop_of is None:
        raise RequestError(
            f"--crop: pictures of {card.name} are not cropped ({card.preprocessing})"
        )
    if not 1 <= crop <= min(card.crop_of):
        raise RequestError(
            f"--crop {crop}: {card.name} is cropped to 1 to {min(card.crop_of)} pixels of "
            f"{card.crop_of[0]}×{card.crop_of[1]}; {card.crop} without --crop"
        )


def _header(images: Path, shape: tuple[int, ...]) -> int | None:
    """Bytes before the first row of a file that has room for all rows; None: it is none."""
    try:
        mapped = np.load(images, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = isinstance(mapped, np.memmap) and mapped.shape == shape and mapped.dtype == np.uint8
    return mapped.offset if fits else None


def _line(chunk: int, rows: bytes, made_from: str) -> str:
    return f"{chunk} {made_from} {rows.hex()}\n"


def _recorded(path: Path) -> dict[int, tuple[bytes, str]]:
    """The chunks that a stopped run has recorded, but for lines that are not what was written."""
    found = {}
    with contextlib.suppress(UnusableFile):
        for line in read_regular(path, 2**30).decode("ascii", "replace").splitlines():
            with contextlib.suppress(ValueError):
                chunk, made_from, rows = line.split(" ")
                found[int(chunk)] = bytes.fromhex(rows), made_from
    return found
