"""Rounding: answers show few digits of the scores."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from mibench.defenses._answers import as_logits, scores_of, with_label
from mibench.models.classifiers import Classifier
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.types import DefenseCard


class Rounded(nn.Module):
    """Scores rounded to multiples of ``step``; the label keeps its place among equal ones.

    Where all scores round to 0, the label's is ``step``.

    Shapes:
        Logits ``(n, classes)`` to logits ``(n, classes)`` of scores that sum to 1 again.
    """

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def forward(self, logits: Tensor) -> Tensor:
        if self.step == 0:
            return logits
        labels = logits.argmax(1)
        steps = (scores_of(logits) / self.step).round()
        own = steps.gather(1, labels[:, None]).clamp_min(1)
        return with_label(as_logits(steps.scatter(1, labels[:, None], own), logits), labels)


@register_defense("rounding")
class Rounding(Defense["Rounding.Config"]):
    """Every score of an answer is rounded; the label stays what it is.

    Queries near each other get the same answer, so that what changes a score by less than a step
    is not seen. Only the answers change: whoever has the weights sees the target as it is.

    References:
        Fredrikson, Jha, Ristenpart. "Model Inversion Attacks that Exploit Confidence Information
        and Basic Countermeasures". CCS 2015.
    """

    card = DefenseCard(
        kind="output",
        title="Model Inversion Attacks that Exploit Confidence Information and Basic "
        "Countermeasures",
        authors="Matt Fredrikson, Somesh Jha, Thomas Ristenpart",
        year=2015,
        venue="CCS",
        url="https://doi.org/10.1145/2810103.2813677",
        deviations=(
            "Rounded scores are divided by their sum, so that attacks are given a distribution as "
            "every other target gives them; where all round to 0, the label's is one step.",
            "A score of 0 is 1e-12, so that an attack can take its logarithm.",
            "The label is answered beside the scores: among equal ones its score is 0.001 % ahead, "
            "so that rounding costs no accuracy.",
        ),
        adaptive_attack="brep-mi",
        adaptive_note="It asks for labels alone, which rounding leaves as they are.",
    )

    class Config(DefenseConfig):
        """Options of rounding."""

        step: float = Field(
            0.1,
            ge=0,
            le=1,
            description="scores are rounded to multiples of it, 0.1 to one digit; 0: the control, "
            "which rounds nothing",
        )

    strength = "step"
    strengths = (0, 0.001, 0.01, 0.1, 0.5)

    def build(self, model: Classifier) -> Classifier:
        """Put the rounding behind the last layer."""
        model.output = Rounded(self.config.step)
        return model
