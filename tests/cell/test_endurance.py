"""What was right before and must stay so, at length: kills, damage, a full disk, a moved clock.

Each test ends with the record that an undisturbed run gives, and with nothing computed twice.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import mibench
from mibench.protocols import Protocol
from mibench.record import Record
from mibench.store.store import Store
from tests.kit.tiny_folder import SETTINGS, make_tiny_folder

ROOT = Path(__file__).resolve().parents[2]
ATTACK, DEFENSE = "improved-kedmi", "mid"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and limits"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record, float]:
    """Store, record and seconds of a cell that nothing happens to."""
    place = tmp_path_factory.mktemp("undisturbed")
    start = time.monotonic()
    done = run_tiny(place / "store", place / "out")
    assert done.returncode == 0, done.stderr
    return place / "store", record_of(place / "out"), time.monotonic() - start


def tiny_command(store: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "tests.kit.run_tiny", str(store), str(out), ATTACK, DEFENSE]


def run_tiny(store: Path, out: Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """The cell in a process of its own, which can write files of so many bytes at most."""

    def restrict() -> None:
        if limit is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    return subprocess.run(
        tiny_command(store, out),
        cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=restrict,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def record_of(folder: Path) -> Record:
    return Record.model_validate_json((folder / "record.json").read_bytes())


def artifacts(store: Path) -> dict[Path, int]:
    """Finished artifacts, and what tells whether one was written again."""
    found = store.glob("*/*/manifest.json")
    return {path: path.stat().st_ino for path in found if path.parts[-3] != "tmp"}


def kill_until_done(
    command: list[str], store: Path, seconds: float, kills: int, rng: random.Random
) -> int:
    """Start the command again and again, and kill it at a random moment; how often it was killed.

    What was finished before a kill is neither changed nor computed again by what follows.
    """
    killed, finished = 0, artifacts(store)
    for _ in range(kills):
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                process.wait(rng.uniform(0.1, 0.7) * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(rng.choice(SIGNALS))
                process.wait(60)
                killed += 1
        there = artifacts(store)
        assert finished.items() <= there.items()
        finished = there
        assert Store(store).verify() == []
    return killed


@pytest.mark.parametrize("seed", range(4))
def test_a_cell_killed_at_any_moment(
    undisturbed: tuple[Path, Record, float], tmp_path: Path, seed: int
) -> None:
    expected_store, expected, seconds = undisturbed
    store, out = tmp_path / "store", tmp_path / "out"
    rng = random.Random(seed)
    killed = kill_until_done(tiny_command(store, out), store, seconds, 10, rng)
    assert killed >= 2
    finished = artifacts(store)
    done = run_tiny(store, out)
    assert done.returncode == 0, done.stderr
    assert record_of(out).results() == expected.results()
    assert finished.items() <= artifacts(store).items()
    names = {path.relative_to(store) for path in artifacts(store)}
    assert names == {path.relative_to(expected_store) for path in artifacts(expected_store)}
    assert not list((store / "tmp").iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_grid_killed_at_any_moment(tmp_path: Path, workers: int) -> None:
    faces = make_tiny_folder(tmp_path / "faces")
    settings = [f"--set={path}={json.dumps(value)}" for path, value in SETTINGS.items()]

    def command(place: Path) -> list[str]:
        return [
            sys.executable, "-m", "mibench", "grid", "--protocol", "folder", "--root", str(faces),
            "--attacks", "gmi,gmi+ma", "--defenses", "none,mid", "--seeds", "0-1", "--quiet",
            "--workers", str(workers), "--threads", "1",
            "--store", str(place / "store"), "--out", str(place / "out"), *settings,
        ]  # fmt: skip

    start = time.monotonic()
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), cwd=ROOT, check=True, capture_output=True)
    seconds = time.monotonic() - start
    times = kill_until_done(command(killed), killed / "store", seconds, 8, random.Random(workers))
    assert times >= 2
    subprocess.run(command(killed), cwd=ROOT, check=True, capture_output=True)
    records = {
        place: {
            path.relative_to(place): record_of(path.parent).results()
            for path in (place / "out").rglob("record.json")
        }
        for place in (whole, killed)
    }
    assert len(records[whole]) == 8
    assert records[whole] == records[killed]
    assert len(artifacts(whole / "store")) == len(artifacts(killed / "store"))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": _truncate,
    "a flipped bit": _flip,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
    "a folder in its place": _as_folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_file_is_found_and_made_again(
    undisturbed: tuple[Path, Record, float], tiny: Protocol, tmp_path: Path, damage: str
) -> None:
    whole, expected, _ = undisturbed
    store = tmp_path / "store"
    files = [path.relative_to(whole) for path in sorted(whole.glob("*/*/**/*")) if path.is_file()]
    files = [path for path in files if path.parts[0] not in ("locks", "tmp")]
    assert len({path.parts[0] for path in files}) >= 7, "a file of each stage"
    for file in files:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(whole, store)
        DAMAGES[damage](store / file)
        found = Store(store).verify()
        # An artifact without a manifest is none: nothing says what ought to be there.
        assert len(found) == 1 or (damage == "deleted" and file.name == "manifest.json"), file
        if file.parts[0] != "metrics":
            shutil.rmtree(store / "metrics")  # else a finished cell reads no other stage
        again = mibench.run(
            protocol="tiny", attack=ATTACK, defense=DEFENSE, store=store, out=tmp_path / "out"
        )
        assert again.results() == expected.results(), file
        read = file.parts[0] in ("metrics", "target", "reconstructions", "references", "evaluator")
        if read:  # what nothing needed stays as it is, and `store verify` goes on naming it
            assert Store(store).verify() == [], file


def test_a_disk_that_fills_up(undisturbed: tuple[Path, Record, float], tmp_path: Path) -> None:
    """A limit on the size of files fails as a full disk does: in the middle of a write."""
    _, expected, _ = undisturbed
    store, out = tmp_path / "store", tmp_path / "out"
    for limit in (0, 100, 3_000, 30_000, 100_000):
        done = run_tiny(store, out, limit)
        assert done.returncode != 0, limit
        last = done.stderr.strip().splitlines()[-1]
        assert "MibenchError: cannot write" in last, done.stderr
        assert str(store) in last or str(out) in last
        assert Store(store).verify() == []
        assert not list(store.glob("tmp/*")), limit
        assert not (out / "record.json").exists()
    done = run_tiny(store, out)
    assert done.returncode == 0, done.stderr
    assert record_of(out).results() == expected.results()


@pytest.mark.parametrize("year", [1971, 2099])
def test_a_moved_clock_makes_nothing_stale(
    undisturbed: tuple[Path, Record, float], tmp_path: Path, year: int
) -> None:
    whole, expected, _ = undisturbed
    store, out = tmp_path / "store", tmp_path / "out"
    shutil.copytree(whole, store)
    then = (year - 1970) * 365.25 * 86400
    for path in store.rglob("*"):
        os.utime(path, (then, then))
    before = artifacts(store)
    done = run_tiny(store, out)
    assert done.returncode == 0, done.stderr
    assert record_of(out).results() == expected.results()
    assert artifacts(store) == before


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_store_that_is_deleted_under_a_run(
    undisturbed: tuple[Path, Record, float], tmp_path: Path, share: float
) -> None:
    """It ends with a clear message or with the same record, and the next run has that record."""
    _, expected, seconds = undisturbed
    store, out = tmp_path / "store", tmp_path / "out"
    with subprocess.Popen(
        tiny_command(store, out), cwd=ROOT, text=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        time.sleep(share * seconds)
        shutil.rmtree(store, ignore_errors=True)
        _, said = process.communicate(timeout=300)
    if process.returncode == 0:
        assert record_of(out).results() == expected.results()
    else:
        assert "MibenchError" in said.strip().splitlines()[-1], said
        assert str(store) in said
    done = run_tiny(store, out)
    assert done.returncode == 0, done.stderr
    assert record_of(out).results() == expected.results()
