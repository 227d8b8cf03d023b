"""Defenses against the attacks of an access, ranked at a budget: a table an access."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from mibench.leaderboard.board import BITS, DASH, Column, DefenseFacts, Measure, Table, Value
from mibench.leaderboard.checks import HEADLINE
from mibench.leaderboard.masking import MASKED, comparisons, sign
from mibench.leaderboard.ranking import (
    BUDGETS,
    RULE,
    Entry,
    Strength,
    entries,
    facts_of,
    met,
    strengths,
    worst_case,
)
from mibench.leaderboard.series import UNDEFENDED, Series, seeds_text
from mibench.leaderboard.tables._shared import (
    INTERVALS,
    QUERIES_NOTE,
    SPREAD_NOTE,
    Row,
    exact,
    make_table,
    read_columns,
)
from mibench.record import BoardCard
from mibench.types import Access

# What a table of each access is called, and what its attackers have.
KEYS: dict[Access, str] = {
    "white-box": "defenses",
    "black-box": "defenses-black-box",
    "label-only": "defenses-label-only",
}
TITLES: dict[Access, str] = {
    "white-box": "Defenses × attacks with the weights (white-box)",
    "black-box": "Defenses × attacks with scores alone (black-box)",
    "label-only": "Defenses × attacks with labels alone (label-only)",
}
ABOUT: dict[Access, str] = {
    "white-box": "The attacker has the classifier itself, with all its weights.",
    "black-box": "The attacker can only ask the classifier, which answers with a score for each "
    "identity. Ranks here are of these attacks alone.",
    "label-only": "The attacker can only ask the classifier, which answers with the name of one "
    "identity. Ranks here are of these attacks alone.",
}
NOT_APPLICABLE = Value(
    text="n/a", note="changes the answers only; whoever has the weights takes the filter off"
)

_CLOSED = (
    "Closed-set accuracy is the papers' number, top-1 of {lead}: how often a classifier of the "
    "attacked people alone names the right one. A stranger who looks alike is named, too, so that "
    "nothing is ranked by it."
)
_MASKING = (
    "Gradients: a defense masks them where a black-box or label-only attack leaks significantly "
    "more than the strongest white-box attack against the same targets, those that the whole list "
    "met where there are any ({paired}; that attack is chosen on one half of the samples and "
    "scored on the other, both ways averaged). Then numbers of white-box attacks say little of "
    "what leaks."
)
_FEWER = (
    "Worst with adaptive is of fewer targets than what leaks without it, as its attack met these "
    "alone: {few}."
)
_OUTPUT = (
    "n/a: {names} {change} the classifier's answers only. Whoever has the weights takes the filter "
    "off, and attacks what lies behind it; what such a defense does is in the tables of the other "
    "accesses."
)


def rule(card: BoardCard, access: Access) -> str:
    """How ranks are made, of the list of an access."""
    return RULE.format(
        attacks=", ".join(card.attacks(access)),
        version=card.list_version,
        paired=INTERVALS[card.interval],
    )


def has_table(access: Access, cells: Sequence[Series], card: BoardCard) -> bool:
    """Whether there is a table of an access: always with the weights, else with list and cells."""
    there = any(each.first.access == access for each in cells)
    return access == "white-box" or (there and bool(card.attacks(access)))


def void(cell: Series, facts: Mapping[str, DefenseFacts]) -> bool:
    """Whether a cell says nothing: the attacker with the weights left a filter of the output on."""
    said = facts.get(cell.defense)
    return said is not None and said.output and cell.first.access == "white-box"


def defenses_tables(
    cells: Sequence[Series],
    card: BoardCard,
    targets: Sequence[str],
    measure: Measure,
    facts: Mapping[str, DefenseFacts],
) -> tuple[Table, ...]:
    """The table of each access that has one, white-box first."""
    told = [each for each in cells if not void(each, facts)]
    return tuple(
        _AccessTable(access, told, card, measure, facts).table(targets)
        for access in get_args(Access)
        if has_table(access, told, card)
    )


@dataclass(frozen=True)
class _AccessTable:
    """What the table of one access is made of.

    Attributes:
        access: what its attackers may see.
        cells: those of all accesses.
    """

    access: Access
    cells: Sequence[Series]
    card: BoardCard
    measure: Measure
    facts: Mapping[str, DefenseFacts]

    def table(self, targets: Sequence[str]) -> Table:
        """Defenses at their default strengths against the list's attacks, ranked at a budget."""
        rows: list[Row] = []
        masked: list[str] = []
        few: list[str] = []
        for target in targets:
            own, marks, fewer = self._rows(target)
            rows += own
            masked += marks
            few += fewer
        notes = self._notes(rows, masked, few)
        title, about = TITLES[self.access], ABOUT[self.access]
        columns = self._columns(rows)
        return make_table(KEYS[self.access], title, columns, rows, notes, about=about)

    # -- which cells, and which attack stands for them ---------------------------------------------

    def belongs(self, cell: Series) -> bool:
        """Whether a cell is one of this table.

        With the weights are also those of lower accesses that have no table, and a defense's own
        adaptive attack, whatever that needs.
        """
        own = cell.first.access
        if own == self.access or cell.attack in self.card.attacks(self.access):
            return True
        said = self.facts.get(cell.defense)
        adaptive = said is not None and said.attack == cell.attack
        return self.access == "white-box" and (adaptive or not self.card.attacks(own))

    @property
    def attacks(self) -> list[str]:
        """The list's attacks that were run, then others that a defense was tested with."""
        default = [each for each in self.cells if each.default and self.belongs(each)]
        there = {each.attack for each in default}
        others = {each.attack for each in default if each.defense != UNDEFENDED}
        return [a for a in self.fixed if a in there] + sorted(others - set(self.fixed))

    @property
    def fixed(self) -> list[str]:
        """The attacks of the list and, with the weights, the board's headline."""
        headline = [self.card.headline] if self.access == "white-box" else []
        return list(dict.fromkeys((*self.card.attacks(self.access), *headline)))

    @property
    def lead(self) -> str:
        """The attack whose control and closed-set accuracy are shown."""
        if self.access == "white-box":
            return self.card.headline
        return next(iter(self.attacks), self.fixed[0])

    def _output(self, defense: str) -> bool:
        said = self.facts.get(defense)
        return self.access == "white-box" and said is not None and said.output

    # -- rows --------------------------------------------------------------------------------------

    def _rows(self, target: str) -> tuple[list[Row], list[str], list[str]]:
        """The rows of an architecture by rank, and what is said there of masked gradients and of
        adaptive attacks that met fewer seeds.
        """
        everything = strengths(self.cells, target, self.facts)
        known = {name: _kept(own, self.belongs) for name, own in everything.items()}
        ranking = {name: own for name, own in known.items() if not self._output(name)}
        within = {
            budget: entries(ranking, budget, self.card, self.measure, self.facts, self.access)
            for budget in BUDGETS
        }
        ranked: list[tuple[tuple[int, str], Row]] = []
        masked: list[str] = []
        few: list[str] = []
        for defense, own_strengths in known.items():
            entry = within[BUDGETS[0]].get(defense, Entry())
            output = self._output(defense)
            one = _shown_strength(everything[defense] if output else own_strengths, entry)
            if one is None:  # its control alone, or none of this table's attacks met it
                continue
            if output:
                row: Row = (self._not_applicable(defense, one), [*one.cells.values()])
                ranked.append(((len(known) + 1, defense), row))
                continue
            own = {attack: one.cells[attack] for attack in self.attacks if attack in one.cells}
            if not own:
                continue
            row = self._row(target, defense, one, own)
            if defense == UNDEFENDED:  # the line that all are compared with
                usually = met(one, self.card, self.measure, self._facts(defense), self.access)
                lacking = usually.leak.note
                named_too = usually.strength if lacking else None
                plain = dataclasses.replace(usually, strength=named_too, reason=lacking)
                for budget in BUDGETS:
                    row[0].update(_entered(plain, budget))
            for budget, found in within.items():
                if defense in found:
                    row[0].update(_entered(found[defense], budget))
                    if seeds := found[defense].adaptive_seeds:
                        few.append(f"{defense} at {100 * budget:g} points, {seeds}")
            if self.access == "white-box":
                entering = entry.strength or one
                whole = next(s for s in everything[defense] if _same_setting(s, entering))
                beside = comparisons(whole.cells.values(), self.card, self.measure)
                row[0]["gradients"] = sign(beside, self.measure)
                masked += [
                    f"{defense} on {target}, {entering.text}: {each.text(self.measure)}"
                    for each in beside
                    if each.masked
                ]
            place = 0 if defense == UNDEFENDED else entry.rank or len(known) + 1
            rank = Value(entry.rank) if entry.rank else DASH
            ranked.append(((place, defense), ({"rank": rank, **row[0]}, row[1])))
        return [row for _, row in sorted(ranked, key=lambda each: each[0])], masked, few

    def _row(
        self, target: str, defense: str, one: Strength, own: Mapping[str, Series]
    ) -> tuple[dict[str, Value], list[Series]]:
        """A row, but for its rank and with what it enters at budgets, and the cells behind it."""
        some = own.get(self.lead) or next(iter(own.values()))
        control = self._control(target, defense)
        lead = own.get(self.lead)
        row = {
            **_facts_of_row(target, defense, one, some),
            **{attack: each.mean(self.measure.key) for attack, each in own.items()},
            "worst": worst_case(one.cells, self.card.attacks(self.access), self.measure)[0],
            "control_natural": control.mean("natural_accuracy") if control else DASH,
            "control_attack": control.mean(self.measure.key) if control else DASH,
            "closed": lead.mean(HEADLINE) if lead else DASH,
            "queries": _most_queries(own),
        }
        return row, [*own.values(), *([control] if control else [])]

    def _control(self, target: str, defense: str) -> Series | None:
        """What the lead attack finds in a defense's control; that may be the undefended target."""
        said = self._facts(defense)
        plain = said is not None and said.undefended_control
        for each in self.cells:
            own = each.default if plain else each.control
            name = UNDEFENDED if plain else defense
            if own and (each.target, each.defense, each.attack) == (target, name, self.lead):
                return each
        return None

    def _not_applicable(self, defense: str, one: Strength) -> dict[str, Value]:
        """The row of a defense of the output against attackers who have the weights."""
        some = next(iter(one.cells.values()))
        budgets = [f"{100 * budget:g}" for budget in BUDGETS]
        said = [f"{key}_{points}" for points in budgets for key in ("leak", "adaptive")]
        said += [*self.attacks, "worst", "control_attack", "closed"]
        return {
            "rank": DASH,
            **_facts_of_row(some.target, defense, one, some),
            **dict.fromkeys(said, NOT_APPLICABLE),
            "gradients": DASH,
        }

    def _facts(self, defense: str) -> DefenseFacts | None:
        return facts_of(defense, self.facts)

    # -- columns and notes -------------------------------------------------------------------------

    def _columns(self, rows: Sequence[Row]) -> list[Column]:
        measure = self.measure
        columns = read_columns("defenses", measure, lead=self.lead)
        without = {"queries"} if self.access == "white-box" else {"gradients"}
        if measure is not BITS:
            without.add("closed")
        if self.access != "white-box" and not any(self._has_adaptive(row) for row, _ in rows):
            without |= {f"adaptive_{100 * budget:g}" for budget in BUDGETS}
        columns = [column for column in columns if column.key not in without]
        place = [column.key for column in columns].index("worst")
        columns[place:place] = [
            Column(
                *(a, a, measure.kind, "lower", f"{measure.title} of {a}"),
                detail=a not in self.fixed,
            )
            for a in self.attacks
        ]
        return columns

    def _has_adaptive(self, row: Mapping[str, Value]) -> bool:
        said = self._facts(row["defense"].text)
        return said is not None and said.attack is not None and said.access == self.access

    def _notes(
        self, rows: Sequence[Row], masked: Sequence[str], few: Sequence[str]
    ) -> tuple[str, ...]:
        there = dict.fromkeys(row["defense"].text for row, _ in rows)
        said = {name: self.facts[name] for name in sorted(there) if name in self.facts}
        named = [
            f"{n}: {each.attack or 'none named'}. {each.note}".strip() for n, each in said.items()
        ]
        output = [name for name in said if self._output(name)]
        white_box = self.access == "white-box"
        change = "changes" if len(output) == 1 else "change"
        adaptive = named and (white_box or any(self._has_adaptive(row) for row, _ in rows))
        return (
            f"{self.measure.title.capitalize()} of each attack at the default strength; lower is "
            f"better for the defender. {SPREAD_NOTE}",
            rule(self.card, self.access),
            "Worst case: within each target, the attack is chosen for each identity on one half of "
            "its samples and scored on the other, both ways averaged. Chosen on few samples, it "
            "can come out below the strongest attack's own number.",
            *([_OUTPUT.format(names=", ".join(output), change=change)] * bool(output)),
            *([f"Adaptive attacks, by the defenses' cards. {' '.join(named)}"] * bool(adaptive)),
            *([_FEWER.format(few="; ".join(few))] * bool(few)),
            *([_MASKING.format(paired=INTERVALS[self.card.interval])] * white_box),
            *([f"{MASKED.capitalize()}: {'; '.join(masked)}."] * bool(masked)),
            *([f"{QUERIES_NOTE} Here of the attack that asks most."] * (not white_box)),
            "A control is the defense's own code at strength 0; where that is the undefended "
            "training, it is the undefended target. ε covers what its unit names: with unit "
            "example one image, not all images of a person.",
            *([_CLOSED.format(lead=self.lead)] if self.measure is BITS else []),
        )


