"""Arrow and Parquet files of pictures and labels, which pyarrow reads (the extra ``arrow``).

A column holds the pictures, encoded: as bytes, or in a struct that has them as its field ``bytes``,
as Hugging Face's ``datasets`` writes it; or it holds their paths. Another column holds the labels:
integers or text. Integers are named as the ``datasets`` features in the file's metadata say. Arrow
files are mapped into memory; of a Parquet file, few row groups are held at once.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import io
import itertools
import json
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from mibench.data.own import PATHS, PICTURES, OwnPictures, gathered
from mibench.data.source import Listing
from mibench.errors import RequestError
from mibench.files import UnusableFile, open_regular

_MOST_BYTES = 2**30  # of a row group's pictures, which are read together
_HELD = 2  # row groups of a Parquet file
_ROW = re.compile(r"(?P<shard>.*)#(?P<row>[0-9]{8,})")
_COLUMNS = (*PICTURES, *(name for name in PATHS if name not in PICTURES))


class Tables(OwnPictures):
    """Pictures and labels in the columns of one file or of several.

    A picture in a table is called by its file and its row: ``data-00000-of-00001.arrow#00000003``.
    """

    separate = False

    @abstractmethod
    def shards(self, root: Path) -> Sequence[str]:
        """The tables, relative to the root; ``""`` is the root itself."""

    def features(self, root: Path, shard: str, table: Table) -> dict[str, Any]:
        """What ``datasets`` says of a table's columns."""
        return table.features

    def folder(self, root: Path) -> Path:
        """What paths in a table are relative to."""
        return root

    def listing(self, root: Path, *, incomplete: bool = False) -> Listing:
        """Labels and, where there are any, paths are read; no picture is."""
        shards = self.shards(root)
        kinds = {self._read(root, shard)[1] for shard in shards}
        if len(kinds) > 1:
            raise self.refuse(f"{root}: one table holds pictures, and another one paths")
        folder = self.folder(root) if kinds == {True} else None
        try:
            found = gathered(self.card.name, self._rows(root, shards), folder)
        except UnusableFile as error:
            raise self.refuse(f"{root} {error}") from error
        if not len(found) and not found.unusable:
            raise self.refuse(f"{root} has no row")
        return found

    def _rows(self, root: Path, shards: Sequence[str]) -> Iterator[tuple[str, str, object]]:
        for shard in shards:
            table, paths, image, label = self._read(root, shard)
            feature = self.features(root, shard, table).get(table.names[label])
            labels = self._named(root, table, label, feature)
            pictures = table.values(image) if paths else iter(())
            for row, who in enumerate(labels):
                place = f"{shard}#{row:08d}"
                yield place, (next(pictures) or "") if paths else place, who

    def _named(self, root: Path, table: Table, column: int, feature: Any) -> Iterator[object]:
        """Labels, by the names of their classes where the features say them."""
        names = feature.get("names") if isinstance(feature, dict) else None
        if not isinstance(names, list) or not table.whole_numbers(column):
            yield from table.values(column)
            return
        if len(set(map(str, names))) < len(names):
            raise self.refuse(f"{root}: the features name two classes alike")
        for value in table.values(column):
            if value is not None and not 0 <= value < len(names):
                if value != -1:  # -1 is what `datasets` writes where there is no label
                    raise self.refuse(
                        f"{root}: a label is {value}, but the features name {len(names)} classes"
                    )
                value = None
            yield None if value is None else names[value]

    def _read(self, root: Path, shard: str) -> tuple[Table, bool, int, int]:
        """A table, whether it holds paths, and the positions of its two columns."""
        path = root / shard if shard else root
        arrow()
        try:
            status = path.stat()
            state = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            table = _opened(path, state)
        except OSError as error:
            raise self.refuse(f"{path} cannot be read: {error.strerror or error}") from error
        except UnusableFile as error:
            raise self.refuse(f"{path} {error}") from error
        asked = (self.image, self.label)
        if asked not in table.known:
            image, label = self.columns(path, table.names, _COLUMNS)
            try:
                with _reading():
                    table.known[asked] = (table.check(image, label), image, label)
            except UnusableFile as error:
                raise self.refuse(f"{path} {error}") from error
        return table, *table.known[asked]

    def path(self, root: Path, file: str) -> Path:
        """The table that holds a picture, or the picture's own file."""
        if (match := _ROW.fullmatch(file)) is None:
            return self.folder(root) / file
        return root / match["shard"] if match["shard"] else root

    def shown(self, root: Path, file: str) -> str:
        """The picture's file, or the table and the row."""
        match = _ROW.fullmatch(file)
        return str(self.path(root, file)) + (f"#{match['row']}" if match else "")

    def open(self, root: Path, file: str) -> AbstractContextManager[IO[bytes]]:
        """A picture's file, or its bytes in a table."""
        if (match := _ROW.fullmatch(file)) is None:
            return open_regular(self.path(root, file))
        try:
            table, _, image, _ = self._read(root, match["shard"])
        except RequestError as error:
            raise UnusableFile(str(error)) from error
        return io.BytesIO(table.picture(image, int(match["row"])))


