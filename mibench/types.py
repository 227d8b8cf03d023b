"""Frozen models, the cards of methods, and digests of what they hold."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# Marks a config's field as part of its budget, which a share (`--budget`) scales.
BUDGETED: dict[str, Any] = {"budgeted": True}
MEMORY: dict[str, Any] = {"memory": True}  # of a field that bounds memory, not results
# Of a field of a later release, whose default is how it was before: a record may lack it.
LATER: dict[str, Any] = {"later": True}
Access = Literal["white-box", "black-box", "label-only"]
# What a defense changes. `privacy`: it comes with a formal guarantee.
DefenseKind = Literal["loss", "data", "architecture", "training", "output", "privacy"]
Preset = Literal["small", "paper"]

# Strict: 1 is a seed, and neither true nor "1". Other readers of JSON keep 64 bits of an integer.
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Share = Annotated[float, Field(strict=True, gt=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=4096)]  # also a path: `mine.py:MyDefense`


class Frozen(BaseModel):
    """An immutable model that refuses unknown fields, NaN and infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Card(Frozen):
    """Where a method comes from, and how this implementation differs from it."""

    title: str
    authors: str
    year: int
    venue: str
    url: str
    reference_code: str | None = None
    deviations: tuple[str, ...] = ()


class AttackCard(Card):
    """Card of an attack."""


class DefenseCard(Card):
    """Card of a defense.

    Attributes:
        kind: what it changes; None: none of these.
        privacy_unit: what a formal guarantee protects; None without a guarantee.
        adaptive_attack: name of the attack that it should be tested with since that knows of it:
            ``"improved-gmi+taa"``; None where no attack that is here does.
        adaptive_note: why that one, or why there is none; one sentence.
    """

    kind: DefenseKind | None = None
    privacy_unit: Literal["example", "identity"] | None = None
    adaptive_attack: str | None = None
    adaptive_note: str = ""

    @property
    def filters(self) -> bool:
        """Whether it changes answers alone, which whoever has the weights takes off."""
        return self.kind == "output"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
