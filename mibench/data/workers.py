"""Chunks of pictures on all cores, their results in order, with little in memory.

Processes, not threads: what Python does around decoding a small picture holds the interpreter's
lock long enough that threads keep a handful of cores busy at most. They are started as programs of
their own, not by ``multiprocessing``: that would import the caller's main module again in each
(torch and all), or fork it with whatever locks its threads hold.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from mibench.data.pixels import Chunk, Filled, fill
from mibench.errors import MibenchError

_AHEAD = 2  # chunks that wait for each worker, so that none is idle


def fill_all(chunks: Iterable[Chunk], workers: int) -> Generator[Filled, None, None]:
    """:func:`~mibench.data.pixels.fill` of each chunk, in order.

    Args:
        chunks: read a few ahead only.
        workers: processes; with one, the chunks are filled in this process.

    Raises:
        OSError: rows could not be written.
        MibenchError: a worker ended unexpectedly.
    """
    if workers <= 1:
        yield from map(fill, chunks)
        return
    started = [_Worker() for _ in range(workers)]
    free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in started:
        free.put(worker)

    def on_a_free_worker(chunk: Chunk) -> Filled:
        worker = free.get()
        try:
            return worker.fill(chunk)
        finally:
            free.put(worker)

    pending: deque[Future[Filled]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for chunk in chunks:
            pending.append(pool.submit(on_a_free_worker, chunk))
            if len(pending) >= workers * (1 + _AHEAD):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        for worker in started:  # all at once: an interpreter takes a while to end
            worker.close()
        for worker in started:
            worker.wait()


class _Worker:
    """A process that fills one chunk at a time, as :func:`serve` does."""

    def __init__(self) -> None:
        program = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            "from mibench.data.workers import serve; serve()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the parent's affair, from the first moment on
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout

    def fill(self, chunk: Chunk) -> Filled:
        """Have a chunk filled, and wait for it."""
        try:
            pickle.dump(chunk, self.requests)
            self.requests.flush()
            answer = pickle.load(self.answers)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise MibenchError(
                "a process that decodes pictures ended unexpectedly (was it killed, or the memory "
                "full?); repeat the command, which continues"
            ) from error
        if isinstance(answer, OSError):
            raise answer
        filled: Filled = answer
        return filled

    def close(self) -> None:
        """Let the process end; closing its input tells it to."""
        with contextlib.suppress(BrokenPipeError):  # it ended before
            self.requests.close()

    def wait(self) -> None:
        """Wait until it has ended."""
        self.process.wait()
        self.answers.close()


def serve() -> None:
    """Fill chunks from standard input until it ends, as it does when the parent is killed too."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up among the answers
    while True:
        try:
            chunk = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: Filled | OSError
        try:
            answer = fill(chunk)
        except OSError as error:
            answer = error
        try:
            pickle.dump(answer, answers)
            answers.flush()
        except BrokenPipeError:  # the parent was killed
            os._exit(1)  # the interpreter's own end would try to flush again
