"""Names of methods with their papers, and the order and the sentences of READMEs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mibench.cli.known import papers, registry
from mibench.leaderboard import build as building
from mibench.leaderboard.assembly import build_board
from mibench.leaderboard.board import BITS, CLASSES, TOP1, Board, DefenseFacts
from mibench.leaderboard.build import build
from mibench.leaderboard.papers import IMPROVEMENTS, VIEWED, Paper, Papers
from tests.kit.board_records import CARDS, bido, file_all, filed, make

GMI, BIDO = Paper("GMI, CVPR 2020", "https://x.example/gmi"), Paper("BiDO", "https://x.example/b")
KNOWN = Papers({"gmi": GMI}, {"bido": BIDO})


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gmi", [("gmi", GMI)]),
        ("gmi+lom", [("gmi", GMI), ("+lom", IMPROVEMENTS)]),
        ("gmi+ma", [("gmi", GMI), ("+ma", IMPROVEMENTS)]),
        ("improved-gmi", [("improved-", IMPROVEMENTS), ("gmi", GMI)]),
        ("gmi + lom + ma", [("gmi", GMI), (" + lom + ma", IMPROVEMENTS)]),
        ("gmi+taa", [("gmi", GMI), ("+taa", VIEWED)]),
        ("gmi+lom+paa", [("gmi", GMI), ("+lom", IMPROVEMENTS), ("+paa", VIEWED)]),
        ("improved-gmi+taa", [("improved-", IMPROVEMENTS), ("gmi", GMI), ("+taa", VIEWED)]),
        ("gmi + lom + taa", [("gmi", GMI), (" + lom ", IMPROVEMENTS), ("+ taa", VIEWED)]),
        ("gmi+repeat", [("gmi", GMI), ("+repeat", None)]),
        ("gmi+untrap", [("gmi", GMI), ("+untrap", None)]),
        ("gmi + lom + untrap", [("gmi", GMI), (" + lom ", IMPROVEMENTS), ("+ untrap", None)]),
        (
            "improved-gmi+taa+untrap",
            [("improved-", IMPROVEMENTS), ("gmi", GMI), ("+taa", VIEWED), ("+untrap", None)],
        ),
        ("gmi@0123abcd", [("gmi@0123abcd", None)]),
        ("gmi+lom@0123abcd", [("gmi+lom@0123abcd", None)]),
        ("improved-other", [("improved-other", None)]),
        ("", [("", None)]),
    ],
)
def test_an_attack_is_from_its_paper_and_its_improvements_from_theirs(
    name: str, parts: list[tuple[str, Paper | None]]
) -> None:
    assert KNOWN.parts("attack", name) == parts


def test_a_defense_is_no_attack() -> None:
    assert KNOWN.parts("defense", "bido") == [("bido", BIDO)]
    assert KNOWN.parts("defense", "gmi") == [("gmi", None)]
    assert KNOWN.parts("defense", "early-stopping") == [("early-stopping", None)]


def test_every_method_of_ours_has_a_paper() -> None:
    known = papers()
    assert known.attacks.keys() == set(registry("attack").names())
    assert known.defenses.keys() == set(registry("defense").names())
    for each in (*known.attacks.values(), *known.defenses.values()):
        assert each.url.startswith("https://")
    assert known.attacks["gmi"].title.endswith("Neural Networks, CVPR 2020")


def test_boards_that_say_most_of_a_person_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        "a": dataclasses.replace(Board("a", 1, "", ()), measure=CLASSES),
        "b": Board("b", 1, "", (), measure=TOP1),
        "c": Board("c", 1, "", (), measure=BITS, nominal=True),
        "e": Board("e", 1, "", (), measure=BITS),
        "d": Board("d", 1, "", (), measure=BITS),
    }
    monkeypatch.setattr(building, "survey", lambda folder: ({name: [] for name in made}, []))
    monkeypatch.setattr(building, "build_board", lambda name, *_: made[name])
    cards = dict.fromkeys(made, CARDS["tiny"])
    boards = building.boards(Path("anywhere"), cards).boards
    assert [board.protocol for board in boards] == ["d", "e", "c", "b", "a"]


def test_the_measure_follows_from_the_protocol() -> None:
    def measure(people: bool, **resolved: object) -> object:
        record = make()
        part = record.protocol.resolved | resolved
        protocol = record.protocol.model_copy(update={"resolved": part})
        changed = record.model_copy(update={"protocol": protocol, "people": people})
        return build_board("tiny", filed(changed), CARDS["tiny"], {}).measure

    assert measure(False) is TOP1  # rendered faces
    assert measure(True, data={"dataset": "lfw"}) is TOP1
    assert measure(False, data={"dataset": "mnist"}) is CLASSES
    assert measure(True, data={"dataset": "lfw"}, judges=[{"kind": "embedding"}]) is BITS


def test_the_readme_says_what_the_board_says_and_where_methods_are_from(tmp_path: Path) -> None:
    records = [make(12, attack="improved-gmi"), make(4, attack="gmi+lom"), bido(3, 0.9, 3)]
    file_all(tmp_path, *records, make(3, attack="improved-gmi+taa"))
    build(tmp_path, CARDS, KNOWN)
    text = (tmp_path / "README.md").read_text()
    linked = "[improved-](https://arxiv.org/abs/2304.01669)[gmi](https://x.example/gmi)"
    assert f"{linked} does best against an undefended classifier" in text
    lacking = "of which [gmi](https://x.example/gmi) has met no defense."
    assert f"No defense has a rank yet: ranks are over the whole list of attacks, {lacking}" in text
    improved = f"[LOM and MA]({IMPROVEMENTS.url})"
    viewed = f"[TAA and PAA]({VIEWED.url})"
    assert f"Papers: [gmi]({GMI.url}), {improved}, {viewed}, [bido]({BIDO.url})." in text
    assert text.count("https://") == 2 + 1 + 4  # tables have no links
    build(tmp_path, CARDS, KNOWN, {"bido": DefenseFacts("improved-gmi+taa", "It knows.")})
    text = (tmp_path / "README.md").read_text()
    assert "bido: improved-gmi+taa. It knows." in text
    build(tmp_path, CARDS)
    assert "Papers:" not in (tmp_path / "README.md").read_text()
