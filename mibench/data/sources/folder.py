"""Any image folder with one sub-folder an identity, as torchvision's ``ImageFolder``.

Every direct sub-folder of the root is one identity, and the images in it are that identity's.
Hidden entries and files without an image extension are ignored. Nested sub-folders that hold images
are refused: whether ``root/train/anna/1.jpg`` shows ``train`` or ``anna`` is a guess that could
silently mislabel every image.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mibench.data import own
from mibench.data import source as data
from mibench.data.source import shown_name
from mibench.errors import RequestError


@data.register_source("folder")
class Folder(own.OwnPictures):
    """Pictures as cameras leave them; a folder's name is who is shown."""

    card = data.DatasetCard(
        name="folder",
        title="An image folder with one sub-folder per identity",
        licence="that of its pictures",
        of_people=True,
        layout=(
            "├── Anna/*.jpg   (or another image format, under any file name)\n├── Bert/*.jpg\n└── …"
        ),
        preprocessing=own.PREPROCESSING,
        always_partial=True,
    )

    def listing(self, root: Path, *, incomplete: bool = False) -> data.Listing:
        """Identity by identity, files sorted by name."""
        folders, loose = data.listed(root)
        if loose:
            raise RequestError(
                f"{root} holds {len(loose)} images outside any identity's folder "
                f"({data.few(loose)}): move each into the sub-folder of the identity that it "
                "shows, or out of the root"
            )
        if not folders:
            raise RequestError(
                f"{root} has no sub-folders: the root needs one sub-folder per identity, each with "
                "that identity's images; pass their parent folder as --root"
            )
        files: list[str] = []
        people: list[str] = []
        unusable: dict[str, str] = {}
        for name in folders:
            nested, inside = data.listed(root / name)
            for folder in nested:
                _refuse_nested(root, root / name / folder)
            images = [f"{name}/{file}" for file in inside]
            for path in (name, *images):
                if shown_name(path) != path:
                    unusable[shown_name(path)] = "its name is not valid UTF-8"
            images = [path for path in images if shown_name(path) == path]
            if not images and shown_name(name) == name:
                accepted = " ".join(sorted(data.SUFFIXES))
                unusable[name] = f"no image in this folder (accepted: {accepted})"
            files += images
            people += [name] * len(images)
        names, labels = np.unique(np.array(people, dtype=object), return_inverse=True)
        return data.Listing(
            layout="identities",
            sources=files,
            files=files,
            names=tuple(names.tolist()),
            labels=labels.astype(np.int32),
            parts=np.zeros(len(files), dtype=np.uint8),
            unusable=unusable,
        )


def _refuse_nested(root: Path, folder: Path) -> None:
    pending = [str(folder)]
    while pending:  # no recursion, which would end at a thousand levels
        parent = pending.pop()
        try:
            with os.scandir(parent) as entries:
                found = [(e.name, e.is_dir(follow_symlinks=False), e.path) for e in entries]
        except OSError:  # it may hold anything; nothing of it is used
            continue
        pending += [path for _, is_dir, path in found if is_dir]
        files = [name for name, is_dir, _ in found if not is_dir and name[0] != "."]
        if any(map(data.is_image_name, files)):
            raise RequestError(
                f"{shown_name(parent)} holds images two or more levels below {root}: only direct "
                "sub-folders of the root are identities; pass the folder that holds the identities "
                f"as --root (perhaps {shown_name(str(folder.parent))}), or move the images up into "
                "their identity's folder"
            )
