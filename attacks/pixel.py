"""Gradient descent on pixels, without a prior: what the target alone gives away."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from mibench.inversion.attack import Attack, AttackConfig, Problem, register_attack
from mibench.models.access import asked_for
from mibench.types import BUDGETED, AttackCard

START = 0.01  # standard deviation of the noise on the black image that descent starts from


@register_attack("pixel")
class Pixel(Attack["Pixel.Config"]):
    """Descend the identity loss over pixels, where what fools the target is often nobody's face.

    References:
        Fredrikson, Jha, Ristenpart, "Model Inversion Attacks that Exploit Confidence Information
        and Basic Countermeasures", CCS 2015, algorithm 1 (MI-Face).
    """

    card = AttackCard(
        title="Model Inversion Attacks that Exploit Confidence Information and Basic "
        "Countermeasures",
        authors="Fredrikson, Jha, Ristenpart",
        year=2015,
        venue="CCS",
        url="https://doi.org/10.1145/2810103.2813677",
        deviations=(
            "The cost is −log p of the identity, not 1 − p, whose gradient dies where p is small, "
            "as at the start against a network of many identities; both fall together.",
            "It starts from black with faint noise, a reconstruction's own; from black alone, as "
            "published, all reconstructions of an identity would be the same.",
            "A row stops where the target's confidence reaches `confidence`, or its cost has not "
            "fallen for `patience` steps, and the lowest cost's image is kept. ART's code of this "
            "attack has the comparison with the threshold the other way round.",
            "Neither the auxiliary cost nor the denoising that the paper has for autoencoders.",
            "It has no prior; the one that its record names is of the references beside it.",
        ),
    )

    class Config(AttackConfig):
        """Options of the descent; λ, the patience and the threshold are ART's."""

        iterations: int = Field(
            10_000, ge=1, le=10**9, description="steps at most", json_schema_extra=BUDGETED
        )
        learning_rate: float = Field(0.1, gt=0, le=1e30, description="step size λ")
        patience: int = Field(
            100, ge=1, le=10**9, description="steps without a lower cost after which it stops"
        )
        confidence: float = Field(
            0.99, gt=0, le=1, description="confidence of the target at which it stops"
        )
        total_variation: float = Field(
            0, ge=0, le=1e30, description="weight of the mean square of neighbours' differences"
        )

    def invert(self, problem: Problem) -> Tensor:
        """x ← clip(x − λ·∇c(x)), a row at a time in all but name: none sees another."""
        config, n = self.config, problem.samples
        target, L_id = problem.white_box()
        y = problem.labels.repeat_interleave(n)
        shape = problem.public.images.shape[1:]
        x = (START * problem.streams("start", n).normal(*shape)).clamp(0, 1)
        noise, asked = problem.streams("noise", n), problem.streams("confidence", n)
        best, least = x.clone(), torch.full((len(y),), torch.inf, device=x.device)
        waited, active = torch.zeros_like(y), torch.arange(len(y), device=x.device)
        for _ in problem.progress.steps(config.iterations, "pixel"):
            # A row that has stopped asks the target no more, however long others go on.
            here, own = x[active].requires_grad_(True), y[active]
            cost = L_id(here, own, noise.of(active))
            if config.total_variation:
                cost = cost + config.total_variation * variation(here)
            (gradient,) = torch.autograd.grad(cost.sum(), here)
            with torch.no_grad():
                lower = cost < least[active]
                best[active] = torch.where(lower[:, None, None, None], here, best[active])
                least[active] = torch.where(lower, cost, least[active])
                waited[active] = torch.where(lower, 0, waited[active] + 1)
                with asked_for(own):
                    scores = target.scores(here, asked.of(active))
                sure = scores.gather(1, own[:, None]).squeeze(1)
                x[active] = (here - config.learning_rate * gradient).clamp(0, 1)
                active = active[(waited[active] < config.patience) & (sure < config.confidence)]
            problem.progress.report(loss=least.mean())
            if not len(active):
                break
        return best.view(len(problem.labels), n, *shape)


def variation(images: Tensor) -> Tensor:
    """Mean square of the differences of neighbours, ``(n, c, h, w)`` to ``(n,)``."""
    down, across = images.diff(dim=2), images.diff(dim=3)
    return down.square().mean((1, 2, 3)) + across.square().mean((1, 2, 3))
