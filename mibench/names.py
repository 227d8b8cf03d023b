"""What attacks and cells are called: one place that takes names apart and puts them together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mibench.errors import RequestError
from mibench.settings import plain_settings
from mibench.types import digest

IMPROVEMENTS = {  # of an attack that optimises an identity loss, by (lom, ma)
    (False, False): "",
    (True, False): "with the improved objective",
    (False, True): "with model augmentation",
    (True, True): "with the improved objective and model augmentation",
}
Views = Literal["taa", "paa"]
VIEWS: dict[Views | None, str] = {  # that its loss is averaged over; they go with any improvement
    None: "",
    "taa": "averaged over transformed views",
    "paa": "averaged over noisy views",
}
REPEATED = "each question asked several times"
# What a protocol's fixed lists of attacks are called together; no attack can have the name.
STANDARD = "standard"
STANDARD_SET = (
    "a set of attacks, all those of the protocol's lists: `mibench run --attack standard`, a "
    "grid's `attacks` and mibench.standard() take it"
)
UNTRAPPED = "on a copy of the target that ignores its triggers"
_READABLE = re.compile(r"[A-Za-z0-9+.-]{1,24}")


@dataclass(frozen=True)
class AttackName:
    """An attack's name taken apart: the base attack and what is changed of it.

    Attributes:
        base: a registered name, or ``path/to/file.py:Class`` as it was asked for; of a resolved
            cell, the name that the attack has everywhere.
        lom: the improved objective. ma: model augmentation.
        views: what the identity loss is averaged over; None: the image as it is.
        repeat: whether each question is asked several times, of an attack without white-box access.
        untrap: a copy of the target is attacked that ignores its trapdoors' triggers.
    """

    base: str
    lom: bool = False
    ma: bool = False
    views: Views | None = None
    repeat: bool = False
    untrap: bool = False

    @property
    def improves(self) -> bool:
        """Whether it changes the identity loss, or what that is of."""
        return self.lom or self.ma or self.views is not None or self.untrap

    @property
    def full(self) -> str:
        """The name that records and boards use."""
        last = f"+{self.views}" if self.views else ""
        last += "+untrap" * self.untrap + "+repeat" * self.repeat
        if self.lom and self.ma:
            return f"improved-{self.base}{last}"
        return self.base + ("+lom" if self.lom else "") + ("+ma" if self.ma else "") + last

    @classmethod
    def parse(cls, name: str, *, strict: bool = True) -> AttackName:
        """Read ``X``, ``X+lom``, ``X+ma``, ``X+lom+ma`` or ``improved-X``, each with ``+taa``.

        X may be a file's class. ``+paa`` stands where ``+taa`` does, and ``+untrap`` with any.
        ``X+repeat`` stands alone.

        Args:
            strict: False, of a stranger's record: what is wrong behind a ``+`` is left out.

        Raises:
            RequestError: a part after ``+`` is unknown, is there twice, or excludes another one.
        """
        improved = name.startswith("improved-")
        path, colon, last = name.removeprefix("improved-").rpartition(":")  # a path may hold a +
        last, *parts = last.split("+")
        views: list[Views] = [each for each in VIEWS if each is not None and each in parts]
        if strict and improved and {"lom", "ma"} & set(parts):
            raise RequestError(f"attack {name!r}: `improved-` already holds +lom and +ma")
        known = {"lom", "ma", "repeat", "untrap", *VIEWS}
        if strict and (not set(parts) <= known or len(set(parts)) != len(parts)):
            raise RequestError(
                f"attack {name!r}: after `+` may come lom and ma, taa or paa, and untrap, once "
                "each; or repeat"
            )
        if strict and "repeat" in parts and (improved or len(parts) > 1):
            raise RequestError(
                f"attack {name!r}: +repeat is for attacks that only ask the target, the others for "
                "those that have its weights; leave one out"
            )
        if strict and len(views) > 1:
            raise RequestError(
                f"attack {name!r}: +taa and +paa are two kinds of views to average over; choose one"
            )
        return cls(
            path + colon + last,
            improved or "lom" in parts,
            improved or "ma" in parts,
            views[0] if views else None,
            "repeat" in parts,
            "untrap" in parts,
        )


def variants(base: str) -> list[str]:
    """The names of an attack that optimises an identity loss, its own first."""
    return [
        AttackName(base, lom, ma, views, untrap=untrap).full
        for untrap in (False, True)
        for views in VIEWS
        for lom, ma in IMPROVEMENTS
    ]


def asking_variants(base: str) -> list[str]:
    """The names of an attack without white-box access, its own first."""
    return [base, AttackName(base, repeat=True).full]


def method_label(name: str, source: str | None) -> str:
    """A method as files and tables call it; one of an outside file with its source's digest.

    Two authors' files may hold a class of one name.
    """
    return name if source is None else f"{name}@{source[:8]}"


def cell_name(
    *, attack: str, defense: str, target: str, seed: int, passed: Mapping[str, Any]
) -> str:
    """``<attack>_<defense>[-<settings>]_<architecture>_seed<N>``: a cell's file or folder.

    Args:
        attack, defense: their labels (:func:`method_label`).
        passed: everything that was passed through ``--set``.
    """
    settings = f"-{_token(plain_settings(passed))}" if passed else ""
    return f"{attack}_{defense}{settings}_{target}_seed{seed}"


def _token(passed: Mapping[str, Any]) -> str:
    """A short text for settings: ``scale=0`` for one that is short itself, else a digest."""
    if len(passed) == 1:
        path, value = next(iter(passed.items()))
        text = value if isinstance(value, str) else json.dumps(value)
        if path.startswith(("defense.", "target.")) and _READABLE.fullmatch(text):
            return f"{path.removeprefix('defense.')}={text}"
    return digest(passed)[:8]
