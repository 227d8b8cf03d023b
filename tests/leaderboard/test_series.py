"""The seeds of a cell together, and curves over strengths."""

from __future__ import annotations

from typing import Any

import pytest

from mibench.leaderboard.board import Value
from mibench.leaderboard.checks import faults
from mibench.leaderboard.plots import plots
from mibench.leaderboard.series import curves, over_seeds, seeds_text, target_of
from mibench.record import FLOOR_PUBLIC, Record
from tests.kit.board_records import bido, filed, make, metric
from tests.kit.boards import IK, TAA, board_of, judged, told


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


def test_a_curve_starts_from_the_undefended_target_where_that_is_the_control() -> None:
    records = [
        make(17, attack=IK, natural=0.95),
        make(16, attack=IK, natural=0.95, seed=1),
        make(3, attack=IK, natural=0.4, epochs=2, passed={"target.epochs": 2}),
        bido(16, 0.92, 0),
        bido(12, 0.9, 3),
    ]
    found = {c.defense: c for c in curves(filed(*records), IK, undefended_controls=["bido"])}
    first, default = found["bido"].points
    assert (first.strength, first.control, first.default) == (0, True, False)
    assert (first.natural, first.seeds) == (pytest.approx(0.95), (0, 1))
    assert (default.strength, default.default) == (3, True)
    assert not any(point.control for point in found["none"].points)
    # Without cells of the undefended target there is no control.
    (alone,) = curves(filed(bido(12, 0.9, 3)), IK, undefended_controls=["bido"])
    assert [point.strength for point in alone.points] == [3]


def test_the_strongest_attack_has_curves_once_one_is_long_enough() -> None:
    records = [bido(10, 0.9, 3), make(10, attack=IK), make(16, attack=TAA)]
    given = [(3, {}), *((scale, {"defense.scale": scale}) for scale in (1, 5, 9))]
    strong = [
        make(9, attack=TAA, defense="bido", scale=scale, passed=passed) for scale, passed in given
    ]
    assert {curve.attack for curve in board_of(*records, *strong[:3]).curves} == {IK}
    board = board_of(*records, *strong)
    assert [(curve.attack, curve.defense, len(curve.points)) for curve in board.curves] == [
        (IK, "bido", 1), (TAA, "bido", 4), (IK, "none", 1), (TAA, "none", 1),
    ]  # fmt: skip
    assert {plot["attack"] for plot in plots(board)} == {IK, TAA}
    # A still stronger one that has met a single strength takes nobody's curves away.
    assert board_of(*records, *strong, make(17, attack="gmi")).curves == board.curves
    # A weaker attack has none, however many strengths it met.
    assert {c.attack for c in board_of(*records[:2], *strong, make(2, attack=TAA)).curves} == {IK}


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


def trained_by(release: str, looked: int, **options: Any) -> list[Record]:
    """Records of a judged protocol whose targets' keys are a release's, with look-up's rank."""
    made = []
    for record in judged(10, artifacts={"target": release}, **options):
        data = record.model_dump(mode="json")
        ranks = {**metric([float(looked)] * 5, 20), "ranks": [[looked] * 4] * 5, "among": 1001}
        data["references"][FLOOR_PUBLIC] = {"median_rank": ranks}
        made.append(Record.model_validate(data))
    return made


def test_a_target_is_the_same_whichever_release_trained_it() -> None:
    """Known by what it takes public images for: a key changes with each release."""
    first = trained_by("one", 50, attacks=("gmi",))
    for looked, accuracy, same in ((50, 0.98, True), (51, 0.98, False), (50, 0.97, False)):
        second = trained_by("two", looked, attacks=(IK,))
        for record in second:
            record.utility["validation_accuracy"] = accuracy
        marks = {target_of(record) for record in (*first, *second) if record.seed == 0}
        assert (len(marks) == 1) == same
    apart = [*told(0.98, attacks=("gmi",)), *told(0.98, artifacts={"target": "another"})]
    assert len({target_of(each) for each in apart if each.seed == 0}) == 2, "no ranks: by the key"
