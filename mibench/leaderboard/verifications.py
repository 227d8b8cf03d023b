"""What was found in checking filed records: files that only ``add`` and ``verify`` write.

A verification lies apart from its record, whose author cannot write it, and names the record by its
file's SHA-256: when the file changes, what was found of the old one says nothing of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from mibench.errors import MibenchError
from mibench.files import read_plain
from mibench.leaderboard.folder import refuse_link
from mibench.types import Frozen

VERIFICATIONS = "verifications"

Found = Literal["metrics recomputed", "retrained"]
State = Literal["self-reported", "metrics recomputed", "retrained"]
SELF_REPORTED: State = "self-reported"

_MOST_BYTES = 2**16


class Finding(Frozen):
    """One check that a record passed.

    Attributes:
        found: its metrics were recomputed from its reconstructions, or its whole cell was run anew.
        by: who did it; None for `add`, which notes no name.
        at: when, ISO 8601.
        mibench, commit: with which version.
    """

    found: Found
    by: str | None
    at: str
    mibench: str
    commit: str | None


class Verification(Frozen):
    """The checks that a filed record passed; ``record`` is the SHA-256 of its file."""

    record: str
    findings: tuple[Finding, ...]

    @property
    def state(self) -> State:
        """The furthest that anyone went."""
        found = {each.found for each in self.findings}
        return "retrained" if "retrained" in found else "metrics recomputed"

    @property
    def verified_by(self) -> tuple[str, ...]:
        """Who has run the cell anew and found the same."""
        names = [each.by for each in self.findings if each.found == "retrained" and each.by]
        return tuple(dict.fromkeys(names))


def noted(folder: Path, name: str, digest: str) -> Verification | None:
    """What was found of a record; None where nothing was, or of another version of its file.

    Args:
        folder: the leaderboards folder.
        name: the record's file, relative to the records folder.
        digest: SHA-256 of that file.
    """
    try:
        refuse_link(folder, f"{VERIFICATIONS}/{name}")
        data = read_plain(folder / VERIFICATIONS / name, "the notes", _MOST_BYTES)
        found = Verification.model_validate_json(data, strict=True)
    except (MibenchError, ValidationError):
        return None  # a board shows less then, never more
    return found if found.record == digest and found.findings else None
