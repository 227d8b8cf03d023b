"""A user's own pictures, each of which was read once before anything is made of it.

Structure, headers and the number of identities are checked first, so a wrong request fails within
seconds; then every picture is hashed and decoded, which finds truncated ones.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mibench.data.divided import Data
from mibench.data.division import Pictures, copies
from mibench.data.layout import files_in
from mibench.data.pixels import decode, image_bytes, inspect_header, picture
from mibench.data.source import Source, UnusableImage, few, reasons
from mibench.data.sources.folder import Folder
from mibench.data.workers import on_threads
from mibench.errors import RequestError
from mibench.progress import SILENT, Progress

_RESOLUTION = 8  # small, so that JPEG's draft mode makes the check of the contents cheap

_log = logging.getLogger("mibench.data")


class OwnPicturesOptions(Data):
    """How a user's own pictures are read, whatever they are divided into."""

    skip_unreadable: bool = Field(
        False, description="leave out unusable files and list them, instead of refusing the folder"
    )
    image_column: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="column or array of the pictures or of their paths, where the images lie in a "
        "file; None: it is found by its name",
    )
    label_column: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="column or array of who is shown, in the same way",
    )

    @property
    def of_people(self) -> bool:
        """See :class:`mibench.data.divided.Data`."""
        return Folder.card.of_people  # and so of every layout

    @property
    def of_root(self) -> bool:
        """See :class:`mibench.data.divided.Data`."""
        return True


@dataclass(frozen=True, eq=False)
class Album:
    """The pictures of a folder or a file, which are read as they were when they were checked.

    Attributes:
        source: reads the layout.
        root: the folder or the file.
        files: names of the pictures by row, as the source has them.
        sums: SHA-256 of each encoded picture that is used.
    """

    source: Source
    root: str
    files: tuple[str, ...]
    sums: dict[str, str]

    def load(self, rows: Sequence[int], resolution: int, progress: Progress = SILENT) -> Tensor:
        """Decoded pictures ``(n, 3, resolution, resolution)``, ``uint8``.

        Raises:
            RequestError: one is another than it was when it was checked.
        """
        images = torch.empty(len(rows), 3, resolution, resolution, dtype=torch.uint8)
        pixels = images.numpy()  # shares memory: threads write their rows into the tensor

        def load(place: int) -> None:
            pixels[place] = self._decoded(self.files[rows[place]], resolution)

        # In the order in which files that hold many have them.
        on_threads(load, np.argsort(rows, kind="stable").tolist(), progress)
        return images

    def _decoded(self, file: str, resolution: int) -> NDArray[np.uint8]:
        root, remake = Path(self.root), "restore it, or start anew (other numbers follow)"
        shown = self.source.shown(root, file)
        try:
            data = image_bytes(self.source, root, file)
            if hashlib.sha256(data).hexdigest() != self.sums[file]:
                raise RequestError(f"{shown} has changed since the folder was divided: {remake}")
            return decode(data, self.source, resolution)
        except UnusableImage as error:
            raise RequestError(
                f"{shown} {error}, though it was whole when the folder was divided: {remake}"
            ) from error


@dataclass(frozen=True, eq=False)
class Checked(Album):
    """Pictures that were all read.

    Attributes:
        pictures: those that can be used.
        skipped: what was left out, with the reason.
        thumbnails: of each usable row its pixels at a few by a few; pictures of which these differ
            are different.
    """

    pictures: Pictures = field(repr=False)
    skipped: dict[str, str] = field(repr=False)
    thumbnails: dict[int, bytes] = field(repr=False)

    @property
    def album(self) -> Album:
        """What is needed to load them."""
        return Album(self.source, self.root, self.files, self.sums)

    def same(self, other: Checked) -> list[tuple[int, int]]:
        """Pairs of rows, one of each, that show one picture."""
        ours, theirs = set(self.thumbnails.values()), set(other.thumbnails.values())
        found = []
        of_pixels: dict[bytes, int] = {}
        for held, alike in ((self, theirs), (other, ours)):
            rows = [row for row, thumbnail in held.thumbnails.items() if thumbnail in alike]
            for row, pixels in zip(rows, held.pixels(rows), strict=True):
                if held is self:
                    of_pixels[pixels] = row
                elif pixels in of_pixels:
                    found.append((of_pixels[pixels], row))
        return found

    def pixels(self, rows: Sequence[int]) -> list[bytes]:
        """SHA-256 of pictures' pixels in full."""
        return _pixels(self.source, Path(self.root), [self.files[row] for row in rows])


