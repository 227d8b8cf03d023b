"""Tables, curves, ranks and improvements, against values worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from mibench.leaderboard.board import BITS, TOP1, Board, DefenseFacts, Table, Value
from mibench.leaderboard.checks import faults
from mibench.leaderboard.masking import strongest_of_target
from mibench.leaderboard.plots import plots
from mibench.leaderboard.ranking import entries, strengths, worst_of_target
from mibench.leaderboard.series import curves, over_seeds, seeds_text, series, target_of
from mibench.leaderboard.tables import build_board, published_table
from mibench.leaderboard.verifications import Verification
from mibench.metrics import paired_interval, seeds_interval
from mibench.record import CEILING, FLOOR_PRIOR, FLOOR_PUBLIC, BoardCard, Record
from tests.conftest import TINY
from tests.kit.board_records import bido, diverged, filed, finding, make, metric

IK = "improved-kedmi"
TAA = "improved-gmi+taa"
NO_CARDS: dict[str, DefenseFacts] = {}


def board_of(
    *records: Record,
    card: BoardCard = TINY.board,
    facts: Mapping[str, DefenseFacts] = NO_CARDS,
) -> Board:
    return build_board("tiny", filed(*records), card, facts)


def table_of(key: str, *records: Record, **options: Any) -> Table:
    return next(t for t in board_of(*records, **options).tables if t.key == key)


def row_of(table: Table, **texts: str) -> dict[str, Value]:
    (row,) = [r for r in table.rows if all(r[k].text == v for k, v in texts.items())]
    return row


# -- worst case ---------------------------------------------------------------------------------


def worst(hits: list[list[str]]) -> float:
    samples = [[[float(hit) for hit in row] for row in attack] for attack in hits]
    values = worst_of_target(samples)
    return sum(values) / len(values)


def test_the_worst_case_by_hand() -> None:
    # Even samples are 1st and 3rd. Chosen on one half, an attack that was lucky there scores what
    # it has on the other half: the best on the same samples would be 2 of 4 here.
    assert worst([["1010"], ["0101"]]) == 0
    # Both attacks tie on both halves, and share the mean of their scores.
    assert worst([["1100"], ["0011"]]) == 0.5
    # On even samples both have "11", and "10" and "00" on odd ones: 1/4. On odd ones the first is
    # better, and has all even ones.
    assert worst([["1110"], ["1010"]]) == (0.25 + 1) / 2
    assert worst([["1111"], ["0000"]]) == 1
    # Chosen on even samples "10" and "00": the first, which has "11" on odd ones. Chosen on odd
    # ones "11" and "10": the first, which has "10" on even ones.
    assert worst([["1101"], ["0100"]]) == (1 + 0.5) / 2
    assert worst([["1010", "1111"], ["0101", "0000"]]) == 0.5


def test_the_worst_case_takes_another_attack_for_each_identity() -> None:
    """Each attack gets one of the two identities: the worst case is both."""
    assert worst([["1111", "0000"], ["0000", "1111"]]) == 1


def test_the_worst_case_of_five_samples() -> None:
    # Even positions hold three samples, odd ones two.
    assert worst([["11011"], ["00000"]]) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("hits", [[["11"], ["111"]], [["1"], ["1"]], [["11", "11"], ["11"]]])
def test_a_worst_case_needs_equal_shapes(hits: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="same identities and samples"):
        worst(hits)


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


def told(validation: float, *, hits: int = 10, **options: Any) -> list[Record]:
    """Records of both attacks of the fixed list against one target, for seeds 0 and 1."""
    given = {"seeds": (0, 1), "attacks": ("gmi", IK), "epsilons": {}, **options}
    seeds, attacks, more = given.pop("seeds"), given.pop("attacks"), given.pop("epsilons")
    utility = {"natural_accuracy": 0.9, "evaluator_accuracy": 0.95, **more}
    utility |= {"validation_accuracy": validation, "validation_images": 1000}
    utility |= given.pop("utility", {})
    return [
        make(hits, attack=attack, seed=seed, utility=utility, **given)
        for seed in seeds
        for attack in attacks
    ]


def at(scale: float, **options: Any) -> dict[str, Any]:
    return {"defense": "bido", "scale": scale, "passed": {"defense.scale": scale}, **options}


def entered(
    *records: Record,
    budget: float = 0.05,
    card: BoardCard = TINY.board,
    facts: Mapping[str, DefenseFacts] = NO_CARDS,
) -> Any:
    known = strengths(series(filed(*records)), "test_resnet", facts)
    return entries(known, budget, card, TOP1, facts)


def test_the_strongest_strength_that_fits_the_budget_enters() -> None:
    """By validation accuracy, whatever leaks: here the stronger one leaks more."""
    records = [*told(0.99), *told(0.97, hits=8, defense="bido")]  # of scale 3, the default
    records += told(0.95, hits=12, **at(5)) + told(0.93, hits=2, **at(9))
    records += told(0.985, hits=0, **at(0))  # the control never stands for it
    for budget, value in ((0.05, 5), (0.04, 5), (0.0399, 3), (0.02, 3)):
        entry = entered(*records, budget=budget)["bido"]
        assert entry.strength.value == value
        assert entry.cost.number == pytest.approx(0.99 - entry.strength.validation)
    assert entered(*records)["bido"].leak.number == pytest.approx(12 / 20)
    nothing = entered(*records, budget=0.01)["bido"]
    assert nothing.strength is None
    assert nothing.reason == "costs 2.0 points or more of accuracy"
    assert "none" not in entered(*records)


def test_of_some_knobs_a_smaller_value_is_stronger() -> None:
    """As of the width of a neck, whose default is 3 here; 0 is the control all the same."""
    records = [*told(0.99), *told(0.97, defense="bido"), *told(0.98, **at(5))]
    records += told(0.96, **at(1)) + told(0.985, **at(0))
    falls = {"bido": DefenseFacts(None, "None.", smaller_is_stronger=True)}
    for budget, value in ((0.05, 1), (0.02, 3), (0.01, 5)):
        assert entered(*records, budget=budget, facts=falls)["bido"].strength.value == value
    assert entered(*records)["bido"].strength.value == 5


def test_validation_accuracy_is_averaged_over_seeds_with_its_error() -> None:
    records = told(0.99) + told(0.93, defense="bido", seeds=(0,))
    records += told(0.96, defense="bido", seeds=(1,))
    entry = entered(*records)["bido"]
    assert entry.cost.number == pytest.approx(0.99 - 0.945)
    # All seeds have the same images: two of them make it no surer.
    assert entry.cost.spread == pytest.approx((0.945 * 0.055 / 1000) ** 0.5)


def test_ranks_count_who_leaks_significantly_less() -> None:
    """Of five identities: a difference in one of them may be chance."""
    full, most, half = ["1111"] * 5, ["1111"] * 4 + ["1110"], ["1100"] * 5
    records = told(0.99, hits=full)
    records += told(0.98, hits=half, defense="bido")
    records += told(0.98, hits=most, defense="other") + told(0.98, hits=full, defense="third")
    found = entered(*records)
    assert {name: each.rank for name, each in found.items()} == {"bido": 1, "other": 2, "third": 2}


def test_ranks_can_be_over_seeds() -> None:
    card = TINY.board.model_copy(update={"interval": "seeds"})
    records = told(0.99)
    for seed, own in enumerate((8, 9)):
        records += told(0.98, hits=own, defense="bido", seeds=(seed,))
        records += told(0.98, hits=own + 4, defense="other", seeds=(seed,))
    assert {n: e.rank for n, e in entered(*records, card=card).items()} == {"bido": 1, "other": 2}
    one = [record for record in records if record.seed == 0]
    assert {n: e.rank for n, e in entered(*one, card=card).items()} == {"bido": 1, "other": 1}


def test_early_stopping_is_a_defense_of_its_own() -> None:
    """Fewer epochs are stronger; the default's own epochs by name are the undefended target."""
    records = told(0.99) + told(0.97, hits=6, epochs=8, passed={"target.epochs": 8})
    records += told(0.96, hits=5, epochs=4, passed={"target.epochs": 4})
    records += told(0.99, hits=20, epochs=20, passed={"target.epochs": 20})
    records += told(0.995, hits=1, epochs=40, passed={"target.epochs": 40})  # no early stopping
    found = entered(*records)
    assert found.keys() == {"early-stopping"}
    assert found["early-stopping"].strength.value == 4
    assert found["early-stopping"].rank == 1
    table = table_of("defenses", *records)
    assert [row["defense"].text for row in table.rows] == ["none", "early-stopping"]
    assert table.rows[0]["rank"].text == "—"
    assert table.rows[0][IK].number == pytest.approx(0.5)
    assert table.rows[1][IK].number == pytest.approx(0.25)


