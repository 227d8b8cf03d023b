"""MNIST: 70,000 handwritten digits, as the IDX files in torchvision's layout."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mibench.data.source import (
    PARTS,
    DatasetCard,
    Listing,
    Source,
    md5,
    register_source,
)
from mibench.errors import MibenchError, RequestError

# MD5 of the uncompressed files: that of a .gz changes with whoever compressed it.
FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_FOLDERS = ("MNIST/raw", "raw", "")
_UNSIGNED_BYTES = 8  # the IDX format's code
_MOST_BYTES = 64 * 2**20  # of an unpacked file; the largest has 47 MB


@register_source("mnist")
class MNIST(Source):
    """Digits as classes ``0`` to ``9``."""

    card = DatasetCard(
        name="mnist",
        title="MNIST handwritten digits",
        licence="CC BY-SA 3.0",
        home="http://yann.lecun.com/exdb/mnist/",
        images=70_000,
        identities=10,
        of_people=False,
        original_bytes=55_000_000,
        layout=(
            "MNIST/raw/ (or raw/, or the root itself)\n"
            "├── train-images-idx3-ubyte   (each file plain or as .gz)\n"
            "├── train-labels-idx1-ubyte\n"
            "├── t10k-images-idx3-ubyte\n"
            "└── t10k-labels-idx1-ubyte"
        ),
        how_to_get="Pass --download, or put the four files there by hand.",
        download=True,
        resolution=32,
        mirror=False,
        preprocessing=(
            "28×28 grey, resized with an antialiased bilinear filter (at 32: enlarged, not "
            "padded), as torchvision's Resize((32, 32)) in the released code of KEDMI, BiDO and "
            "the seed paper; the three channels are equal"
        ),
    )

    def listing(self, root: Path, *, incomplete: bool = False) -> Listing:
        """See :class:`mibench.data.source.Source`; the pictures are read at once (55 MB).

        With ``incomplete`` the files need not have the published checksums.
        """
        folder = next((root / f for f in _FOLDERS if self._holds(root / f)), None)
        if folder is None:
            raise self.refuse(f"{root} and {root / _FOLDERS[0]} hold none of the four files")
        pixels, labels, parts = [], [], []
        for kind, part in (("t10k", "test"), ("train", "train")):  # sources in sorted order
            images = self._array(folder, f"{kind}-images-idx3-ubyte", 3, incomplete)
            digits = self._array(folder, f"{kind}-labels-idx1-ubyte", 1, incomplete)
            if len(images) != len(digits) or (digits > 9).any():
                raise self.refuse(f"{folder}: the {kind} images and labels do not belong together")
            pixels.append(images)
            labels.append(digits)
            parts.append(np.full(len(digits), PARTS.index(part), dtype=np.uint8))
        sources = [f"test/{i:05d}" for i in range(len(labels[0]))]
        sources += [f"train/{i:05d}" for i in range(len(labels[1]))]
        return Listing(
            layout="idx",
            sources=sources,
            files=(),
            names=tuple(map(str, range(10))),
            labels=np.concatenate(labels).astype(np.int32),
            parts=np.concatenate(parts),
            pixels=np.concatenate(pixels),
        )

    def download(self, root: Path) -> None:
        """Fetch the four files with torchvision, which checks their MD5s.

        Raises:
            MibenchError: the download failed.
        """
        import torchvision.datasets

        try:
            torchvision.datasets.MNIST(str(root), download=True)
        except (RuntimeError, OSError) as error:
            raise MibenchError(
                f"mnist could not be downloaded into {root} ({error}): try again, or put the "
                f"files there by hand\n{self.card.layout}"
            ) from error

    def _holds(self, folder: Path) -> bool:
        return any((folder / f"{name}{end}").exists() for name in FILES for end in ("", ".gz"))

    def _array(
        self, folder: Path, name: str, dimensions: int, incomplete: bool
    ) -> NDArray[np.uint8]:
        """An IDX file's array of bytes, after checking its MD5."""
        path = folder / name
        if path.exists():
            data = self.read(path)
        else:
            path = folder / f"{name}.gz"
            packed = io.BytesIO(self.read(path))
            try:  # never more than such a file holds, whatever was packed
                data = gzip.GzipFile(fileobj=packed).read(_MOST_BYTES + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise self.refuse(f"{path} cannot be read: {error}") from error
            if len(data) > _MOST_BYTES:
                raise self.refuse(f"{path} holds more than {_MOST_BYTES / 2**20:g} MiB")
        if not incomplete and md5(data) != FILES[name]:
            raise RequestError(
                f"mnist: {path} is damaged (the MD5 of its contents is {md5(data)}, published is "
                f"{FILES[name]}): delete it and pass --download, or fetch it again"
            )
        start = 4 + 4 * dimensions
        if data[:4] != bytes((0, 0, _UNSIGNED_BYTES, dimensions)) or len(data) < start:
            raise self.refuse(f"{path} is not an IDX file of {dimensions} dimensions")
        shape = tuple(np.frombuffer(data[4:start], dtype=">u4").tolist())
        if len(data) - start != math.prod(shape):
            raise self.refuse(f"{path} is not an IDX file of {dimensions} dimensions")
        return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
