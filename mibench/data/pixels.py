"""From a picture of a data set to its pixels at a resolution, many at a time.

As the papers' released code does it, with torchvision on Pillow pictures: decode to 8-bit RGB,
crop, resize with the antialiased bilinear filter (a picture that has the resolution already keeps
its pixels). JPEGs are decoded in full: the reduced decoding of :mod:`mibench.data.decode` would
give other pixels. EXIF orientation is ignored, as there: published boxes refer to the stored grid.

This module runs in worker processes, so it imports nothing slow.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mibench.data.catalog import reader
from mibench.data.decode import UnusableImage, image_bytes, open_image, to_rgb
from mibench.data.source import Reader


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows to fill.

    Attributes:
        target: the ``.npy`` file of all rows, which exists with its full size.
        offset: byte of the file at which the chunk's first row begins.
        files: pictures of the rows, relative to ``root``; empty with ``pixels``.
        boxes, pixels, sums: as in :class:`mibench.data.source.Listing`, of these rows only.
    """

    dataset: str
    root: str
    target: str
    offset: int
    resolution: int
    crop: int | None
    files: tuple[str, ...]
    boxes: NDArray[np.int32] | None = None
    pixels: NDArray[np.uint8] | None = None
    sums: tuple[str, ...] = ()


@dataclass(frozen=True)
class Filled:
    """What became of a chunk.

    Attributes:
        rows: :func:`row_digests` of its rows; empty when nothing was written.
        originals: :func:`originals` of what they were made from.
        unusable: the files that could not be used, each with the reason.
    """

    rows: bytes
    originals: str
    unusable: tuple[tuple[str, str], ...] = ()


def row_digests(rows: NDArray[np.uint8]) -> bytes:
    """Eight bytes of BLAKE2b of each row, one after the other: equal pictures have equal ones."""
    return b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in rows)


def originals(root: str, files: Sequence[str], pixels: NDArray[np.uint8] | None) -> str:
    """What tells whether the originals of rows are still those that the rows were made from.

    Of files, that is size, time of the last change of contents, and time of the last change of
    anything (which no tool that unpacks archives sets back): reading 90 GB again to see that
    nothing changed would take as long as preparing them.

    Returns:
        SHA-256 in hexadecimal.
    """
    if pixels is not None:
        return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
    hashed = hashlib.sha256()
    for file in files:
        try:
            status = Path(root, file).stat()
            state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        except (OSError, ValueError):
            state = "unreadable"
        hashed.update(f"{file}\t{state}\n".encode("utf-8", "surrogateescape"))
    return hashed.hexdigest()


def fill(chunk: Chunk) -> Filled:
    """Decode a chunk's pictures and write its rows; nothing is written if one is unusable.

    Raises:
        OSError: the rows could not be written.
    """
    source = reader(chunk.dataset)
    # Before a file is read: one that changes meanwhile is then found to have changed.
    made_from = originals(chunk.root, chunk.files, chunk.pixels)
    count = len(chunk.files) if chunk.pixels is None else len(chunk.pixels)
    rows = np.empty((count, 3, chunk.resolution, chunk.resolution), dtype=np.uint8)
    unusable = []
    with warnings.catch_warnings():
        # Oversized pictures are refused by name, so Pillow's own warning would say it twice.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for row in range(count):
            if chunk.pixels is not None:
                image = Image.fromarray(chunk.pixels[row])
                rows[row] = _resized(source.square(image, chunk.crop), chunk.resolution)
                continue
            box = None if chunk.boxes is None else chunk.boxes[row]
            sum_ = chunk.sums[row] if chunk.sums else ""
            path = Path(chunk.root, chunk.files[row])
            try:
                rows[row] = read(source, path, chunk.resolution, chunk.crop, box, sum_)
            except UnusableImage as error:
                unusable.append((chunk.files[row], str(error)))
    if unusable:
        return Filled(b"", made_from, tuple(unusable))
    # Plain writes, not a memory map: a full disk is then an error and not a crash.
    with Path(chunk.target).open("r+b") as file:
        file.seek(chunk.offset)
        file.write(rows.data)
    return Filled(row_digests(rows), made_from)


def read(
    source: Reader,
    path: Path,
    resolution: int,
    crop: int | None = None,
    box: NDArray[np.int32] | None = None,
    sum_: str = "",
) -> NDArray[np.uint8]:
    """Pixels of one picture file, as this module's docstring says.

    Args:
        source: reader of the data set that the picture belongs to.
        path: the picture.
        resolution: height and width of the result, in pixels.
        crop: another side of the central square than the card's.
        box: left, top, right and bottom of the face, in pixels; clipped to the picture.
        sum_: the published SHA-256 of the file, in hexadecimal; empty: none is.

    Returns:
        ``uint8`` ``(3, resolution, resolution)``, RGB.

    Raises:
        UnusableImage: the file is missing, damaged, not the published one, or not of the data
            set's size.
    """
    data = image_bytes(path)
    if sum_ and hashlib.sha256(data).hexdigest() != sum_:
        raise UnusableImage("is not the published picture: its SHA-256 is not that of the list")
    with open_image(io.BytesIO(data)) as image:
        try:
            image.load()
            plain = image.mode == "RGB" and "transparency" not in image.info
            rgb: Image.Image = image if plain else to_rgb(image)
        except UnusableImage:
            raise
        # Decoders of broken files raise whatever their parsing runs into.
        except Exception as error:
            raise UnusableImage(f"cannot be decoded: {error or type(error).__name__}") from error
        if box is not None:
            left, top, right, bottom = (int(edge) for edge in box)
            left, top = max(left, 0), max(top, 0)
            right, bottom = min(right, rgb.width), min(bottom, rgb.height)
            if left >= right or top >= bottom:
                raise UnusableImage(f"is {rgb.width}×{rgb.height}: its face's box lies outside it")
            rgb = rgb.crop((left, top, right, bottom))
        return _resized(source.square(rgb, crop), resolution)


def _resized(image: Image.Image, resolution: int) -> NDArray[np.uint8]:
    """Channels first; a grey picture in three equal channels."""
    if image.size != (resolution, resolution):
        image = image.resize((resolution, resolution), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    if pixels.ndim == 2:
        return np.broadcast_to(pixels, (3, resolution, resolution))
    return pixels.transpose(2, 0, 1)
