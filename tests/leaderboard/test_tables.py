"""Tables, curves, ranks and improvements, against values worked out by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mibench.leaderboard.board import Board, Curve, CurvePoint, Table, Value
from mibench.leaderboard.checks import faults
from mibench.leaderboard.ranking import anchor, matches, worst_of_target
from mibench.leaderboard.series import curves, over_seeds, seeds_text
from mibench.leaderboard.tables import build_board, published_table
from mibench.leaderboard.verifications import Verification
from mibench.metrics import paired_interval, seeds_interval
from mibench.record import BoardCard, Record
from tests.conftest import TINY
from tests.kit.board_records import bido, diverged, filed, finding, make

IK = "improved-kedmi"


def board_of(*records: Record, card: BoardCard = TINY.board) -> Board:
    return build_board("tiny", filed(*records), card)


def table_of(key: str, *records: Record, card: BoardCard = TINY.board) -> Table:
    return next(t for t in board_of(*records, card=card).tables if t.key == key)


def row_of(table: Table, **texts: str) -> dict[str, Value]:
    (row,) = [r for r in table.rows if all(r[k].text == v for k, v in texts.items())]
    return row


# -- worst case ---------------------------------------------------------------------------------


def test_the_worst_case_by_hand() -> None:
    # Even samples are 1st and 3rd. Chosen on one half, an attack that was lucky there scores what
    # it has on the other half: the best on the same samples would be 2 of 4 here.
    assert worst_of_target([["1010"], ["0101"]]) == 0
    # Both attacks tie on both halves, and share the mean of their scores.
    assert worst_of_target([["1100"], ["0011"]]) == 0.5
    # On even samples both have "11", and "10" and "00" on odd ones: 1/4. On odd ones the first is
    # better, and has all even ones.
    assert worst_of_target([["1110"], ["1010"]]) == (0.25 + 1) / 2
    assert worst_of_target([["1111"], ["0000"]]) == 1
    # Chosen on even samples "10" and "00": the first, which has "11" on odd ones. Chosen on odd
    # ones "11" and "10": the first, which has "10" on even ones.
    assert worst_of_target([["1101"], ["0100"]]) == (1 + 0.5) / 2
    assert worst_of_target([["1010", "1111"], ["0101", "0000"]]) == 0.5


def test_the_worst_case_takes_another_attack_for_each_identity() -> None:
    """Each attack gets one of the two identities: the worst case is both."""
    assert worst_of_target([["1111", "0000"], ["0000", "1111"]]) == 1


def test_the_worst_case_of_five_samples() -> None:
    # Even positions hold three samples, odd ones two.
    assert worst_of_target([["11011"], ["00000"]]) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("hits", [[["11"], ["111"]], [["1"], ["1"]], [["11", "11"], ["11"]]])
def test_a_worst_case_needs_equal_shapes(hits: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="same identities and samples"):
        worst_of_target(hits)


def test_the_worst_case_in_the_table() -> None:
    full, empty = ["1111"] * 5, ["0000"] * 5
    both = [make(full, attack="gmi", seed=s) for s in (0, 1)]
    both += [make(empty, attack=IK, seed=0), make(empty, attack=IK, seed=1)]
    worst = row_of(table_of("defenses", *both), defense="none")["worst"]
    assert (worst.number, worst.spread) == (1, 0)


def test_there_is_no_worst_case_without_all_attacks() -> None:
    lacking = row_of(table_of("defenses", make(attack=IK)), defense="none")["worst"]
    assert (lacking.number, lacking.text) == (None, "lacks gmi")
    apart = [make(attack=IK, seed=0), make(attack="gmi", seed=1)]
    assert row_of(table_of("defenses", *apart), defense="none")["worst"].number is None
    others = [make(attack=IK), make(attack="gmi", artifacts={"target": "another"})]
    worst = row_of(table_of("defenses", *others), defense="none")["worst"]
    assert worst.number is None
    assert "different targets" in worst.text


# -- groups -------------------------------------------------------------------------------------


def test_spreads_are_over_seeds() -> None:
    value = over_seeds([0.2, 0.4, 0.9])
    assert value.number == pytest.approx(0.5)
    assert value.spread == pytest.approx((((0.3**2) + (0.1**2) + (0.4**2)) / 2) ** 0.5)
    assert over_seeds([0.2]) == Value(number=0.2)


@pytest.mark.parametrize(
    ("seeds", "text"), [((0, 1, 2), "0–2"), ((0, 1), "0, 1"), ((0, 2, 3), "0, 2, 3"), ((), "—")]
)
def test_seeds_as_text(seeds: tuple[int, ...], text: str) -> None:
    assert seeds_text(seeds) == text


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


# -- curves and ranks ---------------------------------------------------------------------------


def test_a_curve_has_a_point_for_each_strength() -> None:
    again = bido(14, 0.8, 3, seed=0, passed={"defense.scale": 3})
    records = [
        bido(14, 0.9, 3),
        bido(12, 0.8, 3, seed=1),
        again,  # the default strength asked for by name: seed 0 counts once, the default's record
        bido(16, 0.92, 0),
        bido(6, 0.7, 5.0),
        make(10, attack="gmi", defense="bido", natural=0.5),
        bido(8, 0.6, 5, passed={"defense.scale": 5, "target.epochs": 20}),
        make(17, attack=IK, natural=0.95, target="other"),
        make(17, attack=IK, natural=0.4, epochs=2, passed={"target.epochs": 2}),
        make(18, attack=IK, natural=0.95),
    ]
    found = {(c.target, c.defense): c for c in curves(filed(*records), IK)}
    assert set(found) == {("test_resnet", "bido"), ("test_resnet", "none"), ("other", "none")}
    curve = found["test_resnet", "bido"]
    assert curve.knob == "scale"
    assert [(p.strength, p.default, p.control) for p in curve.points] == [
        (0, False, True),
        (3, True, False),
        (5, False, False),
    ]
    assert curve.points[2].attack == pytest.approx(0.3)
    default = curve.points[1]
    assert (default.natural, default.attack) == (pytest.approx(0.85), pytest.approx(0.65))
    assert default.attack_spread == pytest.approx(0.1 / 2**0.5)
    assert default.seeds == (0, 1)
    assert default.files == (
        "tiny/improved-kedmi_bido_test_resnet_seed0.json",
        "tiny/improved-kedmi_bido_test_resnet_seed1.json",
    )
    early = found["test_resnet", "none"].points
    assert [(p.strength, p.default) for p in early] == [(2, False), (20, True)]


def test_a_knob_without_a_number_is_named() -> None:
    record = make(attack=IK, defense="bido", scale="much")
    (reason,) = faults(record)
    assert "main knob of bido is defense.scale" in reason
    # DP-SGD finds its noise for a given ε in training, and reports it beside ε.
    utility = {**record.utility, "scale": 7.0}
    found = make(attack=IK, defense="bido", scale=None, utility=utility)
    assert not [each for each in faults(found) if "knob" in each or "strength" in each]
    (line,) = curves(filed(found), IK)
    assert line.points[0].strength == 7


def test_a_defense_without_a_known_knob_is_one_point() -> None:
    (line,) = curves(filed(make(attack=IK, defense="new")), IK)
    assert (line.knob, [p.strength for p in line.points]) == ("", [1])
    assert line.points[0].default
    assert not line.points[0].control


def point(strength: float, natural: float, attack: float, **options: Any) -> CurvePoint:
    return CurvePoint(
        strength, natural, attack, None, None, (0,), **{"default": False, "files": (), **options}
    )


def curve(defense: str, *points: CurvePoint) -> Curve:
    return Curve(defense, IK, "test_resnet", "scale", points)


NONE = curve("none", point(4, 0.952, 0.50), point(20, 0.99, 0.63, default=True))
MILD = curve("mild", point(0, 0.96, 0.1, control=True), point(1, 0.955, 0.40, default=True))
STRONG = curve(
    "strong",
    point(0, 0.955, 0.70, control=True),
    point(1, 0.949, 0.35),
    point(2, 0.80, 0.05, default=True),
)


def test_ranks_by_hand() -> None:
    # none − 5 points is 94: the default of mild (95.5) is the costliest above it. At 95.5: none
    # stopped early (95.2, .50), mild (.40), and strong at strength 1 (94.9, .35): its default costs
    # too much, and its control, which is nearer, does not stand for it.
    assert anchor([NONE, MILD, STRONG]) == 0.955
    found = matches([NONE, MILD, STRONG])
    assert {name: match.rank for name, match in found.items()} == {
        "strong": 1,
        "mild": 2,
        "none": 3,
    }
    assert [found[n].point.attack for n in ("strong", "mild", "none")] == [0.35, 0.40, 0.50]  # type: ignore[union-attr]


def test_equal_attack_accuracies_share_a_rank() -> None:
    twin = curve("twin", point(1, 0.956, 0.40, default=True))
    ranks = {name: match.rank for name, match in matches([NONE, MILD, twin]).items()}
    assert ranks == {"mild": 1, "twin": 1, "none": 3}


def test_a_defense_without_a_near_point_is_not_ranked() -> None:
    late = curve("none", point(20, 0.99, 0.63, default=True))
    far = curve("far", point(1, 0.9449, 0.2, default=True))
    found = matches([late, MILD, STRONG, far])
    # The anchor is now far's 94.5, and mild's 95.5 is a hair more than one point away.
    assert found["mild"].rank is None
    assert found["mild"].reason == "no point within 1 point of 94.5 %"
    assert found["none"].rank is None
    assert {n: m.rank for n, m in found.items() if m.rank} == {"far": 1, "strong": 2}


def test_a_point_exactly_one_point_away_counts() -> None:
    edge = curve("edge", point(1, 0.945, 0.2, default=True))
    assert matches([NONE, MILD, edge])["mild"].rank == 2


def test_without_an_undefended_target_nothing_is_ranked() -> None:
    assert {m.reason for m in matches([MILD, STRONG]).values()} == {"no undefended target to match"}
    alone = matches([curve("none", point(20, 0.99, 0.63, default=True))])
    assert alone["none"].reason == "nothing else near 99.0 %"


def test_an_unsure_point_is_shown_not_ranked() -> None:
    weak = curve("weak", point(1, 0.955, 0.01, default=True, ranked=False))
    found = matches([NONE, MILD, weak])
    assert found["weak"].rank is None
    assert "shown, not ranked" in found["weak"].reason
    assert found["mild"].rank == 1


def test_the_table_of_defenses() -> None:
    records = [
        make(18, attack=IK, natural=0.95),
        make(16, attack=IK, natural=0.97, seed=1),
        make(13, attack=IK, natural=0.92, epochs=4, passed={"target.epochs": 4}),
        make(10, attack="gmi", natural=0.96),
        bido(12, 0.91, 3),
        bido(19, 0.94, 0),
        make(
            5,
            attack=IK,
            defense="other",
            natural=0.93,
            evaluator=0.89,
            utility={
                "natural_accuracy": 0.93,
                "evaluator_accuracy": 0.89,
                "epsilon": 8.0,
                "privacy_unit": "example",
            },
        ),
    ]
    table = table_of("defenses", *records)
    assert [row["defense"].text for row in table.rows] == ["bido", "none", "other"]
    assert [column.key for column in table.columns][:6] == [
        "rank",
        "target",
        "defense",
        "natural",
        "gmi",
        IK,
    ]
    best, none, other = table.rows
    assert [row["rank"].number for row in table.rows] == [1, 2, None]
    assert best["matched"].number == pytest.approx(0.6)
    assert best["matched_strength"].text == "scale 3"
    assert best["control_natural"].number == 0.94
    assert best["control_attack"].number == pytest.approx(0.95)
    assert best["epsilon"].text == "—"
    assert none["matched_natural"].number == 0.92
    assert none["matched_strength"].text == "epochs 4"
    assert none["natural"].number == pytest.approx(0.96)
    assert none[IK].number == pytest.approx(0.85)
    assert none[IK].spread == pytest.approx(0.1 / 2**0.5)
    assert other["matched"].text.startswith("shown, not ranked")
    assert (other["epsilon"].number, other["privacy_unit"].text) == (8.0, "example")
    assert other[IK].number == 0.25  # shown all the same
    assert table.files[0] == (
        "tiny/improved-kedmi_bido_test_resnet_seed0.json",
        "tiny/improved-kedmi_bido-scale=0_test_resnet_seed0.json",
    )
    assert any("Here: 91.0 % on test_resnet." in note for note in table.notes)


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


def test_a_control_under_another_attack_is_not_taken() -> None:
    other = make(2, attack="gmi", defense="bido", scale=0, passed={"defense.scale": 0})
    row = row_of(table_of("defenses", bido(12, 0.9, 3), other), defense="bido")
    assert row["control_attack"].text == "—"


# -- improvement and references -----------------------------------------------------------------


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


def test_references_are_of_undefended_default_targets() -> None:
    floor = {
        "floor": {"attack_accuracy_top1": make(4).metrics["attack_accuracy_top1"].model_dump()}
    }
    records = [
        make(attack="gmi"),
        make(attack=IK),  # the same target: counted once
        make(attack=IK, seed=1, references=floor),
        make(attack=IK, seed=5, target="other", references=floor),
        bido(3, 0.9, 3, references=floor),
    ]
    board = board_of(*records)
    assert board.reference_target == "test_resnet"
    assert dict(board.references) == {
        "floor: random prior samples": Value(number=0.05),
        "floor": Value(number=0.2),
        "ceiling: private test images": Value(number=1.0),
    }


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
    board = build_board("tiny", checked, TINY.board)
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
