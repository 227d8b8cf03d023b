from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from mibench.errors import ArtifactError, MibenchError, RequestError
from mibench.files import write_atomic
from mibench.store.artifact import Artifact, save_json, save_tensors
from mibench.store.store import Store, default_root, stage_key
from mibench.types import digest

KEY = stage_key("target", {"epochs": 3}, 0, [], "source")
OTHER = stage_key("target", {"epochs": 4}, 0, [], "source")
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and limits")


class Stage:
    """A stage that counts how often it is computed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.calls += 1
        save_tensors(folder / "weights.safetensors", {"w": torch.arange(6.0)})
        save_json(folder / "history.json", {"loss": [1.0, 0.5]})
        (folder / "images").mkdir()
        (folder / "images" / "0.png").write_bytes(b"pixels")
        return {"seconds": 1.5}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def get(store: Store, stage: Callable[[Path], dict[str, Any]], key: str = KEY) -> Artifact:
    return store.get_or_compute("target", key, {"epochs": 3}, stage)


def leftovers(store: Store) -> list[Path]:
    return list((store.root / "tmp").glob("*"))


def test_computed_once_and_read_back(store: Store) -> None:
    stage = Stage()
    first, second = get(store, stage), get(store, stage)
    assert (first.cached, second.cached, stage.calls) == (False, True, 1)
    assert first.manifest == second.manifest
    assert second.path == store.root / "target" / KEY
    assert torch.equal(second.load_tensors("weights.safetensors")["w"], torch.arange(6.0))
    assert second.load_json("history.json") == {"loss": [1.0, 0.5]}
    assert second.file("images/0.png").read_bytes() == b"pixels"
    assert second.manifest.cost == {"seconds": 1.5}
    assert second.manifest.inputs == {"epochs": 3}
    assert leftovers(store) == []
    with pytest.raises(ArtifactError, match=r"no other\.json"):
        second.file("other.json")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def edit_cost(path: Path) -> None:
    path.write_text(path.read_text().replace("1.5", "2.5"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", flip),
        ("weights.safetensors", truncate),
        ("weights.safetensors", Path.unlink),
        ("images/0.png", flip),
        ("manifest.json", halve),
        ("manifest.json", Path.unlink),
        ("manifest.json", edit_cost),
    ],
)
@pytest.mark.parametrize("fresh", [False, True], ids=["same-process", "new-process"])
def test_corruption_is_logged_and_rebuilt(
    store: Store,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: Callable[[Path], None],
    fresh: bool,
) -> None:
    stage = Stage()
    path = get(store, stage).path
    assert get(store, stage).cached  # its hashes are now remembered
    damage(path / name)
    if fresh:
        store = Store(store.root)
        assert len(store.verify()) == 1
    with caplog.at_level(logging.WARNING):
        rebuilt = get(store, stage)
    assert (rebuilt.cached, stage.calls) == (False, 2)
    (message,) = caplog.messages
    assert "target" in message
    assert str(path / name) in message
    assert ("bytes, not" in message) == (damage is truncate)
    assert store.verify() == []
    assert leftovers(store) == []


def test_verify_trusts_no_timestamp(store: Store) -> None:
    path = get(store, Stage()).file("weights.safetensors")
    assert store.find("target", KEY) is not None
    status = path.stat()
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (problem,) = store.verify()
    assert str(path) in problem
    assert "checksum" in problem


def test_an_artifact_under_another_key_is_not_believed(store: Store) -> None:
    path = get(store, Stage()).path
    shutil.copytree(path, path.with_name(OTHER))
    assert store.find("target", OTHER) is None
    assert store.find("target", KEY) is not None
    assert store.find("prior", KEY) is None


def test_failing_stage_leaves_nothing(store: Store) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        (folder / "half").write_bytes(b"x")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        get(store, fail)
    assert leftovers(store) == []
    assert store.ls() == []


def test_errors_that_are_not_the_stores_pass(store: Store) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        raise FileNotFoundError(errno.ENOENT, "gone", "/photographs/a.png")

    with pytest.raises(FileNotFoundError, match="photographs"):
        get(store, fail)


def test_full_disk_at_fsync(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def plain(folder: Path) -> dict[str, Any]:
        (folder / "data").write_bytes(b"x")
        return {}

    for stage in (Stage(), plain):  # in a helper of the stage, and in the store's own writes
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(MibenchError, match="No space left") as caught:
                get(store, stage)
        assert str(store.root) in str(caught.value)
        assert "free some" in str(caught.value)
        assert leftovers(store) == []
        assert store.ls() == []
    assert not get(store, Stage()).cached


def write_beyond_the_limit(root: Path, queue: Any) -> None:
    import resource

    def compute(folder: Path) -> dict[str, Any]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        (folder / "big").write_bytes(bytes(5000))
        return {}

    try:
        Store(root).get_or_compute("target", KEY, {}, compute)
    except MibenchError as error:
        queue.put(str(error))


@posix
def test_real_write_failure(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=write_beyond_the_limit, args=(store.root, queue))
    process.start()
    process.join(timeout=15)
    message = queue.get()
    assert "cannot write the target artifact" in message
    assert str(store.root) in message
    assert leftovers(store) == []
    assert store.ls() == []


def run_script(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )


SLEEPER = """
    import sys, time
    from mibench.store.store import Store
    def compute(folder):
        (folder / "half").write_bytes(bytes(1000))
        print("computing", flush=True)
        time.sleep(60)
    Store(sys.argv[1]).get_or_compute("target", sys.argv[2], {}, compute)
