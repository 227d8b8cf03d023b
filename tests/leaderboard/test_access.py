"""A table, ranks and a worst case for each access."""

from __future__ import annotations

from typing import Any

import pytest

from mibench.leaderboard.board import DefenseFacts, Table, Value
from mibench.leaderboard.formats import csv_text, markdown
from mibench.leaderboard.series import queries_an_identity
from mibench.leaderboard.tables.defenses import NOT_APPLICABLE
from mibench.record import BoardCard, Record
from tests.conftest import TINY
from tests.kit.board_records import make
from tests.kit.boards import IK, LEAST, MOST, at, board_of, row_of, sentences, told

CARD = BoardCard(
    headline=IK,
    worst_case=("gmi", IK, "lookup"),
    black_box=("lookup", "mirror"),
    label_only=("edges",),
    list_version=2,
)
FEW = ["1100"] * 5
FILTER = {"filter": DefenseFacts("edges", "It asks.", access="label-only", output=True)}


def of_all(
    validation: float, white: list[str], black: list[str], labels: list[str] | None, **options: Any
) -> list[Record]:
    """Records of all lists against one target of each of two seeds."""
    scores = {"attacks": ("lookup", "mirror"), "access": "black-box"}
    made = told(validation, hits=white, **options)
    made += told(validation, hits=black, **scores, **options)
    if labels is not None:
        asking = {"attacks": ("edges",), "access": "label-only"}
        made += told(validation, hits=labels, **asking, **options)
    return made


def tables(*records: Record, **options: Any) -> dict[str, Table]:
    board = board_of(*records, **{"card": CARD, **options})
    return {table.key: table for table in board.tables}


def column_keys(table: Table) -> set[str]:
    return {column.key for column in table.columns}


def ranks(table: Table) -> dict[str, float | None]:
    return {row["defense"].text: row["rank"].number for row in table.rows}


def test_each_access_has_its_own_table_worst_case_and_ranks() -> None:
    """One defense is first against the weights, the other against scores."""
    records = of_all(0.99, MOST, MOST, MOST)
    records += of_all(0.98, LEAST, MOST, FEW, defense="bido")
    records += of_all(0.98, MOST, LEAST, None, defense="other")
    found = tables(*records)
    assert list(found) == [
        "defenses", "defenses-black-box", "defenses-label-only",
        "improvement", "cells", "published",
    ]  # fmt: skip
    white, black, labels = (found[key] for key in list(found)[:3])
    assert ranks(black) == {"none": None, "other": 1, "bido": 2}
    assert ranks(labels) == {"none": None, "bido": 1}, "the other was met by no such attack"
    # Look-up is in the white-box list, too, and there it finds everything in bido.
    assert ranks(white) == {"none": None, "bido": 1, "other": 1}
    assert {"gmi", IK, "lookup"} <= column_keys(white)
    assert not {"mirror", "edges", "queries"} & column_keys(white)
    assert {"lookup", "mirror", "queries"} <= column_keys(black)
    assert not {"gmi", IK, "edges", "gradients"} & column_keys(black)
    assert row_of(black, defense="other")["worst"].number == pytest.approx(1 / 4)
    assert row_of(black, defense="bido")["leak_5"].number == 1
    assert row_of(labels, defense="bido")["worst"].number == pytest.approx(1 / 2)
    assert any("over lookup, mirror (list 2)" in note for note in black.notes)
    assert any("over edges (list 2)" in note for note in labels.notes)
    assert len({black.title, labels.title, white.title}) == 3
    assert "score" in black.about
    files = {file for row in black.files for file in row}
    assert not [file for file in files if "gmi" in file or "kedmi" in file]


def test_without_a_list_there_is_no_table_and_the_attack_keeps_its_column() -> None:
    records = of_all(0.99, MOST, MOST, MOST) + of_all(0.98, FEW, FEW, FEW, defense="bido")
    found = tables(*records, card=TINY.board)
    assert [key for key in found if key.startswith("defenses")] == ["defenses"]
    assert {"lookup", "mirror", "edges"} <= column_keys(found["defenses"])
    without = CARD.model_copy(update={"black_box": ()})
    assert "defenses-black-box" not in tables(*records, card=without)
    # A list alone makes no table either.
    assert "defenses-label-only" not in tables(*told(0.99))


