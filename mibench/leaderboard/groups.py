"""Cells with their seeds together: what rows and points are made of."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mibench.leaderboard.board import Value
from mibench.leaderboard.checks import setting
from mibench.leaderboard.fit import number
from mibench.leaderboard.names import method_label, overrides
from mibench.leaderboard.records import Filed
from mibench.leaderboard.settings import Settings
from mibench.record import Record
from mibench.types import canonical_json

UNDEFENDED = "none"
DASH = Value(text="—")

_LONG = 300  # characters of settings that a table shows


@dataclass(frozen=True)
class Group:
    """The records of one cell at all its seeds.

    Attributes:
        attack, defense, target: names, as tables show them.
        filed: the records, in the order of seeds.
        knob: path of the defense's main knob, None where ``boards.toml`` names none.
    """

    attack: str
    defense: str
    target: str
    filed: tuple[Filed, ...]
    knob: str | None

    @functools.cached_property
    def passed(self) -> dict[str, Any]:
        """What was passed through ``--set``."""
        return overrides(self.first)

    @property
    def first(self) -> Record:
        """The record of the first seed."""
        return self.filed[0].record

    @property
    def default(self) -> bool:
        """Whether everything is as the protocol and the methods have it."""
        return not self.passed

    @property
    def swept(self) -> bool:
        """Whether nothing but the defense's main knob was set."""
        return self.knob is not None and set(self.passed) == {self.knob}

    @property
    def control(self) -> bool:
        """Whether it is the defense's control: the main knob at 0."""
        return self.swept and self.strength == 0 and str(self.knob).startswith("defense.")

    @property
    def strength(self) -> float | None:
        """Value of the main knob; None where there is none, or it is not a number."""
        return None if self.knob is None else strength_of(self.first, self.knob)

    @functools.cached_property
    def complete(self) -> tuple[Filed, ...]:
        """The records that did not diverge."""
        return tuple(each for each in self.filed if each.record.status == "complete")

    @property
    def diverged(self) -> tuple[int, ...]:
        """Seeds that diverged."""
        return tuple(each.record.seed for each in self.filed if each.record.status == "diverged")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds behind the numbers."""
        return tuple(each.record.seed for each in self.complete)

    @property
    def files(self) -> tuple[str, ...]:
        """Record files, relative to the records folder."""
        return tuple(each.path for each in self.filed)

    def metric(self, key: str) -> Value:
        """Mean and spread of a metric over seeds; a dash where a seed lacks it."""
        found = [r.metrics[key].value for r in self._records() if key in r.metrics]
        return self._mean(found)

    def utility(self, key: str) -> Value:
        """Mean and spread of a number of ``utility`` over seeds; a dash where a seed lacks it."""
        found = [r.utility.get(key) for r in self._records()]
        return self._mean([number(value) for value in found])

    def _records(self) -> list[Record]:
        return [each.record for each in self.complete]

    def _mean(self, values: Sequence[float | None]) -> Value:
        if not self.complete:
            return Value(text="diverged")
        if len(values) < len(self.complete) or any(value is None for value in values):
            return DASH
        return over_seeds([value for value in values if value is not None])


def strength_of(record: Record, knob: str) -> float | None:
    """A record's number at the path of a main knob, as ``"defense.scale"``; None without one."""
    value = setting(record, knob)
    if value is None:  # found in training, as noise for a given ε, and reported with ε
        value = record.utility.get(knob.partition(".")[2])
    return number(value)


def over_seeds(values: Sequence[float]) -> Value:
    """Mean of one value a seed, with their standard deviation where there are two or more."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Value(number=statistics.mean(values), spread=spread)


def group(filed: Iterable[Filed], settings: Settings) -> list[Group]:
    """Records of a protocol as cells with all their seeds, in the order of their names."""
    found: dict[tuple[str, ...], list[Filed]] = {}
    for each in filed:
        record = each.record
        names = [method_label(part) for part in (record.target, record.defense, record.attack)]
        found.setdefault((*names, canonical_json(overrides(record))), []).append(each)
    return [
        Group(
            attack=attack,
            defense=defense,
            target=target,
            filed=tuple(sorted(records, key=lambda f: f.record.seed)),
            knob=settings.strengths.get(defense),
        )
        for (target, defense, attack, _), records in sorted(found.items())
    ]


def settings_of(record: Record) -> str:
    """What was passed through ``--set``, ``"defense.scale=0"``; empty for nothing."""
    text = ", ".join(f"{path}={value}" for path, value in sorted(overrides(record).items()))
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


def seeds_text(seeds: Sequence[int]) -> str:
    """``"0–2"`` for 0, 1, 2; ``"0, 2"`` where one is missing."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds)) or "—"


def default_groups(groups: Iterable[Group]) -> dict[tuple[str, str, str], Group]:
    """Cells at default settings by (target, defense, attack)."""
    return {(g.target, g.defense, g.attack): g for g in groups if g.default}
