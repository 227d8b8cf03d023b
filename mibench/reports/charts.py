"""The curves of a report, as places in a drawing's own units."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mibench.record import CEILING, FLOOR_PRIOR, FLOOR_PUBLIC, Record
from mibench.reports.people import Person

# A drawing's size and the room around the plot: left, top, right, bottom. Letters are of 12 units,
# readable on a phone, which shows the whole width on 350 pixels.
WIDE, HIGH = 420, 280
LEFT, TOP, RIGHT, BOTTOM = 44, 12, 14, 44

_STEPS = 120  # places along a curve
_MOST_DOTS = 150  # people that are drawn; of more, evenly chosen ones
_MOST_PAIRS = 400
_SHARES = (0, 0.25, 0.5, 0.75, 1)
_AT = (1, 10, 100, 1000, 10_000)  # ranks that the numbers of the curve are told at


@dataclass(frozen=True)
class Tick:
    """A place on an axis, and what stands there."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A curve: ``kind`` is how it is drawn, ``points`` as SVG takes them."""

    kind: str
    name: str
    points: str


@dataclass(frozen=True)
class Dot:
    """A person in the drawing: the attack's bits and look-up's, and a hint."""

    x: float
    attack: float
    lookup: float | None
    more: bool
    hint: str


@dataclass(frozen=True)
class Pairs:
    """Bits of each person in two runs, a dot each, and the line where both know as much.

    Attributes:
        dots: their places across and up, and a hint; more: of how many the second knows more.
    """

    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    dots: tuple[tuple[float, float, str], ...]
    more: int
    people: int
    diagonal: str


@dataclass(frozen=True)
class Ranks:
    """How often the person is among the first so many.

    Attributes:
        numbers: a row a curve: its name, and its shares at :attr:`at`, in per cent.
    """

    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    lines: tuple[Line, ...]
    at: tuple[str, ...]
    numbers: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Bits:
    """Bits of each person, those first of whom most is known."""

    y: tuple[Tick, ...]
    dots: tuple[Dot, ...]
    more: int
    people: int


def rank_curves(record: Record) -> Ranks | None:
    """Shares of reconstructions by rank, beside the references' and chance; None without ranks."""
    metric = record.metrics.get("median_rank")
    if metric is None or not metric.ranks or not metric.among or metric.among < 2:
        return None
    among = metric.among
    sets = [("attack", "this attack", metric.ranks)]
    for kind, name, key in (
        ("lookup", "look-up", FLOOR_PUBLIC),
        ("ceiling", "private test images", CEILING),
        ("random", "random samples", FLOOR_PRIOR),
    ):
        found = record.references.get(key, {}).get("median_rank")
        if found is not None and found.ranks:
            sets.append((kind, name, found.ranks))
    places = [among ** (step / _STEPS) for step in range(_STEPS + 1)]
    lines, numbers = [], []
    told = [rank for rank in _AT if rank < among]
    for kind, name, ranks in sets:
        every = sorted(rank for row in ranks for rank in row)
        if every:
            lines.append(
                Line(kind, name, _path([(_x(p, among), _share(every, p)) for p in places]))
            )
            numbers.append((name, tuple(f"{100 * _share(every, at):.1f}" for at in told)))
    chance = [(_x(p, among), math.floor(p) / among) for p in places]
    lines.append(Line("chance", "knowing nothing, at most", _path(chance)))
    numbers.append(("knowing nothing, at most", tuple(f"{100 * at / among:.3g}" for at in told)))
    decades = [10**k for k in range(round(math.log10(among)) + 1) if 10**k <= among]
    return Ranks(
        tuple(Tick(_across(_x(rank, among)), _short(rank)) for rank in decades),
        tuple(Tick(_up(share), f"{100 * share:.0f} %") for share in _SHARES),
        tuple(lines),
        tuple(f"{rank:,}" for rank in told),
        tuple(numbers),
    )


def bits_by_person(people: Sequence[Person], among: int | None) -> Bits | None:
    """What is known of each person beside what look-up knows; None without bits."""
    known = [each for each in people if each.bits is not None]
    if not known or not among or among < 2:
        return None
    known.sort(key=lambda each: (-(each.bits or 0.0), each.index))
    more = sum(each.excess is not None and each.excess > 0 for each in known)
    step = max(1, math.ceil(len(known) / _MOST_DOTS))
    drawn, most = known[::step], math.log2(among)
    dots = []
    for place, each in enumerate(drawn):
        bits, lookup = each.bits or 0.0, each.lookup_bits
        hint = f"person {each.index + 1}: {bits:.1f} bits"
        hint += "" if lookup is None else f", look-up {lookup:.1f}"
        dots.append(
            Dot(
                x=_across((place + 0.5) / len(drawn)),
                attack=_up(_within(bits / most)),
                lookup=None if lookup is None else _up(_within(lookup / most)),
                more=each.excess is not None and each.excess > 0,
                hint=hint,
            )
        )
    space = 4 if most > 8 else 2
    ticks = tuple(Tick(_up(bits / most), str(bits)) for bits in range(0, int(most) + 1, space))
    return Bits(ticks, tuple(dots), more, len(known))


def pairs(one: Sequence[Person], other: Sequence[Person], among: int | None) -> Pairs | None:
    """Each person's bits in a run (across) and in another one (up); None without bits."""
    known = [(a, b) for a, b in zip(one, other, strict=False) if None not in (a.bits, b.bits)]
    if not known or not among or among < 2:
        return None
    most = math.log2(among)
    dots = [
        (
            _across(_within((a.bits or 0.0) / most)),
            _up(_within((b.bits or 0.0) / most)),
            f"person {a.index + 1}: {a.bits:.1f} and {b.bits:.1f} bits",
        )
        for a, b in known[:: max(1, math.ceil(len(known) / _MOST_PAIRS))]
    ]
    ticks = range(0, int(most) + 1, 4 if most > 8 else 2)
    return Pairs(
        tuple(Tick(_across(bits / most), str(bits)) for bits in ticks),
        tuple(Tick(_up(bits / most), str(bits)) for bits in ticks),
        tuple(dots),
        sum((b.bits or 0.0) > (a.bits or 0.0) for a, b in known),
        len(known),
        _path([(0.0, 0.0), (1.0, 1.0)]),
    )


def _short(rank: int) -> str:
    return f"{rank // 1000}k" if rank >= 10_000 else f"{rank:,}"


def _x(rank: float, among: int) -> float:
    return math.log(rank) / math.log(among)


def _share(ranks: Sequence[int], rank: float) -> float:
    return bisect.bisect_right(ranks, rank) / len(ranks)


def _within(share: float) -> float:
    return min(max(share, 0.0), 1.0)


def _across(share: float) -> float:
    return round(LEFT + share * (WIDE - LEFT - RIGHT), 1)


def _up(share: float) -> float:
    return round(HIGH - BOTTOM - share * (HIGH - TOP - BOTTOM), 1)


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Places in [0, 1]² as SVG's points; what lies on one level is one piece."""
    kept = [
        each
        for k, each in enumerate(points)
        if k in (0, len(points) - 1) or not points[k - 1][1] == each[1] == points[k + 1][1]
    ]
    return " ".join(f"{_across(x):g},{_up(y):g}" for x, y in kept)
