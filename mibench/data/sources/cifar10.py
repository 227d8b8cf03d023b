"""CIFAR-10: 60,000 small photographs of ten classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mibench.data.source import (
    PARTS,
    DatasetCard,
    Listing,
    Source,
    arrange,
    first_folder,
    listed,
    md5,
    register_source,
)
from mibench.errors import MibenchError, RequestError

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


@register_source("cifar10")
class CIFAR10(Source):
    """The published batches, or the same pictures as files; the classes are in the set's order."""

    card = DatasetCard(
        name="cifar10",
        title="CIFAR-10",
        licence="none stated; cite Krizhevsky (2009)",
        home="https://www.cs.toronto.edu/~kriz/cifar.html",
        images=60_000,
        identities=10,
        of_people=False,
        original_bytes=186_000_000,
        layout=(
            "cifar-10-batches-py/                    (torchvision's)\n"
            "├── data_batch_1 … data_batch_5, test_batch\n"
            "└── batches.meta\n"
            "or\n"
            "├── train/airplane/*.jpg … train/truck/*.jpg\n"
            "└── test/airplane/*.jpg … test/truck/*.jpg"
        ),
        how_to_get="Pass --download, or unpack cifar-10-python.tar.gz there by hand.",
        download=True,
        resolution=32,
        preprocessing=(
            "32×32 as published; another resolution with an antialiased bilinear filter. JPEG "
            "copies of the set are lossy, and give other numbers than the published batches"
        ),
    )

    def listing(self, root: Path, *, incomplete: bool = False) -> Listing:
        """See :class:`mibench.data.source.Source`; the batches are read at once (180 MB)."""
        if (root / "cifar-10-batches-py").is_dir():
            return self._batches(root)
        base = first_folder(root, ("",))
        if base is None or not ((base / "train").is_dir() or (base / "test").is_dir()):
            raise self.refuse(f"{root} holds neither cifar-10-batches-py nor train and test")
        files, people, parts = [], [], []
        for part in ("test", "train"):
            if not (base / part).is_dir():
                raise self.refuse(f"there is no folder {base / part}")
            folders = listed(base / part)[0]
            if wrong := sorted(set(folders) ^ set(CLASSES)):
                verb = "is no class" if wrong[0] in folders else "is missing"
                raise self.refuse(f"the folder {base / part / wrong[0]} {verb}")
            for name in folders:
                images = listed(base / part / name)[1]
                files += [f"{part}/{name}/{image}" for image in images]
                people += [name] * len(images)
                parts += [PARTS.index(part)] * len(images)
        if not files:
            raise self.refuse(f"{base} holds no image")
        return arrange("files", files, files, people, parts=parts)

    def download(self, root: Path) -> None:
        """Fetch and unpack the batches with torchvision, which checks the archive's MD5.

        Raises:
            MibenchError: the download failed.
        """
        import torchvision.datasets

        try:
            torchvision.datasets.CIFAR10(str(root), download=True)
        except (RuntimeError, OSError) as error:
            raise MibenchError(
                f"cifar10 could not be downloaded into {root} ({error}): try again, or unpack "
                "cifar-10-python.tar.gz there by hand"
            ) from error

    def _batches(self, root: Path) -> Listing:
        """The published pickles, which are opened only when their MD5s are the published ones."""
        from torchvision.datasets import CIFAR10 as Published  # noqa: N811

        known = [*Published.train_list, *Published.test_list]
        known.append([Published.meta["filename"], Published.meta["md5"]])
        for name, sum_ in known:
            path = root / Published.base_folder / name
            if not path.exists():
                raise self.refuse(f"{path} is missing")
            if md5(self.read(path)) != sum_:
                raise RequestError(
                    f"cifar10: {path} is damaged (its MD5 is not the published {sum_}): unpack "
                    "cifar-10-python.tar.gz again, or delete the folder and pass --download"
                )
        parts = {part: Published(str(root), train=part == "train") for part in ("test", "train")}
        labels = [np.asarray(data.targets, dtype=np.int32) for data in parts.values()]
        return Listing(
            layout="cifar-10-batches-py",
            sources=[f"{part}/{i:05d}" for part, data in parts.items() for i in range(len(data))],
            files=(),
            names=tuple(parts["train"].classes),
            labels=np.concatenate(labels),
            parts=np.concatenate(
                [np.full(len(d), PARTS.index(p), dtype=np.uint8) for p, d in parts.items()]
            ),
            pixels=np.concatenate([data.data for data in parts.values()]),
        )
