"""Records from before a field was there: taken as long as the field has its default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from mibench.attacks.gmi import Gmi
from mibench.attacks.ppa import Ppa
from mibench.record import Record
from mibench.settings import later_defaults
from mibench.types import LATER, Frozen
from mibench.verify.settings import foreign

RECORDS = Path(__file__).resolve().parents[2] / "leaderboards/records/synthfaces-32"
LATER_IDENTITY = {"top_k": 20, "views": "none", "view_count": 8, "view_noise": 0.05}
LATER_REPEATS = {"repeat": False, "repeats.times": 32, "repeats.noise": 0.004}
LATER_SELECTION = {"pool": None, "candidates": None, "crops": 100}


class Inner(Frozen):
    old: int = 1
    new: int = Field(2, json_schema_extra=LATER)


class Outer(Frozen):
    old: int = 1
    new: str = Field("a", json_schema_extra=LATER)
    inner: Inner = Inner(new=5)
    whole: Inner = Field(Inner(), json_schema_extra=LATER)


def test_fields_of_a_later_release_by_their_paths() -> None:
    """Defaults, not values; of a model that is later as a whole, all fields."""
    made = Outer(old=9, new="b", whole=Inner(old=8, new=7))
    later = {"new": "a", "inner.new": 2, "whole.old": 1, "whole.new": 2}
    assert later_defaults(made) == later
    assert later_defaults(made, "x.") == {f"x.{path}": value for path, value in later.items()}


def test_later_fields_of_attacks() -> None:
    identity = {f"identity.{name}": value for name, value in LATER_IDENTITY.items()}
    identity |= {"untrap": False}
    selection = {f"selection.{name}": value for name, value in LATER_SELECTION.items()}
    assert later_defaults(Gmi.Config()) == identity | LATER_REPEATS | selection
    # PPA came with its selection: no record of it was made without.
    assert later_defaults(Ppa.Config()) == identity | LATER_REPEATS


def filed(name: str = "gmi_none", **later: Any) -> Record:
    """A record of the board as of before; ``later`` fields are added to the attack's."""
    data = json.loads((RECORDS / f"{name}_test_resnet_seed0.json").read_text())
    resolved = data["attack"]["resolved"]
    for field in ("selection", "untrap", "repeat", "repeats"):
        resolved.pop(field, None)
    for field in LATER_IDENTITY:
        resolved["identity"].pop(field, None)
    resolved["identity"] |= later.get("identity", {})
    resolved |= {name: later[name] for name in ("selection", "untrap") if name in later}
    for field in later.get("without", ()):
        table = resolved
        *tables, last = field.split(".")
        for each in tables:
            table = table[each]
        del table[last]
    return Record.model_validate(data)


@pytest.mark.parametrize("name", ["gmi_none", "gmi+lom_none", "improved-kedmi_dp-sgd"])
def test_a_record_that_lacks_them_is_taken(name: str) -> None:
    assert foreign(filed(name)) == []


def test_a_record_that_states_them_is_taken_as_they_resolve() -> None:
    assert foreign(filed(identity=LATER_IDENTITY, selection=LATER_SELECTION)) == []
    assert foreign(filed(identity={"top_k": 20})) == []


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        ({"identity": {"views": "taa"}}, "attack.identity.views is 'taa', here it is 'none'"),
        ({"identity": {"view_count": 50}}, "attack.identity.view_count is 50, here it is 8"),
        ({"untrap": True}, "attack.untrap is True, here it is False"),
        ({"selection": {"pool": 5000}}, "attack.selection.pool is 5000, here it is None"),
        ({"selection": {"crops": 1}}, "attack.selection.crops is 1, here it is 100"),
        ({"selection": {"pools": 1}}, "attack.selection.pools is no setting of it"),
    ],
    ids=str,
)
def test_another_value_than_it_resolves_to_is_refused(later: Any, reason: str) -> None:
    (found,) = foreign(filed(**later))
    assert reason in found


@pytest.mark.parametrize("field", ["identity.eot", "iterations", "max_rows"])
def test_a_field_that_was_always_there_must_be_stated(field: str) -> None:
    (found,) = foreign(filed(without=[field]))
    assert found == f"attack.{field} is not stated"


def test_a_name_with_views_does_not_resolve_to_none() -> None:
    """A record from before cannot be renamed into an attack that did not exist."""
    record = filed()
    attack = record.attack.model_copy(update={"name": "gmi+taa"})
    (found,) = foreign(record.model_copy(update={"attack": attack}))
    assert "attack.identity.views is 'none', here it is 'taa'" in found