def test_a_row_is_complete_with_the_whole_list() -> None:
    """Leaving an attack out of the strength that enters puts no weaker one in its place."""
    records = told(0.99) + told(0.97, defense="bido") + told(0.95, attacks=(IK,), **at(5))
    entry = entered(*records)["bido"]
    assert (entry.strength.value, entry.rank) == (5, None)
    assert entry.reason == f"under {IK} alone"
    assert entry.leak.number == pytest.approx(0.5)
    leak = row_of(table_of("defenses", *records), defense="bido")["leak_5"]
    assert (leak.number, leak.note) == (pytest.approx(0.5), f"under {IK} alone")


def test_a_row_says_which_attacks_of_the_list_are_missing() -> None:
    """As of an older list: shown, with the reason, and without a rank; so is `none`."""
    card = BoardCard(headline=IK, worst_case=("gmi", IK, TAA), list_version=2)
    records = told(0.99) + told(0.97, hits=6, defense="bido")
    records += told(0.97, hits=5, attacks=("gmi", IK, TAA), defense="other")
    entry = entered(*records, card=card)["bido"]
    assert (entry.leak.number, entry.rank) == (pytest.approx(6 / 20), None)
    assert entry.reason == f"lacks {TAA}"
    assert entered(*records, card=card)["other"].rank == 1
    board = board_of(*records, card=card)
    rows = {row["defense"].text: row for row in board.tables[0].rows}
    for name, leak, strength in (("none", 0.5, "epochs 20"), ("bido", 0.3, "scale 3")):
        row = rows[name]
        assert (row["leak_5"].number, row["leak_5"].note) == (
            pytest.approx(leak),
            f"lacks {TAA}",
        )
        assert row["strength_5"].text == f"{strength}, lacks {TAA}"  # also where notes are not
        assert (row["worst"].number, row["worst"].text) == (None, f"lacks {TAA}")
        assert row["rank"].number is None
    assert rows["other"]["leak_5"].note == ""
    # Nothing is compared with the worst case of fewer attacks.
    assert sentences(*records, card=card)[-1] == (
        "other protects best, the only ranked defense: 25.0 % left in the worst case."
    )


