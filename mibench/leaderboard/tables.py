"""The tables of a board, made from its records and its protocol's card."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import pandas as pd

from mibench.leaderboard.board import (
    BITS,
    DASH,
    TOP1,
    Board,
    Column,
    DefenseFacts,
    Kind,
    Measure,
    Table,
    Value,
)
from mibench.leaderboard.checks import HEADLINE
from mibench.leaderboard.masking import MASKED, Comparison, compared, comparisons, sign
from mibench.leaderboard.names import command_of_record
from mibench.leaderboard.ranking import (
    BUDGETS,
    RULE,
    RULE_IN_SHORT,
    Entry,
    entries,
    facts_of,
    met,
    strengths,
    worst_case,
)
from mibench.leaderboard.records import Filed
from mibench.leaderboard.series import (
    UNDEFENDED,
    Series,
    by_seed,
    curves,
    measure_of,
    over_seeds,
    paired,
    seeds_text,
    series,
)
from mibench.leaderboard.summary import of_attacks, of_defenses, strongest
from mibench.names import AttackName
from mibench.record import BoardCard, Record

SPREAD_NOTE = (
    "± is the standard deviation over seeds (independent targets, students and attacks); one seed "
    "has none."
)
_CLOSED = (
    "Closed-set accuracy is the papers' number, top-1 of {headline}: how often a classifier of the "
    "attacked people alone names the right one. A stranger who looks alike is named, too, so that "
    "nothing is ranked by it."
)
_INTERVALS = {
    "identities": "the 95 % interval of a paired bootstrap over identities of the mean over seeds",
    "seeds": "the 95 % paired t interval over seeds of the mean over the protocol's classes",
}
_MASKING = (
    "Gradients: a defense masks them where a black-box or label-only attack leaks significantly "
    "more than the strongest white-box attack against the same targets ({paired}; that attack is "
    "chosen on one half of the samples and scored on the other, both ways averaged). Then numbers "
    "of white-box attacks say little of what leaks."
)
_CURVE = 4  # strengths that make a curve of an attack that is not the board's headline
_LOOKUP = "lookup"  # the attack that answers with public images
# Of cells: their columns of metrics.
_JUDGED = ("bits", "bits_best", "median_rank", "excess", "leak_2", "two_choice")
_METRICS = {
    "bits": "identity_bits",
    "bits_best": "identity_bits_best",
    "median_rank": "median_rank",
    "excess": "excess_bits",
    "leak_2": "leak_at_1e-2",
    "two_choice": "two_choice_accuracy",
    "top1": HEADLINE,
    "top5": "attack_accuracy_top5",
    "both": "attack_accuracy_both",
    "knn": "knn_distance",
    **{key: key for key in ("fid", "fd_evaluator", "attribute_error")},
}
# A row, and the cells behind it.
Row = tuple[dict[str, Value], Sequence[Series]]


def build_board(
    protocol: str, filed: Sequence[Filed], card: BoardCard, facts: Mapping[str, DefenseFacts]
) -> Board:
    """Everything that is shown of one protocol.

    Args:
        protocol: its name.
        filed: its records, at least one.
        card: what its board shows.
        facts: what the cards of defenses say of their adaptive attacks, by their names.
    """
    part = filed[0].record.protocol
    measure = measure_of(filed[0].record)
    cells = series(filed)
    lines = curves(filed, card.headline, measure)
    usual = str(part.resolved.get("target", ""))
    targets = sorted({each.target for each in cells}, key=lambda name: (name != usual, name))
    undefended = [each for each in cells if each.default and each.defense == UNDEFENDED]
    shown = next((t for t in targets if any(each.target == t for each in undefended)), targets[0])
    plain = [each for each in undefended if each.target == shown]
    references = _references(plain, measure.key)
    defenses = defenses_table(cells, card, targets, measure, facts)
    most = strongest(plain, measure)
    if most is not None and most.attack != card.headline:
        more = curves(filed, most.attack, measure)
        lines += more * any(len(curve.points) >= _CURVE for curve in more)
    said = of_attacks(most, measure, references, _references(plain, "median_rank")) if most else ()
    return Board(
        protocol=protocol,
        version=part.version or 0,
        title=str(part.resolved.get("title", "")),
        tables=(
            defenses,
            improvement_table(cells, card, targets, measure),
            cells_table(cells, card, targets, measure),
            published_table(),
        ),
        curves=tuple(sorted(lines, key=lambda c: (targets.index(c.target), c.defense))),
        references=tuple(references.items()),
        reference_target=shown,
        headline=card.headline,
        measure=measure,
        nominal=bool(cells[0].first.nominal),
        summary=(*said, of_defenses(defenses, shown, measure)),
        strongest=(most.attack, most.mean(measure.key)) if most else None,
        rule=_rule(card),
        rule_in_short=RULE_IN_SHORT,
    )


def _rule(card: BoardCard) -> str:
    """How ranks are made, of a board's own list of attacks and intervals."""
    return RULE.format(
        attacks=", ".join(card.worst_case),
        version=card.list_version,
        paired=_INTERVALS[card.interval],
    )


