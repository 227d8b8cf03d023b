"""The tables of a board, made from its records alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mibench.leaderboard.board import Board, Column, Curve, Table, Value
from mibench.leaderboard.cells import (
    SPREAD_NOTE,
    cells_table,
    diverged_notes,
    prior_note,
    table_of,
)
from mibench.leaderboard.checks import HEADLINE
from mibench.leaderboard.curves import curves
from mibench.leaderboard.groups import (
    DASH,
    UNDEFENDED,
    Group,
    default_groups,
    group,
    over_seeds,
    seeds_text,
)
from mibench.leaderboard.published import published_table
from mibench.leaderboard.ranking import RULE, Match, anchor, matches
from mibench.leaderboard.records import Filed
from mibench.leaderboard.settings import BoardSettings, Settings
from mibench.leaderboard.worst import worst_case
from mibench.names import AttackName, variants

if TYPE_CHECKING:
    from mibench.record import MetricValue

_INTERVALS = {
    "identities": "the 95 % interval of a paired bootstrap over identities of the mean over seeds",
    "seeds": "the 95 % paired t interval over seeds of the mean over the protocol's classes",
}


def build_board(protocol: str, filed: Sequence[Filed], settings: Settings) -> Board:
    """Everything that is shown of one protocol.

    Args:
        protocol: its name.
        filed: its records, at least one.
        settings: the leaderboards folder's.
    """
    own = settings.of(protocol)
    card = filed[0].record.protocol
    groups = group(filed, settings)
    lines = curves(groups, own.headline)
    usual = str(card.resolved.get("target", ""))
    targets = sorted({each.target for each in groups}, key=lambda name: (name != usual, name))
    undefended = [g for g in groups if g.default and g.defense == UNDEFENDED]
    shown = next((t for t in targets if any(g.target == t for g in undefended)), targets[0])
    return Board(
        protocol=protocol,
        version=card.version or 0,
        title=own.title,
        tables=(
            defenses_table(groups, lines, own, targets),
            improvement_table(groups, own, targets),
            cells_table(groups, targets),
            published_table(),
        ),
        curves=tuple(sorted(lines, key=lambda c: (targets.index(c.target), c.defense))),
        references=_references(undefended, shown),
        reference_target=shown,
        headline=own.headline,
    )


def _exact(value: Value) -> Value:
    """Without the ± of seeds that all have the same number, as a planned ε is."""
    return dataclasses.replace(value, spread=None) if value.spread == 0 else value


def defenses_table(
    groups: Sequence[Group], lines: Sequence[Curve], settings: BoardSettings, targets: Sequence[str]
) -> Table:
    """Defenses at their default strengths against the board's attacks, ranked at equal utility."""
    cells = default_groups(groups)
    controls = {
        (g.target, g.defense): g for g in groups if g.control and g.attack == settings.headline
    }
    attacks = _attacks(cells.values(), settings)
    rows: list[tuple[tuple[object, ...], dict[str, Value], tuple[Group, ...]]] = []
    levels = []
    for target in targets:
        own_lines = [line for line in lines if line.target == target]
        ranks, level = matches(own_lines), anchor(own_lines)
        if level is not None:
            levels.append(f"{100 * level:.1f} % on {target}")
        names = sorted({g.defense for g in cells.values() if g.target == target})
        for defense in names:
            own = {a: cells[target, defense, a] for a in attacks if (target, defense, a) in cells}
            if not own:
                continue
            match = ranks.get(defense, Match(reason=f"no cell under {settings.headline}"))
            some = own.get(settings.headline) or next(iter(own.values()))
            control = controls.get((target, defense))
            row = {
                "rank": Value(number=match.rank) if match.rank else DASH,
                "target": Value(text=target),
                "defense": Value(text=defense),
                "natural": some.utility("natural_accuracy"),
                **{attack: g.metric(HEADLINE) for attack, g in own.items()},
                "worst": worst_case(own, settings.worst_case),
                **_matched(match, lines, target, defense),
                "control_natural": control.utility("natural_accuracy") if control else DASH,
                "control_attack": control.metric(HEADLINE) if control else DASH,
                "epsilon": _exact(some.utility("epsilon")),
                "privacy_unit": Value(text=str(some.first.utility.get("privacy_unit") or "—")),
                "seeds": Value(text=seeds_text(some.seeds)),
            }
            place = (targets.index(target), match.rank or len(names) + 1, defense)
            rows.append((place, row, (*own.values(), *([control] if control else []))))
    rows.sort(key=lambda each: each[0])
    columns = (
        Column("rank", "rank", "count", "lower", "rank at matched natural accuracy", detail=True),
        Column("target", "target", help="architecture of the attacked classifier"),
        Column("defense", "defense", help="at its default strength"),
        Column("natural", "natural accuracy", "percent", "higher", "on private test images"),
        *(Column(a, a, "percent", "lower", f"top-1 attack accuracy of {a}") for a in attacks),
        Column("worst", "worst case", "percent", "lower", "over the board's fixed set of attacks"),
        Column(
            "matched",
            "attack at matched accuracy",
            "percent",
            "lower",
            f"top-1 of {settings.headline} at the matched natural accuracy; what ranks",
            detail=True,
        ),
        Column(
            "matched_natural",
            "natural accuracy there",
            "percent",
            "higher",
            "natural accuracy of the point that is ranked",
            detail=True,
        ),
        Column(
            "matched_strength",
            "strength there",
            help="main knob of the point that is ranked",
            detail=True,
        ),
        Column(
            "control_natural",
            "control: natural accuracy",
            "percent",
            "higher",
            "the same defense without its protection",
            detail=True,
        ),
        Column(
            "control_attack",
            f"control: {settings.headline}",
            "percent",
            "lower",
            "top-1 attack accuracy against the defense without its protection",
            detail=True,
        ),
        Column("epsilon", "ε", "number", "lower", "privacy budget of the formal guarantee"),
        Column("privacy_unit", "unit of ε", help="what the formal guarantee protects", detail=True),
        Column("seeds", "seeds", help=f"seeds under {settings.headline}", detail=True),
    )
    fixed = ", ".join(settings.worst_case)
    notes = (
        f"Top-1 attack accuracies; lower is better for the defender. {SPREAD_NOTE}",
        RULE + (f" Here: {', '.join(levels)}." if levels else ""),
        f"Worst case over {fixed}: within each target, the attack is chosen for each identity on "
        "one half of its samples and scored on the other, both ways averaged. Chosen on few "
        "samples, it can come out below the strongest attack's own accuracy.",
        "A control is the defense's own code at strength 0. ε covers what its unit names: with "
        "unit example one image, not all images of a person.",
        *diverged_notes([g for _, _, members in rows for g in members]),
        *prior_note([g for _, _, members in rows for g in members]),
    )
    return table_of(
        "defenses",
        "Defenses × attacks",
        columns,
        [(row, members) for _, row, members in rows],
        notes,
    )


