"""The schema of records: what a cell came to, and everything that a leaderboard knows of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from mibench.types import Access, Frozen, digest

SCHEMA_VERSION: Literal[2] = 2
RULES_VERSION = 2  # of the metrics' rules; records of schema 1 were made by version 1
# The artifact that a record names when the data set lacks pictures.
INCOMPLETE = "incomplete images"
# Images beside the reconstructions, which bound every attack.
FLOOR_PRIOR = "floor: random prior samples"
FLOOR_PUBLIC = "floor: public images that the target scores highest"
CEILING = "ceiling: private test images"
REFERENCES = (FLOOR_PRIOR, FLOOR_PUBLIC, CEILING)

Interval = tuple[float, float]


def protocol_digest(card: Mapping[str, Any]) -> str:
    """SHA-256 of a protocol card as JSON.

    Methods' settings, which each record states itself, and notes are left out; so are fields of
    later releases that say nothing, for cards to keep the digest they had before there were any.
    """
    apart = {"digest", "attacks", "defenses", "notes"}
    later: dict[str, Any] = {
        "initialisation": {},
        "prior_seed": None,
        "judges_know_public": False,
        "split": None,
        "gan.architecture": "dcgan",
        "gan.schedule": "linear",
        "gan.mirror": True,
        "evaluator.kind": "classifier",
        "evaluator.options": {},
        "second.kind": "classifier",
        "second.options": {},
    }

    def told(values: Mapping[str, Any], parents: str = "") -> dict[str, Any]:
        kept = {}
        for name, value in values.items():
            path = parents + name
            if path in later and value == later[path]:
                continue
            parted = isinstance(value, Mapping) and any(
                each.startswith(path + ".") for each in later
            )
            kept[name] = told(value, path + ".") if parted else value
        return kept

    return digest(told({name: value for name, value in card.items() if name not in apart}))


class MetricValue(Frozen):
    """A number with what it was computed over.

    Attributes:
        value: the metric, or None when it could not be computed (then ``reason`` says why).
        n: how many images it was computed over.
        interval: 95 % interval.
        interval_over: what the interval resamples (``"identities"``, ``"identity subsamples"``).
        per_identity: one value per attacked identity where the metric has them.
        hits: for accuracies, a text of 0s and 1s per identity, a character a sample.
    """

    value: float | None
    n: int | None = None
    interval: Interval | None = None
    interval_over: str | None = None
    per_identity: tuple[float, ...] | None = None
    hits: tuple[str, ...] | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _absent_has_a_reason(self) -> MetricValue:
        if self.value is None and not self.reason:
            raise ValueError("a metric without a value needs a reason")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError("a metric that is not finite is null with a reason")
        return self


def missing(reason: str) -> MetricValue:
    """The value of a metric that could not be computed."""
    return MetricValue(value=None, reason=reason)


class Part(Frozen):
    """One of a cell's four parts: its name, what was passed, and what that resolved to.

    Attributes:
        source: SHA-256 of the normalised source, with the modules that it reaches by import, of a
            method that is not one of mibench's own files; of a protocol, of a card and of judges
            that are not; None for mibench's own.
    """

    name: str
    version: int | None = None
    source: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    passed: dict[str, Any]
    resolved: dict[str, Any]


class Environment(Frozen):
    """Where a record or a stage was made, and with what."""

    mibench: str
    commit: str | None
    dirty: bool | None
    python: str
    torch: str
    timm: str
    opacus: str
    device: str
    threads: int
    platform: str


class StageCost(Frozen):
    """What a stage cost when it was computed (``cached``: in an earlier run).

    Attributes:
        maker: where and with what it was computed then; None in records of earlier releases.
    """

    stage: str
    key: str
    cached: bool
    seconds: float = Field(ge=0)
    iterations: int | None = Field(None, ge=0)
    queries: int | None = Field(None, ge=0)
    peak_memory_bytes: int | None = Field(None, ge=0)
    maker: Environment | None = None


class Record(Frozen):
    """The result of one cell; accuracies are fractions in [0, 1].

    Attributes:
        schema_version: 1 and 2 are read; 2 has ``rules`` and the parts' ``source``.
        environment: what made the last stage, whoever prints it later; dirty if any stage's was.
        rules: version of the metrics' rules, by which the numbers are checked.
        verified_by: of schema 1, where it is always null in a filed record: who has verified a
            record is not for the record to say.
    """

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    rules: int = Field(1, ge=1, le=RULES_VERSION)
    status: Literal["complete", "diverged"]
    protocol: Part
    target: Part
    defense: Part
    attack: Part
    seed: int = Field(ge=0, lt=2**63)
    access: Access
    prior: str
    utility: dict[str, float | str | None]
    metrics: dict[str, MetricValue]
    references: dict[str, dict[str, MetricValue]]
    costs: tuple[StageCost, ...]
    artifacts: dict[str, str]
    environment: Environment
    command: str
    created: str
    verified_by: str | None = None

    def results(self) -> dict[str, Any]:
        """What an equal run must reproduce: all but cost, time, place and command."""
        volatile = {"costs", "environment", "command", "created", "verified_by"}
        return self.model_dump(mode="json", exclude=volatile)