def defenses_table(
    cells: Sequence[Series],
    card: BoardCard,
    targets: Sequence[str],
    measure: Measure,
    facts: Mapping[str, DefenseFacts],
) -> Table:
    """Defenses at their default strengths against the board's attacks, ranked at a budget."""
    default = {(c.target, c.defense, c.attack): c for c in cells if c.default}
    controls = {(c.target, c.defense): c for c in cells if c.control and c.attack == card.headline}
    attacks = _attacks(default, card)
    rows: list[Row] = []
    masked: list[str] = []
    named: dict[str, str] = {}
    for target in targets:
        known = strengths(cells, target, facts)
        within = {budget: entries(known, budget, card, measure, facts) for budget in BUDGETS}
        ranked: list[tuple[tuple[int, str], Row]] = []
        for defense, own_strengths in known.items():
            entry = within[BUDGETS[0]].get(defense, Entry())
            usual = next((one for one in own_strengths if one.default), None)
            cheapest = [each for each in reversed(own_strengths) if not each.control]
            one = usual or entry.strength or next(iter(cheapest), None)
            if one is None:  # its control alone
                continue
            own = {attack: one.cells[attack] for attack in attacks if attack in one.cells}
            if not own:
                continue
            some = own.get(card.headline) or next(iter(own.values()))
            control = controls.get((target, defense))
            said = facts_of(defense, facts)
            strength = entry.strength or one
            beside = comparisons(strength.cells.values(), card, measure)
            masked += [
                f"{defense} on {target}, {strength.text}: {each.text(measure)}"
                for each in beside
                if each.masked
            ]
            if said is not None and defense in facts:
                named[defense] = f"{defense}: {said.attack or 'none named'}. {said.note}".strip()
            row = {
                "rank": Value(entry.rank) if entry.rank else DASH,
                "target": Value(text=target),
                "defense": Value(text=defense),
                "strength": Value(text=one.text),
                "natural": some.mean("natural_accuracy"),
                **{attack: each.mean(measure.key) for attack, each in own.items()},
                "worst": worst_case(one.cells, card.worst_case, measure)[0],
                "gradients": sign(beside, measure),
                "control_natural": control.mean("natural_accuracy") if control else DASH,
                "control_attack": control.mean(measure.key) if control else DASH,
                "closed": own[card.headline].mean(HEADLINE) if card.headline in own else DASH,
                "epsilon": _exact(some.mean("epsilon")),
                "privacy_unit": Value(text=str(some.first.utility.get("privacy_unit") or "—")),
                "seeds": Value(text=seeds_text(list(some.complete))),
            }
            if defense == UNDEFENDED:  # the line that all are compared with
                usually = met(one, card, measure, said)
                lacking = usually.leak.note
                named_too = usually.strength if lacking else None
                plain = dataclasses.replace(usually, strength=named_too, reason=lacking)
                for budget in BUDGETS:
                    row |= _entered(plain, budget)
            for budget, found in within.items():
                if defense in found:
                    row |= _entered(found[defense], budget)
            members = [*own.values(), *([control] if control else [])]
            place = 0 if defense == UNDEFENDED else entry.rank or len(known) + 1
            ranked.append(((place, defense), (row, members)))
        rows += [row for _, row in sorted(ranked, key=lambda each: each[0])]
    columns = _columns("defenses", measure, headline=card.headline)
    if measure is not BITS:
        columns = [column for column in columns if column.key != "closed"]
    place = [column.key for column in columns].index("worst")
    fixed = (*card.worst_case, card.headline)
    columns[place:place] = [
        Column(a, a, measure.kind, "lower", f"{measure.title} of {a}", a not in fixed)
        for a in attacks
    ]
    notes = (
        f"{measure.title.capitalize()} of each attack at the default strength; lower is better for "
        f"the defender. {SPREAD_NOTE}",
        _rule(card),
        "Worst case: within each target, the attack is chosen for each identity on one half of its "
        "samples and scored on the other, both ways averaged. Chosen on few samples, it can come "
        "out below the strongest attack's own number.",
        *([f"Adaptive attacks, by the defenses' cards. {' '.join(named.values())}"] * bool(named)),
        _MASKING.format(paired=_INTERVALS[card.interval]),
        *([f"{MASKED.capitalize()}: {'; '.join(masked)}."] * bool(masked)),
        "A control is the defense's own code at strength 0. ε covers what its unit names: with "
        "unit example one image, not all images of a person.",
        *([_CLOSED.format(headline=card.headline)] if measure is BITS else []),
    )
    return _table("defenses", "Defenses × attacks", columns, rows, notes)


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