def _kept(own: Sequence[Strength], belongs: Callable[[Series], bool]) -> list[Strength]:
    """The strengths of a defense with the cells of one table.

    A strength that none of its attacks met is one all the same: nothing weaker enters in its place.
    """
    return [
        dataclasses.replace(one, cells={a: c for a, c in one.cells.items() if belongs(c)})
        for one in own
    ]


def _same_setting(one: Strength, other: Strength) -> bool:
    return (one.knob, one.value) == (other.knob, other.value)


def _shown_strength(own: Sequence[Strength], entry: Entry) -> Strength | None:
    """The strength that a row's attacks are of: the default, what enters, or else the cheapest.

    None where no attack met one of these.
    """
    cheapest = [each for each in reversed(own) if not each.control]
    enters = [entry.strength] if entry.strength is not None else []
    order = [*(one for one in own if one.default), *enters, *cheapest]
    return next((one for one in order if one.cells), None)


def _facts_of_row(target: str, defense: str, one: Strength, some: Series) -> dict[str, Value]:
    """What a row says of its targets, by one cell against them."""
    return {
        "target": Value(text=target),
        "defense": Value(text=defense),
        "strength": Value(text=one.text),
        "natural": some.mean("natural_accuracy"),
        "epsilon": exact(some.mean("epsilon")),
        "privacy_unit": Value(text=str(some.first.utility.get("privacy_unit") or "—")),
        "seeds": Value(text=seeds_text(list(some.complete))),
    }


def _most_queries(own: Mapping[str, Series]) -> Value:
    """Queries an identity of the attack that asks most; a dash where one does not tell."""
    told = {attack: exact(each.mean("queries")) for attack, each in own.items()}
    if any(value.number is None for value in told.values()):
        return DASH
    attack, most = max(told.items(), key=lambda each: each[1].number or 0.0)
    return dataclasses.replace(most, note=attack if len(told) > 1 else "")


def _entered(entry: Entry, budget: float) -> dict[str, Value]:
    """What a table says of an entry at a budget, of which the first one ranks."""
    points = f"{100 * budget:g}"
    leak, strength = entry.leak, entry.strength
    told = dataclasses.replace(leak, note=entry.reason)
    found = {f"leak_{points}": told, f"cost_{points}": entry.cost}
    found[f"adaptive_{points}"] = entry.adaptive
    if leak.number is None:
        found[f"leak_{points}"] = Value(text=entry.reason or leak.text or "—")
    found[f"strength_{points}"] = DASH if strength is None else Value(text=strength.text)
    if strength is not None and entry.reason:
        found[f"strength_{points}"] = Value(text=f"{strength.text}, {entry.reason}")
    return found
