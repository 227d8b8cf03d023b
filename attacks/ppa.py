"""PPA (Plug & Play): the best of a pool, the Poincaré loss on random crops, the surest of many."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from mibench.data.views import Views
from mibench.inversion.attack import Attack, LatentConfig, Problem, register_attack
from mibench.inversion.identity import IdentityConfig
from mibench.inversion.selection import SelectionConfig
from mibench.types import BUDGETED, AttackCard

CROP = Views(scale=(0.9, 1.0))  # one a step (released code)


@register_attack("ppa")
class Ppa(Attack["Ppa.Config"]):
    """Optimise latents of any generator, chosen before and after by the target's own scores.

    References:
        Struppek et al., "Plug & Play Attacks: Towards Robust and Flexible Model Inversion Attacks",
        ICML 2022.
    """

    card = AttackCard(
        title="Plug & Play Attacks: Towards Robust and Flexible Model Inversion Attacks",
        authors="Struppek, Hintersdorf, De Almeida Correia, Adler, Kersting",
        year=2022,
        venue="ICML",
        url="https://arxiv.org/abs/2201.12179",
        reference_code="https://github.com/LukasStruppek/Plug-and-Play-Attacks",
        deviations=(
            "The generator is the protocol's GAN, whose latent z stands for StyleGAN2's w; there "
            "is no mapping network, and no truncation of it.",
            "The step size is one for a latent of standard deviation 1; the released one, .005, "
            "is for w, which varies less.",
            "20 candidates of each identity, of which the protocol's 5 reconstructions are kept: "
            "the share of the released 200 and 50. A protocol that wants 20 or more keeps all.",
            "Crops of the generator's image are enlarged to the target's size; the released code "
            "first cuts the middle 800 of StyleGAN's 1,024 pixels out and shrinks them.",
            "Logits of which all but one are 0 lie on the rim of the Poincaré ball, where the "
            "released loss is infinite; here they are kept 1e-6 from it.",
        ),
    )

    class Config(LatentConfig):
        """Options of PPA; the numbers of steps and of the pool are those of its CelebA run."""

        identity: IdentityConfig = Field(
            IdentityConfig(objective="poincare"), description="the identity loss"
        )
        selection: SelectionConfig = Field(
            SelectionConfig(pool=5000, candidates=20),
            description="selection before and after the attack",
        )
        iterations: int = Field(
            70, ge=1, le=10**9, description="Adam's steps", json_schema_extra=BUDGETED
        )
        learning_rate: float = Field(
            0.05, gt=0, le=1e30, description="Adam's step (released, for w: 0.005)"
        )
        beta: float = Field(0.1, ge=0, lt=1, description="both of Adam's decay rates β₁ and β₂")

    def invert(self, problem: Problem) -> Tensor:
        """ẑ = argmin L_id(crop(G(z))) from the pool's best latents, one random crop a step."""
        config, G = self.config, problem.prior.images
        _, L_id = problem.white_box()
        n = problem.samples
        y = problem.labels.repeat_interleave(n)
        z = problem.starts(n).flatten(0, 1).requires_grad_(True)
        crops, noise = problem.streams("crops", n), problem.streams("noise", n)
        adam = torch.optim.Adam([z], config.learning_rate, (config.beta, config.beta))
        for _ in problem.progress.steps(config.iterations, "ppa"):
            loss = L_id(CROP(G(z, y), crops), y, noise)
            adam.zero_grad(set_to_none=True)
            loss.sum().backward()  # each row is a latent of its own, which no other's loss reaches
            adam.step()
            problem.progress.report(loss=loss.detach().mean())
        with torch.no_grad():
            found: Tensor = G(z, y).unflatten(0, (len(problem.labels), n))
        return found
