"""Executor on a Ray cluster: the same jobs as Ray tasks; the store is a folder that all nodes see.

Source: Ray Core's documentation on tasks, resources and fault tolerance; Ray runs a task again when
its worker or node is lost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from mibench.errors import RequestError
from mibench.grid.schedule import Executor
from mibench.grid.work import Job, JobOutcome, work, worker_name

_RETRIES = 5  # of a job whose worker or node was lost


@dataclass(frozen=True)
class Resources:
    """What a stage asks of its node.

    Attributes:
        cpus: CPU cores, also its torch threads. gpus: GPUs; a fraction lets stages share one.
    """

    cpus: float = 1
    gpus: float = 0


def parse_resources(
    cpus: tuple[str, ...], gpus: tuple[str, ...], default_gpus: float
) -> dict[str, Resources]:
    """Resources by stage, ``""`` for all others, from ``["2", "target=4"]``.

    Raises:
        RequestError: not a number, or below zero.
    """
    read = {"cpus": _amounts("--num-cpus", cpus), "gpus": _amounts("--num-gpus", gpus)}
    base = Resources(read["cpus"].pop("", 1), read["gpus"].pop("", default_gpus))
    found = {"": base}
    for stage in {*read["cpus"], *read["gpus"]}:
        found[stage] = Resources(
            read["cpus"].get(stage, base.cpus), read["gpus"].get(stage, base.gpus)
        )
    return found


def _amounts(option: str, texts: tuple[str, ...]) -> dict[str, float]:
    amounts = {}
    for text in texts:
        stage, _, amount = text.rpartition("=")
        try:
            amounts[stage] = float(amount)
        except ValueError as error:
            raise RequestError(
                f"{option} {text!r}: write a number, or STAGE=NUMBER as target=0.5"
            ) from error
        if not 0 <= amounts[stage] <= 1e6:  # which NaN is not, either
            raise RequestError(f"{option} {text!r}: a number from 0 to a million")
    return amounts


def require_address(address: str | None) -> None:
    """Refuse to run on Ray without a cluster's address.

    None is started here: Ray's servers listen on every interface (``gcs_server``, ``raylet``, the
    agents and each worker, also with a node address of 127.0.0.1; seen with Ray 2.60), and run
    what anybody sends them unless they were started with ``RAY_AUTH_MODE=token``. None is looked
    for either: without an address, Ray would join whatever ran last on this machine.

    Raises:
        RequestError: there is none.
    """
    if not address:
        raise RequestError(
            "--executor ray needs --address: mibench neither starts a Ray, whose ports would "
            "be open to the network without a password, nor joins one unasked. On one machine "
            "--executor local --workers N does the same. For a cluster of your own: "
            "`RAY_AUTH_MODE=token ray start --head`, then --address auto with the same "
            "RAY_AUTH_MODE (Ray 2.52 or later; `ray get-auth-token --generate` makes the token)"
        )


class RayCluster(Executor):
    """Runs jobs on an existing Ray cluster, which is always named (:func:`require_address`).

    Args:
        address: of a cluster, as ``"auto"`` or ``"10.0.0.1:6379"``.
        resources: by stage; ``""`` for all others.

    Raises:
        RequestError: there is no address, Ray is not installed, or no cluster answers there.
    """

    def __init__(self, address: str | None, resources: Mapping[str, Resources]) -> None:
        require_address(address)
        self._ray = _import_ray()
        self.resources = resources
        self._own = not self._ray.is_initialized()
        if self._own:
            try:
                self._ray.init(address=address, log_to_driver=False, logging_level="error")
            except ConnectionError as error:
                raise RequestError(
                    f"no Ray cluster answers at {address!r} ({error}): start one with "
                    "`ray start --head`, or use --executor local"
                ) from error
        self._task = self._ray.remote(_work)
        self._jobs: dict[Any, Job] = {}

    @property
    def capacity(self) -> int:
        """A few more than the cluster can run at once, so that no node waits for this process."""
        total = self._ray.cluster_resources().get("CPU", 1)
        return max(1, int(1.5 * total / max(0.1, self._of("").cpus)))

    def submit(self, job: Job) -> None:
        """Hand the job to Ray."""
        wanted = self._of(job.kind)
        task = self._task.options(
            num_cpus=wanted.cpus,
            num_gpus=wanted.gpus,
            max_retries=_RETRIES,
            name=f"{job.folder.name}: {job.name}",
        )
        # Ray shows a task its GPUs only, so the first one that it sees is its own.
        device = "cuda" if wanted.gpus else "cpu"
        self._jobs[task.remote(job, max(1, int(wanted.cpus)), device)] = job

    def wait(self, seconds: float) -> list[JobOutcome]:
        """Jobs that ended; one whose worker was lost too often has failed."""
        ready, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=seconds)
        outcomes = []
        for reference in ready:
            job = self._jobs.pop(reference)
            try:
                outcomes.append(self._ray.get(reference))
            except self._ray.exceptions.RayError as error:
                text = f"Ray gave up on this stage: {error}"
                outcomes.append(JobOutcome(job.key, "failed", 0.0, 0.0, worker_name(), text))
        return outcomes

    def close(self) -> None:
        """Cancel what is under way, and leave the cluster."""
        for reference in self._jobs:
            self._ray.cancel(reference, force=True)
        if self._own:
            self._ray.shutdown()

    def _of(self, stage: str) -> Resources:
        return self.resources.get(stage, self.resources[""])


def _work(job: Job, threads: int, device: str) -> JobOutcome:
    """Run on a node. Threads are set here, for they affect the last digits of results on CPUs."""
    torch.set_num_threads(threads)
    os.chdir(job.cwd)
    return work(replace(job, device=device))


def _import_ray() -> Any:
    # Ray would report usage to its makers, and wrap tracebacks in colours.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    try:
        import ray
    except ImportError as error:
        raise RequestError("the executor `ray` needs Ray: pip install 'mibench[ray]'") from error
    return ray
