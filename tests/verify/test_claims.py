"""Checking claims, on a real run of a tiny cell."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from scipy.special import stdtrit
from torch import Tensor

import mibench
from mibench import metrics, protocols
from mibench.cell import run
from mibench.cell.stage import Bench
from mibench.leaderboard.checks import faults
from mibench.leaderboard.parsing import parse
from mibench.leaderboard.records import load
from mibench.record import FLOOR_PRIOR, MetricValue
from mibench.verify.compare import compare
from mibench.verify.retrain import _seed_spread, compare_runs
from tests.conftest import TINY
from tests.kit import command_line
from tests.kit.board_records import accuracy, diverged, make, metric, record_data
from tests.kit.cells import bench, graph

pytestmark = pytest.mark.usefixtures("tiny")

IMAGES = "reconstructions.safetensors"


def invoke(*args: str | Path) -> Result:
    result = command_line.invoke("leaderboard", *map(str, args))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of a cell: its run folder and its store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocols.PROTOCOLS, "tiny", TINY)
        store, out = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("out")
        mibench.run(protocol="tiny", attack="gmi", store=store, out=out, device="cpu")
    return out, store


@pytest.fixture
def run_folder(finished: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the run folder, to be tampered with."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def tamper(folder: Path, **changes: Any) -> dict[str, Any]:
    """Change parts of a record in its run folder: ``metrics`` and ``utility`` are merged."""
    path = folder / "record.json"
    data = json.loads(path.read_text())
    for key, value in changes.items():
        data[key] = {**data[key], **value} if key in ("metrics", "utility") else value
    path.write_text(json.dumps(data))
    return data


def test_a_true_claim_holds(run_folder: Path, finished: tuple[Path, Path]) -> None:
    assert faults(parse((run_folder / "record.json").read_bytes())) == []
    result = invoke("verify", run_folder, "--store", finished[1])
    assert result.exit_code == 0, result.output
    assert "attack_accuracy_top1" in result.stdout
    assert "differs" not in result.stdout


def test_a_forged_top1_is_found(run_folder: Path, finished: tuple[Path, Path]) -> None:
    """All of the claim fits together: value, values per identity, hits and interval."""
    forged = accuracy(["1111"] * 5)
    tamper(run_folder, metrics={"attack_accuracy_top1": forged})
    record = parse((run_folder / "record.json").read_bytes())
    assert faults(record) == []
    result = invoke("verify", run_folder / "record.json", "--store", finished[1])
    assert result.exit_code == 1
    (line,) = [each for each in result.stdout.splitlines() if "attack_accuracy_top1" in each]
    assert "differs" in line
    assert "of 20 samples are judged otherwise" in line
    assert result.stdout.count("differs") == 1
    assert "1 of 29 numbers differ" in result.stderr


def test_a_claim_that_does_not_fit_together_is_damaged(
    run_folder: Path, finished: tuple[Path, Path]
) -> None:
    data = json.loads((run_folder / "record.json").read_text())
    top1 = {**data["metrics"]["attack_accuracy_top1"], "value": 1.0}
    tamper(run_folder, metrics={"attack_accuracy_top1": top1})
    result = invoke("verify", run_folder, "--store", finished[1])
    assert result.exit_code == 1
    assert "damaged: attack_accuracy_top1: the value is 1" in result.stdout
    assert "do not fit together" in result.stderr


def test_a_forged_evaluator_accuracy_is_found(
    run_folder: Path, finished: tuple[Path, Path]
) -> None:
    tamper(run_folder, utility={"evaluator_accuracy": 0.95})
    result = invoke("verify", run_folder, "--store", finished[1])
    assert result.exit_code == 1
    (line,) = [each for each in result.stdout.splitlines() if " evaluator_accuracy" in each]
    assert "differs" in line


def test_other_reconstructions_are_noticed(run_folder: Path, finished: tuple[Path, Path]) -> None:
    images = run_folder / IMAGES
    images.write_bytes(images.read_bytes()[:-4] + b"\0\0\0\1")
    result = invoke("verify", run_folder, "--store", finished[1])
    assert result.exit_code == 1
    assert "is not what the record was made from" in result.stderr


def test_a_filed_record_is_verified_from_the_store(
    run_folder: Path, finished: tuple[Path, Path], tmp_path: Path
) -> None:
    added = invoke("add", run_folder, "--folder", tmp_path / "board", "--store", finished[1])
    assert added.exit_code == 0, added.output
    (filed,) = (tmp_path / "board/records/tiny").glob("*.json")
    assert filed.name == "gmi_none_test_resnet_seed0.json"
    assert f"filed: {run_folder} as {filed}, metrics recomputed" in added.stdout
    assert (tmp_path / "board/galleries/tiny/gmi_none_test_resnet_seed0.png").exists()
    result = invoke("verify", filed, "--store", finished[1])
    assert result.exit_code == 0, result.output
    result = invoke("verify", filed, "--store", tmp_path / "no store")
    assert result.exit_code == 2
    assert "neither beside it nor in the store" in result.stderr


def test_all_filed_records_are_verified(
    run_folder: Path, finished: tuple[Path, Path], tmp_path: Path
) -> None:
    board, known = tmp_path / "board", ("--folder", tmp_path / "board", "--store", finished[1])
    assert invoke("add", run_folder, *known).exit_code == 0
    result = invoke("verify", "--all", *known)
    assert result.exit_code == 0, result.output
    assert f"1 metrics recomputed in {board}" in result.stdout
    # A true record without its reconstructions, and a forged one that someone put there.
    other = tmp_path / "other.json"
    other.write_text(json.dumps(record_data(seed=1, epochs=1)))
    assert invoke("add", other, *known).exit_code == 0
    result = invoke("verify", "--all", *known)
    assert result.exit_code == 0
    assert "1 metrics recomputed, 1 self-reported in" in result.stdout
    data = json.loads((run_folder / "record.json").read_text())
    data["metrics"]["attack_accuracy_top1"] = accuracy(["1111"] * 5)
    (board / "records/tiny/gmi_none_test_resnet_seed0.json").write_text(json.dumps(data))
    result = invoke("verify", "--all", *known)
    assert result.exit_code == 1
    assert "does not hold: tiny/gmi_none_test_resnet_seed0.json: " in result.stdout
    assert "1 records do not hold" in result.stderr


def with_images(folder: Path, images: Tensor) -> None:
    """Put other reconstructions into a run folder, under the record's name for them."""
    tensors = load_file(folder / IMAGES)
    save_file({**tensors, "images": images}, folder / IMAGES)
    path = folder / "record.json"
    data = json.loads(path.read_text())
    data["artifacts"][IMAGES] = hashlib.sha256((folder / IMAGES).read_bytes()).hexdigest()
    path.write_text(json.dumps(data))


