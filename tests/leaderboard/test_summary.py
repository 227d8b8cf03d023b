"""A board in sentences, and the references beside its numbers."""

from __future__ import annotations

from mibench.leaderboard.board import Value
from mibench.record import Record
from tests.kit.board_records import bido, make
from tests.kit.boards import IK, board_of, judged, sentences, told, with_references


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
    assert sentences(*judged(100), *judged(30, defense="bido"))[-1] == (
        "No ranked defense leaves less than none does: on bido attacks find 5.1 bits instead of "
        "3.3 in the worst case."
    )
    assert sentences(*judged(30))[-1] == "No defense has a rank yet."
    assert sentences(*judged(None)) == ["No defense has a rank yet."]


def test_where_no_attack_beats_looking_up_that_is_what_is_said() -> None:
    first, bits, _ = sentences(*with_references(judged(200)))
    assert first == (
        "No attack learns more from an undefended classifier than gmi, the public pictures that it "
        "scores highest: by likeness to these, the attacked person typically has rank 200 among "
        "1,001 people (chance 501)."
    )
    assert bits.startswith("That is 2.3 bits of who the person is, or one person in 5; ")


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
