"""A folder of files somewhere: here, on a web server, in S3 or on Hugging Face, through fsspec.

What is read from it is believed in nothing: every file has a size that it may have at most, and
what is kept has a checksum.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
from filelock import FileLock

from mibench.errors import HubError, MibenchError, RequestError, UnreachableError, printable
from mibench.files import sha256, user_path, write_atomic, written
from mibench.progress import SILENT, Progress, size
from mibench.settings import shown

SCHEMES = ("file", "http", "https", "s3", "hf")
_READ_ONLY = ("http", "https")
_BLOCK = 2**20
_TRIES = 4  # of a file whose transfer breaks off; each goes on where the last one ended
_PAUSE = 0.5  # seconds before the second try; twice as many before each further one
_SILENCE = 60.0  # seconds without a byte, after which a server is held to be gone
# S3's answers to a conditional write that came too late.
_OVERTAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


class Place:
    """A folder that a URL names.

    Args:
        url: ``http(s)://…``, ``s3://bucket/…``, ``hf://…``, ``file:///…``, or a path of this
            machine. Who may write to it, and with which password, is the environment's to say.

    Raises:
        RequestError: it is none of these, holds a password or a query, or needs a package that is
            not installed.
    """

    def __init__(self, url: str) -> None:
        if not url.isprintable() or len(url) > 2000:
            raise RequestError(f"the hub {shown(url)}: this is no URL")
        self.url = url
        self.scheme, colon, rest = url.partition("://")
        if not colon:
            self.scheme, root = "file", user_path(url, "the hub").absolute().as_posix()
        elif self.scheme not in SCHEMES:
            raise RequestError(
                f"the hub {shown(url)}: mibench takes {', '.join(f'{s}://' for s in SCHEMES)} and "
                "folders of this machine"
            )
        elif self.scheme == "file":
            root = user_path(rest, "the hub").as_posix()
            if not root.startswith("/"):
                raise RequestError(f"the hub {shown(url)}: write file:///path, or the path alone")
        else:
            parts = urlsplit(url)
            if "@" in parts.netloc:
                raise RequestError(
                    "the hub's URL holds a password, which records and messages would show: leave "
                    "it to the environment, or to the settings of the storage"
                )
            if parts.query or parts.fragment or not parts.netloc or "::" in url:
                raise RequestError(f"the hub {shown(url)}: it is no address of a folder")
            root = url if self.scheme in _READ_ONLY else rest
        self._root = root.rstrip("/")
        self._fs = self._filesystem()

    def _filesystem(self) -> Any:
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        try:
            if self.scheme in _READ_ONLY:
                import aiohttp

                limit = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_SILENCE)
                options["client_kwargs"] = {"timeout": limit}
            return fsspec.filesystem(self.scheme, **options)
        except ImportError as error:
            raise RequestError(
                f"the hub {self.url}: {self.scheme}:// needs packages that are not installed "
                f"({error}): pip install 'mibench[hub]'"
            ) from error

    @property
    def writable(self) -> bool:
        """Whether files can be put there at all; a web server only gives them."""
        return self.scheme not in _READ_ONLY

    # -- reading ---------------------------------------------------------------------------------

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a small file.

        Raises:
            HubError: it is not there, or larger than ``most``.
            UnreachableError: nobody answers.
        """
        data = bytearray()
        if self.scheme in ("s3", "hf"):
            # In one request: what is opened there, and replaced meanwhile, cannot be read on.
            with self._asking(name):
                data += self._fs.cat_file(f"{self._root}/{name}", start=0, end=most + 1)
        else:
            with self._opened(name, 0) as blocks:
                while len(data) <= most and (block := next(blocks, b"")):
                    data += block
        if len(data) > most:
            raise HubError(f"{self.url}: {name} is larger than the {size(most)} it may be")
        return bytes(data)

    def download(
        self, name: str, place: Path, wanted: int, checksum: str, progress: Progress = SILENT
    ) -> None:
        """Fetch a file to ``place``, going on where an earlier attempt ended.

        What is there already is taken for its beginning; if the whole then has another checksum,
        it is fetched once more from its first byte.

        Args:
            wanted: its size in bytes, beyond which nothing is read.
            checksum: its SHA-256.

        Raises:
            HubError: it is not there, or another one; ``place`` is removed. Or its transfer broke
                off too often; what arrived is kept for the next attempt.
            UnreachableError: nobody answers.
        """
        tries, arrived = 0, False
        while True:
            start = place.stat().st_size if place.exists() else 0
            found = start
            if start < wanted or not place.exists():
                try:
                    for block in self._append(name, place, start, wanted):
                        found += block
                        arrived = True
                        progress.advance(block)
                except UnreachableError as error:
                    tries += 1
                    if tries < _TRIES:
                        time.sleep(_PAUSE * 2 ** (tries - 1))
                        continue
                    if not arrived:
                        raise
                    raise HubError(
                        f"{self.url}: {name} broke off {tries} times ({error}); what arrived is "
                        "kept, and the next attempt goes on there"
                    ) from error
            if found == wanted and sha256(place) == checksum:
                return
            place.unlink()
            if not start:
                wrong = f"has {found:,} bytes of {wanted:,}" if found < wanted else "has more bytes"
                wrong = "has another SHA-256" if found == wanted else wrong
                raise HubError(f"{self.url}: {name} {wrong} than it should")

    def _append(self, name: str, place: Path, start: int, wanted: int) -> Iterator[int]:
        """Append a file's bytes from ``start`` on; one more than ``wanted`` at most."""
        with self._opened(name, start) as blocks, place.open("ab") as stream:
            left = wanted + 1 - start
            for block in blocks:
                stream.write(block[:left])
                left -= len(block)
                yield len(block)
                if left <= 0:
                    break

    @contextlib.contextmanager
    def _opened(self, name: str, start: int) -> Iterator[Iterator[bytes]]:
        """The blocks of a file from a byte on. A web server without ranges gives them all."""
        path = f"{self._root}/{name}"
        with self._asking(name):
            if self.scheme in _READ_ONLY:
                headers = {"Accept-Encoding": "identity"}
                if start:
                    headers["Range"] = f"bytes={start}-"
                # Of size 1, so that fsspec asks for none; without blocks, so that it streams.
                stream = self._fs.open(path, "rb", block_size=0, size=1, headers=headers)
            else:
                if self.scheme == "file" and not self._fs.isfile(path):
                    raise FileNotFoundError(path)
                stream = self._fs.open(path, "rb")
                stream.seek(start)

        def blocks() -> Iterator[bytes]:
            while True:
                with self._asking(name):
                    block = stream.read(_BLOCK)
                if not block:
                    return
                yield block

        try:
            yield blocks()
        finally:
            with contextlib.suppress(Exception):
                stream.close()

    @contextlib.contextmanager
    def _asking(self, name: str, absent: str = "has no") -> Iterator[None]:
        """Turn what a storage raises, which is anything, into one of two errors."""
        try:
            yield
        except MibenchError:
            raise
        except FileNotFoundError as error:
            raise HubError(f"{self.url} {absent} {name}") from error
        except Exception as error:
            reason = printable(f"{type(error).__name__}: {error}".rstrip(": "), 300)
            status = getattr(error, "status", 500)
            if isinstance(error, PermissionError) or 300 <= status < 500:
                raise HubError(f"{self.url} refuses {name} ({reason})") from error
            raise UnreachableError(f"{self.url} does not answer ({reason})") from error

    # -- writing ---------------------------------------------------------------------------------

    def require_writable(self) -> None:
        """Refuse a place that nothing can be put into.

        Raises:
            RequestError: it is a web server.
        """
        if not self.writable:
            raise RequestError(
                f"{self.url}: a web server only gives files. Push to the folder or bucket that it "
                "serves"
            )

    def size_of(self, name: str) -> int | None:
        """Bytes that a file has; None where there is none."""
        with self._asking(name):
            try:
                found: int = self._fs.info(f"{self._root}/{name}")["size"]
            except FileNotFoundError:
                return None
            return found

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""
        with self._asking(name), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}")

    def upload(self, source: Path, name: str) -> None:
        """Put a file there, so that nobody ever sees half of it."""
        path = f"{self._root}/{name}"
        if self.scheme != "file":
            with self._asking(name, "has no place for"):
                self._fs.put_file(str(source), path)
            return
        remedy = "free some space, or name another hub"
        with written(Path(path), remedy) as write, source.open("rb") as read:
            shutil.copyfileobj(read, write)

    def update(self, name: str, most: int, change: Callable[[bytes | None], bytes]) -> None:
        """Replace a small file by what ``change`` makes of it; None: there was none.

        No other update is lost meanwhile: a folder has a lock, S3 writes on a condition. On Hugging
        Face the last one wins.

        Raises:
            MibenchError: it could not be written, or others were faster too often.
        """
        if self.scheme == "file":
            path = Path(f"{self._root}/{name}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(path.with_name(f".{name}.lock")):
                    write_atomic(path, change(self._read_if_there(name, most)))
            except OSError as error:  # of the folder or the lock
                raise MibenchError(f"cannot write {path}: {error.strerror}") from error
            return
        for attempt in range(20):
            tag = self._tag(name) if self.scheme == "s3" else None
            data = change(self._read_if_there(name, most))
            condition: dict[str, Any] = {}
            if self.scheme == "s3":
                condition = {"IfMatch": tag} if tag else {"mode": "create"}
            with self._asking(name):
                try:
                    self._fs.pipe_file(f"{self._root}/{name}", data, **condition)
                    return
                except Exception as error:
                    if not _overtaken(error):
                        raise
            time.sleep(0.05 * (attempt + 1))
        raise MibenchError(f"{self.url}: {name} changed under every attempt; try again")

    def _read_if_there(self, name: str, most: int) -> bytes | None:
        return None if self.size_of(name) is None else self.read(name, most)

    def _tag(self, name: str) -> str | None:
        with self._asking(name):
            try:
                tag: str = self._fs.info(f"{self._root}/{name}", refresh=True)["ETag"]
            except FileNotFoundError:
                return None
            return tag


def _overtaken(error: BaseException | None) -> bool:
    """Whether another update came first, as S3's client says it, somewhere in an error's causes."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict) and answer.get("Error", {}).get("Code") in _OVERTAKEN:
            return True
        error = error.__cause__ or error.__context__
    return False
