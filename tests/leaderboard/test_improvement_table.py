"""The table of improvements, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from mibench.metrics import paired_interval, seeds_interval
from tests.conftest import TINY
from tests.kit.board_records import bido, make
from tests.kit.boards import IK, TAA, table_of


def test_the_improvement_is_paired() -> None:
    fewer = ["11110", "11110", "00000", "00000", "00000"]
    more = ["11110", "11110", "11100", "00010", "00000"]
    base = [make(fewer, attack="kedmi", seed=s) for s in (0, 1)]
    better = [make(more, attack=IK, seed=s) for s in (0, 1, 2)]
    plus = [make(9, attack="kedmi+lom"), make(7, attack="kedmi+ma")]
    defended = bido(1, 0.9, 3)
    table = table_of("improvement", *base, *better, *plus, defended)
    (row,) = table.rows
    assert row["attack"].text == "kedmi"
    assert row["base"].number == pytest.approx(8 / 25)
    assert (row["lom"].number, row["ma"].number) == (pytest.approx(0.45), pytest.approx(0.35))
    assert row["improved"].number == pytest.approx(12 / 25)
    # Seeds 0 and 1 have both; by identity the differences are 0, 0, 3/5, 1/5, 0.
    difference = torch.tensor([[0, 0, 0.6, 0.2, 0]] * 2, dtype=torch.float64)
    mean, low, high = paired_interval(difference)
    assert mean == pytest.approx(0.16, abs=1e-15)
    assert row["delta"].number == pytest.approx(mean, abs=1e-15)
    assert row["delta"].interval == pytest.approx((low, high), abs=1e-15)
    # Only seed 0 has + LOM: 9 hits of 20 are 1, 1, 1/4, 0, 0 by identity.
    lom = torch.tensor([[0.2, 0.2, 0.25, 0, 0]], dtype=torch.float64)
    mean, low, high = paired_interval(lom)
    assert row["delta_lom"].number == pytest.approx(mean, abs=1e-15) == pytest.approx(0.13)
    assert row["delta_lom"].interval == pytest.approx((low, high), abs=1e-15)
    assert row["delta_ma"].number == pytest.approx(7 / 20 - 8 / 25, abs=1e-15)
    assert row["seeds"].text == "differ: see all cells"


def test_averaging_over_views_is_beside_the_same_attack_without_it() -> None:
    records = [make(4, attack="gmi"), make(9, attack="gmi+taa")]
    records += [make(8, attack="improved-gmi"), make(14, attack=TAA), make(6, attack="vmi+taa")]
    table = table_of("improvement", *records)
    gmi, vmi = table.rows
    assert (gmi["attack"].text, vmi["attack"].text) == ("gmi", "vmi")
    assert (gmi["taa"].number, gmi["improved_taa"].number) == (0.45, 0.7)
    assert gmi["delta_taa"].number == pytest.approx(0.25)
    assert gmi["delta_improved_taa"].number == pytest.approx(0.3)  # to improved, not to the base
    assert gmi["delta"].number == pytest.approx(0.2)
    assert gmi["delta_improved_taa"].interval is not None
    assert (vmi["taa"].number, vmi["delta_taa"].text) == (0.3, "—")
    titles = {column.key: column.title for column in table.columns}
    assert titles["taa"] == "+ TAA"
    assert any(note.startswith("+ TAA:") for note in table.notes)
    bare = table_of("improvement", make(attack="gmi"), make(attack="improved-gmi"))
    assert not [c.key for c in bare.columns if "taa" in c.key]
    assert not any("TAA" in note for note in bare.notes)


def test_what_an_attack_shows_beyond_lookup_is_paired() -> None:
    found = [make(["11100", "10000", "00000", "11111", "11000"], attack="lookup", seed=0)]
    better = [
        make(["11110", "11000", "00000", "11111", "11111"], attack=IK, seed=s) for s in (0, 1)
    ]
    base = [make(["10000", "10000", "00000", "11111", "11000"], attack="kedmi", seed=0)]
    (row,) = table_of("improvement", *found, *better, *base).rows
    # By identity, of seed 0 alone, which all of them have.
    for key, own in (("beyond", [0.2, 0.2, 0, 0, 0.6]), ("beyond_base", [-0.4, 0, 0, 0, 0])):
        mean, low, high = paired_interval(torch.tensor([own], dtype=torch.float64))
        assert row[key].number == pytest.approx(mean)
        assert row[key].interval == pytest.approx((low, high))
    assert table_of("improvement", *better, *base).rows[0]["beyond"].text == "—"


def test_differences_can_be_over_seeds() -> None:
    over_seeds = TINY.board.model_copy(update={"interval": "seeds"})
    base = [make(8, attack="kedmi", seed=s) for s in (0, 1, 2)]
    better = [make(8 + 4 * s, attack=IK, seed=s) for s in (0, 1, 2, 3)]
    one = [make(9, attack="gmi", seed=0), make(11, attack="improved-gmi", seed=0)]
    table = table_of("improvement", *base, *better, *one, card=over_seeds)
    gmi, kedmi = table.rows
    # Of the seeds that both have, the differences are 0, 4 and 8 of 20 hits.
    mean, low, high = seeds_interval(torch.tensor([[0.0], [0.2], [0.4]]))
    assert kedmi["delta"].number == pytest.approx(mean) == pytest.approx(0.2)
    assert kedmi["delta"].interval == pytest.approx((low, high))
    assert (gmi["delta"].number, gmi["delta"].interval) == (pytest.approx(0.1), None)
    assert any("t interval over seeds" in note for note in table.notes)


def test_no_improvement_without_both_ends() -> None:
    (row,) = table_of("improvement", make(attack="vmi"), make(attack="vmi+ma")).rows
    assert row["delta"].text == "—"
    assert "improved" not in row
    apart = [make(attack="vmi"), make(attack="improved-vmi", seed=1)]
    assert table_of("improvement", *apart).rows[0]["delta"].text == "—"
    alone = table_of("improvement", make(attack="lookup"), make(attack=IK))
    assert [row["attack"].text for row in alone.rows] == ["kedmi"]