# -- adaptive attacks -----------------------------------------------------------------------------

WHY = "It knows of it."


def test_the_adaptive_attack_joins_the_worst_case_beside_the_rank() -> None:
    """Against one of two, the adaptive attack finds what the list does not."""
    records = told(0.99) + told(0.98, hits=5, defense="bido")
    records += told(0.98, hits=["1111"] * 3 + ["0000"] * 2, attacks=(TAA,), defense="bido")
    records += told(0.98, hits=8, defense="other")
    known = {"bido": DefenseFacts(TAA, WHY), "other": DefenseFacts(TAA, WHY)}
    found = entered(*records, facts=known)
    bare = entered(*records)
    assert found["bido"].leak.number == bare["bido"].leak.number == pytest.approx(0.25)
    assert found["bido"].adaptive == Value(pytest.approx(0.6), spread=0)
    assert {n: e.rank for n, e in found.items()} == {n: e.rank for n, e in bare.items()}
    assert found["other"].adaptive.text == f"{TAA} not run"
    assert bare["bido"].adaptive.text == "no card"
    table = table_of("defenses", *records, facts=known)
    row = row_of(table, defense="bido")
    assert row["leak_5"].number == pytest.approx(0.25)
    assert row["adaptive_5"].number == row["adaptive_1"].number == pytest.approx(0.6)
    (note,) = (each for each in table.notes if each.startswith("Adaptive attacks"))
    assert f"bido: {TAA}. {WHY}" in note


