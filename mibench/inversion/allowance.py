"""How many images an attack may ask the target about for an identity, to the last one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mibench.errors import RequestError
from mibench.inversion.attack import AttackConfig, Problem
from mibench.inversion.selection import ROWS
from mibench.models.access import asked_for
from mibench.priors import PriorKind
from mibench.streams import RowStreams

# What is wanted of the target's answer, ``(n, …)``, for images, their identities and streams.
Answer = Callable[[Tensor, Tensor, RowStreams], Tensor]


def check_pool(
    config: AttackConfig, pool: int | None, queries: int, kind: type[PriorKind[Any]]
) -> None:
    """Refuse, before any work, a pool that takes more than the queries of an identity.

    Only the pool of a prior that makes images of identities is among these.

    Args:
        config: says how often each image is asked about.
        pool: its latents; None: there is none.
        queries: images that may be asked about for an identity.

    Raises:
        RequestError: says what to set.
    """
    times = config.repeats.times if config.repeat else 1
    if kind.of_identities and pool is not None and pool * times > queries:
        raise RequestError(
            f"attack.pool: {pool:,} latents are more than the {queries // times:,} images that may "
            f"be asked about for an identity (attack.queries={queries}), and {kind.title} makes "
            "images of identities, so that the pool's are each identity's own: set attack.pool "
            "lower or to null, attack.queries higher, or choose another prior"
        )


class Allowance:
    """The queries of each of an attack's runs: dealt out at the start, so that none waits for any.

    Args:
        problem: what is attacked; its labels are those of a chunk.
        queries: images that may be asked about for an identity, all its runs together, and those
            of the pool that were asked about for it alone.
        runs: runs of an identity, which share them evenly; the first ones get what is left over.

    Attributes:
        labels: identity of each run, identity by identity ``(identities * runs,)``.
        left: images that each run may still ask about, as long. Where each is asked about several
            times, a query each, these are so many fewer.
    """

    def __init__(self, problem: Problem, queries: int, runs: int) -> None:
        self.problem = problem
        self.labels = problem.labels.repeat_interleave(runs)
        place = torch.arange(runs, device=problem.device).repeat(len(problem.labels))
        own = 0 if problem.pool is None else problem.pool.own
        queries = max(0, queries // problem.target.times - own)
        self.left = (queries + runs - 1 - place).div(runs, rounding_mode="floor")
        self._noise = problem.streams("noise", runs)

    @torch.no_grad()
    def ask(self, runs: Tensor, latents: Tensor, answer: Answer, otherwise: float) -> Tensor:
        """Ask about the images of latents, the first ones of each run, as many as it may.

        Args:
            runs: which of the runs ask ``(n,)``, each once.
            latents: as many of each ``(n, points, d)``.
            answer: asks the target.
            otherwise: value of what is not asked about.

        Returns:
            What was answered ``(n, points, …)``.
        """
        asked = torch.arange(latents.shape[1], device=latents.device) < self.left[runs, None]
        self.left[runs] -= asked.sum(1)
        row, _ = asked.nonzero(as_tuple=True)
        of, z, found = runs[row], latents[asked], []
        for part in torch.arange(len(row), device=row.device).split(ROWS) if len(row) else ():
            labels = self.labels[of[part]]
            images = self.problem.prior.images(z[part], labels)
            with asked_for(labels):
                found.append(answer(images, labels, self._noise.of(of[part])).float())
        values = torch.cat(found) if found else torch.empty(0, device=latents.device)
        result = values.new_full((*asked.shape, *values.shape[1:]), otherwise)
        result[asked] = values
        return result
