"""Look-up: answer with the public images that the target scores highest."""

from __future__ import annotations

from torch import Tensor

from mibench.attacks._lookup import LookupConfig, Search
from mibench.inversion.attack import Attack, Problem, register_attack
from mibench.types import AttackCard


@register_attack("lookup")
class LookupByScore(Attack[LookupConfig]):
    """The trivial attack: it makes no image, and a search of M public people offers log₂M bits.

    What an attack shows beyond it is what it has learned of a person. It needs no prior; the one
    that its cells name is read by the reference of random samples alone.
    """

    card = AttackCard(
        title="Look-up: the public images that the target scores highest",
        authors="mibench",
        year=2026,
        venue="this suite",
        url="https://arxiv.org/abs/2505.03519",
        deviations=(
            "No paper's attack: it is the baseline that closed-set accuracy cannot tell from a "
            "reconstruction (the linked paper measures how often it cannot).",
        ),
    )
    access = "black-box"
    optimises_identity = False
    searches = True
    Config = LookupConfig

    def __init__(self, config: LookupConfig) -> None:
        super().__init__(config)
        self.search = Search(config.images)

    def invert(self, problem: Problem) -> Tensor:
        """For each identity, the public images that the target scores highest for it."""
        target = problem.black_box()
        return self.search(problem, lambda images, batch: target.scores(images))
