"""Small pictures of reconstructions for boards, of rendered faces and digits only."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from mibench.files import write_atomic
from mibench.types import Record

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 60_000
_ROWS = 2  # of four identities each
_MARGIN = 12  # pixels above the title


def may_be_shown(record: Record) -> bool:
    """Whether pictures of the protocol's identities may be published: drawn ones, not people."""
    data = record.protocol.resolved.get("data")
    return isinstance(data, dict) and ("private_name" in data or data.get("dataset") == "mnist")


def make_gallery(record: Record, picture: Path, place: Path) -> bool:
    """Cut the first eight identities out of a run folder's picture; only for seed 0.

    Args:
        record: the record of the run; nothing is made for photographs of people.
        picture: ``reconstructions.png`` of the run folder.
        place: PNG to write, of less than 60 kB.

    Returns:
        Whether a picture was written.
    """
    if record.seed != 0 or record.status != "complete":
        return False
    if not may_be_shown(record) or not picture.is_file():
        return False
    import PIL.Image

    with PIL.Image.open(picture) as opened:
        image = _first_rows(opened.convert("RGB"))
    data = _png(image)
    while len(data) >= MOST_BYTES:
        image = image.resize((image.width * 3 // 4, image.height * 3 // 4))
        data = _png(image)
    write_atomic(place, data)
    return True


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.quantize(256, kmeans=4).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _first_rows(image: Image) -> Image:
    """The title and the first two rows of images, found by the white lines between them."""
    from PIL import ImageChops

    white = ImageChops.invert(image).convert("L").point(lambda level: 255 if level else 0)
    full = [
        white.crop((0, y, image.width, y + 1)).getbbox() is not None for y in range(image.height)
    ]
    bands: list[tuple[int, int]] = []  # first line and the line after the last
    start = None
    for y, drawn in enumerate([*full, False]):
        if drawn and start is None:
            start = y
        elif not drawn and start is not None:
            bands.append((start, y))
            start = None
    tallest = max((end - begin for begin, end in bands), default=0)
    # Bands of text are far lower than those of images.
    rows = [i for i, (begin, end) in enumerate(bands) if end - begin > tallest / 2]
    if len(rows) <= _ROWS:
        return image
    last = rows[_ROWS - 1]
    bottom = (bands[last][1] + bands[last + 1][0]) // 2
    return image.crop((0, max(0, bands[0][0] - _MARGIN), image.width, bottom))
