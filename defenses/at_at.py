"""AT-AT: anti-adversarial training, which teaches tiny targeted perturbations as the class."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.defenses._pgd import ascended, statistics_kept
from mibench.errors import RequestError
from mibench.models.classifiers import Classifier
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.training.loop import Job, TrainState
from mibench.types import DefenseCard


def other_labels(labels: Tensor, classes: int, rng: torch.Generator) -> Tensor:
    """For each label ``(n,)`` another one, uniform over the ``classes`` − 1 ≥ 1 others."""
    steps = torch.randint(1, classes, labels.shape, generator=rng).to(labels.device)
    return (labels + steps) % classes


@register_defense("at-at")
class AtAt(Defense["AtAt.Config"]):
    """Cross-entropy + λ·CE(x + δ, y′), where δ makes the network take x for another class y′.

    δ is found by targeted PGD. The network is rewarded for being fooled, so that what it knows of a
    class are features that no image of a person has to show: the opposite of adversarial training.

    References:
        Torp, Smith, Breuer. "Reducing information dependency does not cause training data privacy.
        Adversarially non-robust features do." ICLR 2026.
    """

    card = DefenseCard(
        kind="loss",
        title="Reducing information dependency does not cause training data privacy. "
        "Adversarially non-robust features do.",
        authors="Rasmus Torp, Shailen Smith, Adam Breuer",
        year=2026,
        venue="ICLR",
        url="https://openreview.net/forum?id=BnEG8pn3pK",
        reference_code="https://github.com/BreuerLabs/Anti-Adversarial-Training",
        deviations=(
            "Images are in [0, 1] here and in [-1, 1] there, so that radius and step are half the "
            "published numbers: the same perturbations.",
            "The network is in training mode while PGD runs, as in the code, so that BatchNorm "
            "normalises by the batch; but PGD's passes leave its running statistics alone, which "
            "the code updates in each of them. The statistics that the deployed network uses "
            "come from one pass over the clean batch and one over the perturbed one, instead of "
            "being mostly of half-finished perturbations.",
            "Another class is drawn uniformly; the code draws among all classes and takes the "
            "next one where it drew the label, which is then twice as likely as the others.",
            "The training's optimizer, schedule and augmentation are the protocol's, the same as "
            "for the undefended target; the code keeps the epoch that is best in validation, here "
            "the last one is kept.",
        ),
        adaptive_attack="ppa+ma",
        adaptive_note="Students learn from public images alone, and PPA's loss does not see how "
        "small the logits are. δ is far below one step of an 8-bit image, and yet averaging over "
        "views or noise (improved-gmi+taa, improved-gmi+paa) finds hardly more than without.",
        undefended_control=True,
    )

    class Config(DefenseConfig):
        """Options of AT-AT."""

        weight: float = Field(
            0.08,
            ge=0,
            le=1e30,
            description="weight λ of the loss on perturbed images; 0: the control",
        )
        epsilon: float = Field(
            2.5e-4,
            gt=0,
            le=1,
            description="largest change of a pixel, of images in [0, 1]",
        )
        step: float = Field(5e-5, gt=0, le=1, description="PGD's step, of images in [0, 1]")
        iterations: int = Field(5, ge=1, le=10_000, description="PGD's steps")

    strength = "weight"
    strengths = (0, 0.02, 0.08, 0.3, 1)

    def check(self, job: Job) -> None:
        """Refuse a single class, which has no other to perturb towards.

        Raises:
            RequestError: there is one class.
        """
        if job.model.classes < 2:
            raise RequestError(
                "at-at perturbs images towards another class, and there is "
                f"{job.model.classes}: give at least two identities"
            )

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        """Cross-entropy of the batch and λ times that of its perturbed images with other labels."""
        config, clean = self.config, super().loss(model, images, labels, state)
        if config.weight == 0:
            return clean
        others = other_labels(labels, model.classes, state.rng)

        def taken_for_others(changed: Tensor) -> Tensor:
            return -F.cross_entropy(model(changed), others, reduction="sum")

        with statistics_kept(model):
            changed = ascended(
                taken_for_others, images, config.epsilon, config.step, config.iterations, state.rng
            )
        return clean + config.weight * F.cross_entropy(model(changed), others)
