"""Files from strangers: what is no record, where it would be written, and who would be believed."""

from __future__ import annotations

import copy
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mibench.errors import MibenchError
from mibench.leaderboard.checks import faults, no_shares
from mibench.leaderboard.fit import unfit
from mibench.leaderboard.names import cell_name
from mibench.leaderboard.parsing import MOST_BYTES, parse
from mibench.leaderboard.records import disagreements, load
from mibench.leaderboard.series import series
from mibench.leaderboard.verifications import noted
from mibench.record import Record
from mibench.verify.copies import LEAST, nearest
from mibench.verify.filing import add, note
from mibench.verify.settings import check, foreign
from tests.kit import board_records
from tests.kit.board_records import filed
from tests.kit.boards import judged

pytestmark = pytest.mark.usefixtures("tiny")
Data = dict[str, Any]


def record_data(**options: Any) -> Data:
    return board_records.record_data(**{"epochs": 1, **options})


def make(**options: Any) -> Record:
    return Record.model_validate(record_data(**options))


def refused(path: Path, board: Path) -> str:
    """Why `add` refuses a file; nothing is written."""
    (outcome,) = add([path], board)
    assert outcome.status == "refused", outcome
    assert not board.exists()
    return outcome.reasons[0]


# -- what is no record --------------------------------------------------------------------------

GOOD = record_data()
TEXT = json.dumps(GOOD)


