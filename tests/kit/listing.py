"""A file system that lists its folders in another order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_scandir = os.scandir


class Reversed:
    """``os.scandir`` with the entries in falling order of their names."""

    def __init__(self, path: Path) -> None:
        with _scandir(path) as entries:
            self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

    def __enter__(self) -> Iterator[os.DirEntry[str]]:
        return iter(self.entries)

    def __exit__(self, *_: object) -> None:
        pass
