"""TL-DMI: pre-train on public identities, freeze the first layers, train the rest in private."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mibench.data.images import ImageSet
from mibench.errors import RequestError
from mibench.models.classifiers import Head
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.training.loop import Job, train
from mibench.types import BUDGETED, DefenseCard

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def first_modules(backbone: nn.Module, share: float) -> Iterator[nn.Module]:
    """The modules up to the end of the first ``share`` of the layers.

    Layers are modules with a weight, convolutions and linear ones, in the order in which they are
    registered, which is that of the forward pass but for side branches. What follows a layer
    without a weight of that kind, as its normalisation, belongs to it. A module that holds others
    stands before them, and counts with what it holds itself: its own parameters, not theirs.

    Args:
        share: in [0, 1]; over 0, one layer at least.
    """
    count = sum(isinstance(module, _WEIGHTED) for module in backbone.modules())
    left = max(1, round(share * count)) if share else 0
    for module in backbone.modules():
        if isinstance(module, _WEIGHTED):
            if left == 0:
                return
            left -= 1
        if share:
            yield module


@register_defense("tl-dmi")
class TlDmi(Defense["TlDmi.Config"]):
    """Transfer learning: the first layers never see a private image.

    The network is trained on the public identities with a head of their own, through the same loop;
    then its first layers are frozen, and the others are trained on the private images.

    References:
        Ho, Koh, Chandrasegaran, Nguyen, Cheung. "Model Inversion Robustness: Can Transfer Learning
        Help?". CVPR 2024.
    """

    card = DefenseCard(
        kind="training",
        title="Model Inversion Robustness: Can Transfer Learning Help?",
        authors="Sy-Tuyen Ho, Koh Jun Hao, Keshigeyan Chandrasegaran, Ngoc-Bao Nguyen, "
        "Ngai-Man Cheung",
        year=2024,
        venue="CVPR",
        url="https://arxiv.org/abs/2405.05588",
        reference_code="https://github.com/hosytuyen/TL-DMI",
        deviations=(
            "Pre-training is on the protocol's public identities, after whatever weights the "
            "target starts from; the authors start from ImageNet (VGG16) and MS-Celeb-1M (IR152, "
            "FaceNet64), as `pretrain_epochs=0` does where the protocol starts there.",
            "What is frozen is a share of the layers, the same for every architecture; the code "
            "counts children of its own networks (26 of VGG16's, 46 of IR152's, 5 of FaceNet64's).",
            "BatchNorm of frozen layers is frozen with its running statistics; in the code these "
            "go on adapting to private images, in layers that are said not to see them. "
            "`batchnorm=adapting` has it as published.",
            "The code trains VGG16 in two stages, the last layer first; here all that is not "
            "frozen is trained at once.",
            "Optimizer, schedule and augmentation are the protocol's, in both trainings; the code "
            "keeps the epoch that is best on the test images, here the last one is kept.",
        ),
        adaptive_attack="improved-gmi+taa",
        adaptive_note="Averaging the loss over views undoes much of its protection (AlignMI, "
        "NeurIPS 2025).",
    )

    class Config(DefenseConfig):
        """Options of TL-DMI."""

        frozen: float = Field(
            0.5,
            ge=0,
            le=1,
            description="share of the backbone's convolutions and linear layers, in their order, "
            "that are frozen after pre-training; 0: the control, pre-trained and not frozen",
        )
        pretrain_epochs: int = Field(
            10,
            ge=0,
            le=1_000_000,
            description="passes over the public images before the private training; 0: the layers "
            "are frozen as the target starts, from ImageNet if the protocol says so",
            json_schema_extra=BUDGETED,
        )
        batchnorm: Literal["frozen", "adapting"] = Field(
            "frozen",
            description="running statistics of frozen BatchNorm: `frozen`, or, as published, "
            "`adapting` to private images",
        )

    strength = "frozen"
    strengths = (0, 0.25, 0.5, 0.75, 0.9)

    def check(self, job: Job) -> None:
        """Refuse public images that pre-training cannot learn identities from.

        Raises:
            RequestError: there are none, or of fewer than two identities, or most of the
                identities have one image.
        """
        if self.config.pretrain_epochs:
            public = job.public
            counts = [] if public is None else public.labels.unique(return_counts=True)[1].tolist()
            single = counts.count(1)
            way = "use another protocol, or --set defense.pretrain_epochs=0"
            if len(counts) < 2:
                raise RequestError(
                    "tl-dmi is trained on public identities first, two at least, and there "
                    f"{'is one' if counts else 'are no public images'}: {way}"
                )
            if 2 * single > len(counts):
                raise RequestError(
                    f"tl-dmi is trained on public identities first, and {single} of the "
                    f"{len(counts)} have one image, which shows nothing that they keep from image "
                    f"to image: {way}"
                )

    def pretrain(self, job: Job) -> None:
        """Train the backbone on the public images, with a head that is then taken off."""
        if self.config.pretrain_epochs == 0:
            return
        assert job.public is not None  # as check() made sure
        images = _numbered(job.public)
        model, head = job.model, job.model.head
        model.head = Head(model.feature_size, len(images.names))
        config = job.config.model_copy(update={"epochs": self.config.pretrain_epochs})
        work = replace(job, train=images, val=None, public=None, config=config)
        train(replace(work, label="pre-training"))
        model.head = head

    def optimizer(self, job: Job) -> torch.optim.Optimizer:
        """Freeze the first layers; the usual optimizer is for the others."""
        assert isinstance(job.model.backbone, nn.Module)
        for module in first_modules(job.model.backbone, self.config.frozen):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
            if isinstance(module, _BatchNorm) and self.config.batchnorm == "frozen":
                module.eval()  # here, for the loop has just put all of them in training mode
        return super().optimizer(job)


def _numbered(images: ImageSet) -> ImageSet:
    """The same images, their labels 0, 1, … of those identities alone that have any."""
    present, labels = images.labels.unique(return_inverse=True)
    names = tuple(images.names[label] for label in present.tolist())
    return replace(images, labels=labels, names=names)