def with_(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TEXT.replace('"seed": 0', '"seed": 0, "seed": 1'), "the key 'seed' is there twice"),
        (TEXT.replace('"value": 0.5', '"value": 0.9, "value": 0.5'), "'value' is there twice"),
        (TEXT.replace('"value": 0.5', '"value": NaN'), "NaN is no number of JSON"),
        (TEXT.replace('"value": 0.5', '"value": -Infinity'), "-Infinity is no number of JSON"),
        (TEXT.replace('"value": 0.5', '"value": 1e999'), "the number 1e999 is too large"),
        (TEXT.replace('"seed": 0', f'"seed": {"9" * 5000}'), "is too large"),
        (TEXT.replace('"seed": 0', '"seed": 9223372036854775808'), "is too large"),
        (with_(schema_version=True), "schema_version is True"),
        (with_(schema_version=1.0), "schema_version is 1.0"),
        (with_(schema_version="1"), "schema_version is '1'"),
        (with_(rules=None), "rules is None in a record of schema 3"),
        (with_(rules=4), "rules is 4"),
        (with_(rules=True), "rules is True"),
        (with_(schema_version=1, rules=2), "rules is 2 in a record of schema 1"),
        (with_(seed=True), "seed: Input should be a valid integer"),
        (with_(seed="0"), "seed: Input should be a valid integer"),
        (with_(seed=-1), "seed: Input should be greater than or equal to 0"),
        (with_(utility={**GOOD["utility"], "natural_accuracy": True}), "utility.natural_accuracy"),
        (with_(metrics=[]), "metrics: Input should be an object"),
        (with_(command="x" * 5000), "a text has 5000 characters"),
        (with_(command="\x1b[2J"), "holds a character that is not shown, U+001B"),
        (with_(command="abc\u202egpj"), "holds a character that is not shown, U+202E"),
        ("[" * 5000 + "]" * 5000, "nested"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested"),
        (with_(costs=json.loads("[" * 40 + "]" * 40)), "nested deeper than 32 levels"),
        ("\ufeff" + TEXT, "no JSON"),
        (TEXT.encode("utf-16").decode("latin-1"), "no JSON"),
        ("", "no JSON"),
        ("null", "schema_version is None"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match=re.escape(reason)):
        parse(text)
    path = tmp_path / "record.json"
    path.write_text(text)
    assert reason in refused(path, tmp_path / "board")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/full")


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link(path: Path) -> None:
    real = path.with_name("elsewhere.json")
    real.write_text(TEXT)
    path.symlink_to(real)


def folder(path: Path) -> None:
    (path / "record.json").mkdir(parents=True)


def large(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(300 * 2**20)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("make_it", [fifo, device, endless, link, folder, large])
def test_what_is_no_plain_file_is_refused_at_once(
    make_it: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "record.json"
    make_it(path)
    start = time.monotonic()
    refused(path, tmp_path / "board")
    assert time.monotonic() - start < 5
    # The same in a leaderboards folder that someone else filled: it is named.
    board = tmp_path / "other"
    (board / "records" / "tiny").mkdir(parents=True)
    path.rename(board / "records" / "tiny" / "x.json")
    with pytest.raises(MibenchError, match=r"tiny/x\.json"):
        load(board)


def test_a_large_record_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(" " * MOST_BYTES + TEXT)
    assert "has more than 8 MiB" in refused(path, tmp_path / "board")


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("protocol", {"data": 1}, "protocol.data says nothing of the images"),
        ("protocol", {"samples": "4"}, "protocol.samples is '4', which is no count"),
        ("protocol", {"samples": True}, "protocol.samples is True, which is no count"),
        ("protocol", {"attacked": 0}, "protocol.attacked is 0, which is no count"),
        (
            "protocol",
            {"data": {"identities": [5]}},
            "protocol.data.identities is [5], which is no count",
        ),
        ("target", {"epochs": [1]}, "target.epochs is [1]"),
        ("target", {"epochs": {"a": 1}}, "target.epochs.a is no setting of it"),
        ("attack", {"iterations": True}, "attack.iterations is True"),
        ("defense", {"x": 1}, "defense.x is no setting of it"),
    ],
)
def test_wrong_types_in_settings_are_named(part: str, value: Data, reason: str) -> None:
    data = record_data()
    data[part]["resolved"] |= value
    if part == "protocol":
        from mibench.record import protocol_digest

        data[part]["resolved"]["digest"] = protocol_digest(data[part]["resolved"])
        assert reason in faults(Record.model_validate(data))
    else:
        assert any(reason in each for each in foreign(Record.model_validate(data)))


# -- names and places ---------------------------------------------------------------------------

NAMES = (
    "evil.py:bido", "x/../../../p:test_resnet", "../evil", "/etc/passwd", "a:b", "..", ".", "",
    "hf_hub:evil/model", "hf-hub:evil", "local-dir:/tmp", "a\\b", "evil.py", "a b", "é", "x" * 65,
    "improved-", "gmi+lom+ma", "gmi+x", "-gmi", "gmi--x", "con:", "a\nb",
)  # fmt: skip


@pytest.mark.parametrize("part", ["protocol", "target", "defense", "attack"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_name_and_no_path(part: str, name: str, tmp_path: Path) -> None:
    data = record_data()
    data[part]["name"] = name
    path = tmp_path / "record.json"
    path.write_text(json.dumps(data))
    refused(path, tmp_path / "a" / "b" / "board")
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["record.json"]
    assert foreign(Record.model_validate(data))


@pytest.mark.parametrize("value", ["hf-hub:evil/x", ["hf_hub:evil/x"], ["/tmp/x"], [1], "a/b"])
@pytest.mark.parametrize("networks", ["students", "surrogates"])
def test_settings_name_no_place_that_networks_come_from(networks: str, value: Any) -> None:
    path = f"attack.{networks}.architectures"
    record = make(attack="gmi+ma", passed={path: value})
    assert any(f"{path}: " in each and "is no arch" in each for each in foreign(record))


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("protocol.evaluator.kind", "{}:Mine"),
        ("protocol.second", {"kind": "{}:Mine"}),
        ("protocol.data.dataset", "{}:Mine"),
        ("attack.extra", [{"of": "{}"}]),
    ],
)
def test_no_setting_of_a_record_names_code(path: str, form: Any, tmp_path: Path) -> None:
    """A judge or a source may be a file's class; of a record, no file is imported."""
    trap, seen = tmp_path / "mine.py", tmp_path / "seen"
    trap.write_text(f"open({str(seen)!r}, 'w')")
    value = json.loads(json.dumps(form).replace("{}", str(trap)))
    data = record_data()
    data[path.partition(".")[0]]["passed"][path] = value
    found = foreign(Record.model_validate(data))
    assert any("names a file of code" in each for each in found), found
    file = tmp_path / "record.json"
    file.write_text(json.dumps(data))
    refused(file, tmp_path / "board")
    assert not seen.exists()


@pytest.mark.parametrize("at", ["records", "records/tiny", "records/tiny/CELL", "verifications"])
def test_no_link_in_a_leaderboards_folder_is_followed(at: str, tmp_path: Path) -> None:
    board, outside, record = tmp_path / "board", tmp_path / "outside", make()
    name = f"{cell_name(record)}.json"
    place = board / at.replace("CELL", name)
    outside.mkdir()
    (outside / "file").write_text("mine")
    place.parent.mkdir(parents=True)
    place.symlink_to(outside / "file" if "CELL" in at else outside)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record_data()))
    (outcome,) = add([path], board)
    assert outcome.status == "refused"
    assert "link" in outcome.reasons[0]
    assert [each.name for each in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "mine"


def test_a_planted_temporary_name_is_not_followed(tmp_path: Path) -> None:
    board, victim, record = tmp_path / "board", tmp_path / "victim", make()
    victim.write_text("mine")
    place = board / "records" / "tiny"
    place.mkdir(parents=True)
    for number in (os.getpid(), os.getpid() + 1):
        (place / f".{cell_name(record)}.json.{number}").symlink_to(victim)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record_data()))
    (outcome,) = add([path], board)
    assert outcome.status == "filed"
    assert victim.read_text() == "mine"


