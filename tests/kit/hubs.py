"""Hubs of tests: stores to share, a web server whose answers can be spoilt, and an S3 server."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mibench.store.artifact import Artifact, save_json, save_tensors
from mibench.store.hub import Entry, Hub, entry_of
from mibench.store.store import Store, stage_key

Fault = Callable[["Handler", bytes], None]


def artifact_of(store: Store, number: int = 0, floats: int = 50_000) -> Artifact:
    """An artifact of two files, of 200 kB, whose key is :func:`entry`'s."""

    def compute(folder: Path) -> dict[str, Any]:
        values = torch.arange(float(floats)) + number
        save_tensors(folder / "model.safetensors", {"w": values})
        save_json(folder / "result.json", {"number": number})
        return {"seconds": 1.0}

    inputs = {"number": number}
    return store.get_or_compute("target", stage_key("target", inputs, 0, [], "c"), inputs, compute)


def entry(artifact: Artifact, *names: str) -> Entry:
    return entry_of(artifact, names, 0, [], "c")


def pushed(hub: Hub, *artifacts: Artifact) -> list[Entry]:
    """Put artifacts on a hub, with its index."""
    hub.open_for_push()
    entries = [entry(each, f"p/a/d/{number}") for number, each in enumerate(artifacts)]
    for each, artifact in zip(entries, artifacts, strict=True):
        assert hub.push(each, artifact)
    hub.publish(entries)
    return entries


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves files with ranges, as most web servers do."""

    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_GET(self) -> None:
        """Answer with a file, or with its fault."""
        path = self.path.lstrip("/")
        self.server.asked.append((path, self.headers.get("Range")))
        place = self.server.root / path
        if not place.is_file():
            self.send_error(404)
            return
        data = place.read_bytes()
        for part, fault in self.server.faults.items():
            if part in path:
                fault(self, data)
                return
        self.give(data)

    def give(self, data: bytes, length: int | None = None, ranges: bool = True) -> None:
        """Send a file, or the range of it that was asked for; ``length`` is said of it."""
        start = 0
        if ranges and (asked := self.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start if length is None else length))
        self.end_headers()
        self.wfile.write(data[start:])

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class WebServer(http.server.ThreadingHTTPServer):
    """A folder on loopback.

    Attributes:
        faults: what answers for the paths that hold a text. asked: paths and ranges so far.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.faults: dict[str, Fault] = {}
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serving(root: Path) -> Iterator[WebServer]:
    """A web server in a thread."""
    with WebServer(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


# Faults ------------------------------------------------------------------------------------------


def altered(handler: Handler, data: bytes) -> None:
    """Of the right size, with another byte in the middle."""
    middle = len(data) // 2
    handler.give(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])


def truncated(handler: Handler, data: bytes) -> None:
    """The first half of it, well told."""
    handler.give(data[: len(data) // 2])


def longer(handler: Handler, data: bytes) -> None:
    """With more behind it."""
    handler.give(data + b"more")


def missing(handler: Handler, data: bytes) -> None:
    """Not there."""
    handler.send_error(404)


def failing(handler: Handler, data: bytes) -> None:
    """A server that is out of order."""
    handler.send_error(500)


def without_ranges(handler: Handler, data: bytes) -> None:
    """All of it, whatever was asked for."""
    handler.give(data, ranges=False)


def wrong_length(handler: Handler, data: bytes) -> None:
    """Said to be ten bytes long."""
    handler.give(data, length=10)
    handler.close_connection = True


def endless(handler: Handler, data: bytes) -> None:
    """Without a length, and of 32 MiB: as good as endless, and a mistake fills no disk."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(2**25 // len(data)):
            handler.wfile.write(data)
    handler.close_connection = True


def redirected(place: str) -> Fault:
    """Elsewhere."""

    def fault(handler: Handler, data: bytes) -> None:
        handler.send_response(302)
        handler.send_header("Location", place)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return fault


def dropping(times: int) -> Fault:
    """Breaks off after half of what was asked for, so many times."""
    left = [times]

    def fault(handler: Handler, data: bytes) -> None:
        if left[0] == 0:
            handler.give(data)
            return
        left[0] -= 1
        asked = handler.headers.get("Range") or "bytes=0-"
        start = int(asked.removeprefix("bytes=").partition("-")[0])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start : (start + len(data)) // 2])
        handler.wfile.flush()
        time.sleep(0.1)  # else the client may see the end before it has read what came
        handler.close_connection = True

    return fault
