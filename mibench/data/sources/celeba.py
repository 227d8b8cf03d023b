"""CelebA: 202,599 aligned photographs of 10,177 celebrities, in torchvision's layout."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from PIL import Image

from mibench.data.source import (
    PARTS,
    DatasetCard,
    Listing,
    Source,
    UnusableImage,
    arrange,
    centre,
    few,
    first_folder,
    listed,
    md5,
    register_source,
)
from mibench.errors import MibenchError, RequestError

_IDENTITIES = "identity_CelebA.txt"
_PARTITION = "list_eval_partition.txt"
# As published; torchvision checks the same sums.
_MD5 = {
    _IDENTITIES: "32bd1bd63d3c78cd57e08160ec5ed1e2",
    _PARTITION: "d32c9cbf5e040fd4025c592c306e6668",
}
_OFFICIAL = {"0": "train", "1": "val", "2": "test"}
_SIZE = (178, 218)
_CROP = 108


@register_source("celeba")
class CelebA(Source):
    """The aligned and cropped pictures. Identity names are the published numbers, ``00001``.

    The official parts hold different people each, so that protocols that classify identities
    divide every identity's pictures themselves.
    """

    card = DatasetCard(
        name="celeba",
        title="CelebFaces Attributes (CelebA), aligned and cropped",
        licence="non-commercial research only; no redistribution",
        home="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        images=202_599,
        identities=10_177,
        of_people=True,
        original_bytes=1_740_000_000,
        layout=(
            "celeba/ (or the root itself)\n"
            "├── img_align_celeba/000001.jpg … 202599.jpg   (178×218 each)\n"
            "├── identity_CelebA.txt\n"
            "└── list_eval_partition.txt                    (optional)"
        ),
        how_to_get=(
            "Fetch img_align_celeba.zip and identity_CelebA.txt from the home page's Google Drive, "
            "unpack the archive, and give the folder as --root; or try --download, which needs "
            "`pip install gdown` and often fails because Google limits the files' downloads a day."
        ),
        download=True,
        crop=_CROP,
        crop_of=_SIZE,
        preprocessing=(
            "central 108×108 of the aligned 178×218 pictures, as the released code of GMI, KEDMI "
            "and the seed paper (rows from 55, columns from 35), then resized with an antialiased "
            "bilinear filter"
        ),
    )

    def listing(self, root: Path, *, incomplete: bool = False) -> Listing:
        """See :class:`mibench.data.source.Source`; official parts where the partition file is."""
        folder = first_folder(root, ("celeba/img_align_celeba", "img_align_celeba"))
        if folder is None:
            raise self.refuse(f"there is no folder img_align_celeba in {root} or {root / 'celeba'}")
        people = self._pairs(folder.parent / _IDENTITIES, check=not incomplete)
        _, files = listed(folder)
        if not files:
            raise self.refuse(f"{folder} holds no image")
        unnamed = [file for file in files if file not in people]
        if unnamed:
            raise self.refuse(
                f"{len(unnamed)} files of {folder} are not in {_IDENTITIES} ({few(unnamed)})"
            )
        parts = None
        if (folder.parent / _PARTITION).exists():
            official = self._pairs(folder.parent / _PARTITION, check=not incomplete)
            if unknown := sorted(set(official.values()) - set(_OFFICIAL)):
                raise self.refuse(
                    f"{folder.parent / _PARTITION} has the part {unknown[0]!r}, but there are "
                    f"{', '.join(_OFFICIAL)}"
                )
            parts = [PARTS.index(_OFFICIAL.get(official.get(file, ""))) for file in files]
        base = folder.relative_to(root).as_posix()
        return arrange(
            "img_align_celeba",
            files,
            [f"{base}/{file}" for file in files],
            [people[file].zfill(5) for file in files],
            parts=parts,
        )

    def square(self, image: Image.Image, crop: int | None) -> Image.Image:
        """The central square of an aligned picture."""
        if image.size != _SIZE:
            raise UnusableImage(
                f"is {image.width}×{image.height}, but aligned pictures are 178×218: "
                "img_celeba (in the wild) is another set"
            )
        return centre(image, crop or _CROP)

    def download(self, root: Path) -> None:
        """Fetch pictures and lists with torchvision, from Google Drive.

        Raises:
            MibenchError: the download failed; it says what to do by hand.
        """
        import torchvision.datasets

        try:
            torchvision.datasets.CelebA(str(root), split="all", download=True)
        except Exception as error:  # gdown raises classes of its own
            advice = "Google Drive limits how often a file is fetched a day: try again tomorrow"
            if importlib.util.find_spec("gdown") is None:
                advice = "`pip install gdown`, which torchvision fetches it with"
            raise MibenchError(
                f"celeba could not be downloaded ({error}). {advice}, or do it by hand. "
                f"{self.card.how_to_get}"
            ) from error

    def _pairs(self, path: Path, *, check: bool) -> dict[str, str]:
        """A list's lines ``000001.jpg 2880`` as a mapping."""
        data = self.read(path)
        if check and md5(data) != _MD5[path.name]:
            raise RequestError(
                f"celeba: {path} is damaged or another list (its MD5 is {md5(data)}, published is "
                f"{_MD5[path.name]}): fetch it again, or pass --incomplete if it is meant to differ"
            )
        pairs: dict[str, str] = {}
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
            words = line.split()
            if len(words) != 2 or not words[1].isdigit():
                raise self.refuse(
                    f"{path}, line {number}: expected `000001.jpg 2880`, not {line!r}"
                )
            if pairs.setdefault(words[0], words[1]) != words[1]:
                raise self.refuse(
                    f"{path}, line {number}: {words[0]} has {words[1]} here and {pairs[words[0]]} "
                    "in an earlier line"
                )
        return pairs
