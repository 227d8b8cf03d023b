"""``mibench data prepare``: a data set's originals become one artifact of the data folder.

A partial folder ``partial/<set>-<plan>`` fills up chunk by chunk. What is done has a mark: a file
whose name says what the originals were, and that holds the digests of the rows. So a stopped run
continues there, notices bytes that never reached the disk, and makes anew what was made from
files that have changed since. When all is there it moves into the artifact, whose key says what it
was made from.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mibench.data.lists import keep_lists, read_lists
from mibench.data.pixels import Chunk, fill, originals, row_digests
from mibench.data.prepared import (
    IMAGES,
    INDEX,
    LABELS,
    ROW_PARTS,
    DataFolder,
    Index,
    Prepared,
    opened,
    set_name,
)
from mibench.data.prepared import SOURCES as SOURCE_NAMES
from mibench.data.source import SOURCES, DatasetCard, Listing, Source, reasons, source_named
from mibench.data.workers import cores, in_processes
from mibench.errors import MibenchError, RequestError
from mibench.files import output_folder, user_path, write_atomic
from mibench.progress import SILENT, Progress
from mibench.store.artifact import save_json
from mibench.store.source import code_digest
from mibench.store.store import stage_key
from mibench.types import digest

CHUNK_BYTES = 4 * 2**20  # of pixels: what a worker holds, and what a killed run loses
_UNUSABLE = "unusable.txt"
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
    lists: str | Path | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Prepared:
    """Check a data set's originals, crop and resize them, and store them as one file.

    What is prepared already is checked and returned; it is made again where it is damaged, lacks
    pictures that are not to be missing, or was made from other originals than ``root`` holds now or
    by other code. Memory does not grow with the set, apart from about 200 bytes a picture for its
    name.

    Args:
        name: of a source, or ``file.py:Class``.
        root: where the originals are; see the layout in the data set's card.
        data_folder: see :func:`mibench.data.prepared.data_root`.
        resolution: height and width in pixels; None: the papers' for this data set.
        crop: side of the central square that is kept, in pixels of the originals; None: the card's.
        download: fetch the originals into ``root`` first, where that is possible.
        incomplete: accept other counts and label files than the published ones.
        lists: folder of the published lists that divide this data set, to be kept beside it; see
            :mod:`mibench.data.lists`.
        workers: processes that decode; None: one for each core.
        progress: told of every finished chunk of pictures.

    Raises:
        RequestError: the files are missing, misplaced, damaged or too few, or an option does not
            fit; says what to do.
        MibenchError: the download failed, the disk is full, or the originals changed meanwhile.
    """
    source = source_named(name)
    card, resolution = source.card, resolution or source.card.resolution
    _check_options(card, resolution, crop)
    base = user_path(root, "the folder of originals (--root)").absolute()
    brought = None
    if lists is not None:
        brought = read_lists(source, user_path(lists, "the folder of published lists (--lists)"))
    data, stage = DataFolder(data_folder), set_name(card.name, resolution, crop)
    key = data.key(stage)
    artifact = data.find(stage, key) if key else None
    held = opened(source, artifact) if artifact else None
    if held is not None and not (incomplete or held.index.complete):
        held = None
    try:
        if download and held is None:
            source.download(base)
        listing, complete = _listed(source, base, incomplete)
    except RequestError:
        if held is None:
            raise
        listing, complete = None, False  # what is prepared stays good when its originals are gone
    if brought is not None:
        keep_lists(source, brought, data.root)
    if held is not None and (listing is None or held.index.complete > complete):
        progress.stage(f"pictures of {card.name}", "cached")
        return held
    assert listing is not None
    output_folder(data.root, "the data folder")
    code = code_digest("mibench.data.pixels", type(source), *SOURCES.files_of(type(source)))
    made_from = originals_of(source, base, listing)
    inputs = {"dataset": card.name, "resolution": resolution, "crop": crop}
    inputs |= {"preprocessing": card.preprocessing, "originals": made_from}
    key = stage_key(stage, inputs, None, [], code)
    if held is not None and held.folder.name != key:
        _log.warning(
            "%s was made from other files than %s holds now, or by other code: it is made again",
            *(held.folder, base),
        )
    row_bytes = 3 * resolution**2
    step = max(1, CHUNK_BYTES // row_bytes)  # rows of a chunk
    header = io.BytesIO()
    shape = (len(listing), 3, resolution, resolution)
    fields = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    head = header.getvalue()
    # What a stopped run is continued with: also with originals that were repaired.
    texts = [list(each) for each in (listing.sources, listing.files, listing.sums)]
    boxes = None if listing.boxes is None else listing.boxes.tolist()
    plan = digest([str(base), texts, boxes, resolution, crop, step, code])

    def compute(folder: Path) -> dict[str, Any]:
        with data.partial(stage, plan) as partial:
            chunks = []
            for start in range(0, len(listing), step):
                rows, offset = (
                    listing.rows(slice(start, start + step)),
                    len(head) + start * row_bytes,
                )
                target = str(partial / IMAGES)
                chunks.append(Chunk(name, str(base), rows, target, offset, resolution, crop))
            pictures, equal = _fill(chunks, head, data, workers or cores(), progress)
            index = Index(
                **inputs,
                layout=listing.layout,
                images=len(listing),
                complete=complete,
                names=listing.names,
                root=str(base),
                equal=equal,
                notes=listing.notes,
            )
            save_json(folder / INDEX, index.model_dump(mode="json"))
            np.save(folder / LABELS, listing.labels, allow_pickle=False)
            np.save(folder / ROW_PARTS, listing.parts, allow_pickle=False)
            names = "".join(f"{source}\n" for source in listing.sources)
            write_atomic(folder / SOURCE_NAMES, names.encode())
            (partial / IMAGES).rename(folder / IMAGES)
            data.known(folder / IMAGES, pictures)
        return {}

    artifact = data.get_or_compute(stage, key, inputs, compute)
    if artifact.cached:
        progress.stage(f"pictures of {card.name}", "cached")
    data.forget(stage)
    data.gc(0, [stage], [key])  # of other originals, or by other code
    return opened(source, artifact)


def _fill(
    chunks: Sequence[Chunk], head: bytes, data: DataFolder, workers: int, progress: Progress
) -> tuple[str, tuple[tuple[int, ...], ...]]:
    """Fill the chunks' file; returns its SHA-256, and groups of rows whose pixels are equal.

    Raises:
        RequestError: some pictures are unusable; what could be used stays done.
        MibenchError: originals changed meanwhile.
    """
    images, root = Path(chunks[0].target), Path(chunks[0].root)
    source, row_bytes = source_named(chunks[0].source), 3 * chunks[0].resolution ** 2
    name = source.card.name
    size = chunks[-1].offset + len(chunks[-1].listing) * row_bytes
    if not images.is_file() or images.stat().st_size != size:
        shutil.rmtree(images.parent, ignore_errors=True)
        data.require_space(size + _SPARE)
        images.parent.mkdir(parents=True)
        with images.open("wb") as file:
            file.write(head)
            file.truncate(size)
    todo = {chunk.offset: chunk for chunk in chunks if not chunk.mark(source).is_file()}
    results = in_processes(fill, todo.values(), min(workers, len(todo)))
    unusable: list[tuple[str, str]] = []
    hashed = hashlib.sha256(head)
    progress.begin(sum(len(chunk.listing) for chunk in todo.values()), f"pictures of {name}")
    try:
        # Unbuffered: a buffer would hold rows from before their worker wrote them.
        with images.open("rb", buffering=0) as file, contextlib.closing(results):
            for chunk in chunks:
                fresh, shape = chunk.offset in todo, (len(chunk.listing), row_bytes)
                if fresh:
                    unusable += next(results)
                    progress.advance(len(chunk.listing))
                if unusable:
                    continue
                # Here, while the workers decode: no second pass over the file is needed.
                file.seek(chunk.offset)
                rows = np.fromfile(file, np.uint8, math.prod(shape))
                if (
                    not fresh
                    and row_digests(rows.reshape(shape)) != chunk.mark(source).read_bytes()
                ):
                    unusable += fill(chunk)  # it never reached the disk
                    file.seek(chunk.offset)
                    rows = np.fromfile(file, np.uint8, math.prod(shape))
                hashed.update(rows.data)
    finally:
        progress.end()
    if unusable:
        raise _unusable(images.with_name(_UNUSABLE), root, source, unusable)
    marks = [chunk.mark(source) for chunk in chunks]
    if changed := sum(not mark.is_file() for mark in marks):
        raise MibenchError(
            f"files of {root} changed while they were prepared ({changed} of {len(chunks)} parts): "
            "repeat the command, which makes those anew"
        )
    groups: dict[bytes, list[int]] = defaultdict(list)
    digests = b"".join(mark.read_bytes() for mark in marks)
    for row in range(len(digests) // 8):
        groups[digests[8 * row : 8 * row + 8]].append(row)
    return hashed.hexdigest(), tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _unusable(
    path: Path, root: Path, source: Source, unusable: Sequence[tuple[str, str]]
) -> RequestError:
    """An error that lists the first unusable files; all of them are written to a file."""
    write_atomic(path, "".join(f"{file}\t{reason}\n" for file, reason in unusable).encode())
    return RequestError(
        f"{len(unusable)} pictures of {source.card.name} cannot be used:\n"
        + reasons([(source.shown(root, file), reason) for file, reason in unusable])
        + f"\n{path} lists them all. Fetch them again and repeat the command, which continues; or "
        "delete them and pass --incomplete"
    )


def stale(made: Prepared) -> bool:
    """Whether the originals of a prepared set are others now than those that it was made from.

    Originals that are there no more, or fewer than a complete set's, say nothing against it.
    """
    root = Path(made.index.root)
    try:
        listing, complete = _listed(made.source, root, incomplete=True)
    except RequestError:
        return False
    if made.index.complete > complete:
        return False
    return originals_of(made.source, root, listing) != made.index.originals


def originals_of(source: Source, root: Path, listing: Listing) -> str:
    """What tells a data set's originals and their lists from others, as SHA-256."""
    arrays = (each for each in (listing.labels, listing.parts, listing.boxes) if each is not None)
    sums = [hashlib.sha256(each.tobytes()).hexdigest() for each in arrays]
    names = [listing.names, list(listing.sources), list(listing.sums)]
    return digest([originals(source, root, listing), *names, *sums])