def improvement_table(
    cells: Sequence[Series], card: BoardCard, targets: Sequence[str], measure: Measure
) -> Table:
    """Each attack with the improved objective and model augmentation, on undefended targets."""
    default = {(c.target, c.attack): c for c in cells if c.default and c.defense == UNDEFENDED}
    deltas = {  # by what is beside what
        "delta_lom": ("lom", "base"),
        "delta_ma": ("ma", "base"),
        "delta": ("improved", "base"),
        "delta_taa": ("taa", "base"),
        "delta_improved_taa": ("improved_taa", "improved"),
    }
    averaged = {"taa", "improved_taa", "delta_taa", "delta_improved_taa"}
    rows: list[Row] = []
    for target in targets:
        for base in sorted({AttackName.parse(attack, strict=False).base for _, attack in default}):
            names = {
                "base": base,
                "lom": AttackName(base, lom=True).full,
                "ma": AttackName(base, ma=True).full,
            }
            names["improved"] = AttackName(base, lom=True, ma=True).full
            names["taa"] = AttackName(base, views="taa").full
            names["improved_taa"] = AttackName(base, lom=True, ma=True, views="taa").full
            own = {
                key: default[target, name]
                for key, name in names.items()
                if (target, name) in default
            }
            # Look-up has no variants; of an attack that was run alone it is told what it shows
            # beyond look-up.
            if not own or base.partition("-")[0] == _LOOKUP:
                continue
            row = {"attack": Value(text=base), "target": Value(text=target)}
            row |= {key: each.mean(measure.key) for key, each in own.items()}
            for delta, (key, beside) in deltas.items():
                row[delta] = _difference(own.get(key), own.get(beside), card, measure)
            lookup = default.get((target, _LOOKUP))
            row["beyond_base"] = _difference(own.get("base"), lookup, card, measure)
            row["beyond"] = _difference(own.get("improved"), lookup, card, measure)
            seeds = {seeds_text(list(each.complete)) for each in own.values()}
            row["seeds"] = Value(text=seeds.pop() if len(seeds) == 1 else "differ: see all cells")
            rows.append((row, list(own.values())))
    notes: tuple[str, ...] = (
        f"{measure.title.capitalize()} on undefended targets. + LOM: the improved objective (logit "
        "maximisation with a feature regulariser); + MA: model augmentation; improved: both. "
        f"{SPREAD_NOTE}",
        f"Δ: the difference to the base in {measure.unit.replace('%', 'points')}, with "
        f"{_INTERVALS[card.interval]}. Beyond look-up: the same to look-up, against the same "
        "targets.",
    )
    columns = _columns("improvement", measure)
    if any(averaged & row.keys() - deltas.keys() for row, _ in rows):
        notes += (
            "+ TAA: the identity loss is averaged over views of the image, turned, mirrored and "
            "cropped at random; its Δ is to the same attack without it.",
        )
    else:
        columns = [column for column in columns if column.key not in averaged]
    return _table("improvement", "What the improvements bring", columns, rows, notes)


