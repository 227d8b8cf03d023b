"""Small pictures of reconstructions for boards, of rendered faces and digits only."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mibench.errors import MibenchError
from mibench.files import read_plain
from mibench.leaderboard.checks import HEADLINE
from mibench.types import Record

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

MOST_BYTES = 60_000
MOST_PIXELS = 4_000_000
IMAGES = "reconstructions.safetensors"

_IDENTITIES, _COLUMNS = 8, 2
_SAMPLES = 6  # reconstructions of an identity at most
_SIDE = 96  # of an image, in pixels, about
_GAP, _CAPTION = 10, 16
_LARGEST = 2**30  # bytes of stored reconstructions


def may_be_shown(record: Record) -> bool:
    """Whether pictures of the protocol's identities may be published: drawn ones, not people."""
    data = record.protocol.resolved.get("data")
    return isinstance(data, dict) and ("private_name" in data or data.get("dataset") == "mnist")


def has_gallery(record: Record) -> bool:
    """Whether a record gets a picture: the first seed of a complete cell that shows no people."""
    return record.seed == 0 and record.status == "complete" and may_be_shown(record)


def reconstructions(record: Record, path: Path) -> Tensor:
    """The reconstructions that a record was made from ``(k, samples, 3, h, w)``, in [0, 1].

    Args:
        record: names their SHA-256.
        path: the file; whatever it holds, nothing but these images is taken from it.

    Raises:
        MibenchError: the file is another one, is no such file, or holds something else.
    """
    import hashlib

    from safetensors import SafetensorError
    from safetensors.torch import load

    data = read_plain(path, "the reconstructions", _LARGEST)
    if hashlib.sha256(data).hexdigest() != record.artifacts.get(IMAGES):
        raise MibenchError(f"{path} is not what the record was made from: its SHA-256 is another")
    try:
        images = load(data)["images"].float()
    except (SafetensorError, KeyError) as error:
        raise MibenchError(f"{path} holds no reconstructions: {error}") from error
    rows = record.metrics[HEADLINE].hits or ()
    expected = (len(rows), len(rows[0]) if rows else 0, 3)
    if images.ndim != 5 or tuple(images.shape[:3]) != expected or 0 in images.shape:
        raise MibenchError(
            f"{path} holds images of shape {tuple(images.shape)}, the record is of "
            f"{expected[0]} × {expected[1]} reconstructions"
        )
    if not bool(((images >= 0) & (images <= 1)).all()):  # NaN is neither
        raise MibenchError(f"{path} holds pixels that are not in [0, 1]")
    return images


def make_gallery(
    record: Record,
    images: Tensor,
    private: Tensor | None = None,
    names: Sequence[str] = (),
) -> bytes:
    """Draw the first identities' reconstructions; those that the record counts as hits are marked.

    Args:
        record: a complete record; its headline metric says which samples are hits.
        images: its reconstructions ``(k, samples, 3, h, w)`` in [0, 1].
        private: one private training image an identity ``(k, 3, h, w)`` in [0, 1], drawn before
            them; None where the data are not at hand.
        names: of the identities; without them, their numbers.

    Returns:
        A PNG of less than 60 kB.

    Raises:
        MibenchError: the images are not those of the record.
    """
    from PIL import Image, ImageDraw, ImageFont

    hits = record.metrics[HEADLINE].hits or ()
    if len(hits) != len(images) or (private is not None and len(private) != len(images)):
        raise MibenchError(f"there are images of {len(images)} identities, hits of {len(hits)}")
    shown, samples = min(_IDENTITIES, len(images)), min(_SAMPLES, images.shape[1])
    scale = max(1, round(_SIDE / images.shape[-1]))
    high, wide = scale * images.shape[-2], scale * images.shape[-1]
    across = (samples + (private is not None)) * (wide + 2)
    row = high + _CAPTION + _GAP
    lines = math.ceil(shown / _COLUMNS)
    size = (_COLUMNS * (across + _GAP) + _GAP, lines * row + 2 * _GAP + _CAPTION)
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    first = "private image, then reconstructions" if private is not None else "reconstructions"
    draw.text((_GAP, _GAP // 2), f"{first}; underlined: a hit", fill="#555555", font=font)
    for index in range(shown):
        left = _GAP + (index % _COLUMNS) * (across + _GAP)
        top = _GAP + _CAPTION + (index // _COLUMNS) * row
        name = names[index] if index < len(names) else f"identity {index}"
        caption = f"{name[:40]}: {hits[index].count('1')} of {len(hits[index])}"
        draw.text((left, top), caption, fill="black", font=font)
        strip = [*([private[index]] if private is not None else []), *images[index, :samples]]
        for place, image in enumerate(strip):
            x, y = left + place * (wide + 2), top + _CAPTION
            canvas.paste(_picture(image).resize((wide, high), Image.Resampling.NEAREST), (x, y))
            sample = place - (private is not None)
            if sample >= 0 and hits[index][sample] == "1":
                draw.rectangle((x, y + high + 1, x + wide - 1, y + high + 3), fill="#009e73")
    data = _png(canvas)
    while len(data) >= MOST_BYTES:
        canvas = canvas.resize((canvas.width * 3 // 4, canvas.height * 3 // 4))
        data = _png(canvas)
    return data


def fault(path: Path) -> str:
    """Why a filed picture, which anyone may have made, is not shown; empty for one that can be.

    Its size is read from the header, and what is too large is not decoded.
    """
    import PIL.Image

    try:
        data = read_plain(path, "the picture", MOST_BYTES)
        if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
            return "it is no PNG"
        width, height = struct.unpack(">II", data[16:24])
        if not 0 < width * height <= MOST_PIXELS:
            return f"it has {width} × {height} pixels, more than {MOST_PIXELS:,}"
        with PIL.Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            picture.load()
    except MibenchError as error:
        return str(error)
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error) as error:
        return f"it is damaged: {str(error)[:100]}"
    return ""


def _picture(image: Tensor) -> Image:
    from PIL import Image

    pixels = (image.permute(1, 2, 0) * 255).round().byte()
    return Image.frombytes("RGB", (pixels.shape[1], pixels.shape[0]), bytes(pixels.numpy().data))


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.quantize(256, kmeans=4).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
