"""One cell, end to end, on a protocol that takes seconds."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mibench
from mibench.cell.run import open_bench, select_device
from mibench.errors import RequestError
from mibench.metrics import METRICS
from mibench.progress import Progress, StageState
from mibench.protocols import Protocol
from mibench.record import Record

ROOT = Path(__file__).resolve().parents[2]
TINY_RUN = {"protocol": "tiny", "attack": "gmi", "defense": "none"}
SAME = {"protocol": "tiny", "attack": "improved-kedmi", "defense": "mid"}


class Log(Progress):
    """Remembers what happened to each stage."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def stage(self, name: str, state: StageState, seconds: float = 0.0) -> None:
        self.states[name] = state

    def computed(self) -> set[str]:
        return {name for name, state in self.states.items() if state == "done"}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Record]:
    """A finished run: its store, its folder and its record."""
    with pytest.MonkeyPatch.context() as patch:
        from mibench import protocols
        from tests.conftest import TINY

        patch.setitem(protocols.PROTOCOLS, "tiny", TINY)
        store, out = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("out")
        return store, out, mibench.run(**SAME, store=store, out=out)


def test_the_run_folder_holds_everything(first: tuple[Path, Path, Record], tiny: Protocol) -> None:
    _, out, record = first
    stored = Record.model_validate_json((out / "record.json").read_text())
    assert stored == record
    images = load_file(out / "reconstructions.safetensors")["images"]
    assert images.shape == (5, 4, 3, 32, 32)
    assert 0 <= images.min() <= images.max() <= 1
    assert (out / "reconstructions.png").read_bytes().startswith(b"\x89PNG")


def test_the_record_says_all_that_the_contract_asks_for(
    first: tuple[Path, Path, Record], tiny: Protocol
) -> None:
    record = first[2]
    assert set(record.metrics) == set(METRICS)
    for name, value in record.metrics.items():
        assert (value.value is None) == (value.reason is not None), name
        assert value.value is None or value.n == 5 * 4, name
    assert record.metrics["fid"].value is None or record.metrics["fid"].value > 0
    accuracy = record.metrics["attack_accuracy_top1"]
    assert accuracy.per_identity is not None
    assert accuracy.value == pytest.approx(sum(accuracy.per_identity) / 5)
    assert len(record.references) == 3
    assert record.utility["natural_accuracy"] is not None
    assert record.utility["epsilon"] is None
    assert {c.stage for c in record.costs} >= {"data", "target", "prior", "reconstructions"}
    assert {c.stage: c.queries for c in record.costs if c.queries is not None} == {
        # 3 steps of 5 identities with 4 passes over a stochastic target, and 32 public images.
        "reconstructions": 3 * 5 * 4 + 32,
        "prior": 5 * 32,  # critic steps on batches of all public images
        # An epoch over the public images, which are then asked about for the agreement.
        "student test_byobnet": 32 + 32,
    }
    (cost,) = [c for c in record.costs if c.stage == "reconstructions"]
    assert cost.own_queries == (3 * 4,) * 5  # the others are LOM's statistics, which all share
    assert record.environment.torch == torch.__version__
    assert record.attack.resolved["identity"]["objective"] == "logit"
    assert "mibench run" in record.command


def test_a_second_run_computes_nothing(
    first: tuple[Path, Path, Record], tiny: Protocol, tmp_path: Path
) -> None:
    store, _, record = first
    log = Log()
    again = mibench.run(**SAME, store=store, out=tmp_path, progress=log)
    assert set(log.states.values()) == {"cached"}
    assert log.states.keys() == {"metrics", "picture", "reconstructions"}
    assert again.results() == record.results()
    assert all(cost.cached for cost in again.costs)


def test_a_second_attack_trains_no_target(
    first: tuple[Path, Path, Record], tiny: Protocol, tmp_path: Path
) -> None:
    log = Log()
    mibench.run(**{**SAME, "attack": "gmi"}, store=first[0], out=tmp_path, progress=log)
    assert log.computed() == {"reconstructions", "metrics", "picture"}
    assert log.states["target"] == "cached"