def arrow() -> Any:
    """pyarrow.

    Raises:
        RequestError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RequestError(
            f"Arrow and Parquet files need pyarrow ({error}): pip install 'mibench[arrow]'"
        ) from error
    return pyarrow


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Whatever pyarrow says of a broken file is an :class:`UnusableFile`."""
    pa = arrow()
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError, LookupError) as error:
        text = " ".join(str(error).split())
        raise UnusableFile(f"is damaged, or no Arrow or Parquet file: {text[:300]}") from error


@functools.lru_cache(maxsize=16)
def _opened(path: Path, _state: tuple[int, ...]) -> Table:
    with open_regular(path) as stream:
        start = stream.read(6)
    with _reading():
        return Parquet(path) if start[:4] == b"PAR1" else Arrow(path, start == b"ARROW1")


class Table(ABC):
    """One table. Its columns are known by their positions.

    Attributes:
        names: of the columns.
        ends: rows up to the end of each part that is read together.
        features: what ``datasets`` says of the columns in the schema's metadata.
        known: what was found out for the asked columns: whether the first holds paths, and where
            both are.
    """

    names: list[str]
    features: dict[str, Any]

    def __init__(self, path: Path, schema: Any, lengths: Sequence[int]) -> None:
        self.schema = schema
        self.names = list(schema.names)
        self.ends = list(itertools.accumulate(lengths))
        if self.ends and self.ends[-1] > path.stat().st_size:  # a few bytes can state any number
            raise UnusableFile(f"states {self.ends[-1]:,} rows, more than it has bytes")
        self.known: dict[tuple[str | None, str | None], tuple[bool, int, int]] = {}
        self.features = {}
        with contextlib.suppress(
            ValueError, LookupError, TypeError, AttributeError, RecursionError
        ):
            found = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
            self.features = found if isinstance(found, dict) else {}

    @abstractmethod
    def group(self, index: int, column: int) -> Any:
        """A column in one of the parts that are read together, as an Arrow array."""

    def size(self, column: int) -> int:
        """Most bytes of a column that are read together."""
        return 0

    def values(self, column: int) -> Iterator[Any]:
        """A column's values."""
        for index in range(len(self.ends)):
            with _reading():
                group = self.group(index, column)
                group.validate(full=True)
                values = group.to_pylist()
            yield from values

    def picture(self, column: int, row: int) -> bytes:
        """The bytes of an encoded picture.

        Raises:
            UnusableFile: there are none.
        """
        index = bisect.bisect_right(self.ends, row)
        with _reading():
            cell = self.group(index, column)[row - (self.ends[index - 1] if index else 0)]
            if cell.is_valid and arrow().types.is_struct(cell.type):
                whole, cell = cell, cell["bytes"]
                if not cell.is_valid and (path := whole.as_py().get("path")):
                    raise UnusableFile(
                        f"has no bytes, but a path ({str(path)[:200]!r}): embed the pictures, or "
                        "make a column of paths"
                    )
            held: bytes | None = cell.as_py()
        if held is None:
            raise UnusableFile("holds no picture")
        return held

    def whole_numbers(self, column: int) -> bool:
        """Whether a column holds integers."""
        return bool(arrow().types.is_integer(self.schema.field(column).type))

    def check(self, image: int, label: int) -> bool:
        """Refuse columns of other types; whether the first one holds paths."""
        types = arrow().types
        kind, who = self.schema.field(image).type, self.schema.field(label).type

        def text(each: Any) -> bool:
            return bool(types.is_string(each) or types.is_large_string(each))

        if types.is_dictionary(who):
            who = who.value_type
        if not (types.is_integer(who) or text(who)):
            raise UnusableFile(
                f"holds the labels {self.names[label]!r} as {who}: they are integers or text"
            )
        if types.is_dictionary(kind) and not types.is_struct(kind.value_type):
            kind = kind.value_type
        if text(kind):
            return True
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if not (types.is_binary(kind) or types.is_large_binary(kind)):
            raise UnusableFile(
                f"holds the pictures {self.names[image]!r} as {str(kind)[:100]}: they are encoded "
                "(bytes, or a struct with bytes), or paths"
            )
        if (size := self.size(image)) > _MOST_BYTES:
            raise UnusableFile(
                f"has a row group with {size / 2**30:.3g} GiB of pictures, all of which would be "
                "in memory: write it with smaller ones (row_group_size=1000)"
            )
        return False


