"""A CSV file of paths and labels, one picture a line below the names of the columns.

Columns are separated by commas, semicolons or tabs, and may be quoted; the text is UTF-8, with or
without a byte-order mark. Paths are relative to the folder of the file, and may be Windows'.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mibench.data import own
from mibench.data import source as data
from mibench.errors import RequestError
from mibench.files import UnusableFile, open_regular

_DELIMITERS = (",", ";", "\t")
_LONGEST_LINE = 2**20  # characters
_MOST_BYTES = 2**29


@data.register_source("csv")
class CSV(own.OwnPictures):
    """Pictures that a table names; who is shown is in a column."""

    card = data.DatasetCard(
        name="csv",
        title="A CSV file of paths and labels",
        licence="that of its pictures",
        of_people=True,
        layout=(
            "faces.csv:   path,label\n"
            "             photos/1.jpg,Anna   (relative to the folder of the file)\n"
            "             photos/2.jpg,Bert\n"
            "             …"
        ),
        preprocessing=own.PREPROCESSING,
        always_partial=True,
    )
    of_one_file = True

    def path(self, root: Path, file: str) -> Path:
        """Pictures lie below the folder of the file."""
        return root.parent / file

    def listing(self, root: Path, *, incomplete: bool = False) -> data.Listing:
        """The whole table is read; no picture is opened."""
        try:
            with open_regular(root) as stream:
                if stream.seek(0, io.SEEK_END) > _MOST_BYTES:
                    raise UnusableFile(f"has more than {_MOST_BYTES / 2**20:g} MiB")
                stream.seek(0)
                found = own.gathered("csv", self._rows(root, stream), root.parent)
        except UnusableFile as error:
            raise self.refuse(f"{root} {error}") from error
        if not len(found) and not found.unusable:
            raise self.refuse(f"{root} has no line below the names of its columns")
        return found

    def _rows(self, root: Path, stream: IO[bytes]) -> Iterator[tuple[str, str, object]]:
        """Where each row ends, its path and its label."""
        lines = _lines(stream)
        try:
            above, header = next(
                ((n, each) for n, each in enumerate(lines) if each.strip()), (0, "")
            )
            delimiter, names, (image, label) = self._header(root, header)
            reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
            for row in reader:
                place = f"line {above + 1 + reader.line_num}"
                if not row:
                    continue
                if len(row) != len(names):
                    count = f"{len(row)} columns where the first line has {len(names)}"
                    raise self.refuse(f"{root}, {place}: {count}; quote what holds a {delimiter!r}")
                yield place, row[image], row[label]
        except UnicodeDecodeError as error:
            raise self.refuse(
                f"{root} is no UTF-8 ({error.reason} at byte {error.start} of a block): save it as "
                "UTF-8, which spreadsheets call “CSV UTF-8”"
            ) from error
        except csv.Error as error:
            raise self.refuse(f"{root} is no CSV: {error}") from error

    def _header(self, root: Path, line: str) -> tuple[str, list[str], tuple[int, int]]:
        """Delimiter, names of the columns, and positions of path and label."""
        refused: list[Exception] = []
        for delimiter in sorted(_DELIMITERS, key=line.count, reverse=True):
            try:
                names = next(csv.reader([line], delimiter=delimiter, strict=True), [])
                names = [name.strip() for name in names]
                return delimiter, names, self.columns(root, names, own.PATHS)
            except (RequestError, csv.Error) as error:
                refused.append(error)
        raise self.refuse(str(refused[0]))


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """The lines of a text; one that is longer than any row is not read to its end."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        while line := text.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:
                raise UnusableFile(f"has a line of more than {_LONGEST_LINE:,} characters")
            yield line
    except OSError as error:
        raise UnusableFile(f"cannot be read: {error.strerror}") from error
