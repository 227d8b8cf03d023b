"""The command line: what it prints where, and its exit codes; runs are tested elsewhere."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console

import mibench.assets
from mibench import __version__
from mibench.cli import KINDS, cli
from mibench.cli_info import KINDS as LISTED
from mibench.cli_record import missing_reasons, notes, number, show_record, with_interval
from mibench.display import Bars, Lines, display, duration, size
from mibench.doctor import PACKAGES
from mibench.errors import ArtifactError, MibenchError
from mibench.methods import ATTACKS, DEFENSES
from mibench.progress import Progress
from mibench.protocols import PROTOCOLS
from mibench.store import Store
from mibench.types import Environment, MetricValue, Part, Record, RunSpec, StageCost, missing

ROOT = Path(__file__).resolve().parent.parent
KEY = "a" * 64


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


def make_record(**changes: Any) -> Record:
    part: dict[str, Any] = {"passed": {}, "resolved": {}}
    top1 = MetricValue(value=0.4312, n=500, interval=(0.3811, 0.4822), interval_over="identities")
    record = Record(
        status="complete",
        protocol=Part(name="synthfaces-32", version=3, **part),
        target=Part(name="test_resnet", **part),
        defense=Part(name="bido", **part),
        attack=Part(name="improved-kedmi", **part),
        seed=7,
        access="white-box",
        prior="general GAN",
        utility={
            "natural_accuracy": 0.953,
            "evaluator_accuracy": 0.981,
            "epsilon": None,
            "delta": None,
            "privacy_unit": None,
        },
        metrics={
            "attack_accuracy_top1": top1,
            "knn_distance": MetricValue(value=1234.56, n=500),
            "fid": missing("no Inception weights"),
            "fid_successful": missing("no Inception weights"),
        },
        references={
            "floor": {"attack_accuracy_top1": MetricValue(value=0.0125, n=500)},
            "ceiling": {
                "attack_accuracy_top1": missing("too few images"),
                "fid": missing("no Inception weights"),
            },
        },
        costs=(
            StageCost(stage="target", key=KEY, cached=True, seconds=83.2, iterations=940),
            StageCost(stage="prior", key=KEY, cached=False, seconds=4.0, queries=12345),
        ),
        artifacts={},
        environment=Environment(
            mibench="0",
            commit=None,
            dirty=None,
            python="3",
            torch="2",
            timm="1",
            opacus="1",
            device="cpu",
            threads=1,
            platform="test",
        ),
        command="mibench run",
        created="2026-01-01T00:00:00+00:00",
    )
    return record.model_copy(update=changes)


Runs = list[dict[str, Any]]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    """Calls of ``mibench.run``, which reports some progress, prints, and returns a record."""
    calls: Runs = []

    def run(*, progress: Progress, **request: Any) -> Record:
        calls.append(request)
        progress.stage("target", "computing")
        for _ in progress.steps(3, "training"):
            progress.report(loss=0.5)
        progress.stage("target", "done", 1.25)
        progress.stage("prior", "cached", 60.0)
        print("printed by a method")
        logging.getLogger("mibench.store").info("waiting for another process")
        return make_record()

    monkeypatch.setattr(sys.modules["mibench.run"], "run", run)
    monkeypatch.setenv("MIBENCH_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return calls


# --- run --------------------------------------------------------------------------------------


def test_run_passes_the_request_on(runs: Runs, tmp_path: Path) -> None:
    args = "run --defense bido --attack gmi+lom --seed 7 --set attack.identity.regularizer=0.5"
    args += " --set target.optimizer=adam --out there --store kept --device cpu"
    result = invoke(*args.split(), "--set", "target.epochs=2")
    assert result.exit_code == 0, result.output
    (request,) = runs
    assert request.pop("command") == f"mibench {args} --set target.epochs=2"
    assert request == {
        "protocol": "synthfaces-32",
        "target": None,
        "defense": "bido",
        "attack": "gmi+lom",
        "seed": 7,
        "root": None,
        "overrides": {
            "attack.identity.regularizer": 0.5,
            "target.optimizer": "adam",
            "target.epochs": 2,
        },
        "store": "kept",
        "out": Path("there"),
        "device": "cpu",
    }
    assert str(tmp_path / "there") in result.stdout
    assert str(tmp_path / "kept") in result.stdout


def test_run_defaults_are_those_of_a_request(runs: Runs) -> None:
    assert invoke("run").exit_code == 0
    passed = {name: runs[0][name] for name in RunSpec.model_fields}
    assert passed == RunSpec.model_validate({}).model_dump()
    assert runs[0]["device"] == "auto"
    assert runs[0]["out"].is_relative_to("mibench-runs/synthfaces-32")


def test_run_quotes_its_command(runs: Runs) -> None:
    invoke("run", "--set", "target.optimizer=adam", "--out", "my folder")
    assert runs[0]["command"] == "mibench run --set target.optimizer=adam --out 'my folder'"


def test_run_shows_tables_on_stdout_and_progress_on_stderr(runs: Runs) -> None:
    result = invoke("run")
    assert "43.1 % [38.1, 48.2]" in result.stdout
    assert "target: computing\ntarget: done in 1.2 s\nprior: cached\n" in result.stderr
    assert "printed by a method" in result.stderr
    assert "waiting for another process" in result.stderr
    assert "printed by a method" not in result.stdout
    assert "43.1 %" not in result.stderr


def test_run_json_leaves_only_the_record_on_stdout(runs: Runs) -> None:
    result = invoke("run", "--json")
    assert Record.model_validate_json(result.stdout) == make_record()
    assert "43.1 % [38.1, 48.2]" in result.stderr
    assert "target: computing" in result.stderr


def test_run_quiet_shows_no_progress(runs: Runs) -> None:
    result = invoke("run", "--quiet")
    assert "computing" not in result.stderr
    assert "43.1 %" in result.stdout


def test_run_leaves_logging_as_it_was(runs: Runs) -> None:
    log = logging.getLogger("mibench")
    before = (log.level, list(log.handlers))
    invoke("run")
    assert (log.level, log.handlers) == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("--attack kedmo", "'kedmi'"),
        ("--attack improved-kedmi+lom", "already holds"),
        ("--defense bidoo", "'bido'"),
        ("--protocol synthface-32", "'synthfaces-32'"),
        ("--target resnet81", "resnet"),
        ("--target crossvit_9_240", "cannot take images of 32×32"),
        ("--set attack.iterationz=5", "iterations'"),
        ("--set attack.iterations=many", "attack.iterations"),
        ("--set attack.identity.eot=0", "greater than or equal to 1"),
        ("--set iterations=5", "paths start with"),
        ("--set attack.iterations", "write a path and a value"),
        ("--protocol folder", "--root"),
        ("--seed -1", "--seed"),
        ("--sed 1", "--seed"),
    ],
)
def test_wrong_requests_exit_2_before_anything_runs(runs: Runs, args: str, said: str) -> None:
    result = invoke("run", *args.split())
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert runs == []


def test_a_gpu_that_is_not_there_is_a_wrong_request(tmp_path: Path) -> None:
    device = "cuda:99" if torch.cuda.is_available() else "cuda"
    result = invoke("run", "--device", device, "--store", str(tmp_path), "--out", str(tmp_path))
    assert result.exit_code == 2
    assert f"--device {device}" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MibenchError("the disk is full"), 1, "error: the disk is full\n"),
        (ArtifactError("a pinned network is missing"), 1, "error: a pinned"),
        (KeyboardInterrupt(), 130, "stopped; the same command continues\n"),
    ],
)
def test_failures_have_their_exit_codes(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def run(**request: Any) -> Record:
        raise error

    monkeypatch.setattr(sys.modules["mibench.run"], "run", run)
    result = invoke("run")
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stdout == ""


def test_an_unexpected_error_is_not_swallowed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(**request: Any) -> Record:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(sys.modules["mibench.run"], "run", run)
    result = invoke("run")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


# --- a record as tables -----------------------------------------------------------------------


def shown(record: Record, folder: Path) -> str:
    out = io.StringIO()
    show_record(record, Console(file=out, width=160), folder, Path("the-store"))
    return out.getvalue()


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if re.match(rf"│ {re.escape(name)}", line))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_record_is_shown_whole(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{}")
    text = shown(make_record(), tmp_path)
    assert "improved-kedmi (white-box) against test_resnet under bido" in text
    assert "synthfaces-32 v3 · seed 7" in text
    assert row(text, "Attack accuracy (top-1)") == [
        "Attack accuracy (top-1) ↑",
        "43.1 % [38.1, 48.2]",
        "500",
        "1.2 %",
        "—",
    ]
    assert row(text, "KNN distance") == ["KNN distance ↓", "1,234.6", "500", "—", "—"]
    assert row(text, "FID") == ["FID ↓", "—", "—", "—", "—"]
    assert "95 % intervals over identities" in text
    assert row(text, "natural accuracy")[1] == "95.3 %"
    assert row(text, "evaluator accuracy")[1] == "98.1 %"
    assert row(text, "formal guarantee")[1] == "none"
    assert row(text, "target") == ["target", "cached (1 min 23 s then)", "940", "—", "—"]
    assert row(text, "prior") == ["prior", "4.0 s", "—", "12,345", "—"]
    assert "record.json" in text
    assert "reconstructions.png" not in text  # it was not written
    assert "the-store" in text


def test_reasons_of_missing_numbers_are_named_once() -> None:
    assert missing_reasons(make_record()) == [
        "— FID, FID (successful): no Inception weights",
        "— Attack accuracy (top-1) (ceiling): too few images",
    ]


def test_a_guarantee_is_shown_with_its_unit(tmp_path: Path) -> None:
    utility: dict[str, Any] = {"natural_accuracy": 0.9, "epsilon": 7.996}
    utility |= {"delta": 1.234e-4, "privacy_unit": "example"}
    text = shown(make_record(utility=utility), tmp_path)
    assert row(text, "formal guarantee")[1] == "ε = 8, δ = 0.00012, for each example"


def test_a_weak_evaluator_is_noted() -> None:
    weak, strong = ({"evaluator_accuracy": value} for value in (0.8999, 0.9))
    (note,) = notes(make_record(utility=weak))
    assert "shown but not ranked" in note
    assert notes(make_record(utility=strong)) == []


def test_real_people_are_not_to_be_published(tmp_path: Path) -> None:
    part = Part(name="folder", version=1, passed={}, resolved={})
    assert "must not be published" in shown(make_record(protocol=part), tmp_path)
    assert "must not be published" not in shown(make_record(), tmp_path)


def test_a_diverged_cell_shows_dashes(tmp_path: Path) -> None:
    metrics = {"attack_accuracy_top1": missing("the target diverged: loss is NaN")}
    utility = {"natural_accuracy": None, "evaluator_accuracy": None}
    record = make_record(status="diverged", metrics=metrics, references={}, utility=utility)
    text = shown(record, tmp_path)
    assert row(text, "natural accuracy")[1] == "—"
    assert "— Attack accuracy (top-1): the target diverged: loss is NaN" in text
    assert "Training or attack diverged: there is no number." in text


def test_numbers() -> None:
    assert number("attack_accuracy_both", 0.5) == "50.0 %"
    assert number("evaluator_agreement", 1.0) == "100.0 %"
    assert number("precision", 0.5) == "0.500"
    assert with_interval("knn_distance", MetricValue(value=1.0, interval=(0.5, 150.0))) == (
        "1.000 [0.500, 150.0]"
    )
    assert [duration(s) for s in (3.21, 59.94, 59.96, 125, 3600 * 2 + 299)] == [
        "3.2 s",
        "59.9 s",
        "1 min 00 s",
        "2 min 05 s",
        "2 h 04 min",
    ]
    assert [size(n) for n in (0, 1023, 1536, 2**20, 1023.99 * 2**20, 2**40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "1.0 MiB",
        "1.0 GiB",
        "1.0 TiB",
    ]


# --- progress ---------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the display's clock, which stands still otherwise."""
    now = [100.0]
    monkeypatch.setattr("mibench.display.time.monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_lines_come_every_tenth_or_ten_seconds(clock: Callable[[float], None]) -> None:
    out = io.StringIO()
    lines = Lines(out)
    lines.stage("target", "computing")
    for step in lines.steps(1000, "training"):
        clock(1.5 if step < 20 else 0.02)
        lines.report(loss=1.0 / (step + 1), kl=3.0)
    lines.stage("target", "done", 75.0)
    text = out.getvalue().splitlines()
    assert text[0] == "target: computing"
    assert text[-1] == "target: done in 1 min 15 s"
    steps = [int(re.findall(r"(\d[\d,]*)/1,000", line)[0].replace(",", "")) for line in text[1:-1]]
    assert steps[:2] == [7, 14]  # ten seconds each
    assert steps[3:] == [steps[2] + 100 * k for k in range(1, len(steps) - 2)]  # a tenth each
    assert (
        text[1] == "target (training): 7/1,000 · 1.5 s/step · loss 0.1429 · kl 3 · ETA 24 min 50 s"
    )


def test_fast_loops_are_not_shown(clock: Callable[[float], None]) -> None:
    out = io.StringIO()
    lines = Lines(out)
    for _ in lines.steps(1000, "fast"):
        clock(0.0001)
    assert out.getvalue() == ""


def test_a_loop_that_fails_is_put_away() -> None:
    lines = Lines(io.StringIO())
    lines.stage("outer", "computing")
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        for _ in lines.steps(3, "inner"):
            raise ZeroDivisionError
    assert lines.loops == []
    lines.report(loss=1.0)  # outside of any loop: nowhere to show it


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch, clock: Callable[..., None]) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    with display(out) as bars:
        assert isinstance(bars, Bars)
        bars.stage("metrics", "computing")
        bars.stage("target [2]", "computing")
        for step in bars.steps(40, "training"):
            clock(0.1)
            bars.report(loss=0.25)
            if step == 20:
                bars.bars.refresh()
        bars.stage("target [2]", "done", 4.0)
        bars.stage("prior", "cached", 4.0)
    text = out.getvalue()
    assert re.search(r"target \[2\] \(training\).*?/40 · 10\.0/s · loss 0\.25 · ETA", text)
    assert "✓ target [2]  4.0 s" in text
    assert "= prior  cached" in text
    assert bars.stages == ["metrics"]


