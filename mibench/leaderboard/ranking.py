"""What still leaks when a defense may cost so much accuracy: ranks, and the worst case.

Privacy is compared at a *budget* c of natural accuracy: each defense enters with its strongest
strength whose validation accuracy, averaged over seeds, lies at most c below that of the undefended
target of the same architecture. The choice looks neither at leakage nor at test images. Its leakage
there is the worst case over a fixed list of attacks.

The worst case is taken within one target: for each identity the attack is chosen on one half of its
samples and scored on the other half, and the other way round; the two scores are averaged. Choosing
and scoring on the same samples would take the luck of the draw for strength.

Each access has a list and ranks of its own: the same defense may be first against who has the
weights and last against who has labels.

A defense's card may name an attack that knows of it. The worst case over the list and that attack
stands beside the other one, and ranks nothing: each defense would be ranked by attacks of its own.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mibench.leaderboard.board import BITS, DASH, DefenseFacts, Measure, Value
from mibench.leaderboard.series import (
    UNDEFENDED,
    Series,
    by_seed,
    over_seeds,
    paired,
    seeds_text,
    target_of,
)
from mibench.record import BoardCard, Record
from mibench.types import Access

BUDGETS = (0.05, 0.02, 0.01)  # of accuracy; the first one ranks
EARLY_STOPPING = "early-stopping"  # an undefended target that is trained for fewer epochs
_SLACK = 1e-9

RULE = (
    "Spend at most 5 points of accuracy: how much still leaks? Each defense enters with its "
    "strongest strength whose validation accuracy, averaged over seeds, costs at most that much "
    "against none; what leaks there is the worst case over {attacks} (list {version}). Its rank is "
    "1 + the number of defenses that leak significantly less ({paired}): differences that may be "
    "chance share ranks. Early stopping is a defense of its own; none is what all are compared "
    "with, and has no rank. Where a strength was met by fewer attacks, as of an older list, it has "
    "no rank, and the table says which are missing, or by which few it was met. Worst with "
    "adaptive: the worst case over the list and the attack that the defense's card names as one "
    "that knows of it; it ranks nothing. ± of a cost is the standard error of validation accuracy."
)
RULE_IN_SHORT = (
    "Spend at most 5 points of accuracy: the defense that then leaks least, in the worst case of a "
    "fixed list of attacks, comes first. Differences that may be chance share a rank."
)


@dataclass(frozen=True)
class Strength:
    """A defense at one strength on one architecture.

    Attributes:
        knob, value: its main knob and the setting; a defense without one has "" and 1.
        cells: its cells by attack, of the default settings where the strength is the default.
        validation: mean validation accuracy over seeds; None where a record does not say it.
        error: its standard error, from the number of validation images.
    """

    knob: str
    value: float
    default: bool
    control: bool
    cells: Mapping[str, Series]
    validation: float | None
    error: float

    @property
    def text(self) -> str:
        """``"scale 3"``."""
        return f"{self.knob} {self.value:g}" if self.knob else "default"

    @property
    def sure(self) -> bool:
        """Whether no seed diverged, and the evaluator is right on 90 % of all test images."""
        return all(not c.diverged and bool(c.rows["ranked"].all()) for c in self.cells.values())


@dataclass(frozen=True)
class Entry:
    """With what a defense enters at a budget.

    Attributes:
        strength: None where every strength costs more; then the reason says so.
        cost: of validation accuracy, a fraction; its spread is the standard error of the defended
            target's.
        leak: worst case of the attacks; its note says where these are not the whole list.
        attacks: those that the worst case is over.
        per_seed: the worst case of each identity, by seed.
        adaptive: the worst case with the defense's adaptive attack, too.
        adaptive_seeds: ``"seed 0 alone"`` where that is of fewer seeds than the leak.
        rank: None where it has none.
        reason: why it has no rank.
    """

    strength: Strength | None = None
    cost: Value = field(default_factory=Value)
    leak: Value = field(default_factory=Value)
    attacks: tuple[str, ...] = ()
    per_seed: Mapping[int, Sequence[float]] = field(default_factory=dict)
    adaptive: Value = DASH
    adaptive_seeds: str = ""
    rank: int | None = None
    reason: str = ""


def strengths(
    cells: Sequence[Series], target: str, facts: Mapping[str, DefenseFacts]
) -> dict[str, list[Strength]]:
    """The strengths of each defense on an architecture, from the strongest to the weakest.

    A larger value of a defense's own knob is stronger, unless the defense says otherwise; of
    training's, such as epochs, a smaller. Values of the other sign than the default's are none.
    """
    groups: dict[tuple[str, str, float], list[Series]] = {}
    for each in cells:
        alone = each.default or (not each.rows.empty and bool(each.rows["swept"].all()))
        if each.target == target and alone and not each.rows.empty:
            said = each.first.strength
            # What training finds, as noise for a given ε, lacks where it diverged.
            known = [f.record.strength.value for f in each.filed if f.record.strength is not None]
            value = next((v for v in known if v is not None), 1.0)
            groups.setdefault((each.defense, said.path if said else "", value), []).append(each)
    usual = {
        defense: value for (defense, _, value), own in groups.items() for c in own if c.default
    }
    found: dict[str, list[tuple[float, Strength]]] = {}
    for (defense, knob, value), own in groups.items():
        default = any(each.default for each in own)
        # The default strength may have been asked for by name, too.
        cells_of = {each.attack: each for each in sorted(own, key=lambda each: each.default)}
        part, _, name = knob.partition(".")
        one = Strength(
            knob=name,
            value=value,
            default=default,
            control=any(each.control for each in own),
            cells=cells_of,
            **_validated(cells_of.values()),
        )
        entering = EARLY_STOPPING if defense == UNDEFENDED and not default else defense
        if entering == EARLY_STOPPING and value > usual.get(defense, value):
            continue  # it is trained for more epochs
        if value * usual.get(defense, value) < 0:
            continue  # the opposite of what protects, as positive label smoothing
        own_facts = facts_of(entering, facts)
        falls = part == "target" or (
            own_facts is not None and own_facts.smaller_is_stronger and value != 0
        )
        found.setdefault(entering, []).append((-value if falls else abs(value), one))
    return {
        defense: [one for _, one in sorted(own, key=lambda each: -each[0])]
        for defense, own in found.items()
    }


def _validated(cells: Iterable[Series]) -> dict[str, Any]:
    """Mean validation accuracy over the seeds of some cells on one target, and its error.

    A seed's target may have been trained on several machines, which round otherwise: its accuracy
    is that of most cells.
    """
    seeds: dict[int, list[Any]] = {}
    counts: list[Any] = []
    for record in (each for cell in cells for each in cell.complete.values()):
        seeds.setdefault(record.seed, []).append(record.utility.get("validation_accuracy"))
        counts.append(record.utility.get("validation_images"))
    usual = [Counter(said).most_common(1)[0][0] for _, said in sorted(seeds.items())]
    known = [float(value) for value in usual if isinstance(value, float | int)]
    if not known or len(known) < len(usual):
        return {"validation": None, "error": 0.0}
    # The images are the same for all seeds, so that more seeds make it no surer.
    images = [int(n) for n in counts if isinstance(n, float | int)]
    mean = statistics.fmean(known)
    error = math.sqrt(mean * (1 - mean) / images[0]) if images else 0.0
    return {"validation": mean, "error": error}


def entries(
    found: Mapping[str, Sequence[Strength]],
    budget: float,
    card: BoardCard,
    measure: Measure,
    facts: Mapping[str, DefenseFacts],
    access: Access = "white-box",
) -> dict[str, Entry]:
    """With what each defense of one architecture enters at a budget, and how it ranks.

    Args:
        found: :func:`strengths`.
        budget: validation accuracy that may be spent, a fraction.
        card: what the board shows: the fixed lists of attacks, and what intervals are over.
        measure: what leaks.
        facts: what the cards of defenses say of their adaptive attacks.
        access: whose list it is.
    """
    undefended = [one for one in found.get(UNDEFENDED, ()) if one.default]
    plain = undefended[0].validation if undefended else None
    chosen = {
        name: _entry(own, plain, budget, card, measure, facts_of(name, facts), access)
        for name, own in found.items()
        if name != UNDEFENDED
    }
    ranked = {name: each for name, each in chosen.items() if not each.reason}
    for name, each in ranked.items():
        better = sum(
            _less(other.per_seed, each.per_seed, card)
            for which, other in ranked.items()
            if which != name
        )
        chosen[name] = replace(each, rank=1 + better)
    return chosen


def _entry(
    own: Sequence[Strength],
    plain: float | None,
    budget: float,
    card: BoardCard,
    measure: Measure,
    facts: DefenseFacts | None,
    access: Access,
) -> Entry:
    if plain is None:
        return Entry(reason="no undefended target to compare with")
    protecting = [one for one in own if not one.control]
    costs = [(plain - one.validation, one) for one in protecting if one.validation is not None]
    if not costs:
        return Entry(reason="only its control" if not protecting else "no validation accuracy")
    within = [(cost, one) for cost, one in costs if cost <= budget + _SLACK]
    if not within:
        least = min(cost for cost, _ in costs)
        return Entry(
            cost=Value(least), reason=f"costs {100 * least:.1f} points or more of accuracy"
        )
    spent, one = within[0]
    cost = Value(spent, spread=one.error or None)
    found = replace(met(one, card, measure, facts, access), cost=cost)
    reason = found.leak.note
    if not reason and not one.sure:
        reason = "shown, not ranked: evaluator below 90 %, or a seed diverged"
    elif not reason and found.leak.number is None:
        reason = found.leak.text
    return replace(found, reason=reason)


def met(
    one: Strength,
    card: BoardCard,
    measure: Measure,
    facts: DefenseFacts | None,
    access: Access = "white-box",
) -> Entry:
    """A strength with what leaks from it, before anything is said of budgets and ranks.

    Args:
        one: the strength.
        card: what the board shows.
        measure: what leaks.
        facts: what the defense's card says of its adaptive attack; None of an unknown card.
        access: whose list it is.
    """
    if not one.cells:
        return Entry(one, leak=Value(text="met by none of these attacks"))
    wanted = card.attacks(access)
    run = tuple(attack for attack in wanted if attack in one.cells)
    lacking = [attack for attack in wanted if attack not in one.cells]
    attacks = run or tuple(one.cells)
    leak, per_seed = worst_case(one.cells, attacks, measure)
    if lacking:
        few = len(lacking) >= len(run)
        said = f"under {', '.join(attacks)} alone" if few else f"lacks {', '.join(lacking)}"
        leak = replace(leak, note=said)
    found = Entry(one, leak=leak, attacks=attacks, per_seed=per_seed)
    return _with_adaptive(found, one, card, measure, facts, access)


def facts_of(defense: str, known: Mapping[str, DefenseFacts]) -> DefenseFacts | None:
    """What the card of a defense says; early stopping is a training of the undefended target."""
    return known.get(UNDEFENDED if defense == EARLY_STOPPING else defense)


def _with_adaptive(
    found: Entry,
    one: Strength,
    card: BoardCard,
    measure: Measure,
    facts: DefenseFacts | None,
    access: Access,
) -> Entry:
    """The entry and its worst case with the adaptive attack, too; a text where there is none."""
    if facts is None:
        why = "the defense is of somebody's file or package, and so is its card"
        return replace(found, adaptive=Value(text="no card", note=why))
    if facts.attack is None:
        return replace(found, adaptive=Value(text="none named", note=facts.note))
    if access != "white-box" and facts.access not in (None, access):
        why = f"{facts.attack} is {facts.access}"
        return replace(found, adaptive=Value(text="none here", note=why))
    if facts.attack not in one.cells:
        return replace(found, adaptive=Value(text=f"{facts.attack} not run"))
    if facts.attack in card.attacks(access):
        same = f"the same: {facts.attack} is in the list"
        note = "; ".join(filter(None, (same, found.leak.note)))
        return replace(found, adaptive=replace(found.leak, note=note))
    attacks = tuple(dict.fromkeys((*found.attacks, facts.attack)))
    leak, per_seed = worst_case(one.cells, attacks, measure)
    fewer = per_seed and per_seed.keys() != found.per_seed.keys()
    met = f"seed{'s' * (len(per_seed) > 1)} {seeds_text(list(per_seed))} alone" if fewer else ""
    note = "; ".join(filter(None, (found.leak.note, met)))
    return replace(found, adaptive=replace(leak, note=note), adaptive_seeds=met)


def _less(
    one: Mapping[int, Sequence[float]], other: Mapping[int, Sequence[float]], card: BoardCard
) -> bool:
    """Whether the first leaks significantly less than the other, by a paired 95 % interval."""
    if card.interval == "seeds":
        rows = by_seed(one, other)
    else:  # each over its own seeds
        means = [
            [statistics.fmean(values) for values in zip(*each.values(), strict=True)]
            for each in (one, other)
        ]
        rows = by_seed({0: means[0]}, {0: means[1]})
    interval = paired(rows, card).interval
    return interval is not None and interval[1] < 0


def worst_of_target(samples: Sequence[Sequence[Sequence[float]]]) -> list[float]:
    """The worst case of each identity against one target.

    Args:
        samples: for each attack, for each identity, what each sample leaks. The halves are the
            samples at even and at odd positions. Attacks that tie on the choosing half share the
            score of their mean.

    Raises:
        ValueError: attacks differ in identities or samples, or there are fewer than two samples.
    """
    shapes = {tuple(len(row) for row in attack) for attack in samples}
    if len(shapes) != 1 or min(next(iter(shapes)), default=0) < 2:
        raise ValueError("attacks need values of the same identities and samples, two or more each")
    scores = []
    for rows in zip(*samples, strict=True):
        even, odd = zip(*map(halves, rows), strict=True)
        scores.append((_scored(even, odd) + _scored(odd, even)) / 2)
    return scores


def halves(row: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """An identity's samples at even and at odd positions: one half chooses, the other scores."""
    return row[::2], row[1::2]


