"""The tables of a board, made from its records and its protocol's card: a file a table."""

from mibench.leaderboard.tables.cells import cells_table
from mibench.leaderboard.tables.defenses import defenses_tables
from mibench.leaderboard.tables.improvement import improvement_table
from mibench.leaderboard.tables.published import published_table

__all__ = ["cells_table", "defenses_tables", "improvement_table", "published_table"]
