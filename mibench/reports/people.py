"""What a record says of each attacked person."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from mibench.leaderboard.checks import HEADLINE
from mibench.record import FLOOR_PUBLIC, MetricValue, Record

T = TypeVar("T")
_MOST_BITS = 64.0  # no list of people is longer than 2^64


@dataclass(frozen=True)
class Person:
    """An attacked identity; a number that the record lacks is None.

    Attributes:
        index: its place among the attacked ones, from 0.
        ranks: of its reconstructions, among the decoys and itself; empty without judges.
        median: the median of these.
        best: rank of the attacker's one best guess.
        bits: mean identity bits of its reconstructions; ``lookup_bits``: of look-up's images.
        lookup: the median rank of look-up's images.
        closer: whether the best guess is closer than the look-alike.
        hits: how many of its ``samples`` reconstructions the evaluator takes for it.
    """

    index: int
    ranks: tuple[int, ...]
    median: float | None
    best: int | None
    bits: float | None
    lookup_bits: float | None
    lookup: float | None
    closer: bool | None
    hits: int | None
    samples: int | None

    @property
    def excess(self) -> float | None:
        """Bits beyond look-up's."""
        if self.bits is None or self.lookup_bits is None:
            return None
        return self.bits - self.lookup_bits


def people(record: Record) -> list[Person]:
    """The attacked identities in the order of their labels."""
    metrics, lookup = record.metrics, record.references.get(FLOOR_PUBLIC, {})
    rank, top1, wins = (metrics.get(k) for k in ("median_rank", HEADLINE, "beats_lookalike"))
    ranks, theirs = (each.ranks if each else None for each in (rank, lookup.get("median_rank")))
    hits, closer = (each.hits if each else None for each in (top1, wins))
    best = _each(metrics.get("identity_bits_best"))
    bits, lookup_bits = (_each(each.get("identity_bits")) for each in (metrics, lookup))
    found = []
    for index in range(max(map(len, (ranks or (), hits or (), bits or ())))):
        own, others, row = _at(ranks, index), _at(theirs, index), _at(hits, index)
        guess, won = _at(best, index), _at(closer, index)
        found.append(
            Person(
                index=index,
                ranks=own or (),
                median=statistics.median(own) if own else None,
                best=_rank_of(guess, rank.among if rank else None),
                bits=_at(bits, index),
                lookup_bits=_at(lookup_bits, index),
                lookup=statistics.median(others) if others else None,
                closer=None if won is None else won == "1",
                hits=None if row is None else row.count("1"),
                samples=None if row is None else len(row),
            )
        )
    return found


def _rank_of(bits: float | None, among: int | None) -> int | None:
    """The rank that gives so many bits: p is rank / people, and bits are log₂(1/p)."""
    if bits is None or among is None:
        return None
    return max(1, round(among * 2 ** -min(max(bits, 0.0), _MOST_BITS)))


def _each(metric: MetricValue | None) -> Sequence[float] | None:
    return metric.per_identity if metric else None


def _at(values: Sequence[T] | None, index: int) -> T | None:
    return values[index] if values is not None and index < len(values) else None
