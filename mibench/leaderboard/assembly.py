"""A board, put together from its records and its protocol's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mibench.leaderboard.board import Board, Curve, DefenseFacts, Measure, Value, measure_of
from mibench.leaderboard.over_queries import query_curves
from mibench.leaderboard.ranking import RULE_IN_SHORT
from mibench.leaderboard.records import Filed
from mibench.leaderboard.series import (
    UNDEFENDED,
    Series,
    curves,
    over_seeds,
    series,
)
from mibench.leaderboard.summary import of_attacks, of_defenses, strongest
from mibench.leaderboard.tables import (
    cells_table,
    defenses_tables,
    improvement_table,
    published_table,
)
from mibench.leaderboard.tables.defenses import KEYS, rule, void
from mibench.record import BoardCard

_CURVE = 4  # strengths that make a curve of an attack that is not the board's headline


def build_board(
    protocol: str, filed: Sequence[Filed], card: BoardCard, facts: Mapping[str, DefenseFacts]
) -> Board:
    """Everything that is shown of one protocol.

    Args:
        protocol: its name.
        filed: its records, at least one.
        card: what its board shows.
        facts: what the cards of defenses say that boards need, by their names.
    """
    part = filed[0].record.protocol
    measure = measure_of(filed[0].record)
    cells = series(filed)
    usual = str(part.resolved.get("target", ""))
    targets = sorted({each.target for each in cells}, key=lambda name: (name != usual, name))
    undefended = [each for each in cells if each.default and each.defense == UNDEFENDED]
    shown = next((t for t in targets if any(each.target == t for each in undefended)), targets[0])
    plain = [each for each in undefended if each.target == shown]
    references = _references(plain, measure.key)
    defenses = defenses_tables(cells, card, targets, measure, facts)
    most = strongest(plain, measure)
    said = of_attacks(most, measure, references, _references(plain, "median_rank")) if most else ()
    lists = {KEYS[access]: card.attacks(access) for access in KEYS}
    return Board(
        protocol=protocol,
        version=part.version or 0,
        title=str(part.resolved.get("title", "")),
        tables=(
            *defenses,
            improvement_table(cells, card, targets, measure),
            cells_table(cells, card, targets, measure),
            published_table(),
        ),
        curves=_curves(cells, plain, card, targets, measure, facts),
        references=tuple(references.items()),
        reference_target=shown,
        headline=card.headline,
        measure=measure,
        nominal=bool(cells[0].first.nominal),
        summary=(*said, *(of_defenses(each, shown, measure, lists[each.key]) for each in defenses)),
        strongest=(most.attack, most.mean(measure.key)) if most else None,
        rule=rule(card, "white-box"),
        rule_in_short=RULE_IN_SHORT,
        over_queries=query_curves(cells, measure),
    )


def _curves(
    cells: Sequence[Series],
    undefended: Sequence[Series],
    card: BoardCard,
    targets: Sequence[str],
    measure: Measure,
    facts: Mapping[str, DefenseFacts],
) -> tuple[Curve, ...]:
    """Privacy–utility curves: of the headline and of the strongest stronger one with a long one."""
    filed = [one for each in cells if not void(each, facts) for one in each.filed]
    plain = [name for name, each in facts.items() if each.undefended_control]
    lines = curves(filed, card.headline, measure, plain)
    rest = [each for each in undefended if each.first.access == "white-box"]
    while (most := strongest(rest, measure)) is not None and most.attack != card.headline:
        more = curves(filed, most.attack, measure, plain)
        if any(len(curve.points) >= _CURVE for curve in more):
            lines += more
            break
        rest.remove(most)
    return tuple(sorted(lines, key=lambda c: (targets.index(c.target), c.defense)))


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
