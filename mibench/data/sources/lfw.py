"""Labeled Faces in the Wild: 13,233 photographs of 5,749 people."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mibench.data import source as data

_ALIGNED = ("lfw-deepfunneled", "lfw_funneled", "lfw")  # the best first
_FOLDERS = (*(f"lfw-py/{name}" for name in _ALIGNED), *_ALIGNED, "")
_SIDE, _CROP = 250, 128


@data.register_source("lfw")
class LFW(data.Source):
    """Any alignment of the set, in torchvision's folders or as a plain folder of people."""

    card = data.DatasetCard(
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
        crop_of=(_SIDE, _SIDE),
        preprocessing=(
            "central 128×128 of the 250×250 originals; square pictures of another size are taken "
            "as cropped already. Then resized with an antialiased bilinear filter. No paper of the "
            "field fixes a crop for LFW: it is this suite's choice, and the alignment that was "
            "found is recorded"
        ),
    )

    def listing(self, root: Path, *, incomplete: bool = False) -> data.Listing:
        """Of the best aligned folder."""
        base = data.first_folder(root, _FOLDERS)
        if base is None:
            raise self.refuse(f"there is no folder {root}")
        found = [(name, f) for name in data.listed(base)[0] for f in data.listed(base / name)[1]]
        if not found:
            raise self.refuse(f"{base} holds no person's folder with images")
        for name, file in found:
            if not file.startswith(f"{name}_"):
                raise self.refuse(f"{base / name / file} is not named {name}_0001.jpg")
        sources = [f"{name}/{file}" for name, file in found]
        files = [(base / source).relative_to(root).as_posix() for source in sources]
        layout = "lfw" if base == root else base.name
        return data.arrange(layout, sources, files, [name for name, _ in found])

    def square(self, image: Image.Image, crop: int | None) -> Image.Image:
        """The central square of an original; any other square picture as it is."""
        size = f"is {image.width}×{image.height}"
        if image.size == (_SIDE, _SIDE):
            return data.centre(image, crop or _CROP)
        if image.width != image.height:
            raise data.UnusableImage(
                f"{size}, but LFW's pictures are 250×250, or square if they were cropped"
            )
        if crop is not None:
            raise data.UnusableImage(f"{size}: only 250×250 can be cropped")
        return image