def test_reconstructions_in_several_files(
    run_folder: Path, finished: tuple[Path, Path], tmp_path: Path
) -> None:
    """Large ones are stored in shards; each is what the record names, or the claim is none."""
    whole = load_file(run_folder / IMAGES)
    (run_folder / IMAGES).unlink()
    path = run_folder / "record.json"
    data = json.loads(path.read_text())
    del data["artifacts"][IMAGES]
    shards = [run_folder / f"reconstructions.{n:05d}.safetensors" for n in range(2)]
    for shard, rows in zip(shards, (slice(0, 3), slice(3, None)), strict=True):
        save_file({key: value[rows].contiguous() for key, value in whole.items()}, shard)
        data["artifacts"][shard.name] = hashlib.sha256(shard.read_bytes()).hexdigest()
    path.write_text(json.dumps(data))
    result = invoke("verify", run_folder, "--store", finished[1])
    assert result.exit_code == 0, result.output
    board = tmp_path / "board"
    result = invoke("add", run_folder, "--folder", board, "--store", finished[1])
    assert "seed0.json, metrics recomputed" in result.stdout
    shards[1].write_bytes(shards[0].read_bytes())
    result = invoke("verify", run_folder, "--store", finished[1])
    assert result.exit_code == 1
    assert "is not what the record was made from" in result.stderr
    save_file({"images": torch.zeros(()), "labels": torch.zeros(2)}, shards[1])
    data["artifacts"][shards[1].name] = hashlib.sha256(shards[1].read_bytes()).hexdigest()
    path.write_text(json.dumps(data))
    result = invoke("verify", run_folder, "--store", finished[1])
    assert result.exit_code == 1
    assert "hold other tensors in each file" in result.stderr
    shards[1].unlink()
    assert invoke("verify", run_folder, "--store", finished[1]).exit_code == 2