# -- who is believed ----------------------------------------------------------------------------


def test_two_authors_methods_of_one_name_are_two_methods(tmp_path: Path) -> None:
    part = {"version": None, "passed": {}, "resolved": {}, "name": "MyDefense"}
    records = [make(seed=seed, defense="MyDefense") for seed in (0, 1)]
    reasons = [foreign(each) for each in records]
    assert all("does not say what source" in each[0] for each in reasons)
    ours, theirs = (
        Record.model_validate(
            {
                **record_data(seed=seed),
                "defense": {**part, "source": source * 64},
            }
        )
        for seed, source in ((0, "a"), (1, "b"))
    )
    assert faults(ours) == []
    # What it lacks of a real record's fields aside, nothing is held against an outside method.
    assert not [each for each in foreign(ours) if "not stated" not in each]
    assert cell_name(ours) == "gmi_MyDefense@aaaaaaaa_test_resnet_seed0"
    assert cell_name(theirs) == "gmi_MyDefense@bbbbbbbb_test_resnet_seed1"
    assert len(series(filed(ours, theirs))) == 2


def test_mibench_own_methods_have_no_other_source() -> None:
    data = record_data()
    data["defense"]["source"] = "c" * 64
    (reason,) = foreign(Record.model_validate(data))
    assert "'none' is mibench's own, the record's has another source" in reason


def test_a_board_is_of_one_set_of_pixels_and_counts_each_run_once() -> None:
    def of(images: str, seed: int, run: str) -> Record:
        artifacts = {
            "target": f"{seed}" * 64,
            "split": "5" * 64,
            "images": images * 64,
            "reconstructions.safetensors": run * 64,
        }
        return make(seed=seed, artifacts=artifacts)

    one, two, other, again = of("a", 0, "0"), of("a", 1, "1"), of("b", 2, "2"), of("a", 3, "1")
    assert disagreements(filed(one, two)) == {}
    ((path, reason),) = disagreements(filed(one, two, other)).items()
    assert path == "tiny/gmi_none_test_resnet_seed2.json"
    assert "other pixels" in reason
    ((path, reason),) = disagreements(filed(one, two, again)).items()
    assert path == "tiny/gmi_none_test_resnet_seed3.json"
    assert "the same reconstructions as tiny/gmi_none_test_resnet_seed1.json" in reason


def test_labels_that_a_defense_leaves_alone_make_the_same_run() -> None:
    """Rounded scores name the same class, so that an attack by labels cannot tell them apart."""

    def of(
        defense: str, access: str = "label-only", accuracy: float = 0.9, seed: int = 0
    ) -> Record:
        data = record_data(
            defense=defense,
            natural=accuracy,
            seed=seed,
            artifacts={
                "target": str(len(defense)) * 64,
                "reconstructions.safetensors": "1" * 64,
            },
        )
        data["access"] = access
        return Record.model_validate(data)

    def wrong(*records: Record) -> bool:
        return any("counts once" in each for each in disagreements(filed(*records)).values())

    assert not wrong(of("none"), of("rounding"))
    assert wrong(of("none", "black-box"), of("rounding", "black-box"))
    assert wrong(of("none"), of("rounding", accuracy=0.8))
    assert wrong(of("none"), of("rounding", seed=1))
    assert wrong(of("none"), of("none"))


def test_what_is_said_of_one_target_is_said_alike() -> None:
    """Natural accuracy is the target's, whatever attacks it."""
    target = {"target": "7" * 64}
    honest = make(artifacts={**target, "reconstructions.safetensors": "1" * 64})
    proud = make(
        attack="kedmi", natural=0.95, artifacts={**target, "reconstructions.safetensors": "2" * 64}
    )
    ((path, reason),) = disagreements(filed(honest, proud)).items()
    assert "kedmi" in path
    assert "of one target, natural_accuracy is 0.95, in tiny/gmi_none" in reason


