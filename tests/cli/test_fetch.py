"""``mibench data fetch inception``: from a server of the test, never from the network."""

from __future__ import annotations

import hashlib
import http.server
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mibench.metrics import find_inception, inception
from tests.kit.command_line import ROOT, invoke

WEIGHTS = bytes(range(256)) * 4096 * 3  # 3 MiB


class Server(http.server.ThreadingHTTPServer):
    """Answers with ``body``, after ``part`` bytes only when ``go`` is set."""

    body, part, status = WEIGHTS, len(WEIGHTS), 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.go = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/{inception.FILE_NAME}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body[: self.server.part])
        self.wfile.flush()
        self.server.asked.set()
        if self.server.part < len(self.server.body):
            self.server.go.wait(30)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server whose file counts as Inception's weights, and an empty cache of torch's."""
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(inception, "URL", made.url)
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(WEIGHTS).hexdigest())
    monkeypatch.setattr(inception, "_SECONDS", 1.0)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("MIBENCH_INCEPTION", raising=False)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    yield made
    made.go.set()
    made.shutdown()
    made.server_close()


def place(tmp_path: Path) -> Path:
    return tmp_path / "torch" / "hub" / "checkpoints" / inception.FILE_NAME


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_fetched_once_and_found(server: Server, tmp_path: Path) -> None:
    result = invoke("data", "fetch", "inception")
    assert (result.exit_code, result.stdout) == (0, f"inception: checked, at {place(tmp_path)}\n")
    assert place(tmp_path).read_bytes() == WEIGHTS
    assert files(tmp_path) == [place(tmp_path)]
    assert find_inception() == place(tmp_path)
    server.asked.clear()
    assert invoke("data", "fetch", "inception", "--quiet").exit_code == 0
    assert not server.asked.is_set()  # nothing is fetched twice


@pytest.mark.parametrize("body", [b"", b"<html>not found</html>", WEIGHTS[:-1], WEIGHTS + b"0"])
def test_another_file_is_refused_and_leaves_nothing(
    body: bytes, server: Server, tmp_path: Path
) -> None:
    server.body, server.part = body, len(body)
    result = invoke("data", "fetch", "inception")
    assert result.exit_code == 1
    assert f"gave {len(body):,} bytes that are not {inception.FILE_NAME}" in result.output
    assert files(tmp_path) == []


def test_an_endless_answer_is_cut(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "_MOST_BYTES", 2**20)
    result = invoke("data", "fetch", "inception")
    assert result.exit_code == 1
    assert "gave 2,097,152 bytes" in result.output


@pytest.mark.parametrize("trouble", ["no server", "an error", "silence"])
def test_without_a_network_the_message_says_what_to_do(
    trouble: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble == "no server":
        monkeypatch.setattr(inception, "URL", "http://127.0.0.1:1/weights.pth")
    if trouble == "an error":
        server.status = 503
    if trouble == "silence":
        server.part = 100_000
    result = invoke("data", "fetch", "inception")
    assert result.exit_code == 1
    assert "cannot download http://127.0.0.1" in result.output
    assert str(place(tmp_path)) in result.output
    assert inception.SHA256 in result.output
    assert "MIBENCH_INCEPTION" in result.output
    assert files(tmp_path) == []


def test_a_named_place_is_filled_and_a_named_file_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "mine.pth"
    monkeypatch.setenv("MIBENCH_INCEPTION", str(named))
    named.write_text("something of mine")
    result = invoke("data", "fetch", "inception")
    assert result.exit_code == 2
    assert str(named) in result.output
    assert named.read_text() == "something of mine"
    named.unlink()
    assert invoke("data", "fetch", "inception").exit_code == 0
    assert find_inception() == named


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server, tmp_path: Path) -> None:
    place(tmp_path).parent.mkdir(parents=True)
    place(tmp_path).write_bytes(WEIGHTS[:100])
    assert "mibench data fetch inception" in str(find_inception())
    assert invoke("data", "fetch", "inception").exit_code == 0
    assert place(tmp_path).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    "name",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_killed_download_leaves_nothing(
    name: signal.Signals, server: Server, tmp_path: Path
) -> None:
    server.part = len(WEIGHTS) // 2
    code = (
        "import sys; from mibench.metrics import inception; from mibench.cli import main;"
        "inception.URL, inception.SHA256 = sys.argv.pop(), sys.argv.pop(); main()"
    )
    command = [sys.executable, "-c", code, "data", "fetch", "inception"]
    process = subprocess.Popen(
        [*command, hashlib.sha256(WEIGHTS).hexdigest(), server.url],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert server.asked.wait(60)
    time.sleep(0.2)
    process.send_signal(name)
    assert process.wait(30) != 0
    assert files(tmp_path) == []


@pytest.mark.parametrize("named", ["\x01", "/dev/zero", "x" * 300, "~nobody-here/weights.pth", "."])
def test_places_that_cannot_be_read_are_reasons(
    named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIBENCH_INCEPTION", named)
    assert isinstance(find_inception(), str)


def test_reasons_name_no_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go into records, which are published."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MIBENCH_INCEPTION", str(tmp_path / "weights.pth"))
    assert "no Inception weights at ~/weights.pth" in str(find_inception())
    (tmp_path / "weights.pth").write_bytes(b"others")
    assert str(find_inception()).startswith("~/weights.pth is not")
    assert str(tmp_path) not in str(find_inception())


def test_only_known_weights_are_fetched() -> None:
    result = invoke("data", "fetch", "vgg")
    assert result.exit_code == 2
    assert "inception" in result.output
