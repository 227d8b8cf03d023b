"""FFHQ: 70,000 aligned photographs without identities, the public data across domains."""

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

_FOLDERS = ("thumbnails128x128", "images1024x1024")
_SIDES = (128, 1024)
_CROP = 88  # of 128


@register_source("ffhq")
class FFHQ(Source):
    """Thumbnails or full pictures; every picture is an identity of its own, named ``00000``."""

    card = DatasetCard(
        name="ffhq",
        title="Flickr-Faces-HQ (FFHQ)",
        licence="CC BY-NC-SA 4.0 for the set; each photograph under its own permissive licence",
        home="https://github.com/NVlabs/ffhq-dataset",
        images=70_000,
        identities=None,
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

    def listing(self, root: Path, *, incomplete: bool = False) -> Listing:
        """See :class:`mibench.data.source.Source`; thumbnails are preferred where both are."""
        named = [f"{above}{name}" for name in _FOLDERS for above in ("", "ffhq/")]
        base = first_folder(root, [*named, ""])
        if base is None:
            raise self.refuse(f"there is no folder {root}")
        folders, loose = listed(base)
        files = [f"{folder}/{file}" for folder in folders for file in listed(base / folder)[1]]
        files += loose
        if not files:
            raise self.refuse(f"{base} holds no image")
        sources = [Path(file).stem for file in files]
        wrong = [f for f, source in zip(files, sources, strict=True) if not _is_number(source)]
        if wrong:
            raise self.refuse(f"{base}: pictures are named 00000.png to 69999.png, not {wrong[0]}")
        if len(set(sources)) != len(sources):
            twice = next(s for i, s in enumerate(sorted(sources)[1:]) if s == sorted(sources)[i])
            raise self.refuse(f"{base} holds the picture {twice} twice")
        above = base.relative_to(root).as_posix()
        paths = [file if above == "." else f"{above}/{file}" for file in files]
        return arrange(base.name if above != "." else "root", sources, paths, sources)

    def square(self, image: Image.Image, crop: int | None) -> Image.Image:
        """The central square, the same part of the face at either size."""
        if image.width != image.height or image.width not in _SIDES:
            raise UnusableImage(
                f"is {image.width}×{image.height}, but FFHQ's pictures are 128×128 or 1024×1024"
            )
        return centre(image, (crop or _CROP) * image.width // 128)


def _is_number(name: str) -> bool:
    return len(name) == 5 and name.isdigit()
