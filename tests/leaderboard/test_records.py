"""What makes a record sound, and what is refused and why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mibench import protocols
from mibench.errors import MibenchError
from mibench.leaderboard.checks import faults, warnings
from mibench.leaderboard.names import cell_name, name_faults
from mibench.leaderboard.parsing import parse
from mibench.leaderboard.records import disagreements, load, schema
from mibench.protocols import PROTOCOLS
from mibench.record import Record
from mibench.verify.filing import add, note
from mibench.verify.settings import check, foreign
from tests.conftest import TINY
from tests.kit import board_records
from tests.kit.board_records import accuracy, diverged, file_all, filed, hits_of, metric
from tests.kit.methods import attack_names

pytestmark = pytest.mark.usefixtures("tiny")
Data = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
OLD = "leaderboards/earlier/synthfaces-32-v1/gmi_none_test_resnet_seed0.json"  # of schema 1


def record_data(*args: Any, **options: Any) -> Data:
    """A sound record as JSON, with the settings of the protocol."""
    return board_records.record_data(*args, **{"epochs": 1, **options})


def make(*args: Any, **options: Any) -> Record:
    """A sound record with the settings of the protocol."""
    return Record.model_validate(record_data(*args, **options))


def write(path: Path, record: Record | Data) -> Path:
    data = record.model_dump(mode="json") if isinstance(record, Record) else record
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def test_a_sound_record_has_no_fault() -> None:
    assert check(make()) == []
    assert check(diverged(epochs=1)) == []
    assert warnings(make()) == []


def top1(data: Data) -> Data:
    return data["metrics"]["attack_accuracy_top1"]


def edit_value(data: Data) -> None:
    top1(data)["value"] = 0.55


def edit_per_identity(data: Data) -> None:
    """Lower values that average to a lower claim, over the true hits."""
    top1(data).update(metric([0.5, 0.5, 0.5, 0.0, 0.0], 20, top1(data)["hits"]))


def edit_knn(data: Data) -> None:
    data["metrics"]["knn_distance"]["value"] = 14.0


def edit_hits(data: Data) -> None:
    top1(data)["hits"][4] = "0001"


def drop_hits(data: Data) -> None:
    top1(data)["hits"] = None


def drop_per_identity(data: Data) -> None:
    data["metrics"]["knn_distance"]["per_identity"] = None


def edit_n(data: Data) -> None:
    data["metrics"]["knn_distance"]["n"] = 19


def drop_an_identity(data: Data) -> None:
    data["metrics"]["knn_distance"] = metric([10.0, 11.0, 12.0, 13.0], 20)


def four_identities(data: Data) -> None:
    for key, each in data["metrics"].items():
        if each.get("hits"):
            data["metrics"][key] = accuracy(each["hits"][:4])
        elif each.get("per_identity"):
            data["metrics"][key] = metric(each["per_identity"][:4], 16)
        elif each["value"] is not None:
            each["n"] = 16


def three_samples(data: Data) -> None:
    for key, each in data["metrics"].items():
        if each.get("hits"):
            data["metrics"][key] = accuracy([row[:3] for row in each["hits"]])
        elif each["value"] is not None:
            each["n"] = 15


def shift_interval(data: Data) -> None:
    top1(data)["interval"] = [0.1, 0.3]


def narrow_interval(data: Data) -> None:
    top1(data)["interval"] = [0.499, 0.501]


def drop_interval(data: Data) -> None:
    top1(data)["interval"] = None


def above_one(data: Data) -> None:
    data["metrics"]["attribute_error"] = metric([1.2] * 5, 20)


def hit_outside_top5(data: Data) -> None:
    data["metrics"]["attack_accuracy_top5"] = accuracy(hits_of(9))


def edit_floor(data: Data) -> None:
    floor = data["references"]["floor: random prior samples"]
    floor["attack_accuracy_top1"]["value"] = 0.2


def edit_protocol(data: Data) -> None:
    data["protocol"]["resolved"]["training"]["epochs"] = 99


def edit_digest(data: Data) -> None:
    data["protocol"]["resolved"]["digest"] = "0" * 64


def number_of_a_diverged_cell(data: Data) -> None:
    data["status"] = "diverged"


def epsilon_of_nothing(data: Data) -> None:
    data["utility"]["epsilon"] = 8.0


def impossible_natural(data: Data) -> None:
    data["utility"]["natural_accuracy"] = 98.2


def no_headline(data: Data) -> None:
    data["metrics"]["attack_accuracy_top1"] = {"value": None, "reason": "secret"}


def a_path_as_name(data: Data) -> None:
    data["target"]["name"] = "../../evil"


def another_strength(data: Data) -> None:
    data["target"]["passed"] = {"target.learning_rate": 5}
    data["target"]["resolved"]["learning_rate"] = 4


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (edit_value, "top1: the value is 0.55, its values per identity average to 0.5"),
        (edit_per_identity, "identity 0: hits 1111 average to 1, its value is 0.5"),
        (edit_hits, "identity 4: hits 0001 average to 0.25, its value is 0"),
        (edit_knn, "knn_distance: the value is 14, its values per identity average to 12"),
        (drop_hits, "hits are missing"),
        (drop_per_identity, "values per identity are missing"),
        (edit_n, "knn_distance: n is 19 instead of 20"),
        (drop_an_identity, "values per identity, the protocol attacks 5"),
        (four_identities, "4 values per identity, the protocol attacks 5"),
        (three_samples, "another number of samples than the protocol's"),
        (shift_interval, r"\[0.1, 0.3\] does not hold its value 0.5"),
        (narrow_interval, r"\[0.499, 0.501\] is \[0.1, 0.9\] of its values per identity"),
        (drop_interval, "its interval is missing"),
        (above_one, r"attribute_error: 1.2 is not in \[0, 1\]"),
        (hit_outside_top5, "a hit of attack_accuracy_top1 is no hit of attack_accuracy_top5"),
        (edit_floor, "floor: random prior samples: attack_accuracy_top1: the value is 0.2"),
        (edit_protocol, "the protocol's settings do not give its digest"),
        (edit_digest, "the protocol's settings do not give its digest"),
        (number_of_a_diverged_cell, "diverged, but attack_accuracy_top1 has a number"),
        (epsilon_of_nothing, "the defense gives no guarantee"),
        (impossible_natural, r"natural_accuracy 98.2 is not in \[0, 1\]"),
        (no_headline, "attack_accuracy_top1 has no number"),
        (a_path_as_name, "target.name '../../evil' is no name of one"),
        (another_strength, "target.learning_rate is 4, here it is 5.0"),
    ],
)
def test_a_forged_record_is_refused(
    forge: Callable[[Data], None], reason: str, tmp_path: Path
) -> None:
    data = record_data()
    forge(data)
    (outcome,) = add([write(tmp_path / "record.json", data)], tmp_path / "board")
    assert outcome.status == "refused"
    assert any(re.search(reason, each) for each in outcome.reasons), outcome.reasons
    assert not (tmp_path / "board").exists()


def name_of_attack_refused(name: str) -> bool:
    data = record_data()
    data["attack"]["name"] = name
    return any(each.startswith("attack.name") for each in name_faults(Record.model_validate(data)))


@pytest.mark.parametrize("name", [*attack_names(), "Mine", "improved-Mine+paa", "Mine+repeat"])
def test_whatever_an_attack_can_be_called_boards_take(name: str) -> None:
    assert not name_of_attack_refused(name)


@pytest.mark.parametrize(
    "name",
    [
        "lookup+repeat+repeat",
        "lookup+repeat+lom",
        "gmi+lom+repeat",
        "improved-gmi+repeat",
        "+repeat",
    ],
)
def test_what_no_attack_can_be_called_is_refused(name: str) -> None:
    assert name_of_attack_refused(name)


def test_a_rounding_error_is_no_forgery() -> None:
    data = record_data()
    top1(data)["value"] += 1e-9
    assert faults(Record.model_validate(data)) == []


def test_the_number_of_successes_is_the_n_of_fid_successful() -> None:
    data = record_data(7)
    data["metrics"]["fid_successful"] = {
        "value": 30.0,
        "n": 7,
        "interval": [25.0, 35.0],
        "interval_over": "identity subsamples",
    }
    assert faults(Record.model_validate(data)) == []
    data["metrics"]["fid_successful"]["n"] = 20
    assert faults(Record.model_validate(data)) == ["fid_successful: n is 20 instead of 7"]


def test_another_version_of_the_protocol_is_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    record = make()
    assert foreign(record) == []
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", TINY.model_copy(update={"samples": 6}))
    (reason,) = check(record)
    assert "made under another version of tiny" in reason
    assert TINY.digest[:12] in reason
    monkeypatch.delitem(protocols.PROTOCOLS, "tiny")
    (reason,) = check(record)
    assert "the protocol 'tiny' is none of the boards'" in reason


def test_other_defaults_than_the_protocols_are_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults of methods are not in the digest: each record states them itself."""
    card = TINY.model_copy(update={"attacks": {**TINY.attacks, "gmi": {"attack.iterations": 4}}})
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", card)
    reasons = foreign(make())
    assert "protocol.attacks.gmi: attack.iterations is 3, the card says 4" in reasons
    assert any("attack.iterations is 3, the protocol says 4" in each for each in reasons)
    asked_for = make(passed={"attack.iterations": 3})
    assert foreign(asked_for) == []
    other = {**TINY.attacks, "kedmi": {"attack.iterations": 4}}
    card = TINY.model_copy(update={"attacks": other})
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", card)
    assert "kedmi" in make().protocol.resolved["attacks"]
    assert foreign(make()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps(record_data())[:-20], "no JSON, or was cut off"),
        (json.dumps({**record_data(), "schema_version": 4}), "schema_version is 4"),
        ("[]", "schema_version is None"),
        (json.dumps({**record_data(), "bonus": 1}), "bonus: Extra inputs are not permitted"),
        (json.dumps({k: v for k, v in record_data().items() if k != "seed"}), "seed: Field req"),
    ],
    ids=["truncated", "schema", "list", "unknown field", "missing field"],
)
def test_what_is_no_record_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match=reason):
        parse(text)
    (tmp_path / "record.json").write_text(text)
    (outcome,) = add([tmp_path / "record.json"], tmp_path / "board")
    assert outcome.status == "refused"
    assert reason in outcome.reasons[0]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "gmi_none_test_resnet_seed0"),
        (
            {"defense": "bido", "passed": {"defense.scale": 0}, "scale": 0, "seed": 2},
            "gmi_bido-scale=0_test_resnet_seed2",
        ),
        (
            {"defense": "bido", "passed": {"defense.scale": 0.0}},
            "gmi_bido-scale=0_test_resnet_seed0",
        ),
        ({"defense": "bido", "passed": {"defense.scale": 0.005}}, "gmi_bido-scale=0.005_test_res"),
        ({"passed": {"target.epochs": 5}}, "gmi_none-target.epochs=5_test_resnet_seed0"),
        ({"defense": "MyDefense"}, "gmi_MyDefense_test_resnet_seed0"),
        ({"attack": "improved-MyAttack"}, "improved-MyAttack_none_test_resnet_seed0"),
    ],
)
def test_a_cell_names_its_file(options: Data, name: str) -> None:
    assert cell_name(make(**options)).startswith(name)


