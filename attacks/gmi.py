"""GMI: optimise one latent per reconstruction under a general GAN prior."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from mibench.inversion.attack import Attack, LatentConfig, Problem, register_attack
from mibench.types import BUDGETED, AttackCard


@register_attack("gmi")
class Gmi(Attack["Gmi.Config"]):
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
            "`prior.source=scratch` with the fields of `prior.gan` that `mibench "
            "info celeba-64` shows trains it.",
        ),
    )

    needs_realism = True

    class Config(LatentConfig):
        """Options of GMI; defaults are those of its copies in KEDMI's and the seed paper's code."""

        iterations: int = Field(
            2400, ge=1, le=10**9, description="gradient steps", json_schema_extra=BUDGETED
        )
        learning_rate: float = Field(
            0.02, gt=0, le=1e30, description="step size at the published batch"
        )
        reference_batch: float = Field(
            60, gt=0, le=1e30, description="batch over which the published loss was averaged"
        )
        momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum")
        identity_weight: float = Field(
            100, ge=0, le=1e30, description="weight λ of the identity loss"
        )
        prior_weight: float = Field(1, ge=0, le=1e30, description="weight of the critic's score")
        clip: float = Field(
            1, gt=0, le=1e30, description="latents are clamped to ± this after each step"
        )

    def invert(self, problem: Problem) -> Tensor:
        """One latent z a reconstruction, all of a chunk at once: ẑ = argmin L_prior(z) + λ·L_id(z).

        L_prior is −D(G(z)), L_id the identity loss of G(z): −log C(G(z)), or an improved one.
        """
        config, prior = self.config, problem.prior
        G, D = prior.images, prior.realism
        _, L_id = problem.white_box()
        y = problem.labels.repeat_interleave(problem.samples)
        z = problem.starts(problem.samples).flatten(0, 1)
        noise = problem.streams("noise", problem.samples)
        λ_id, λ_prior = config.identity_weight, config.prior_weight
        # Losses are summed, so that no row's step depends on how many others there are; published
        # ones are means over a batch, whose size is therefore in the step.
        m, lr = config.momentum, config.learning_rate / config.reference_batch
        v = torch.zeros_like(z)
        for _ in problem.progress.steps(config.iterations, "gmi"):
            x = G(z.requires_grad_(True), y)
            loss = λ_id * L_id(x, y, noise) - λ_prior * D(x)
            (gradient,) = torch.autograd.grad(loss.sum(), z)  # of z alone: no network gets any
            with torch.no_grad():
                v_old, v = v, m * v - lr * gradient
                z = (z - m * v_old + (1 + m) * v).clamp(-config.clip, config.clip)
            problem.progress.report(loss=loss.detach().mean())
        with torch.no_grad():
            found: Tensor = G(z, y).unflatten(0, (len(problem.labels), problem.samples))
        return found
