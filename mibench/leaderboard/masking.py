"""Whether a defense masks gradients: whether who sees less of a target finds more in it.

Whoever has the weights can do all that whoever has only scores or labels can do. Where a black-box
or label-only attack leaks more than the strongest white-box attack against the same target, the
latter was stopped by what it descends along, not by what there is to find, and its number says
little of what leaks (Athalye et al., Obfuscated Gradients Give a False Sense of Security, ICML
2018).

Within one target, the white-box attack is the one of the highest mean over all identities on one
half of the samples, and is scored on the other half, and the other way round; the two scores are
averaged, as the worst case is. Choosing and scoring on the same samples would take the luck of the
draw for the white-box attacks' strength. The attack that is compared with it was chosen by nobody:
each one is compared on its own, on the same two halves. Unlike the worst case this takes one attack
for all identities, since the question is whether there is an attack that does it, and not what a
choice among several comes to. A defense is marked if one comparison says so; of many, one may by
chance. It is not marked before the whole list of attacks met the target: a white-box attack that
was not run may be the one that finds what the others miss.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mibench.leaderboard.board import DASH, Measure, Value
from mibench.leaderboard.ranking import halves, samples_of
from mibench.leaderboard.series import Series, paired, target_of
from mibench.record import BoardCard, Record

MASKED = "gradients masked"

_WHITE_BOX = "white-box"
Samples = Sequence[Sequence[float]]  # of each identity, what each sample leaks


@dataclass(frozen=True)
class Comparison:
    """An attack without the target's weights beside the strongest white-box attack.

    Attributes:
        attack, access: the attack without white-box access.
        white_box: the white-box attacks that were the strongest on a half of some target.
        difference: what the attack leaks minus what these do, with its paired interval.
        lacking: attacks of the list that were not run against each of these targets.
    """

    attack: str
    access: str
    white_box: tuple[str, ...]
    difference: Value
    lacking: tuple[str, ...] = ()

    @property
    def more(self) -> bool:
        """Whether the attack leaks significantly more."""
        interval = self.difference.interval
        return interval is not None and interval[0] > 0

    @property
    def masked(self) -> bool:
        """Whether it does, and the whole list of attacks was run."""
        return self.more and not self.lacking

    def text(self, measure: Measure) -> str:
        """``"lookup (black-box) − improved-gmi (white-box): +0.34 [0.11, 0.57] bits"``."""
        numbers = [self.difference.number or 0.0, *(self.difference.interval or ())]
        number, *ends = (f"{measure.scale * each:.{measure.digits}f}" for each in numbers)
        sign = "" if number.startswith("-") else "+"
        interval = f" [{', '.join(ends)}]" if ends else ""
        unit = measure.unit.replace("%", "points")
        strongest = " or ".join(self.white_box)
        lacking = f", without {', '.join(self.lacking)}" * bool(self.lacking)
        return (
            f"{self.attack} ({self.access}) − {strongest} ({_WHITE_BOX}): "
            f"{sign}{number}{interval} {unit}{lacking}"
        )


def comparisons(cells: Iterable[Series], card: BoardCard, measure: Measure) -> list[Comparison]:
    """Of each attack without white-box access, where a white-box one met the same targets.

    Args:
        cells: those of one defense and architecture.
        card: what intervals are over.
        measure: what leaks.
    """
    some = list(cells)
    found = (compared(each, some, card, measure) for each in some)
    return [each for each in found if each is not None]


def compared(
    one: Series, others: Sequence[Series], card: BoardCard, measure: Measure
) -> Comparison | None:
    """A cell beside the strongest of the white-box cells against the very same targets.

    Where the whole list met some of them, these alone are compared.

    Returns:
        None for a white-box cell, and where no white-box cell met a target of its.
    """
    if one.first.access == _WHITE_BOX:
        return None
    white_box = [each for each in others if each.first.access == _WHITE_BOX]
    found: list[_OfTarget] = []
    for seed, record in sorted(one.complete.items()):
        own = samples_of(record, measure)
        met = {each.attack for each in (one, *others) if _met(each, seed, record)}
        rivals = [
            (each.attack, samples)
            for each in white_box
            if _met(each, seed, record)
            if _shape(samples := samples_of(each.complete[seed], measure)) == _shape(own)
        ]
        if rivals and min(_shape(own), default=0) > 1:
            chosen, strongest = strongest_of_target([samples for _, samples in rivals])
            mine = [statistics.fmean(map(statistics.fmean, halves(row))) for row in own]
            found.append(
                _OfTarget(
                    [a - b for a, b in zip(mine, strongest, strict=True)],
                    [rivals[place][0] for place in chosen],
                    {attack for attack in card.worst_case if attack not in met},
                )
            )
    if not found:
        return None
    # Beside targets that the whole list met, one that it did not would pass for less protected.
    found = [each for each in found if not each.lacking] or found
    lacking = {attack for each in found for attack in each.lacking}
    return Comparison(
        one.attack,
        one.first.access,
        tuple(dict.fromkeys(name for each in found for name in each.strongest)),
        paired([each.differences for each in found], card),
        tuple(attack for attack in card.worst_case if attack in lacking),
    )


@dataclass(frozen=True)
class _OfTarget:
    """What one target says: each identity's difference, to which attacks, without which."""

    differences: list[float]
    strongest: list[str]
    lacking: set[str]


def _met(attack: Series, seed: int, record: Record) -> bool:
    """Whether an attack met the very target of a record of that seed."""
    return seed in attack.complete and _same_target(record, attack.complete[seed])


def strongest_of_target(attacks: Sequence[Samples]) -> tuple[tuple[int, int], list[float]]:
    """The attack that leaks most from one target, chosen on one half and scored on the other.

    Args:
        attacks: for each attack, for each identity, what each sample leaks: two samples or more.
            The halves are the samples at even and at odd positions. Of equal attacks the first is
            taken.

    Returns:
        The places of the attacks that were chosen on even and on odd samples; each identity's
        score.
    """
    halved = [[halves(row) for row in attack] for attack in attacks]
    chosen, scores = [], []
    for choose in (0, 1):
        means = [
            statistics.fmean(statistics.fmean(row[choose]) for row in attack) for attack in halved
        ]
        best = means.index(max(means))
        chosen.append(best)
        scores.append([statistics.fmean(row[1 - choose]) for row in halved[best]])
    return (chosen[0], chosen[1]), [statistics.fmean(pair) for pair in zip(*scores, strict=True)]


def sign(found: Sequence[Comparison], measure: Measure) -> Value:
    """What a table says of a strength: a mark with the comparisons that say so, or that none does.

    A dash where nothing can be compared, and where it is not settled since attacks are missing.
    """
    if not found:
        return DASH
    masked = [each for each in found if each.masked]
    telling = masked or [each for each in found if each.more]
    text = MASKED if masked else "—" if telling else "no sign of it"
    return Value(text=text, note="; ".join(each.text(measure) for each in telling or found))


def _shape(samples: Samples) -> tuple[int, ...]:
    return tuple(map(len, samples))


def _same_target(one: Record, other: Record) -> bool:
    return target_of(one) == target_of(other)
