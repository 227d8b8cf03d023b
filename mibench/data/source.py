"""What the source of a data set is: its card, the list of its pictures, and their geometry.

A source is a class in a file of ``mibench.data.sources``, of an installed package (entry points
``mibench.sources``) or of anyone's own (``file.py:Class``). Nothing slow to import is imported
here: every process that decodes pictures imports this module.
"""

from __future__ import annotations

import hashlib
import os
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from mibench.errors import MibenchError, RequestError
from mibench.files import UnusableFile, open_regular, read_regular
from mibench.registry import Registry, no_such
from mibench.types import Frozen

PARTS: tuple[str | None, ...] = (None, "train", "val", "test")
"""Official parts of a data set; rows hold positions in this tuple."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".bmp", ".webp", ".tif", ".tiff"})
"""Extensions of image files, in any case."""

_SHOWN, _LISTED = 3, 10  # names, and files with a reason, that a message lists
_MOST_BYTES = 2**29  # of a list or an archive of arrays; CIFAR-10's batches have 31 MB each


class UnusableImage(Exception):  # noqa: N818  (it is a finding, not always an error)
    """A file that is no usable image; the message is the reason, without the file's name."""


class DatasetCard(Frozen):
    """What a data set is, and how its files come to a machine.

    Attributes:
        name: as it is registered.
        images, identities: published counts; None: nobody published a set, each picture is one.
        of_people: whether pictures show people: what is reconstructed of them is not published.
        original_bytes: size of the original files on disk, approximately.
        layout: expected files below ``--root``, as a tree.
        download: whether torchvision fetches it, by the name of the source's class.
        resolution: that of the papers' setting, in pixels.
        crop: side of the central square that is kept, in pixels of originals of size ``crop_of``.
        preprocessing: how a picture becomes a square, and whose choice it is.
        mirror: whether a mirrored picture could be one of the set; not so of digits.
        lists: published lists that divide its pictures, which users bring
            (:mod:`mibench.data.lists`): SHA-256 of each text, by its name.
        lists_from: where they are to be had.
        always_partial: whether nobody has the published pictures, all of them and no other: those
            that are there twice are then left out.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")
    title: str
    licence: str
    home: str = ""
    images: int | None = None
    identities: int | None = None
    of_people: bool
    original_bytes: int = 0
    layout: str
    how_to_get: str = ""
    download: bool = False
    resolution: int = 64
    crop: int | None = None
    crop_of: tuple[int, int] | None = None
    preprocessing: str
    mirror: bool = True
    lists: dict[str, str] = Field(default_factory=dict)
    lists_from: str = ""
    always_partial: bool = False


@dataclass(frozen=True)
class Listing:
    """The pictures of a data set in their one order, which no disk and no layout decides.

    Attributes:
        layout: which of the accepted layouts was found.
        sources: names of the pictures, the same in every layout.
        files: where they are, relative to the root, or as :meth:`Source.open` takes them; empty
            with ``pixels``.
        names: identity names, sorted.
        labels: ``int32`` ``(n,)``, positions in ``names``.
        parts: ``uint8`` ``(n,)``, positions in :data:`PARTS`.
        boxes: the face's box of each picture, as left, top, right, bottom; ``int32`` ``(n, 4)``.
        pixels: the pictures themselves where the files hold arrays: ``uint8`` ``(n, h, w[, 3])``.
        sums: the published SHA-256 of each picture's file, ``""`` where none is; empty: no sums.
        notes: what was left out of the published lists, and why, a sentence each.
        unusable: files and folders that cannot be used, each with the reason.
    """

    layout: str
    sources: Sequence[str]
    files: Sequence[str]
    names: tuple[str, ...]
    labels: NDArray[np.int32]
    parts: NDArray[np.uint8]
    boxes: NDArray[np.int32] | None = None
    pixels: NDArray[np.uint8] | None = None
    sums: Sequence[str] = ()
    notes: tuple[str, ...] = ()
    unusable: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sources)

    def rows(self, rows: slice) -> Listing:
        """Consecutive pictures of it."""
        held: dict[str, Any] = {}
        for name in ("sources", "files", "labels", "parts", "boxes", "pixels", "sums"):
            value = getattr(self, name)
            held[name] = None if value is None else value[rows]
        return replace(self, **held)


class Source(ABC):
    """Reads one data set. Stateless, so that any process can make one from its name.

    Attributes:
        filter: how pictures are resized, always antialiased.
        photographs: whether pictures come as cameras leave them: EXIF's orientation counts, and
            JPEGs may be decoded at a reduced size, for they have several megapixels.
        of_one_file: whether the root is a file.
        separate: whether each picture is a file of its own, so that its header is quickly read.
    """

    card: ClassVar[DatasetCard]
    filter: ClassVar[Image.Resampling] = Image.Resampling.BILINEAR
    photographs: ClassVar[bool] = False
    of_one_file: ClassVar[bool] = False
    separate: ClassVar[bool] = True

    @abstractmethod
    def listing(self, root: Path, *, incomplete: bool = False) -> Listing:
        """List the pictures without decoding one.

        Args:
            root: where the originals are; see the card's ``layout``.
            incomplete: accept label files other than the published ones.

        Raises:
            RequestError: the files are missing, misplaced or damaged; it shows the layout.
        """

    def path(self, root: Path, file: str) -> Path:
        """The file that is a picture, or that holds it among others.

        Args:
            file: one of the listing's ``files``.
        """
        return root / file

    def open(self, root: Path, file: str) -> AbstractContextManager[IO[bytes]]:
        """A picture, encoded in one of Pillow's formats; :class:`UnusableFile` where it is none.

        Args:
            file: one of the listing's ``files``.
        """
        return open_regular(self.path(root, file))

    def shown(self, root: Path, file: str) -> str:
        """What a message calls a picture."""
        return str(self.path(root, file))

    def square(self, image: Image.Image, crop: int | None) -> Image.Image:
        """The part of a picture that is resized; ``crop`` is another side than the card's.

        Raises:
            UnusableImage: the picture has not the size that the data set's pictures have.
        """
        return image

    def download(self, root: Path) -> None:
        """Fetch the originals into ``root``, with torchvision.

        Raises:
            RequestError: this data set has no download; it says how to get it.
            MibenchError: the download failed.
        """
        name, by_hand = self.card.name, self.card.how_to_get
        if not self.card.download:
            raise RequestError(f"{name} cannot be downloaded by mibench: {by_hand}")
        import torchvision.datasets

        try:
            getattr(torchvision.datasets, type(self).__name__)(str(root), download=True)
        except Exception as error:  # gdown raises classes of its own
            raise MibenchError(
                f"{name} could not be downloaded into {root} ({error}): try again, or do it by "
                f"hand. {by_hand}"
            ) from error

    def read(self, path: Path) -> bytes:
        """Contents of one of the data set's lists or archives."""
        try:
            return read_regular(path, _MOST_BYTES)
        except UnusableFile as error:
            raise self.refuse(f"{path} {error}") from error

    def refuse(self, problem: str) -> RequestError:
        """An error that names the problem, the expected layout and how to get the files."""
        lines = textwrap.indent(self.card.layout, "  ")
        expected = f"Expected {'as' if self.of_one_file else 'below'} --root:\n{lines}"
        return RequestError(
            f"{self.card.name}: {problem}\n{expected}\n{self.card.how_to_get}".rstrip()
        )


