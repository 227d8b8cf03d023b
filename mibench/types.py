"""Frozen models, the cards of methods, and digests of what they hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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

Channel = Annotated[float, Field(ge=-1e6, le=1e6)]
Triple = tuple[Channel, Channel, Channel]
Answers = Literal["logits", "scores", "labels"]
# The most that an attack can be given of a network that answers so.
ACCESS_OF: dict[Answers, Access] = {
    "logits": "white-box",
    "scores": "black-box",
    "labels": "label-only",
}


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
        undefended_control: whether at strength 0 it trains and deploys, bit by bit, what ``none``
            does from the same random numbers: ``none`` is its control then.
    """

    kind: DefenseKind | None = None
    privacy_unit: Literal["example", "identity"] | None = None
    adaptive_attack: str | None = None
    adaptive_note: str = ""
    undefended_control: bool = False

    @property
    def filters(self) -> bool:
        """Whether it changes answers alone, which whoever has the weights takes off."""
        return self.kind == "output"


class GivenModel(Frozen):
    """Where a network comes from that somebody else trained, and what it takes and answers."""

    model: Name = Field(
        description="a timm architecture; `FILE.py:function`; a TorchScript file `.pt`; a "
        "`torch.export` file `.pt2`",
    )
    weights: Name | None = Field(
        None, description="safetensors file, or a state dict of tensors alone (.pth, .pt, .bin)"
    )
    size: int = Field(64, ge=8, le=1024, description="height and width of its images, in pixels")
    mean: Triple | None = Field(
        None,
        description="subtracted from each channel of images in [0, 1]; null: timm's own for a "
        "timm architecture, else nothing is",
    )
    std: Triple | None = Field(None, description="each channel is then divided by this")
    channels: Literal["rgb", "bgr"] = Field("rgb", description="order of its images' channels")
    answers: Answers = Field(
        "logits",
        description="`logits`: it is a network; `scores` or `labels`: `FILE.py:function` is a "
        "function from images `(n, 3, h, w)` to scores `(n, classes)` or labels `(n,)`",
    )
    stochastic: bool = Field(
        False, description="whether the deployed network draws noise on purpose at inference"
    )

    @model_validator(mode="after")
    def _fits(self) -> GivenModel:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give `mean` and `std`, or neither")
        if self.std is not None and min(self.std) < 1e-6:
            raise ValueError("`std` must be at least 1e-6")
        if self.answers != "logits" and not self.of_file:
            raise ValueError("a function that answers is named as FILE.py:function")
        if self.weights is not None and (self.answers != "logits" or self.exported):
            raise ValueError("`weights` are for an architecture or a function that builds one")
        return self

    @property
    def of_file(self) -> bool:
        """Whether it is named as something in a file of Python."""
        return ".py:" in self.model

    @property
    def exported(self) -> str:
        """``".pt"`` or ``".pt2"`` of a file that holds the whole network, else ``""``."""
        end = Path(self.model).suffix
        return end if end in (".pt", ".pt2") and not self.of_file else ""

    @property
    def access(self) -> Access:
        """The most that an attack can be given of it."""
        return ACCESS_OF[self.answers]

    @property
    def label(self) -> str:
        """What texts call it: its file's name, wherever that lies."""
        return Path(self.model).name


class GivenPrior(Frozen):
    """Where an image prior comes from that somebody else trained."""

    model: Name = Field(
        pattern=r"\.py:",
        description="`FILE.py:function`, which returns a module from latents `(n, latent)`, "
        "standard normal, to images `(n, 3, h, w)` in [0, 1]",
    )
    weights: Name | None = Field(
        None, description="safetensors file, or a state dict of tensors alone (.pth, .pt, .bin)"
    )
    latent: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="dimensions of a latent; null: the module's attribute `latent`",
    )


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
