"""What look-up attacks share: they answer with public images, and make none."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from mibench.data.images import ImageSet, to_float
from mibench.errors import MibenchError
from mibench.inversion.attack import AttackConfig, Problem
from mibench.models.access import TargetAccess
from mibench.streams import seeded, stream

BATCH = 512  # public images in one question; no answer depends on it


class LookupConfig(AttackConfig):
    """Options of every look-up."""

    images: int | None = Field(
        None, ge=1, le=10**9, description="ask about the first so many public images; None: all"
    )


class Search:
    """A search of the public images, which asks the target once for all identities.

    Args:
        images: how many of them, the first ones; None: all.
    """

    def __init__(self, images: int | None) -> None:
        self.images = images
        self._held: tuple[TargetAccess, ImageSet, int, Tensor] | None = None

    def __call__(self, problem: Problem, ask: Callable[[Tensor, int], Tensor]) -> Tensor:
        """For each identity the images with the highest answers, best first.

        Args:
            problem: whose labels are searched for.
            ask: how much the target takes images ``(n, 3, h, w)`` in [0, 1] for each identity,
                ``(n, classes)``, more is surer; it is told which batch they are, for streams.

        Returns:
            ``(labels, samples, 3, h, w)`` in [0, 1].

        Raises:
            MibenchError: fewer images than reconstructions are wanted.
        """
        held, public = self._held, problem.public
        if (
            held is None
            or (held[0], held[2]) != (problem.target, problem.seed)
            or held[1] is not public
        ):
            self._held = held = (problem.target, public, problem.seed, self._answers(problem, ask))
        best = held[3][:, problem.labels].topk(problem.samples, dim=0).indices.T
        return to_float(problem.public.images[best])

    def _answers(self, problem: Problem, ask: Callable[[Tensor, int], Tensor]) -> Tensor:
        public = problem.public.images[: self.images]
        if len(public) < problem.samples:
            raise MibenchError(
                f"look-up answers with {problem.samples} of {len(public)} public images: more of "
                "them are needed (attack.images, protocol.samples)"
            )
        batches, found = public.split(BATCH), []
        for index in problem.progress.steps(len(batches), "look-up"):
            with seeded(stream(problem.seed, "look-up", index)):  # noise of the target's own
                found.append(ask(to_float(batches[index]), index))
        return torch.cat(found)