def cells_table(
    cells: Sequence[Series], card: BoardCard, targets: Sequence[str], measure: Measure
) -> Table:
    """Every cell with all its metrics."""
    groups: dict[tuple[str, str], list[Series]] = {}
    for each in cells:
        groups.setdefault((each.target, each.defense), []).append(each)
    rows: list[Row] = []
    for each in sorted(
        cells, key=lambda c: (targets.index(c.target), c.defense, not c.default, c.attack)
    ):
        counts = {record.metrics[HEADLINE].n for record in each.complete.values()}
        prior = each.first.prior
        beside = compared(each, groups[each.target, each.defense], card, measure)
        row = {
            "attack": Value(text=each.attack),
            "access": Value(text=each.first.access),
            "target": Value(text=each.target),
            "defense": Value(text=each.defense),
            "settings": Value(text=each.settings),
            **{key: each.mean(metric) for key, metric in _METRICS.items()},
            "beyond_white_box": _beyond(beside, measure),
            "natural": each.mean("natural_accuracy"),
            "evaluator": each.mean("evaluator_accuracy"),
            "n": Value(counts.pop()) if len(counts) == 1 else DASH,
            "seeds": Value(text=seeds_text(list(each.complete))),
            "prior": Value(
                text=prior.recipe + " (general prior pinned by the protocol)" * prior.pinned
            ),
            "verified": Value(text=_verified(each.filed)),
            "commit": Value(text=_commits(each.filed)),
        }
        rows.append((row, [each]))
    columns = _columns("cells", measure)
    if measure is not BITS:
        columns = [column for column in columns if column.key not in _JUDGED]
    notes = (
        f"{SPREAD_NOTE} FD (evaluator) and FID are biased upwards the more, the fewer the images: "
        "compare them at equal n.",
        "verified: the cell was run anew and gave the same. metrics recomputed: the numbers follow "
        "from the record's reconstructions, which says nothing of how these were made. "
        "self-reported: nobody has checked the numbers.",
        "Beyond white-box: of a cell without white-box access, the difference to the strongest "
        "white-box attack against the same targets, with "
        f"{_INTERVALS[card.interval]}; above 0, gradients are masked.",
        *_missing_notes(cells, {_METRICS[c.key]: c.title for c in columns if c.key in _METRICS}),
    )
    return _table("cells", "All cells", columns, rows, notes, pinned=False)


def published_table() -> Table:
    """Numbers that papers report, with their sources; every entry is text, as printed.

    All are of CelebA at 64×64 with targets that start from face recognition or ImageNet weights,
    which no protocol here is: nothing in this table compares with a measured number.
    """
    return Table(
        key="published",
        title="Published numbers",
        columns=tuple(_columns("published", TOP1)),
        rows=tuple(
            {key: Value(text=text) for key, text in row.items() if text}
            for row in _lines("published")
        ),
        notes=(
            "As the sources print them, not measured here: CelebA at 64×64 (private and public "
            "identities both from CelebA), targets that start from pretrained weights, other "
            "evaluators. They do not compare with the measured numbers of any board here.",
            "± is as published; the papers do not all say over what.",
        ),
    )