def test_settings_that_make_no_name_become_a_digest() -> None:
    some = make(passed={"attack.iterations": 3})
    more = make(passed={"attack.iterations": 3, "target.epochs": 1})
    names = {cell_name(each) for each in (some, more)}
    assert len(names) == 2
    assert all(re.fullmatch(r"gmi_none-[0-9a-f]{8}_test_resnet_seed0", n) for n in names), names
    odd = make(passed={"target.optimizer": "a/b"})
    assert "/" not in cell_name(odd)


def test_good_records_are_filed_beside_refused_ones(tmp_path: Path) -> None:
    board = tmp_path / "board"
    data = record_data(seed=1)
    edit_value(data)
    paths = [
        write(tmp_path / "run" / "record.json", make()).parent,
        write(tmp_path / "forged.json", data),
        tmp_path / "nothing.json",
        write(tmp_path / "other.json", make(seed=2)),
    ]
    outcomes = add(paths, board)
    assert [o.status for o in outcomes] == ["filed", "refused", "refused", "filed"]
    assert "there is no such file" in outcomes[2].reasons[0]
    loaded = load(board)
    assert [each.path for each in loaded["tiny"]] == [
        "tiny/gmi_none_test_resnet_seed0.json",
        "tiny/gmi_none_test_resnet_seed2.json",
    ]
    assert loaded["tiny"][0].record == make()
    assert not list(board.rglob(".*"))


