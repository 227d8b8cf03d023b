"""Runs beside each other: what goes together, and paired differences with their intervals."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mibench.errors import MibenchError, RequestError
from mibench.leaderboard.board import Value, measure_of
from mibench.leaderboard.names import method_label, overrides, reconstructions
from mibench.leaderboard.records import ALIKE
from mibench.leaderboard.series import paired, target_of
from mibench.metrics import METRICS
from mibench.metrics.catalogue import HIGHER
from mibench.progress import ABSENT
from mibench.record import BoardCard, Record
from mibench.reports import words
from mibench.types import canonical_json

MOST = len(string.ascii_uppercase)  # runs: each has a letter

# Comparisons with look-up on one target; what a bad target does to look-up is in them.
_OF_LOOKUP = ("excess_bits", "excess_bits_best")
# A mean over people of differences of ranks is that of the few who are far down the list.
_UNPAIRED = (*_OF_LOOKUP, "median_rank")


@dataclass(frozen=True)
class Run:
    """One of the runs: its letter, and its record with the file that holds it."""

    letter: str
    path: Path
    record: Record

    @property
    def title(self) -> str:
        """Which cell it is of."""
        settings = ", ".join(f"{k}={v}" for k, v in sorted(overrides(self.record).items()))
        return words.headline(self.record) + (f" · {settings}" if settings else "")


@dataclass(frozen=True)
class Row:
    """A metric of every run, and its difference to the first.

    Attributes:
        metric: its name; title: what a reader sees, with the direction.
        values: of each run, as text with their intervals.
        differences: of each run but the first, that run minus the first; None where there is no
            pair of values for each person.
    """

    metric: str
    title: str
    values: tuple[str, ...]
    differences: tuple[Value | None, ...]

    def shown(self, place: int) -> str:
        """A difference as text: ``"+0.34 [0.11, 0.57]"``; a dash where there is none."""
        found = self.differences[place]
        if found is None or found.number is None:
            return ABSENT
        text = words.number(self.metric, found.number).removesuffix(" %")
        if found.number > 0:
            text = f"+{text}"
        if found.interval is not None:
            ends = (words.number(self.metric, each).removesuffix(" %") for each in found.interval)
            text += f" [{', '.join(ends)}]"
        return text.replace("-", "−")

    def leaks(self, place: int) -> str:
        """``"more"`` or ``"less"`` where the interval says so of the later run; else empty."""
        found = self.differences[place]
        if found is None or found.interval is None or self.metric not in METRICS:
            return ""
        low, high = found.interval
        if low <= 0 <= high:
            return ""
        return "more" if (low > 0) == (METRICS[self.metric].direction == HIGHER) else "less"


@dataclass(frozen=True)
class Comparison:
    """Runs of one protocol on the same identities.

    Attributes:
        runs: in the order given; all are compared with the first.
        rows: the metrics that some run has, those of who a person is first.
        headlines: what the comparison says, a sentence for each run but the first.
        notes: what a reader must know of these differences.
        same_target: whether all runs attacked one and the same trained target.
    """

    runs: tuple[Run, ...]
    rows: tuple[Row, ...]
    headlines: tuple[str, ...]
    notes: tuple[str, ...]
    same_target: bool

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values; differences are in the metric's own unit."""
        return {
            "runs": [
                {
                    "letter": run.letter,
                    "record": str(run.path),
                    "cell": run.title,
                    "status": run.record.status,
                    "metrics": {
                        row.metric: found.model_dump(
                            mode="json", include={"value", "interval", "n", "reason"}
                        )
                        for row in self.rows
                        if (found := run.record.metrics.get(row.metric))
                    },
                }
                for run in self.runs
            ],
            "differences": [
                {
                    "metric": row.metric,
                    "run": run.letter,
                    "minus": self.runs[0].letter,
                    "mean": found.number,
                    "interval": found.interval and list(found.interval),
                    "leaks": row.leaks(place) or None,
                }
                for row in self.rows
                for place, (run, found) in enumerate(
                    zip(self.runs[1:], row.differences, strict=True)
                )
                if found is not None
            ],
            "same_target": self.same_target,
            "headlines": list(self.headlines),
            "notes": list(self.notes),
        }