def _lines(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file beside this one."""
    place = Path(__file__).with_name(f"{name}.csv")
    rows = pd.read_csv(place, dtype=str, keep_default_na=False).to_dict("records")
    return [{str(key): text for key, text in row.items()} for row in rows]


def _columns(table: str, measure: Measure, **words: str) -> list[Column]:
    """The columns of a table by ``columns.csv``, whose texts may hold ``{headline}``.

    A column of the kind ``measure`` has the board's, which ``{measure}`` names; ``{left}`` is what
    is left of it at a budget.
    """
    words |= {"measure": measure.title, "left": measure.left}
    return [
        Column(
            key=row["key"],
            title=row["title"].format(**words),
            kind=measure.kind if row["kind"] == "measure" else cast(Kind, row["kind"]),
            better=cast("Literal['lower', 'higher'] | None", row["better"] or None),
            help=row["help"].format(**words),
            detail=bool(row["detail"]),
        )
        for row in _lines("columns")
        if row["table"] == table
    ]


def _table(
    key: str,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Row],
    notes: tuple[str, ...],
    pinned: bool = True,
) -> Table:
    """A table whose rows know the cells behind them, and whose notes what diverged."""
    members = [each for _, own in rows for each in own]
    lines = [
        f"{each.attack} against {each.defense} on {each.target} ({each.settings}): seed "
        f"{seeds_text(each.diverged)}"
        for each in members
        if each.diverged
    ]
    more = [f"Diverged, and in no mean: {'; '.join(dict.fromkeys(lines))}."] if lines else []
    if pinned and any(each.first.prior.pinned for each in members):
        more.append("All numbers are conditional on the general prior that the protocol pins.")
    return Table(
        key=key,
        title=title,
        columns=tuple(columns),
        rows=tuple(row for row, _ in rows),
        notes=(*notes, *more),
        files=tuple(tuple(f.path for each in own for f in each.filed) for _, own in rows),
        commands=tuple(command_of_record(own[0].first) for _, own in rows),
    )


def _attacks(default: Mapping[tuple[str, str, str], Series], card: BoardCard) -> list[str]:
    """The board's attacks, then others that a defense was tested with."""
    there = {attack for _, _, attack in default}
    others = {attack for _, defense, attack in default if defense != UNDEFENDED}
    fixed = list(dict.fromkeys((*card.worst_case, card.headline)))
    return [a for a in fixed if a in there] + sorted(others - set(fixed))


def _exact(value: Value) -> Value:
    """Without the ± of seeds that all have the same number, as a planned ε is."""
    return dataclasses.replace(value, spread=None) if value.spread == 0 else value


def _difference(
    one: Series | None, other: Series | None, card: BoardCard, measure: Measure
) -> Value:
    """Paired difference of the measure with its interval, over the seeds that both have."""
    mine, theirs = (_per_identity(each.complete, measure) if each else {} for each in (one, other))
    return paired(by_seed(mine, theirs), card)


def _beyond(beside: Comparison | None, measure: Measure) -> Value:
    """What a cell leaks beyond the strongest white-box attack, marked where that is much."""
    if beside is None:
        return DASH
    note = f"{MASKED}: {beside.text(measure)}" if beside.masked else ""
    return dataclasses.replace(beside.difference, note=note)


def _per_identity(records: Mapping[int, Record], measure: Measure) -> dict[int, tuple[float, ...]]:
    told = {seed: record.metrics.get(measure.key) for seed, record in records.items()}
    found = {seed: metric.per_identity for seed, metric in told.items() if metric is not None}
    return {seed: values for seed, values in found.items() if values is not None}


def _verified(seeds: Sequence[Filed]) -> str:
    """``"verified by Ada"``, or ``"verified by Ada (1 of 2 seeds), self-reported (1 of 2 seeds)"``.

    Only a cell that was trained anew is called verified.
    """
    names = {n for each in seeds if each.verification for n in each.verification.verified_by}
    by = " by " + ", ".join(sorted(names)) if names else ""
    states = [each.state.replace("retrained", f"verified{by}") for each in seeds]
    found = sorted(set(states), key=lambda state: (not state.startswith("verified"), state))
    if len(found) == 1:
        return found[0]
    return ", ".join(f"{each} ({states.count(each)} of {len(states)} seeds)" for each in found)


def _commits(seeds: Sequence[Filed]) -> str:
    places = [each.record.environment for each in seeds]
    found = [
        f"mibench {place.mibench}"
        if place.commit is None
        else place.commit[:8] + "+" * bool(place.dirty)
        for place in places
    ]
    return ", ".join(dict.fromkeys(found))


def _missing_notes(cells: Sequence[Series], titles: Mapping[str, str]) -> list[str]:
    """One line for each metric that some cell lacks, with the first reason."""
    found = []
    for metric, title in titles.items():
        values = [
            record.metrics[metric]
            for each in cells
            for record in each.complete.values()
            if metric in record.metrics
        ]
        reasons = [each.reason for each in values if each.value is None]
        if reasons:
            found.append(f"{title} is missing in {len(reasons)} records: {reasons[0]}")
    return found


def _references(undefended: Sequence[Series], metric: str) -> dict[str, Value]:
    """Floors and ceiling of the undefended targets, one set a seed, from the lowest up."""
    seeds: dict[int, dict[str, float]] = {}
    for record in (filed.record for each in undefended for filed in each.filed):
        bounds = {name: values.get(metric) for name, values in record.references.items()}
        there = {n: m.value for n, m in bounds.items() if m is not None and m.value is not None}
        if there:
            seeds.setdefault(record.seed, there)
    names = sorted({name for values in seeds.values() for name in values})
    rows = {n: over_seeds(v[n] for _, v in sorted(seeds.items()) if n in v) for n in names}
    return dict(sorted(rows.items(), key=lambda each: each[1].number or 0.0))
