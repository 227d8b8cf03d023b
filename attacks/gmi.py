"""GMI: optimise one latent per reconstruction under a general GAN prior."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from mibench.inversion.attack import Attack, AttackConfig, Problem, register_attack
from mibench.types import BUDGETED, AttackCard


def nesterov(
    latents: Tensor, velocity: Tensor, gradient: Tensor, rate: float, momentum: float
) -> tuple[Tensor, Tensor]:
    """One step of GMI's Nesterov momentum: new latents and velocity.

    v ← m·v − lr·g; z ← z − m·v_old + (1 + m)·v.
    """
    moved = momentum * velocity - rate * gradient
    return latents - momentum * velocity + (1 + momentum) * moved, moved


@register_attack("gmi")
class Gmi(Attack):
    """Maximise the target's confidence and the critic's score over latents of a general GAN.

    References:
        Zhang et al., "The Secret Revealer: Generative Model-Inversion Attacks Against Deep Neural
        Networks", CVPR 2020.
    """

    card = AttackCard(
        title="The Secret Revealer: Generative Model-Inversion Attacks Against Deep Neural "
        "Networks",
        authors="Zhang, Jia, Pei, Wang, Li, Song",
        year=2020,
        venue="CVPR",
        url="https://arxiv.org/abs/1911.07135",
        reference_code="https://github.com/AI-secure/GMI-Attack",
        prior_recipe="general GAN",
        deviations=(
            "Released code averages the loss over the batch, so the step depends on how many "
            "identities share it; here each latent's loss is its own and the step is divided by "
            "60, the batch of KEDMI's and the seed paper's code (`reference_batch`; GMI's own "
            "file attacks 100 at once).",
            "2,400 iterations as in KEDMI's and the seed paper's code; GMI's paper and its own "
            "file say 1,500.",
            "GMI's own file keeps, of five restarts, the one that the target scores highest; here "
            "each restart is a reconstruction, as in KEDMI's and the seed paper's code.",
            "The prior is the protocol's general GAN. That of the papers' protocols (`celeba-64` "
            "and others) is the published WGAN-GP: GMI's networks, which see images in [0, 1] that "
            "are not mirrored, a constant step size, five steps of the critic for one of the "
            "generator, and the last weights instead of a moving average. Elsewhere "
            "`prior.source=scratch` with the fields of `prior.gan` that `mibench info celeba-64` "
            "shows trains it.",
        ),
    )

    class Config(AttackConfig):
        """Options of GMI; defaults are those of its copies in KEDMI's and the seed paper's code."""

        iterations: int = Field(
            2400,
            ge=1,
            le=10**9,
            description="steps of gradient descent",
            json_schema_extra=BUDGETED,
        )
        learning_rate: float = Field(
            0.02, gt=0, le=1e30, description="step size at the published batch"
        )
        reference_batch: float = Field(
            60, gt=0, le=1e30, description="batch over which the published loss was averaged"
        )
        momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum")
        identity_weight: float = Field(
            100, ge=0, le=1e30, description="weight of the identity loss"
        )
        prior_weight: float = Field(1, ge=0, le=1e30, description="weight of the critic's score")
        clip: float = Field(
            1, gt=0, le=1e30, description="latents are clamped to ± this after each step"
        )

    config: Config

    def invert(self, problem: Problem) -> Tensor:
        """One restart per reconstruction, all restarts of a chunk of identities in one batch."""
        return torch.cat(
            [
                self._chunk(problem, labels)
                for labels in problem.chunks(problem.samples, self.config.max_rows)
            ]
        )

    def _chunk(self, problem: Problem, labels: Tensor) -> Tensor:
        config, prior = self.config, problem.prior
        _, identity_loss = problem.white_box()
        rows = labels.repeat_interleave(problem.samples)
        latents = prior.latents(problem.streams(labels, "start", problem.samples))
        noise = problem.streams(labels, "noise", problem.samples)
        velocity = torch.zeros_like(latents)
        rate = config.learning_rate / config.reference_batch
        for _ in problem.progress.steps(config.iterations, "gmi"):
            latents.requires_grad_(True)
            images = prior.images(latents)
            identity = identity_loss(images, rows, noise)
            loss = config.identity_weight * identity - config.prior_weight * prior.realism(images)
            (gradient,) = torch.autograd.grad(loss.sum(), latents)
            with torch.no_grad():
                latents, velocity = nesterov(latents, velocity, gradient, rate, config.momentum)
                latents = latents.clamp(-config.clip, config.clip)
            problem.progress.report(loss=loss.detach().mean())
        with torch.no_grad():
            images = prior.images(latents)
        return images.unflatten(0, (len(labels), problem.samples))
