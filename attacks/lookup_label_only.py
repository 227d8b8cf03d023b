"""Look-up from labels alone: answer with the public images whose label withstands most noise."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.attacks._lookup import LookupConfig, Search
from mibench.inversion.attack import Attack, Problem, register_attack
from mibench.streams import stream
from mibench.types import AttackCard


@register_attack("lookup-label-only")
class LookupByLabel(Attack["LookupByLabel.Config"]):
    """Noisy copies of a public image vote for identities, its own label first.

    The share of noisy copies that keep a label grows with the distance to the decision boundary,
    which is what labels tell of a score.
    """

    card = AttackCard(
        title="Look-up by labels: the public images whose label withstands most noise",
        authors="mibench",
        year=2026,
        venue="this suite",
        url="https://arxiv.org/abs/2203.01925",
        deviations=(
            "No paper's attack: look-up with BREP-MI's idea (the linked paper) that a label which "
            "holds in a whole neighbourhood is one far from the boundary.",
        ),
    )
    access = "label-only"
    optimises_identity = False
    searches = True

    class Config(LookupConfig):
        """Options of the label-only look-up."""

        copies: int = Field(8, ge=0, le=10**6, description="noisy copies of each public image")
        noise: float = Field(
            0.15,
            ge=0,
            le=1,
            description="standard deviation of the most noise, in units of the [0, 1] range; the "
            "copies have it in equal steps",
        )

    def __init__(self, config: LookupByLabel.Config) -> None:
        super().__init__(config)
        self.search = Search(config.images)

    def invert(self, problem: Problem) -> Tensor:
        """For each identity, the public images with most votes for it.

        Each query is a vote; that of the image itself counts as much as those of all its copies.
        """
        config, predict, classes = self.config, problem.target.predict, problem.target.classes

        def votes(images: Tensor, batch: int) -> Tensor:
            found = F.one_hot(predict(images), classes).float() * (config.copies or 1)
            for copy in range(config.copies):
                rng = stream(problem.seed, "look-up", batch, copy)
                noise = torch.randn(images.shape, generator=rng).to(images)
                noisy = images + config.noise * (copy + 1) / config.copies * noise
                found += F.one_hot(predict(noisy.clamp(0, 1)), classes)
            return found

        return self.search(problem, votes)