def test_dumb_terminals_and_pipes_get_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(display(Terminal()), Lines)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(display(io.StringIO()), Lines)


# --- list and info ----------------------------------------------------------------------------


def listed(*args: str) -> list[dict[str, Any]]:
    result = invoke("list", *args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_lists() -> None:
    assert KINDS == LISTED
    attacks = {entry["name"]: entry for entry in listed("attacks")}
    assert {"kedmi", "kedmi+lom", "kedmi+ma", "improved-kedmi"} <= attacks.keys()
    assert attacks["improved-gmi"]["access"] == "white-box"
    assert [entry["name"] for entry in listed("defenses")] == DEFENSES.names()
    assert [entry["name"] for entry in listed("protocols")] == [*PROTOCOLS, "folder"]
    assert "attack_accuracy_top1" in [entry["name"] for entry in listed("metrics")]
    assert len(listed("targets")) > 500
    assert [entry["name"] for entry in listed("targets", "test_resnet*")] == ["test_resnet"]


@pytest.mark.parametrize("kind", KINDS)
def test_lists_as_text_hold_the_names(kind: str) -> None:
    result = invoke("list", kind, "*s*")
    assert result.exit_code == 0
    for entry in listed(kind, "*s*"):
        assert entry["name"] in result.stdout


def test_a_pattern_without_matches_says_so() -> None:
    result = invoke("list", "targets", "resnet-18")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "'resnet-18'" in result.stderr
    assert listed("attacks", "none*") == []


def test_an_unknown_kind_exits_2() -> None:
    result = invoke("list", "atacks")
    assert result.exit_code == 2
    assert "'attacks'" in result.stderr


def explained(name: str) -> dict[str, Any]:
    result = invoke("info", name, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def paths(entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["path"]: each for each in entry["fields"]}


def test_info_of_an_attack_and_its_variant() -> None:
    entry = explained("improved-kedmi")
    assert (entry["kind"], entry["name"], entry["access"]) == (
        "attack",
        "improved-kedmi",
        "white-box",
    )
    assert entry["card"] == ATTACKS.get("kedmi").card.model_dump(mode="json")
    known = paths(entry)
    eot = known["attack.identity.eot"]
    assert (eot["type"], eot["default"], eot["settable"]) == ("int (≥ 1)", 4, True)
    assert "stochastic target" in eot["meaning"]
    assert known["attack.identity.objective"]["type"] == "cross-entropy | logit"
    assert known["attack.identity.objective"]["default"] == "logit"
    assert known["attack.augment"]["default"] is True
    assert not known["attack.augment"]["settable"]
    assert paths(explained("kedmi+lom"))["attack.augment"]["default"] is False
    assert explained("kedmi+lom+ma") == entry


def test_every_field_of_every_method_has_a_meaning() -> None:
    for name in [*ATTACKS.names(), *DEFENSES.names(), "synthfaces-32", "folder", "resnet18"]:
        for path, each in paths(explained(name)).items():
            assert each["meaning"] or path in ("protocol.evaluator", "protocol.second"), path


def test_info_of_a_defense() -> None:
    entry = explained("dp-sgd")
    assert entry["strength"] == "defense.noise_multiplier"
    assert entry["strengths"][0] == 0
    assert entry["card"]["privacy_unit"] == "example"
    assert paths(entry)["defense.max_grad_norm"]["type"] == "float (> 0)"
    assert paths(entry)["defense.delta"]["type"].startswith("float | null")


def test_info_of_protocols() -> None:
    entry, card = explained("synthfaces-32"), PROTOCOLS["synthfaces-32"]
    assert entry["frozen"]
    assert entry["assets"]["prior"]["sha256"] == card.assets["prior"].sha256
    assert entry["attacks"] == card.attacks
    assert entry["digest"] == card.digest
    known = paths(entry)
    assert known["protocol.samples"]["default"] == card.samples
    assert known["protocol.data.identities"]["default"] == 100
    assert not any(each["settable"] for each in known.values())
    text = invoke("info", "synthfaces-32").stdout
    assert card.assets["prior"].file in text
    folder = paths(explained("folder"))
    assert folder["protocol.data.min_images"]["settable"]


def test_info_of_metrics_and_targets() -> None:
    assert explained("knn_distance")["direction"] == "lower leaks more"
    entry = explained("resnet18")
    assert entry["kind"] == "target"
    assert paths(entry)["target.epochs"]["default"] == PROTOCOLS["synthfaces-32"].training.epochs


def test_info_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from mibench.defenses.none import *\n"
        "from mibench.methods import Defense\n"
        "from mibench.types import DefenseCard\n"
        "class Mine(Defense):\n"
        "    card = DefenseCard(title='Mine alone', authors='A', year=2026, venue='V',\n"
        "                       url='https://example.org', adaptive_attack='kedmi')\n"
    )
    assert explained(f"{file}:Mine")["card"]["title"] == "Mine alone"
    result = invoke("info", f"{file}:Other")
    assert result.exit_code == 2
    assert "Mine" in result.stderr


@pytest.mark.parametrize("name", ["improved-kedmi", "bido", "synthfaces-32", "fid", "resnet18"])
def test_info_as_text(name: str) -> None:
    result = invoke("info", name)
    assert result.exit_code == 0
    entry = explained(name)
    assert f"{entry['kind']} {name}" in result.stdout
    for each in entry.get("fields", []):
        assert each["path"] in result.stdout


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("improved-kedm", "improved-kedmi"),
        ("dp_sgd", "dp-sgd"),
        ("synthfaces32", "synthfaces-32"),
        ("knn-distance", "knn_distance"),
        ("vgg16bn", "vgg16_bn"),
        ("improved-gmi+lom", "improved-gmi"),
        ("zzzzzz", "mibench list attacks"),
    ],
)
def test_info_offers_close_names_of_all_kinds(name: str, close: str) -> None:
    result = invoke("info", name)
    assert result.exit_code == 2
    assert close in result.stderr
    assert result.stdout == ""


