"""Preparing data sets: contents, checks, resuming, damage; and the real sets where present."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mibench.data import pixels, prepared
from mibench.data.identity_division import IdentityDivision
from mibench.data.pixels import Chunk, fill
from mibench.data.prepare import prepare, stale
from mibench.data.prepared import DataFolder, data_root, open_prepared
from mibench.data.source import PARTS, source_named
from mibench.data.workers import in_processes
from mibench.errors import MibenchError, RequestError
from mibench.progress import Progress
from tests.data.test_sources import celeba_files, mnist_files, picture
from tests.kit.listing import Reversed

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
COUNT = 23


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """LFW's layout: pictures of 8×8 pixels, in PNG, which keeps them, but for the name."""
    folder = tmp_path / "originals"
    for i in range(COUNT):
        name = ("Ann", "Bob", "Cyd")[i % 3]
        path = folder / name / f"{name}_{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(raw(i)).save(path)
    return folder


@pytest.fixture
def chunks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mibench.data.prepare.CHUNK_BYTES", 4 * 3 * 8 * 8)


def partial_folder(data: Path) -> Path:
    (folder,) = DataFolder(data).unfinished()
    return folder


def raw(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def make(root: Path, data: Path, **options: Any) -> prepared.Prepared:
    given: dict[str, Any] = {"incomplete": True, "workers": 1, **options}
    return prepare("lfw", root, data, 8, **given)


def check(made: prepared.Prepared) -> None:
    """Every row is its own picture, under its own name."""
    order = sorted(range(COUNT), key=lambda i: (i % 3, i))
    assert made.images.shape == (COUNT, 3, 8, 8)
    assert made.images.dtype == np.uint8
    for row, i in enumerate(order):
        assert (made.images[row].transpose(1, 2, 0) == raw(i)).all()
        assert made.names[made.labels[row]] == ("Ann", "Bob", "Cyd")[i % 3]
        assert made.sources[row] == f"{made.names[i % 3]}/{made.names[i % 3]}_{i:04d}.png"
    assert DataFolder(made.folder.parents[1]).problem("lfw-8") is None


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.usefixtures("chunks_of_four")
def test_pictures_arrive_in_one_file(root: Path, tmp_path: Path, workers: int) -> None:
    seen: list[int] = []

    class Count(Progress):
        def begin(self, total: int, label: str) -> None:
            assert (total, label) == (COUNT, "pictures of lfw")

        def advance(self, steps: int) -> None:
            seen.append(steps)

    made = make(root, tmp_path / "data", workers=workers, progress=Count())
    check(made)
    assert seen == [4, 4, 4, 4, 4, 3]
    assert made.folder.parent == tmp_path / "data" / "lfw-8"
    held = {path.name for path in made.folder.iterdir()}
    assert held == {*prepared.CONTENTS, "index.json", "manifest.json"}
    left = {p.name for p in (tmp_path / "data").rglob("*") if p.is_file()} - held
    assert left == {"gate"}
    index = json.loads((made.folder / "index.json").read_text())
    assert index["complete"] is False
    assert index["layout"] == "lfw"
    assert "central 128×128" in index["preprocessing"]
    files = json.loads((made.folder / "manifest.json").read_text())["files"]
    assert files.keys() == held - {"manifest.json"}
    for name, entry in files.items():
        data = (made.folder / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def test_the_result_depends_on_no_order_and_no_number_of_workers(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = make(root, tmp_path / "one")
    monkeypatch.setattr("mibench.data.source.os.scandir", Reversed)
    monkeypatch.setattr("mibench.data.prepare.CHUNK_BYTES", 7 * 3 * 8 * 8)
    again = make(root, tmp_path / "two", workers=3)
    check(again)
    assert again.digest == once.digest


def test_rows_are_copies_of_the_chosen_ones(root: Path, tmp_path: Path) -> None:
    made = make(root, tmp_path / "data")
    rows = np.array([5, 0, 22], dtype=np.int64)
    copy = made.rows(rows)
    assert copy.dtype == torch.uint8
    assert (copy.numpy() == made.images[rows]).all()
    copy.zero_()
    assert made.images.any()
    with pytest.raises(ValueError, match="read-only"):
        made.images[0] = 0
    with (made.folder / "images.npy").open("r+b") as file:
        file.truncate(4000)
    with pytest.raises(MibenchError, match=r"images\.npy cannot be read"):
        made.rows(np.array([22], dtype=np.int64))


def test_what_is_prepared_is_not_prepared_again(root: Path, tmp_path: Path) -> None:
    made = make(root, tmp_path / "data")
    stamp = (made.folder / "images.npy").stat().st_mtime_ns
    assert make(tmp_path / "gone", tmp_path / "data").digest == made.digest
    assert (made.folder / "images.npy").stat().st_mtime_ns == stamp


def test_a_set_that_lacks_pictures_is_made_again_when_it_shall_not(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = root / "Bob" / f"Bob_{COUNT - 1:04d}.png"
    picture = last.read_bytes()
    last.unlink()
    assert len(make(root, tmp_path / "data").images) == COUNT - 1
    with pytest.raises(RequestError, match="found 22 pictures"):
        make(root, tmp_path / "data", incomplete=False)
    assert len(make(root, tmp_path / "data").images) == COUNT - 1  # it is still there
    last.write_bytes(picture)
    card = type(source_named("lfw")).card.model_copy(update={"images": COUNT, "identities": 3})
    monkeypatch.setattr(type(source_named("lfw")), "card", card)
    made = make(root, tmp_path / "data", incomplete=False)
    check(made)
    assert made.index.complete
    assert make(tmp_path / "gone", tmp_path / "data", incomplete=False).digest == made.digest


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "index.json", "manifest.json"])
def test_a_damaged_set_is_made_again(root: Path, tmp_path: Path, name: str) -> None:
    made = make(root, tmp_path / "data")
    digest = made.digest
    whole = (made.folder / name).read_bytes()
    (made.folder / name).write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    with pytest.raises(RequestError, match="there is no folder"):
        make(tmp_path / "gone", tmp_path / "data")
    made = make(root, tmp_path / "data")
    check(made)
    assert made.digest == digest


# Stopping and continuing


def stopping(after: int, error: BaseException) -> Any:
    """:func:`fill` that raises from its call number ``after`` on, and a list of its calls."""
    calls: list[int] = []

    def filling(chunk: Chunk) -> list[tuple[str, str]]:
        calls.append(chunk.offset)
        if len(calls) > after:
            raise error
        return fill(chunk)

    return filling, calls


def stop_after(chunks: int, monkeypatch: pytest.MonkeyPatch, root: Path, data: Path) -> None:
    """A preparation that is stopped in the middle."""
    filling, _ = stopping(chunks, KeyboardInterrupt())
    monkeypatch.setattr("mibench.data.prepare.fill", filling)
    with pytest.raises(KeyboardInterrupt):
        make(root, data)


def count_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The chunks that are filled from now on."""
    filling, calls = stopping(100, KeyboardInterrupt())
    monkeypatch.setattr("mibench.data.prepare.fill", filling)
    return calls


@pytest.mark.usefixtures("chunks_of_four")
def test_a_stopped_run_continues(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    stop_after(3, monkeypatch, root, data)
    assert not (data / "lfw-8").exists()
    calls = count_chunks(monkeypatch)
    check(make(root, data))
    assert len(calls) == 3


@pytest.mark.usefixtures("chunks_of_four")
def test_lost_bytes_of_a_stopped_run_are_made_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    stop_after(3, monkeypatch, root, data)
    images = partial_folder(data) / "images.npy"
    with images.open("r+b") as file:  # as after a power cut: recorded, but never on the disk
        file.seek(128 + 4 * 3 * 8 * 8 + 5)
        file.write(bytes(20))
    calls = count_chunks(monkeypatch)
    check(make(root, data))
    assert len(calls) == 4


@pytest.mark.usefixtures("chunks_of_four")
def test_other_originals_start_afresh(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    stop_after(3, monkeypatch, root, data)
    moved = root.rename(tmp_path / "elsewhere")
    calls = count_chunks(monkeypatch)
    check(make(moved, data))
    assert len(calls) == 6


def repaint(path: Path, i: int, *, keep_time: bool = False) -> None:
    """Another picture in a file; with ``keep_time`` as an unpacked archive leaves it."""
    before = path.stat()
    Image.fromarray(255 - raw(i)).save(path)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("keep_time", [False, True])
@pytest.mark.usefixtures("chunks_of_four")
def test_what_changed_since_a_stopped_run_is_made_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_time: bool
) -> None:
    data = tmp_path / "data"
    stop_after(3, monkeypatch, root, data)
    repaint(root / "Ann" / "Ann_0003.png", 3, keep_time=keep_time)  # the second row, of chunk 0
    calls = count_chunks(monkeypatch)
    made = make(root, data)
    assert len(calls) == 4
    assert (made.images[1].transpose(1, 2, 0) == 255 - raw(3)).all()
    monkeypatch.undo()
    fresh = make(root, tmp_path / "fresh")
    for name in prepared.CONTENTS:
        assert (made.folder / name).read_bytes() == (fresh.folder / name).read_bytes()


@pytest.mark.usefixtures("chunks_of_four")
def test_labels_of_a_stopped_run_are_those_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The identity list was fetched again, with the same files in it."""
    people = {f"{i:06d}.jpg": 10 + i % 3 for i in range(12)}
    root = celeba_files(tmp_path / "originals", people)
    filling, _ = stopping(1, KeyboardInterrupt())
    monkeypatch.setattr("mibench.data.prepare.fill", filling)
    options: dict[str, Any] = {"incomplete": True, "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        prepare("celeba", root, tmp_path / "data", 8, **options)
    monkeypatch.setattr("mibench.data.prepare.fill", fill)
    lines = [f"{file} {20 + i % 2}\n" for i, file in enumerate(people)]
    (root / "identity_CelebA.txt").write_text("".join(lines))
    made = prepare("celeba", root, tmp_path / "data", 8, **options)
    assert made.names == ("00020", "00021")
    assert made.digest == prepare("celeba", root, tmp_path / "fresh", 8, **options).digest


def test_digits_that_changed_since_a_stopped_run_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mibench.data.prepare.CHUNK_BYTES", 4 * 3 * 28 * 28)
    folder = tmp_path / "set"
    mnist_files(folder, train=8, test=8)
    options: dict[str, Any] = {"incomplete": True, "workers": 1}
    filling, _ = stopping(2, KeyboardInterrupt())
    monkeypatch.setattr("mibench.data.prepare.fill", filling)
    with pytest.raises(KeyboardInterrupt):
        prepare("mnist", folder, tmp_path / "data", 28, **options)
    monkeypatch.setattr("mibench.data.prepare.fill", fill)
    images = folder / "t10k-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1] + b"\x33")
    made = prepare("mnist", folder, tmp_path / "data", 28, **options)
    assert made.digest == prepare("mnist", folder, tmp_path / "fresh", 28, **options).digest


@pytest.mark.usefixtures("chunks_of_four")
def test_files_that_change_while_they_are_prepared_are_noticed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Chunk] = []

    def changing(chunk: Chunk) -> list[tuple[str, str]]:
        calls.append(chunk)
        if len(calls) == 3:
            repaint(root / "Ann" / "Ann_0003.png", 3)
        return fill(chunk)

    monkeypatch.setattr("mibench.data.prepare.fill", changing)
    with pytest.raises(MibenchError, match=r"changed while they were prepared \(1 of 6 parts\)"):
        make(root, tmp_path / "data")
    assert not (tmp_path / "data" / "lfw-8").exists()
    assert make(root, tmp_path / "data").digest == make(root, tmp_path / "fresh").digest
    assert len(calls) == 6 + 1 + 6


@pytest.mark.parametrize("damage", [b"", b"\0\xff", bytes(32), b"x" * 100])
@pytest.mark.usefixtures("chunks_of_four")
def test_a_damaged_record_of_a_stopped_run_counts_for_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    stop_after(3, monkeypatch, root, tmp_path)
    for mark in partial_folder(tmp_path).iterdir():
        if mark.name != "images.npy":
            mark.write_bytes(damage)
    calls = count_chunks(monkeypatch)
    check(make(root, tmp_path))
    assert len(calls) == 6


@pytest.mark.usefixtures("chunks_of_four")
def test_a_truncated_file_of_a_stopped_run_is_made_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(3, monkeypatch, root, tmp_path)
    with (partial_folder(tmp_path) / "images.npy").open("r+b") as file:
        file.truncate(4500)
    calls = count_chunks(monkeypatch)
    check(make(root, tmp_path))
    assert len(calls) == 6


def test_a_set_is_made_again_from_other_originals(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    first = make(root, data)
    assert not stale(first)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    second = make(copy, data)
    assert second.digest == first.digest
    assert [path.name for path in second.folder.parent.iterdir()] == [second.folder.name]
    repaint(copy / "Ann" / "Ann_0003.png", 3)
    assert stale(second)
    made = make(copy, data)
    assert "was made from other files than" in caplog.text
    assert made.digest != first.digest
    assert not stale(made)


def test_a_set_is_made_again_by_other_code(tmp_path: Path) -> None:
    """Whoever changes how a source cuts its pictures gets other pictures."""
    for i in range(3):
        picture(tmp_path / "set" / f"{i}.png", 16, 16, i)
    (tmp_path / "mine.py").write_text(MINE)
    name = f"{tmp_path / 'mine.py'}:Mine"
    first = prepare(name, tmp_path / "set", tmp_path / "data", 8)
    assert first.folder.parent.name == "mine-8"
    assert prepare(name, tmp_path / "set", tmp_path / "data", 8).folder == first.folder
    (tmp_path / "mine.py").write_text(MINE.replace("(0, 0, 8, 8)", "(8, 8, 16, 16)"))
    second = prepare(name, tmp_path / "set", tmp_path / "data", 8)
    assert second.digest != first.digest
    assert not first.folder.exists()


MINE = """
from mibench.data.source import DatasetCard, Source, arrange, listed, register_source

@register_source("mine")
class Mine(Source):
    card = DatasetCard(name="mine", title="T", licence="L", of_people=False, layout="*.png",
                       preprocessing="a corner")
    def listing(self, root, *, incomplete=False):
        files = listed(root)[1]
        return arrange("flat", files, files, files)
    def square(self, image, crop):
        return image.crop((0, 0, 8, 8))
"""


def test_a_card_says_the_name_that_it_is_registered_under(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE.replace('@register_source("mine")', ""))
    with pytest.raises(RequestError, match="register the class under that name, @register_source"):
        prepare(f"{tmp_path / 'mine.py'}:Mine", tmp_path, tmp_path / "data", 8)


def test_equal_pictures_are_counted_and_complete_sets_divided_as_published(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(root / "Ann" / "Ann_0000.png", root / "Ann" / "Ann_0099.png")
    for i in range(4):
        Image.fromarray(raw(3 * i)).save(root / "Bob" / f"Bob_{90 + i:04d}.bmp")
    made = make(root, tmp_path / "data")
    alike, doubtful = made.copies
    assert not alike  # of three equal pictures one is of somebody else
    assert len(doubtful) == 3 + 2 + 2 + 2
    spec = IdentityDivision(dataset="lfw", identities=2, min_images=8)
    split, *_ = spec.open(8, tmp_path / "data")
    parts = (split.train, split.val, split.test, split.public)
    assert sorted(np.concatenate([part.rows for part in parts])) == list(range(COUNT + 5))
    spec.divide(resolution=8, data=tmp_path / "data")
    assert "pictures of lfw are, in every pixel, pictures of another part too" in caplog.text


@pytest.mark.usefixtures("chunks_of_four")
def test_a_full_disk_says_so_and_leaves_nothing_under_the_final_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    filling, _ = stopping(2, full)
    monkeypatch.setattr("mibench.data.prepare.fill", filling)
    with pytest.raises(MibenchError, match="No space left on device; free some space and repeat"):
        make(root, tmp_path / "data")
    assert not (tmp_path / "data" / "lfw-8").exists()
    monkeypatch.undo()
    check(make(root, tmp_path / "data"))


def test_too_little_space_is_seen_beforehand(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("mibench.store.store.shutil.disk_usage", lambda _: Usage)
    with pytest.raises(MibenchError, match=r"needs 16 MiB and has 0: free some .* or choose"):
        make(root, tmp_path / "data")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_run_leaves_no_process_and_continues(root: Path, tmp_path: Path) -> None:
    """kill -9, which no process can answer, in the middle of two workers' work."""
    program = f"""
import time
import mibench.data.prepare as module
from mibench.progress import Progress
module.CHUNK_BYTES = 4 * 3 * 8 * 8
class Slow(Progress):
    def advance(self, steps):
        print("step", flush=True)
        time.sleep(0.3)
module.prepare("lfw", {str(root)!r}, {str(tmp_path / "data")!r}, 8, incomplete=True, workers=2,
        progress=Slow())
"""
    with (tmp_path / "errors").open("w") as errors:
        run = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=errors
        )
    assert run.stdout is not None
    for _ in range(3):
        run.stdout.readline()
    workers = children(run.pid)
    assert len(workers) == 2
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() and not zombie(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)
    assert (tmp_path / "errors").read_text() == ""
    assert not (tmp_path / "data" / "lfw-8").exists()
    assert len(list(partial_folder(tmp_path / "data").iterdir())) >= 1 + 2
    check(make(root, tmp_path / "data"))
    assert DataFolder(tmp_path / "data").unfinished() == []


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_a_worker_that_dies_is_an_error(root: Path, tmp_path: Path) -> None:
    listing = source_named("lfw").listing(root, incomplete=True).rows(slice(0, 1))
    chunk = Chunk("lfw", str(root), listing, str(tmp_path / "x"), 0, 8, None)
    with pytest.raises(FileNotFoundError, match="x"):  # errors of the disk cross over
        list(in_processes(fill, [chunk, chunk], 2))
    broken = replace(chunk, resolution=None)  # type: ignore[arg-type]
    with pytest.raises(MibenchError, match="ended unexpectedly"):
        list(in_processes(fill, [broken, broken], 2))


@pytest.mark.usefixtures("chunks_of_four")
def test_of_two_at_once_one_waits_for_the_other(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, started = tmp_path / "data", threading.Event()
    calls: list[int] = []

    def slowly(chunk: Chunk) -> list[tuple[str, str]]:
        calls.append(chunk.offset)
        started.set()
        time.sleep(0.1)
        return fill(chunk)

    monkeypatch.setattr("mibench.data.prepare.fill", slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(make, root, data)
        started.wait(10)
        second = pool.submit(make, root, data)
        check(first.result())
        assert second.result().folder == first.result().folder
    assert len(calls) == 6


# Refusals


def test_counts_must_be_the_published_ones(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError) as error:
        make(root, tmp_path, incomplete=False)
    text = str(error.value)
    assert "found 23 pictures of 3 identities, published are 13,233 of 5,749" in text
    assert "--incomplete" in text
    assert "Aaron_Eckhart/Aaron_Eckhart_0001.jpg" in text
    card = type(source_named("lfw")).card.model_copy(update={"images": COUNT, "identities": 3})
    monkeypatch.setattr(type(source_named("lfw")), "card", card)
    assert make(root, tmp_path, incomplete=False).index.complete


@pytest.mark.usefixtures("chunks_of_four")
def test_unusable_pictures_are_all_named_and_repaired_ones_continue(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [root / "Ann" / "Ann_0000.png", root / "Cyd" / "Cyd_0020.png"]
    whole = [path.read_bytes() for path in broken]
    broken[0].write_bytes(whole[0][:60])
    Image.new("RGB", (8, 9)).save(broken[1])
    with pytest.raises(RequestError) as error:
        make(root, tmp_path / "data")
    text = str(error.value)
    assert "2 pictures of lfw cannot be used" in text
    assert f"{broken[0]}: cannot be decoded" in text
    assert f"{broken[1]}: is 8×9, but LFW's pictures are 250×250" in text
    listed = partial_folder(tmp_path / "data") / "unusable.txt"
    assert str(listed) in text
    assert [line.split("\t")[0] for line in listed.read_text().splitlines()] == [
        "Ann/Ann_0000.png",
        "Cyd/Cyd_0020.png",
    ]
    for path, data in zip(broken, whole, strict=True):
        path.write_bytes(data)
    calls = count_chunks(monkeypatch)
    check(make(root, tmp_path / "data"))
    assert len(calls) == 2


def test_wrong_requests(root: Path, tmp_path: Path) -> None:
    for options, reason in (
        ({"name": "lfv"}, r"no data set 'lfv'; did you mean 'lfw'"),
        ({"resolution": -1}, r"at least 1 pixel"),
        ({"crop": 251}, r"--crop 251: lfw is cropped to 1 to 250 pixels of 250×250; 128 without"),
        ({"name": "mnist", "crop": 9}, r"pictures of mnist are not cropped"),
        ({"root": tmp_path / "gone"}, r"there is no folder .*gone\nExpected below --root"),
        ({"download": True}, r"lfw cannot be downloaded by mibench"),
    ):
        given: dict[str, Any] = {"name": "lfw", "root": root, "resolution": 8, **options}
        with pytest.raises(RequestError, match=reason):
            prepare(**given, data_folder=tmp_path / "data")
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"data folder .*file.* cannot be created: .*--data"):
        make(root, tmp_path / "file")


# Opening and checking


def test_what_is_not_prepared_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as error:
        open_prepared("celeba", 64, tmp_path)
    text = str(error.value)
    assert "mibench data prepare celeba --root DIR --resolution 64" in text
    assert str(tmp_path / "celeba-64") in text
    assert "img_align_celeba" in text
    with pytest.raises(RequestError, match="--resolution 224 --crop 100"):
        open_prepared("ffhq", 224, tmp_path, crop=100)


def test_damage_is_found_and_says_how_to_make_it_again(root: Path, tmp_path: Path) -> None:
    made = make(root, tmp_path / "data")
    command = f"mibench data prepare lfw --root DIR --resolution 8 --data {tmp_path / 'data'}"
    again = rf"(?s){made.folder} is damaged \(.*\): to make it again, run {command}"
    folder = DataFolder(tmp_path / "data")
    images = made.folder / "images.npy"
    whole = images.read_bytes()

    def problem() -> str:
        found = folder.problem("lfw-8")
        assert found is not None
        assert re.search(again, found, re.S)
        return found

    images.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "images.npy does not match its checksum" in problem()
    with pytest.raises(MibenchError, match=again):
        open_prepared("lfw", 8, tmp_path / "data", check=True)
    images.write_bytes(whole[:-50])
    assert "images.npy has 4494 bytes, not 4544" in problem()
    with pytest.raises(MibenchError, match=again):
        open_prepared("lfw", 8, tmp_path / "data")
    images.write_bytes(whole)
    (made.folder / "labels.npy").unlink()
    assert "labels.npy cannot be read (No such file" in problem()
    with pytest.raises(MibenchError, match=again):
        open_prepared("lfw", 8, tmp_path / "data")
    (made.folder / "index.json").write_text("{}")
    assert "index.json has 2 bytes" in problem()
    with pytest.raises(MibenchError, match=again):
        open_prepared("lfw", 8, tmp_path / "data")
    (made.folder / "manifest.json").write_text("{}")
    assert "manifest.json cannot be read" in problem()
    with pytest.raises(MibenchError, match=rf"manifest.json cannot be read.*{command}"):
        open_prepared("lfw", 8, tmp_path / "data")


def test_crops_are_data_sets_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "originals" / "00000.png"
    path.parent.mkdir()
    big = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(big).save(path)
    data = tmp_path / "data"
    made = prepare("ffhq", path.parent, data, 100, crop=100, incomplete=True)
    assert made.folder.parent.name == "ffhq-100-crop100"
    assert (made.images[0].transpose(1, 2, 0) == big[14:114, 14:114]).all()
    assert open_prepared("ffhq", 100, data, crop=100).digest == made.digest
    with pytest.raises(RequestError, match="not prepared"):
        open_prepared("ffhq", 100, data)


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MIBENCH_DATA", raising=False)
    monkeypatch.setattr("mibench.store.store.sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_root() == tmp_path / "cache" / "mibench" / "data"
    monkeypatch.setenv("MIBENCH_DATA", str(tmp_path / "named"))
    assert data_root() == tmp_path / "named"
    assert data_root(tmp_path / "chosen") == tmp_path / "chosen"


# Digits


def test_digits_are_enlarged_as_the_papers_do(tmp_path: Path) -> None:
    import torchvision.transforms

    mnist_files(tmp_path / "MNIST" / "raw", train=60, test=40)
    made = prepare("mnist", tmp_path, tmp_path / "data", incomplete=True)
    assert made.images.shape == (100, 3, 32, 32)
    listing = source_named("mnist").listing(tmp_path, incomplete=True)
    assert listing.pixels is not None
    resize = torchvision.transforms.Resize((32, 32))
    for row in range(100):
        expected = np.asarray(resize(Image.fromarray(listing.pixels[row])))
        for channel in range(3):
            assert (made.images[row, channel] == expected).all()
    assert [PARTS[part] for part in made.parts[[0, 39, 40, 99]]] == [
        "test",
        "test",
        "train",
        "train",
    ]
    same = prepare("mnist", tmp_path, tmp_path / "data", 28, incomplete=True)
    assert (same.images[:, 1] == listing.pixels).all()


def test_jpegs_are_decoded_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "Ann" / "Ann_0001.jpg"
    path.parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (250, 250, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    box = Image.open(io.BytesIO(path.read_bytes())).convert("RGB").crop((61, 61, 189, 189))
    expected = np.asarray(box.resize((16, 16), Image.Resampling.BILINEAR))
    found = pixels.decode(path.read_bytes(), source_named("lfw"), 16)
    assert (found.transpose(1, 2, 0) == expected).all()


# Real sets


def unpack(name: str, folder: Path) -> Path:
    archive = SHARED / f"{name}.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not present beside the repository (shared/data)")
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, filter="data")
        else:
            tar.extractall(folder)
    return folder


def test_the_real_lfw_is_complete(tmp_path: Path) -> None:
    unpack("lfw-64", tmp_path / "set")
    made = prepare("lfw", tmp_path / "set", tmp_path / "data", 16, workers=1)
    assert made.index.complete
    assert made.images.shape == (13_233, 3, 16, 16)
    counts = np.bincount(made.labels)
    assert [(counts >= least).sum() for least in (10, 15, 20)] == [158, 96, 62]
    assert (counts == 1).sum() == 4_069
    assert counts[counts >= 20].sum() == 3_023
    spec = IdentityDivision(dataset="lfw", min_images=20)
    loaded = spec.divide(resolution=16, data=tmp_path / "data").load()
    assert loaded.identities == 62
    assert len(loaded.train) + len(loaded.val) + len(loaded.test) == 3_023
    assert (len(loaded.public), len(loaded.public.names)) == (13_233 - 3_023, 5_749 - 62)


def test_the_real_mnist_is_complete(tmp_path: Path) -> None:
    if not (SHARED / "mnist").exists():
        pytest.skip("mnist is not present beside the repository (shared/data)")
    listing = source_named("mnist").listing(
        SHARED / "mnist"
    )  # its checksums are the published ones
    assert np.bincount(listing.parts).tolist() == [0, 60_000, 0, 10_000]
    low = listing.labels < 5
    train = listing.parts == PARTS.index("train")
    assert (low & train).sum() == 30_596
    assert (low & ~train).sum() == 5_139
    assert (~low).sum() == 34_265
