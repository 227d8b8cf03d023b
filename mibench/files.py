"""Files that a user or a stranger names, and files that are written whole."""

from __future__ import annotations

import codecs
import contextlib
import functools
import hashlib
import os
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mibench.errors import MibenchError, RequestError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_BYTES = 64 * 2**20  # of a text file that someone names: a record, a grid, a method's file

# Windows has neither FIFOs in folders nor these flags.
_DO_NOT_WAIT, _NO_LINK = getattr(os, "O_NONBLOCK", 0), getattr(os, "O_NOFOLLOW", 0)


def user_path(text: str | Path, what: str) -> Path:
    """The path that a text names, with ``~`` expanded.

    Args:
        text: what a user, an option or a grid file says.
        what: what a message calls it: ``"the image folder"``.

    Raises:
        RequestError: it is empty, holds a NUL byte, is not UTF-8, has a part that no file system
            takes, or names the home of a user who isn't there.
    """
    shown = repr(str(text)) if len(str(text)) < 200 else f"{str(text)[:60]!r}…"
    if not str(text):
        raise RequestError(f"{what}: the path is empty")
    if "\0" in str(text):
        raise RequestError(f"{what} {shown}: a path cannot hold a NUL byte")
    if any("\ud800" <= character <= "\udfff" for character in str(text)):
        raise RequestError(f"{what} {shown}: no text in UTF-8, as records and indices need it")
    try:
        path = Path(text).expanduser()
        path.exists()
    except RuntimeError as error:
        raise RequestError(f"{what} {shown}: there is no such user's home folder") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{what} {shown} is no usable path: {reason}") from error
    return path


def output_folder(text: str | Path, what: str) -> Path:
    """The folder that a text names, to write to; it need not exist yet, and is not made.

    Raises:
        RequestError: as :func:`user_path`; it, or what it would lie in, is no folder or cannot be
            written to.
    """
    path = user_path(text, what)
    place = path.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        where = f"{what} {path}" if place == path.absolute() else f"{what} {path}: {place}"
        raise RequestError(f"{where} is no folder; choose another place")
    try:
        with tempfile.TemporaryFile(dir=place):  # permissions alone do not tell: /proc, full disks
            pass
    except OSError as error:
        raise RequestError(
            f"{what} {path}: {place} cannot be written to ({error.strerror}); choose another place"
        ) from error
    return path


def read_file(path: str | Path, what: str, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file that a user named; nothing else is opened.

    A device, a FIFO or a socket may never end, or wait for ever: none is read. Links to regular
    files are followed (:func:`read_plain` refuses them).

    Args:
        path: the file.
        what: what a message calls it: ``"the grid"``.
        most: bytes that it may have.

    Raises:
        RequestError: there is no such file, it is none, too large, or cannot be read.
    """
    return _read(user_path(path, what), what, most, links=True)


def read_toml(path: str | Path, what: str) -> dict[str, Any]:
    """The content of a TOML file that a user named.

    Args:
        path: the file.
        what: what a message calls it: ``"the grid file"``.

    Raises:
        RequestError: it cannot be read, or is no TOML; the message names it.
    """
    data, where = read_file(path, what), f"{what} {path}"
    if data.startswith(codecs.BOM_UTF8):
        raise RequestError(f"{where} begins with a byte-order mark: save it as UTF-8 without one")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise RequestError(f"{where} cannot be read as UTF-8: {error}") from error
    except RecursionError as error:
        raise RequestError(f"{where} is no TOML: it is nested too deeply") from error
    except ValueError as error:  # also of integers too long for Python to read, and odd dates
        raise RequestError(f"{where} is no TOML: {error}") from error


def read_plain(path: str | Path, what: str, most: int = MOST_BYTES) -> bytes:
    """As :func:`read_file`, of a file that a stranger made: a link is refused, too."""
    return _read(user_path(path, what), what, most, links=False)


class UnusableFile(Exception):  # noqa: N818  (a finding: who names the file raises the error)
    """Why a file cannot be read, as what follows its name: ``"is a folder, not a file"``."""


@contextlib.contextmanager
def open_regular(path: Path, *, links: bool = True) -> Iterator[BinaryIO]:
    """A regular file to read from, without waiting for anything that is none.

    Args:
        path: the file, as the file system names it.
        links: whether a link to a regular file is followed.

    Raises:
        UnusableFile: it cannot be read, or is no file; from what the system said.
    """
    flags = _DO_NOT_WAIT if links else _DO_NOT_WAIT | _NO_LINK
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | flags)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte
        reason = error.strerror if isinstance(error, OSError) else error
        if not links and path.is_symlink():
            reason = "it is a link, which is not followed here"
        raise UnusableFile(f"cannot be read: {reason}") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a device, FIFO or socket"
            raise UnusableFile(f"is {kind}, not a file")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)


def read_regular(path: Path, most: int = MOST_BYTES, *, links: bool = True) -> bytes:
    """The bytes of a regular file, as :func:`open_regular` opens it.

    Args:
        most: bytes that it may have.

    Raises:
        UnusableFile: it cannot be read, is no file, or is larger.
    """
    with open_regular(path, links=links) as stream:
        try:
            data = stream.read(most + 1)
        except OSError as error:
            raise UnusableFile(f"cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise UnusableFile(f"has more than {most / 2**20:.3g} MiB")
    return data


def _read(path: Path, what: str, most: int, links: bool) -> bytes:
    try:
        return read_regular(path, most, links=links)
    except UnusableFile as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise RequestError(f"{what} {path}: there is no such file") from error
        raise RequestError(f"{what} {path} {error}") from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that at any moment it is absent, as it was, or complete (:func:`written`).

    Raises:
        MibenchError: it could not be written; the message names it.
    """
    with written(path, "free some space or choose another folder") as stream:
        stream.write(data)


@contextlib.contextmanager
def written(path: Path, remedy: str) -> Iterator[BinaryIO]:
    """A stream of what a file is to hold, which is put in its place when all of it is there.

    Folders are made. The temporary file beside it has a name that nobody can foresee and is created
    anew, so that no link that lies there is followed; a link at ``path`` itself is replaced.

    Args:
        remedy: what to do if it cannot be written, as the message says it.

    Raises:
        MibenchError: it could not be written; the message names it.
    """
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise MibenchError(f"cannot write {path}: {error.strerror}; {remedy}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    result = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            result.update(block)
    return result.hexdigest()


def sha256_once(path: Path) -> str:
    """The same, read once in a process unless the file was changed since."""
    status = path.stat()
    return _sha256_of(path.absolute(), status.st_mtime_ns, status.st_size)


@functools.cache
def _sha256_of(path: Path, _mtime_ns: int, _size: int) -> str:
    return sha256(path)