# --- store ------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two artifacts of 2 KiB, one of them unused for ten days."""
    root = tmp_path / "store"
    for stage, key in (("target", "a" * 64), ("prior", "b" * 64)):

        def compute(folder: Path) -> dict[str, Any]:
            (folder / "data.bin").write_bytes(bytes(2048))
            return {}

        Store(root).get_or_compute(stage, key, {}, compute)
    manifest = root / "prior" / ("b" * 64) / "manifest.json"
    old = manifest.stat().st_mtime - 10 * 86400
    os.utime(manifest, (old, old))
    return root


def test_store_ls(store: Path) -> None:
    result = invoke("store", "ls", "--store", str(store))
    assert result.exit_code == 0
    assert "aaaaaaaaaaaa" in result.stdout
    assert "10 days ago" in result.stdout
    assert "today" in result.stdout
    assert re.search(r"2 artifacts, \d\.\d KiB", result.stdout)
    entries = json.loads(invoke("store", "ls", "--json", "--store", str(store)).stdout)
    assert [entry["stage"] for entry in entries] == ["prior", "target"]
    assert all(entry["size"] > 2048 for entry in entries)


def test_store_gc(store: Path) -> None:
    def left() -> list[str]:
        return [each.stage for each in Store(store).ls()]

    args = ("store", "gc", "--store", str(store))
    assert "freed 0 B" in invoke(*args).stdout
    assert "would free 2." in invoke(*args, "--older-than", "5", "--dry-run").stdout
    assert left() == ["prior", "target"]
    assert "freed 0 B" in invoke(*args, "--older-than", "5", "--stage", "target").stdout
    assert re.search(r"freed 2\.\d KiB", invoke(*args, "--older-than", "5").stdout)
    assert left() == ["target"]


