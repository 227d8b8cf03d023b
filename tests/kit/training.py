"""Trainings as tests give them to the loop and to hooks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mibench.data.images import ImageSet
from mibench.models.classifiers import Classifier
from mibench.progress import SILENT, Progress
from mibench.streams import seeded, stream
from mibench.training.loop import Job, TrainingConfig


def classifier(architecture: str = "test_resnet", classes: int = 4, seed: int = 3) -> Classifier:
    """A classifier of 32-pixel images whose weights are the seed's."""
    with seeded(seed):
        return Classifier(architecture, classes, 32)


def job(
    data: ImageSet,
    config: TrainingConfig,
    model: Any = None,
    rng: torch.Generator | None = None,
    progress: Progress = SILENT,
    *,
    val: ImageSet | None = None,
    public: ImageSet | None = None,
) -> Job:
    """A job without what a test does not look at."""
    return Job(model, data, val, public, config, rng or stream(0), progress)


def blank(labels: Tensor) -> ImageSet:
    """Images of one black pixel, for what looks at labels alone."""
    images = torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8)
    return ImageSet(images, labels, tuple(map(str, range(int(labels.max()) + 1))))
