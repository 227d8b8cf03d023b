"""An Arrow or a Parquet file with a column of pictures and one of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mibench.data import own, tables
from mibench.data import source as data


@data.register_source("arrow")
class Arrow(tables.Tables):
    """Pictures in a column, or paths relative to the folder of the file."""

    card = data.DatasetCard(
        name="arrow",
        title="An Arrow or Parquet file of pictures and labels",
        licence="that of its pictures",
        of_people=True,
        layout=(
            "faces.parquet (or .arrow, .feather):\n"
            "             image   encoded: bytes, or a struct that has them as `bytes`; or paths\n"
            "             label   integers or text"
        ),
        how_to_get="It is read with pyarrow: pip install 'mibench[arrow]'.",
        preprocessing=own.PREPROCESSING,
        always_partial=True,
    )
    of_one_file = True

    def shards(self, root: Path) -> Sequence[str]:
        """The file itself."""
        return ("",)

    def folder(self, root: Path) -> Path:
        """That of the file."""
        return root.parent