def compared(told: Sequence[tuple[Path, Record]]) -> Comparison:
    """Compare records, each with the file that holds it, person by person.

    Raises:
        RequestError: there are fewer than two, or more than there are letters.
        MibenchError: two do not compare; the message says why.
    """
    if not 2 <= len(told) <= MOST:
        raise RequestError(f"name 2 to {MOST} runs to compare; there are {len(told)}")
    runs = tuple(Run(letter, *each) for letter, each in zip(string.ascii_uppercase, told))  # noqa: B905
    for run in runs[1:]:
        if reasons := unlike(runs[0].record, run.record):
            raise MibenchError(
                f"{runs[0].path} and {run.path} do not compare: {'; '.join(reasons)}"
            )
    targets = [target_of(run.record) for run in runs]
    same = None not in targets and len(set(targets)) == 1
    names = dict.fromkeys(name for run in runs for name in run.record.metrics)
    rows = []
    for metric in words.in_order(names):
        if metric in _OF_LOOKUP and not same:
            continue
        found = [run.record.metrics.get(metric) for run in runs]
        if all(each is None or each.value is None for each in found):
            continue
        values = (ABSENT if e is None else words.with_interval(metric, e) for e in found)
        differences = (_difference(metric, runs[0].record, run.record) for run in runs[1:])
        rows.append(Row(metric, words.with_direction(metric), tuple(values), tuple(differences)))
    return Comparison(
        runs,
        tuple(rows),
        tuple(_headline(runs, place, rows) for place in range(len(runs) - 1)),
        tuple(_notes(runs, targets, same)),
        same,
    )


def unlike(one: Record, other: Record) -> list[str]:
    """Why two records do not compare; empty for two that do."""
    if one.protocol.name != other.protocol.name:
        return [f"their protocols are {one.protocol.name} and {other.protocol.name}"]
    if one.protocol.version != other.protocol.version:
        versions = f"{one.protocol.version} and {other.protocol.version}"
        return [f"they are of {one.protocol.name} in the versions {versions}"]
    found = []
    if one.protocol.source != other.protocol.source:
        found.append("their protocols have one name, and are not one card")
    if one.rules != other.rules:
        found.append(
            f"their metrics are by the rules of version {one.rules} and {other.rules}; run the "
            "earlier one again"
        )
    digests = [str(each.protocol.resolved["digest"])[:12] for each in (one, other)]
    if canonical_json(one.protocol.passed) != canonical_json(other.protocol.passed):
        passed = (_settings(each.protocol.passed) for each in (one, other))
        found.append(f"of the protocol was changed: {'; of the other '.join(passed)}")
    elif digests[0] != digests[1]:
        found.append(f"their protocols' cards differ (digests {digests[0]}… and {digests[1]}…)")
    if one.status == other.status == "complete" and not found:
        if _people(one) != _people(other):
            found.append(f"they attack {_people(one):,} and {_people(other):,} identities")
        found += [
            f"not the same in both: {what.rpartition(': ')[2]}"
            for what, value in ALIKE.items()
            if value(one) != value(other)
        ]
    return found


def _settings(passed: dict[str, Any]) -> str:
    return ", ".join(f"{path}={value}" for path, value in sorted(passed.items())) or "nothing"


def _people(record: Record) -> int:
    found = record.metrics.get(measure_of(record).key) or next(iter(record.metrics.values()), None)
    return len(found.per_identity or ()) if found else 0


def _difference(metric: str, one: Record, other: Record) -> Value | None:
    """The later run minus the first, as boards pair them."""
    if metric in _UNPAIRED:
        return None
    theirs, mine = (each.metrics.get(metric) for each in (one, other))
    if mine is None or theirs is None or not mine.per_identity or not theirs.per_identity:
        return None
    if len(mine.per_identity) != len(theirs.per_identity):
        return None
    rows = [[a - b for a, b in zip(mine.per_identity, theirs.per_identity, strict=True)]]
    return paired(rows, _card(one))


