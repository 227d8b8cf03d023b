"""A hub: artifacts that somebody shares, under the keys that they have in every store.

Layout, a tree of plain files that any web server can serve::

    index.json                   what is there (:class:`Index`)
    <stage>/<key>/manifest.json  and the artifact's files, as in a store

Nothing that a hub says is believed: an artifact is taken if its key follows from what it says that
it was made of, and each of its files has the checksum of a manifest which has that of the index.
That is proof against damage, not against whoever fills the hub; against these stand the checksums
that mibench itself ships (:func:`shipped`).
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from mibench.errors import ArtifactError, HubError, RequestError, UnreachableError
from mibench.files import MOST_BYTES, sha256, write_atomic
from mibench.progress import SILENT, Progress, size
from mibench.settings import explain
from mibench.store.artifact import MANIFEST, Artifact, Manifest, parse_manifest
from mibench.store.place import Place
from mibench.store.store import Fetch, stage_key
from mibench.types import Frozen

log = logging.getLogger(__name__)

INDEX = "index.json"
# An artifact is data: tensors, JSON, pictures. Names that need no quoting in any URL.
_FILE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,120}/){0,3}[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}")
_KINDS = (".safetensors", ".json", ".png")
_MOST_MANIFEST = 16 * 2**20

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=64)]
ZooName = Annotated[str, Field(pattern=r"^[!-~]+$", max_length=400)]
Word = Annotated[str, Field(pattern=r"^[!-~]*$", max_length=100)]


class Entry(Frozen):
    """What a hub's index says of an artifact.

    Attributes:
        kind, key: its stage.
        names: what it is called: ``"synthfaces-32/test_resnet/bido/0"``.
        manifest: SHA-256 of its manifest's file, which has those of its files.
        size: bytes of all its files.
        seed, parents, source: what its key is made of, beside its stage and the manifest's inputs
            (:func:`~mibench.store.store.stage_key`).
        mibench, commit, created: who made it, for people.
    """

    kind: Kind
    key: Sha256
    names: tuple[ZooName, ...] = Field((), max_length=1000)
    manifest: Sha256
    size: int = Field(ge=0, le=2**50)
    seed: int | None
    parents: tuple[Sha256, ...] = Field(max_length=1000)
    source: Annotated[str, Field(max_length=64)]
    mibench: Word | None = None
    commit: Word | None = None
    created: Word

    @property
    def maker(self) -> str:
        """The code that made it, in words."""
        return f"mibench {self.mibench or '?'}" + (
            f" (commit {self.commit[:10]})" if self.commit else ""
        )


class Index(Frozen):
    """What is on a hub."""

    schema_version: Literal[1] = 1
    objects: tuple[Entry, ...] = ()


class Shipped(Frozen):
    """A target of a board, as the package names it.

    Attributes:
        name: of the target. key: that its records state.
        manifest: SHA-256 of its manifest, where a maintainer has pushed it; no other is taken.
        mibench, commit: the code that made it, where its records say.
    """

    name: ZooName
    key: Sha256
    manifest: Sha256 | None = None
    mibench: str | None = None
    commit: str | None = None


class ShippedIndex(Frozen):
    """What belongs to the boards (``mibench/assets/zoo.json``)."""

    schema_version: Literal[1] = 1
    targets: tuple[Shipped, ...]


@functools.cache
def shipped() -> tuple[Shipped, ...]:
    """The targets of the boards, by name."""
    text = (importlib.resources.files("mibench") / "assets" / "zoo.json").read_text("utf-8")
    return ShippedIndex.model_validate_json(text).targets


class Hub:
    """A hub to take artifacts from, and to put them on.

    Args:
        url: of a folder (:class:`~mibench.store.place.Place`).
        progress: told of what is fetched.

    Raises:
        RequestError: the URL is none of a folder.
    """

    def __init__(self, url: str, progress: Progress = SILENT) -> None:
        self.place, self.progress = Place(url), progress
        self._lost = False  # whether it stopped answering

    @property
    def url(self) -> str:
        """Where it is."""
        return self.place.url

    @functools.cached_property
    def entries(self) -> Mapping[tuple[str, str], Entry]:
        """What is there, by stage and key.

        Raises:
            HubError: there is no index, or it is none.
            UnreachableError: nobody answers.
        """
        return _parse(self.place.read(INDEX, MOST_BYTES), self.url)

    def named(self, name: str) -> list[Entry]:
        """What has a name, the newest first."""
        found = [each for each in self.entries.values() if name in each.names]
        return sorted(found, key=lambda each: each.created, reverse=True)

    def offer(self, kind: str, key: str) -> Fetch | None:
        """What brings an artifact into a folder, if it is here; None once the hub is lost."""
        entry = None if self._lost else self.entries.get((kind, key))
        return None if entry is None else functools.partial(self.fetch, entry)

    def fetch(self, entry: Entry, folder: Path) -> None:
        """Bring an artifact into a folder, going on with what an earlier attempt left there.

        Raises:
            HubError: it cannot be had, or is not what the index or its key says.
        """
        try:
            self._fetch(entry, folder)
        except UnreachableError as error:
            self._lost = True
            raise UnreachableError(f"{error}; nothing more is taken from there") from error

    def _fetch(self, entry: Entry, folder: Path) -> None:
        what, below = f"{self.url}: the {entry.kind} {entry.key[:12]}", f"{entry.kind}/{entry.key}"
        pinned = {each.manifest for each in shipped() if each.key == entry.key and each.manifest}
        if pinned and entry.manifest not in pinned:
            raise HubError(f"{what} is not the one that mibench pins for the boards")
        free = shutil.disk_usage(folder).free
        if entry.size > free:
            raise HubError(f"{what} needs {size(entry.size)}, and {size(free)} are free")
        data = self.place.read(f"{below}/{MANIFEST}", min(entry.size, _MOST_MANIFEST))
        write_atomic(folder / MANIFEST, data)
        try:
            if sha256(folder / MANIFEST) != entry.manifest:
                raise ArtifactError("its manifest has another SHA-256 than the index says")
            manifest = parse_manifest(folder, entry.kind, entry.key)
            _check(entry, manifest, len(data))
        except ArtifactError as error:
            raise HubError(f"{what} is not what it should be: {error}") from error
        self.progress.begin(entry.size, f"fetching the {entry.kind}")
        try:
            for name, file in manifest.files.items():
                place = folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                self.place.download(f"{below}/{name}", place, file.size, file.sha256, self.progress)
        finally:
            self.progress.end()

    # -- pushing ---------------------------------------------------------------------------------

    def push(self, entry: Entry, artifact: Artifact) -> bool:
        """Put an artifact there, without an entry in the index as yet (:meth:`publish`).

        What is there of it already, from an attempt that was stopped, is not sent again.

        Returns:
            False where the index holds it, made by somebody else; then theirs stays.
        """
        held = self.entries.get((entry.kind, entry.key))
        if held is not None and held.manifest != entry.manifest:
            return False
        below, mine = f"{entry.kind}/{entry.key}", artifact.path / MANIFEST
        if not self._holds(f"{below}/{MANIFEST}", mine):
            # Of a push that never ended; then the manifest tells whose the files beside it are.
            for name in artifact.manifest.files:
                self.place.remove(f"{below}/{name}")
            self.place.upload(mine, f"{below}/{MANIFEST}")
        for name, file in artifact.manifest.files.items():
            if self.place.size_of(f"{below}/{name}") != file.size:
                self.place.upload(artifact.path / name, f"{below}/{name}")
        if not self._holds(f"{below}/{MANIFEST}", mine):
            raise HubError(
                f"{self.url}: somebody else pushes the {entry.kind} {entry.key[:12]} at this "
                "moment: push again when they are done"
            )
        return True

    def _holds(self, name: str, source: Path) -> bool:
        """Whether a small file is there as it is here."""
        mine = source.read_bytes()
        if self.place.size_of(name) != len(mine):
            return False
        return self.place.read(name, len(mine)) == mine

    def publish(self, entries: Iterable[Entry]) -> None:
        """Add entries to the index, which is made if there is none.

        Of one that another push has added meanwhile theirs stays, with the names of both.
        """
        mine = list(entries)

        def merged(data: bytes | None) -> bytes:
            held = {} if data is None else dict(_parse(data, self.url))
            for each in mine:
                theirs = held.get((each.kind, each.key), each)
                names = tuple(dict.fromkeys([*theirs.names, *each.names]))
                held[each.kind, each.key] = theirs.model_copy(update={"names": names})
            objects = tuple(held[pair] for pair in sorted(held))
            text = json.dumps(Index(objects=objects).model_dump(mode="json"), indent=1)
            return f"{text}\n".encode()

        self.place.update(INDEX, MOST_BYTES, merged)
        self.__dict__.pop("entries", None)
        lost = [each for each in mine if (each.kind, each.key) not in self.entries]
        if lost:  # of a place without conditional writes
            raise HubError(
                f"{self.url}: another push replaced the index at the same time, and "
                f"{len(lost)} entries are not in it: push again"
            )

    def open_for_push(self) -> None:
        """Refuse a place that cannot be pushed to, before anything is sent; an empty one can.

        Raises:
            RequestError: it is a web server.
            HubError: there is an index that cannot be read.
        """
        self.place.require_writable()
        if self.place.size_of(INDEX) is None:
            self.__dict__["entries"] = {}


def entry_of(
    artifact: Artifact,
    names: Iterable[str],
    seed: int | None,
    parents: Iterable[str],
    source: str,
) -> Entry:
    """What an index says of an artifact of a store.

    Args:
        seed, parents, source: what its key is made of, beside its stage and inputs.

    Raises:
        ArtifactError: its key is not made of these, or it holds what no hub takes.
    """
    manifest, path = artifact.manifest, artifact.path / MANIFEST
    length, maker = path.stat().st_size, manifest.maker
    entry = Entry(
        kind=manifest.stage,
        key=manifest.key,
        names=tuple(names),
        manifest=sha256(path),
        size=length + sum(file.size for file in manifest.files.values()),
        seed=seed,
        parents=tuple(parents),
        source=source,
        mibench=maker.mibench if maker else None,
        commit=maker.commit if maker else None,
        created=manifest.created,
    )
    _check(entry, manifest, length)
    return entry


def _check(entry: Entry, manifest: Manifest, length: int) -> None:
    """Compare a manifest of so many bytes with the entry that names it.

    Raises:
        ArtifactError: it holds other files than data, is of another size, or of another key.
    """
    for name in manifest.files:
        if not _FILE.fullmatch(name) or not name.endswith(_KINDS):
            raise ArtifactError(f"{name!r} is no file of tensors, JSON or pictures")
    if length + sum(file.size for file in manifest.files.values()) != entry.size:
        raise ArtifactError("its files are not of the size that the index says")
    made = stage_key(entry.kind, manifest.inputs, entry.seed, entry.parents, entry.source)
    if made != entry.key:
        raise ArtifactError(f"what it was made of has the key {made[:12]}")


def _parse(data: bytes, url: str) -> dict[tuple[str, str], Entry]:
    where = f"{url}: {INDEX}"
    try:
        content = json.loads(data)
        version = content.get("schema_version")
        if version != 1:
            raise HubError(
                f"{where} is of schema {version!r}, which this mibench does not know: it reads 1; "
                "a later release may"
            )
        found = Index.model_validate_json(data).objects
    except ValidationError as error:
        raise HubError(f"{where} is no index of a hub: {explain(error)[:500]}") from error
    except (AttributeError, ValueError, RecursionError) as error:
        raise HubError(f"{where} is no index of a hub: {str(error)[:200]}") from error
    entries = {(each.kind, each.key): each for each in found}
    if len(entries) < len(found):
        raise HubError(f"{where} names an artifact twice")
    return entries


def named_hub(url: str | None) -> str | None:
    """The hub that is asked for: ``url``, else ``MIBENCH_HUB``."""
    return url or os.environ.get("MIBENCH_HUB") or None


def source_of(url: str | None, progress: Progress = SILENT) -> Hub | None:
    """The hub that a run takes stages from: ``url``, else ``MIBENCH_HUB``, else none.

    The one of the environment is a help where it is there, and said once where it is not; one that
    was asked for must be there.

    Raises:
        RequestError: ``url`` does not answer, or is no hub; or one of the two is no URL.
    """
    if url is None:
        return ready_hub(named_hub(None), progress)
    hub = Hub(url, progress)
    try:
        _ = hub.entries
    except HubError as error:
        raise RequestError(f"{error}; without --from everything is computed here") from error
    return hub


def ready_hub(url: str | None, progress: Progress = SILENT) -> Hub | None:
    """The hub at a URL, if there is one that answers; if not, that is said, and goes on without."""
    if url is None:
        return None
    hub = Hub(url, progress)
    try:
        _ = hub.entries
    except HubError as error:
        log.warning("%s; nothing is taken from there", error)
        return None
    return hub
