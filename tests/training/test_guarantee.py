"""What of a defense's guarantee gets into a record: ε, δ and the main knob, and nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import mibench
from mibench.cell.record import make_record
from mibench.errors import MibenchError, RequestError
from mibench.protocols import Protocol
from mibench.store.artifact import Artifact
from mibench.training.defense import Defense, DefenseConfig, claimed
from mibench.types import DefenseCard
from tests.kit.cells import bench, graph

CARD = DefenseCard(
    title="t", authors="a", year=2024, venue="v", url="u", adaptive_note="none needed"
)


def claim(given: dict[str, Any], unit: str | None = "example") -> dict[str, float]:
    class Claims(Defense):
        card = CARD.model_copy(update={"privacy_unit": unit})
        strength = "noise"

        def guarantee(self) -> dict[str, float | str]:
            return given

    return claimed(Claims(DefenseConfig()))


def test_a_guarantee_is_taken_as_it_is() -> None:
    whole: dict[str, Any] = {"epsilon": 8.0, "delta": 1e-5, "noise": 0.7}
    assert claim(whole) == whole
    assert claim({"epsilon": 0}) == {"epsilon": 0.0}  # pure, and of what does not see the data
    assert claim({}) == {} == claim({}, unit=None)


@pytest.mark.parametrize(
    "given",
    [
        {"epsilon": 8.0, "natural_accuracy": 1.0},
        {"epsilon": 8.0, "evaluator_accuracy": 1.0},
        {"epsilon": 8.0, "validation_accuracy": 1.0},
        {"epsilon": 8.0, "privacy_unit": "identity"},
        {"natural_accuracy": 1.0},
        {"delta": 1e-5},
        {"epsilon": -1.0},
        {"epsilon": math.nan},
        {"epsilon": math.inf},
        {"epsilon": "8"},
        {"epsilon": True},
        {"epsilon": None},
        {"epsilon": 8.0, "delta": 0.0},
        {"epsilon": 8.0, "delta": 1.0},
        {"epsilon": 8.0, "noise": math.inf},
    ],
    ids=str,
)
def test_what_is_no_guarantee_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(MibenchError, match=r"Claims\.guarantee\(\) returned"):
        claim(given)


def test_a_guarantee_needs_the_cards_unit() -> None:
    with pytest.raises(MibenchError, match="privacy_unit"):
        claim({"epsilon": 8.0}, unit=None)


def test_nothing_of_it_stands_in_an_accuracys_place(
    tiny: Protocol, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even from a target that an earlier release stored."""
    made = graph(protocol="tiny", attack="gmi")
    honest = make_record(made, bench(tiny_store), None).utility
    false = dict.fromkeys(honest, 0.123) | {"noise_multiplier": 0.7}
    read = Artifact.load_json

    def load(self: Artifact, name: str) -> Any:
        values = read(self, name)
        if name == "summary.json":
            values["target"]["guarantee"] = false
        return values

    monkeypatch.setattr(Artifact, "load_json", load)
    monkeypatch.setattr(
        made.cell.defense_class, "card", CARD.model_copy(update={"privacy_unit": "example"})
    )
    forged = make_record(made, bench(tiny_store), None).utility
    claims = {"epsilon": 0.123, "delta": 0.123, "privacy_unit": "example"}
    assert forged == {**honest, **claims, "noise_multiplier": 0.7}


@pytest.mark.parametrize(
    ("defense", "setting", "match"),
    [
        ("dp-sgd", {"defense.accountant": "prv", "defense.noise_multiplier": 0.005}, "knows no ε"),
        ("dp-sgd", {"defense.delta": 0.5}, "no guarantee for one of 30 images"),
        ("bido", {"target.batch_size": 7}, "fewer than two identities"),
    ],
)
def test_a_run_is_refused_before_anything_is_trained(
    defense: str, setting: dict[str, Any], match: str, tiny: Protocol, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=match):
        mibench.run(
            protocol="tiny",
            attack="gmi",
            defense=defense,
            overrides=setting,
            store=tmp_path / "store",
            out=tmp_path / "out",
        )
    stages = {each.name for each in (tmp_path / "store").iterdir()}
    assert not stages - {"data", "locks", "tmp"}
    assert not list((tmp_path / "store" / "tmp").iterdir())
