"""Numbers that papers report."""

from __future__ import annotations

from mibench.leaderboard.board import TOP1, Table, Value
from mibench.leaderboard.tables._shared import read_columns, read_lines


def published_table() -> Table:
    """Numbers that papers report, with their sources; every entry is text, as printed.

    All are of CelebA at 64×64 with targets that start from face recognition or ImageNet weights,
    which no protocol here is: nothing in this table compares with a measured number.
    """
    return Table(
        key="published",
        title="Published numbers",
        columns=tuple(read_columns("published", TOP1)),
        rows=tuple(
            {key: Value(text=text) for key, text in row.items() if text}
            for row in read_lines("published")
        ),
        notes=(
            "As the sources print them, not measured here: CelebA at 64×64 (private and public "
            "identities both from CelebA), targets that start from pretrained weights, other "
            "evaluators. They do not compare with the measured numbers of any board here.",
            "± is as published; the papers do not all say over what.",
        ),
    )
