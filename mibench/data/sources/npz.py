"""An ``.npz`` file with an array of pictures and one of labels, as ``numpy.savez`` writes it.

Pictures are ``(n, h, w, 3)``, ``(n, 3, h, w)`` or, in grey, ``(n, h, w)`` (or with one channel):
bytes, or floats in [0, 1], which become ``round(255 x)``. They are read one by one, so that memory
does not grow with the file; compressed ones from a temporary file that holds the unpacked array.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import shutil
import struct
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mibench.data import own
from mibench.data import source as data
from mibench.data.pixels import MAX_PIXELS
from mibench.errors import RequestError
from mibench.files import UnusableFile, open_regular

_LABEL_BYTES = 2**29  # of the array of labels
_SPARE = 2**28  # bytes that stay free where an array is unpacked
_LOCAL_HEADER = 30  # bytes before the name, whose length and that of what follows it stand at 26
_LOCK = threading.Lock()
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OverflowError),
    *(NotImplementedError, RuntimeError, ValueError),
)


@data.register_source("npz")
class NPZ(own.OwnPictures):
    """Pictures in one array, and who each shows in another."""

    card = data.DatasetCard(
        name="npz",
        title="A NumPy file of pictures and labels",
        licence="that of its pictures",
        of_people=True,
        layout=(
            "faces.npz:   images   uint8 (n, h, w, 3), (n, 3, h, w) or (n, h, w); or floats in "
            "[0, 1]\n"
            "             labels   integers or text (n,)"
        ),
        preprocessing=own.PREPROCESSING,
        always_partial=True,
    )
    of_one_file = True
    separate = False

    def path(self, root: Path, file: str) -> Path:
        """The file itself."""
        return root

    def shown(self, root: Path, file: str) -> str:
        """The file, and the row."""
        return f"{root}{file}"

    def open(self, root: Path, file: str) -> AbstractContextManager[IO[bytes]]:
        """A picture as PGM or PPM."""
        try:
            with self._reading(root) as arrays:
                pass
        except RequestError as error:
            raise UnusableFile(str(error)) from error
        return io.BytesIO(arrays.picture(int(file[1:])))

    def listing(self, root: Path, *, incomplete: bool = False) -> data.Listing:
        """Row by row; a compressed array of pictures is unpacked here."""
        with self._reading(root) as arrays:
            labels = arrays.labels()
        return own.gathered("npz", ((f"#{n:08d}",) * 2 + (each,) for n, each in enumerate(labels)))

    @contextlib.contextmanager
    def _reading(self, root: Path) -> Iterator[_Arrays]:
        """The arrays of a file; what is wrong with them is refused."""
        try:
            status = root.stat()
            state = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            with _LOCK:  # threads that ask at once get the same one
                arrays = _opened(root, state, self.image, self.label)
            yield arrays
        except OSError as error:
            raise self.refuse(f"{root} cannot be read: {error.strerror}") from error
        except (UnusableFile, *_BROKEN) as error:
            raise self.refuse(f"{root} {error}") from error


@functools.lru_cache(maxsize=1)
def _opened(root: Path, _state: tuple[int, ...], image: str | None, label: str | None) -> _Arrays:
    return _Arrays(root, image, label)


class _Arrays:
    """The two arrays of a file; pictures are read as they are asked for."""

    def __init__(self, root: Path, image: str | None, label: str | None) -> None:
        self.root = root
        self._lock = threading.Lock()
        with self._archive() as archive:
            members = [each for each in archive.infolist() if each.filename.endswith(".npy")]
            names = [each.filename.removesuffix(".npy") for each in members]
            pictures, labels = NPZ(image, label).columns(root, names, own.PICTURES)
            self._names = names[pictures], names[labels]
            self._labels = members[labels]
            member = members[pictures]
            self.shape, self.dtype, head = _header(archive, member)
            self._check(member.file_size - head)
            self._unpacked: IO[bytes] | None = None
            if member.compress_type == zipfile.ZIP_STORED:
                self._start = _start(archive, member) + head
            else:
                self._unpacked, self._start = _unpack(archive, member), head

    @contextlib.contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        with open_regular(self.root) as stream, zipfile.ZipFile(stream) as archive:
            yield archive

    def _check(self, size: int) -> None:
        """Refuse what is no array of pictures."""
        name, shape, dtype = self._names[0], self.shape, self.dtype
        grey, last = len(shape) == 3, len(shape) == 4 and shape[3] in (1, 3)
        first = len(shape) == 4 and shape[1] in (1, 3)
        if not (grey or last != first):
            raise ValueError(
                f"holds {name!r} of shape {shape}: pictures are (n, h, w, 3), (n, 3, h, w) or "
                "(n, h, w)"
            )
        if dtype != np.uint8 and dtype.kind != "f":
            raise ValueError(
                f"holds {name!r} as {dtype}: pictures are bytes (uint8, 0 to 255), or floats in "
                "[0, 1]"
            )
        self.channels_first = first
        height, width = shape[2:] if first else shape[1:3]
        if not shape[0] or not 1 <= height * width <= MAX_PIXELS:
            raise ValueError(
                f"holds {name!r} of shape {shape}: a picture has 1 to {MAX_PIXELS:,} pixels, and "
                "one there has to be"
            )
        if size != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"holds {name!r} with another size than its shape {shape} has")

    def labels(self) -> list[object]:
        """As many as there are pictures."""
        name = self._names[1]
        with self._archive() as archive:
            shape, dtype, head = _header(archive, self._labels)
            if dtype.kind not in "iuUS":
                raise ValueError(f"holds {name!r} as {dtype}: labels are integers or text")
            if len(shape) == 0 or shape[0] != self.shape[0] or math.prod(shape) != shape[0]:
                raise ValueError(
                    f"holds {name!r} of shape {shape}, but {self.shape[0]} pictures, each of which "
                    "has one label"
                )
            if (size := math.prod(shape) * dtype.itemsize) > _LABEL_BYTES:
                raise ValueError(f"holds {name!r} with more than {_LABEL_BYTES / 2**20:g} MiB")
            if self._labels.file_size - head != size:
                raise ValueError(f"holds {name!r} with another size than its shape {shape} has")
            with archive.open(self._labels) as stream:
                found = np.lib.format.read_array(stream, allow_pickle=False)
        labels: list[object] = found.reshape(-1).tolist()
        return labels

    def picture(self, row: int) -> bytes:
        """A row as PGM or PPM.

        Raises:
            UnusableFile: the file was cut off, or floats are not in [0, 1].
        """
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        start = self._start + row * size
        if self._unpacked is None:
            with open_regular(self.root) as stream:
                stream.seek(start)
                held = stream.read(size)
        else:
            with self._lock:
                self._unpacked.seek(start)
                held = self._unpacked.read(size)
        if len(held) != size:
            raise UnusableFile("ends too soon: the file was cut off")
        pixels = _bytes(np.frombuffer(held, self.dtype).reshape(self.shape[1:]))
        if self.channels_first:
            pixels = pixels.transpose(1, 2, 0)
        kind = b"P6" if pixels.ndim == 3 and pixels.shape[2] == 3 else b"P5"
        height, width = pixels.shape[:2]
        return kind + f"\n{width} {height}\n255\n".encode() + pixels.tobytes()


def _bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    low, high = pixels.min(), pixels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnusableFile("holds NaN or infinite values")
    if low < 0 or high > 1:
        raise UnusableFile(f"holds values from {low:.6g} to {high:.6g}, and floats are in [0, 1]")
    return np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)


def _header(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and type of an array, and the bytes before its first item."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"holds {member.filename} in version {version} of the format")
        read = np.lib.format.read_array_header_1_0
        if version == (2, 0):
            read = np.lib.format.read_array_header_2_0
        try:
            shape, by_columns, dtype = read(stream)
        except Exception as error:  # NumPy parses it as Python, and raises what that does
            raise ValueError(f"holds {member.filename} without a header: {error}") from error
        head = stream.tell()
    if dtype.hasobject:
        raise ValueError(
            f"holds {member.filename} as Python objects, which are never unpickled: save it as "
            "an array of numbers or text, np.array(values, dtype=str)"
        )
    if by_columns and len(shape) > 1:
        raise ValueError(
            f"holds {member.filename} in Fortran's order: save np.ascontiguousarray(array)"
        )
    return shape, dtype, head


def _start(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Where an uncompressed member begins in the file."""
    stream = archive.fp
    assert stream is not None
    stream.seek(member.header_offset)
    lengths = struct.unpack("<2H", stream.read(_LOCAL_HEADER)[26:])
    if member.compress_size != member.file_size:
        raise ValueError(f"states two sizes of {member.filename}")
    return member.header_offset + _LOCAL_HEADER + sum(lengths)


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    """A compressed member as a temporary file without a name."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if member.file_size > free - _SPARE:
        raise ValueError(
            f"is compressed, and {member.filename} has {member.file_size / 2**30:.3g} GiB, more "
            f"than {tempfile.gettempdir()} has free: save it with numpy.savez, or name a larger "
            "folder by TMPDIR"
        )
    made: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (it is read as long as it is held)
    with archive.open(member) as stream:
        shutil.copyfileobj(stream, made, 2**20)
    if made.seek(0, os.SEEK_END) != member.file_size:
        raise ValueError(f"ends before {member.filename} does")
    return made