def _card(record: Record) -> BoardCard:
    """What the protocol's intervals are over; identities where its card does not say."""
    board = record.protocol.resolved.get("board")
    over = board.get("interval") if isinstance(board, dict) else None
    return BoardCard(
        headline="", worst_case=(), interval="seeds" if over == "seeds" else "identities"
    )


def _headline(runs: Sequence[Run], place: int, rows: Sequence[Row]) -> str:
    one, other = _called(runs, 0), _called(runs, place + 1)
    if "diverged" in (runs[0].record.status, runs[place + 1].record.status):
        return f"{other} and {one} cannot be compared: a run that diverged has no numbers."
    measure = measure_of(runs[0].record)
    row = next((each for each in rows if each.metric == measure.key), None)
    difference = row.differences[place] if row else None
    if row is None or difference is None or difference.number is None:
        return f"Of {other} and {one} there are no {measure.title} of each person to pair."
    said = f"{row.shown(place)} {measure.unit.replace('%', 'points')}"
    if difference.interval is None:
        return f"{other} − {one}: {said} of {measure.title}, without an interval."
    verb = "leaks" if measure.key == "identity_bits" else "is recognised"
    if more := row.leaks(place):
        return f"{other} {verb} {more} than {one}: {said}."
    return f"No difference is shown between {other} and {one}: {said}."


def _called(runs: Sequence[Run], place: int) -> str:
    """``"B (kedmi)"``: a run's letter, with the first that it differs in from another one."""
    said = [values[place] for values in differing(runs).values()]
    return runs[place].letter + (f" ({said[0]})" if said else "")


def _notes(runs: Sequence[Run], targets: Sequence[Any], same: bool) -> list[str]:
    first, found = runs[0], []
    if same:
        found.append("All runs attack the same trained target: differences are between attacks.")
    else:
        others = [
            run.letter
            for run, target in zip(runs[1:], targets[1:], strict=True)
            if target is None or target != targets[0]
        ]
        found.append(
            f"Targets differ ({', '.join([first.letter, *others])}): a difference is one of whole "
            "cells, the luck of two trainings in it. A difference of attacks is not paired by "
            "target here; of defenses, one seed says little."
        )
        found.append(
            "Excess over look-up is left out: it is never compared between targets or defenses, "
            "as a bad target weakens look-up, too."
        )
    if _card(first.record).interval == "seeds":
        found.append(
            "This protocol's intervals are over seeds, of which one run has one: differences have "
            "none here. `mibench leaderboard` compares several seeds."
        )
    else:
        found.append(
            "Differences are paired by person; intervals are for 95 %, over people, conditional on "
            "the seeds, and hold for each row by itself."
        )
    every = [words.warnings(run.record) for run in runs]
    shared = [each for each in every[0] if all(each in own for own in every)]
    found += shared
    seen: dict[tuple[str, ...], str] = {}
    for run, own in zip(runs, every, strict=True):
        files = tuple(reconstructions(run.record).values())
        if files and files in seen:
            found.append(f"{run.letter} has the same reconstructions as {seen[files]}.")
        seen.setdefault(files, run.letter)
        found += [f"{run.letter}: {each}" for each in own if each not in shared]
        if run.record.status == "diverged":
            found.append(f"{run.letter} diverged: it has no numbers.")
    if first.record.nominal:
        found.append(f"Ranks and bits are nominal: the decoys are {first.record.nominal}.")
    return found


def differing(runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    """What the runs differ in: a value a run, by name."""
    said: dict[str, list[str]] = {
        "attack": [method_label(run.record.attack) for run in runs],
        "access": [run.record.access for run in runs],
        "target": [run.record.target.name for run in runs],
        "defense": [method_label(run.record.defense) for run in runs],
        "prior": [run.record.prior.recipe for run in runs],
        "seed": [str(run.record.seed) for run in runs],
    }
    for path in sorted({path for run in runs for path in overrides(run.record)}):
        said[path] = [str(overrides(run.record).get(path, ABSENT)) for run in runs]
    return {name: tuple(values) for name, values in said.items() if len(set(values)) > 1}