def _scored(choose: Sequence[Sequence[float]], score: Sequence[Sequence[float]]) -> float:
    means = [statistics.fmean(row) for row in choose]
    chosen = [row for row, mean in zip(score, means, strict=True) if mean >= max(means) - _SLACK]
    return statistics.fmean(statistics.fmean(row) for row in chosen)


def worst_case(
    cells: Mapping[str, Series], attacks: Sequence[str], measure: Measure
) -> tuple[Value, dict[int, list[float]]]:
    """Worst case over ``attacks``, mean and spread over the seeds that have all of them.

    Args:
        cells: those of one defense and architecture by attack.
        attacks: the fixed set.
        measure: what leaks.

    Returns:
        The mean and each identity's values by seed; without a number and with the reason as text
        where an attack is missing, or where the attacks did not see one and the same target.
    """
    by_attack = {attack: cells[attack].complete for attack in attacks if attack in cells}
    missing = [attack for attack in attacks if not by_attack.get(attack)]
    if missing:
        return Value(text=f"lacks {', '.join(missing)}"), {}
    told = [{s: samples_of(r, measure) for s, r in own.items()} for own in by_attack.values()]
    if not all(rows for own in told for rows in own.values()):
        return Value(text="a record does not tell each sample"), {}
    seeds = set.intersection(*(set(records) for records in by_attack.values()))
    found = {}
    for seed in sorted(seeds):
        records = [records[seed] for records in by_attack.values()]
        if len({target_of(record) for record in records}) > 1:
            continue
        samples = [own[seed] for own in told]
        if all(min(map(len, rows)) > 1 for rows in samples):
            found[seed] = worst_of_target(samples)
    if not seeds:
        return Value(text="no seed has all its attacks"), {}
    if not found:
        return Value(text="its attacks saw different targets, or have one sample an identity"), {}
    return over_seeds(statistics.fmean(values) for values in found.values()), found


def samples_of(record: Record, measure: Measure) -> list[list[float]]:
    """What each sample of each identity leaks, in the board's measure; [] if it is not told."""
    if measure.key == BITS.key:
        metric = record.metrics.get("median_rank")
        if metric is None or metric.value is None or not metric.ranks or not metric.among:
            return []
        return [[math.log2(metric.among / rank) for rank in row] for row in metric.ranks]
    return [[float(hit) for hit in row] for row in record.metrics[measure.key].hits or ()]
