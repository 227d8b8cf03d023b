"""What the improvements of attacks bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mibench.leaderboard.board import Measure, Table, Value
from mibench.leaderboard.series import UNDEFENDED, Series, by_seed, paired, seeds_text
from mibench.leaderboard.tables._shared import INTERVALS, SPREAD_NOTE, Row, make_table, read_columns
from mibench.names import AttackName
from mibench.record import BoardCard, Record

_LOOKUP = "lookup"  # the attack that answers with public images


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
        f"{INTERVALS[card.interval]}. Beyond look-up: the same to look-up, against the same "
        "targets.",
    )
    columns = read_columns("improvement", measure)
    if any(averaged & row.keys() - deltas.keys() for row, _ in rows):
        notes += (
            "+ TAA: the identity loss is averaged over views of the image, turned, mirrored and "
            "cropped at random; its Δ is to the same attack without it.",
        )
    else:
        columns = [column for column in columns if column.key not in averaged]
    return make_table("improvement", "What the improvements bring", columns, rows, notes)


def _difference(
    one: Series | None, other: Series | None, card: BoardCard, measure: Measure
) -> Value:
    """Paired difference of the measure with its interval, over the seeds that both have."""
    mine, theirs = (_per_identity(each.complete, measure) if each else {} for each in (one, other))
    return paired(by_seed(mine, theirs), card)


def _per_identity(records: Mapping[int, Record], measure: Measure) -> dict[int, tuple[float, ...]]:
    told = {seed: record.metrics.get(measure.key) for seed, record in records.items()}
    found = {seed: metric.per_identity for seed, metric in told.items() if metric is not None}
    return {seed: values for seed, values in found.items() if values is not None}