def read_pictures(
    base: Path,
    source: Source,
    *,
    skip_unreadable: bool = False,
    enough: Callable[[Pictures], object] = lambda _: None,
) -> Checked:
    """Check every picture of a folder or a file.

    A picture that is there twice counts once: equal are those whose bytes are, or whose pixels are
    once they are decoded in full; a picture that was scaled, cropped or compressed again is another
    one. All that are left out are listed.

    Args:
        base: the folder or the file.
        source: reads its layout.
        skip_unreadable: leave out unusable files, instead of refusing all.
        enough: raises where there are too few, before any picture is decoded.

    Raises:
        RequestError: something cannot be used; the message names what.
    """
    listing = source.listing(base)
    files, skipped = listing.files, dict(listing.unusable)
    for note in listing.notes:
        _log.warning("%s: %s", base, note)
    if isinstance(source, Folder) and (unread := files_in(base)):
        _log.warning("%s of %s is not read: to use it, name it by --root", few(unread), base)

    def usable() -> Pictures:
        rows = np.array([r for r, file in enumerate(files) if file not in skipped], np.int64)
        found = (listing.names, listing.labels, listing.parts, listing.sources, rows)
        return Pictures(source.card.name, str(base), *found)

    def skip(found: Iterable[tuple[str, str | None]]) -> Pictures:
        skipped.update({file: reason for file, reason in found if reason})
        if skipped and not skip_unreadable:
            raise _refused(base, skipped)
        return usable()

    headers = files if source.separate else ()  # others' are read with all that follows them
    found = on_threads(lambda file: inspect_header(source, base, file), headers)
    pictures = skip(zip(headers, found, strict=True))
    enough(pictures)
    rows = pictures.usable.tolist()
    checked = on_threads(lambda row: _check(source, base, files[row]), rows)
    skip((files[row], reason) for row, (reason, _, _) in zip(rows, checked, strict=True))
    checks = {row: each for row, each in zip(rows, checked, strict=True) if not each[0]}
    # Files whose thumbnails differ are different: few are left to be decoded in full.
    alike = Counter(thumbnail for _, _, thumbnail in checks.values())
    rows = [row for row, (_, _, thumbnail) in checks.items() if alike[thumbnail] > 1]
    groups = defaultdict(list)
    for row, pixels in zip(rows, _pixels(source, base, [files[r] for r in rows]), strict=True):
        groups[pixels].append(row)
    twice = {}
    for row, other, doubtful in copies(groups.values(), listing.labels):
        reason = f"the same picture as {files[other]}"
        twice[files[row]] = f"{reason}, of another identity" if doubtful else reason
    if twice:
        _log.warning(
            "%d pictures of %s are left out, being there more than once: as %s, %s",
            *(len(twice), base, file := min(twice), twice[file]),
        )
        skipped |= twice
    pictures = usable()
    rows = pictures.usable.tolist()
    return Checked(
        source,
        str(base),
        tuple(files),
        {files[row]: checks[row][1] for row in rows},
        pictures,
        skipped,
        {row: checks[row][2] for row in rows},
    )


def _check(source: Source, root: Path, file: str) -> tuple[str, str, bytes]:
    """Why a picture cannot be decoded, if so; its SHA-256, and its pixels at a few by a few."""
    try:
        data = image_bytes(source, root, file)
        thumbnail = decode(data, source, _RESOLUTION).tobytes()
    except UnusableImage as error:
        return str(error), "", b""
    return "", hashlib.sha256(data).hexdigest(), thumbnail


def _pixels(source: Source, root: Path, files: Sequence[str]) -> list[bytes]:
    """SHA-256 of pictures' pixels in full, which were decoded before."""

    def of(file: str) -> bytes:
        try:
            image = picture(image_bytes(source, root, file), source)
        except UnusableImage as error:
            raise RequestError(
                f"{source.shown(root, file)} changed while it was read: {error}"
            ) from error
        return hashlib.sha256(f"{image.size} ".encode() + image.tobytes()).digest()

    return on_threads(of, files)


def _refused(root: Path, skipped: Mapping[str, str]) -> RequestError:
    return RequestError(
        f"{len(skipped)} entries of {root} cannot be used:\n{reasons(sorted(skipped.items()))}\n"
        "Repair or delete them, or leave them out with --set protocol.skip_unreadable=true (the "
        "split file lists them)"
    )