def test_another_strength_is_another_target(
    first: tuple[Path, Path, Record], tiny: Protocol, tmp_path: Path
) -> None:
    log = Log()
    overrides = {"defense.beta": 0.5}
    mibench.run(**SAME, store=first[0], out=tmp_path, overrides=overrides, progress=log)
    assert {"target", "prior", "student test_byobnet"} <= log.computed()
    assert "data" not in log.computed()


def test_seeds_differ(first: tuple[Path, Path, Record], tiny: Protocol, tmp_path: Path) -> None:
    other = mibench.run(**SAME, seed=1, store=first[0], out=tmp_path)
    one, two = (
        load_file(folder / "reconstructions.safetensors") for folder in (first[1], tmp_path)
    )
    assert not torch.equal(one["images"], two["images"])
    assert other.seed == 1


@pytest.mark.parametrize("stage", ["target", "reconstructions", "metrics"])
def test_a_flipped_byte_is_found_and_the_artifact_rebuilt(
    first: tuple[Path, Path, Record],
    tiny: Protocol,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    stage: str,
) -> None:
    store = tmp_path / "store"
    shutil.copytree(first[0], store)
    key = first[2].artifacts[stage]
    if stage != "metrics":  # else a finished cell would not read it at all
        shutil.rmtree(store / "metrics")
    (victim, *_) = sorted((store / stage / key).glob("*.safetensors"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    log = Log()
    with caplog.at_level(logging.WARNING):
        again = mibench.run(**SAME, store=store, out=tmp_path / "out", progress=log)
    assert stage in log.computed()
    assert victim.name in caplog.text
    assert again.results() == first[2].results()


def test_a_killed_run_gives_the_same_record(
    first: tuple[Path, Path, Record], tiny: Protocol, tmp_path: Path
) -> None:
    """SIGKILL in the middle of each stage in turn; the last run finishes what the others began."""
    store, out = tmp_path / "store", tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "tests.kit.run_tiny",
        str(store),
        str(out),
        SAME["attack"],
        "mid",
    ]
    stages = ["data", "target", "evaluator", "general-prior", "prior", "student test_byobnet"]
    for stage in [*stages, "reconstructions", "references", "metrics"]:
        done = subprocess.run(
            [*command, stage], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == -signal.SIGKILL, (stage, done.stderr)
        assert not (out / "record.json").exists()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    record = Record.model_validate_json((out / "record.json").read_text())
    assert record.results() == first[2].results()
    assert not list((store / "tmp").iterdir())


def test_a_diverged_target_is_a_status(tiny: Protocol, tmp_path: Path) -> None:
    record = mibench.run(
        protocol="tiny",
        attack="gmi",
        store=tmp_path / "store",
        out=tmp_path / "out",
        overrides={"target.learning_rate": 1e30, "target.warmup": 0.0, "target.epochs": 4},
    )
    assert record.status == "diverged"
    for value in record.metrics.values():
        assert value.value is None
        assert "diverged" in (value.reason or "")
    json.dumps(record.model_dump(mode="json"), allow_nan=False)


def test_a_target_at_chance_has_diverged(tiny: Protocol, tiny_store: Path, tmp_path: Path) -> None:
    chance = {**TINY_RUN, "out": tmp_path / "out", "store": tiny_store}
    record = mibench.run(**chance, overrides={"protocol.chance_kappa": 0.99})
    assert record.status == "diverged"
    reason = record.metrics["attack_accuracy_top1"].reason
    assert re.fullmatch(r"the target diverged: validation accuracy .* at chance \(20.0%\)", reason)
    assert not (tmp_path / "out" / "reconstructions.safetensors").exists()


def test_nothing_else_is_computed_for_a_target_at_chance(tiny: Protocol, tmp_path: Path) -> None:
    chance = {**TINY_RUN, "out": tmp_path / "out", "store": tmp_path / "store"}
    record = mibench.run(**chance, overrides={"protocol.chance_kappa": 0.99})
    assert {cost.stage for cost in record.costs} == {"data", "target", "metrics"}


LOST = """
import torch

from mibench.inversion.attack import Attack
from mibench.types import AttackCard


class Lost(Attack):
    \"\"\"Loses itself in the third identity.\"\"\"

    card = AttackCard(
        title="Lost",
        authors="Nobody",
        year=2026,
        venue="test",
        url="https://example.org",
    )

    def invert(self, problem):
        images = torch.zeros(5, 4, 3, 32, 32)
        images[2, 1, 0, 5, 5] = float("nan")
        return images
"""


def test_a_diverged_attack_is_a_status(tiny: Protocol, tiny_store: Path, tmp_path: Path) -> None:
    (tmp_path / "lost.py").write_text(LOST)
    run = {**TINY_RUN, "attack": f"{tmp_path / 'lost.py'}:Lost", "store": tiny_store}
    for _ in range(2):  # computed, then cached
        record = mibench.run(**run, out=tmp_path / "out")
        assert record.status == "diverged"
        assert record.metrics["attack_accuracy_top1"].reason == (
            "the attack diverged: reconstructions of identity 2 are not finite"
        )
        assert record.references  # the target is fine: its floors and its utility are known
        assert record.utility["natural_accuracy"] is not None


def test_a_diverged_student_is_a_status(tiny: Protocol, tiny_store: Path, tmp_path: Path) -> None:
    wild = {"learning_rate": 1e30, "warmup": 0.0, "epochs": 4}
    overrides = {f"attack.students.training.{name}": value for name, value in wild.items()}
    run = {**TINY_RUN, "attack": "gmi+ma", "store": tiny_store, "overrides": overrides}
    record = mibench.run(**run, out=tmp_path / "out")
    assert record.status == "diverged"
    reason = record.metrics["attack_accuracy_top1"].reason
    assert reason.startswith("the attack diverged: student test_byobnet: the loss is ")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"attack": "improved-kedmy"}, "kedmi"),
        ({"defense": "bidoo"}, "bido"),
        ({"target": "resnet81"}, "resnet"),
        ({"protocol": "synthfaces-23"}, "synthfaces-32"),
        ({"overrides": {"attack.iteration": 3}}, "iterations"),
        ({"overrides": {"attack.iterations": "many"}}, "attack.iterations"),
        ({"device": "cuda:7"}, "CUDA"),
    ],
)
def test_a_wrong_request_fails_before_work(
    tiny: Protocol, tmp_path: Path, changed: dict, words: str
) -> None:
    request = {**SAME, "device": "cpu", **changed}
    if "CUDA" in words and torch.cuda.device_count() > 7:
        pytest.skip("this machine has eight GPUs")
    with pytest.raises(RequestError, match=words):
        mibench.run(**request, store=tmp_path / "store", out=tmp_path / "out")
    assert not (tmp_path / "store" / "data").exists()


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs a GPU of Apple's")
def test_a_cell_runs_on_apples_gpu(tiny: Protocol, tmp_path: Path) -> None:
    record = mibench.run(**SAME, store=tmp_path / "store", out=tmp_path, device="mps")
    assert record.status == "complete"
    assert record.environment.device == "mps"
    assert record.metrics["attack_accuracy_top1"].value is not None


def test_where_a_bench_is_opened_gpus_convolve_in_full_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naming a device says nothing about precision; computing on one does."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert select_device("cpu") == torch.device("cpu")
    assert torch.backends.cudnn.allow_tf32
    assert open_bench(tmp_path, "cpu", Log()).device == torch.device("cpu")
    assert not torch.backends.cudnn.allow_tf32
