"""Hubs: what is taken from one, and what is not, over HTTP, from folders, and from S3."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from mibench.errors import ArtifactError, HubError, MibenchError, RequestError, UnreachableError
from mibench.files import sha256
from mibench.progress import Progress
from mibench.store import hub as hubs
from mibench.store import place as places
from mibench.store.artifact import MANIFEST, Artifact, parse_manifest
from mibench.store.hub import INDEX, Hub, Shipped, ready_hub, source_of
from mibench.store.place import Place
from mibench.store.store import Store
from mibench.types import digest
from tests.kit.hubs import (
    Fault,
    WebServer,
    altered,
    artifact_of,
    dropping,
    endless,
    entry,
    failing,
    longer,
    missing,
    pushed,
    redirected,
    serving,
    truncated,
    without_ranges,
    wrong_length,
)

pytest.importorskip("aiohttp")
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_PAUSE", 0.0)
    monkeypatch.setattr(places, "_SILENCE", 2.0)


@pytest.fixture
def theirs(tmp_path: Path) -> Store:
    return Store(tmp_path / "theirs")


@pytest.fixture
def mine(tmp_path: Path) -> Store:
    return Store(tmp_path / "mine")


@pytest.fixture
def made(theirs: Store) -> Artifact:
    return artifact_of(theirs)


@pytest.fixture
def folder(tmp_path: Path, made: Artifact) -> Path:
    """A hub of one artifact."""
    pushed(Hub(str(tmp_path / "hub")), made)
    return tmp_path / "hub"


@pytest.fixture
def server(folder: Path) -> Iterator[WebServer]:
    with serving(folder) as server:
        yield server


def pull(store: Store, url: str) -> Artifact:
    """The hub's one artifact."""
    hub = Hub(url)
    (only,) = hub.entries.values()
    return store.fetch(only.kind, only.key, functools.partial(hub.fetch, only))


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def manifest_of(folder: Path) -> Path:
    (place,) = folder.glob(f"*/*/{MANIFEST}")
    return place


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the manifest as a hub's owner can: with its checksum, and the index's."""
    place = manifest_of(folder)
    fields = json.loads(place.read_bytes()) | changes
    del fields["checksum"]
    place.write_text(json.dumps({**fields, "checksum": digest(fields)}))
    size = place.stat().st_size + sum(each["size"] for each in fields["files"].values())
    reindex(folder, manifest=sha256(place), size=size)


def reindex(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["objects"][0] |= changes
    (folder / INDEX).write_text(json.dumps(index))


# Taking ------------------------------------------------------------------------------------------


def test_an_artifact_arrives_as_it_was_pushed(
    server: WebServer, mine: Store, made: Artifact
) -> None:
    artifact = pull(mine, server.url)
    assert files(artifact.path) == files(made.path)
    assert artifact.path == mine.root / "target" / made.manifest.key
    assert mine.verify() == []
    assert not list((mine.root / "fetched").iterdir())
    asked = len(server.asked)
    assert pull(mine, server.url).cached
    assert len(server.asked) == asked + 1  # the index alone
    assert all(not path.startswith("..") for path, _ in server.asked)


@pytest.mark.parametrize("fault", [altered, truncated, longer, missing, wrong_length, endless])
@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST])
def test_what_is_not_what_was_pushed_is_not_taken(
    server: WebServer, mine: Store, fault: Fault, name: str, made: Artifact
) -> None:
    server.faults[name] = fault
    with pytest.raises(HubError, match=made.manifest.key[:12] if name == MANIFEST else "model"):
        pull(mine, server.url)
    assert not list(mine.root.glob("target/*"))
    assert not list(mine.root.rglob(WEIGHTS))
    server.faults.clear()
    assert pull(mine, server.url).load_json("result.json") == {"number": 0}


def test_an_endless_file_is_left_at_the_size_that_it_may_have(
    server: WebServer, mine: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults[WEIGHTS] = endless
    seen = []
    unlink = Path.unlink

    def watched(self: Path, missing_ok: bool = False) -> None:
        if self.name == WEIGHTS:
            seen.append(self.stat().st_size)
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    with pytest.raises(HubError, match="more bytes"):
        pull(mine, server.url)
    wanted = parse_manifest(*_manifest(server.root)).files[WEIGHTS].size
    assert seen == [wanted + 1]


def _manifest(folder: Path) -> tuple[Path, str, str]:
    place = manifest_of(folder).parent
    return place, place.parent.name, place.name


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_breaks_off_goes_on_where_it_ended(
    server: WebServer, mine: Store, made: Artifact, ranges: bool
) -> None:
    drop = dropping(2)

    def fault(handler: Any, data: bytes) -> None:
        if not ranges and handler.headers.get("Range"):
            without_ranges(handler, data)
        else:
            drop(handler, data)

    server.faults[WEIGHTS] = fault
    assert files(pull(mine, server.url).path) == files(made.path)
    size = made.manifest.files[WEIGHTS].size
    starts = [asked for path, asked in server.asked if path.endswith(WEIGHTS)]
    if ranges:
        assert starts == [None, f"bytes={size // 2}-", f"bytes={(size // 2 + size) // 2}-"]
    else:  # what came was more than was wanted, so that it begins anew
        assert starts == [None, f"bytes={size // 2}-", None, f"bytes={size // 2}-", None]


def test_another_process_goes_on_with_what_has_arrived(
    server: WebServer, mine: Store, made: Artifact
) -> None:
    server.faults[WEIGHTS] = dropping(100)
    with pytest.raises(HubError, match=r"broke off 4 times .* goes on there"):
        pull(mine, server.url)
    (begun,) = mine.root.rglob(WEIGHTS)
    arrived = begun.stat().st_size
    assert 0 < arrived < made.manifest.files[WEIGHTS].size
    assert mine.ls() == []
    server.faults.clear()
    server.asked.clear()
    assert files(pull(mine, server.url).path) == files(made.path)
    assert (f"target/{made.manifest.key}/{WEIGHTS}", f"bytes={arrived}-") in server.asked


def test_what_was_left_of_another_file_is_thrown_away(
    server: WebServer, mine: Store, made: Artifact
) -> None:
    begun = mine.root / "fetched" / f"target-{made.manifest.key}"
    begun.mkdir(parents=True)
    (begun / WEIGHTS).write_bytes(b"something else")
    (begun / "code.py").write_bytes(b"print()")
    assert files(pull(mine, server.url).path) == files(made.path)


def test_what_has_arrived_of_nothing_is_removed_by_gc(mine: Store, made: Artifact) -> None:
    begun = mine.root / "fetched" / f"target-{made.manifest.key}"
    begun.mkdir(parents=True)
    (begun / WEIGHTS).write_bytes(bytes(1000))
    assert mine.gc(dry_run=True) == 1000
    assert mine.gc() == 1000
    assert not begun.exists()


def _pull_in_process(root: Path, url: str) -> None:
    pull(Store(root), url)


@pytest.mark.slow  # two processes import torch
def test_processes_that_take_one_artifact_at_once_fetch_it_once(
    server: WebServer, mine: Store, made: Artifact
) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_pull_in_process, args=(mine.root, server.url)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sum(path.endswith(WEIGHTS) for path, _ in server.asked) == 1
    assert mine.verify() == []


def test_threads_that_take_one_artifact_at_once(server: WebServer, mine: Store) -> None:
    failed = []

    def work() -> None:
        try:
            pull(mine, server.url)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert mine.verify() == []


# Whom one cannot trust ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../../escape.json", "/tmp/escape.json", "a/../../b.json", "C:/escape.json", "..\\b.json"],
)
def test_no_path_of_a_manifest_leads_out_of_its_folder(
    server: WebServer, mine: Store, name: str
) -> None:
    place = manifest_of(server.root)
    held = json.loads(place.read_bytes())["files"]
    held[name] = held.pop("result.json")
    rewrite(server.root, files=held)
    with pytest.raises(HubError, match="not what it should be"):
        pull(mine, server.url)
    assert {p.parent.name for p in mine.root.parent.rglob("escape.json")} == set()
    assert not any("escape" in path for path, _ in server.asked)


@pytest.mark.parametrize("name", ["model.pkl", "model.pt", "run.py", "a b.json", ".hidden.json"])
def test_only_tensors_json_and_pictures_are_taken(
    server: WebServer, mine: Store, name: str
) -> None:
    held = json.loads(manifest_of(server.root).read_bytes())["files"]
    held[name] = held.pop("result.json")
    (manifest_of(server.root).parent / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    rewrite(server.root, files=held)
    with pytest.raises(HubError, match="is no file of tensors, JSON or pictures"):
        pull(mine, server.url)
    assert not list(mine.root.rglob(name))


def test_an_artifact_of_another_recipe_has_another_key(server: WebServer, mine: Store) -> None:
    rewrite(server.root, inputs={"number": 1})
    with pytest.raises(HubError, match="what it was made of has the key"):
        pull(mine, server.url)


def test_a_manifest_that_the_index_does_not_name_is_not_taken(
    server: WebServer, mine: Store
) -> None:
    before = json.loads((server.root / INDEX).read_text())["objects"][0]["manifest"]
    rewrite(server.root, created="2001-01-01T00:00:00+00:00")
    reindex(server.root, manifest=before)
    with pytest.raises(HubError, match="has another SHA-256 than the index says"):
        pull(mine, server.url)


def test_a_huge_size_is_refused_before_anything_is_fetched(server: WebServer, mine: Store) -> None:
    reindex(server.root, size=2**50)
    with pytest.raises(HubError, match="are free"):
        pull(mine, server.url)
    assert len(server.asked) == 1
    reindex(server.root, size=2**51)
    with pytest.raises(HubError, match="no index of a hub"):
        pull(mine, server.url)


def test_sizes_in_manifest_and_index_agree(server: WebServer, mine: Store) -> None:
    held = json.loads(manifest_of(server.root).read_bytes())["files"]
    held[WEIGHTS]["size"] = 2**49
    rewrite(server.root, files=held)
    reindex(server.root, size=1_000_000)
    with pytest.raises(HubError, match="not of the size"):
        pull(mine, server.url)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema_version": 1}{}',
        b'{"schema_version": 1, "objects": [{"kind": "../x", "key": "0"}]}',
        b'{"schema_version": 1, "objects": 3}',
        b'{"schema_version": 1, "surprise": 3}',
    ],
)
def test_an_index_that_is_none(server: WebServer, content: bytes) -> None:
    (server.root / INDEX).write_bytes(content)
    with pytest.raises(HubError, match="no index of a hub"):
        _ = Hub(server.url).entries


def test_an_index_of_a_later_schema_is_named(server: WebServer) -> None:
    (server.root / INDEX).write_text('{"schema_version": 2, "things": []}')
    with pytest.raises(HubError, match="of schema 2, which this mibench does not know"):
        _ = Hub(server.url).entries


def test_an_index_names_an_artifact_once(server: WebServer) -> None:
    index = json.loads((server.root / INDEX).read_text())
    (server.root / INDEX).write_text(json.dumps({**index, "objects": index["objects"] * 2}))
    with pytest.raises(HubError, match="twice"):
        _ = Hub(server.url).entries


def test_an_index_without_an_end(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "MOST_BYTES", 100_000)
    server.faults[INDEX] = endless
    with pytest.raises(HubError, match="larger than"):
        _ = Hub(server.url).entries


def test_words_of_an_index_cannot_steer_a_terminal(server: WebServer) -> None:
    reindex(server.root, mibench="\x1b[2J")
    with pytest.raises(HubError, match="no index") as caught:
        _ = Hub(server.url).entries
    assert "\x1b" not in str(caught.value)


def test_no_redirect_leads_to_a_file(server: WebServer, mine: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"schema_version": 1, "objects": []}')
    server.faults[INDEX] = redirected(secret.as_uri())
    with pytest.raises(HubError):
        _ = Hub(server.url).entries
    server.faults[INDEX] = redirected(f"{server.url}/moved.json")  # on the web, they are followed
    (server.root / "moved.json").write_bytes((server.root / INDEX).read_bytes())
    assert pull(mine, server.url)


def test_no_link_of_a_folder_gives_a_file_of_this_machine(
    folder: Path, mine: Store, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1000))
    weights = manifest_of(folder).parent / WEIGHTS
    weights.unlink()
    weights.symlink_to(secret)
    with pytest.raises(HubError):
        pull(mine, str(folder))
    weights.unlink()
    os.mkfifo(weights)  # nothing would ever come
    with pytest.raises(HubError, match="has no"):
        pull(mine, str(folder))


def test_a_pinned_checksum_is_the_only_one(
    server: WebServer, mine: Store, made: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pins(manifest: str) -> Callable[[], tuple[Shipped, ...]]:
        return lambda: (Shipped(name="p/a/d/0", key=made.manifest.key, manifest=manifest),)

    monkeypatch.setattr(hubs, "shipped", pins("0" * 64))
    with pytest.raises(HubError, match="not the one that mibench pins"):
        pull(mine, server.url)
    monkeypatch.setattr(hubs, "shipped", pins(entry(made).manifest))
    assert pull(mine, server.url)


# Hubs that are not there -------------------------------------------------------------------------


def test_nobody_answers(mine: Store) -> None:
    with pytest.raises(UnreachableError, match="does not answer"):
        _ = Hub("http://127.0.0.1:9").entries


def test_a_hub_that_fails_is_asked_no_more(
    server: WebServer, mine: Store, made: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(server.url)
    server.faults["manifest"] = failing
    offer = hub.offer("target", made.manifest.key)
    assert offer is not None
    with pytest.raises(UnreachableError, match="nothing more is taken"):
        mine.fetch("target", made.manifest.key, offer)
    assert hub.offer("target", made.manifest.key) is None


def test_a_folder_without_an_index_is_no_hub(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"has no index\.json"):
        _ = Hub(str(tmp_path)).entries


def test_a_hub_that_was_asked_for_must_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, folder: Path
) -> None:
    monkeypatch.delenv("MIBENCH_HUB", raising=False)
    assert source_of(None) is None
    with pytest.raises(RequestError, match=r"has no index.* without --from"):
        source_of(str(tmp_path))
    monkeypatch.setenv("MIBENCH_HUB", str(tmp_path))
    assert source_of(None) is None
    assert "nothing is taken from there" in caplog.text
    assert ready_hub(str(tmp_path)) is None
    monkeypatch.setenv("MIBENCH_HUB", str(folder))
    found = source_of(None)
    assert found is not None
    assert found.url == str(folder)


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://host/x", "memory://x", "github://a:b@c/x", "simplecache::http://host/x"),
        *("https://user:word@host/x", "https://host/x?token=1", "https:///x", "file://x", ""),
        *("http://host/\x1b[2J", "s3://", "reference://x", "zip://x::http://host/y.zip"),
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(RequestError):
        Hub(url)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(protocol: str, **options: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", without)
    with pytest.raises(RequestError, match=r"s3:// needs .* pip install 'mibench\[hub\]'"):
        Hub("s3://bucket/zoo")


def test_hugging_face_has_a_file_system() -> None:
    """All that can be tested without a network."""
    assert Place("hf://datasets/someone/zoo")._fs.protocol == "hf"


# Falling back ------------------------------------------------------------------------------------


def test_what_cannot_be_fetched_is_computed(
    server: WebServer, mine: Store, made: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults[WEIGHTS] = altered
    hub, key = Hub(server.url), made.manifest.key

    def compute(folder: Path) -> dict[str, Any]:
        (folder / "result.json").write_text("{}")
        return {}

    offer = hub.offer("target", key)
    artifact = mine.get_or_compute("target", key, {"number": 0}, compute, fetch=offer)
    assert not artifact.cached
    assert caplog.text.count("it is computed here") == 1
    assert not list((mine.root / "fetched").iterdir())
    assert hub.offer("target", "0" * 64) is None


def test_a_full_disk_is_no_fault_of_the_hub(
    server: WebServer, mine: Store, made: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, *_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Place, "_append", full)
    with pytest.raises(MibenchError, match="No space left") as caught:
        pull(mine, server.url)
    assert not isinstance(caught.value, HubError)
    assert mine.ls() == []


def test_progress_is_told_of_bytes(server: WebServer, mine: Store, made: Artifact) -> None:
    class Counting(Progress):
        total = done = 0

        def begin(self, total: int, label: str) -> None:
            self.total = total

        def advance(self, steps: int) -> None:
            self.done += steps

    progress = Counting()
    hub = Hub(server.url, progress)
    (only,) = hub.entries.values()
    mine.fetch(only.kind, only.key, functools.partial(hub.fetch, only))
    assert progress.total == only.size
    assert progress.done == sum(file.size for file in made.manifest.files.values())


# Pushing -----------------------------------------------------------------------------------------


def test_a_hub_is_a_tree_of_plain_files(folder: Path, made: Artifact) -> None:
    key = made.manifest.key
    held = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    below = {f"target/{key}/{name}" for name in (MANIFEST, *made.manifest.files)}
    assert held - {f".{INDEX}.lock"} == {INDEX, *below}
    (only,) = json.loads((folder / INDEX).read_text())["objects"]
    assert only["names"] == ["p/a/d/0"]
    assert only["manifest"] == sha256(made.path / MANIFEST)
    assert only["size"] == sum(p.stat().st_size for p in made.path.iterdir())


def uploads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    sent = []
    upload = Place.upload

    def watched(self: Place, source: Path, name: str) -> None:
        sent.append(name)
        upload(self, source, name)

    monkeypatch.setattr(Place, "upload", watched)
    return sent


def test_what_is_there_is_not_sent_again(
    folder: Path, made: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, before = uploads(monkeypatch), (folder / INDEX).read_bytes()
    pushed(Hub(str(folder)), made)
    assert sent == []
    assert (folder / INDEX).read_bytes() == before


def test_a_push_that_was_stopped_goes_on(
    theirs: Store, mine: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, artifacts = str(tmp_path / "hub"), [artifact_of(theirs, n) for n in range(3)]
    upload, count = Place.upload, [0]

    def killed(self: Place, source: Path, name: str) -> None:
        count[0] += 1
        if count[0] == 5:
            raise KeyboardInterrupt
        upload(self, source, name)

    monkeypatch.setattr(Place, "upload", killed)
    with pytest.raises(KeyboardInterrupt):
        pushed(Hub(url), *artifacts)
    with pytest.raises(HubError, match="no index"):  # nobody sees what is not all there
        _ = Hub(url).entries
    monkeypatch.setattr(Place, "upload", upload)
    sent = uploads(monkeypatch)
    pushed(Hub(url), *artifacts)
    assert len(sent) == 9 - 4
    hub = Hub(url)
    for each in hub.entries.values():
        mine.fetch(each.kind, each.key, functools.partial(hub.fetch, each))
    assert len(mine.ls()) == 3


def test_what_another_push_left_unfinished_is_not_taken_for_ones_own(
    tmp_path: Path, mine: Store, theirs: Store, made: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one key, with files of one size: made on another machine."""
    hub, other = Hub(str(tmp_path / "hub")), Store(tmp_path / "other")
    foreign = artifact_of(other, 0)
    weights = foreign.path / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    fields = json.loads((foreign.path / MANIFEST).read_bytes())
    fields["files"][WEIGHTS]["sha256"] = sha256(weights)
    del fields["checksum"]
    (foreign.path / MANIFEST).write_text(json.dumps({**fields, "checksum": digest(fields)}))
    foreign = other.open("target", made.manifest.key)
    hub.open_for_push()
    assert hub.push(entry(foreign), foreign)  # and no index
    upload = Place.upload

    def killed(self: Place, source: Path, name: str) -> None:
        if name.endswith(WEIGHTS):
            raise KeyboardInterrupt
        upload(self, source, name)

    monkeypatch.setattr(Place, "upload", killed)
    with pytest.raises(KeyboardInterrupt):
        pushed(hub, made)
    monkeypatch.setattr(Place, "upload", upload)
    pushed(hub, made)
    assert files(pull(mine, hub.url).path) == files(made.path)


