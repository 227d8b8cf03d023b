"""What several tables have in common: their columns, words, and what stands below them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import pandas as pd

from mibench.leaderboard.board import Column, Kind, Measure, Table, Value
from mibench.leaderboard.names import command_of_record
from mibench.leaderboard.series import Series, seeds_text

SPREAD_NOTE = (
    "± is the standard deviation over seeds (independent targets, students and attacks); one seed "
    "has none."
)
QUERIES_NOTE = (
    "Queries an identity: how many images the target was asked about, in training the attacker's "
    "prior, students and surrogates and in the attack, over the number of attacked identities."
)
INTERVALS = {
    "identities": "the 95 % interval of a paired bootstrap over identities of the mean over seeds",
    "seeds": "the 95 % paired t interval over seeds of the mean over the protocol's classes",
}
# A row, and the cells behind it.
Row = tuple[dict[str, Value], Sequence[Series]]


def read_lines(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file of this package."""
    place = Path(__file__).parents[1] / f"{name}.csv"
    rows = pd.read_csv(place, dtype=str, keep_default_na=False).to_dict("records")
    return [{str(key): text for key, text in row.items()} for row in rows]


def read_columns(table: str, measure: Measure, **words: str) -> list[Column]:
    """The columns of a table by ``columns.csv``, whose texts may hold ``{lead}``.

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
        for row in read_lines("columns")
        if row["table"] == table
    ]


def make_table(
    key: str,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Row],
    notes: tuple[str, ...],
    *,
    pinned: bool = True,
    about: str = "",
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
        commands=tuple(command_of_record(own[0].first) if own else "" for _, own in rows),
        about=about,
    )


def exact(value: Value) -> Value:
    """Without the ± of seeds that all have the same number, as a planned ε is."""
    return dataclasses.replace(value, spread=None) if value.spread == 0 else value
