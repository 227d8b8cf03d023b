"""The command line: what it prints where, and its exit codes; runs are tested elsewhere."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from mibench import __version__
from mibench.cell.images import Images
from mibench.cell.record import run_folder
from mibench.cell.request import Request
from mibench.cell.resolve import check, resolve
from mibench.cell.run import Finished, divide
from mibench.cli import COMMANDS, Lazy, cli, main
from mibench.errors import ArtifactError, MibenchError
from mibench.progress import SILENT, Progress
from mibench.record import Record
from mibench.store.hub import Hub
from tests.kit.command_line import ROOT, invoke, make_record

Runs = list[dict[str, Any]]
SPIN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    """Cells that are asked for soundly; each reports progress, prints, and has a record."""
    calls: Runs = []

    def run_cell(
        request: Request,
        store: Path | None,
        out: Path | None,
        device: str,
        progress: Progress,
        command: str,
        hub: Hub | None,
    ) -> Finished:
        assert hub is None
        cell = check(resolve(request))
        asked = {"store": store, "out": out, "device": device, "command": command}
        calls.append(request.model_dump() | asked)
        progress.stage("target", "computing")
        for _ in progress.steps(3, "training"):
            progress.report(loss=0.5)
        progress.stage("target", "done", 1.25)
        progress.stage("prior", "cached", 60.0)
        print("printed by a method")
        logging.getLogger("mibench.store.store").info("waiting for another process")
        return Finished(make_record(), out or run_folder(cell, Images(divide(cell, SILENT))))

    monkeypatch.setattr("mibench.cell.run.run_cell", run_cell)
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
        "prior": None,
        "seed": 7,
        "root": None,
        "preset": None,
        "overrides": {
            "attack.identity.regularizer": 0.5,
            "target.optimizer": "adam",
            "target.epochs": 2,
        },
        "data": None,
        "budget": 1,
        "audit": None,
        "store": Path("kept"),
        "out": Path("there"),
        "device": "cpu",
    }
    assert str(tmp_path / "there") in result.stdout
    assert str(tmp_path / "kept") in result.stdout


def test_run_defaults_are_those_of_a_request(runs: Runs) -> None:
    result = invoke("run")
    assert result.exit_code == 0
    passed = {name: runs[0][name] for name in Request.model_fields}
    assert passed == Request.model_validate({}).model_dump()
    assert runs[0]["device"] == "auto"
    assert runs[0]["out"] is None
    assert str(Path("mibench-runs/synthfaces-32/improved-kedmi_none_")) in result.stdout


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
    def run_cell(*asked: Any) -> Finished:
        raise error

    monkeypatch.setattr("mibench.cell.run.run_cell", run_cell)
    result = invoke("run")
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stdout == ""


def test_an_unexpected_error_is_not_swallowed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_cell(*asked: Any) -> Finished:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("mibench.cell.run.run_cell", run_cell)
    result = invoke("run")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


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


def test_the_package_is_imported_without_torch() -> None:
    result = process("-X", "importtime", "-c", "import mibench")
    assert result.returncode == 0, result.stderr
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "mibench" in imported
    assert not {"torch", "timm", "opacus", "pandas", "numpy", "pydantic"} & imported


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
        current = current.load() if isinstance(current, Lazy) else current
    for option in current.params:
        if isinstance(option, click.Option):
            assert (option.help or "").endswith("."), option.name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_line_of_help_is_its_own(name: str) -> None:
    """The group shows it without importing the command."""
    stands_in = cli.commands[name]
    assert isinstance(stands_in, Lazy)
    assert stands_in.load().get_short_help_str(100) == stands_in.get_short_help_str(100)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("run --set attack.clip=1 --set attack.clip=2", "attack.clip is given twice, 1 and 2"),
        ("grid --set attack.clip=1 --set attack.clip=1", "attack.clip is given twice, 1 and 1"),
        ("grid --defenses bido --sweep bido:defense.scale=1 --sweep bido:defense.scale=2", "twice"),
    ],
)
def test_a_setting_that_is_given_twice_is_refused(runs: Runs, args: str, said: str) -> None:
    result = invoke(*args.split())
    assert result.exit_code == 2
    assert said in result.stderr
    assert runs == []


@pytest.mark.parametrize(
    ("load", "own", "spins"),
    [
        ("1.90 1.80 1.70 3/512 4242", {}, "10000"),  # two others on two cores
        ("0.10 0.10 0.10 2/512 4242", {}, "10000"),
        ("1.90 1.80 1.70 1/512 4242", {}, None),  # they have just ended
        ("1.90 1.80 1.70 3/512 4242", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("1.90 1.80 1.70 3/512 4242", {"OMP_WAIT_POLICY": "ACTIVE"}, None),
        (None, {}, None),  # no Linux
    ],
)
def test_threads_do_not_spin_on_a_machine_that_others_use(
    load: str | None,
    own: dict[str, str],
    spins: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path / "loadavg"
    if load is not None:
        place.write_text(f"{load}\n")
    environment = {k: v for k, v in os.environ.items() if k not in (*SPIN, *own)} | own
    monkeypatch.setattr("os.environ", environment)
    monkeypatch.setattr("mibench.cli._LOAD", place)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("mibench.cli.cli", lambda **_: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    main()
    assert environment.get("GOMP_SPINCOUNT") == spins
