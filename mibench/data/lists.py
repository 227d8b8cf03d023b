"""Published lists of who is private and which pictures are public, which users bring.

They are in the released code of papers, not in this package: a data set's card knows each by the
SHA-256 of its text. ``mibench data prepare NAME --lists FOLDER`` keeps them beside the prepared
sets, in ``<data folder>/<name>-lists``; they are checked there whenever they are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from mibench.data.prepared import data_root, prepare_command
from mibench.data.source import Source, source_named
from mibench.errors import MibenchError, RequestError
from mibench.files import MOST_BYTES, UnusableFile, output_folder, read_regular, write_atomic

_SUFFIX = ".jpg"  # of the names of pictures, where other copies have others


def read_lists(source: Source, folder: Path) -> dict[str, bytes]:
    """The texts of all of a data set's published lists, by their names, from a user's folder.

    Lines may end as Windows' do: copies of the lists differ in that.

    Raises:
        RequestError: no list of this data set is known, or a file is missing or another one; all
            of them are named.
    """
    card = source.card
    if not card.lists:
        raise RequestError(f"--lists: no published lists divide {card.name}: leave it out")
    texts, faults = {}, []
    for name, published in card.lists.items():
        try:
            texts[name] = _checked(folder / name, published)
        except UnusableFile as error:
            faults.append(f"  {folder / name} {error}")
    if faults:
        raise RequestError(
            "\n".join([f"{card.name}: the published lists cannot be taken (--lists):", *faults])
            + f"\nExpected in that folder: {', '.join(card.lists)}. {card.lists_from}"
        )
    return texts


def keep_lists(source: Source, texts: Mapping[str, bytes], data_folder: str | Path | None) -> None:
    """Keep the lists in the data folder.

    Raises:
        RequestError: the data folder cannot be one.
        MibenchError: they could not be written.
    """
    folder = lists_folder(source.card.name, data_folder)
    output_folder(folder, "the folder of published lists")
    for name, text in texts.items():
        write_atomic(folder / name, text)


def kept_lists(
    dataset: str, wanted: Sequence[str], resolution: int, data_folder: str | Path | None
) -> dict[str, tuple[str, ...]]:
    """The pictures that each of the lists names, in the list's order.

    Args:
        dataset: the source that they divide.
        wanted: names of the lists.
        resolution: of the set that is divided, for messages.
        data_folder: see :func:`mibench.data.prepared.data_root`.

    Raises:
        RequestError: no such list is published, or nobody brought it; names the command.
        MibenchError: what was kept is damaged.
    """
    card = source_named(dataset).card
    if unknown := [name for name in wanted if name not in card.lists]:
        known = ", ".join(card.lists) or "none"
        raise RequestError(f"{card.name} has no published list {unknown[0]!r}; known: {known}")
    folder = lists_folder(card.name, data_folder)
    command = f"{prepare_command(card.name, resolution, data_folder=data_folder)} --lists FOLDER"
    pictures = {}
    for name in wanted:
        path = folder / name
        if not path.exists():
            raise RequestError(
                f"the published lists of {card.name} are not here: looked for {path}. Bring them "
                f"with\n  {command}\nwhere DIR holds the pictures and FOLDER "
                f"{', '.join(card.lists)}. {card.lists_from}"
            )
        try:
            text = _checked(path, card.lists[name])
        except UnusableFile as error:
            raise MibenchError(f"{path} {error}\nTo bring it again, run {command}") from error
        pictures[name] = tuple(line.split()[0] for line in text.decode().splitlines())
    return pictures


def lists_folder(name: str, data_folder: str | Path | None) -> Path:
    """Where the published lists of a data set are kept."""
    return data_root(data_folder) / f"{name}-lists"


def _checked(path: Path, published: str) -> bytes:
    """The text of a list with Unix's line ends.

    Raises:
        UnusableFile: it cannot be read, or is not the published one.
    """
    text = read_regular(path, MOST_BYTES).replace(b"\r\n", b"\n")
    found = hashlib.sha256(text).hexdigest()
    if found == published:
        return text
    first = text[:100].split()[:1]
    if first and not first[0].endswith(_SUFFIX.encode()):
        raise UnusableFile(
            f"begins with {first[0].decode(errors='replace')!r}, where the published list names "
            f"pictures {_SUFFIX}: some copies, as BiDO's with .png, have the same pictures under "
            "other names, which are not accepted; take another copy"
        )
    raise UnusableFile(
        f"is damaged or another list (its SHA-256 is {found[:16]}…, published is "
        f"{published[:16]}…): fetch it again"
    )
