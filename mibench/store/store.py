"""Content-addressed artifacts: one folder per computed stage, checked whenever it is read.

Layout of a store::

    <stage>/<key>/manifest.json ...   a finished artifact, never changed after it appears
    locks/<stage>-<key>.lock          held by the process that computes or removes the artifact
    tmp/<stage>-<key>-<random>/       an artifact being computed, or being removed
    fetched/<stage>-<key>/            what has arrived of an artifact from elsewhere

An artifact is computed in ``tmp`` and renamed into place, under its lock. The operating system
drops a process's locks when it dies, so a folder in ``tmp`` whose lock is free has lost its owner:
whoever obtains the lock may remove it. That holds for processes on other machines too, as far as
the file system shares locks. What lies in ``fetched`` goes on where it ended, and is read by nobody
until all of it is there and checked.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from filelock import FileLock, Timeout

from mibench.errors import ArtifactError, HubError, MibenchError, RequestError
from mibench.files import sha256, user_path
from mibench.store.artifact import (
    MANIFEST,
    Artifact,
    FileEntry,
    Manifest,
    make_manifest,
    parse_manifest,
    save_json,
    sync,
)
from mibench.types import digest

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_STAGE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_KEY = re.compile(r"[0-9a-f]{64}")
_OWNER = re.compile(rf"(?P<stage>{_STAGE.pattern})-(?P<key>{_KEY.pattern})")
_TEMPORARY = re.compile(rf"{_OWNER.pattern}-[0-9a-f]{{8}}")
_NO_STAGES = ("tmp", "locks", "fetched")
_SILENT_SECONDS = 2.0  # that a process waits for another one without a word
# A disk that is full, over quota, read-only or failing: such errors often name no file.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


# Brings an artifact, its manifest too, into a folder that may hold what an earlier attempt left;
# raises HubError where it cannot be had.
Fetch = Callable[[Path], None]


@dataclass(frozen=True)
class ArtifactInfo:
    """A line of a store's listing: size in bytes, last use in seconds since the epoch."""

    stage: str
    key: str
    size: int
    used: float
    created: str | None
    mibench: str | None


def cache_folder() -> Path:
    """``mibench`` in the user's cache folder."""
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        cache = "~/Library/Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return user_path(cache, "your cache folder") / "mibench"


def default_root() -> Path:
    """The store's folder: ``MIBENCH_STORE``, else ``mibench`` in the user's cache folder."""
    if chosen := os.environ.get("MIBENCH_STORE"):
        return user_path(chosen, "the store (MIBENCH_STORE)")
    return cache_folder()


def stage_key(
    stage: str, config: dict[str, Any], seed: int | None, parents: Sequence[str], source: str
) -> str:
    """Key of a stage's artifact: SHA-256 of everything that its result depends on.

    Args:
        stage: name of the stage.
        config: the resolved configuration, JSON values only (no NaN).
        seed: None for a stage without randomness of its own.
        parents: keys of the artifacts that it reads, in a fixed order.
        source: digest of the code that computes it (:func:`mibench.store.source.code_digest`).
    """
    parts = {"config": config, "seed": seed, "parents": list(parents), "source": source}
    return digest({"stage": stage, **parts})


