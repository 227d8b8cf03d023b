"""MNIST: 70,000 handwritten digits, as the IDX files in torchvision's layout."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mibench.data import source as data
from mibench.errors import RequestError

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


@data.register_source("mnist")
class MNIST(data.Source):
    """Digits as classes ``0`` to ``9``."""

    card = data.DatasetCard(
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

    def listing(self, root: Path, *, incomplete: bool = False) -> data.Listing:
        """The pictures are read at once (55 MB); with ``incomplete`` their MD5s may be others."""
        names = [f"{name}{end}" for name in FILES for end in ("", ".gz")]
        places = [root / folder for folder in _FOLDERS]
        folder = next((p for p in places if any((p / name).exists() for name in names)), None)
        if folder is None:
            raise self.refuse(f"{root} and {places[0]} hold none of the four files")
        pixels, labels, parts, sources = [], [], [], []
        for kind, part in (("t10k", "test"), ("train", "train")):
            images = self._array(folder, f"{kind}-images-idx3-ubyte", 3, incomplete)
            digits = self._array(folder, f"{kind}-labels-idx1-ubyte", 1, incomplete)
            if len(images) != len(digits) or (digits > 9).any():
                raise self.refuse(f"{folder}: the {kind} images and labels do not belong together")
            pixels.append(images)
            labels.append(digits)
            parts.append(np.full(len(digits), data.PARTS.index(part), dtype=np.uint8))
            sources += [f"{part}/{i:05d}" for i in range(len(digits))]
        return data.Listing(
            layout="idx",
            sources=sources,
            files=(),
            names=tuple(map(str, range(10))),
            labels=np.concatenate(labels).astype(np.int32),
            parts=np.concatenate(parts),
            pixels=np.concatenate(pixels),
        )

    def _array(
        self, folder: Path, name: str, dimensions: int, incomplete: bool
    ) -> NDArray[np.uint8]:
        """An IDX file's array of bytes, after checking its MD5."""
        path = folder / name
        if path.exists():
            held = self.read(path)
        else:
            path = folder / f"{name}.gz"
            packed = io.BytesIO(self.read(path))
            try:  # never more than such a file holds, whatever was packed
                held = gzip.GzipFile(fileobj=packed).read(_MOST_BYTES + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise self.refuse(f"{path} cannot be read: {error}") from error
            if len(held) > _MOST_BYTES:
                raise self.refuse(f"{path} holds more than {_MOST_BYTES / 2**20:g} MiB")
        if not incomplete and (found := data.md5(held)) != FILES[name]:
            raise RequestError(
                f"mnist: {path} is damaged (the MD5 of its contents is {found}, published is "
                f"{FILES[name]}): delete it and pass --download, or fetch it again"
            )
        start = 4 + 4 * dimensions
        head = bytes((0, 0, _UNSIGNED_BYTES, dimensions))
        shape = tuple(np.frombuffer(held[4:start].ljust(start - 4, b"\xff"), dtype=">u4").tolist())
        if held[:4] != head or len(held) - start != math.prod(shape):
            raise self.refuse(f"{path} is not an IDX file of {dimensions} dimensions")
        return np.frombuffer(held, dtype=np.uint8, offset=start).reshape(shape)