"""


@posix
def test_killed_run_is_cleaned_up_but_a_live_one_is_not(store: Store) -> None:
    process = run_script(SLEEPER, str(store.root), KEY)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "computing\n"
        (temporary,) = leftovers(store)
        get(store, Stage(), OTHER)  # a run beside it
        assert store.gc(older_than_days=0, keep=[OTHER]) == 0
        assert leftovers(store) == [temporary]
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (temporary / "half").exists()
    assert store.find("target", KEY) is None
    assert store.gc(dry_run=True) == 1000
    assert temporary.exists()
    shutil.copytree(temporary, temporary.with_name(f"target-{OTHER}-0123abcd"))
    artifact = get(store, Stage())  # clears its own leftovers, and those of other dead runs
    assert not artifact.cached
    assert store.verify() == []
    assert leftovers(store) == []


def compute_and_count(root: Path, barrier: Any) -> None:
    def compute(folder: Path) -> dict[str, Any]:
        with (root.parent / "count").open("a") as stream:
            stream.write("x")
        time.sleep(0.3)
        (folder / "data").write_bytes(b"data")
        return {}

    barrier.wait()
    artifact = Store(root).get_or_compute("target", KEY, {}, compute)
    assert artifact.file("data").read_bytes() == b"data"


@posix
def test_two_processes_compute_once(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    arguments = (store.root, barrier)
    processes = [context.Process(target=compute_and_count, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=15)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (store.root.parent / "count").read_text() == "x"


def age(artifact: Artifact, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(artifact.path / "manifest.json", (then, then))


def test_gc_removes_what_is_old(store: Store) -> None:
    target, prior, fresh = (
        get(store, Stage()),
        store.get_or_compute("prior", KEY, {}, Stage()),
        get(store, Stage(), OTHER),
    )
    for artifact, days in ((target, 40), (prior, 40), (fresh, 10)):
        age(artifact, days)
    size = sum(path.stat().st_size for path in target.path.rglob("*") if path.is_file())
    assert store.gc() == 0
    assert store.gc(older_than_days=30, keep=[KEY]) == 0
    assert store.gc(older_than_days=30, stages=["target"], dry_run=True) == size
    assert target.path.exists()
    assert store.gc(older_than_days=30, stages=["target"]) == size
    assert [path.exists() for path in (target.path, prior.path, fresh.path)] == [False, True, True]
    assert list((store.root / "locks").glob("*.lock")) == []
    assert leftovers(store) == []


def test_reading_is_use(store: Store) -> None:
    artifact = get(store, Stage())
    age(artifact, 40)
    store.find("target", KEY)
    assert store.gc(older_than_days=30) == 0
    age(artifact, 40)
    store.verify()  # checking is not
    assert store.gc(older_than_days=30) > 0


def test_gc_spares_what_is_locked(store: Store) -> None:
    artifact = get(store, Stage())
    age(artifact, 40)
    with store._locked("target", KEY):
        assert store.gc(older_than_days=30) == 0
        assert (store.root / "locks" / f"target-{KEY}.lock").exists()
    assert artifact.path.exists()
    assert store.gc(older_than_days=30) > 0
    assert not artifact.path.exists()


def test_gc_while_computing(store: Store) -> None:
    def collect(folder: Path) -> dict[str, Any]:
        (folder / "half").write_bytes(bytes(1000))
        assert Store(store.root).gc(older_than_days=0) == 0
        return {}

    assert get(store, collect).file("half").stat().st_size == 1000


def test_gc_leaves_foreign_files_alone(tmp_path: Path) -> None:
    for name in ("tmp/notes.txt", "photos/holiday/a.png", "locks/my.lock"):
        write_atomic(tmp_path / name, b"mine")
    store = Store(tmp_path)
    assert store.gc(older_than_days=0) == 0
    assert store.ls() == []
    assert store.verify() == []
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a.png", "my.lock", "notes.txt"]


def test_ls(store: Store) -> None:
    artifact = get(store, Stage())
    (info,) = store.ls()
    assert (info.stage, info.key) == ("target", KEY)
    assert info.size == sum(p.stat().st_size for p in artifact.path.rglob("*") if p.is_file())
    assert (info.created, info.mibench) == (artifact.manifest.created, artifact.manifest.mibench)
    assert abs(info.used - time.time()) < 60
    (artifact.path / "manifest.json").write_text("{")
    (broken,) = store.ls()
    assert broken.created is None


def test_require_space(store: Store) -> None:
    store.require_space(1)
    with pytest.raises(RequestError, match="MIBENCH_STORE"):
        store.require_space(shutil.disk_usage(store.root).total + 1)


def test_a_store_is_made_when_it_is_written_to(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "store")
    assert (store.ls(), store.verify(), store.gc(0), store.find("target", KEY)) == ([], [], 0, None)
    assert not list(tmp_path.iterdir())
    get(store, Stage())
    assert len(store.ls()) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be created"):
        Store(tmp_path / "file" / "store").require_space(1)


def test_an_earlier_manifest_is_intact(store: Store) -> None:
    artifact = get(store, Stage())
    path = artifact.path / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["maker"], fields["checksum"]
    fields |= {"mibench": "0.0.1", "commit": None, "dirty": None}
    path.write_text(json.dumps({**fields, "checksum": digest(fields)}))
    assert store.verify() == []
    assert artifact.manifest.maker is not None
    assert store.manifest("target", KEY).maker is None


def test_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="file"):
        Store(tmp_path / "file")


def test_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("MIBENCH_STORE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "mibench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_root() == Path.home() / ".cache" / "mibench"
    monkeypatch.setenv("MIBENCH_STORE", str(tmp_path / "mine"))
    assert default_root() == tmp_path / "mine"


def test_keys_depend_on_every_part() -> None:
    parts: dict[str, Any] = {
        "stage": "target",
        "config": {"a": 1, "b": 2},
        "seed": 0,
        "parents": ["p", "q"],
        "source": "s",
    }
    changes: list[dict[str, Any]] = [
        {"stage": "prior"},
        {"config": {"a": 1, "b": 3}},
        {"seed": None},
        {"parents": ["q", "p"]},
        {"source": "t"},
    ]
    keys = {stage_key(**(parts | change)) for change in changes}
    assert len(keys | {stage_key(**parts)}) == 6
    assert stage_key(**(parts | {"config": {"b": 2, "a": 1}})) == stage_key(**parts)


@pytest.mark.parametrize(("stage", "key"), [("../x", KEY), ("tmp", KEY), ("target", "abc")])
def test_names_that_leave_the_store_are_refused(store: Store, stage: str, key: str) -> None:
    with pytest.raises(ValueError, match="not a stage and a SHA-256 key"):
        store.get_or_compute(stage, key, {}, Stage())


def test_tied_weights_and_views_are_saved(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    given = {"whole": tensor, "tied": tensor, "row": tensor[1], "transposed": tensor.t()}
    save_tensors(tmp_path / "t.safetensors", given)
    loaded = safetensors.torch.load_file(tmp_path / "t.safetensors")
    assert all(torch.equal(loaded[name], given[name]) for name in given)


def test_write_atomic_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs" / "record.json"
    save_json(path, {"seed": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MibenchError, match=r"record\.json"):
        save_json(path, {"seed": 2})
    assert json.loads(path.read_text()) == {"seed": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_json(path, float("nan"))


@pytest.mark.parametrize("name", ["../prior/x.json", "/etc/x.json", "a//b.json", "manifest.json"])
def test_a_manifest_names_no_file_elsewhere(store: Store, name: str) -> None:
    artifact = get(store, Stage())
    place = artifact.path / "manifest.json"
    fields = json.loads(place.read_text())
    fields["files"][name] = fields["files"].pop("history.json")
    del fields["checksum"]
    place.write_text(json.dumps({**fields, "checksum": digest(fields)}))
    with pytest.raises(ArtifactError, match="cannot be read"):
        store.open("target", KEY)
