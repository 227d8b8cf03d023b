"""Masked gradients: who sees less of a target finds more in it."""

from __future__ import annotations

import pytest

from mibench.leaderboard.masking import strongest_of_target
from tests.conftest import TINY
from tests.kit.boards import IK, LEAST, MOST, TAA, at, black, judged, row_of, table_of, told


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


def test_targets_that_a_part_of_the_list_met_say_nothing_beside_those_that_met_all() -> None:
    """The strong attack met one of two targets: on the other, look-up beats the weak one alone."""
    records = told(0.99, hits=LEAST, attacks=("gmi",))
    strong = told(0.99, hits=MOST, attacks=(IK,), seeds=(0,))
    row = row_of(table_of("defenses", *records, *strong, *black(["1110"] * 5)), defense="none")
    assert row["gradients"].text == "no sign of it"
    assert row["gradients"].note == (
        f"lookup (black-box) − {IK} (white-box): -25.0 [-25.0, -25.0] points"
    )
    # Where no target met all of it, what any of them lacks is lacking.
    records = told(0.99, hits=LEAST, attacks=("gmi",), seeds=(0,)) + black(MOST)
    records += told(0.99, hits=LEAST, attacks=(IK,), seeds=(1,))
    row = row_of(table_of("defenses", *records), defense="none")
    assert row["gradients"].text == "—"
    assert row["gradients"].note.endswith(f"+75.0 [75.0, 75.0] points, without gmi, {IK}")


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
