"""Work on all cores, its results in order, with little in memory.

Sets of pictures are decoded by processes, not by threads: what Python does around decoding a small
picture holds the interpreter's lock long enough that threads keep a handful of cores busy at most.
They are started as programs of their own, not by ``multiprocessing``: that would import the
caller's main module again in each (torch and all), or fork it with whatever locks its threads hold;
and its processes outlive a parent that was killed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from PIL import Image

from mibench.errors import MibenchError
from mibench.progress import SILENT, Progress

_AHEAD = 2  # items that wait for each worker, so that none is idle

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def on_threads(
    function: Callable[[Item], Result], items: Sequence[Item], progress: Progress = SILENT
) -> list[Result]:
    """``function`` of every item, in order, on one thread per core (Pillow releases the GIL)."""
    results = []
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=cores()) as pool:
        # Oversized images are refused by name, so Pillow's own warning would say it twice.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for result in pool.map(function, items):
            results.append(result)
            progress.advance(1)
    return results


def in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Generator[Result, None, None]:
    """``function`` of each item, in order.

    Args:
        function: of a module that imports nothing slow.
        items: read a few ahead only.
        workers: processes; with one, the work is done in this process.

    Raises:
        OSError: what a function raised.
        MibenchError: a worker ended unexpectedly.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    program = f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as w; w.serve()"
    started: list[subprocess.Popen[bytes]] = []
    own = threading.local()

    def start() -> None:
        own.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the parent's affair, from the first moment on
        )
        started.append(own.process)

    def ask(item: Item) -> Result:
        try:
            pickle.dump((function, item), own.process.stdin)
            own.process.stdin.flush()
            answer: Result = pickle.load(own.process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise MibenchError(
                "a process that decodes pictures ended unexpectedly (was it killed, or the memory "
                "full?); repeat the command, which continues"
            ) from error
        if isinstance(answer, OSError):
            raise answer
        return answer

    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, initializer=start)
    try:
        for item in items:
            pending.append(pool.submit(ask, item))
            if len(pending) >= workers * (1 + _AHEAD):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        for process in started:  # all at once: an interpreter takes a while to end
            with contextlib.suppress(BrokenPipeError):  # it ended before
                process.stdin.close()  # type: ignore[union-attr]  # which tells it to end
        for process in started:
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]


def serve() -> None:
    """Do what standard input says until it ends, as it does when the parent is killed too."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up among the answers
    while True:
        try:
            function, item = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = function(item)
        except OSError as error:
            answer = error
        try:
            pickle.dump(answer, answers)
            answers.flush()
        except BrokenPipeError:  # the parent was killed
            os._exit(1)  # the interpreter's own end would try to flush again