def test_random_samples_of_one_seed_agree_but_for_rounding() -> None:
    """Another processor or number of threads moves ranks by the few strangers in between."""
    ranks = [[48_097, 12_167, 77_836, 5] for _ in range(5)]

    def of(name: str, **changes: Any) -> Record:
        (record, *_) = judged(10, attacks=(name,))
        data = record.model_dump(mode="json")
        data["artifacts"] = {"asset prior": "3" * 64, "target": name[:1] * 64}
        rank = {**data["metrics"]["median_rank"], "among": 100_001}
        rank["ranks"] = changes.get("ranks", ranks)
        top1 = copy.deepcopy(data["metrics"]["attack_accuracy_top1"])
        top1["hits"] = changes.get("hits", ["0100"] * 5)
        floor = {"median_rank": rank, "attack_accuracy_top1": top1}
        data["references"] = {"floor: random prior samples": floor}
        data["environment"]["processor"] = changes.get("processor")
        return Record.model_validate(data)

    def refused(other: Record) -> bool:
        found = disagreements(filed(of("gmi"), of("kedmi"), other)).values()
        return any("of one seed, floor: random prior samples" in each for each in found)

    near = [[48_096, 12_170, 77_900, 7], *ranks[1:]]
    assert not refused(of("vmi"))
    assert not refused(of("vmi", ranks=near))
    assert refused(of("vmi", ranks=[[48_097, 12_167, 77_836, 8], *ranks[1:]]))  # by 3 near the top
    assert refused(of("vmi", ranks=[[48_097, 12_267, 77_836, 5], *ranks[1:]]))
    assert refused(of("vmi", ranks=[each[:3] for each in ranks]))
    assert refused(of("vmi", hits=["0110"] * 5))
    assert not refused(of("vmi", hits=["0110"] * 5, processor="AVX2, another"))


GUARANTEE = {"epsilon": 0.0, "delta": 1e-5, "privacy_unit": "identity"}


def test_shares_in_single_precision_are_shares() -> None:
    """Targets' accuracies are means of single precision, rounded to six digits."""
    data = record_data()
    del data["protocol"]["resolved"]["data"]["val"]
    n = 3058
    for right in range(n - 60, n + 1):
        share = round(torch.tensor([1.0] * right + [0.0] * (n - right)).mean().item(), 6)
        data["utility"] |= {"validation_images": n, "validation_accuracy": share}
        assert not list(no_shares(Record.model_validate(data)))
        data["utility"]["validation_accuracy"] = share - 2e-6
        assert list(no_shares(Record.model_validate(data)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (GUARANTEE, "privacy_unit is 'identity', the defense's is None"),
        ({**GUARANTEE, "privacy_unit": None}, "the defense gives no guarantee"),
        ({"privacy_unit": "identity"}, "privacy_unit is 'identity'"),
        ({"epsilon": "low"}, "epsilon"),
        ({"natural_accuracy": 0.93}, "natural_accuracy 0.93 is no share of 20 test images"),
        ({"validation_accuracy": 0.93}, "validation_accuracy 0.93 is no share of 10 images"),
        ({"validation_images": 11}, "validation_images is 11.0, the protocol has 10"),
        ({"validation_images": 9.5}, "validation_images 9.5 is no number of images"),
        ({"chance_accuracy": 0.25}, "chance_accuracy 0.25 is not that of 5 classes"),
        ({"my_accuracy": 1.0}, "'my_accuracy' is none of mibench's"),
    ],
)
def test_a_guarantee_out_of_thin_air_is_refused(changes: Data, reason: str) -> None:
    data = record_data()
    data["utility"] |= changes
    found = check(Record.model_validate(data))
    assert any(reason in each for each in found), found


def test_a_note_that_is_none_counts_for_nothing(tmp_path: Path) -> None:
    board_records.file_all(tmp_path, make())
    name = f"tiny/{cell_name(make())}.json"
    made = note(tmp_path, name, "retrained", "Ada")
    assert noted(tmp_path, name, made.record) == made
    assert noted(tmp_path, name, "0" * 64) is None
    path = tmp_path / "verifications" / name
    for text in ("", "{}", "[" * 5000, json.dumps({"record": made.record, "findings": []})):
        path.write_text(text)
        assert noted(tmp_path, name, made.record) is None
    path.unlink()
    path.symlink_to("/dev/zero")
    assert noted(tmp_path, name, made.record) is None


