"""The record's schema, and the upgrade that reads records of earlier ones."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mibench.data.folder import FolderOptions
from mibench.data.identity_division import IdentityDivision
from mibench.leaderboard.checks import faults
from mibench.protocols import PROTOCOLS
from mibench.record import Record, StageCost, prior_apart, protocol_digest, strength
from mibench.training.defense import DEFENSES
from tests.kit.board_records import make, record_data

BOARDS = Path(__file__).resolve().parent.parent / "leaderboards"
EARLIER = BOARDS / "earlier"
FILED = sorted([*BOARDS.glob("records/*/*.json"), *EARLIER.glob("*/*.json")])


def filed(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((EARLIER / f"{name}.json").read_text())
    return data


@pytest.fixture
def old() -> dict[str, Any]:
    """A record of schema 1, of an attack with a prior of its own."""
    return filed("synthfaces-32-v1/improved-kedmi_bido_test_resnet_seed0")


def test_every_filed_record_is_read_as_one_of_today() -> None:
    assert FILED
    for path in FILED:
        record = Record.model_validate_json(path.read_bytes())
        rules = json.loads(path.read_bytes()).get("rules", 1)  # the first ones do not say it
        assert (record.schema_version, record.prior.pinned, record.rules) == (3, True, rules), path
        knob = DEFENSES.get(record.defense.name).knob()  # a filter may have none
        assert (record.strength and record.strength.path) == knob, path
        assert record.people == (record.protocol.name == "lfw-64-small"), path
        card = record.protocol.resolved
        assert protocol_digest(card) == card["digest"], path
        again = Record.model_validate_json(record.model_dump_json())
        assert again == record, path


def test_the_priors_settings_leave_the_attacks(old: dict[str, Any]) -> None:
    before = copy.deepcopy(old)
    record = Record.model_validate(old)
    assert old == before
    attack = before["attack"]["resolved"]
    gan, own = attack.pop("prior"), attack.pop("prior_training")
    assert record.attack.resolved == attack
    assert record.prior.kind == "inversion-gan"
    assert record.prior.recipe == "target-specific GAN, fine-tuned from the general prior"
    assert record.prior.resolved == {**gan, **own}
    assert record.prior.passed == {}
    assert record.protocol.resolved["priors"] == {"inversion-gan": {"prior.steps": 200}}
    assert "attack.prior_training.steps" not in record.protocol.resolved["attacks"]["kedmi"]
    plain = Record.model_validate(filed("synthfaces-32-v1/gmi_none_test_resnet_seed0"))
    assert (plain.prior.kind, plain.prior.recipe) == ("gan", "general GAN")


def test_paths_of_the_prior_are_its_own() -> None:
    own, prior = prior_apart(
        {
            "attack.iterations": 3,
            "attack.priority": 1,
            "attack.prior.gan.steps": 4,
            "attack.prior_training.steps": 5,
        }
    )
    assert own == {"attack.iterations": 3, "attack.priority": 1}
    assert prior == {"prior.gan.steps": 4, "prior.steps": 5}
    whole = {"attack.prior": {"source": "scratch"}}
    assert prior_apart(whole) == ({}, {"prior.source": "scratch"})


@pytest.mark.parametrize(
    ("name", "path", "value", "control"),
    [
        ("improved-kedmi_bido_test_resnet_seed0", "defense.scale", 3, False),
        ("improved-kedmi_bido-scale=0_test_resnet_seed0", "defense.scale", 0, True),
        ("improved-kedmi_mid-beta=0.2_test_resnet_seed0", "defense.beta", 0.2, False),
        ("improved-kedmi_dp-sgd_test_resnet_seed0", "defense.noise_multiplier", 0.005, False),
        ("gmi_none_test_resnet_seed0", "target.epochs", 20, False),
        ("improved-kedmi_none-target.epochs=2_test_resnet_seed0", "target.epochs", 2, False),
    ],
)
def test_strengths_of_the_first_defenses(name: str, path: str, value: float, control: bool) -> None:
    found = Record.model_validate(filed(f"synthfaces-32-v1/{name}")).strength
    assert found is not None
    assert (found.path, found.value, found.control) == (path, value, control)


def test_a_strength_may_be_found_in_training() -> None:
    parts = {"defense": {"noise_multiplier": None}, "target": {"epochs": 0}}
    found = strength("defense.noise_multiplier", parts, {"noise_multiplier": 0.7})
    assert (found.value, found.control) == (0.7, False)
    assert strength("target.epochs", parts, {}).control is False
    for odd in (True, "3", float("nan"), float("inf"), 10**400, [3]):
        assert strength("defense.scale", {"defense": {"scale": odd}}, {}).value is None


def test_a_strength_is_the_settings() -> None:
    data = record_data(defense="bido", scale=3)
    assert faults(Record.model_validate(data)) == []
    data["strength"]["value"] = 5
    assert faults(Record.model_validate(data)) == [
        "strength is 5.0 at defense.scale, the settings say 3.0"
    ]
    data["strength"] |= {"value": 3, "control": True}
    assert faults(Record.model_validate(data))
    assert faults(make(defense="new")) == []  # without a main knob


def test_an_outside_defense_of_an_old_name_has_no_known_knob(old: dict[str, Any]) -> None:
    old["schema_version"] = 2
    old["defense"]["source"] = "a" * 64
    assert Record.model_validate({**old, "rules": 1}).strength is None


@pytest.mark.parametrize(
    "changes",
    [
        {"verified_by": "NIST"},
        {"defense": {"name": "x", "source": "a" * 64, "passed": {}, "resolved": {}}},
        {"attack": 3},
        {"attack": {"name": "gmi", "passed": [], "resolved": {}}},
        {"prior": None},
        {"utility": "high"},
        {
            "protocol": {"name": "x", "passed": {}, "resolved": {"attacks": {"kedmi": 3}}},
            "seed": -1,
        },
        {"schema_version": 4},
    ],
)
def test_what_is_no_record_stays_none(changes: dict[str, Any], old: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Record.model_validate({**old, **changes})


@pytest.mark.parametrize(("key", "value"), [("seed", True), ("seed", "1"), ("people", 1)])
def test_numbers_are_numbers(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        Record.model_validate_json(json.dumps({**record_data(), key: value}))


def test_drawn_faces_digits_and_things_are_no_people() -> None:
    shown = {name for name, card in PROTOCOLS.items() if not card.data.of_people}
    assert {name.partition("-")[0] for name in shown} == {"synthfaces", "mnist", "cifar10"}
    assert FolderOptions().of_people
    assert IdentityDivision(dataset="lfw").of_people
    assert not IdentityDivision(dataset="cifar10").of_people


def test_queries_of_each_identity_are_among_all_of_them() -> None:
    cost = {"stage": "reconstructions", "key": "k", "cached": False, "seconds": 1.0}
    assert StageCost.model_validate(cost).own_queries is None
    read = StageCost.model_validate_json(json.dumps({**cost, "queries": 9, "own_queries": [4, 3]}))
    assert read.own_queries == (4, 3)
    assert StageCost.model_validate(read.model_dump(mode="json")) == read
    for wrong in ({"queries": 6, "own_queries": [4, 3]}, {"own_queries": [1]}):
        with pytest.raises(ValidationError, match="more than the queries"):
            StageCost.model_validate({**cost, **wrong})
    for odd in ([-1], [1.5], ["1"], [True], 3):
        with pytest.raises(ValidationError, match="own_queries"):
            StageCost.model_validate({**cost, "queries": 9, "own_queries": odd})