def test_a_duplicate_cell_is_refused_unless_it_is_equal(tmp_path: Path) -> None:
    board = tmp_path / "board"
    first = write(tmp_path / "a.json", make())
    again = write(tmp_path / "b.json", make(command="another", created="later"))
    other = write(tmp_path / "c.json", make(11))
    (one,) = add([first], board)
    assert one.place is not None
    before = one.place.read_bytes()
    same, duplicate = add([again, other], board)
    assert same.status == "already there"
    assert duplicate.status == "refused"
    assert "0.5000 and 0.5500" in duplicate.reasons[0]
    assert one.place.read_bytes() == before


def test_a_verification_reaches_the_filed_record(tmp_path: Path) -> None:
    board = tmp_path / "board"
    add([write(tmp_path / "a.json", make())], board)
    (each,) = load(board)["tiny"]
    assert (each.state, each.verification) == ("self-reported", None)
    note(board, each.path, "metrics recomputed")
    assert load(board)["tiny"][0].state == "metrics recomputed"
    note(board, each.path, "retrained", "Ada")
    (each,) = load(board)["tiny"]
    assert each.state == "retrained"
    assert each.verification is not None
    assert each.verification.verified_by == ("Ada",)
    # What was found of a file says nothing of another one.
    path = board / "records" / each.path
    path.write_text(path.read_text() + " ")
    assert load(board)["tiny"][0].state == "self-reported"


