"""Surrogates of a target: classifiers that imitate it by its labels alone, for transfer attacks.

Source: Nguyen et al., "Label-Only Model Inversion Attacks via Knowledge Transfer" (LOKT), NeurIPS
2023, and its released code. Images of a class-conditional prior, as many of each class, are
labelled by the target once, and every surrogate learns them.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.data.images import ImageSet
from mibench.data.views import Jitter, Views
from mibench.models.classifiers import Classifier, predict
from mibench.models.initialisation import Initialisation
from mibench.progress import Progress
from mibench.streams import RowStreams
from mibench.training.loop import Hooks, Job, TrainingConfig, TrainingResult, TrainState, train
from mibench.types import BUDGETED, Frozen

AGREEMENT_IMAGES = 2000  # labelled images on which a surrogate is compared with the target
# Images in [0, 1] as they are, which is how released code hands them to its ImageNet networks.
_STARTS = {
    "imagenet": Initialisation(source="imagenet", mean=(0, 0, 0), std=(1, 1, 1)),
    "scratch": Initialisation(),
}
# The view of an image that a surrogate learns beside it (released code, as PLG-MI's).
CROP = Views(scale=(0.8, 1.0), mirror=True, degrees=5, turns=0.5)
JITTER = Jitter(0.2, share=0.5)


class SurrogatesConfig(Frozen):
    """Surrogates: what they are, and how they learn from the target's labels."""

    architectures: tuple[str, ...] = Field(
        ("densenet121.tv_in1k", "densenet161.tv_in1k", "densenet169.tv_in1k"),
        min_length=1,
        max_length=100,
        description="timm architectures (LOKT: DenseNet-121, -161 and -169 of torchvision)",
    )
    start: Literal["imagenet", "scratch"] = Field(
        "imagenet", description="their weights at the start: ImageNet's (LOKT), or from scratch"
    )
    images_per_class: int = Field(
        500,
        ge=1,
        le=1_000_000,
        description="images of each class that the prior makes and the target labels, a query each",
        json_schema_extra=BUDGETED,
    )
    training: TrainingConfig = Field(
        TrainingConfig(
            epochs=12,
            batch_size=256,
            learning_rate=0.1,
            weight_decay=5e-4,
            warmup=0,
            augment=False,
        ),
        description="how each is trained; its loss has an augmented half of its own",
    )
    prior_head: bool = Field(
        False,
        description="attack the classes that the prior's discriminator tells, too: one more "
        "surrogate, which costs nothing",
    )

    @property
    def initialisation(self) -> Initialisation:
        """What their weights start from."""
        return _STARTS[self.start]


class Imitation(Hooks):
    """Training by hard labels: ½·CE(x) + ½·CE(view(x))."""

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        drawn = RowStreams([state.rng] * len(images), images.device)
        views = JITTER(CROP(images, drawn, state.mirror), drawn)
        plain, changed = (F.cross_entropy(model(each), labels) for each in (images, views))
        return (plain + changed) / 2


def imitate(
    surrogate: Classifier,
    labelled: ImageSet,
    config: TrainingConfig,
    rng: torch.Generator,
    progress: Progress,
) -> tuple[Classifier, TrainingResult, float]:
    """Train a surrogate on images that the target has labelled.

    Returns:
        The surrogate, how its training ended, and the share of up to 2,000 of the images, evenly
        chosen, whose label it gives. It has learned them: others would cost more queries.
    """
    label = f"surrogate {surrogate.architecture}"
    job = Job(surrogate, labelled, None, None, config, rng, progress, label)
    result = train(job, Imitation())
    chosen = torch.arange(len(labelled))[:: math.ceil(len(labelled) / AGREEMENT_IMAGES)]
    some = labelled.select(chosen)
    same = predict(surrogate, some.images)[0].argmax(1) == some.labels
    return surrogate, result, round(float(same.float().mean()), 4)