class Arrow(Table):
    """A file or a stream of record batches, mapped into memory."""

    def __init__(self, path: Path, by_number: bool) -> None:
        pa = arrow()
        source = pa.memory_map(str(path))
        if by_number:
            reader = pa.ipc.open_file(source)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        else:
            reader = pa.ipc.open_stream(source)
            batches = list(reader)
        super().__init__(path, reader.schema, [len(batch) for batch in batches])
        size = source.size()
        if any(batch.get_total_buffer_size() > size for batch in batches):
            raise UnusableFile(
                "is compressed, and would be in memory as a whole: write it as it is"
            )
        self._batches = batches

    def group(self, index: int, column: int) -> Any:
        """A column of a record batch."""
        return self._batches[index].column(column)

    def check(self, image: int, label: int) -> bool:
        """The file states where each picture begins, which is not believed unseen."""
        for batch in self._batches:
            batch.column(image).validate(full=True)
        return super().check(image, label)


class Parquet(Table):
    """A Parquet file, of whose row groups few are held at once."""

    def __init__(self, path: Path) -> None:
        self._file = arrow().parquet.ParquetFile(str(path))
        self._about = self._file.metadata
        self._lock = threading.Lock()
        self._held: dict[tuple[int, int], Any] = {}
        lengths = [self._about.row_group(i).num_rows for i in range(self._about.num_row_groups)]
        super().__init__(path, self._file.schema_arrow, lengths)

    def group(self, index: int, column: int) -> Any:
        """A column of a row group."""
        with self._lock:
            if (index, column) not in self._held:
                read = self._file.read_row_group(index, columns=[self.names[column]])
                self._held[index, column] = read.column(0)
                for oldest in list(self._held)[:-_HELD]:
                    del self._held[oldest]
            return self._held[index, column]

    def size(self, column: int) -> int:
        """Most bytes of a column in a row group."""
        name = self.names[column]
        most = 0
        for index in range(len(self.ends)):
            group = self._about.row_group(index)
            leaves = (group.column(i) for i in range(group.num_columns))
            own = (
                e
                for e in leaves
                if e.path_in_schema == name or e.path_in_schema.startswith(f"{name}.")
            )
            most = max(most, sum(each.total_uncompressed_size for each in own))
        return most