def test_store_gc_refuses_what_would_do_nothing(store: Path) -> None:
    args = ("store", "gc", "--store", str(store))
    result = invoke(*args, "--stage", "target")
    assert result.exit_code == 2
    assert "--older-than" in result.stderr
    result = invoke(*args, "--stage", "targets", "--older-than", "0")
    assert result.exit_code == 2
    assert "'target'" in result.stderr
    assert len(Store(store).ls()) == 2


def test_store_verify(store: Path) -> None:
    args = ("store", "verify", "--store", str(store))
    result = invoke(*args)
    assert (result.exit_code, "2 artifacts" in result.stdout) == (0, True)
    (store / "target" / ("a" * 64) / "data.bin").write_bytes(b"\1" + bytes(2047))
    result = invoke(*args)
    assert result.exit_code == 1
    assert "data.bin" in result.stdout
    assert "1 of 2" in result.stderr
    result = invoke(*args, "--json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["problems"]) == 1


@pytest.mark.parametrize("command", ["ls", "gc", "verify"])
def test_a_store_that_was_never_made(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "none"
    result = invoke("store", command, "--store", str(place))
    assert result.exit_code == 2
    assert str(place) in result.stderr
    monkeypatch.setenv("MIBENCH_STORE", str(place))
    assert invoke("store", command).exit_code == 0
    assert not place.exists()


# --- doctor -----------------------------------------------------------------------------------


def examined(*args: str) -> tuple[int, dict[str, Any]]:
    result = invoke("doctor", "--json", *args)
    checks = json.loads(result.stdout)
    return result.exit_code, {check["name"]: check for check in checks["checks"]}


def test_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mibench.assets, "load_asset", lambda asset: ({}, {}))
    monkeypatch.setenv("MIBENCH_INCEPTION", str(tmp_path / "absent.pth"))
    place = tmp_path / "new" / "store"
    code, checks = examined("--store", str(place))
    assert code == 0
    assert checks["mibench"]["found"] == __version__
    assert checks["torch"]["found"] == torch.__version__.split("+")[0]
    assert str(place) in checks["store"]["found"]
    assert "GiB" in checks["store"]["found"] or "TiB" in checks["store"]["found"]
    assert not place.exists()
    assert checks["inception weights"]["status"] == "absent"
    assert "https://" in checks["inception weights"]["remedy"]
    assert "4 pinned networks verified" in checks["protocol synthfaces-32"]["found"]
    assert {"device", "memory", "threads"} <= checks.keys()
    text = invoke("doctor", "--store", str(place)).stdout
    assert "absent.pth" in text
    assert "pinned networks verified" in text


def test_doctor_exits_1_when_something_essential_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(asset: object) -> None:
        raise ArtifactError("not the pinned one; reinstall mibench")

    monkeypatch.setattr(mibench.assets, "load_asset", load)
    code, checks = examined("--store", str(tmp_path))
    assert code == 1
    assert checks["protocol synthfaces-32"]["status"] == "broken"
    assert "reinstall" in checks["protocol synthfaces-32"]["remedy"]
    assert checks["protocol synthfaces-64"]["status"] == "ok"


def test_doctor_names_a_package_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mibench.assets, "load_asset", lambda asset: ({}, {}))
    monkeypatch.setitem(sys.modules, "tabulate", None)
    code, checks = examined("--store", str(tmp_path))
    assert code == 1
    assert checks["tabulate"]["status"] == "broken"
    assert "pip install" in checks["tabulate"]["remedy"]