def test_what_others_have_shared_stays(
    folder: Path, tmp_path: Path, made: Artifact, mine: Store
) -> None:
    other = Store(tmp_path / "other")
    again = artifact_of(other)
    manifest = again.path / MANIFEST
    fields = json.loads(manifest.read_bytes())
    del fields["checksum"]
    fields["created"] = "2001-01-01T00:00:00+00:00"
    manifest.write_text(json.dumps({**fields, "checksum": digest(fields)}))
    again = other.open("target", made.manifest.key)
    hub = Hub(str(folder))
    assert not hub.push(entry(again), again)
    hub.publish([entry(again, "another/name/none/0")])
    (only,) = hub.entries.values()
    assert only.manifest == entry(made).manifest
    assert only.names == ("p/a/d/0", "another/name/none/0")
    assert files(pull(mine, str(folder)).path) == files(made.path)


def _publish(url: str, root: Path, number: int) -> None:
    store, hub = Store(root), Hub(url)
    artifact = artifact_of(store, number, floats=10)
    hub.open_for_push()
    each = entry(artifact, f"p/a/d/{number}")
    assert hub.push(each, artifact)
    hub.publish([each])


def _publish_at_once(url: str, folder: Path, count: int) -> None:
    threads = [
        threading.Thread(target=_publish, args=(url, folder / f"store{n}", n)) for n in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_pushes_at_one_time_lose_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "hub")
    _publish_at_once(url, tmp_path, 8)
    assert len(Hub(url).entries) == 8