def test_the_adaptive_attack_is_that_of_the_strength_that_enters() -> None:
    records = told(0.99) + told(0.98, defense="bido", attacks=("gmi", IK, TAA))
    records += told(0.95, **at(5)) + told(0.95, hits=16, attacks=(TAA,), seeds=(1,), **at(5))
    known = {"bido": DefenseFacts(TAA)}
    strong = entered(*records, facts=known)["bido"]
    assert strong.strength.value == 5
    assert strong.adaptive.number == pytest.approx(0.8)
    assert strong.adaptive.note == "seeds 1 alone"
    weak = entered(*records, budget=0.01, facts=known)["bido"]
    assert (weak.strength.value, weak.adaptive.number) == (3, pytest.approx(0.5))


def test_a_card_without_an_adaptive_attack_is_marked_with_its_reason() -> None:
    records = told(0.99) + told(0.98, defense="bido")
    records += told(0.98, epochs=4, passed={"target.epochs": 4})
    known = {
        "bido": DefenseFacts(None, "None is needed."),
        "none": DefenseFacts(None, "It is plain."),
    }
    rows = {row["defense"].text: row for row in table_of("defenses", *records, facts=known).rows}
    marked = Value(text="none named", note="None is needed.")
    assert rows["bido"]["adaptive_5"] == marked
    for name in ("none", "early-stopping"):  # which is a training of the undefended target
        assert rows[name]["adaptive_5"] == Value(text="none named", note="It is plain.")


def test_an_adaptive_attack_of_the_list_changes_nothing_and_says_so() -> None:
    known = {"bido": DefenseFacts(IK)}
    records = told(0.99) + told(0.98, hits=7, defense="bido")
    entry = entered(*records, facts=known)["bido"]
    assert entry.adaptive.number == entry.leak.number == pytest.approx(0.35)
    assert entry.adaptive.note == f"the same: {IK} is in the list"
    assert entry.leak.note == entry.reason == ""
    lost = entered(*told(0.99), *told(0.98, attacks=("gmi",), defense="bido"), facts=known)
    assert lost["bido"].adaptive.text == f"{IK} not run"


# -- masked gradients -----------------------------------------------------------------------------


def black(hits: Any, **options: Any) -> list[Record]:
    """Records of a black-box attack for seeds 0 and 1."""
    return told(0.98, hits=hits, attacks=("lookup",), access="black-box", **options)


MOST, LEAST = ["1111"] * 5, ["1000"] * 5


