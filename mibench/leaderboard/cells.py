"""The table of all cells, and what the tables share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mibench.leaderboard.board import Column, Table, Value
from mibench.leaderboard.checks import HEADLINE
from mibench.leaderboard.groups import DASH, Group, seeds_text, settings_of
from mibench.leaderboard.names import command_of_record
from mibench.leaderboard.records import Filed
from mibench.leaderboard.verifications import SELF_REPORTED, State
from mibench.record import Record

_OF_A_PAPER = {"top1", "top5", "knn", "fid"}
_SHOWN: dict[State, str] = {
    "retrained": "verified",
    "metrics recomputed": "metrics recomputed",
    SELF_REPORTED: SELF_REPORTED,
}
SPREAD_NOTE = (
    "± is the standard deviation over seeds (independent targets, students and attacks); one seed "
    "has none."
)


def cells_table(groups: Sequence[Group], targets: Sequence[str]) -> Table:
    """Every cell with all its metrics."""
    metrics = {
        "top1": (HEADLINE, "top-1", "percent"),
        "top5": ("attack_accuracy_top5", "top-5", "percent"),
        "both": ("attack_accuracy_both", "both evaluators", "percent"),
        "knn": ("knn_distance", "KNN distance", "number"),
        "fid": ("fid", "FID", "number"),
        "fd_evaluator": ("fd_evaluator", "FD (evaluator)", "number"),
        "attribute_error": ("attribute_error", "attribute error", "number"),
    }
    rows = []
    order = sorted(
        groups, key=lambda g: (targets.index(g.target), g.defense, not g.default, g.attack)
    )
    for each in order:
        counts = {r.record.metrics[HEADLINE].n for r in each.complete}
        row = {
            "attack": Value(text=each.attack),
            "access": Value(text=each.first.access),
            "target": Value(text=each.target),
            "defense": Value(text=each.defense),
            "settings": Value(text=settings_text(each)),
            **{key: each.metric(metric) for key, (metric, _, _) in metrics.items()},
            "natural": each.utility("natural_accuracy"),
            "evaluator": each.utility("evaluator_accuracy"),
            "n": Value(number=counts.pop()) if len(counts) == 1 else DASH,
            "seeds": Value(text=seeds_text(each.seeds)),
            "prior": Value(text=_prior(each.first)),
            "verified": Value(text=_verified(each.filed)),
            "commit": Value(text=_commits(each)),
        }
        rows.append((row, (each,)))
    better = {"top1", "top5", "both"}
    columns = (
        Column("attack", "attack"),
        Column("access", "access", help="what the attack may see of the target", detail=True),
        Column("target", "target", help="architecture of the attacked classifier"),
        Column("defense", "defense"),
        Column("settings", "settings", help="what differs from the protocol's defaults"),
        *(
            Column(
                key,
                title,
                "percent" if kind == "percent" else "number",
                "lower" if key in better else "higher",
                f"metric {metric}",
                detail=key not in _OF_A_PAPER,
            )
            for key, (metric, title, kind) in metrics.items()
        ),
        Column("natural", "natural accuracy", "percent", "higher", "on private test images"),
        Column(
            "evaluator",
            "evaluator accuracy",
            "percent",
            help="below 90 %: shown, never ranked",
            detail=True,
        ),
        Column("n", "n", "count", help="reconstructions of each seed", detail=True),
        Column("seeds", "seeds", detail=True),
        Column("prior", "prior", help="the attacker's generative model", detail=True),
        Column(
            "verified",
            "verification",
            help="whether somebody else has run the cell anew",
            detail=True,
        ),
        Column("commit", "commit", help="of mibench; + marks uncommitted changes", detail=True),
    )
    notes = (
        f"{SPREAD_NOTE} FD (evaluator) and FID are biased upwards the more, the fewer the images: "
        "compare them at equal n.",
        "verified: the cell was run anew and gave the same. metrics recomputed: the numbers follow "
        "from the record's reconstructions, which says nothing of how these were made. "
        "self-reported: nobody has checked the numbers.",
        *_missing_notes(groups, [(metric, title) for metric, title, _ in metrics.values()]),
        *diverged_notes(groups),
    )
    return table_of("cells", "All cells", columns, rows, notes)


def settings_text(each: Group) -> str:
    """What was set, ``"defense.scale=0"``; ``"defaults"`` for nothing."""
    text = settings_of(each.first)
    return f"{text} (control)" if each.control else text or "defaults"


def table_of(
    key: str,
    title: str,
    columns: tuple[Column, ...],
    rows: Sequence[tuple[dict[str, Value], Sequence[Group]]],
    notes: tuple[str, ...],
) -> Table:
    """A table whose rows know the cells behind them."""
    return Table(
        key=key,
        title=title,
        columns=columns,
        rows=tuple(row for row, _ in rows),
        notes=notes,
        files=tuple(tuple(f for member in members for f in member.files) for _, members in rows),
        commands=tuple(command_of_record(members[0].first) for _, members in rows),
    )


def _verified(seeds: Sequence[Filed]) -> str:
    """``"verified by Ada"``, or ``"verified by Ada (1 of 2 seeds), self-reported (1 of 2 seeds)"``.

    Only a cell that was trained anew is called verified.
    """
    states = [_SHOWN[each.state] for each in seeds]
    notes = [each.verification for each in seeds if each.verification]
    if names := sorted({name for note in notes for name in note.verified_by}):
        by = f"{_SHOWN['retrained']} by {', '.join(names)}"
        states = [by if state == _SHOWN["retrained"] else state for state in states]
    found = sorted(set(states), key=lambda state: (not state.startswith("verified"), state))
    if len(found) == 1:
        return found[0]
    return ", ".join(f"{each} ({states.count(each)} of {len(states)} seeds)" for each in found)


def _commits(each: Group) -> str:
    places = [filed.record.environment for filed in each.filed]
    found = [
        f"mibench {place.mibench}"
        if place.commit is None
        else place.commit[:8] + ("+" if place.dirty else "")
        for place in places
    ]
    return ", ".join(dict.fromkeys(found))


def _prior(record: Record) -> str:
    pinned = " (general prior pinned by the protocol)" if record.prior.pinned else ""
    return record.prior.recipe + pinned


def diverged_notes(groups: Iterable[Group]) -> list[str]:
    """A sentence that names the seeds which diverged, if any did."""
    lines = [
        f"{g.attack} against {g.defense} on {g.target} ({settings_text(g)}): seed "
        f"{seeds_text(g.diverged)}"
        for g in groups
        if g.diverged
    ]
    if not lines:
        return []
    return [f"Diverged, and in no mean: {'; '.join(dict.fromkeys(lines))}."]


def prior_note(groups: Iterable[Group]) -> list[str]:
    """A sentence for numbers that rest on one pinned prior."""
    pinned = any(g.first.prior.pinned for g in groups)
    return ["All numbers are conditional on the general prior that the protocol pins."] * pinned


def _missing_notes(groups: Sequence[Group], metrics: Sequence[tuple[str, str]]) -> list[str]:
    """One line for each metric that some cell lacks, with the first reason."""
    found = []
    for metric, title in metrics:
        reasons = [
            f.record.metrics[metric].reason
            for g in groups
            for f in g.complete
            if metric in f.record.metrics and f.record.metrics[metric].value is None
        ]
        if reasons:
            found.append(f"{title} is missing in {len(reasons)} records: {reasons[0]}")
    return found
