"""Ranks at a budget, and worst cases, against values worked out by hand."""

from __future__ import annotations

import pytest

from mibench.leaderboard.board import DefenseFacts, Value
from mibench.leaderboard.ranking import strengths, worst_of_target
from mibench.leaderboard.series import series
from mibench.record import BoardCard
from tests.conftest import TINY
from tests.kit.board_records import diverged, filed, make
from tests.kit.boards import (
    IK,
    NO_CARDS,
    TAA,
    at,
    board_of,
    entered,
    row_of,
    sentences,
    table_of,
    told,
)

WHY = "It knows of it."


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


def test_the_opposite_of_a_protection_never_enters() -> None:
    """As positive label smoothing, which is there to be seen: it is no strong negative one."""
    records = [*told(0.99), *told(0.97, hits=8, defense="bido"), *told(0.96, hits=18, **at(-5))]
    entry = entered(*records)["bido"]
    assert (entry.strength.value, entry.leak.number) == (3, pytest.approx(8 / 20))


def test_validation_accuracy_is_averaged_over_seeds_with_its_error() -> None:
    records = told(0.99) + told(0.93, defense="bido", seeds=(0,))
    records += told(0.96, defense="bido", seeds=(1,))
    entry = entered(*records)["bido"]
    assert entry.cost.number == pytest.approx(0.99 - 0.945)
    # All seeds have the same images: two of them make it no surer.
    assert entry.cost.spread == pytest.approx((0.945 * 0.055 / 1000) ** 0.5)


def test_a_seed_has_the_validation_accuracy_of_most_of_its_cells() -> None:
    """Another machine's training of the same seed rounds otherwise: one cell moves no budget."""
    records = told(0.99) + told(0.945, defense="bido")
    utility = {"natural_accuracy": 0.9, "evaluator_accuracy": 0.95, "validation_images": 1000}
    other = {"target": "another", "reconstructions.safetensors": "7" * 64}
    elsewhere = {**utility, "validation_accuracy": 0.9}
    records.append(make(attack="vmi", seed=1, utility=elsewhere, artifacts=other))
    entry = entered(*records)["bido"]
    assert entry.strength is not None
    assert entry.cost.number == pytest.approx(0.99 - 0.945)


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
    assert strong.adaptive.note == "seed 1 alone"
    (note,) = (n for n in table_of("defenses", *records, facts=known).notes if "fewer targets" in n)
    assert note.endswith("these alone: bido at 5 points, seed 1 alone.")
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
