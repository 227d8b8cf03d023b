"""FFHQ: 70,000 aligned photographs without identities, the public data across domains."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mibench.data import source as data

_FOLDERS = ("thumbnails128x128", "images1024x1024")
_SIDES = (128, 1024)
_CROP = 88  # of 128


@data.register_source("ffhq")
class FFHQ(data.Source):
    """Thumbnails or full pictures; every picture is an identity of its own, named ``00000``."""

    card = data.DatasetCard(
        name="ffhq",
        title="Flickr-Faces-HQ (FFHQ)",
        licence="CC BY-NC-SA 4.0 for the set; each photograph under its own permissive licence",
        home="https://github.com/NVlabs/ffhq-dataset",
        images=70_000,
        of_people=True,
        original_bytes=1_950_000_000,
        layout=(
            "thumbnails128x128/ (or images1024x1024/, or the root itself)\n"
            "├── 00000/00000.png … 00999.png   (or all files in one folder)\n"
            "├── 01000/01000.png …\n"
            "└── …"
        ),
        how_to_get=(
            "Fetch thumbnails128x128 (1.95 GB) with the download script of the home page, which "
            "also names mirrors; the 1024×1024 pictures are 89 GB and serve as well."
        ),
        crop=_CROP,
        crop_of=(128, 128),
        preprocessing=(
            "central 88×88 of the 128×128 thumbnails (704×704 of the 1024×1024 pictures, the same "
            "part of the face), as the released code of the seed paper and PLG-MI; then resized "
            "with an antialiased bilinear filter. Code for StyleGAN priors (PPA) keeps 800 of "
            "1024 instead: --crop 100"
        ),
    )

    def listing(self, root: Path, *, incomplete: bool = False) -> data.Listing:
        """Thumbnails are preferred where both are."""
        named = [f"{above}{name}" for name in _FOLDERS for above in ("", "ffhq/")]
        base = data.first_folder(root, [*named, ""])
        if base is None:
            raise self.refuse(f"there is no folder {root}")
        folders, loose = data.listed(base)
        paths = [
            base / folder / file for folder in folders for file in data.listed(base / folder)[1]
        ]
        paths += [base / file for file in loose]
        if not paths:
            raise self.refuse(f"{base} holds no image")
        seen: set[str] = set()
        for path in paths:
            if not (len(path.stem) == 5 and path.stem.isdigit()):
                shown = path.relative_to(base)
                raise self.refuse(f"{base}: pictures are named 00000.png to 69999.png, not {shown}")
            if path.stem in seen:
                raise self.refuse(f"{base} holds the picture {path.stem} twice")
            seen.add(path.stem)
        sources = [path.stem for path in paths]
        files = [path.relative_to(root).as_posix() for path in paths]
        return data.arrange("root" if base == root else base.name, sources, files, sources)

    def square(self, image: Image.Image, crop: int | None) -> Image.Image:
        """The central square, the same part of the face at either size."""
        if image.width != image.height or image.width not in _SIDES:
            raise data.UnusableImage(
                f"is {image.width}×{image.height}, but FFHQ's pictures are 128×128 or 1024×1024"
            )
        return data.centre(image, (crop or _CROP) * image.width // 128)
