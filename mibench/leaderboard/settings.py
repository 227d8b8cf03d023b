"""``boards.toml``: what each board shows beside the records."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import ValidationError, field_validator

from mibench.errors import MibenchError
from mibench.files import read_plain
from mibench.types import Frozen

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "boards.toml"


class BoardSettings(Frozen):
    """How one protocol's board is made.

    Attributes:
        headline: the attack of curves and ranks.
        worst_case: the fixed set of attacks behind the worst case.
        interval: what the intervals of differences are over: the seeds where a protocol has but a
            handful of classes.
    """

    title: str
    headline: str
    worst_case: tuple[str, ...]
    interval: Literal["identities", "seeds"] = "identities"


class Settings(Frozen):
    """The file ``boards.toml``.

    Attributes:
        strengths: path of each defense's main knob, as ``"defense.scale"`` or ``"target.epochs"``.
        protocols: settings of each protocol's board.
    """

    strengths: dict[str, str]
    protocols: dict[str, BoardSettings]

    @field_validator("strengths")
    @classmethod
    def _known_parts(cls, strengths: dict[str, str]) -> dict[str, str]:
        for defense, path in strengths.items():
            part, _, field = path.partition(".")
            if part not in ("defense", "target") or not field:
                raise ValueError(f"{defense} = {path!r}: write defense.FIELD or target.FIELD")
        return strengths

    def of(self, protocol: str) -> BoardSettings:
        """The settings of a protocol's board.

        Raises:
            MibenchError: the file has none.
        """
        if protocol not in self.protocols:
            raise MibenchError(
                f"{FILE} says nothing of the protocol {protocol!r}, which has records: add a "
                f"section [protocols.{protocol}] with title, headline and worst_case"
            )
        return self.protocols[protocol]


def read_settings(folder: Path) -> Settings:
    """Read ``boards.toml`` of a leaderboards folder.

    Raises:
        MibenchError: it is absent, a link or no file, no TOML, or has unknown or missing fields.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        raise MibenchError(
            f"there is no {path}: it names each board's attacks; take the one of mibench's "
            "repository, leaderboards/boards.toml, as a start"
        )
    try:
        text = read_plain(path, "the file of boards").decode("utf-8-sig")
        return Settings.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MibenchError(f"{path} is no TOML: {error}") from error
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(map(str, found["loc"]))
        raise MibenchError(f"{path}: {place}: {found['msg']}") from error
