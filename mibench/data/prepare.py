"""``mibench data prepare``: a data set's originals become one memory-mapped file.

A partial folder ``.<name>-<resolution>.partial`` fills up chunk by chunk, with a record of the
chunks that are done and of their checksums; a stopped run continues there. When all is there it is
renamed, so under its final name a folder is complete or absent.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from mibench.data import prepared
from mibench.data.catalog import reader
from mibench.data.decode import cores
from mibench.data.partial import Work, originals_of
from mibench.data.prepared import PARTIAL, Prepared
from mibench.data.source import Listing, Reader
from mibench.errors import MibenchError, RequestError
from mibench.files import user_path, write_atomic
from mibench.progress import SILENT, Progress
from mibench.store.artifact import sync

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
    now. A run that was stopped continues where it was, and makes anew what was made from files
    that have changed since. Memory does not grow with the set, apart from about 200 bytes a picture
    for its name.

    Args:
        name: one of :data:`mibench.data.catalog.NAMES`.
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
        MibenchError: the download failed, the disk is full, another process is preparing it, or the
            originals changed meanwhile.
    """
    source = reader(name)
    resolution = resolution or source.card.resolution
    _check_options(source, resolution, crop)
    base = prepared.data_root(data_folder)
    final = base / prepared.folder_name(name, resolution, crop)
    root = user_path(root, "the folder of originals (--root)").absolute()
    if _usable(final, root, incomplete):
        progress.stage(f"pictures of {name}", "cached")
        return prepared.open_prepared(name, resolution, base, crop=crop)
    with _alone(base, final.name):
        if _usable(final, root, incomplete):  # another process made it meanwhile
            return prepared.open_prepared(name, resolution, base, crop=crop)
        if download:
            source.download(root)
        listing = _list(source, root, incomplete)
        _check_names(source, listing)
        complete = _check_counts(source, listing, incomplete)
        work = Work(source, root, listing, base / PARTIAL.format(final.name), resolution, crop)
        with _explained(base):
            work.begin()
            digest = work.fill(workers or cores(), progress)
            work.finish(digest, complete)
            _replace(final, work.folder)
            sync(base)
    return prepared.open_prepared(name, resolution, base, crop=crop)


def _replace(final: Path, made: Path) -> None:
    """Put a finished folder in its place; of one that is there with equal contents, the index."""
    intact = final.is_dir() and not prepared.verify(final)
    if intact and prepared.read_index(final).digest == prepared.read_index(made).digest:
        write_atomic(final / prepared.INDEX, (made / prepared.INDEX).read_bytes())
        shutil.rmtree(made)
        return
    if final.exists():  # damaged, less complete, or made from other originals
        shutil.rmtree(final)
    made.rename(final)


def stale(folder: Path, root: Path | None = None) -> bool:
    """Whether the originals are others than those that a prepared folder was made from.

    Originals that are there no more, or fewer than a complete set's, say nothing against it.

    Args:
        folder: prepared, with a valid index.
        root: where the originals are now; None: where they were.
    """
    index = prepared.read_index(folder)
    if index.originals is None:
        return False
    source, place = reader(index.dataset), root or Path(index.originals.root)
    try:
        listing = _list(source, place, incomplete=True)
    except RequestError:
        return False
    if index.complete and not _has_published_counts(source, listing):
        return False
    return originals_of(place, listing).digest != index.originals.digest


def _usable(folder: Path, root: Path, incomplete: bool) -> bool:
    """Whether a set was prepared from these originals, is intact, and complete if it has to be."""
    if not folder.is_dir() or prepared.verify(folder):
        return False
    if not (incomplete or prepared.read_index(folder).complete):
        return False
    if stale(folder, root):
        _log.warning(
            "%s was made from other files than %s holds now: it is made again", folder, root
        )
        return False
    return True


def _list(source: Reader, root: Path, incomplete: bool) -> Listing:
    """The data set's pictures.

    Raises:
        RequestError: there is no such folder, it cannot be entered, or does not hold the data set.
    """
    try:
        if not root.is_dir():
            raise source.refuse(f"there is no folder {root}")
        return source.listing(root, incomplete=incomplete)
    except OSError as error:
        raise source.refuse(f"{error.filename or root} cannot be read: {error.strerror}") from error


def _check_options(source: Reader, resolution: int, crop: int | None) -> None:
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


def _check_names(source: Reader, listing: Listing) -> None:
    """Refuse names that the list of pictures, which is UTF-8, cannot hold."""
    for name in (*listing.files, *listing.sources):
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = ascii(name)
            raise source.refuse(
                f"the file name {shown} is not UTF-8: unpack the archive again with a tool that "
                "keeps its names, or rename the file"
            ) from None


def _check_counts(source: Reader, listing: Listing, incomplete: bool) -> bool:
    """Whether the counts are the published ones.

    Raises:
        RequestError: they are not, and that was not accepted.
    """
    card = source.card
    complete = _has_published_counts(source, listing)
    found, published = f"{len(listing):,} pictures", f"{card.images:,}"
    if card.identities:
        found += f" of {len(listing.names):,} identities"
        published += f" of {card.identities:,}"
    if not complete and not incomplete:
        advice = (
            "all of them cannot be had any more;"
            if card.always_partial
            else "fetch what is missing or remove what was added, or"
        )
        raise source.refuse(
            f"found {found}, published are {published}: {advice} pass --incomplete to use "
            "what there is (the counts are recorded)."
        )
    return complete


def _has_published_counts(source: Reader, listing: Listing) -> bool:
    card = source.card
    return (len(listing), len(listing.names)) == (card.images, card.identities or card.images)


@contextlib.contextmanager
def _alone(base: Path, name: str) -> Iterator[None]:
    """Keep other processes from preparing the same."""
    try:
        base.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(base / f".{name}.lock")
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise MibenchError(
            f"another process is preparing {base / name}: wait until it is done"
        ) from error
    except OSError as error:
        raise RequestError(
            f"the data folder {base} cannot be written ({error.strerror}): choose another with "
            "--data or MIBENCH_DATA"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _explained(base: Path) -> Iterator[None]:
    """Turn errors of the disk into what to do."""
    try:
        yield
    except OSError as error:
        raise MibenchError(
            f"cannot write in the data folder {base}: {error.strerror or error}; free some space "
            "and repeat the command, which continues, or choose another folder with --data"
        ) from error
