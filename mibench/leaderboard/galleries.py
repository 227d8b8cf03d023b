"""Small pictures of reconstructions for boards, of rendered faces and digits only."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mibench.errors import MibenchError
from mibench.files import read_plain
from mibench.leaderboard.checks import HEADLINE
from mibench.record import LEAKS, Record

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

MOST_BYTES = 60_000
MOST_PIXELS = 4_000_000

_IDENTITIES, _COLUMNS = 8, 2
_SAMPLES = 6  # reconstructions of an identity at most
_SIDE = 96  # of an image, in pixels, about
_GAP, _CAPTION = 10, 16


def has_gallery(record: Record) -> bool:
    """Whether a record gets a picture: the first seed of a complete cell that shows no people."""
    return record.seed == 0 and record.status == "complete" and not record.people


def make_gallery(record: Record, images: Tensor, private: Tensor, names: Sequence[str]) -> bytes:
    """Draw the first identities' reconstructions, each with what the record says of it.

    Where it has ranks, that is the person's rank, underlined where one person in a hundred or fewer
    is as alike; elsewhere hits are underlined.

    Args:
        record: a complete record.
        images: its reconstructions ``(k, samples, 3, h, w)`` in [0, 1].
        private: one private training image an identity ``(k, 3, h, w)`` in [0, 1], which stands
            before them.
        names: of the identities.

    Returns:
        A PNG of less than 60 kB.

    Raises:
        MibenchError: the images are not those of the record.
    """
    from PIL import Image, ImageDraw, ImageFont

    said, title = _said(record)
    if not len(said) == len(images) == len(private) == len(names):
        raise MibenchError(f"there are images of {len(images)} identities, hits of {len(said)}")
    shown, samples = min(_IDENTITIES, len(images)), min(_SAMPLES, images.shape[1])
    scale = max(1, round(_SIDE / images.shape[-1]))
    high, wide = scale * images.shape[-2], scale * images.shape[-1]
    across = (samples + 1) * (wide + 2)
    row = high + 2 * _CAPTION + _GAP
    lines = math.ceil(shown / _COLUMNS)
    size = (_COLUMNS * (across + _GAP) + _GAP, lines * row + 2 * _GAP + _CAPTION)
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    draw.text((_GAP, _GAP // 2), title, fill="#555555", font=font)
    for index in range(shown):
        left = _GAP + (index % _COLUMNS) * (across + _GAP)
        top = _GAP + _CAPTION + (index // _COLUMNS) * row
        draw.text((left, top), names[index][:40], fill="black", font=font)
        for place, image in enumerate([private[index], *images[index, :samples]]):
            x, y = left + place * (wide + 2), top + _CAPTION
            canvas.paste(_picture(image).resize((wide, high), Image.Resampling.NEAREST), (x, y))
            if place:
                text, marked = said[index][place - 1]
                draw.text((x, y + high + 4), text, fill="black", font=font)
                if marked:
                    draw.rectangle((x, y + high + 1, x + wide - 1, y + high + 3), fill="#009e73")
    data = _png(canvas)
    while len(data) >= MOST_BYTES:
        canvas = canvas.resize((canvas.width * 3 // 4, canvas.height * 3 // 4))
        data = _png(canvas)
    return data


def _said(record: Record) -> tuple[list[list[tuple[str, bool]]], str]:
    """What stands below each identity's samples, whether each is marked, and what that means."""
    rank = record.metrics.get("median_rank")
    if rank is None or rank.ranks is None or rank.among is None:
        hits = record.metrics[HEADLINE].hits or ()
        title = "private image, then reconstructions; underlined: a hit"
        return [[("", each == "1") for each in row] for row in hits], title
    title = f"private image, then reconstructions, with the person's rank among {rank.among:,} "
    title += "people; underlined: 1 in 100 or fewer is as alike"
    within = LEAKS["leak_at_1e-2"] * rank.among
    return [[(f"{each:,}", each <= within) for each in row] for row in rank.ranks], title


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
            if picture.size != (width, height):
                return "it states two sizes"
            picture.load()
    except MibenchError as error:
        return str(error)
    except Exception as error:  # whatever a decoder makes of a stranger's bytes
        return f"it is damaged: {type(error).__name__}: {str(error)[:100]}"
    return ""


def _picture(image: Tensor) -> Image:
    from PIL import Image

    pixels = (image.permute(1, 2, 0) * 255).round().byte()
    return Image.frombytes("RGB", (pixels.shape[1], pixels.shape[0]), bytes(pixels.numpy().data))


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.quantize(256, kmeans=4).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
