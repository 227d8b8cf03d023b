"""The table of defenses, against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from mibench.leaderboard.board import BITS, DefenseFacts
from mibench.leaderboard.plots import plots
from tests.kit.board_records import bido, make
from tests.kit.boards import IK, at, board_of, judged, row_of, table_of, told


@pytest.mark.parametrize("lacking", ["bido", "none", "all"])
def test_records_without_bits_are_dashes_on_a_judged_board(lacking: str) -> None:
    records = judged(None if lacking in ("none", "all") else 10)
    records += judged(None if lacking in ("bido", "all") else 10, defense="bido")
    board = board_of(*records)
    rows = {row["defense"].text: row for row in board.tables[0].rows}
    for name, row in rows.items():
        assert (row[IK].number is None) == (lacking in (name, "all"))
        assert (row["worst"].number is None) == (lacking in (name, "all"))
    if lacking == "bido":
        assert rows["bido"]["worst"].text == "a record does not tell each sample"
    assert len(board.curves) == 2 - len(rows) * (lacking == "all") - (lacking in rows)
    plots(board)


def test_bits_rank_where_the_protocol_has_judges() -> None:
    """The measure is identity bits, from the ranks of samples; accuracy is a column of its own."""
    records = judged(10) + judged(100, hits=20, defense="bido") + judged(20, defense="other")
    board = board_of(*records)
    assert board.measure is BITS
    none, bido_, other = board.tables[0].rows
    assert [row["defense"].text for row in board.tables[0].rows] == ["none", "bido", "other"]
    assert [row["rank"].number for row in (bido_, other)] == [1, 2]
    assert bido_["worst"].number == pytest.approx(math.log2(10.01))
    assert bido_["leak_5"].number == pytest.approx(math.log2(10.01))
    assert none[IK].number == pytest.approx(math.log2(100.1))
    assert bido_["closed"].number == 1  # which leaks most by this number
    kinds = {column.key: column.kind for column in board.tables[0].columns}
    assert (kinds[IK], kinds["closed"], kinds["worst"]) == ("number", "percent", "number")
    ranks = {r["defense"].text: r["median_rank"].number for r in table_of("cells", *records).rows}
    assert ranks == {"none": 10, "bido": 100, "other": 20}
    assert any("nothing is ranked by it" in note for note in board.tables[0].notes)
    drawn = [point.attack for line in board.curves for point in line.points]
    assert len(drawn) == 3
    assert min(drawn) == pytest.approx(math.log2(10.01))
    assert "bits" not in {column.key for column in table_of("cells", make()).columns}


def test_the_table_of_defenses() -> None:
    epsilon = {"epsilon": 8.0, "privacy_unit": "example"}
    records = [
        *told(0.99, hits=16),
        *told(0.96, hits=12, defense="bido"),
        *told(0.98, hits=19, attacks=(IK,), **at(0)),
        *told(0.90, hits=5, defense="other", epsilons=epsilon),
    ]
    table = table_of("defenses", *records)
    assert [row["defense"].text for row in table.rows] == ["none", "bido", "other"]
    keys = [column.key for column in table.columns]
    entering = ["leak_5", "adaptive_5", "cost_5", "strength_5", "gradients"]
    assert keys[:7] == ["rank", "defense", *entering]
    assert keys[15:20] == ["target", "strength", "natural", "gmi", IK]
    assert "closed" not in keys  # it is what this board shows anyway
    none, best, other = table.rows
    assert [row["rank"].number for row in table.rows] == [None, 1, None]
    assert best["leak_5"].number == best["worst"].number == pytest.approx(0.6)
    assert best["strength_5"].text == "scale 3"
    assert best["cost_5"].number == pytest.approx(0.03)
    assert best["leak_5"].note == ""
    assert best["leak_2"].text == "costs 3.0 points or more of accuracy"
    assert best["control_attack"].number == pytest.approx(0.95)
    assert best["epsilon"].text == "—"
    assert none[IK].number == pytest.approx(0.8)
    assert none["leak_5"] == none["leak_1"] == none["worst"]  # what all are compared with
    assert other["leak_5"].text == "costs 9.0 points or more of accuracy"
    assert (other["epsilon"].number, other["privacy_unit"].text) == (8.0, "example")
    assert other[IK].number == 0.25  # shown all the same
    assert f"tiny/{IK}_bido-scale=0_test_resnet_seed0.json" in table.files[1]
    assert any("Spend at most 5 points" in note for note in table.notes)


@pytest.mark.parametrize(("epsilons", "spread"), [((8.0, 8.0), None), ((7.0, 9.0), 2**0.5)])
def test_a_planned_guarantee_has_no_spread(
    epsilons: tuple[float, float], spread: float | None
) -> None:
    records = []
    for seed, epsilon in enumerate(epsilons):
        utility = {"natural_accuracy": 0.9 + 0.01 * seed, "evaluator_accuracy": 0.95}
        utility |= {"epsilon": epsilon, "privacy_unit": "example"}
        records.append(make(5, attack=IK, defense="other", seed=seed, utility=utility))
    (row,) = table_of("defenses", *records).rows
    assert row["epsilon"].number == 8.0
    assert row["epsilon"].spread == (spread and pytest.approx(spread))
    assert row["natural"].spread is not None


def test_the_undefended_target_is_the_control_of_a_defense_that_says_so() -> None:
    plain = {"bido": DefenseFacts(None, "None.", undefended_control=True)}
    early = make(4, attack=IK, natural=0.4, epochs=2, passed={"target.epochs": 2})
    own = make(2, attack=IK, defense="bido", scale=0, passed={"defense.scale": 0})
    records = [make(16, attack=IK, natural=0.99), early, own, bido(12, 0.9, 3)]
    table = table_of("defenses", *records, facts=plain)
    row = row_of(table, defense="bido")
    assert row["control_attack"].number == pytest.approx(0.8)
    assert row["control_natural"].number == pytest.approx(0.99)
    files = table.files[[each["defense"].text for each in table.rows].index("bido")]
    assert f"tiny/{IK}_none_test_resnet_seed0.json" in files
    row = row_of(table_of("defenses", *records[1:], facts=plain), defense="bido")
    assert row["control_attack"].text == "—"


def test_a_control_under_another_attack_is_not_taken() -> None:
    other = make(2, attack="gmi", defense="bido", scale=0, passed={"defense.scale": 0})
    row = row_of(table_of("defenses", bido(12, 0.9, 3), other), defense="bido")
    assert row["control_attack"].text == "—"
