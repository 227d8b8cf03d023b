"""The pictures of a run: private images, reconstructions and look-alikes, as texts for a page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mibench.errors import MibenchError, printable
from mibench.files import sha256
from mibench.leaderboard.names import reconstructions
from mibench.record import GALLERY, Record
from mibench.reports.people import Person

PRIVATE, BEST, MEDIAN, LOOKALIKE = "private", "best guess", "median", "look-alike"

MOST_PICTURED = 500  # people whose pictures a page holds
_LARGEST = 160  # pixels of a side; larger pictures are scaled down
_EXACT = 64  # up to here every pixel is kept: such pictures are small, and shown enlarged
_QUALITY = 88
_MOST_SIDE, _NAME = 4096, 80  # what a stranger's file may have: pixels of a side, letters of a name


@dataclass(frozen=True)
class Pictures:
    """Pictures of some people, each as an address that holds all of it (``data:``).

    Attributes:
        shown: for each person, by place among the attacked, pictures by what they show.
        names: of identities, by place.
        lookalike_ranks: ranks of the look-alikes, by place.
        side: pixels of a side of the images.
        lacking: sentences on what is not shown, and why.
    """

    shown: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    lookalike_ranks: Mapping[int, int] = field(default_factory=dict)
    side: int = 0
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Gallery:
    """What the stage of the picture left of some identities, a row each."""

    identities: list[int]
    private: Tensor
    best: list[int]
    median: list[int]
    lookalike: Tensor | None
    lookalike_ranks: list[int]
    names: list[str]


class _UnreadableError(MibenchError):
    """Why pictures are not shown, to stand behind a colon."""


def read_pictures(
    folder: Path,
    record: Record,
    people: Sequence[Person],
    check: bool = True,
    most: int = MOST_PICTURED,
) -> Pictures:
    """The pictures that lie in a run folder; nothing is computed.

    What is absent or damaged is left out, and said. Private images and look-alikes lie in the
    folder's gallery, which also knows the best guess; without it, that is the reconstruction that
    has the best guess's rank.

    Args:
        folder: the run folder.
        record: its record.
        people: of the record.
        check: whether reconstructions are compared with the SHA-256 that the record names.
        most: people who are shown; of more, evenly chosen ones.
    """
    lacking: list[str] = []
    gallery, rows = None, dict[int, int]()
    try:
        gallery = _gallery(folder / GALLERY)
        rows = {index: row for row, index in enumerate(gallery.identities)}
    except _UnreadableError as error:
        lacking.append(f"Private images and look-alikes are not at hand: {error}.")
    wanted = [each for each in people if each.index in rows or gallery is None]
    if len(wanted) > most:
        places = torch.linspace(0, len(wanted) - 1, most).round().long()
        wanted = [wanted[place] for place in places.tolist()]
    if len(wanted) < len(people):
        lacking.append(f"Pictures are of {len(wanted):,} of {len(people):,} people, evenly chosen.")
    chosen = {}
    for each in wanted:
        chosen[each.index] = (_nearest(each.ranks, each.best), _nearest(each.ranks, each.median))
        if gallery is not None:
            row = rows[each.index]
            chosen[each.index] = gallery.best[row], gallery.median[row]
    made: dict[int, tuple[Tensor, Tensor]] = {}
    try:
        made = _reconstructions(folder, record, chosen, check)
    except _UnreadableError as error:
        lacking.append(f"The reconstructions are not at hand: {error}.")
    shown = {}
    for index in chosen:
        own: dict[str, Tensor] = {}
        if gallery is not None:
            own[PRIVATE] = gallery.private[rows[index]]
        if index in made:
            own[BEST], own[MEDIAN] = made[index]
        if gallery is not None and gallery.lookalike is not None:
            own[LOOKALIKE] = gallery.lookalike[rows[index]]
        if own:
            shown[index] = {what: _address(image) for what, image in own.items()}
    found = Pictures(shown, lacking=tuple(lacking), side=_side(gallery, made))
    if gallery is None:
        return found
    alike = dict(zip(gallery.identities, gallery.lookalike_ranks, strict=False))
    names = dict(zip(gallery.identities, gallery.names, strict=True))
    return Pictures(found.shown, names, alike, found.side, found.lacking)


def _side(gallery: _Gallery | None, made: Mapping[int, tuple[Tensor, Tensor]]) -> int:
    some = [pair[0] for pair in made.values()] + ([gallery.private] if gallery else [])
    return max((max(each.shape[-2:]) for each in some[-1:]), default=0)


def _nearest(ranks: Sequence[int], rank: float | None) -> int:
    """The first sample of the rank that is nearest to a given one; the first of all without."""
    if rank is None or not ranks:
        return 0
    return min(range(len(ranks)), key=lambda sample: abs(ranks[sample] - rank))


def _gallery(path: Path) -> _Gallery:
    if not path.is_file():
        raise _UnreadableError(f"there is no {path.name} in the run folder")
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            names = json.loads((file.metadata() or {}).get("names", "null"))
        count, (_, _, high, wide) = len(found["identities"]), found["private"].shape
        pictures = [found[name] for name in ("private", "lookalike") if name in found]
        plain = [found[name] for name in found if name not in ("private", "lookalike")]
        sound = [
            *(tuple(each.shape) == (count, 3, high, wide) for each in pictures),
            *(each.dtype == torch.uint8 for each in pictures),
            *(tuple(each.shape) == (count,) and each.dtype == torch.int64 for each in plain),
            isinstance(names, list) and len(names) == count and 0 < max(high, wide) <= _MOST_SIDE,
        ]
        if not all(sound):
            raise ValueError("it holds other tensors than a gallery does")
        return _Gallery(
            identities=found["identities"].tolist(),
            private=found["private"],
            best=found["best"].tolist(),
            median=found["median"].tolist(),
            lookalike=found.get("lookalike"),
            lookalike_ranks=found["lookalike_rank"].tolist() if "lookalike_rank" in found else [],
            names=[printable(str(name), _NAME) for name in names],
        )
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise _UnreadableError(f"{path.name} is damaged ({_first_line(error)})") from error


def _reconstructions(
    folder: Path, record: Record, chosen: Mapping[int, tuple[int, int]], check: bool
) -> dict[int, tuple[Tensor, Tensor]]:
    """Two reconstructions of each identity, of which rows alone are read.

    Raises:
        _UnreadableError: a file is absent, damaged, or another than the record names.
    """
    found, start = {}, 0
    files = reconstructions(record)
    if not files:
        raise _UnreadableError("the record names none")
    for name, claimed in files.items():
        path = folder / name
        if not path.is_file():
            raise _UnreadableError(f"there is no {name} in the run folder")
        try:
            if check and sha256(path) != claimed:
                raise _UnreadableError(f"{name} is another than the record names")
            with safe_open(path, "pt") as file:
                images = file.get_slice("images")
                count, samples, channels, high, wide = images.get_shape()
                if channels != 3 or not 0 < max(high, wide) <= _MOST_SIDE:
                    raise ValueError(f"images of {channels} channels and {high}×{wide} pixels")
                for index, pair in chosen.items():
                    if start <= index < start + count:
                        if not all(0 <= sample < samples for sample in pair):
                            raise ValueError(f"identity {index} has no sample {max(pair)}")
                        row = images[index - start]
                        best, median = (row[sample] for sample in pair)
                        found[index] = best, median
                start += count
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise _UnreadableError(f"{name} is damaged ({_first_line(error)})") from error
    return found


def _first_line(error: Exception) -> str:
    return printable(str(error).partition("\n")[0], 120).rstrip(".") or type(error).__name__


def _address(image: Tensor) -> str:
    """A picture ``(3, h, w)``, uint8 or in [0, 1], as an address that holds it."""
    from PIL import Image

    if image.dtype != torch.uint8:
        image = (image.float().nan_to_num().clamp(0, 1) * 255).round().byte()
    pixels = image.permute(1, 2, 0).contiguous()
    shown = Image.frombytes("RGB", (pixels.shape[1], pixels.shape[0]), bytes(pixels.numpy().data))
    data, side = io.BytesIO(), max(shown.size)
    if side > _LARGEST:
        shown.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    if side > _EXACT:
        shown.save(data, "WEBP", quality=_QUALITY)
    else:
        shown.save(data, "WEBP", lossless=True, quality=0, method=0)  # fast, and hardly larger
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
