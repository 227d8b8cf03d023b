"""CIFAR-10: 60,000 small photographs of ten classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mibench.data import source as data
from mibench.errors import RequestError

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_PUBLISHED = ("test", "train")  # in the order of the pictures


@data.register_source("cifar10")
class CIFAR10(data.Source):
    """The published batches, or the same pictures as files; the classes are in the set's order."""

    card = data.DatasetCard(
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

    def listing(self, root: Path, *, incomplete: bool = False) -> data.Listing:
        """The batches are read at once (180 MB)."""
        if (root / "cifar-10-batches-py").is_dir():
            return self._batches(root)
        if not any((root / part).is_dir() for part in _PUBLISHED):
            raise self.refuse(f"{root} holds neither cifar-10-batches-py nor train and test")
        files, people, parts = [], [], []
        for part in _PUBLISHED:
            if not (root / part).is_dir():
                raise self.refuse(f"there is no folder {root / part}")
            folders = data.listed(root / part)[0]
            if wrong := sorted(set(folders) ^ set(CLASSES)):
                verb = "is no class" if wrong[0] in folders else "is missing"
                raise self.refuse(f"the folder {root / part / wrong[0]} {verb}")
            for name in folders:
                images = data.listed(root / part / name)[1]
                files += [f"{part}/{name}/{image}" for image in images]
                people += [name] * len(images)
                parts += [data.PARTS.index(part)] * len(images)
        if not files:
            raise self.refuse(f"{root} holds no image")
        return data.arrange("files", files, files, people, parts=parts)

    def _batches(self, root: Path) -> data.Listing:
        """The published pickles, which are opened only when their MD5s are the published ones."""
        from torchvision.datasets import CIFAR10 as Published  # noqa: N811

        meta = (Published.meta["filename"], Published.meta["md5"])
        for name, sum_ in (*Published.train_list, *Published.test_list, meta):
            path = root / Published.base_folder / name
            if not path.exists():
                raise self.refuse(f"{path} is missing")
            if data.md5(self.read(path)) != sum_:
                raise RequestError(
                    f"cifar10: {path} is damaged (its MD5 is not the published {sum_}): unpack "
                    "cifar-10-python.tar.gz again, or delete the folder and pass --download"
                )
        sets = [Published(str(root), train=part == "train") for part in _PUBLISHED]
        numbered = [
            (part, i) for part, held in zip(_PUBLISHED, sets, strict=True) for i in range(len(held))
        ]
        return data.Listing(
            layout="cifar-10-batches-py",
            sources=[f"{part}/{i:05d}" for part, i in numbered],
            files=(),
            names=tuple(sets[0].classes),
            labels=np.concatenate([np.asarray(held.targets, dtype=np.int32) for held in sets]),
            parts=np.array([data.PARTS.index(part) for part, _ in numbered], dtype=np.uint8),
            pixels=np.concatenate([held.data for held in sets]),
        )