class Store:
    """A folder of artifacts, shared by any number of processes; made when it is first written to.

    Attributes:
        what, choose, free: how messages call the store, and what to do about it.

    Raises:
        RequestError: ``root`` cannot be a folder.
    """

    what: ClassVar[str] = "the store"
    choose: ClassVar[str] = "choose a folder with --store or MIBENCH_STORE"
    free: ClassVar[str] = (
        "free some space (`mibench store gc`) or choose another with --store or MIBENCH_STORE"
    )

    def __init__(self, root: Path | str) -> None:
        self.root = user_path(root, self.what).absolute()
        # Files that this process has hashed, with the size and time that they had then.
        self._hashed: dict[Path, tuple[tuple[int, int, int], str]] = {}
        if self.root.exists() and not self.root.is_dir():
            raise self._unusable("it is no folder")

    def _unusable(self, reason: str | None) -> RequestError:
        return RequestError(f"{self.what} {self.root} cannot be created: {reason}; {self.choose}")

    def require_space(self, needed: int) -> None:
        """Make the folder and check that ``needed`` bytes are free, before long work.

        Raises:
            RequestError: it cannot be made, or they are not.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error.strerror) from error
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise RequestError(
                f"{self.what} {self.root} needs {needed / 2**20:,.0f} MiB and has "
                f"{free / 2**20:,.0f}: {self.free}"
            )

    def get_or_compute(
        self,
        stage: str,
        key: str,
        inputs: dict[str, Any],
        compute: Callable[[Path], dict[str, Any]],
        device: torch.device | str = "cpu",
        fetch: Fetch | None = None,
    ) -> Artifact:
        """The artifact of ``key``, computed unless it is there and intact, or can be fetched.

        A corrupt artifact is logged and computed anew, and so is one that could not be fetched.
        While another process computes the same one, this waits for it.

        Args:
            stage: name of the stage, which is the artifact's parent folder.
            key: 64 hexadecimal digits, from :func:`stage_key`.
            inputs: what the key was made of, JSON values, kept in the manifest.
            compute: writes the artifact's files into the empty folder it is given and returns what
                that cost (JSON values). What it raises is passed on and nothing is kept.
            device: where it is computed, for the manifest.
            fetch: brings it from elsewhere, if it can.

        Raises:
            MibenchError: the store could not be written (full, read-only); the message says where.
        """
        folder = self._folder(stage, key)
        with contextlib.suppress(ArtifactError):  # looked at again, and logged, under the lock
            if (manifest := self._read(stage, key)) is not None:
                return Artifact(folder, manifest, cached=True)
        with self._vacant(stage, key) as artifact:
            if artifact is not None:
                return artifact
            if fetch is not None:
                try:
                    return Artifact(folder, self._receive(stage, key, fetch), cached=True)
                except HubError as error:
                    log.warning("%s; it is computed here", error)
            manifest = self._build(stage, key, inputs, compute, device)
            shutil.rmtree(self._begun(stage, key), ignore_errors=True)
            return Artifact(folder, manifest, cached=False)

    def fetch(self, stage: str, key: str, fetch: Fetch) -> Artifact:
        """The artifact of ``key``, fetched unless it is there and intact.

        Raises:
            HubError: it could not be had, or is not what it should be.
            MibenchError: the store could not be written.
        """
        with self._vacant(stage, key) as artifact:
            if artifact is not None:
                return artifact
            manifest = self._receive(stage, key, fetch)
            return Artifact(self._folder(stage, key), manifest, cached=True)

    def open(self, stage: str, key: str, unread: Collection[str] = ()) -> Artifact:
        """The artifact of ``key``, its files checked; the ``unread`` ones for their size alone.

        Raises:
            ArtifactError: it is absent or not what was written.
        """
        if (manifest := self._read(stage, key, unread=unread)) is None:
            raise ArtifactError(f"there is no {stage} artifact {key[:12]} in {self.root}")
        return Artifact(self._folder(stage, key), manifest, cached=True)

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact of ``key``, or None when it is absent or corrupt (which is logged)."""
        try:
            manifest = self._read(stage, key)
        except ArtifactError as error:
            log.warning("%s; it will be computed again", error)
            return None
        if manifest is None:
            return None
        return Artifact(self._folder(stage, key), manifest, cached=True)

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """The manifest of an artifact without checking its files; None when there is none."""
        with contextlib.suppress(ArtifactError, OSError):
            return parse_manifest(self._folder(stage, key), stage, key)
        return None

    def ls(self) -> list[ArtifactInfo]:
        """All artifacts, by stage and key, without checking their files."""
        listing = []
        for stage, key in self._artifacts():
            folder = self._folder(stage, key)
            manifest = None
            with contextlib.suppress(ArtifactError):
                manifest = parse_manifest(folder, stage, key)
            created, version = (manifest.created, manifest.mibench) if manifest else (None, None)
            with contextlib.suppress(FileNotFoundError):  # another process removed it just now
                size, used = _size(folder), _used(folder)
                listing.append(ArtifactInfo(stage, key, size, used, created, version))
        return listing

    def verify(self) -> list[str]:
        """Hash every file of every artifact; a message for each artifact that is not intact."""
        problems = []
        self._hashed.clear()
        for stage, key in self._artifacts():
            try:
                self._read(stage, key, touch=False)
            except ArtifactError as error:
                problems.append(str(error))
        return problems

    def gc(
        self,
        older_than_days: float | None = None,
        stages: Collection[str] | None = None,
        keep: Collection[str] = (),
        dry_run: bool = False,
    ) -> int:
        """Remove what dead processes left, and artifacts that were not used for a while.

        What another process is computing or removing is left alone.

        Args:
            older_than_days: remove artifacts last used longer ago; None removes no artifact.
            stages: only artifacts of these stages; None means of all.
            keep: keys that stay.
            dry_run: only count.

        Returns:
            Bytes freed (with ``dry_run``: that would be).
        """
        if not self.root.exists():
            return 0
        with self._explained("remove artifacts"):
            freed = self._remove_temporaries(dry_run=dry_run)
            if older_than_days is not None:
                unused_since = time.time() - older_than_days * 86400
                for stage, key in self._artifacts():
                    if key not in keep and (stages is None or stage in stages):
                        freed += self._remove_unused(stage, key, unused_since, dry_run)
            if not dry_run:
                self._remove_locks()
        return freed

    # -- one artifact ----------------------------------------------------------------------------

    def _folder(self, stage: str, key: str) -> Path:
        if not _STAGE.fullmatch(stage) or stage in _NO_STAGES or not _KEY.fullmatch(key):
            raise ValueError(f"not a stage and a SHA-256 key: {stage!r}, {key!r}")
        return self.root / stage / key

    def _read(
        self, stage: str, key: str, touch: bool = True, unread: Collection[str] = ()
    ) -> Manifest | None:
        """Manifest of an intact artifact; None when there is none."""
        folder = self._folder(stage, key)
        if not folder.exists():
            return None
        try:
            manifest = parse_manifest(folder, stage, key)
            for name, entry in manifest.files.items():
                self._check_file(folder / name, entry, stage, name not in unread)
        except ArtifactError:
            if not folder.exists():  # removed meanwhile, by gc in another process
                return None
            raise
        if touch:
            with contextlib.suppress(OSError):  # a store of someone else's is read all the same
                os.utime(folder / MANIFEST)
        return manifest

    def _check_file(self, path: Path, entry: FileEntry, stage: str, read: bool) -> None:
        try:
            status = path.stat()
            if status.st_size != entry.size:
                raise ArtifactError(
                    f"corrupt {stage} artifact: {path} has {status.st_size} bytes, not {entry.size}"
                )
            found = self._sha256(path) if read else entry.sha256
        except OSError as error:
            raise ArtifactError(
                f"corrupt {stage} artifact: {path} cannot be read ({error.strerror})"
            ) from error
        if found != entry.sha256:
            raise ArtifactError(f"corrupt {stage} artifact: {path} does not match its checksum")

    def _sha256(self, path: Path, known: str | None = None) -> str:
        """SHA-256 of a file, which is read once for as long as it stays as it is.

        Args:
            known: its sum, from whoever has written it just now.
        """
        status = path.stat()
        signature = (status.st_mtime_ns, status.st_size, status.st_ino)
        held = self._hashed.get(path)
        if known is not None or held is None or held[0] != signature:
            held = self._hashed[path] = (signature, known or sha256(path))
        return held[1]

    @contextlib.contextmanager
    def _vacant(self, stage: str, key: str) -> Iterator[Artifact | None]:
        """Hold an artifact's lock; the artifact, or None with its place empty."""
        with self._explained(f"write the {stage} artifact"), contextlib.ExitStack() as held:
            self.root.mkdir(parents=True, exist_ok=True)
            held.enter_context(self._locked(stage, key))
            artifact = self.find(stage, key)
            if artifact is None:
                self._remove_temporaries(held=(stage, key))
                if self._folder(stage, key).exists():
                    self._discard(stage, key)
            yield artifact

    def _receive(self, stage: str, key: str, fetch: Fetch) -> Manifest:
        """Fetch an artifact, check all of it and put it in its place; the caller has its lock."""
        begun, folder = self._begun(stage, key), self._folder(stage, key)
        begun.mkdir(parents=True, exist_ok=True)
        fetch(begun)
        try:
            manifest = parse_manifest(begun, stage, key)
            for name, entry in manifest.files.items():
                self._check_file(begun / name, entry, stage, read=True)
        except ArtifactError as error:
            shutil.rmtree(begun, ignore_errors=True)
            raise HubError(f"the {stage} {key[:12]} arrived as something else ({error})") from error
        for path in [*begun.rglob("*"), begun]:
            left = path.is_file() and path.relative_to(begun).as_posix() not in manifest.files
            if left and path != begun / MANIFEST:  # by an attempt at another artifact of this key
                path.unlink()
            else:
                sync(path)
        folder.parent.mkdir(exist_ok=True)
        begun.rename(folder)
        sync(folder.parent)
        return manifest

    def _begun(self, stage: str, key: str) -> Path:
        return self.root / "fetched" / f"{stage}-{key}"

    def _build(
        self,
        stage: str,
        key: str,
        inputs: dict[str, Any],
        compute: Callable[[Path], dict[str, Any]],
        device: torch.device | str,
    ) -> Manifest:
        """Compute an artifact and put it in its place; the caller holds its lock."""
        folder = self._folder(stage, key)
        temporary = self._temporary(stage, key)
        try:
            temporary.mkdir(parents=True)
            cost = compute(temporary)
            manifest = make_manifest(temporary, stage, key, inputs, cost, device, self._sha256)
            save_json(temporary / MANIFEST, manifest.model_dump(mode="json"))
            for path in [*temporary.rglob("*"), temporary]:
                sync(path)
            folder.parent.mkdir(exist_ok=True)
            temporary.rename(folder)
            sync(folder.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return manifest

    def _discard(self, stage: str, key: str) -> None:
        """Remove an artifact in one step, so that no reader sees half of it; needs its lock."""
        temporary = self._temporary(stage, key)
        temporary.parent.mkdir(exist_ok=True)
        self._folder(stage, key).rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)

    def _remove_unused(self, stage: str, key: str, since: float, dry_run: bool) -> int:
        """Remove an artifact unless it was used after ``since`` or is locked; bytes freed."""
        folder = self._folder(stage, key)
        with self._if_free(stage, key) as free:
            if not free or not folder.exists() or _used(folder) > since:
                return 0
            size = _size(folder)
            if not dry_run:
                self._discard(stage, key)
            return size

    # -- locks and leftovers ---------------------------------------------------------------------

    def _temporary(self, stage: str, key: str) -> Path:
        return self.root / "tmp" / f"{stage}-{key}-{uuid.uuid4().hex[:8]}"

    @contextlib.contextmanager
    def _gate(self) -> Iterator[None]:
        """Held for the moment in which a lock file is opened, so that none vanishes just then.

        A process that locked a file which another one had removed would hold nothing.
        """
        folder = self.root / "locks"
        folder.mkdir(exist_ok=True)
        gate = folder / "gate"
        with _patiently(lambda: _locked_now(gate), "the store's gate", gate):
            yield

    def _try_lock(self, stage: str, key: str) -> FileLock | None:
        with self._gate():
            return _locked_now(self._lock_file(stage, key))

    def _lock_file(self, stage: str, key: str) -> Path:
        return self.root / "locks" / f"{stage}-{key}.lock"

    @contextlib.contextmanager
    def _locked(self, stage: str, key: str) -> Iterator[None]:
        what = f"the {stage} {key[:12]}, which another process computes"
        with _patiently(lambda: self._try_lock(stage, key), what, self._lock_file(stage, key)):
            yield

    @contextlib.contextmanager
    def _if_free(self, stage: str, key: str) -> Iterator[bool]:
        """Hold an artifact's lock if nobody else does, and tell whether that is so."""
        if (lock := self._try_lock(stage, key)) is None:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @contextlib.contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        """Turn errors of the store's disk into messages; other errors of a stage pass."""
        try:
            yield
        except OSError as error:
            inside = str(error.filename).startswith(str(self.root))
            nowhere = error.filename is None and error.errno in _DISK
            if not inside and not nowhere:
                raise
            raise MibenchError(
                f"cannot {action} in {self.what} {self.root}: {error}; {self.free}"
            ) from error

    def _artifacts(self) -> list[tuple[str, str]]:
        found = [path for path in self.root.glob("*/*") if path.is_dir()]
        pairs = [(path.parent.name, path.name) for path in found]
        return sorted(
            pair for pair in pairs if _STAGE.fullmatch(pair[0]) and _KEY.fullmatch(pair[1])
        )

    def _remove_temporaries(
        self, held: tuple[str, str] | None = None, dry_run: bool = False
    ) -> int:
        """Remove folders whose owner is dead.

        Args:
            held: the artifact whose lock the caller has, who goes on with what has been fetched.
        """
        freed = 0
        begun = [] if held else sorted(self.root.glob("fetched/*"))
        for path in sorted(self.root.glob("tmp/*")) + begun:
            if (match := _TEMPORARY.fullmatch(path.name) or _OWNER.fullmatch(path.name)) is None:
                continue
            owner = (match["stage"], match["key"])
            with contextlib.nullcontext(True) if owner == held else self._if_free(*owner) as free:
                if free:
                    freed += _size(path)
                    if not dry_run:
                        shutil.rmtree(path, ignore_errors=True)
        return freed

    def _remove_locks(self) -> None:
        with self._gate():
            for path in self.root.glob("locks/*.lock"):
                if _OWNER.fullmatch(path.stem) is None:
                    continue
                with contextlib.suppress(OSError):
                    if (lock := _locked_now(path)) is not None:
                        lock.release()
                        path.unlink(missing_ok=True)