def test_no_weaker_strength_enters_where_the_strongest_met_no_attack_of_the_access() -> None:
    records = of_all(0.99, MOST, MOST, None) + of_all(0.98, FEW, FEW, None, defense="bido")
    records += told(0.95, hits=LEAST, **at(5))
    row = row_of(tables(*records)["defenses-black-box"], defense="bido")
    assert row["leak_5"].text == "met by none of these attacks"
    assert row["strength_5"].text == "scale 5, met by none of these attacks"
    assert (row["rank"].text, row["strength"].text) == ("—", "scale 3")
    assert row["lookup"].number == row["leak_2"].number == pytest.approx(1 / 2)


def test_the_cost_of_a_strength_is_known_from_cells_of_any_access() -> None:
    """Against `none` no black-box attack was run, and yet it is what accuracy is compared with."""
    records = told(0.99) + of_all(0.96, FEW, FEW, None, defense="bido")
    (row,) = tables(*records)["defenses-black-box"].rows
    assert row["cost_5"].number == pytest.approx(0.03)
    assert row["rank"].number == 1


def test_a_defense_of_the_output_has_no_number_against_who_has_the_weights() -> None:
    """Not even where somebody filed one, which ranks nobody and draws no curve."""
    records = of_all(0.99, MOST, MOST, MOST) + of_all(0.98, FEW, FEW, FEW, defense="bido")
    alone = tables(*records)["defenses"]
    filtered = of_all(0.985, LEAST, LEAST, LEAST, defense="filter")
    for given in (filtered, [r for r in filtered if r.access != "white-box"]):
        board = board_of(*records, *given, card=CARD, facts=FILTER)
        found = {table.key: table for table in board.tables}
        white = found["defenses"]
        row = row_of(white, defense="filter")
        leaking = ["gmi", IK, "lookup", "worst", "leak_5", "adaptive_1", "control_attack"]
        assert [row[key] for key in leaking] == [NOT_APPLICABLE] * len(leaking)
        assert (row["rank"].text, row["gradients"].text) == ("—", "—")
        assert row["natural"].number == 0.9
        assert not {"cost_5", "strength_5"} & row.keys()
        assert "takes the filter off" in NOT_APPLICABLE.note
        assert any(note.startswith("n/a: filter changes") for note in white.notes)
        assert ranks(white) == {**ranks(alone), "filter": None}
        assert row_of(white, defense="bido")["leak_5"] == row_of(alone, defense="bido")["leak_5"]
        assert ranks(found["defenses-black-box"]) == {"none": None, "filter": 1, "bido": 2}
        assert {curve.defense for curve in board.curves} == {"none", "bido"}
        assert not any(note.startswith("n/a") for note in found["defenses-black-box"].notes)


def test_an_adaptive_attack_counts_where_it_has_the_access() -> None:
    records = of_all(0.99, MOST, MOST, MOST) + of_all(0.985, FEW, FEW, LEAST, defense="filter")
    extra = told(0.985, hits=MOST, attacks=("asking",), access="label-only", defense="filter")
    knows = {"filter": DefenseFacts("asking", "It asks.", access="label-only", output=True)}
    found = tables(*records, *extra, facts=knows)
    assert row_of(found["defenses-label-only"], defense="filter")["adaptive_5"].number == 1
    assert row_of(found["defenses-label-only"], defense="filter")["leak_5"].number == 0.25
    assert not {"adaptive_5", "adaptive_1"} & column_keys(found["defenses-black-box"])
    row = row_of(found["defenses-black-box"], defense="filter")
    assert row["adaptive_5"] == Value(text="none here", note="asking is label-only")
    not_run = tables(*records, facts=knows)["defenses-label-only"]
    assert row_of(not_run, defense="filter")["adaptive_5"].text == "asking not run"


