"""The ``folder`` dataset: any image folder with one sub-folder per identity.

That is the layout of LFW and of torchvision's ``ImageFolder``. :mod:`mibench.data.splits` decides
what is private and public, :mod:`mibench.data.decode` how a file becomes pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from mibench.data.decode import Progress, UnusableImage, decode, on_all_cores
from mibench.data.images import Dataset, ImageSet
from mibench.data.splits import (
    FolderOptions,
    FolderSplit,
    make_split,
    read_checked,
    read_split,
    write_split,
)
from mibench.errors import RequestError
from mibench.files import user_path

__all__ = [
    "FolderOptions",
    "FolderSplit",
    "load_folder",
    "make_split",
    "read_split",
    "write_split",
]


def load_folder(
    root: str | Path,
    split: FolderSplit,
    resolution: int,
    *,
    progress: Progress | None = None,
) -> Dataset:
    """Decode a split's images, checking each against its checksum.

    Images are RGB, in the order of the split: identity by identity, files sorted by name. The four
    sets are views of one tensor. Private labels run over ``split.private``, public labels over
    ``split.public``, both from 0.

    Args:
        root: the folder that the split was made from, or a copy of it elsewhere.
        split: see :func:`mibench.data.splits.make_split`.
        resolution: height and width in pixels, at least 1.
        progress: called after each image.

    Returns:
        ``uint8`` image sets ``(n, 3, resolution, resolution)`` on the CPU.

    Raises:
        RequestError: when a file is missing, has changed or cannot be decoded.
    """
    base = user_path(root, "the image folder (--root)")
    private = tuple(identity.name for identity in split.private)
    public = tuple(identity.name for identity in split.public)
    parts = (
        (private, [identity.train for identity in split.private]),
        (private, [identity.val for identity in split.private]),
        (private, [identity.test for identity in split.private]),
        (public, [identity.files for identity in split.public]),
    )
    files = [file for _, lists in parts for file in _flat(lists)]
    images = torch.empty(len(files), 3, resolution, resolution, dtype=torch.uint8)
    pixels = images.numpy()  # shares memory: the workers write their rows straight into the tensor

    def load(row: int) -> None:
        data = read_checked(base, files[row], split)
        try:
            pixels[row] = decode(data, resolution).transpose(2, 0, 1)
        except UnusableImage as error:
            # Its contents passed the check when the split was made: another build of Pillow.
            raise RequestError(
                f"{base / files[row]} {error}, though it could be when the split was made: "
                "install a Pillow with the codecs that it needs, or make a new split"
            ) from error

    on_all_cores(load, range(len(files)), progress)
    sets, start = [], 0
    for names, lists in parts:
        counts = torch.tensor([len(paths) for paths in lists])
        labels = torch.arange(len(names)).repeat_interleave(counts)
        sets.append(ImageSet(images[start : start + len(labels)], labels, names))
        start += len(labels)
    train, val, test, rest = sets
    return Dataset(train, val, test, rest)


def _flat(lists: Iterable[tuple[str, ...]]) -> list[str]:
    return [file for paths in lists for file in paths]