def improvement_table(
    groups: Sequence[Group], settings: BoardSettings, targets: Sequence[str]
) -> Table:
    """Each attack with the improved objective and model augmentation, on undefended targets."""
    cells = default_groups(groups)
    attacks = {each.attack for each in cells.values() if each.defense == UNDEFENDED}
    bases = sorted({AttackName.parse(each, strict=False).base for each in attacks})
    deltas = {"lom": "delta_lom", "ma": "delta_ma", "improved": "delta"}
    rows = []
    for target in targets:
        for base in bases:
            names = dict(zip(("base", "lom", "ma", "improved"), variants(base), strict=True))
            own = {
                key: cells[target, UNDEFENDED, name]
                for key, name in names.items()
                if (target, UNDEFENDED, name) in cells
            }
            if not own:
                continue
            row = {"attack": Value(text=base), "target": Value(text=target)}
            row |= {key: each.metric(HEADLINE) for key, each in own.items()}
            for key, delta in deltas.items():
                row[delta] = _difference(own.get(key), own.get("base"), settings)
            seeds = {seeds_text(each.seeds) for each in own.values()}
            row["seeds"] = Value(text=seeds.pop() if len(seeds) == 1 else "differ: see all cells")
            rows.append((row, tuple(own.values())))
    percent = {"base": "base", "lom": "+ LOM", "ma": "+ MA", "improved": "improved"}
    columns = (
        Column("attack", "attack"),
        Column("target", "target", help="architecture of the attacked classifier, undefended"),
        *(
            Column(key, title, "percent", "lower", "top-1 attack accuracy")
            for key, title in percent.items()
        ),
        *(
            Column(
                delta,
                f"Δ {percent[key]}",
                "percent",
                "lower",
                f"{percent[key]} − base, in points, with its interval",
                detail=key != "improved",
            )
            for key, delta in deltas.items()
        ),
        Column("seeds", "seeds", detail=True),
    )
    members = [g for _, own in rows for g in own]
    notes = (
        "Top-1 attack accuracies on undefended targets. + LOM: the improved objective (logit "
        "maximisation with a feature regulariser); + MA: model augmentation; improved: both. "
        f"{SPREAD_NOTE}",
        f"Δ: the difference to the base in points, with {_INTERVALS[settings.interval]}.",
        *diverged_notes(members),
        *prior_note(members),
    )
    return table_of("improvement", "What the improvements bring", columns, rows, notes)


