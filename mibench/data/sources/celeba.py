"""CelebA: 202,599 aligned photographs of 10,177 celebrities, in torchvision's layout."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mibench.data import source as data
from mibench.errors import RequestError

_IDENTITIES, _PARTITION = "identity_CelebA.txt", "list_eval_partition.txt"
# As published; torchvision checks the same sums.
_MD5 = {
    _IDENTITIES: "32bd1bd63d3c78cd57e08160ec5ed1e2",
    _PARTITION: "d32c9cbf5e040fd4025c592c306e6668",
}
_OFFICIAL = {"0": "train", "1": "val", "2": "test"}
_SIZE, _CROP = (178, 218), 108


@data.register_source("celeba")
class CelebA(data.Source):
    """The aligned and cropped pictures. Identity names are the published numbers, ``00001``.

    The official parts hold different people each, so that protocols that classify identities
    divide every identity's pictures themselves.
    """

    card = data.DatasetCard(
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
        lists={
            "trainset.txt": "fd758026dab640c7217797f12e713436b23278087ffd2a70e88a7255259eabf7",
            "testset.txt": "b67ef7f4770fa3606817392f01ae185f1534c38243987928ab881464cb09c434",
            "ganset.txt": "1c2173015bfb2951b117eeb766b4da310be9b82bddf8801b8b531bf80e6b8f49",
        },
        lists_from=(
            "The released code of GMI, KEDMI, PLG-MI, LOKT, Trap-MID and the seed paper shares "
            "them; take a copy that names pictures as 000001.jpg, and give its files these names."
        ),
    )

    def listing(self, root: Path, *, incomplete: bool = False) -> data.Listing:
        """With official parts where the partition file is."""
        folder = data.first_folder(root, ("celeba/img_align_celeba", "img_align_celeba"))
        if folder is None:
            raise self.refuse(f"there is no folder img_align_celeba in {root} or {root / 'celeba'}")
        people = self._pairs(folder.parent / _IDENTITIES, check=not incomplete)
        files = data.listed(folder)[1]
        if not files:
            raise self.refuse(f"{folder} holds no image")
        if unnamed := [file for file in files if file not in people]:
            raise self.refuse(
                f"{len(unnamed)} files of {folder} are not in {_IDENTITIES} ({data.few(unnamed)})"
            )
        parts: list[int] = []
        if (path := folder.parent / _PARTITION).exists():
            official = self._pairs(path, check=not incomplete)
            if unknown := sorted(set(official.values()) - set(_OFFICIAL)):
                raise self.refuse(
                    f"{path} has the part {unknown[0]!r}, but there are {', '.join(_OFFICIAL)}"
                )
            parts = [data.PARTS.index(_OFFICIAL.get(official.get(file, ""))) for file in files]
        paths = [(folder / file).relative_to(root).as_posix() for file in files]
        names = [people[file].zfill(5) for file in files]
        return data.arrange("img_align_celeba", files, paths, names, parts=parts)

    def square(self, image: Image.Image, crop: int | None) -> Image.Image:
        """The central square of an aligned picture."""
        if image.size != _SIZE:
            raise data.UnusableImage(
                f"is {image.width}×{image.height}, but aligned pictures are 178×218: "
                "img_celeba (in the wild) is another set"
            )
        return data.centre(image, crop or _CROP)

    def _pairs(self, path: Path, *, check: bool) -> dict[str, str]:
        """A list's lines ``000001.jpg 2880`` as a mapping."""
        contents = self.read(path)
        if check and (found := data.md5(contents)) != _MD5[path.name]:
            raise RequestError(
                f"celeba: {path} is damaged or another list (its MD5 is {found}, published is "
                f"{_MD5[path.name]}): fetch it again, or pass --incomplete if it is meant to differ"
            )
        pairs: dict[str, str] = {}
        for number, line in enumerate(contents.decode("utf-8", "replace").splitlines(), start=1):
            words = line.split()
            if len(words) != 2 or not words[1].isdigit():
                raise self.refuse(
                    f"{path}, line {number}: expected `000001.jpg 2880`, not {line!r}"
                )
            file, value = words
            if pairs.setdefault(file, value) != value:
                raise self.refuse(
                    f"{path}, line {number}: {file} has {value} here and {pairs[file]} in an "
                    "earlier line"
                )
        return pairs
