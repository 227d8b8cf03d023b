"""One picture file: whether it is usable, and its pixels at a resolution; and many at a time.

What decoding does, in this order:

1. Any mode becomes 8-bit RGB: grey and 1-bit images are repeated over the channels, palettes looked
   up, CMYK and YCbCr converted, 16-bit grey divided by 257 and rounded, and transparent pixels
   composited over white. Colour profiles are ignored. Of several frames the first counts.
2. The source's square is cut out, after the published box where there is one.
3. It is resized with an antialiased filter, smaller images being enlarged. An image that has the
   resolution already keeps its pixels exactly.

The papers' data sets are decoded as the papers' released code does it, with torchvision on Pillow
pictures: in full, with the bilinear filter, and without EXIF's orientation, since published boxes
refer to the stored grid. Photographs (:attr:`~mibench.data.source.Source.photographs`) are turned
upright, where an EXIF block that cannot be parsed counts as upright; and libjpeg decodes them at
1/2, 1/4 or 1/8 size as long as the short side keeps at least twice the resolution, so that the
filter still has pixels to average (the rule of Pillow's ``reducing_gap=2``).

This module runs in worker processes, so it imports nothing slow.
"""

from __future__ import annotations

import functools
import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mibench.data.source import Listing, Source, UnusableImage, source_named
from mibench.files import UnusableFile

MAX_PIXELS = 50_000_000  # larger images are refused before they are decoded
MAX_BYTES = 512 * 2**20  # of an image file; MAX_PIXELS of three 16-bit channels take 300 MB

# Pillow would also try formats that start other programs (EPS runs Ghostscript).
_FORMATS = ("JPEG", "MPO", "PNG", "PPM", "BMP", "WEBP", "TIFF")
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def inspect_header(source: Source, root: Path, file: str) -> str | None:
    """Why a picture cannot be used as far as its header tells, or None; no pixel is decoded."""
    try:
        with source.open(root, file) as stream:
            size = stream.seek(0, io.SEEK_END)
            if size == 0:
                return "empty file (0 bytes)"
            if size > MAX_BYTES:
                return f"has more than {MAX_BYTES / 2**20:g} MiB"
            stream.seek(0)
            _open(stream).close()
    except (UnusableImage, UnusableFile) as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return None


