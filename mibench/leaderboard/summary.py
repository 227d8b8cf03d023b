"""A board in a few sentences, computed from its records: what leaks, and which defense is first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from mibench.leaderboard.board import BITS, CLASSES, DASH, Measure, Method, Sentence, Table, Value
from mibench.leaderboard.series import UNDEFENDED, Series
from mibench.record import CEILING, FLOOR_PRIOR, FLOOR_PUBLIC, LOOKALIKE, shown_rank

# References as a reader meets them who has not read of the protocol, from the least to the most.
_TOLD = {
    FLOOR_PRIOR: "random images",
    FLOOR_PUBLIC: "look-up",
    LOOKALIKE: "the look-alike",
    CEILING: "private test images",
}

_SAME = 1e-9  # bits: look-up's own, summed in another order

# How a sentence on a table of a lower access begins.
_STARTS = {
    "defenses-black-box": "Where attackers see scores alone, ",
    "defenses-label-only": "Where attackers see labels alone, ",
}


def strongest(undefended: Sequence[Series], measure: Measure) -> Series | None:
    """The attack that leaks most from undefended targets; of equal ones the first."""
    told = [each for each in undefended if each.mean(measure.key).number is not None]
    return max(told, key=lambda each: each.mean(measure.key).number or 0.0, default=None)


def of_attacks(
    most: Series, measure: Measure, references: Mapping[str, Value], ranks: Mapping[str, Value]
) -> tuple[Sentence, ...]:
    """What leaks from an undefended target to the strongest attack, beside the references.

    Args:
        most: the attack that leaks most.
        measure: what leaks.
        references: floors and ceiling in the measure.
        ranks: the median ranks that they have, where there are judges.
    """
    name, leak = Method("attack", most.attack), most.mean(measure.key).number or 0.0
    told = _listed(
        [
            f"{words} {_number(value.number, measure)}"
            for reference, words in _TOLD.items()
            if (value := references.get(reference)) and value.number is not None
        ]
    )
    if measure is BITS:
        bits = f"That is {leak:.1f} bits of who the person is, or one person in "
        bits += f"{_round(2**leak):,}"
        lookup = references.get(FLOOR_PUBLIC, Value()).number
        searched = lookup is not None and leak <= lookup + _SAME
        learns = " learns most from an undefended classifier"
        start: Sentence = (name, learns)
        if searched:  # the strongest is look-up itself
            learns = "No attack learns more from an undefended classifier than "
            start = (learns, name, ", the public pictures that it scores highest")
        found = _typical_rank(most, ranks, searched=searched)
        return (*start, found), (f"{bits}; {told}." if told else f"{bits}.",)
    share = _number(leak, measure)
    if measure is CLASSES:
        seen = f"an evaluator takes {share} of its reconstructions for the attacked class"
        caution = "Classes are no identities: nothing here says that a person leaked."
    else:
        seen = "an evaluator that knows nobody but the attacked people sees the right one in "
        seen += f"{share} of its reconstructions"
        caution = "It takes a stranger who looks alike for one of them, too."
    told = f" ({told})" if told else ""
    return (name, f" does best against an undefended classifier: {seen}{told}."), (caution,)


def _typical_rank(most: Series, ranks: Mapping[str, Value], *, searched: bool) -> str:
    """How far down an attack's reconstructions find the person, beside look-up and chance.

    Those of look-up, where ``searched``, are not put beside itself.
    """
    rank, record = most.mean("median_rank").number, most.first
    among = record.metrics["median_rank"].among if "median_rank" in record.metrics else None
    if rank is None or among is None:
        return "."
    chance = f"chance {record.chance_rank(among)}"
    if record.nominal:  # then chance is what was measured
        measured = ranks.get(FLOOR_PRIOR, Value()).number
        chance = "" if measured is None else f"random images {shown_rank(measured)}"
    lookup = ranks.get(FLOOR_PUBLIC, Value()).number
    others = ["" if lookup is None or searched else f"look-up {shown_rank(lookup)}", chance]
    beside = "; ".join(filter(None, others))
    likeness = "these" if searched else "what it reconstructs"
    found = f": by likeness to {likeness}, the attacked person typically has rank "
    found += f"{shown_rank(rank)} among {among:,} people"
    return f"{found} ({beside})." if beside else f"{found}."


def of_defenses(
    table: Table, target: str, measure: Measure, attacks: Sequence[str] = ()
) -> Sentence:
    """Which defense is first on an architecture, by a table of defenses.

    Args:
        table: that of an access.
        target: the architecture.
        measure: what leaks.
        attacks: the list of that access: what of it met no defense keeps all from being ranked.
    """
    rows = [row for row in table.rows if row["target"].text == target]
    ranked = [row for row in rows if row["rank"].number is not None]
    start = _STARTS.get(table.key, "")
    if not ranked:
        defended = [row for row in rows if row["defense"].text != UNDEFENDED]
        lacking = [a for a in attacks if all(row.get(a, DASH).number is None for row in defended)]
        none = f"{start}no" if start else "No"
        if not defended or not lacking:
            return (f"{none} defense has a rank yet.",)
        verb = "has" if len(lacking) == 1 else "have"
        return (
            f"{none} defense has a rank yet: ranks are over the whole list of attacks, of which ",
            *_methods("attack", lacking),
            f" {verb} met no defense.",
        )
    first = [row for row in ranked if row["rank"].number == 1]
    names = _methods("defense", [row["defense"].text for row in first])
    leaks = [row["leak_5"].number or 0.0 for row in first]
    left = _listed([_number(leak, measure) for leak in leaks])
    left += "" if measure.kind == "percent" else f" {measure.unit}"
    plain = next((row["worst"].number for row in rows if row["defense"].text == UNDEFENDED), None)
    instead = "" if plain is None else f" instead of {_number(plain, measure)}"
    if plain is not None and min(leaks) >= plain:
        return (
            f"{start}no" if start else "No",
            " ranked defense leaves less than none does: on ",
            *names,
            f" attacks find {left}{instead} in the worst case.",
        )
    verb = " protects best" if len(first) == 1 else " share the first rank"
    of = f" of {len(ranked)} ranked defenses" if len(ranked) > 1 else ", the only ranked defense"
    return (
        *([start] if start else []),
        *names,
        f"{verb}{of}: {left} left{instead} in the worst case.",
    )


def _methods(kind: Literal["attack", "defense"], names: Sequence[str]) -> list[str | Method]:
    """Some methods, as ``"a, b and c"``."""
    found: list[str | Method] = []
    for place, name in enumerate(names):
        found += [] if not place else [" and " if place == len(names) - 1 else ", "]
        found.append(Method(kind, name))
    return found


def _listed(texts: Sequence[str]) -> str:
    """``"a, b and c"``."""
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _number(number: float, measure: Measure) -> str:
    """As tables show it, but of bits one decimal: ``"68.7 %"``, ``"7.4"``."""
    return f"{measure.scale * number:.1f}" + (" %" if measure.kind == "percent" else "")


def _round(value: float) -> int:
    """Two digits of a number, for an "about": 174 gives 170."""
    return int(float(f"{value:.2g}"))
