"""Top-k: answers show the largest scores alone."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from mibench.defenses._answers import as_logits, scores_of, with_label
from mibench.errors import RequestError
from mibench.models.classifiers import Classifier
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.training.loop import Job
from mibench.types import DefenseCard


class Largest(nn.Module):
    """The ``k`` largest scores, in their proportions; 0 leaves all.

    Shapes:
        Logits ``(n, classes)`` to logits ``(n, classes)`` of scores that sum to 1 again.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, logits: Tensor) -> Tensor:
        if self.k == 0:
            return logits
        scores, labels = scores_of(logits), logits.argmax(1)
        # Of equal scores, which no topk orders, the label's comes first.
        kept = logits.scatter(1, labels[:, None], torch.inf).topk(self.k, dim=1).indices
        shown = torch.zeros_like(scores).scatter(1, kept, scores.gather(1, kept))
        return with_label(as_logits(shown, logits), labels)


@register_defense("top-k")
class TopK(Defense["TopK.Config"]):
    """An answer shows its k largest scores; the label stays what it is.

    Of an identity that is not among them an attack learns nothing, and so has no slope to climb.
    Only the answers change: whoever has the weights sees the target as it is.

    References:
        Shokri, Stronati, Song, Shmatikov. "Membership Inference Attacks Against Machine Learning
        Models". S&P 2017, as a mitigation.
    """

    card = DefenseCard(
        kind="output",
        title="Membership Inference Attacks Against Machine Learning Models",
        authors="Reza Shokri, Marco Stronati, Congzheng Song, Vitaly Shmatikov",
        year=2017,
        venue="S&P",
        url="https://arxiv.org/abs/1610.05820",
        deviations=(
            "Made against membership inference; here it stands for what many interfaces do.",
            "The scores that are left are divided by their sum, so that attacks are given a "
            "distribution as every other target gives them; a score of 0 is 1e-12, so that an "
            "attack can take its logarithm.",
        ),
        adaptive_attack="brep-mi",
        adaptive_note="It asks for labels alone, which this leaves as they are.",
    )

    class Config(DefenseConfig):
        """Options of top-k."""

        k: int = Field(
            3,
            ge=0,
            le=1_000_000,
            description="scores that an answer shows, 1: what `label-only` shows; 0: the control, "
            "which shows all",
        )

    strength = "k"
    strengths = (0, 10, 5, 3, 2)

    def check(self, job: Job) -> None:
        """Refuse a k that leaves nothing to hide.

        Raises:
            RequestError: the target has no more scores than are shown.
        """
        classes = job.model.classes
        if self.config.k >= classes:
            raise RequestError(
                f"top-k with {self.config.k} scores shows all {classes} of this target: choose "
                f"fewer (defense.k=1 to {classes - 1}), or none as the defense"
            )

    def build(self, model: Classifier) -> Classifier:
        """Put the choice of scores behind the last layer."""
        model.output = Largest(self.config.k)
        return model
