"""Which layout a user's own pictures lie in, as what is there tells."""

from __future__ import annotations

from pathlib import Path

from mibench.data.own import OwnPictures
from mibench.data.source import few
from mibench.data.sources.arrow import Arrow
from mibench.data.sources.csv import CSV
from mibench.data.sources.folder import Folder
from mibench.data.sources.huggingface import INFO, SPLITS, STATE, HuggingFace
from mibench.data.sources.npz import NPZ
from mibench.errors import RequestError

OF_FILES: dict[str, type[OwnPictures]] = {
    **{".csv": CSV, ".tsv": CSV, ".npz": NPZ},
    **{".parquet": Arrow, ".arrow": Arrow, ".feather": Arrow},
}
"""The layouts of one file, by its extension in lower case."""


def layout_of(root: Path, image: str | None = None, label: str | None = None) -> OwnPictures:
    """The source that reads a folder or a file; nothing in it is read here.

    Args:
        image, label: names of the columns or arrays, where they are not to be found.

    Raises:
        RequestError: it is in no layout that is known, or a folder shall have columns.
    """
    try:
        if root.is_file():
            kind = OF_FILES.get(root.suffix.lower())
            if kind is None:
                raise RequestError(
                    f"{root} is a file in no layout that is known: --root takes a folder with one "
                    "sub-folder for each identity, a folder that Hugging Face's `datasets` saved, "
                    f"or a file {', '.join(OF_FILES)}"
                )
            return kind(image, label)
        if (root / SPLITS).exists() or ((root / STATE).exists() and (root / INFO).exists()):
            return HuggingFace(image, label)
        files = files_in(root)
        folders = files and any(e.is_dir() and not e.name.startswith(".") for e in root.iterdir())
    except OSError:
        return Folder()  # whose error says what is wrong with the folder
    if files and not folders:
        raise RequestError(
            f"{root} has no sub-folders, but holds {few(files)}: name the file itself, --root "
            f"{root / files[0]}"
        )
    if image is not None or label is not None:
        raise RequestError(
            f"{root} is a folder with a sub-folder for each identity, and has no columns: drop "
            "protocol.image_column and protocol.label_column"
        )
    return Folder()


def files_in(root: Path) -> list[str]:
    """Names of the files in a folder that have a layout of one file, sorted."""
    inside = sorted(root.iterdir()) if root.is_dir() else []
    return [each.name for each in inside if each.suffix.lower() in OF_FILES and each.is_file()]