def _attacks(cells: Iterable[Group], settings: BoardSettings) -> list[str]:
    """The board's attacks, then others that a defense was tested with."""
    there = {g.attack for g in cells}
    others = {g.attack for g in cells if g.defense != UNDEFENDED}
    fixed = list(dict.fromkeys((*settings.worst_case, settings.headline)))
    return [a for a in fixed if a in there] + sorted(others - set(fixed))


def _matched(match: Match, lines: Sequence[Curve], target: str, defense: str) -> dict[str, Value]:
    point = match.point
    if point is None:
        return {"matched": Value(text=match.reason)}
    knob = next(line.knob for line in lines if (line.target, line.defense) == (target, defense))
    return {
        "matched": Value(number=point.attack, spread=point.attack_spread),
        "matched_natural": Value(number=point.natural, spread=point.natural_spread),
        "matched_strength": Value(text=f"{knob} {point.strength:g}" if knob else "default"),
    }


def _difference(one: Group | None, other: Group | None, settings: BoardSettings) -> Value:
    """Paired difference of top-1 with its interval, over the seeds that both have."""
    if one is None or other is None:
        return DASH
    mine, theirs = _per_identity(one), _per_identity(other)
    seeds = sorted(mine.keys() & theirs.keys())
    if not seeds:
        return DASH
    import torch  # here, so that the other tables do without it

    from mibench.metrics.intervals import paired_interval, seeds_interval

    rows = [[a - b for a, b in zip(mine[s], theirs[s], strict=True)] for s in seeds]
    difference = torch.tensor(rows, dtype=torch.float64)
    if settings.interval == "seeds":
        if len(seeds) < 2:
            return Value(number=float(difference.mean()))
        mean, low, high = seeds_interval(difference)
    else:
        mean, low, high = paired_interval(difference)
    return Value(number=mean, interval=(low, high))


def _per_identity(each: Group) -> dict[int, tuple[float, ...]]:
    found: dict[int, MetricValue] = {
        f.record.seed: f.record.metrics[HEADLINE] for f in each.complete
    }
    return {seed: m.per_identity for seed, m in found.items() if m.per_identity is not None}


def _references(undefended: Sequence[Group], target: str) -> tuple[tuple[str, Value], ...]:
    """Floors and ceiling of the undefended targets, one set a seed."""
    seeds: dict[int, dict[str, float]] = {}
    for each in undefended:
        for filed in each.filed if each.target == target else ():
            found = {k: m.get(HEADLINE) for k, m in filed.record.references.items()}
            there = {
                name: metric.value
                for name, metric in found.items()
                if metric is not None and metric.value is not None
            }
            if there:
                seeds.setdefault(filed.record.seed, there)
    names = sorted({name for values in seeds.values() for name in values}, reverse=True)
    rows = [(name, [v[name] for _, v in sorted(seeds.items()) if name in v]) for name in names]
    return tuple((name, over_seeds(values)) for name, values in rows)
