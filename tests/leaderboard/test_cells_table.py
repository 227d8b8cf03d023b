"""The table of all cells, and that of published numbers."""

from __future__ import annotations

import dataclasses

import pytest

from mibench.leaderboard.assembly import build_board
from mibench.leaderboard.tables import published_table
from mibench.leaderboard.verifications import Verification
from tests.conftest import TINY
from tests.kit.board_records import diverged, filed, finding, make
from tests.kit.boards import IK, row_of, table_of


def test_diverged_seeds_are_no_numbers() -> None:
    records = [make(10, attack=IK), make(12, attack=IK, seed=1), diverged(attack=IK, seed=2)]
    table = table_of("cells", *records)
    (row,) = table.rows
    assert row["top1"].number == pytest.approx(0.55)
    assert row["seeds"].text == "0, 1"
    assert any("Diverged, and in no mean" in n and "seed 2" in n for n in table.notes)
    (row,) = table_of("cells", diverged()).rows
    assert (row["top1"].number, row["top1"].text) == (None, "diverged")


def test_a_missing_metric_has_its_reason_below_the_table() -> None:
    table = table_of("cells", make())
    assert table.rows[0]["fid"].number is None
    assert any(note.startswith("FID is missing in 1 records: no Inception") for note in table.notes)


def test_cells_say_whether_they_were_verified() -> None:
    environment = {**make().environment.model_dump(), "dirty": True}
    records = [make(), make(seed=1), make(attack=IK, environment=environment), make(attack="vmi")]
    ada, eve = ((finding("retrained", by),) for by in ("Ada", "Eve"))
    notes = {0: ada, 2: None, 3: (finding("metrics recomputed"), *eve)}
    checked = [
        dataclasses.replace(each, verification=Verification(record="0" * 64, findings=found))
        if (found := notes.get(i))
        else each
        for i, each in enumerate(filed(*records))
    ]
    board = build_board("tiny", checked, TINY.board, {})
    (table,) = (each for each in board.tables if each.key == "cells")
    said = {row["attack"].text: row["verified"].text for row in table.rows}
    halves = "verified by Ada (1 of 2 seeds), self-reported (1 of 2 seeds)"
    assert said == {"gmi": halves, IK: "self-reported", "vmi": "verified by Eve"}
    assert row_of(table, attack=IK)["commit"].text == "01234567+"
    assert row_of(table, attack="gmi")["commit"].text == "01234567"
    assert row_of(table, attack="gmi")["n"].number == 20


def test_published_numbers_are_apart_and_have_sources() -> None:
    table = published_table()
    assert all(row["source"].text for row in table.rows)
    seed = row_of(table, source="Nguyen et al., CVPR 2023", attack="KEDMI + LOM", target="IR152")
    assert (seed["top1"].text, seed["knn"].text) == ("92.47 ± 1.41", "1168.55")
    ssd = row_of(table, defense="BiDO", attack="LOKT")
    assert (ssd["natural"].text, ssd["top1"].text) == ("86.6", "30.8")
    rerun = [r for r in table.rows if r["source"].text.startswith("independent")]
    assert [(r["top1"].text, r["fid"].text) for r in rerun][-1] == ("88.07", "34.76")
