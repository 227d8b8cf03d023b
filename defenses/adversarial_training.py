"""Adversarial training: the loss at the worst image within reach, AT-AT's opposite."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.defenses._pgd import ascended, statistics_kept
from mibench.models.classifiers import Classifier
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.training.loop import TrainState
from mibench.types import DefenseCard


@register_defense("adversarial-training")
class AdversarialTraining(Defense["AdversarialTraining.Config"]):
    """Cross-entropy at x + δ alone, where δ makes it as large as PGD can.

    A robust network's features are those of the person. AT-AT's paper finds that leakage follows
    robustness: if so, this target leaks more than an undefended one, not less.

    References:
        Madry, Makelov, Schmidt, Tsipras, Vladu. "Towards Deep Learning Models Resistant to
        Adversarial Attacks". ICLR 2018.
    """

    card = DefenseCard(
        kind="loss",
        title="Towards Deep Learning Models Resistant to Adversarial Attacks",
        authors="Aleksander Madry, Aleksandar Makelov, Ludwig Schmidt, Dimitris Tsipras, "
        "Adrian Vladu",
        year=2018,
        venue="ICLR",
        url="https://arxiv.org/abs/1706.06083",
        reference_code="https://github.com/BreuerLabs/Anti-Adversarial-Training "
        "(defenses/adversarial_train.py)",
        deviations=(
            "It is no defense against model inversion but the control of `at-at`: if leakage "
            "follows robustness, it leaks more than the undefended target.",
            "Radius, step and number of steps are those of AT-AT's code, whose images are in "
            "[-1, 1]; here they are in [0, 1], so that the radius is half the number there.",
            "The step is a share of the radius, so that stronger perturbations are searched as "
            "thoroughly as weak ones.",
            "The network is in training mode while PGD runs, as in that code, so that BatchNorm "
            "normalises by the batch; but PGD's passes leave its running statistics alone, which "
            "are those of the perturbed batches that it is trained on.",
        ),
        adaptive_attack="improved-gmi",
        adaptive_note="None is needed: gradients of a robust network point to what people see.",
        undefended_control=True,
    )

    class Config(DefenseConfig):
        """Options of adversarial training."""

        epsilon: float = Field(
            0.005,
            ge=0,
            le=1,
            description="largest change of a pixel, of images in [0, 1]; 0: the control, which "
            "trains on the images as they are",
        )
        step: float = Field(0.1, gt=0, le=1e6, description="PGD's step, as a share of epsilon")
        iterations: int = Field(10, ge=1, le=10_000, description="PGD's steps")

    strength = "epsilon"
    strengths = (0, 0.0025, 0.005, 0.01, 0.03)

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        """Cross-entropy of the perturbed batch."""
        config = self.config
        if config.epsilon == 0:
            return super().loss(model, images, labels, state)

        def badness(changed: Tensor) -> Tensor:
            return F.cross_entropy(model(changed), labels, reduction="sum")

        step = config.step * config.epsilon
        with statistics_kept(model):
            images = ascended(badness, images, config.epsilon, step, config.iterations, state.rng)
        return super().loss(model, images, labels, state)
