"""Images that live on the device as one uint8 tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mibench.progress import Progress


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    Attributes:
        images: ``uint8`` ``(n, channels, height, width)``.
        labels: ``int64`` ``(n,)``, indices into ``names``.
        names: identity names.
        mirror: whether an image's mirror image could be one of the set too; not so of digits.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    mirror: bool = True

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError("images are a uint8 tensor of shape (n, channels, height, width)")
        if self.labels.shape != (len(self.images),):
            raise ValueError(f"{len(self.images)} images need as many labels")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> ImageSet:
        """The same set with its tensors on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def select(self, index: Tensor) -> ImageSet:
        """The images at ``index`` (positions or a mask), with the same names."""
        return replace(self, images=self.images[index], labels=self.labels[index])


def picked(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Each image ``(n, c, h, w)`` put together from rows and columns of its own, channels last.

    Args:
        rows, columns: which ones ``(n, h)`` and ``(n, w)``; one may be there several times.
    """
    item = torch.arange(len(images), device=images.device)[:, None, None]
    rows, columns = (each.to(images.device) for each in (rows, columns))
    found = images.permute(0, 2, 3, 1)[item, rows[:, :, None], columns[:, None]]
    return found.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Dataset:
    """Private train / validation / test images, and public ones of other identities.

    Attributes:
        attributes: for rendered faces, the private identities' true attributes
            ``(identities, attributes)`` in [0, 1]; otherwise None.
        foils: where a coin chose each private identity from two, test images of the other one,
            labelled and named as the one that it could have been; otherwise None. Nobody trains on
            them.
        decoys: images of other people of the private ones' source, equally many of each, whom
            nobody trains on and ranks compare with; None where judges bring decoys.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet
    public: ImageSet
    attributes: Tensor | None = None
    foils: ImageSet | None = None
    decoys: ImageSet | None = None

    @property
    def identities(self) -> int:
        """How many are private."""
        return len(self.train.names)

    @property
    def everyone(self) -> ImageSet:
        """Private training images and the public ones, whose labels follow the private ones."""
        own, others = self.train, self.public
        return ImageSet(
            torch.cat([own.images, others.images]),
            torch.cat([own.labels, others.labels + self.identities]),
            own.names + others.names,
            own.mirror and others.mirror,
        )

    def to(self, device: torch.device) -> Dataset:
        """The same data with its tensors on ``device``."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in values.items() if v is not None}
        return Dataset(**moved)


def batches(images: Tensor, size: int, progress: Progress, label: str) -> Iterator[Tensor]:
    """Images, uint8 or in [0, 1], so many at once, in [0, 1] and ``channels_last`` memory.

    ``progress`` is told of each batch under ``label``.
    """
    parts = images.split(size)
    for index in progress.steps(len(parts), label):
        batch = parts[index] if parts[index].is_floating_point() else to_float(parts[index])
        yield batch.contiguous(memory_format=torch.channels_last)


def to_float(images: Tensor) -> Tensor:
    """``uint8`` images as ``float32`` in [0, 1]."""
    return images.to(torch.float32).div_(255)
