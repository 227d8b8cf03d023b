"""One image file: whether it is usable, and its pixels at a protocol's resolution.

What decoding does, in this order:

1. JPEG ``draft`` mode: libjpeg decodes at 1/2, 1/4 or 1/8 size as long as the short side keeps at
   least twice the resolution, so the antialiasing filter below still has pixels to average (the
   rule of Pillow's ``reducing_gap=2``). Photographs of several megapixels load much faster.
2. EXIF orientation is applied; an EXIF block that cannot be parsed counts as upright.
3. Any mode becomes 8-bit RGB: grey and 1-bit images are repeated over the channels, palettes looked
   up, CMYK and YCbCr converted, 16-bit grey divided by 257 and rounded, and transparent pixels
   composited over white. Colour profiles are ignored. Of several frames the first counts.
4. The central square is cropped (an odd pixel stays at the right or bottom).
5. It is resized with Pillow's antialiased LANCZOS filter, smaller images being enlarged. An image
   that has the resolution already keeps its pixels exactly.
"""

from __future__ import annotations

import functools
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mibench.files import UnusableFile, read_regular

SUFFIXES: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".bmp", ".webp", ".tif", ".tiff"}
)
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

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with the number of files done and their total."""


class UnusableImage(Exception):  # noqa: N818  (it is a finding, not always an error)
    """A file that is no usable image; the message is the reason, without the file's name."""


def is_image_name(name: str) -> bool:
    """Whether a file name has one of the accepted extensions, in any case."""
    return Path(name).suffix.lower() in SUFFIXES


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def on_all_cores(
    function: Callable[[Item], Result], items: Sequence[Item], progress: Progress | None = None
) -> list[Result]:
    """``function`` of every item, in order, on one thread per core (Pillow releases the GIL)."""
    with warnings.catch_warnings():
        # Oversized images are refused by name, so Pillow's own warning would say it twice.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with ThreadPoolExecutor(max_workers=cores()) as pool:
            return list(_counted(pool.map(function, items), len(items), progress))


def _counted(results: Iterable[Result], total: int, progress: Progress | None) -> Iterable[Result]:
    for done, result in enumerate(results, start=1):
        yield result
        if progress is not None:
            progress(done, total)


def inspect_header(path: Path) -> str | None:
    """Why a file cannot be used as far as its header tells, or None; no pixel is decoded."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        if status.st_size == 0:
            return "empty file (0 bytes)"
        if status.st_size > MAX_BYTES:
            return f"has more than {MAX_BYTES / 2**20:g} MiB"
        with path.open("rb") as file:
            open_image(file).close()
    except UnusableImage as error:
        return str(error)
    except OSError as error:
        return f"cannot be opened: {error.strerror or error}"
    return None


def image_bytes(path: Path) -> bytes:
    """Contents of an image file.

    Raises:
        UnusableImage: it cannot be read, is no regular file, or is larger than any image.
    """
    try:
        return read_regular(path, MAX_BYTES)
    except UnusableFile as error:
        raise UnusableImage(str(error)) from error


def decode(data: bytes, resolution: int) -> NDArray[np.uint8]:
    """Pixels of an encoded image, as the module's docstring describes.

    Args:
        data: the file's contents.
        resolution: height and width of the result in pixels.

    Returns:
        ``uint8`` array ``(resolution, resolution, 3)``, RGB.

    Raises:
        UnusableImage: when the image is unreadable, truncated, oversized or of a mode whose value
            range is undefined (32-bit integers, floats).
    """
    with open_image(io.BytesIO(data)) as image:
        try:
            image.draft(None, (2 * resolution, 2 * resolution))
            image.load()
            rgb = to_rgb(upright(image))
        except UnusableImage:
            raise
        # Decoders of broken files raise whatever their parsing runs into.
        except Exception as error:
            raise UnusableImage(f"cannot be decoded: {error or type(error).__name__}") from error
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    square = rgb.crop((left, top, left + side, top + side))
    resized = square.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.uint8)


@functools.cache
def _formats() -> tuple[str, ...]:
    """The accepted formats that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def open_image(file: IO[bytes]) -> Image.Image:
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


def upright(image: Image.Image) -> Image.Image:
    """Undo the camera's rotation or mirroring."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def to_rgb(image: Image.Image) -> Image.Image:
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
    return image.convert("RGB")
