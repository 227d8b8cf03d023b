"""Which images an image folder holds, by identity.

Every direct sub-folder of the root is one identity, and the images in it are that identity's.
Hidden entries and files without an image extension are ignored. Nested sub-folders that hold images
are refused: whether ``root/train/anna/1.jpg`` shows ``train`` or ``anna`` is a guess that could
silently mislabel every image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mibench.data.decode import SUFFIXES, is_image_name
from mibench.errors import RequestError


def scan(root: Path) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """List a folder without opening an image.

    Returns:
        Root-relative image paths by identity, both sorted; and what cannot be used, with the reason
        (identities without an image, names that are not text).

    Raises:
        RequestError: when the root is missing or is not laid out as one sub-folder per identity.
    """
    found: dict[str, tuple[str, ...]] = {}
    unusable: dict[str, str] = {}
    folders, files = _listing(root, "the image folder (--root)")
    loose = [name for name in files if is_image_name(name)]
    if loose:
        raise RequestError(
            f"{root} holds {len(loose)} images outside any identity's folder ({_few(loose)}): "
            "move each into the sub-folder of the identity that it shows, or out of the root"
        )
    if not folders:
        raise RequestError(
            f"{root} has no sub-folders: the root needs one sub-folder per identity, each with "
            "that identity's images; pass their parent folder as --root"
        )
    for name in folders:
        nested, inside = _listing(root / name, "an identity's folder")
        for folder in nested:
            _refuse_nested(root, root / name / folder)
        images = [f"{name}/{file}" for file in inside if is_image_name(file)]
        for path in [name, *images]:
            if not _is_text(path):
                unusable[shown_name(path)] = "its name is not valid UTF-8"
        images = [path for path in images if _is_text(path)]
        if images:
            found[name] = tuple(images)
        elif _is_text(name):
            unusable[name] = f"no image in this folder (accepted: {' '.join(sorted(SUFFIXES))})"
    return found, unusable


def _listing(folder: Path, what: str) -> tuple[list[str], list[str]]:
    """Sorted names of the visible sub-folders and of everything else."""
    try:
        with os.scandir(folder) as entries:
            visible = [(e.name, is_folder(e)) for e in entries if not e.name.startswith(".")]
    except OSError as error:
        raise RequestError(
            f"{folder}, {what}, cannot be listed ({error.strerror}): "
            "check the path and its permissions"
        ) from error
    visible.sort()
    return [n for n, is_dir in visible if is_dir], [n for n, is_dir in visible if not is_dir]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link that leads nowhere is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _refuse_nested(root: Path, folder: Path) -> None:
    pending = [folder]
    while pending:  # no recursion, which would end at a thousand levels
        parent = pending.pop()
        try:
            with os.scandir(parent) as entries:
                found = [(e.name, e.is_dir(follow_symlinks=False), e.path) for e in entries]
        except OSError:  # it may hold anything; nothing of it is used
            continue
        pending += [Path(path) for _, is_dir, path in found if is_dir]
        files = [name for name, is_dir, _ in found if not is_dir]
        if any(is_image_name(file) and not file.startswith(".") for file in files):
            raise RequestError(
                f"{shown_name(str(parent))} holds images two or more levels below {root}: only "
                "direct sub-folders of the root are identities; pass the folder that holds the "
                f"identities as --root (perhaps {shown_name(str(folder.parent))}), or move the "
                "images up into their identity's folder"
            )


def _few(names: Iterable[str]) -> str:
    shown = sorted(map(shown_name, names))
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")


def _is_text(name: str) -> bool:
    """Whether a name from the file system can be written to a UTF-8 file."""
    return shown_name(name) == name


def shown_name(name: str) -> str:
    """A file's name as text; what is not UTF-8 in it is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
