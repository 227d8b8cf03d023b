"""Executors on this machine: this process, or one worker process a device."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace

import torch

from mibench.grid.schedule import Executor
from mibench.grid.work import Job, JobOutcome, work, worker_name
from mibench.progress import SILENT, Progress

_RETRIES = 1  # of a job whose worker process died, or whose GPU failed


class InProcess(Executor):
    """Computes one job after the other in this process, with the progress of its steps."""

    def __init__(self, progress: Progress = SILENT) -> None:
        self.progress = progress
        self._jobs: list[Job] = []

    @property
    def capacity(self) -> int:
        """One."""
        return 1

    def submit(self, job: Job) -> None:
        """Keep the job for :meth:`wait`."""
        self._jobs.append(job)

    def wait(self, seconds: float) -> list[JobOutcome]:
        """Compute what was submitted, however long it takes."""
        outcomes = [work(job, self.progress) for job in self._jobs]
        self._jobs.clear()
        return outcomes

    def close(self) -> None:
        """Nothing is under way between calls."""


class Workers(Executor):
    """One worker process for each device.

    A worker that dies, or whose GPU fails, is replaced, and its job tried again.

    Args:
        devices: one for each worker, as ``["cuda:0", "cuda:1"]`` or ``["cpu", "cpu"]``.
        threads: torch threads of each worker; they affect the last digits of results on CPUs.
    """

    def __init__(self, devices: list[str], threads: int) -> None:
        self.devices, self.threads = devices, threads
        self._pools: list[ProcessPoolExecutor | None] = [None] * len(devices)
        self._busy: dict[Future[JobOutcome], tuple[int, Job, int]] = {}

    @property
    def capacity(self) -> int:
        """The number of workers."""
        return len(self.devices)

    def submit(self, job: Job) -> None:
        """Give the job to a worker that has none."""
        taken = {slot for slot, _, _ in self._busy.values()}
        self._start(next(i for i in range(self.capacity) if i not in taken), job, 0)

    def wait(self, seconds: float) -> list[JobOutcome]:
        """Jobs that ended; a job whose worker died twice has failed."""
        done, _ = concurrent.futures.wait(
            self._busy, seconds, return_when=concurrent.futures.FIRST_COMPLETED
        )
        outcomes = []
        for future in done:
            slot, job, tries = self._busy.pop(future)
            error = future.exception()
            outcome = None if error else future.result()
            lost = outcome is None or outcome.again
            if lost:
                self._stop(slot)
            if lost and tries < _RETRIES:
                self._start(slot, job, tries + 1)
            elif outcome is not None:
                outcomes.append(outcome)
            else:
                text = f"the worker process died {tries + 1} times in this stage ({error})"
                outcomes.append(JobOutcome(job.key, "failed", 0.0, 0.0, worker_name(), text))
        return outcomes

    def close(self) -> None:
        """Kill the workers; the store forgets what they had begun."""
        for slot in range(self.capacity):
            self._stop(slot)

    def _start(self, slot: int, job: Job, tries: int) -> None:
        pool = self._pools[slot]
        if pool is None:
            pool = self._pools[slot] = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), _prepare, (self.threads,)
            )
        future = pool.submit(work, replace(job, device=self.devices[slot]))
        self._busy[future] = (slot, job, tries)

    def _stop(self, slot: int) -> None:
        pool, self._pools[slot] = self._pools[slot], None
        if pool is not None:
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)


def _prepare(threads: int) -> None:
    """Set up a worker process, which ends with its parent; Ctrl-C is for that one alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)


def _end_with_parent() -> None:
    """End this process when the one that started it does, however that ended.

    The pool's own queue would not tell: a worker holds both ends of it. What is half computed is
    the store's to forget, as after any kill.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def local_devices(device: str, workers: int | None) -> list[str]:
    """Devices of the local workers: every GPU once, or the CPU as often as asked for.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        workers: how many; None: one a GPU, and one on a CPU.
    """
    gpus = torch.cuda.device_count()
    if (device == "auto" and gpus) or device == "cuda":
        return [f"cuda:{index % max(1, gpus)}" for index in range(workers or max(1, gpus))]
    return ["cpu" if device == "auto" else device] * (workers or 1)


def threads_each(workers: int) -> int:
    """Torch threads for each of so many workers."""
    return max(1, (os.cpu_count() or 1) // workers)
