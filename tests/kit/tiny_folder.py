"""An image folder and settings so small that a cell takes seconds, known to every process.

The protocol ``tiny`` exists only in the process that registers it; worker processes need one that
is described by files and settings alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mibench.data.images import ImageSet
from mibench.data.rendered import render_dataset
from tests.conftest import TINY

_TRAINING = {"epochs": 1, "batch_size": 16}
SETTINGS: dict[str, Any] = {
    "protocol.resolution": 32,
    "protocol.samples": 4,
    "protocol.chance_kappa": -1,
    "protocol.min_images": 12,
    "protocol.target": "test_resnet",
    **{f"protocol.training.{name}": value for name, value in _TRAINING.items()},
    "protocol.evaluator.architecture": "test_efficientnet",
    "protocol.evaluator.resolution": 32,
    **{f"protocol.evaluator.training.{name}": value for name, value in _TRAINING.items()},
    "protocol.second.architecture": "test_convnext",
    "protocol.second.resolution": 32,
    **{f"protocol.second.training.{name}": value for name, value in _TRAINING.items()},
    "protocol.gan.steps": 3,
    "protocol.gan.batch_size": 8,
    "protocol.gan.latent": 16,
    "protocol.gan.generator_width": 4,
    "protocol.gan.critic_width": 8,
    "protocol.students.architectures": ["test_byobnet"],
    **{f"protocol.students.training.{name}": value for name, value in _TRAINING.items()},
    "attack.iterations": 3,
}


def make_tiny_folder(root: Path) -> Path:
    """Rendered faces as an image folder: five identities of 12 images, eight of 4."""
    data = render_dataset(TINY.data, 32)
    private = [data.train, data.val, data.test]
    save_people(root, private, "private-{}")
    save_people(root, [data.public], "public-{}")
    return root


def save_people(root: Path, sets: Sequence[ImageSet], folder: str) -> None:
    """A sub-folder a person, called after the label: ``"private-{}"``."""
    for each in sets:
        for image, label in zip(each.images, each.labels.tolist(), strict=True):
            place = root / folder.format(label)
            place.mkdir(parents=True, exist_ok=True)
            name = f"{len(list(place.iterdir())):03d}.png"
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / name)
