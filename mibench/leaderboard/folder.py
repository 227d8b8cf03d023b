"""The leaderboards folder: what is read, written and removed there, and never through a link.

A pull request may bring any file, so no name in this folder is trusted: links are refused by name,
and what a build removes is what an earlier build has listed as its own, in ``built.json``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mibench.errors import RequestError, printable
from mibench.files import read_plain, user_path, write_atomic

BUILT = "built.json"

# What a build may remove: tables and figures of protocols that have no records any more.
_REMOVABLE = re.compile(
    r"tables/[\w+-][\w+.-]*/[\w-]+\.(csv|tex)|(privacy-utility|queries)-[\w+.-]+\.svg", re.ASCII
)


class LeftOut(NamedTuple):
    """A file that boards do not take: its path, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def boards_folder(text: str, option: str) -> Path:
    """A leaderboards folder that an option names.

    Raises:
        RequestError: there is none.
    """
    place = user_path(text, option)
    if not place.is_dir():
        raise RequestError(
            f"there is no folder {place.absolute()}; {option} names a leaderboards folder"
        )
    return place


def plain_files(folder: Path, part: str, suffix: str) -> tuple[list[str], list[LeftOut]]:
    """Regular files ``<part>/*/*<suffix>`` of a folder, and what else lies there by such a name.

    Returns:
        Paths relative to ``part``, sorted, and each link, FIFO or device.

    Raises:
        RequestError: ``part`` itself is a link.
    """
    refuse_link(folder, part)
    found: list[str] = []
    problems: list[LeftOut] = []
    for place in _entries(folder / part):
        if place.is_symlink():
            problems.append(LeftOut(printable(place.name), "a link, which is not followed here"))
        for entry in _entries(Path(place.path)) if place.is_dir(follow_symlinks=False) else ():
            if not entry.name.endswith(suffix):
                continue
            relative = f"{place.name}/{entry.name}"
            if entry.is_file(follow_symlinks=False):
                found.append(relative)
            else:
                kind = "a link, which is not followed here" if entry.is_symlink() else "no file"
                problems.append(LeftOut(printable(relative), kind))
    return found, problems


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def refuse_link(folder: Path, name: str) -> None:
    """Make sure that nothing on the way from a folder to a file in it is a link.

    Args:
        folder: may itself be reached through links: it is whoever runs this that names it.
        name: path relative to it.

    Raises:
        RequestError: it lies outside the folder, or there is a link, or something that is neither
            file nor folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise RequestError(f"{printable(name)} does not lie in {folder}")
    place = folder
    for part in Path(name).parts:
        place = place / part
        try:
            mode = place.lstat().st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise RequestError(f"{place} cannot be reached: {error.strerror}") from error
        if stat.S_ISLNK(mode):
            raise RequestError(
                f"{place} is a link, and nothing in a leaderboards folder is followed: remove it"
            )
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise RequestError(f"{place} is neither a file nor a folder: remove it")


def write_all(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Write generated files, list them in ``built.json``, and remove what earlier builds listed.

    Returns:
        Names of earlier builds' files that were changed since, and are left as they are.

    Raises:
        RequestError: a link, a folder or a device is in the way; nothing was written then.
        MibenchError: a file could not be written.
    """
    for name in (*files, BUILT):
        refuse_link(folder, name)
        if (folder / name).is_dir():
            raise RequestError(f"{folder / name} is a folder, and a file is to be written there")
    before = listed(folder)
    for name, data in files.items():
        write_atomic(folder / name, data)
    write_atomic(folder / BUILT, manifest(files))
    kept = []
    for name in sorted(before.keys() - files.keys()):
        with contextlib.suppress(FileNotFoundError):
            if _sha256(folder, name) == before[name]:
                (folder / name).unlink()
            else:
                kept.append(name)
    return kept


def manifest(files: Mapping[str, bytes]) -> bytes:
    """The bytes of ``built.json``: SHA-256 of each generated file."""
    own = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    return (json.dumps({"files": own}, indent=1) + "\n").encode()


def listed(folder: Path) -> dict[str, str]:
    """Files that an earlier build may have left, with their SHA-256; none where there is no list.

    The list itself may be anybody's: names that no build gives are passed over.
    """
    if not (folder / BUILT).exists():
        return {}
    try:
        own = json.loads(read_plain(folder / BUILT, "the list of built files"))["files"]
        pairs = [(str(name), str(sha256)) for name, sha256 in own.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(f"{folder / BUILT} is damaged: remove it, and build anew") from error
    return {name: sha256 for name, sha256 in pairs if _REMOVABLE.fullmatch(name)}


def unlisted(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Tables and figures in the folder that are not among ``files``, whoever made them."""
    tables = [plain_files(folder, "tables", suffix)[0] for suffix in (".csv", ".tex")]
    there = [f"tables/{name}" for names in tables for name in names]
    there += [each.name for each in _entries(folder) if _REMOVABLE.fullmatch(each.name)]
    return sorted(name for name in there if name not in files)


def _sha256(folder: Path, name: str) -> str:
    """SHA-256 of a file, reached without any link; FileNotFoundError where there is none."""
    refuse_link(folder, name)
    if not (folder / name).exists():
        raise FileNotFoundError(name)
    return hashlib.sha256(read_plain(folder / name, "the built file")).hexdigest()