def test_masked_gradients_are_found_by_attacks_of_other_tables() -> None:
    records = of_all(0.99, LEAST, LEAST, MOST)
    white = tables(*records)["defenses"]
    row = row_of(white, defense="none")
    assert row["gradients"].text == "gradients masked"
    assert row["gradients"].note.startswith("edges (label-only) − gmi (white-box): +75.0")


def test_a_summary_speaks_of_each_table() -> None:
    records = of_all(0.99, MOST, MOST, MOST) + of_all(0.98, FEW, LEAST, None, defense="bido")
    whole = sentences(*records, card=CARD)[-3:]
    assert whole[0].startswith("bido protects best, the only ranked defense: 41.7 % left")
    assert whole[1] == (
        "Where attackers see scores alone, bido protects best, the only ranked defense: 25.0 % "
        "left instead of 100.0 % in the worst case."
    )
    assert whole[2] == "Where attackers see labels alone, no defense has a rank yet."
    longer = CARD.model_copy(update={"worst_case": ("gmi", IK, "plg-mi", "new")})
    assert sentences(*records, card=longer)[-3] == (
        "No defense has a rank yet: ranks are over the whole list of attacks, of which plg-mi and "
        "new have met no defense."
    )


# -- queries ------------------------------------------------------------------------------------


def asked(attack: str, seed: int = 0, **queries: int | None) -> Record:
    """A record whose stages asked so much; of the five identities, four samples each."""
    stages = {"students": "student test_byobnet", "surrogates": "surrogate test_byobnet"}
    stages |= {"labelled": "labelled-images", "general": "general-prior"}
    costs = [
        {"stage": stages.get(s, s), "key": "a" * 64, "cached": False, "seconds": 1.0, "queries": n}
        for s, n in queries.items()
    ]
    return make(10, attack=attack, seed=seed, access="black-box", costs=costs)


def test_queries_are_those_of_prior_students_and_attack_for_each_identity() -> None:
    whole = asked("mirror", target=None, prior=1000, students=250, reconstructions=50)
    assert queries_an_identity(whole) == (1000 + 250 + 50) / 5
    # Of surrogates it is the labelling of their images that asks.
    transfer = asked("lokt", labelled=400, surrogates=None, reconstructions=5)
    assert queries_an_identity(transfer) == (400 + 5) / 5
    # The general prior is trained without the target; of a prior of its own it must be told.
    assert queries_an_identity(asked("mirror", general=None, reconstructions=50)) == 10
    assert queries_an_identity(asked("mirror", prior=None, reconstructions=50)) is None
    assert queries_an_identity(asked("mirror", students=None, reconstructions=50)) is None
    assert queries_an_identity(asked("mirror", reconstructions=None)) is None
    assert queries_an_identity(asked("mirror")) is None


def test_queries_are_a_column_with_thousands_apart() -> None:
    records = [
        asked("mirror", 0, reconstructions=70_000),
        asked("mirror", 1, reconstructions=70_000),
    ]
    records += [asked("lookup", seed, reconstructions=50) for seed in (0, 1)]
    found = tables(*records)
    (row,) = found["defenses-black-box"].rows
    assert row["queries"] == Value(14_000, note="mirror")
    assert "14,000" in markdown(found["defenses-black-box"])
    assert ",14000," in csv_text(found["defenses-black-box"])
    cells = {row["attack"].text: row["queries"] for row in found["cells"].rows}
    assert cells == {"mirror": Value(14_000), "lookup": Value(10)}
    untold = tables(*records, make(4, attack="lookup", seed=2, access="black-box"))
    assert untold["defenses-black-box"].rows[0]["queries"].text == "—"


def test_a_card_without_lower_lists_reads_as_before() -> None:
    card = BoardCard.model_validate({"headline": "gmi", "worst_case": ("gmi",), "list_version": 3})
    assert card.attacks("white-box") == card.standard() == ("gmi",)
    assert card.attacks("black-box") == card.attacks("label-only") == ()
    assert CARD.standard() == ("gmi", IK, "lookup", "mirror", "edges")
    assert CARD.standard(output=True) == ("lookup", "mirror", "edges")
    assert CARD.standard("white-box", output=True) == ()
    assert CARD.standard("label-only") == ("edges",)