def image_bytes(source: Source, root: Path, file: str) -> bytes:
    """An encoded picture that is no larger than any image, else UnusableImage."""
    try:
        with source.open(root, file) as stream:
            data = stream.read(MAX_BYTES + 1)
    except UnusableFile as error:
        raise UnusableImage(str(error)) from error
    except OSError as error:
        raise UnusableImage(f"cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise UnusableImage(f"has more than {MAX_BYTES / 2**20:g} MiB")
    return data


def picture(data: bytes, source: Source, resolution: int | None = None) -> Image.Image:
    """An encoded image as 8-bit RGB, before anything is cut off.

    With ``resolution``, which it is to have, a photograph may be decoded at a reduced size.

    Raises:
        UnusableImage: it is unreadable, truncated, oversized, or of a mode whose value range is
            undefined (32-bit integers, floats).
    """
    with _open(io.BytesIO(data)) as image:
        try:
            if source.photographs and resolution is not None:
                image.draft(None, (2 * resolution, 2 * resolution))
            image.load()
            rgb = _to_rgb(image)
            return _upright(image, rgb) if source.photographs else rgb
        except UnusableImage:
            raise
        # Decoders of broken files raise whatever their parsing runs into.
        except Exception as error:
            raise UnusableImage(f"cannot be decoded: {error or type(error).__name__}") from error


def decode(
    data: bytes,
    source: Source,
    resolution: int,
    crop: int | None = None,
    box: NDArray[np.int32] | None = None,
) -> NDArray[np.uint8]:
    """Pixels of an encoded image, as this module's docstring says.

    Args:
        crop: another side of the central square than the card's.
        box: left, top, right and bottom of the face, in pixels; clipped to the picture.

    Returns:
        ``uint8`` ``(3, resolution, resolution)``, RGB.

    Raises:
        UnusableImage: as :func:`picture`, or it has not the size of the source's pictures.
    """
    rgb = picture(data, source, resolution)
    if box is not None:
        left, top, right, bottom = (int(edge) for edge in box)
        left, top = max(left, 0), max(top, 0)
        right, bottom = min(right, rgb.width), min(bottom, rgb.height)
        if left >= right or top >= bottom:
            raise UnusableImage(f"is {rgb.width}×{rgb.height}: its face's box lies outside it")
        rgb = rgb.crop((left, top, right, bottom))
    return _resized(rgb, source, resolution, crop)


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(file: IO[bytes]) -> Image.Image:
    """Parse an image's header and refuse what should not be decoded."""
    try:
        image = Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        raise UnusableImage(f"not an image in a known format ({', '.join(_formats())})") from None
    except Image.DecompressionBombError:
        raise UnusableImage(f"oversized: more than {MAX_PIXELS / 1e6:g} megapixels") from None
    except Exception as error:
        raise UnusableImage(f"header cannot be read: {error or type(error).__name__}") from error
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        image.close()
        raise UnusableImage(f"oversized: {size} is more than {MAX_PIXELS / 1e6:g} megapixels")
    return image


def _upright(image: Image.Image, rgb: Image.Image) -> Image.Image:
    """Undo the camera's rotation or mirroring, which the opened ``image`` tells of."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return rgb
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode with a defined value range to 8-bit RGB."""
    mode = image.mode
    # Pillow opens 16-bit PNG and PNM files as "I" or "I;16", depending on its version.
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if mode in ("I", "F"):
        raise UnusableImage(f"pixels of mode {mode} have no defined value range")
    if "transparency" in image.info or mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def _resized(
    image: Image.Image, source: Source, resolution: int, crop: int | None
) -> NDArray[np.uint8]:
    """The source's square at a resolution, channels first; a grey picture in three equal ones."""
    image = source.square(image, crop)
    if image.size != (resolution, resolution):
        image = image.resize((resolution, resolution), source.filter)
    pixels = np.asarray(image, dtype=np.uint8)
    if pixels.ndim == 2:
        return np.broadcast_to(pixels, (3, resolution, resolution))
    return pixels.transpose(2, 0, 1)


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows to fill."""

    source: str  # its name, or `file.py:Class`
    root: str
    listing: Listing  # of these rows only
    target: str  # the .npy file of all rows, which exists with its full size
    offset: int  # byte of the file at which the first row begins
    resolution: int
    crop: int | None

    def mark(self, source: Source) -> Path:
        """The file that says that these rows were filled from the originals as they are now."""
        state = originals(source, Path(self.root), self.listing)
        return Path(self.target).with_name(f"{self.offset}-{state}")


def row_digests(rows: NDArray[np.uint8]) -> bytes:
    """Eight bytes of BLAKE2b of each row, one after the other: equal pictures have equal ones."""
    return b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in rows)


def originals(source: Source, root: Path, listing: Listing) -> str:
    """SHA-256 of what tells whether originals are still those that rows were made from.

    Of files, that is size, time of the last change of contents, and time of the last change of
    anything (which no tool that unpacks archives sets back): reading 90 GB again to see that
    nothing changed would take as long as preparing them.
    """
    if listing.pixels is not None:
        return hashlib.sha256(np.ascontiguousarray(listing.pixels).data).hexdigest()
    hashed = hashlib.sha256()
    for file in listing.files:
        try:
            status = source.path(root, file).stat()
            state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        except (OSError, ValueError):
            state = "unreadable"
        hashed.update(f"{file}\t{state}\n".encode("utf-8", "surrogateescape"))
    return hashed.hexdigest()


def fill(chunk: Chunk) -> list[tuple[str, str]]:
    """Decode a chunk's pictures, write its rows, and their digests as its mark.

    Returns:
        The files that cannot be used, each with the reason; if there are any, nothing is written.

    Raises:
        OSError: the rows could not be written.
    """
    source, listing, size = source_named(chunk.source), chunk.listing, chunk.resolution
    mark = chunk.mark(
        source
    )  # before a file is read: one that changes meanwhile will ask for another mark
    rows = np.empty((len(listing), 3, size, size), dtype=np.uint8)
    unusable = []
    with warnings.catch_warnings():
        # Oversized pictures are refused by name, so Pillow's own warning would say it twice.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for row in range(len(listing)):
            if listing.pixels is not None:
                image = Image.fromarray(listing.pixels[row])
                rows[row] = _resized(image, source, size, chunk.crop)
                continue
            box = None if listing.boxes is None else listing.boxes[row]
            try:
                data = image_bytes(source, Path(chunk.root), listing.files[row])
                if listing.sums and listing.sums[row] not in ("", hashlib.sha256(data).hexdigest()):
                    raise UnusableImage(
                        "is not the published picture: its SHA-256 is not that of the list"
                    )
                rows[row] = decode(data, source, size, chunk.crop, box)
            except UnusableImage as error:
                unusable.append((listing.files[row], str(error)))
    if not unusable:
        # Plain writes, not a memory map: a full disk is then an error and not a crash.
        with Path(chunk.target).open("r+b") as file:
            file.seek(chunk.offset)
            file.write(rows.data)
        mark.write_bytes(row_digests(rows))
    return unusable
