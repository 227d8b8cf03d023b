"""Networks that judge reconstructions: evaluators, and the regressor of face attributes."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.data.images import ImageSet
from mibench.models.classifiers import Classifier, predict
from mibench.models.initialisation import Initialisation, initialise
from mibench.models.resize import resize
from mibench.progress import SILENT, Progress
from mibench.streams import seeded
from mibench.training.loop import (
    Hooks,
    Job,
    TrainingConfig,
    TrainingResult,
    TrainState,
    train,
)
from mibench.types import Frozen

JUDGED_AT_ONCE = 128  # on CPUs, resized images of larger batches leave the cache: half as fast


class JudgeConfig(Frozen):
    """A network that judges reconstructions, and how it is trained."""

    architecture: str = Field(description="timm architecture")
    resolution: int = Field(
        ge=8, le=1024, description="resolution that images are resized to for it, in pixels"
    )
    training: TrainingConfig = Field(
        TrainingConfig(epochs=25, learning_rate=0.05, weight_decay=5e-4),
        description="how it is trained",
    )


class Judge(Classifier):
    """A classifier that judges images of any size: it resizes them itself, antialiased.

    However it is trained and whatever it judges, it sees its own resolution.

    Shapes:
        ``(n, 3, any height, any width)`` in [0, 1] to logits ``(n, classes)``.
    """

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1], resized, on the scale that the architecture expects."""
        return super().normalise(resize(images, self.resolution))


class AttributeTraining(Hooks):
    """Regression of attributes in [0, 1], which the labels index."""

    def __init__(self, attributes: Tensor) -> None:
        self.attributes = attributes

    def augment(self, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        # Mirroring would swap the parting of the hair, which is an attribute.
        return images

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        return F.mse_loss(model(images).sigmoid(), self.attributes[labels])


def train_judge(
    config: JudgeConfig,
    data: ImageSet,
    classes: int,
    generator: torch.Generator,
    progress: Progress,
    hooks: Hooks | None = None,
    label: str = "evaluator",
    start: Initialisation | None = None,
) -> tuple[Judge, TrainingResult]:
    """Train an evaluator on the private training images (or, with other hooks, a regressor).

    Returns:
        The judge in evaluation mode, and how its training ended; ``diverged`` may be set.

    Raises:
        RequestError: the weights that ``start`` names are absent.
    """
    with seeded(generator):
        model = Judge(config.architecture, classes, config.resolution)
    initialise(model, start or Initialisation())
    job = Job(model, data, None, None, config.training, generator, progress, label)
    return model, train(job, hooks)


def judge(
    model: Classifier, images: Tensor, progress: Progress = SILENT, label: str = "judging"
) -> tuple[Tensor, Tensor]:
    """A judge's logits ``(n, classes)`` and penultimate features ``(n, d)`` of images.

    Args:
        images: ``(n, 3, h, w)``, uint8 or in [0, 1], at the protocol's resolution.
        progress: told of each batch under ``label``.
    """
    return predict(model, images, JUDGED_AT_ONCE, progress, label)


def pinned_judge(tensors: dict[str, Tensor], description: dict[str, Any]) -> Judge:
    """A trained judge from its tensors and its description, in evaluation mode."""
    config = JudgeConfig.model_validate(description["judge"])
    model = Judge(config.architecture, description["outputs"], config.resolution)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)