def _locked_now(path: Path) -> FileLock | None:
    """The lock of a file, held; None where another process holds it."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


@contextlib.contextmanager
def _patiently(attempt: Callable[[], FileLock | None], what: str, path: Path) -> Iterator[None]:
    """Hold a lock, however long another process keeps it; say so after two seconds of waiting."""
    start, told = time.monotonic(), False
    while (lock := attempt()) is None:
        if not told and time.monotonic() - start > _SILENT_SECONDS:
            log.warning("waiting for %s%s", what, _holder(path))
            told = True
        time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    """Who holds a lock file, as far as Linux tells: ``" (held by process 7, which is stopped …)"``.

    A stopped process, or one in a debugger, keeps its locks for as long as it is there.
    """
    with contextlib.suppress(OSError, IndexError):
        inode = path.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
                number = fields[4]
                state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
                stopped = f", which is stopped: `kill -CONT {number}` lets it go on"
                return f" (held by process {number}{stopped if state in 'Tt' else ''})"
    return f" (its lock is {path})"


def _size(folder: Path) -> int:
    """Bytes in a folder; files that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _used(folder: Path) -> float:
    """When an artifact was last used: its manifest's time, which every read renews."""
    manifest = folder / MANIFEST
    return (manifest if manifest.exists() else folder).stat().st_mtime
