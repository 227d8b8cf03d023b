"""What PLG-MI and LOKT share: a search of a conditional prior's latents, on augmented views."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from mibench.inversion.attack import AttackConfig, Problem
from mibench.inversion.identity import IdentityConfig, IdentityLoss
from mibench.priors.conditional_gan import augmented
from mibench.types import BUDGETED


class SearchConfig(AttackConfig):
    """Options of the search; the defaults are those of both papers' released code."""

    identity: IdentityConfig = Field(
        IdentityConfig(objective="max-margin"), description="the identity loss"
    )
    iterations: int = Field(
        600, ge=1, le=10**9, description="Adam's steps", json_schema_extra=BUDGETED
    )
    learning_rate: float = Field(0.1, gt=0, le=1e30, description="Adam's step")
    augmentations: int = Field(
        2, ge=1, le=1000, description="augmented views in a step, whose losses are summed"
    )


def descend(problem: Problem, identity_loss: IdentityLoss, config: SearchConfig) -> Tensor:
    """ẑ = argmin Σ L_id(view(G(z, y))) over random views, from z as they are drawn.

    Args:
        problem: whose prior makes the images, and whose labels are attacked.
        identity_loss: what is minimised, of the target or of surrogates of it.

    Returns:
        ``(labels, samples, 3, h, w)`` in [0, 1].
    """
    G, n, mirror = problem.prior.images, problem.samples, problem.public.mirror
    y = problem.labels.repeat_interleave(n)
    z = problem.starts(n).flatten(0, 1).requires_grad_(True)
    drawn, noise = problem.streams("views", n), problem.streams("noise", n)
    adam = torch.optim.Adam([z], config.learning_rate)
    for _ in problem.progress.steps(config.iterations, "latents"):
        x = G(z, y)
        loss = torch.zeros(len(y), device=problem.device)
        for _ in range(config.augmentations):
            loss = loss + identity_loss(augmented(x, drawn, 1, mirror), y, noise)
        adam.zero_grad(set_to_none=True)
        loss.sum().backward()  # each row is a latent of its own, which no other's loss reaches
        adam.step()
        problem.progress.report(loss=loss.detach().mean())
    with torch.no_grad():
        found: Tensor = G(z, y).unflatten(0, (len(problem.labels), n))
    return found