def test_a_web_server_takes_nothing(server: WebServer, made: Artifact) -> None:
    with pytest.raises(RequestError, match="only gives files"):
        pushed(Hub(server.url), made)


def test_an_artifact_with_code_is_not_shared(theirs: Store) -> None:
    def compute(folder: Path) -> dict[str, Any]:
        (folder / "model.pkl").write_bytes(b"")
        return {}

    artifact = theirs.get_or_compute("target", "a" * 64, {}, compute)
    with pytest.raises(ArtifactError, match="no file of tensors"):
        entry(artifact)


def test_a_key_of_another_recipe_is_not_shared(theirs: Store, made: Artifact) -> None:
    with pytest.raises(ArtifactError, match="has the key"):
        hubs.entry_of(made, [], 1, [], "c")


def test_a_disk_without_space_leaves_no_half_file(
    tmp_path: Path, made: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(places.shutil, "copyfileobj", full)
    with pytest.raises(MibenchError, match="No space left"):
        pushed(Hub(str(tmp_path / "hub")), made)
    assert not [p for p in (tmp_path / "hub").rglob("*") if p.is_file()]


# S3 ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of a server on loopback."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server")
    said = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        moto = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        moto.start()
        host, port = moto.get_host_and_port()
        for name, value in {**said, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        Place("s3://zoo/x")._fs.mkdir("zoo")
        yield "s3://zoo"
        moto.stop()


def test_a_bucket_is_a_hub(s3: str, made: Artifact, mine: Store) -> None:
    url = f"{s3}/first"
    pushed(Hub(url), made)
    assert files(pull(mine, url).path) == files(made.path)
    assert mine.verify() == []


@pytest.mark.parametrize("spoilt", ["altered", "truncated", "missing"])
def test_a_spoilt_object_of_a_bucket(
    s3: str, made: Artifact, mine: Store, spoilt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{s3}/{spoilt}"
    pushed(Hub(url), made)
    fs, name = Place(url)._fs, f"zoo/{spoilt}/target/{made.manifest.key}/{WEIGHTS}"
    data = (made.path / WEIGHTS).read_bytes()
    if spoilt == "missing":
        fs.rm_file(name)
    else:
        fs.pipe_file(name, data[:-9] if spoilt == "truncated" else data[:-1] + b"\xff")
    with pytest.raises(HubError, match=WEIGHTS):
        pull(mine, url)
    assert mine.ls() == []
    sent = uploads(monkeypatch)
    pushed(Hub(url), made)  # mends what is absent or of another size
    assert len(sent) == (0 if spoilt == "altered" else 1)
    if spoilt != "altered":
        assert pull(mine, url)


def test_a_bucket_goes_on_where_a_transfer_ended(s3: str, made: Artifact, mine: Store) -> None:
    pushed(Hub(f"{s3}/resumed"), made)
    begun = mine.root / "fetched" / f"target-{made.manifest.key}"
    begun.mkdir(parents=True)
    (begun / WEIGHTS).write_bytes((made.path / WEIGHTS).read_bytes()[:70_000])
    assert files(pull(mine, f"{s3}/resumed").path) == files(made.path)


@pytest.mark.parametrize("there", [False, True])
def test_an_update_of_a_bucket_that_comes_too_late_is_made_again(s3: str, there: bool) -> None:
    first, second = Place(f"{s3}/race{there}"), Place(f"{s3}/race{there}")
    if there:
        first.update("index", 100, lambda data: b"0")
    seen: list[bytes | None] = []

    def change(data: bytes | None) -> bytes:
        if not seen:  # between our reading and our writing
            second.update("index", 100, lambda theirs: (theirs or b"") + b"2")
        seen.append(data)
        return (data or b"") + b"1"

    first.update("index", 100, change)
    assert seen == ([b"0", b"02"] if there else [None, b"2"])
    assert first.read("index", 100) == (b"021" if there else b"21")


def test_pushes_to_a_bucket_at_one_time_lose_nothing(s3: str, tmp_path: Path) -> None:
    url = f"{s3}/many"
    _publish_at_once(url, tmp_path, 4)
    assert len(Hub(url).entries) == 4


def test_a_bucket_that_is_not_there(s3: str) -> None:
    with pytest.raises(HubError, match=r"has no index\.json"):
        _ = Hub("s3://nowhere/zoo").entries
