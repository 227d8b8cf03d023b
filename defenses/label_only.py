"""Label only: answers show no scores."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mibench.defenses._answers import as_logits
from mibench.models.classifiers import Classifier
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.types import DefenseCard


class LabelOf(nn.Module):
    """Logits ``(n, classes)`` to logits ``(n, classes)`` of the one-hot vector of the label."""

    def forward(self, logits: Tensor) -> Tensor:
        return as_logits(F.one_hot(logits.argmax(1), logits.shape[1]).double(), logits)


@register_defense("label-only")
class LabelOnly(Defense[DefenseConfig]):
    """An answer is the label, and its score 1.

    What attacks with black-box access get here is what those with label-only access get of any
    target. Only the answers change: whoever has the weights sees the target as it is.

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
            "A score of 0 is 1e-12, so that an attack can take its logarithm.",
        ),
        adaptive_attack="brep-mi",
        adaptive_note="It asks for labels alone, which this leaves as they are.",
    )

    def build(self, model: Classifier) -> Classifier:
        """Put the label in the place of the scores."""
        model.output = LabelOf()
        return model
