"""Networks that judge reconstructions: evaluators, and the regressor of face attributes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.data.images import ImageSet
from mibench.metrics.resize import resize
from mibench.models.classifiers import Classifier, predict
from mibench.models.initialisation import Initialisation, initialise
from mibench.progress import Progress
from mibench.training import TrainingConfig, TrainingHooks, TrainState, train_classifier
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


class ResizedImages(TrainingHooks):
    """Training of a judge: its input is resized as it will be when it judges."""

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return resize(super().augment(images, generator), self.resolution)


class AttributeTraining(ResizedImages):
    """Regression of attributes in [0, 1], which the labels index."""

    def __init__(self, resolution: int, attributes: Tensor) -> None:
        super().__init__(resolution)
        self.attributes = attributes

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        # Mirroring would swap the parting of the hair, which is an attribute.
        return resize(images, self.resolution)

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        return F.mse_loss(model(images).sigmoid(), self.attributes[labels])


def train_judge(
    config: JudgeConfig,
    data: ImageSet,
    classes: int,
    generator: torch.Generator,
    progress: Progress,
    hooks: ResizedImages | None = None,
    label: str = "evaluator",
    start: Initialisation | None = None,
) -> Classifier:
    """Train an evaluator on the private training images (or, with other hooks, a regressor).

    Raises:
        RequestError: the weights that ``start`` names are absent.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        model = Classifier(config.architecture, classes, config.resolution)
    initialise(model, start or Initialisation())
    hooks = hooks or ResizedImages(config.resolution)
    return train_classifier(model, data, config.training, generator, progress, hooks, label)[0]


def resized_batches(images: Tensor, resolution: int) -> Iterator[Tensor]:
    """Batches of images as a judge sees them: in [0, 1], resized in floating point, antialiased.

    Args:
        images: ``(n, 3, h, w)``, uint8 or in [0, 1].
        resolution: side of a judge's input, in pixels.
    """
    for batch in images.split(JUDGED_AT_ONCE):
        yield resize(batch.float() / 255 if batch.dtype == torch.uint8 else batch, resolution)


def judge(model: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """A judge's logits and penultimate features of images at the protocol's resolution.

    Args:
        images: ``(n, 3, h, w)``, uint8 or in [0, 1].
    """
    logits, features = [], []
    for batch in resized_batches(images, model.resolution):
        result = predict(model, batch, JUDGED_AT_ONCE)
        logits.append(result[0])
        features.append(result[1])
    return torch.cat(logits), torch.cat(features)
