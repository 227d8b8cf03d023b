"""Each numbered sentence of the threat model is held by tests, which exist."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mibench.leaderboard.checks import faults
from mibench.leaderboard.parsing import parse
from mibench.store.artifact import Artifact
from mibench.verify.settings import check

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
SENTENCES = re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |^\n|^#|^-|\Z)", TEXT, re.MULTILINE | re.DOTALL)


def known_tests() -> set[str]:
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(node.name)
    return found


def test_sentences_are_numbered_in_order() -> None:
    assert [int(number) for number, _ in SENTENCES] == list(range(1, len(SENTENCES) + 1))
    assert len(SENTENCES) > 20


@pytest.mark.parametrize(("number", "sentence"), SENTENCES)
def test_each_sentence_names_tests_that_exist(number: str, sentence: str) -> None:
    named = re.findall(r"`(test_\w+)`", sentence)
    assert named, f"sentence {number} has no test"
    assert set(named) <= known_tests()


def test_whatever_else_is_named_exists() -> None:
    assert set(re.findall(r"`(test_\w+)`", TEXT)) <= known_tests()


FILED = sorted((ROOT / "leaderboards" / "records").glob("*/*.json"))
EARLIER = sorted((ROOT / "leaderboards" / "earlier").glob("*/*.json"))


@pytest.mark.parametrize("path", FILED[::40], ids=lambda path: path.stem)
def test_filed_records_hold(path: Path) -> None:
    assert check(parse(path.read_bytes())) == []


@pytest.mark.slow
def test_all_filed_records_hold() -> None:
    wrong = {path.name: check(parse(path.read_bytes())) for path in FILED}
    assert {name: reasons for name, reasons in wrong.items() if reasons} == {}
    assert FILED


@pytest.mark.parametrize("path", EARLIER[::40], ids=lambda path: path.stem)
def test_records_of_earlier_protocols_stay_readable(path: Path) -> None:
    """Of protocols' first versions, on no board: sound in themselves, and refused as today's."""
    record = parse(path.read_bytes())
    assert faults(record) == []
    (reason,) = check(record)
    assert "version" in reason


def test_a_guarantee_overwrites_nothing_that_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Any, tiny_store: Path
) -> None:
    import mibench

    out = tmp_path / "out"
    first = mibench.run(protocol="tiny", attack="gmi", store=tiny_store, out=out, device="cpu")
    boast = {"epsilon": 1.0, "delta": 1e-5, "natural_accuracy": 1.0, "evaluator_accuracy": 1.0}
    load_json = Artifact.load_json

    def boasting(self: Any, name: str) -> Any:
        found = load_json(self, name)
        if name == "summary.json":
            found["target"]["guarantee"] = {**boast, "privacy_unit": "identity"}
        return found

    monkeypatch.setattr(Artifact, "load_json", boasting)
    again = mibench.run(protocol="tiny", attack="gmi", store=tiny_store, out=out, device="cpu")
    measured = ("natural_accuracy", "evaluator_accuracy", "privacy_unit")
    for key in measured:
        assert again.utility[key] == first.utility[key]
    assert again.utility["epsilon"] == 1.0
    assert check(again)
    assert json.loads((out / "record.json").read_text())["utility"]["natural_accuracy"] < 1
