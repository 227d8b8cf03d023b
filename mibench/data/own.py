"""What the sources of anyone's own pictures share, in whatever layout these lie.

A picture's label is who it shows. Columns (of a CSV, an Arrow or a Parquet file) and arrays (of an
``.npz``) are found by their usual names, or named. A path is relative to the folder of the file
that states it, and leads to a place below it: a table from somebody else opens nothing else.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from PIL import Image

from mibench.data.source import Listing, Source, arrange, centre
from mibench.errors import RequestError

PREPROCESSING = "upright as EXIF says, central square, resized with an antialiased Lanczos filter"
PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path")
"""Usual names of a column of paths."""
PICTURES = ("image", "images", "img", "picture", "pictures")
"""Usual names of a column or an array of pictures."""
LABELS = ("label", "labels", "identity", "identities", "person", "subject", "class")
"""Usual names of a column or an array of labels."""

_LONGEST = 255  # characters of a label, as many as a folder's name has
_SHOWN = 10  # names of columns that a message lists
_DRIVE = re.compile(r"[A-Za-z]:")


class OwnPictures(Source):
    """Pictures as cameras leave them.

    Args:
        image: name of the column or array of the pictures; None: it is found.
        label: that of the labels.
    """

    filter: ClassVar[Image.Resampling] = Image.Resampling.LANCZOS
    photographs: ClassVar[bool] = True

    def __init__(self, image: str | None = None, label: str | None = None) -> None:
        self.image, self.label = image, label

    def square(self, image: Image.Image, crop: int | None) -> Image.Image:
        """The central square of any picture."""
        return centre(image, min(image.size))

    def columns(
        self, where: object, names: Sequence[str], images: Collection[str]
    ) -> tuple[int, int]:
        """Positions of the columns or arrays of the pictures and of the labels.

        Args:
            where: the file, for a message.
            names: of what it has.
            images: usual names of the pictures' column, in lower case.

        Raises:
            RequestError: there is none, or more than one.
        """
        return (
            _column(where, names, "image_column", self.image, images),
            _column(where, names, "label_column", self.label, LABELS),
        )


def _column(
    where: object, names: Sequence[str], option: str, asked: str | None, usual: Collection[str]
) -> int:
    folded = [re.sub(r"[ -]", "_", name.strip().lower()) for name in names]
    found = [
        i
        for i, name in enumerate(names)
        if (name == asked if asked is not None else folded[i] in usual)
    ]
    if len(found) == 1:
        return found[0]
    there = ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
    wanted = repr(asked) if asked is not None else f"one of {', '.join(usual)}"
    count = f"{len(found)} are called" if found else "none is called"
    what = "pictures" if option == "image_column" else "labels"
    raise RequestError(
        f"{where}: which one holds the {what}? There are {there or 'none'}, of which {count} "
        f"{wanted}. Name it with --set protocol.{option}=NAME; where a data set is prepared, in a "
        "source of your own (docs/data.md, Other layouts)"
    )


def placed(text: str, folder: Path) -> str:
    """A path that a table states, as one relative to ``folder``; ``\\`` separates as ``/`` does.

    Raises:
        ValueError: it is empty, holds control characters, or leads elsewhere.
    """
    path, folder = text.strip().replace("\\", "/"), folder.absolute()
    if not path:
        raise ValueError("no path")
    if _odd(path):
        raise ValueError(f"the path {path[:60]!r} holds a control character")
    if path.startswith("/") or _DRIVE.match(path):
        base = folder.as_posix().rstrip("/") + "/"
        if not (path := posixpath.normpath(path)).startswith(base):
            raise ValueError(
                f"{text.strip()} is an absolute path outside of {folder}: state paths relative to "
                "the folder of the file that states them"
            )
        path = path[len(base) :]
    path = posixpath.normpath(path)
    if path == ".." or path.startswith("../"):
        raise ValueError(f"{text.strip()} leads out of {folder}: move the pictures into it")
    return path


def named(label: object) -> str:
    """A label as the name of an identity.

    Raises:
        ValueError: there is none, or it is no text of a line.
    """
    if isinstance(label, bytes):
        label = label.decode()  # an UnicodeDecodeError is a ValueError
    name = "" if label is None else str(label).strip()
    if not name:
        raise ValueError("no label")
    if _odd(name):
        raise ValueError(f"the label {name[:60]!r} holds a control character")
    if len(name) > _LONGEST:
        raise ValueError(f"the label {name[:60]!r}… has more than {_LONGEST} characters")
    return name


def _odd(text: str) -> bool:
    return any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in text)


def gathered(
    layout: str, rows: Iterable[tuple[str, str, object]], folder: Path | None = None
) -> Listing:
    """The listing of a table's rows, sorted by their pictures' names.

    A row that says what another one says counts once. Of a picture with two labels, no row counts.

    Args:
        rows: of each, where it stands (``"line 7"``), its picture, and its label.
        folder: what pictures' paths are relative to; None: they are names that are different.
    """
    people: dict[str, tuple[str, str]] = {}
    unusable: dict[str, str] = {}
    again = 0
    for place, picture, label in rows:
        try:
            file = picture if folder is None else placed(picture, folder)
            name = named(label)
        except ValueError as error:
            unusable[place] = str(error)
            continue
        earlier, first = people.setdefault(file, (name, place))
        if earlier != name:
            unusable[file] = f"{earlier!r} in {first}, but {name!r} in {place}"
        elif first != place:
            again += 1
    files = [file for file in people if file not in unusable]
    notes = (f"{again} rows say what an earlier one says, and were left out",) if again else ()
    made = arrange(layout, files, files, [people[file][0] for file in files], notes=notes)
    return replace(made, unusable=unusable)
