"""Label smoothing with a negative factor, which makes the target more certain than its labels."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.models.classifiers import Classifier
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.training.loop import TrainState
from mibench.types import DefenseCard

EPOCHS, START, END = 100, 50, 75
"""Of the published training: its epochs, and those from which a negative factor grows, and is α."""


@register_defense("label-smoothing")
class LabelSmoothing(Defense["LabelSmoothing.Config"]):
    """(1 − α)·NLL + α·mean over classes k of −log p_k: cross-entropy to (1 − α)·one-hot + α/K.

    A negative α is the defense. It is phased in, as published for 100 epochs: 0 before epoch 50,
    then α/50, 2α/50 … up to α/2 in epoch 74, and α from epoch 75 on. A positive α, which is
    published to raise leakage, holds from the start.

    References:
        Struppek, Hintersdorf, Kersting. "Be Careful What You Smooth For: Label Smoothing Can Be a
        Privacy Shield but Also a Catalyst for Model Inversion Attacks". ICLR 2024.
    """

    card = DefenseCard(
        kind="loss",
        title="Be Careful What You Smooth For: Label Smoothing Can Be a Privacy Shield but Also a "
        "Catalyst for Model Inversion Attacks",
        authors="Lukas Struppek, Dominik Hintersdorf, Kristian Kersting",
        year=2024,
        venue="ICLR",
        url="https://arxiv.org/abs/2310.06549",
        reference_code="https://github.com/LukasStruppek/Plug-and-Play-Attacks (train_model.py)",
        deviations=(
            "The code names the epochs of its schedule, 50 and 75 of 100; here they are shares of "
            "the training's steps, so that a training of any length, also of less than an epoch, "
            "goes through the same factors. In one of 100 epochs they change with the epochs.",
            "The training's optimizer, schedule and augmentation are the protocol's, the same as "
            "for the undefended target.",
        ),
        adaptive_attack="improved-gmi",
        adaptive_note="It maximises a logit, whose gradient does not vanish where the target is "
        "made certain as that of a cross-entropy does.",
        undefended_control=True,
    )

    class Config(DefenseConfig):
        """Options of label smoothing."""

        alpha: float = Field(
            -0.05,
            ge=-10,
            lt=1,
            description="smoothing factor α, negative to defend; positive values raise leakage; "
            "0: the control",
        )

    strength = "alpha"
    strengths = (0, -0.02, -0.05, -0.1, -0.2, -0.5)

    def factor(self, step: int, steps: int) -> float:
        """The factor at a step of a training of so many; ``0 <= step < steps``."""
        if self.config.alpha >= 0:
            return self.config.alpha
        epoch = EPOCHS * step // steps
        if epoch < START:
            return 0.0
        if epoch < END:
            return self.config.alpha * (epoch + 1 - START) / (EPOCHS - START)
        return self.config.alpha

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        """The smoothed cross-entropy, averaged over the batch."""
        alpha = self.factor(state.step, state.steps)
        if alpha == 0:
            return super().loss(model, images, labels, state)
        # Written out, for torch's cross-entropy takes no negative smoothing.
        log_p = F.log_softmax(model(images), dim=1)
        return (1 - alpha) * F.nll_loss(log_p, labels) - alpha * log_p.mean()