@pytest.mark.parametrize(
    ("white", "other", "text", "difference"),
    [
        (LEAST, MOST, "gradients masked", "+75.0 [75.0, 75.0] points"),
        (MOST, LEAST, "no sign of it", "-75.0 [-75.0, -75.0] points"),
        (LEAST, ["1111", *LEAST[1:]], "no sign of it", "+15.0 [0.0, "),
    ],
)
def test_gradients_are_masked_where_black_box_attacks_leak_significantly_more(
    white: list[str], other: list[str], text: str, difference: str
) -> None:
    for defense in ("bido", "none"):  # the undefended target is marked like any other
        records = told(0.99, hits=white, defense=defense) + black(other, defense=defense)
        records += told(0.99) if defense == "bido" else []
        table = table_of("defenses", *records)
        row = row_of(table, defense=defense)
        assert row["gradients"].text == text
        start = "lookup (black-box) − gmi (white-box): "
        assert row["gradients"].note.startswith(start + difference)
        marked = [note for note in table.notes if note.startswith("Gradients masked")]
        assert len(marked) == (text == "gradients masked")
        assert all(f"{defense} on test_resnet" in note for note in marked)
        cell = row_of(table_of("cells", *records), defense=defense, attack="lookup")
        beyond = cell["beyond_white_box"]
        assert beyond.interval is not None
        assert beyond.note.startswith("gradients masked") == (text == "gradients masked")
        cell = row_of(table_of("cells", *records), defense=defense, attack="gmi")
        assert cell["beyond_white_box"].text == "—"


def test_nothing_is_said_of_gradients_without_a_comparison() -> None:
    """Attacks of one access, or against different targets; other seeds' targets are others."""
    records = told(0.99) + black(MOST, defense="bido")
    rows = {row["defense"].text: row for row in table_of("defenses", *records).rows}
    assert (rows["none"]["gradients"].text, rows["bido"]["gradients"].text) == ("—", "—")
    apart = told(0.99, hits=0) + black(MOST, artifacts={"target": "another"})
    assert row_of(table_of("defenses", *apart), defense="none")["gradients"].text == "—"
    apart = told(0.99, hits=0, seeds=(0,)) + black(MOST, seeds=(1,))
    assert row_of(table_of("defenses", *apart), defense="none")["gradients"].text == "—"


def test_nothing_is_masked_before_the_whole_list_was_run() -> None:
    """The white-box attack that lacks may be the one that finds it."""
    wanted = (*TINY.board.worst_case, "lookup", TAA)
    card = TINY.board.model_copy(update={"worst_case": wanted})
    table = table_of("defenses", *told(0.99, hits=LEAST), *black(MOST), card=card)
    row = row_of(table, defense="none")
    assert row["gradients"].text == "—"
    assert row["gradients"].note.endswith(f" points, without {TAA}")
    assert not [note for note in table.notes if note.startswith("Gradients masked")]


def test_gradients_are_those_of_the_strength_that_enters() -> None:
    records = told(0.99) + told(0.98, hits=MOST, defense="bido") + black(LEAST, defense="bido")
    records += told(0.95, hits=LEAST, **at(5))
    strong = [*told(0.95, hits=MOST, attacks=("lookup",), access="black-box", **at(5))]
    assert row_of(table_of("defenses", *records), defense="bido")["gradients"].text == "—"
    row = row_of(table_of("defenses", *records, *strong), defense="bido")
    assert (row["strength_5"].text, row["strength"].text) == ("scale 5", "scale 3")
    assert row["gradients"].text == "gradients masked"


