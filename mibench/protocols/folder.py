"""The protocol of an image folder, in two sizes."""

from __future__ import annotations

from mibench.data.folder import FolderOptions
from mibench.judges.evaluators import EvaluatorConfig
from mibench.priors import GanConfig
from mibench.protocols._budgets import ATTACKS, BIDO, PRIORS, STUDENTS, lokt
from mibench.protocols._card import Protocol
from mibench.training.loop import TrainingConfig
from mibench.training.students import StudentsConfig
from mibench.types import Preset

_STUDENTS = ("test_byobnet", "test_convnext")
_IMAGES = 840  # training images that the epochs of `small` are meant for


def folder_protocol(
    options: FolderOptions, preset: Preset = "paper", images: int | None = None
) -> Protocol:
    """The protocol of an image folder; its evaluators and prior are trained on it.

    Args:
        options: how the folder is divided.
        preset: ``"paper"``, networks and budgets of the papers' size, for a GPU; or ``"small"``,
            those of ``lfw-64-small`` with fewer steps, for two CPU cores (60 identities of 20
            images take about ten minutes).
        images: private training images that are expected. With ``small``, many take fewer passes
            (the steps stay the same), so that the time does not grow with the folder.
    """
    if preset == "small":
        return _small(options, images)
    return Protocol(
        name="folder",
        title="An image folder with one sub-folder per identity",
        data=options,
        resolution=64,
        target="resnet18",
        training=TrainingConfig(epochs=50, learning_rate=0.02, weight_decay=5e-4),
        evaluator=EvaluatorConfig(architecture="regnetx_002", resolution=112),
        second=EvaluatorConfig(architecture="mobilenetv2_050", resolution=112),
        gan=GanConfig(steps=20000),
    )


def _small(options: FolderOptions, images: int | None) -> Protocol:
    faces = TrainingConfig(
        epochs=_passes(40, images), batch_size=32, learning_rate=0.05, weight_decay=5e-4
    )
    return Protocol(
        name="folder",
        title="An image folder with one sub-folder per identity, sized for two CPU cores",
        data=options,
        resolution=64,
        samples=4,
        target="test_resnet",
        training=faces,
        evaluator=EvaluatorConfig(
            architecture="resnet10t",
            resolution=64,
            training=faces.model_copy(update={"epochs": _passes(25, images)}),
        ),
        second=EvaluatorConfig(
            architecture="test_efficientnet",
            resolution=96,
            training=faces.model_copy(update={"epochs": _passes(40, images)}),
        ),
        gan=GanConfig(steps=1000, generator_width=16, critic_width=32),
        students=StudentsConfig(architectures=_STUDENTS, training=STUDENTS),
        attacks={**ATTACKS, "lokt": lokt(_STUDENTS)},
        priors=PRIORS,
        defenses={"bido": BIDO},
    )


def _passes(epochs: int, images: int | None) -> int:
    """At least 4 epochs, of more images so many that the number of steps stays the same."""
    if images is None or images <= _IMAGES:
        return epochs
    return max(4, round(epochs * _IMAGES / images))