def test_a_record_cannot_say_that_it_was_verified(tmp_path: Path) -> None:
    """Nor does today's schema have a place for it."""
    old = json.loads((ROOT / OLD).read_text())
    for data, reason in (
        (old, "a record cannot say that it was verified"),
        (record_data(), "Extra inputs"),
    ):
        path = write(tmp_path / "b.json", {**data, "verified_by": "NIST"})
        (outcome,) = add([path], tmp_path / "board")
        assert outcome.status == "refused"
        assert reason in outcome.reasons[0]


def test_seeds_of_a_cell_must_have_the_same_settings() -> None:
    two, three = make(defense="bido", scale=2), make(defense="bido", scale=3, seed=1)
    assert disagreements(filed(two, three)) == {
        "tiny/gmi_bido_test_resnet_seed1.json": "seeds of one cell must have the same settings: "
        "defense.scale is 3, in tiny/gmi_bido_test_resnet_seed0.json it is 2"
    }
    swept = make(defense="bido", scale=5, seed=1, passed={"defense.scale": 5})
    assert disagreements(filed(two, swept)) == {}


def test_a_weak_evaluator_and_a_dirty_checkout_are_said(tmp_path: Path) -> None:
    environment = {**record_data()["environment"], "dirty": True}
    record = make(evaluator=0.85, environment=environment)
    (outcome,) = add([write(tmp_path / "a.json", record)], tmp_path / "board")
    assert outcome.status == "filed"
    assert outcome.warnings == (
        "the evaluator's accuracy is 85.0 %, less than 90 %: shown, not ranked",
        "made from a checkout with uncommitted changes",
    )


def test_a_damaged_filed_record_stops_the_build(tmp_path: Path) -> None:
    file_all(tmp_path, make(), make(seed=1))
    damaged = tmp_path / "records/tiny/gmi_none_test_resnet_seed1.json"
    damaged.write_text(damaged.read_text()[:-9])
    with pytest.raises(MibenchError, match=r"tiny/gmi_none_test_resnet_seed1\.json: it is no JSON"):
        load(tmp_path)
    data = record_data(seed=1)
    edit_value(data)
    damaged.write_text(json.dumps(data))
    with pytest.raises(MibenchError, match=r"seed1\.json: .*the value is 0\.55"):
        load(tmp_path)


def test_a_record_in_another_cells_file_stops_the_build(tmp_path: Path) -> None:
    file_all(tmp_path, make())
    path = tmp_path / "records/tiny/gmi_none_test_resnet_seed0.json"
    path.rename(path.with_name("gmi_none_test_resnet_seed1.json"))
    with pytest.raises(MibenchError, match="belongs into the file tiny/gmi_none_test_resnet_seed0"):
        load(tmp_path)


def test_a_board_holds_one_version_of_its_protocol(tmp_path: Path) -> None:
    other = TINY.model_copy(update={"chance_kappa": 0.5})
    card = {**other.model_dump(mode="json"), "digest": other.digest}
    protocol = {"name": "tiny", "version": 1, "passed": {}, "resolved": card}
    file_all(tmp_path, make(), make(seed=1, protocol=protocol))
    with pytest.raises(MibenchError, match="made under another version of the protocol"):
        load(tmp_path)


def test_the_schema_describes_records() -> None:
    described = json.loads(schema())
    assert described["additionalProperties"] is False
    assert set(described["properties"]) == set(record_data())
    assert "MetricValue" in described["$defs"]


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_records_of_every_card_give_their_digest(name: str) -> None:
    """What a run writes of its card is what the check computes the digest of."""
    card = PROTOCOLS[name]
    resolved = {**card.model_dump(mode="json"), "digest": card.digest}
    part = {"name": name, "version": card.version, "passed": {}, "resolved": resolved}
    record = Record.model_validate({**record_data(), "protocol": part})
    assert not [each for each in faults(record) if "digest" in each]
    resolved["resolution"] += 1
    changed = Record.model_validate({**record_data(), "protocol": part})
    assert [each for each in faults(changed) if "digest" in each]