def test_the_strongest_white_box_attack_is_chosen_on_one_half_and_scored_on_the_other() -> None:
    """Choosing and scoring on the same samples would take 1/2 for what each has by luck."""
    even, odd = [[1.0, 0.0, 1.0, 0.0]] * 3, [[0.0, 1.0, 0.0, 1.0]] * 3
    assert strongest_of_target([even, odd]) == ((0, 1), [0.0] * 3)
    # One attack for all identities: the first is better on the whole, though not for the third.
    first = [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    second = [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    assert strongest_of_target([second, first]) == ((1, 1), [1.0, 1.0, 0.0])


def test_the_strongest_white_box_attack_is_what_counts() -> None:
    """A weak white-box attack beside a strong one masks nothing; the names are those chosen."""
    records = told(0.99, hits=LEAST, attacks=("gmi",)) + told(0.99, hits=MOST, attacks=(IK,))
    records += black(["1110"] * 5)
    row = row_of(table_of("defenses", *records), defense="none")
    assert row["gradients"].text == "no sign of it"
    assert row["gradients"].note.startswith(f"lookup (black-box) − {IK} (white-box): -25.0")


def test_gradients_of_a_judged_board_are_compared_in_bits() -> None:
    records = judged(100) + judged(10, attacks=("lookup",), access="label-only")
    row = row_of(table_of("defenses", *records), defense="none")
    assert row["gradients"].text == "gradients masked"
    assert row["gradients"].note == (
        "lookup (label-only) − gmi (white-box): +3.32 [3.32, 3.32] bits"
    )


def test_a_dear_defense_is_listed_with_its_cost() -> None:
    records = told(0.99) + told(0.80, hits=3, epochs=2, passed={"target.epochs": 2})
    records += told(0.85, hits=4, **at(5)) + told(0.70, hits=2, **at(9))
    rows = {row["defense"].text: row for row in table_of("defenses", *records).rows}
    assert rows.keys() == {"none", "early-stopping", "bido"}
    assert rows["early-stopping"]["leak_5"].text == "costs 19.0 points or more of accuracy"
    assert rows["bido"]["strength"].text == "scale 5"  # the cheapest
    assert rows["bido"]["cost_5"].number == pytest.approx(0.14)
    assert rows["bido"][IK].number == pytest.approx(0.2)


def test_a_seed_that_diverged_does_not_change_the_strength() -> None:
    utility = {"natural_accuracy": 0.9, "evaluator_accuracy": 0.95, "validation_accuracy": 0.98}
    lost = diverged(attack="gmi", defense="bido", scale=None, seed=0)
    found = [make(attack="gmi", defense="bido", seed=1, utility=utility)]
    found.append(make(attack=IK, defense="bido", seed=1, utility=utility))
    (strength,) = strengths(series(filed(lost, *found)), "test_resnet", NO_CARDS)["bido"]
    assert strength.value == 3
    assert strength.cells.keys() == {"gmi", IK}
    assert not strength.sure


def test_what_has_no_rank_says_why() -> None:
    weak = {"evaluator_accuracy": 0.89}
    records = told(0.99) + told(0.98, defense="bido", utility=weak)
    records += told(0.98, defense="other", utility={"validation_accuracy": None})
    records += told(0.98, attacks=(IK,), seeds=(0,), defense="third")
    records += told(0.98, attacks=("gmi",), seeds=(1,), defense="third")
    found = entered(*records)
    assert {each.rank for each in found.values()} == {None}
    assert "evaluator below 90 %" in found["bido"].reason
    assert found["other"].reason == "no validation accuracy"
    assert found["third"].reason == "no seed has all its attacks"
    lost = entered(*told(0.98, defense="bido"))
    assert lost["bido"].reason == "no undefended target to compare with"
    controlled = entered(*told(0.99), *told(0.98, **at(0)))
    assert controlled["bido"].reason == "only its control"


def judged(rank: int | None, **options: Any) -> list[Record]:
    """Records of a protocol with judges; without a rank, of a machine that lacks them."""
    made = []
    for record in told(0.98, **options):
        data = record.model_dump(mode="json")
        data["protocol"]["resolved"]["judges"] = [{"kind": "embedding"}]
        absent = {"value": None, "reason": "no judge"}
        data["metrics"] |= {"identity_bits": absent, "median_rank": absent}
        if rank is not None:
            bits = metric([math.log2(1001 / rank)] * 5, 20)
            ranks = {**metric([float(rank)] * 5, 20), "ranks": [[rank] * 4] * 5, "among": 1001}
            data["metrics"] |= {"identity_bits": bits, "median_rank": ranks}
        made.append(Record.model_validate(data))
    return made


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


# -- sentences ----------------------------------------------------------------------------------


def sentences(*records: Record, card: BoardCard = TINY.board) -> list[str]:
    """A board's sentences as texts."""
    said = board_of(*records, card=card).summary
    return ["".join(p if isinstance(p, str) else p.name for p in each) for each in said]


def with_references(records: list[Record], nominal: bool = False) -> list[Record]:
    """Judged records with look-up at rank 200 of 1,001, and random samples at 400."""
    made = []
    for record in records:
        data = record.model_dump(mode="json")
        for name, rank in ((FLOOR_PRIOR, 400), (FLOOR_PUBLIC, 200), (CEILING, 1)):
            bits = metric([math.log2(1001 / rank)] * 5, 20)
            ranks = metric([float(rank)] * 5, 20)
            data["references"].setdefault(name, {})
            data["references"][name] |= {"identity_bits": bits, "median_rank": ranks}
        data["protocol"]["resolved"]["data"]["decoys"] = "rare" if nominal else None
        made.append(Record.model_validate(data))
    return made


def test_a_judged_board_says_what_leaks_and_who_is_first() -> None:
    records = judged(10) + judged(100, defense="bido") + judged(20, defense="other")
    first, bits, ranked = sentences(*with_references(records))
    assert first == (
        "gmi learns most from an undefended classifier: by likeness to what it reconstructs, the "
        "attacked person typically has rank 10 among 1,001 people (look-up 200; chance 501)."
    )
    assert bits == (
        "That is 6.6 bits of who the person is, or one person in 100; random images 1.3, "
        "look-up 2.3 and private test images 10.0."
    )
    assert ranked == (
        "bido protects best of 2 ranked defenses: 3.3 bits left instead of 6.6 in the worst case."
    )
    # From other records follow other sentences.
    records = judged(30) + judged(100, defense="bido") + judged(100, defense="other")
    first, bits, ranked = sentences(*records)
    assert first.endswith("typically has rank 30 among 1,001 people (chance 501).")
    assert bits == "That is 5.1 bits of who the person is, or one person in 33."
    assert ranked == (
        "bido and other share the first rank of 2 ranked defenses: 3.3 and 3.3 bits left instead "
        "of 5.1 in the worst case."
    )
    assert sentences(*judged(30), *judged(100, defense="bido"))[-1].startswith(
        "bido protects best, the only ranked defense: "
    )
    assert sentences(*judged(30))[-1] == "No defense has a rank yet."
    assert sentences(*judged(None)) == ["No defense has a rank yet."]


def test_of_nominal_decoys_chance_is_what_was_measured() -> None:
    records = with_references(judged(10), nominal=True)
    board = board_of(*records)
    assert board.nominal
    assert sentences(*records)[0].endswith("among 1,001 people (look-up 200; random images 400).")
    assert not board_of(*with_references(judged(10))).nominal
    assert not board_of(make()).nominal


def test_the_strongest_attack_is_that_of_undefended_targets() -> None:
    records = [make(12, attack="gmi"), make(9, attack=IK), bido(20, 0.9, 3)]
    board = board_of(*records)
    assert board.strongest == ("gmi", Value(0.6))
    first, caution, _ = sentences(*records)
    assert first == (
        "gmi does best against an undefended classifier: an evaluator that knows nobody but the "
        "attacked people sees the right one in 60.0 % of its reconstructions (random images 5.0 % "
        "and private test images 100.0 %)."
    )
    assert caution == "It takes a stranger who looks alike for one of them, too."
    assert board_of(bido(20, 0.9, 3)).strongest is None


def test_classes_are_no_identities() -> None:
    records = []
    for record in [*told(0.99), *told(0.98, defense="bido")]:
        data = record.model_dump(mode="json")
        data["protocol"]["resolved"]["data"] = {"dataset": "mnist"}
        records.append(Record.model_validate(data))
    first, caution, _ = sentences(*records)
    assert "an evaluator takes 50.0 % of its reconstructions for the attacked class" in first
    assert caution == "Classes are no identities: nothing here says that a person leaked."
    table = board_of(*records).tables[0]
    titles = {column.key: column.title for column in table.columns}
    assert titles["leak_5"] == "class accuracy when 5 points of accuracy may be spent"
    assert "leaks" not in " ".join(titles.values())
