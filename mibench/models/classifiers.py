"""Classifiers of identities: any timm architecture behind one uniform interface."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import timm
import torch
from torch import Tensor, nn

from mibench.data.images import batches
from mibench.errors import RequestError
from mibench.progress import SILENT, Progress
from mibench.registry import closest
from mibench.settings import shown
from mibench.streams import seeded


@dataclass(frozen=True)
class Outputs:
    """What a classifier computes for a batch.

    Attributes:
        logits: ``(n, classes)``.
        features: penultimate features ``(n, d)``.
        stages: stage outputs, coarsest last; empty unless asked for.
        extra: terms of a defense's own (MID: the bottleneck's ``mu`` and ``sigma``).
    """

    logits: Tensor
    features: Tensor
    stages: tuple[Tensor, ...] = ()
    extra: dict[str, Tensor] = field(default_factory=dict)


class GivesOutputs(Protocol):
    """What :func:`predict` asks: a classifier, or an evaluator."""

    def outputs(self, images: Tensor) -> Outputs: ...


class Backbone(Protocol):
    """What is used of a timm model without its last layer."""

    default_cfg: Mapping[str, Any]

    def forward_features(self, images: Tensor) -> Tensor: ...

    def forward_head(self, hidden: Tensor, pre_logits: bool = False) -> Tensor: ...

    def forward_intermediates(self, images: Tensor) -> tuple[Tensor, list[Tensor]]: ...

    def state_dict(self) -> Mapping[str, Tensor]: ...

    def load_state_dict(self, tensors: Mapping[str, Any], strict: bool = True) -> object: ...


class ReadsFeatures(Protocol):
    """The last layer."""

    def read(self, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of features, and further terms that a loss needs."""
        ...


class Head(nn.Linear):
    """The last layer."""

    def read(self, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of features, and further terms that a loss needs."""
        return self(features), {}


class Classifier(nn.Module):
    """A timm backbone with normalisation inside, and two modules that a defense may replace.

    Args:
        architecture: a timm model name.
        classes: number of identities.
        resolution: height and width of the images.

    Shapes:
        ``(n, 3, resolution, resolution)`` in [0, 1] to logits ``(n, classes)``.

    Attributes:
        head: the last layer, whose ``read`` gives logits and further terms that a loss needs.
        output: the output filter, from logits ``(n, classes)`` to what the deployed model answers;
            in training mode they pass it by.
        stochastic: whether the deployed model draws noise at inference.

    Raises:
        RequestError: timm has no such architecture, or it cannot take the resolution.
    """

    def __init__(self, architecture: str, classes: int, resolution: int) -> None:
        super().__init__()
        check_architecture(architecture)
        self.architecture, self.classes, self.resolution = architecture, classes, resolution
        self.stochastic = False
        try:
            self.backbone: Backbone
            self.backbone, features = _backbone(architecture, classes, resolution)
        except RequestError:
            raise
        except Exception as error:
            raise RequestError(
                f"target {architecture!r} cannot take images of {resolution}×{resolution}: "
                f"{error}. Choose another architecture (`mibench list targets`) or a larger "
                "resolution"
            ) from error
        self.head: ReadsFeatures = Head(features, classes)
        self.output: nn.Module = nn.Identity()
        self.feature_size = features
        mean = torch.tensor(self.backbone.default_cfg.get("mean", (0.5, 0.5, 0.5)))
        std = torch.tensor(self.backbone.default_cfg.get("std", (0.5, 0.5, 0.5)))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.view(1, 3, 1, 1))
        self.register_buffer("std", std.view(1, 3, 1, 1))

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1] on the scale that the architecture expects."""
        return (images - self.mean) / self.std

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features ``(n, d)`` of images in [0, 1]."""
        hidden = self.backbone.forward_features(self.normalise(images))
        return self.backbone.forward_head(hidden, pre_logits=True)

    def outputs(self, images: Tensor, stages: bool = False) -> Outputs:
        """Logits, penultimate features and, if asked for, stage outputs, in one pass."""
        between: list[Tensor] = []
        if stages:
            hidden, between = self.backbone.forward_intermediates(self.normalise(images))
            features = self.backbone.forward_head(hidden, pre_logits=True)
        else:
            features = self.features(images)
        logits, extra = self.head.read(features)
        if not self.training:
            logits = self.output(logits)
        return Outputs(logits, features, tuple(between), extra)

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs(images).logits


def check_architecture(architecture: str) -> None:
    """Raise a :class:`RequestError` with close names unless timm has the architecture."""
    if not timm.is_model(architecture):
        hint = closest(architecture, timm.list_models())
        raise RequestError(
            f"target {shown(architecture)} is no timm architecture"
            f"{'; ' + hint if hint else ''} (`mibench list targets`)"
        )


def _backbone(architecture: str, classes: int, resolution: int) -> tuple[Backbone, int]:
    """The timm model without its last layer, and the size of its penultimate features."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model: Any = timm.create_model(architecture, num_classes=classes, img_size=resolution)
        except TypeError:  # convolutional models have no img_size: they take any that they can
            model = timm.create_model(architecture, num_classes=classes)
    model.reset_classifier(0)
    model.eval()
    with torch.no_grad():
        sample = torch.zeros(2, 3, resolution, resolution)
        features = model.forward_head(model.forward_features(sample), pre_logits=True)
    cut = getattr(getattr(model, "patch_embed", None), "proj", None)
    if isinstance(cut, nn.Conv2d) and cut.kernel_size == cut.stride and resolution % cut.stride[0]:
        raise RequestError(
            f"target {architecture!r} cuts images into patches of {cut.stride[0]} pixels and would "
            f"drop what is left of {resolution}: choose a resolution that {cut.stride[0]} divides"
        )
    if features.ndim != 2:
        raise RequestError(
            f"target {architecture!r} gives features of shape {tuple(features.shape)}, "
            "not one vector an image: it is no classifier that mibench can use"
        )
    backbone: Backbone = model.train()
    return backbone, features.shape[1]


@torch.no_grad()
def predict(
    model: GivesOutputs,
    images: Tensor,
    batch_size: int = 512,
    progress: Progress = SILENT,
    label: str = "predicting",
) -> tuple[Tensor, Tensor]:
    """Logits ``(n, classes)`` and features ``(n, d)`` of uint8 or [0, 1] images, in batches.

    A stochastic model draws the same noise in every call, so that a measurement can be repeated.
    ``progress`` is told of each batch under ``label``.
    """
    logits, features = [], []
    with seeded(0):
        for batch in batches(images, batch_size, progress, label):
            result = model.outputs(batch)
            logits.append(result.logits)
            features.append(result.features)
    return torch.cat(logits), torch.cat(features)
