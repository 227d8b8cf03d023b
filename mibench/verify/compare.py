"""A number as a record claims it, beside the same number computed anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mibench.leaderboard.checks import HEADLINE
from mibench.record import MetricValue, missing

Verdict = Literal["agrees", "differs", "cannot be checked here"]
UNCHECKED: Verdict = "cannot be checked here"

EXACT = 1e-9
ABSENT = missing("the record says nothing of it")

_RELATIVE = 1e-3
# Counted like hits, and recorded without them.
_COUNTS = ("precision", "recall", "density", "coverage", "identity_bits", "median_rank")
# Metrics that need weights which a machine may lack.
_MAY_BE_MISSING = ("fid", "fid_successful")


@dataclass(frozen=True)
class Comparison:
    """A number as claimed and as found.

    Attributes:
        note: what differs, what was allowed, or why it could not be checked.
    """

    name: str
    claimed: float | None
    found: float | None
    verdict: Verdict
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.note or 'the value'}"


def of(verdict: Verdict, comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with a verdict."""
    return [each for each in comparisons if each.verdict == verdict]


def compare(name: str, claimed: MetricValue, found: MetricValue, flips: int) -> Comparison:
    """Compare a metric as claimed with the same metric computed anew.

    Args:
        name: the metric.
        claimed: the record's.
        found: computed from the record's reconstructions.
        flips: how many samples may be judged otherwise (0 on the same kind of device).
    """
    if claimed.value is None:
        note = "missing in both" if found.value is None else "not claimed"
        hidden = found.value is not None and name not in _MAY_BE_MISSING
        return Comparison(name, None, found.value, "differs" if hidden else "agrees", note)
    if found.value is None:
        return Comparison(name, claimed.value, None, UNCHECKED, found.reason or "")
    problem = _problem(name, claimed, found, flips)
    verdict: Verdict = "differs" if problem else "agrees"
    return Comparison(name, claimed.value, found.value, verdict, problem)


def together(name: str, each: Sequence[Comparison]) -> Comparison:
    """The comparisons of a reference's metrics as one, by its headline."""
    headline = next((c for c in each if c.name == HEADLINE), each[0])
    wrong = of("differs", each) or of(UNCHECKED, each)
    verdict: Verdict = wrong[0].verdict if wrong else "agrees"
    note = "; ".join(f"{c.name}: {c.note}" for c in wrong[:3])
    return Comparison(name, headline.claimed, headline.found, verdict, note)


def _problem(name: str, claimed: MetricValue, found: MetricValue, flips: int) -> str:
    """What of a metric differs by more than it may; empty for nothing."""
    n, value, theirs = found.n or 1, found.value or 0.0, claimed.value or 0.0
    if claimed.n != found.n:
        return f"n is {found.n}, not {claimed.n}"
    if found.hits is not None:
        mine, other = "".join(found.hits), "".join(claimed.hits or ())
        if len(mine) != len(other):
            return f"there are hits of {len(other)} samples, not {len(mine)}"
        differing = sum(a != b for a, b in zip(mine, other, strict=True))
        if differing > flips:
            return f"{differing} of {n} samples are judged otherwise"
    if found.ranks is not None:
        pair = [
            [rank for row in each or () for rank in row] for each in (found.ranks, claimed.ranks)
        ]
        if len(pair[0]) != len(pair[1]) or found.among != claimed.among:
            return f"there are ranks of {len(pair[1])} samples among {claimed.among}"
        # On another device the last digits of embeddings are others, and some ranks with them.
        most = [(1 + 10 * _RELATIVE * a) if flips else _RELATIVE * a for a in pair[0]]
        triples = zip(*pair, most, strict=True)
        differing = sum(abs(a - b) > allowed for a, b, allowed in triples)
        if differing > flips:
            return f"{differing} of {n} samples rank otherwise"
        if flips:
            return ""  # its value and interval are those that the ranks give
    counted = found.hits is not None or name in _COUNTS
    relative = 0.0 if found.hits is not None else _RELATIVE
    slack = EXACT + (flips / n if counted else 0)
    if abs(theirs - value) > relative * abs(value) + slack:
        return "the value"
    if bool(claimed.interval) != bool(found.interval):
        return "the interval is missing, or there is one"
    if claimed.interval and found.interval:
        width = found.interval[1] - found.interval[0]
        ends = zip(claimed.interval, found.interval, strict=True)
        if any(abs(a - b) > relative * (abs(value) + width) + slack for a, b in ends):
            return "the interval"
    if found.per_identity is not None:
        values = claimed.per_identity or ()
        if len(values) != len(found.per_identity):
            return "values per identity are missing"
        allowed = relative * max(map(abs, found.per_identity)) + EXACT
        pairs = zip(values, found.per_identity, strict=True)
        # A sample that is judged otherwise changes the value of its own identity only.
        if sum(abs(a - b) > allowed for a, b in pairs) > (flips if counted else 0):
            return "values per identity"
    return ""
