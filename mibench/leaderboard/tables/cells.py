"""Every cell with all its metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mibench.leaderboard.board import BITS, DASH, Measure, Table, Value
from mibench.leaderboard.checks import HEADLINE
from mibench.leaderboard.masking import MASKED, Comparison, compared
from mibench.leaderboard.records import Filed
from mibench.leaderboard.series import Series, seeds_text
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

# Columns of metrics: of these there are none without judges.
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
            "queries": exact(each.mean("queries")),
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
    columns = read_columns("cells", measure)
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
        f"{INTERVALS[card.interval]}; above 0, gradients are masked.",
        QUERIES_NOTE,
        *_missing_notes(cells, {_METRICS[c.key]: c.title for c in columns if c.key in _METRICS}),
    )
    return make_table("cells", "All cells", columns, rows, notes, pinned=False)


def _beyond(beside: Comparison | None, measure: Measure) -> Value:
    """What a cell leaks beyond the strongest white-box attack, marked where that is much."""
    if beside is None:
        return DASH
    note = f"{MASKED}: {beside.text(measure)}" if beside.masked else ""
    return dataclasses.replace(beside.difference, note=note)


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