SOURCES: Registry[Source] = Registry("source", Source, "mibench.data.sources", "mibench.sources")
register_source = SOURCES.register


def check_source(name: str) -> None:
    """Refuse a name that is no source's; none is imported, and no file is looked for.

    Raises:
        RequestError: there is no such data set; close names are suggested.
    """
    if not (".py:" in name or SOURCES.file(name) or name in SOURCES.names()):
        raise RequestError(no_such("data set", name, SOURCES.names()))


def source_named(name: str) -> Source:
    """The source of a data set, by its name or as ``file.py:Class``."""
    check_source(name)
    cls = SOURCES.get(name)
    found = cls()
    if SOURCES.name_of(cls) != found.card.name:
        raise RequestError(
            f"the card of {name} says {found.card.name!r}: register the class under that name, "
            f'@register_source("{found.card.name}")'
        )
    return found


def centre(image: Image.Image, side: int) -> Image.Image:
    """The central square; as in the released code, an odd pixel stays at the right or bottom."""
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def arrange(
    layout: str,
    sources: Sequence[str],
    files: Sequence[str],
    people: Sequence[str],
    *,
    parts: Sequence[int] = (),
    boxes: Sequence[tuple[int, int, int, int]] = (),
    sums: Sequence[str] = (),
    notes: tuple[str, ...] = (),
) -> Listing:
    """A listing in the order of ``sources``, with labels over the sorted names in ``people``."""
    order = sorted(range(len(sources)), key=sources.__getitem__)
    names = sorted(set(people))
    index = {name: label for label, name in enumerate(names)}
    return Listing(
        layout=layout,
        sources=[sources[i] for i in order],
        files=[files[i] for i in order],
        names=tuple(names),
        labels=np.array([index[people[i]] for i in order], dtype=np.int32),
        parts=np.array([parts[i] if parts else 0 for i in order], dtype=np.uint8),
        boxes=np.array([boxes[i] for i in order], dtype=np.int32) if boxes else None,
        sums=[sums[i] for i in order] if sums else (),
        notes=notes,
    )


def first_folder(root: Path, candidates: Iterable[str]) -> Path | None:
    """The first of ``root``'s sub-folders that exists; ``""`` stands for the root itself."""
    return next((root / name for name in candidates if (root / name).is_dir()), None)


def listed(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of the visible sub-folders (or links to one), and of the images, in a folder.

    Raises:
        RequestError: the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            visible = [(e.name, is_folder(e)) for e in entries if not e.name.startswith(".")]
    except OSError as error:
        raise RequestError(
            f"{folder} cannot be listed ({error.strerror}): check the path and its permissions"
        ) from error
    visible.sort()
    folders = [name for name, is_dir in visible if is_dir]
    return folders, [name for name, is_dir in visible if not is_dir and is_image_name(name)]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link that leads nowhere is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_image_name(name: str) -> bool:
    """Whether a file name has one of the accepted extensions."""
    return Path(name).suffix.lower() in SUFFIXES


def shown_name(name: str) -> str:
    """A file's name as text; what is not UTF-8 in it is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def few(names: Iterable[str]) -> str:
    """The first few of some names, for a message."""
    shown = sorted(map(shown_name, names))
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")


def reasons(found: Sequence[tuple[str, str]]) -> str:
    """The first unusable files, a line each with its reason, for a message."""
    lines = [f"  {path}: {reason}" for path, reason in found[:_LISTED]]
    more = [f"  ... and {len(found) - _LISTED} more"] if len(found) > _LISTED else []
    return "\n".join(lines + more)


def md5(data: bytes) -> str:
    """MD5, as the data sets' publishers give it."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
