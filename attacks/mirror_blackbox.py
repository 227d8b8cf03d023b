"""MIRROR's black-box form: a genetic search of latents by the target's scores."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from mibench.inversion.allowance import Allowance, check_pool
from mibench.inversion.attack import Attack, AttackConfig, Problem, register_attack
from mibench.inversion.selection import Pool, scored_pool
from mibench.priors import PriorKind
from mibench.streams import RowStreams, stream
from mibench.types import BUDGETED, AttackCard

BOX_DRAWS = 10_000  # latents whose mean and deviation the box is made of
NEVER = -1.0  # the score of what was not asked about, below all others
LEAST = torch.finfo(torch.float32).tiny  # of a score whose logarithm is taken


@register_attack("mirror-blackbox")
class MirrorBlackbox(Attack["MirrorBlackbox.Config"]):
    """Breed latents: parents are drawn by their scores, and the better one gives more to a child.

    References:
        An et al., "MIRROR: Model Inversion for Deep Learning Network with High Fidelity", NDSS
        2022.
    """

    card = AttackCard(
        title="MIRROR: Model Inversion for Deep Learning Network with High Fidelity",
        authors="An, Tao, Xu, Liu, Shen, Yao, Xu, Zhang",
        year=2022,
        venue="NDSS",
        url="https://www.ndss-symposium.org/ndss-paper/auto-draft-203/",
        reference_code="https://github.com/njuaplusplus/mirror",
        deviations=(
            "The generator is the protocol's GAN. It has no mapping network, so latents z stand "
            "for the P space, and the box is mean ± `box` standard deviations of what the prior "
            "draws.",
            "A child takes a coordinate from its first parent with probability p₁/(p₁ + p₂), of "
            "the target's scores. The released code divides their logarithms, which are negative, "
            "and so favours the worse parent.",
            "Each child's mutations are its own; in the released code one vector of noise is the "
            "whole population's.",
            "The pool is brought into the box before it is scored, and the first population with "
            "it. An individual is scored once, the elite not anew in each generation.",
            "Each reconstruction is a search of its own. Individuals of one population are soon "
            "copies of one another, so the pool's best are dealt out in turn: of five searches, "
            "the first has ranks 1, 6, 11 and so on.",
            "Queries of an identity are bounded (`queries`), all its searches together.",
        ),
    )
    access = "black-box"
    optimises_identity = False

    class Config(AttackConfig):
        """Options of the genetic search; defaults are those of the released scripts."""

        pool: int | None = Field(
            100_000,
            ge=1,
            le=10_000_000,
            description="latents that the target scores once, whose best of an identity are where "
            "its searches start; null: from latents as they are drawn",
            json_schema_extra=BUDGETED,
        )
        queries: int = Field(
            500_000,
            ge=1,
            le=10**12,
            description="images that the target is asked about for an identity, at most, all its "
            "reconstructions together; those of a pool that are asked about once for all "
            "identities are not among them",
            json_schema_extra=BUDGETED,
        )
        population: int = Field(
            1000, ge=2, le=100_000, description="individuals N of a search, at most at the start"
        )
        generations: int = Field(100, ge=0, le=10**9, description="generations at most")
        confidence: float = Field(
            0.95, gt=0, le=1, description="score of the identity at which a search stops"
        )
        mutation: float = Field(
            0.1, ge=0, le=1, description="probability with which a child's coordinate mutates"
        )
        mutation_size: float = Field(
            0.1,
            ge=0,
            le=1e30,
            description="largest mutation, in standard deviations σ of the prior's latents",
        )
        box: float = Field(
            1.0, gt=0, le=1e30, description="half width of the box around their mean, in σ, too"
        )

    @classmethod
    def check_prior(cls, config: Config, kind: type[PriorKind[Any]]) -> None:
        """A pool of a prior that makes images of identities is within an identity's queries."""
        check_pool(config, config.pool, config.queries, kind)

    def pool(self, problem: Problem) -> Pool | None:
        """Latents in the box with their scores, those of the image as it is."""
        if self.config.pool is None:
            return None
        low, high, _ = self._box(problem)
        return scored_pool(
            problem.black_box(),
            problem.prior,
            problem.labels,
            max(self.config.pool, problem.samples),
            seed=problem.seed,
            mirror=False,
            box=lambda latents: latents.clamp(low, high),
            device=problem.device,
            progress=problem.progress,
        )

    def rows_per_identity(self, samples: int) -> int:
        """The individuals of its searches."""
        return samples * self.config.population

    @torch.no_grad()
    def invert(self, problem: Problem) -> Tensor:
        """A search for each reconstruction; the answer is the individual with the highest p_y.

        Each generation keeps the best individual, the elite, and replaces the others by N − 1
        children of parents that were drawn with probability softmax(log p_y) (paper, section IV,
        and released code).
        """
        config, n = self.config, problem.samples
        low, high, σ = self._box(problem)
        breeding = problem.streams("breeding", n)
        allowance = Allowance(problem, config.queries, n)

        def p_y(images: Tensor, labels: Tensor, streams: RowStreams) -> Tensor:
            scores = problem.black_box().scores(images, streams)
            return scores.gather(1, labels[:, None]).squeeze(1)

        active = rows = torch.arange(len(allowance.left), device=problem.device)
        if problem.pool is None:
            drawn = problem.prior.latents(problem.streams("start", n), config.population)
            z = drawn.clamp(low, high)
            p = allowance.ask(rows, z, p_y, otherwise=NEVER)
        else:
            N = min(config.population, len(problem.pool.latents) // n)
            ranked = problem.pool.ranked(problem.labels, N * n)
            z, p = (each.unflatten(1, (N, n)).transpose(1, 2).flatten(0, 1) for each in ranked)
        elite, sure = z[rows, p.argmax(1)], p.amax(1)
        for _ in problem.progress.steps(config.generations, "mirror-blackbox"):
            going = (sure[active] < config.confidence) & (allowance.left[active] > 0)
            active, z, p = active[going], z[going], p[going]
            if not len(active):
                break
            bred = self.children(z, p, breeding.of(active), σ).clamp(low, high)
            z = torch.cat([elite[active, None], bred], 1)
            found = allowance.ask(active, bred, p_y, otherwise=NEVER)
            p = torch.cat([sure[active, None], found], 1)
            elite[active], sure[active] = z[rows[: len(active)], p.argmax(1)], p.amax(1)
            problem.progress.report(confidence=sure.mean())
        answers: Tensor = problem.prior.images(elite, allowance.labels).unflatten(
            0, (len(problem.labels), n)
        )
        return answers

    def children(self, z: Tensor, p: Tensor, streams: RowStreams, σ: Tensor) -> Tensor:
        """The N − 1 children of a generation ``(searches, N − 1, d)``.

        Args:
            z: latents of the parents ``(searches, individuals, d)``.
            p: their scores ``(searches, individuals)``.
            streams: a stream a search.
            σ: standard deviation of the prior's latents ``(d,)``.
        """
        number, d = self.config.population - 1, z.shape[2]
        F = p.clamp_min(LEAST).log()
        up_to = F.softmax(1).cumsum(1)
        drawn = streams.uniform(2 * number) * up_to[:, -1:]
        parents = torch.searchsorted(up_to, drawn, right=True).clamp_max(z.shape[1] - 1)
        first, second = parents.chunk(2, dim=1)
        # p₁/(p₁ + p₂), also where both are next to nothing.
        share = torch.sigmoid(F.gather(1, first) - F.gather(1, second))
        row = torch.arange(len(z), device=z.device)[:, None]
        of_first = streams.uniform(number, d) < share[..., None]
        child = torch.where(of_first, z[row, first], z[row, second])
        mutates, amount = streams.uniform(2, number, d).unbind(1)
        mutation = self.config.mutation_size * σ * (2 * amount - 1)
        return child + (mutates < self.config.mutation) * mutation

    def _box(self, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
        """Least and largest latent, and the deviation of the prior's latents, each ``(d,)``."""
        streams = RowStreams([stream(problem.seed, "box")], problem.device)
        drawn = problem.prior.latents(streams, BOX_DRAWS)[0]
        centre, σ = drawn.mean(0), drawn.std(0)
        return centre - self.config.box * σ, centre + self.config.box * σ, σ