def test_doctor_refuses_a_store_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mibench.assets, "load_asset", lambda asset: ({}, {}))
    (tmp_path / "file").write_text("")
    code, checks = examined("--store", str(tmp_path / "file" / "store"))
    assert (code, checks["store"]["status"]) == (1, "broken")


def test_doctor_looks_at_every_dependency() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    everywhere = re.findall(r'^ *"([A-Za-z0-9-]+)[^;"]*"', block[1], re.MULTILINE)
    assert set(PACKAGES) == set(everywhere)


# --- the command as a process -----------------------------------------------------------------


def process(*args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *args]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_version_as_a_process() -> None:
    result = process("-m", "mibench", "--version")
    assert (result.returncode, result.stdout) == (0, f"mibench {__version__}\n")
    assert result.stderr == ""


def test_list_as_a_process() -> None:
    result = process("-m", "mibench", "list", "attacks", "--json")
    assert result.returncode == 0, result.stderr
    assert "improved-kedmi" in [entry["name"] for entry in json.loads(result.stdout)]


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys; sys.argv = ['mibench', 'run', '--help']\n"
        "from mibench.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'timm', 'pydantic', 'rich', 'numpy'} & set(sys.modules)))"
    )
    result = process("-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
    assert "Usage: mibench run" in result.stdout


@pytest.mark.parametrize("command", [(), ("run",), ("list",), ("info",), ("store", "gc")])
def test_every_option_is_explained(command: tuple[str, ...]) -> None:
    long, short = invoke(*command, "--help"), invoke(*command, "-h")
    assert long.exit_code == short.exit_code == 0
    assert long.stdout == short.stdout
    current: Any = cli
    for name in command:
        current = current.commands[name]
    for option in current.params:
        if isinstance(option, click.Option):
            assert (option.help or "").endswith("."), option.name