def test_what_cannot_be_an_image_is_refused(
    run_folder: Path, finished: tuple[Path, Path], tmp_path: Path
) -> None:
    """One NaN turned every metric into one that could not be checked, and the exit code to 0."""
    true = load_file(run_folder / IMAGES)["images"]
    for wrong in (math.nan, math.inf, 1.5, -0.1):
        images = true.clone()
        images[2, 1, 0, 3, 4] = wrong
        with_images(run_folder, images)
        result = invoke("verify", run_folder, "--store", finished[1])
        assert result.exit_code == 1
        assert "1 numbers of the reconstructions are not in [0, 1]" in result.stderr
        result = invoke("add", run_folder, "--folder", tmp_path / "b", "--store", finished[1])
        assert result.exit_code == 1
        assert not (tmp_path / "b").exists()
    for images in (true.half(), true[:, :3], true.flatten(0, 1)):
        with_images(run_folder, images.contiguous())
        assert invoke("verify", run_folder, "--store", finished[1]).exit_code == 1


def test_what_cannot_be_checked_is_no_success(
    run_folder: Path, finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A claimed FID where Inception's weights are not at hand: an exit code of its own."""
    fid = {"value": 9.0, "n": 20, "interval": [8.0, 10.0], "interval_over": "identity subsamples"}
    tamper(run_folder, metrics={"fid": fid})
    monkeypatch.setattr(metrics, "find_inception", lambda: "no Inception weights")
    result = invoke("verify", run_folder, "--store", finished[1])
    assert result.exit_code == 3, result.output
    assert "here cannot be checked: fid" in result.stderr
    result = invoke("add", run_folder, "--folder", tmp_path / "b", "--store", finished[1])
    assert "self-reported, fid cannot be checked here: no Inception weights" in result.stdout
    (filed,) = load(tmp_path / "b")["tiny"]
    assert filed.state == "self-reported"


def test_pictures_that_were_handed_in_are_no_reconstructions(
    run_folder: Path, finished: tuple[Path, Path]
) -> None:
    """Private test images, whose metrics are those of an attack that cannot be beaten."""
    made, place = graph(protocol="tiny", attack="gmi"), bench(finished[1])
    test = place.get(made.images).test
    images = torch.stack([test.images[test.labels == label] for label in range(5)]).float() / 255
    with_images(run_folder, images)
    found = made.references.evaluation(place)([images])[0]
    tamper(run_folder, metrics={key: m.model_dump(mode="json") for key, m in found.items()})
    result = invoke("verify", run_folder, "--store", finished[1])
    assert result.exit_code == 1
    (line,) = [each for each in result.stdout.splitlines() if "copies of known images" in each]
    assert "20" in line
    assert result.stdout.count("differs") == 1


def test_data_are_read_once_for_numbers_and_picture(
    run_folder: Path, finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Counted(Bench):
        def __init__(self, *args: Any) -> None:
            made.append(self)
            super().__init__(*args)

    monkeypatch.setattr(run, "Bench", Counted)
    board = tmp_path / "board"
    assert invoke("add", run_folder, "--folder", board, "--store", finished[1]).exit_code == 0
    assert (board / "galleries/tiny/gmi_none_test_resnet_seed0.png").exists()
    assert len(made) == 1


def test_the_floor_of_another_general_prior_is_no_forgery(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    """An author may train it by other settings; who verifies does not train on their word."""
    settings = {"prior.gan.steps": 4}
    place = {"store": finished[1], "out": tmp_path, "device": "cpu"}
    mibench.run(protocol="tiny", attack="gmi", overrides=settings, **place)
    result = invoke("verify", tmp_path, "--store", finished[1])
    assert result.exit_code == 3, result.output
    assert result.stderr.endswith(f"here cannot be checked: {FLOOR_PRIOR}\n")
    assert "differs" not in result.stdout


def test_a_prior_that_was_asked_for_is_compared_and_run_anew(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    """Another kind than the attack's own, by a registered name."""
    place = {"store": finished[1], "out": tmp_path / "run", "device": "cpu"}
    mibench.run(protocol="tiny", attack="kedmi", prior="gan", **place)
    common = (tmp_path / "run", "--store", finished[1])
    assert invoke("verify", *common).exit_code == 0
    data = json.loads((tmp_path / "run/record.json").read_text())
    assert data["prior"]["passed"] == {"prior.kind": "gan"}
    unneeded = invoke("verify", *common, "--retrain", "--prior", "mine.py:Mine")
    assert unneeded.exit_code == 2
    assert "the record's prior 'gan' is registered: leave --prior out" in unneeded.stderr
    for other, said in (
        ("inversion-gan", "the record's is 'gan'"),
        ("nobody", "passed as 'nobody'"),
    ):
        tamper(tmp_path / "run", prior={**data["prior"], "passed": {"prior.kind": other}})
        result = invoke("verify", *common)
        assert result.exit_code == 1
        assert said in result.stderr


def test_a_second_run_takes_no_file_from_the_record(run_folder: Path, tmp_path: Path) -> None:
    """A method's file comes from who verifies, and is the record's by its source."""
    marker = tmp_path / "executed"
    evil = tmp_path / "evil.py"
    evil.write_text(
        f"open({str(marker)!r}, 'w')\n"
        "from mibench.training.defense import Defense\n"
        "from mibench.defenses.none import NoDefense as N\n"
        "class Mine(Defense):\n    card = N.card\n"
    )
    original = json.loads((run_folder / "record.json").read_text())
    for name in (f"{evil}:Mine", "evil.py:Mine", "../evil.py:Mine", "Mine"):
        for kind in ("defense", "attack"):
            tamper(run_folder, **{kind: {**original[kind], "name": name}})
            for more in ((), ("--retrain",)):
                result = invoke("verify", run_folder, *more, "--store", tmp_path / "st")
                assert result.exit_code in (1, 2)
                assert not marker.exists()
            tamper(run_folder, **{kind: original[kind]})
    part = {**original["defense"], "name": "Mine", "source": "0" * 64}
    tamper(run_folder, defense=part)
    result = invoke("verify", run_folder, "--retrain", "--store", tmp_path / "st")
    assert result.exit_code == 2
    assert "name it by --defense FILE.py:CLASS" in result.stderr
    assert not marker.exists()
    given = ("--retrain", "--store", tmp_path / "st", "--defense", f"{evil}:Mine")
    result = invoke("verify", run_folder, *given)
    assert result.exit_code == 2
    assert "it is another file, or another version of it" in result.stderr


def test_another_version_of_the_protocol_is_not_verified(
    run_folder: Path, finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = TINY.model_copy(update={"chance_kappa": -0.5})
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", newer)
    result = invoke("verify", run_folder, "--store", finished[1])
    assert result.exit_code == 1
    assert "made under another version of tiny" in result.stderr


def test_a_record_of_somebodys_own_protocol_is_no_claim_to_check(run_folder: Path) -> None:
    """Not wrong: it could not be asked for."""
    data = json.loads((run_folder / "record.json").read_text())
    tamper(run_folder, protocol={**data["protocol"], "source": "0" * 64})
    result = invoke("verify", run_folder)
    assert result.exit_code == 2
    assert "is of somebody's own protocol, tiny" in result.stderr


def test_a_cell_is_run_anew(run_folder: Path, tmp_path: Path) -> None:
    """Without the reconstructions; natural accuracy is claimed as no target has it."""
    (run_folder / IMAGES).unlink()
    elsewhere, board = run_folder / "no store", tmp_path / "board"
    common = ("--retrain", "--store", elsewhere, "--by", "Ada", "--folder", board)
    result = invoke("verify", run_folder, *common)
    assert result.exit_code == 2  # what is noted is noted beside a filed record
    assert "has no such record" in result.stderr
    result = invoke("add", run_folder, "--folder", board)
    assert "seed0.json, self-reported" in result.stdout
    before = (run_folder / "record.json").read_bytes()
    result = invoke("verify", run_folder, *common)
    assert result.exit_code == 0, result.output
    assert "fewer than 4 degrees of freedom are filed" in result.stdout.replace("\n", " ")
    (filed,) = load(board)["tiny"]
    assert filed.state == "retrained"
    assert filed.verification is not None
    assert filed.verification.verified_by == ("Ada",)
    assert (run_folder / "record.json").read_bytes() == before
    assert not elsewhere.exists()

    tamper(run_folder, utility={"natural_accuracy": 1.0})
    shutil.rmtree(board)
    assert invoke("add", run_folder, "--folder", board).exit_code == 0
    result = invoke("verify", run_folder, *common)
    assert result.exit_code == 1
    (line,) = [each for each in result.stdout.splitlines() if "natural_accuracy" in each]
    assert "differs" in line
    assert load(board)["tiny"][0].state == "self-reported"


def test_seed_variance_is_the_measure_of_a_second_run() -> None:
    claim = make(10, natural=0.9)
    filed = [make(hits, seed=seed, natural=natural) for hits, seed, natural in (
        (1, 0, 0.5), (10, 1, 0.90), (12, 2, 0.92), (14, 3, 0.94)
    )]  # fmt: skip
    other = [make(hits, attack="vmi", seed=seed, natural=natural) for hits, seed, natural in (
        (4, 0, 0.90), (6, 1, 0.92), (8, 2, 0.94)
    )]  # fmt: skip
    # Both cells spread by 10 points of top-1 and 2 of natural accuracy, with 2 + 2 degrees of
    # freedom (the claim's own record, seed 0, does not count): × √2 · 2.776, Student's quantile.
    for hits, natural_accuracy, verdict in ((17, 0.978, "agrees"), (18, 0.979, "differs")):
        again = make(hits, natural=natural_accuracy)
        top1, natural = compare_runs(claim, again, [*filed, *other])
        assert (top1.verdict, natural.verdict) == (verdict, verdict)
    assert "within 39.26 points: seeds of the protocol spread by 10.00" in top1.note
    assert "(4 degrees of freedom)" in top1.note


@pytest.mark.parametrize("cells", [2, 20])
def test_an_honest_second_run_holds_19_times_of_20(cells: int) -> None:
    """Student's quantile: of 2 · √2 · s of two other seeds, 3 honest claims of 10 fell short."""
    filed = [
        make(10, target=f"net{cell}", seed=seed) for cell in range(cells) for seed in (1, 2, 3)
    ]
    claim, rng = make(10), np.random.default_rng(0)
    missed, runs = 0, 1000
    for _ in range(runs):
        values = iter(rng.normal(0.5, 0.02, len(filed) + 2))
        spread, freedom = _seed_spread(claim, filed, lambda _, values=values: float(next(values)))
        assert freedom == 2 * cells
        allowed = float(stdtrit(freedom, 0.975)) * math.sqrt(2) * spread
        missed += abs(next(values) - next(values)) > allowed
    assert 0.03 < missed / runs < 0.07


def test_few_seeds_leave_the_records_own_interval() -> None:
    claim = make(["1111", "1110", "1100", "1000", "0000"], natural=0.9)
    low, high = claim.metrics["attack_accuracy_top1"].interval or (0, 0)
    assert (low, high) == (pytest.approx(0.2), pytest.approx(0.8))
    two = [make(10), make(10, seed=1)]
    for hits, verdict in ((16, "agrees"), (17, "differs")):
        top1, natural = compare_runs(claim, make(hits, natural=0.7), two)
        assert top1.verdict == verdict
        # 20 test images: 0.9 is (18 + 2) / 24, half the interval 1.96 √(2 · 5/6 · 1/6 / 24).
        assert natural.verdict == "agrees"
        assert "within 21.1 points" in natural.note
    assert compare_runs(claim, make(10, natural=0.68), two)[1].verdict == "differs"


def test_a_diverged_claim_holds_when_it_diverges_again() -> None:
    assert [c.verdict for c in compare_runs(diverged(), diverged(), [])] == ["agrees"]
    assert [c.verdict for c in compare_runs(make(), diverged(), [])] == ["differs"]
    assert [c.verdict for c in compare_runs(diverged(), make(), [])] == ["differs"]


def value_of(data: dict[str, Any]) -> MetricValue:
    return MetricValue.model_validate(data)


def test_tolerances_of_a_metric() -> None:
    claim = value_of(accuracy(["1111", "1100", "0000", "0000", "0000"]))
    two = value_of(accuracy(["1111", "1100", "1100", "0000", "0000"]))
    three = value_of(accuracy(["1111", "1100", "1110", "0000", "0000"]))
    moved = value_of(accuracy(["1100", "1111", "0000", "0000", "0000"]))
    for found, here, elsewhere in (
        (claim, "agrees", "agrees"),
        (two, "differs", "agrees"),
        (three, "differs", "differs"),
        (moved, "differs", "differs"),  # the same mean of other samples
    ):
        assert compare("a", claim, found, 0).verdict == here
        assert compare("a", claim, found, 2).verdict == elsewhere

    near = value_of(metric([100.0, 200.0], 8))
    for factor, verdict in ((1.0005, "agrees"), (1.002, "differs")):
        found = value_of(metric([100.0 * factor, 200.0 * factor], 8))
        assert compare("knn_distance", near, found, 0).verdict == verdict
    swapped = value_of(metric([200.0, 100.0], 8))
    assert compare("knn_distance", near, swapped, 0).note == "values per identity"

    def ranked(*rows: list[int]) -> MetricValue:
        values = [float(sorted(row)[1]) for row in rows]
        told = {**metric(values, 6), "value": sum(values) / 2, "interval": values}
        return value_of({**told, "ranks": rows, "among": 100_001})

    ranks = ranked([7, 30, 900], [5, 20_000, 60_000])
    for found, here, elsewhere in (
        (ranks, "agrees", "agrees"),
        (ranked([7, 30, 900], [5, 20_001, 60_010]), "agrees", "agrees"),  # within a thousandth
        # Elsewhere by one, or by a hundredth; the medians go with them.
        (ranked([8, 31, 901], [6, 20_100, 60_000]), "differs", "agrees"),
        (ranked([7, 35, 900], [5, 21_000, 60_000]), "differs", "agrees"),  # two samples by more
        (ranked([9, 35, 900], [5, 21_000, 60_000]), "differs", "differs"),
    ):
        assert compare("median_rank", ranks, found, 0).verdict == here
        assert compare("median_rank", ranks, found, 2).verdict == elsewhere
    fewer = ranks.model_copy(update={"among": 1001})
    assert "among 1001" in compare("median_rank", fewer, ranks, 2).note

    absent = MetricValue(value=None, reason="no weights")
    assert compare("fid", near, absent, 0).verdict == "cannot be checked here"
    assert compare("fid", absent, near, 0).note == "not claimed"
    assert compare("fid", absent, absent, 0).note == "missing in both"
    narrower = near.model_copy(update={"interval": (140.0, 160.0)})
    assert compare("knn_distance", narrower, near, 0).note == "the interval"


@pytest.mark.parametrize("option", ["--by=Ada", "--defense=a.py:B", "--attack=a.py:B"])
def test_options_of_a_second_run_need_retrain(option: str, tmp_path: Path) -> None:
    result = invoke("verify", tmp_path, option)
    assert result.exit_code == 2
    assert "need --retrain" in result.stderr


def test_no_record_is_a_wrong_request(tmp_path: Path) -> None:
    result = invoke("verify", tmp_path / "nothing.json")
    assert result.exit_code == 2
    assert "there is no record" in result.stderr
