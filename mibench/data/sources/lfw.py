"""Labeled Faces in the Wild: 13,233 photographs of 5,749 people."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mibench.data.source import (
    DatasetCard,
    Listing,
    Source,
    UnusableImage,
    arrange,
    centre,
    first_folder,
    listed,
    register_source,
)

_FOLDERS = (
    "lfw-py/lfw-deepfunneled",
    "lfw-py/lfw_funneled",
    "lfw-py/lfw",
    "lfw-deepfunneled",
    "lfw_funneled",
    "lfw",
    "",
)
_ORIGINAL = (250, 250)
_CROP = 128


@register_source("lfw")
class LFW(Source):
    """Any alignment of the set, in torchvision's folders or as a plain folder of people."""

    card = DatasetCard(
        name="lfw",
        title="Labeled Faces in the Wild (LFW)",
        licence="public research benchmark; the photographs belong to their publishers",
        home="http://vis-www.cs.umass.edu/lfw/",
        images=13_233,
        identities=5_749,
        of_people=True,
        original_bytes=180_000_000,
        layout=(
            "lfw-py/lfw-deepfunneled/, lfw-py/lfw_funneled/, lfw/ or the root itself\n"
            "├── Aaron_Eckhart/Aaron_Eckhart_0001.jpg\n"
            "├── Aaron_Guiel/Aaron_Guiel_0001.jpg\n"
            "└── …"
        ),
        how_to_get=(
            "Fetch lfw-deepfunneled.tgz (or lfw-funneled.tgz) from the home page or a mirror and "
            "unpack it; torchvision downloads it no more, its address being gone."
        ),
        crop=_CROP,
        crop_of=_ORIGINAL,
        preprocessing=(
            "central 128×128 of the 250×250 originals; square pictures of another size are taken "
            "as cropped already. Then resized with an antialiased bilinear filter. No paper of the "
            "field fixes a crop for LFW: it is this suite's choice, and the alignment that was "
            "found is recorded"
        ),
    )

    def listing(self, root: Path, *, incomplete: bool = False) -> Listing:
        """See :class:`mibench.data.source.Source`; the best aligned folder is taken."""
        base = first_folder(root, _FOLDERS)
        if base is None:
            raise self.refuse(f"there is no folder {root}")
        above = base.relative_to(root).as_posix()
        sources, people = [], []
        for name in listed(base)[0]:
            for file in listed(base / name)[1]:
                if not file.startswith(f"{name}_"):
                    raise self.refuse(f"{base / name / file} is not named {name}_0001.jpg")
                sources.append(f"{name}/{file}")
                people.append(name)
        if not sources:
            raise self.refuse(f"{base} holds no person's folder with images")
        files = sources if above == "." else [f"{above}/{source}" for source in sources]
        return arrange("lfw" if above == "." else base.name, sources, files, people)

    def square(self, image: Image.Image, crop: int | None) -> Image.Image:
        """The central square of an original; any other square picture as it is."""
        if image.size == _ORIGINAL:
            return centre(image, crop or _CROP)
        if image.width != image.height:
            raise UnusableImage(
                f"is {image.width}×{image.height}, but LFW's pictures are 250×250, or square if "
                "they were cropped"
            )
        if crop is not None:
            raise UnusableImage(f"is {image.width}×{image.height}: only 250×250 can be cropped")
        return image