def _listed(source: Source, root: Path, incomplete: bool) -> tuple[Listing, bool]:
    """The data set's pictures, and whether their counts are the published ones.

    Raises:
        RequestError: there is no such folder, it cannot be entered, does not hold the data set, or
            less of it than was published and nobody said that it may.
    """
    card = source.card
    try:
        if not (root.is_file() if source.of_one_file else root.is_dir()):
            what = "file" if source.of_one_file else "folder"
            raise source.refuse(f"there is no {what} {root}")
        listing = source.listing(root, incomplete=incomplete)
    except OSError as error:
        raise source.refuse(f"{error.filename or root} cannot be read: {error.strerror}") from error
    if listing.unusable:
        raise source.refuse("\n" + reasons(sorted(listing.unusable.items())))
    if not len(listing):
        raise source.refuse(f"there is no picture in {root}")
    for name in (*listing.files, *listing.sources):
        if "\n" in name or name.encode(errors="replace").decode() != name:
            raise source.refuse(
                f"the file name {name!a} is not UTF-8, or holds a line break: unpack the "
                "archive again with a tool that keeps its names, or rename the file"
            )
    found, published = (len(listing), len(listing.names)), (card.images, card.identities)
    complete = card.images is None or found == (card.images, card.identities or card.images)
    if not complete and not incomplete:
        counts = [f"{found[0]:,} pictures", f"{published[0]:,}"]
        if card.identities:
            counts = [f"{counts[0]} of {found[1]:,} identities", f"{counts[1]} of {published[1]:,}"]
        advice = (
            "all of them cannot be had any more;"
            if card.always_partial
            else "fetch what is missing or remove what was added, or"
        )
        raise source.refuse(
            f"found {counts[0]}, published are {counts[1]}: {advice} pass --incomplete to use what "
            "there is (the counts are recorded)."
        )
    return listing, complete


def _check_options(card: DatasetCard, resolution: int, crop: int | None) -> None:
    if resolution < 1:
        raise RequestError(f"--resolution {resolution}: at least 1 pixel")
    if crop is not None and card.crop_of is None:
        raise RequestError(
            f"--crop: pictures of {card.name} are not cropped ({card.preprocessing})"
        )
    if crop is not None and card.crop_of and not 1 <= crop <= min(card.crop_of):
        raise RequestError(
            f"--crop {crop}: {card.name} is cropped to 1 to {min(card.crop_of)} pixels of "
            f"{card.crop_of[0]}×{card.crop_of[1]}; {card.crop} without --crop"
        )