# -- copies -------------------------------------------------------------------------------------


def some_images(count: int, seed: int) -> torch.Tensor:
    """Smooth images of four colours, uint8 ``(count, 3, 32, 32)``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return (fine * 255).to(torch.uint8)


@pytest.mark.parametrize(
    "copy",
    [
        lambda x: x,
        lambda x: x.flip(-1),
        lambda x: x * 0.7 + 0.2,
        lambda x: x.roll((1, -2), (-2, -1)),
        lambda x: (x + 0.02 * torch.randn_like(x)).clamp(0, 1),
        lambda x: torch.nn.functional.avg_pool2d(x, 3, 1, 1),
    ],
    ids=["equal", "mirrored", "brighter", "shifted", "noisy", "blurred"],
)
def test_a_copy_is_nearer_than_any_other_image(copy: Callable[[torch.Tensor], Any]) -> None:
    known = some_images(60, 0)
    values, positions = nearest(copy(known[7:12].float() / 255), known)
    assert positions.tolist() == [7, 8, 9, 10, 11]
    assert bool((values > LEAST).all()), values
    others, _ = nearest(some_images(60, 1).float() / 255, known)
    assert float(others.max()) < LEAST
    apart, _ = nearest(known.float() / 255, known, apart=torch.arange(60))
    assert float(apart.max()) < LEAST


# -- what was found by trying -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"utility": {**GOOD["utility"], "chance_accuracy": 5e-324}}, "chance_accuracy"),
        ({"artifacts": {"metrics": "../../x"}}, "which is no SHA-256"),
        ({"artifacts": {"verified": "0" * 64}}, "'verified' is none of a record's"),
        ({"attack": {**GOOD["attack"], "version": 99}}, "only a protocol has one"),
        ({"status": "diverged", "metrics": {}}, "attack_accuracy_top1 is missing"),
    ],
)
def test_fields_that_nobody_looked_at_are_looked_at(
    changes: Data, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "record.json"
    path.write_text(with_(**changes))
    assert reason in refused(path, tmp_path / "board")


@pytest.mark.parametrize("networks", ["students", "surrogates"])
def test_networks_of_elsewhere_are_refused_in_a_table_too(networks: str, tmp_path: Path) -> None:
    evil = {"architectures": ["hf-hub:evil/x"]}
    for part in ({"passed": {f"attack.{networks}": evil}}, {"resolved": {networks: evil}}):
        path = tmp_path / "record.json"
        path.write_text(with_(attack={**GOOD["attack"], **part}))
        assert "is no architecture" in refused(path, tmp_path / "board")


@pytest.mark.parametrize(
    ("key", "changes", "reason"),
    [
        ("fd_evaluator", {"per_identity": [20.5] * 5}, "a set metric has no values"),
        ("fd_evaluator", {"interval": None, "interval_over": "nonsense"}, "no interval over"),
        ("knn_distance", {"hits": ["1111"] * 5}, "it counts no hits"),
        ("knn_distance", {"reason": "could not be computed"}, "a reason why it has none"),
    ],
)
def test_a_metric_holds_nothing_that_is_not_its_own(key: str, changes: Data, reason: str) -> None:
    data = record_data()
    data["metrics"][key] |= changes
    assert any(reason in each for each in faults(Record.model_validate(data)))


def test_a_record_of_endless_identities_is_refused_before_anything_is_computed() -> None:
    n = 560_000
    data = record_data()
    data["metrics"] = {
        "attack_accuracy_top1": {
            "value": 0.0, "n": 5 * n, "interval": [0, 0], "interval_over": "identities",
            "per_identity": [0] * n, "hits": ["00000"] * n,
        }
    }  # fmt: skip
    start = time.process_time()
    (reason,) = faults(Record.model_validate(data))
    assert "560000 values per identity, the protocol attacks 5" in reason
    assert time.process_time() - start < 5


def test_one_run_under_another_name_counts_once() -> None:
    honest = make()
    data = {**make(attack="kedmi").model_dump(), "metrics": honest.metrics}
    renamed = Record.model_validate(data)
    found = disagreements(filed(honest, renamed))
    assert any("the same distances as" in each for each in found.values())


def test_a_seed_of_63_bits_is_a_seed() -> None:
    assert unfit(make(seed=2**62)) == []
