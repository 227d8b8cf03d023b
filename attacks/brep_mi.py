"""BREP-MI: walk from the decision boundary towards where a whole sphere has the label."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.inversion.allowance import Allowance, check_pool
from mibench.inversion.attack import Attack, AttackConfig, Problem, register_attack
from mibench.inversion.selection import Pool, scored_pool
from mibench.priors import PriorKind
from mibench.streams import RowStreams
from mibench.types import BUDGETED, AttackCard

FAR = 1e3  # a radius at which no latent lies: of a label that all latents have, no sphere ends


@register_attack("brep-mi")
class BrepMi(Attack["BrepMi.Config"]):
    """Estimate from labels alone on which side of a sphere the identity ends, and step away.

    The larger a sphere around a latent is on which the target says one label, the further that
    latent is from the boundary, and the more typical its image.

    References:
        Kahla et al., "Label-Only Model Inversion Attacks via Boundary Repulsion", CVPR 2022.
    """

    card = AttackCard(
        title="Label-Only Model Inversion Attacks via Boundary Repulsion",
        authors="Kahla, Chen, Just, Jia",
        year=2022,
        venue="CVPR",
        url="https://arxiv.org/abs/2203.01925",
        reference_code=(
            "https://github.com/m-kahla/Label-Only-Model-Inversion-Attacks-via-Boundary-Repulsion"
        ),
        deviations=(
            "Every attacked identity is attacked. The released settings attack those that random "
            "samples happen to hit first, which are the easy ones.",
            "Queries are bounded (`queries`). In the released code a step that would leave the "
            "class does not count, so their number has no bound; here it counts as a step, too.",
            "The sphere grows where all of its points are inside, as in the paper. The released "
            "code lets 29 of 32 do (`inside`), and divides the next step's old directions by the "
            "new radius; here each step draws new ones.",
            "Each reconstruction is a run from a start of its own. With `pool`, latents are "
            "labelled once for all identities, and runs start at those of their label.",
            "A run whose queries end before it has a start answers with its first latent; one that "
            "completes no radius, with the last point that had the label.",
        ),
    )
    access = "label-only"
    optimises_identity = False

    class Config(AttackConfig):
        """Options of BREP-MI; the defaults are the published ones, but for a bound on queries."""

        queries: int = Field(
            100_000,
            ge=1,
            le=10**12,
            description="images that the target is asked about for an identity, at most, all its "
            "reconstructions together; those of a pool that are asked about once for all "
            "identities are not among them",
            json_schema_extra=BUDGETED,
        )
        pool: int | None = Field(
            None,
            ge=1,
            le=10_000_000,
            description="latents that the target labels once, where runs of all identities start; "
            "runs that find no start there, and all runs with null, draw their own",
            json_schema_extra=BUDGETED,
        )
        draws: int = Field(
            256, ge=1, le=65_536, description="latents of one question in search of a start"
        )
        directions: int = Field(
            32, ge=1, le=65_536, description="points N on the sphere, in each step"
        )
        radius: float = Field(2.0, gt=0, le=1e3, description="radius R of the first sphere")
        growth: float = Field(1.3, gt=1, le=1e3, description="factor of a radius that is completed")
        inside: float = Field(
            1.0,
            gt=0,
            le=1,
            description="share of the points that must have the label for the sphere to grow "
            "(released code: 29 of 32)",
        )
        patience: int = Field(
            1000, ge=1, le=10**9, description="steps at one radius, after which a run ends"
        )
        clip: float = Field(1.5, gt=0, le=1e30, description="latents are clamped to ± this")

    @classmethod
    def check_prior(cls, config: Config, kind: type[PriorKind[Any]]) -> None:
        """A pool of a prior that makes images of identities is within an identity's queries."""
        check_pool(config, config.pool, config.queries, kind)

    def pool(self, problem: Problem) -> Pool | None:
        """Latents with their labels, the same for all identities."""
        if self.config.pool is None:
            return None
        return scored_pool(
            problem.target,
            problem.prior,
            problem.labels,
            self.config.pool,
            seed=problem.seed,
            mirror=False,
            box=self._clamp,
            device=problem.device,
            progress=problem.progress,
        )

    @torch.no_grad()
    def invert(self, problem: Problem) -> Tensor:
        """A run for each reconstruction, all of a chunk at once; those that have ended wait.

        While the sphere of radius R around z is not all inside the class, z moves by
        min(R/3, 3)·g with g = −mean_j [outside_j·δ_j]/R (paper, section 4); when it is, z is the
        answer so far, and R grows.
        """
        config, n, N = self.config, problem.samples, self.config.directions
        allowance, directions = Allowance(problem, config.queries, n), problem.streams("sphere", n)
        left = allowance.left

        def labelled(images: Tensor, labels: Tensor, streams: RowStreams) -> Tensor:
            return problem.target.predict(images, streams) == labels

        def inside(runs: Tensor, latents: Tensor) -> Tensor:
            """Whether latents ``(runs, points, d)`` have the label, of those that may be asked."""
            return allowance.ask(runs, latents, labelled, otherwise=0) > 0

        z, started = self._starts(problem, left, inside)
        least = math.ceil(config.inside * N - 1e-9)  # whatever a product's last digit is
        R = torch.full((len(left),), config.radius, device=problem.device)
        steps = torch.zeros_like(left)
        answer, completed = z.clone(), torch.zeros_like(started)
        active = started.nonzero().squeeze(1)
        for _ in problem.progress.steps(int(left.max()) // N, "brep-mi"):
            going = (left[active] >= N) & (steps[active] < config.patience) & (R[active] < FAR)
            active = active[going]
            if not len(active):
                break
            u = F.normalize(directions.of(active).normal(N, problem.prior.size), dim=2)
            within = inside(active, z[active, None] + R[active, None, None] * u)
            grows = within.sum(1) >= least
            runs = active[grows]
            answer[runs], completed[runs] = z[runs], True
            R[runs], steps[runs] = config.growth * R[runs], 0
            runs = active[~grows]
            g = -(u * ~within[..., None]).mean(1)[~grows]
            moved = self._clamp(z[runs] + (R[runs] / 3).clamp_max(3)[:, None] * g)
            kept = inside(runs, moved[:, None]).squeeze(1)
            z[runs[kept]] = moved[kept]
            steps[runs] += 1
            problem.progress.report(radius=R.mean())
        answer = torch.where(completed[:, None], answer, z)
        found: Tensor = problem.prior.images(answer, allowance.labels).unflatten(
            0, (len(problem.labels), n)
        )
        return found

    def _clamp(self, latents: Tensor) -> Tensor:
        return latents.clamp(-self.config.clip, self.config.clip)

    def _starts(
        self, problem: Problem, left: Tensor, inside: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """A latent of its label for each run: of the pool's, each to one run, or drawn until found.

        Returns:
            Latents ``(runs, d)``, and which of the runs found theirs ``(runs,)``.
        """
        n, draws = problem.samples, self.config.draws
        z = torch.zeros(len(left), problem.prior.size, device=problem.device)
        found = torch.zeros(len(left), dtype=torch.bool, device=problem.device)
        if problem.pool is not None:
            for index, label in enumerate(problem.labels.tolist()):
                own = problem.pool.latents[problem.pool.scores[:, label] > 0][:n]
                z[index * n : index * n + len(own)] = own
                found[index * n : index * n + len(own)] = True
        searching, streams = (~found).nonzero().squeeze(1), problem.streams("start", n)
        most = int(left[searching].max()) if len(searching) else 0
        for step in problem.progress.steps(max(1, -(-most // draws)), "search of starts"):
            if not len(searching):
                break
            drawn = self._clamp(problem.prior.latents(streams.of(searching), draws))
            if step == 0:  # what a run answers with that finds none
                z[searching] = drawn[:, 0]
            hits = inside(searching, drawn)
            ends = hits.any(1)
            runs = searching[ends]
            z[runs], found[runs] = drawn[ends, hits[ends].int().argmax(1)], True
            searching = searching[~ends & (left[searching] > 0)]
        return z, found
