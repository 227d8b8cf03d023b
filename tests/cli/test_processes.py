"""Processes that are stopped, killed or kept waiting: none is left over, none waits in silence."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mibench.cli import cli
from mibench.errors import RequestError
from mibench.grid.ray_cluster import RayCluster, Resources
from mibench.store.store import Store, stage_key
from tests.kit.tiny_folder import SETTINGS, make_tiny_folder

ROOT = Path(__file__).resolve().parents[2]
KEY = stage_key("target", {"epochs": 3}, 0, [], "source")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and locks")

# A target's training that says that it is under way, and then takes for ever.
SLEEPY = """
import os
import time
from pathlib import Path

from mibench.defenses.none import NoDefense


class Sleepy(NoDefense):
    def loss(self, model, images, labels, state):
        (Path(os.environ["SLEEPERS"]) / str(os.getpid())).touch()
        time.sleep(600)
"""


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s until {what}"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody asked about (a zombie) doesn't."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[Path]:
    """A folder in which each process that trains leaves its number; none outlives the test."""
    folder = tmp_path / "sleepers"
    folder.mkdir()
    yield folder
    for pid in folder.iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.name), signal.SIGKILL)


def start(tmp_path: Path, command: str, *arguments: str) -> subprocess.Popen[str]:
    """A command of mibench on the tiny folder, whose targets never end."""
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    faces = make_tiny_folder(tmp_path / "faces")
    settings = [f"--set={path}={json.dumps(value)}" for path, value in SETTINGS.items()]
    return subprocess.Popen(
        [
            sys.executable, "-m", "mibench", command, "--protocol", "folder", "--root", str(faces),
            "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"),
            *settings, *arguments,
        ],
        cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "SLEEPERS": str(tmp_path / "sleepers"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGKILL, -signal.SIGKILL),
        (signal.SIGTERM, 128 + signal.SIGTERM),
        pytest.param(signal.SIGHUP, 128 + signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 128 + signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_workers_end_with_the_grid(
    tmp_path: Path, sleepers: Path, number: signal.Signals, code: int
) -> None:
    defense = f"--defenses={tmp_path / 'sleepy.py'}:Sleepy"
    process = start(
        tmp_path, "grid", defense, "--attacks=gmi", "--seeds=0-1", "--workers=2", "--threads=1"
    )
    wait_until(lambda: len(list(sleepers.iterdir())) == 2, 120, "both workers train")
    pids = [int(each.name) for each in sleepers.iterdir()]
    assert process.pid not in pids
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in said
    if number != signal.SIGKILL:
        assert "stopped; the same command continues" in said
    wait_until(lambda: not any(map(alive, pids)), 20, "the workers have ended")


def test_sigterm_stops_a_run_as_ctrl_c_does(tmp_path: Path, sleepers: Path) -> None:
    process = start(tmp_path, "run", f"--defense={tmp_path / 'sleepy.py'}:Sleepy", "--attack=gmi")
    wait_until(lambda: list(sleepers.iterdir()), 120, "it trains")
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped; the same command continues" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "store" / "tmp").iterdir())
    assert not list((tmp_path / "out").rglob("record.json"))


# A process that takes one of a store's locks, stops (as Ctrl-Z does), and lets go when continued.
HOLDER = """
    import os, signal, sys
    from filelock import FileLock
    with FileLock(sys.argv[1]):
        print("held", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.parametrize("lock", ["gate", f"target-{KEY}.lock"])
@pytest.mark.parametrize("held_at", ["the start", "a second stage"])
def test_waiting_for_a_stopped_process_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lock: str, held_at: str
) -> None:
    store = Store(tmp_path / "store")
    if held_at != "the start":
        store.get_or_compute("prior", KEY, {}, lambda folder: {})
    path = store.root / "locks" / lock
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    done = threading.Event()

    def compute() -> None:
        store.get_or_compute("target", KEY, {}, lambda folder: {})
        done.set()

    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with caplog.at_level(logging.WARNING):
            threading.Thread(target=compute, daemon=True).start()
            wait_until(lambda: "waiting for" in caplog.text, 6, "it says that it waits")
        assert not done.is_set()
        if Path("/proc/locks").exists():
            assert f"held by process {holder.pid}, which is stopped" in caplog.text
            assert f"kill -CONT {holder.pid}" in caplog.text
        holder.send_signal(signal.SIGCONT)
        assert done.wait(10), "it goes on once the lock is free"
        assert len([r for r in caplog.records if "waiting for" in r.message]) == 1
    finally:
        holder.kill()
        holder.communicate()


def test_gc_says_that_it_waits_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path / "store")
    store.get_or_compute("prior", KEY, {}, lambda folder: {})
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(store.root / "locks" / "gate")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        thread = threading.Thread(target=store.gc, daemon=True)
        with caplog.at_level(logging.WARNING):
            thread.start()
            wait_until(lambda: "waiting for the store's gate" in caplog.text, 6, "gc says it")
    finally:
        holder.kill()  # a killed process's locks are free
        holder.communicate()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("address", [None, ""])
def test_ray_is_neither_started_nor_joined_unasked(
    monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    with pytest.raises(RequestError, match="needs --address"):
        RayCluster(address, {"": Resources()})


def test_the_command_refuses_ray_without_an_address(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli,
        ["grid", "--executor", "ray", "--attacks", "gmi", "--store", str(tmp_path / "store")],
    )  # before the plan is made, for which images may have to be read
    assert done.exit_code == 2, done.output
    assert "open to the network without a password" in done.output
    assert "--executor local --workers" in done.output
    assert not (tmp_path / "store").exists()
