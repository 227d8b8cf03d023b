"""Grids: expansion, what cells share, failures that stay alone, resuming, worker processes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

import mibench
from mibench.cell.request import Request
from mibench.cell.stage import Bench, Stage
from mibench.cli import cli
from mibench.cli.show.grid import GridDisplay, show_plan, show_result
from mibench.errors import RequestError
from mibench.grid import work as work_module
from mibench.grid.grid import Grid, expand, make_grid, parse_seeds, read_grids
from mibench.grid.local import InProcess, Workers, local_devices
from mibench.grid.plan import GridCell, Plan, PlannedStage, make_plan
from mibench.grid.run import records, run_grid
from mibench.grid.schedule import Executor, Listener, Result
from mibench.grid.work import Job, JobOutcome
from mibench.protocols import Protocol
from mibench.record import Record
from mibench.store.store import Store
from tests.kit.board_records import file_all, make
from tests.kit.boards import judged
from tests.kit.command_line import KEY, make_record
from tests.kit.tiny_folder import SETTINGS, make_tiny_folder

ROOT = Path(__file__).resolve().parents[2]


def specs(**fields: Any) -> list[Request]:
    return expand([make_grid({"protocol": "tiny", **fields}, "test")])


# Expansion


def test_the_product_target_by_target() -> None:
    cells = specs(targets=["a", "b"], attacks=["gmi", "kedmi"], seeds="0-1")
    assert [(c.target, c.seed, c.attack) for c in cells] == [
        (target, seed, attack)
        for target in ("a", "b")
        for seed in (0, 1)
        for attack in ("gmi", "kedmi")
    ]


def test_a_control_that_is_the_undefended_target_is_not_run_again() -> None:
    cells = specs(defenses=["weight-decay", "bido"], attacks=["gmi"], controls=True)
    assert [(c.defense, c.overrides) for c in cells] == [
        ("weight-decay", {}),
        ("bido", {}),
        ("bido", {"defense.scale": 0}),
    ]


def test_controls_sweeps_settings_and_overrides() -> None:
    cells = specs(
        defenses=["none", "bido"],
        attacks=["gmi", "kedmi"],
        controls=True,
        sweeps={"bido": {"defense.scale": [1, 5]}, "none": {"target.epochs": [2]}},
        set={"attack.max_rows": 8},
        override=[{"attack": "gmi", "defense": "bido", "set": {"attack.iterations": 7}}],
    )
    points = [(c.defense, c.attack, c.overrides) for c in cells]
    rows = {"attack.max_rows": 8}
    brief = {**rows, "attack.iterations": 7}
    assert points == [
        ("none", "gmi", rows),
        ("none", "kedmi", rows),
        ("none", "gmi", {**rows, "target.epochs": 2}),
        ("none", "kedmi", {**rows, "target.epochs": 2}),
        ("bido", "gmi", brief),
        ("bido", "kedmi", rows),
        ("bido", "gmi", {**brief, "defense.scale": 0}),
        ("bido", "kedmi", {**rows, "defense.scale": 0}),
        ("bido", "gmi", {**brief, "defense.scale": 1}),
        ("bido", "kedmi", {**rows, "defense.scale": 1}),
        ("bido", "gmi", {**brief, "defense.scale": 5}),
        ("bido", "kedmi", {**rows, "defense.scale": 5}),
    ]


def test_priors_are_an_axis() -> None:
    cells = specs(
        attacks=["gmi", "kedmi"],
        priors=[None, "gan"],
        override=[{"prior": "gan", "set": {"prior.gan.steps": 4}}],
    )
    assert [(c.attack, c.prior, c.overrides) for c in cells] == [
        ("gmi", None, {}),
        ("gmi", "gan", {"prior.gan.steps": 4}),
        ("kedmi", None, {}),
        ("kedmi", "gan", {"prior.gan.steps": 4}),
    ]


def test_all_stands_for_the_defenses_own_strengths() -> None:
    cells = specs(defenses=["mid"], sweeps={"mid": {"defense.beta": "all"}})
    from mibench.defenses.mid import Mid

    assert [c.overrides.get("defense.beta") for c in cells] == [None, *Mid.strengths]


def test_a_file_of_several_grids(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(
        'protocol = "tiny"\nseeds = "0-1"\n[set]\n"attack.iterations" = 3\n'
        '[[grid]]\nattacks = ["gmi"]\n[[grid]]\nattacks = ["gmi", "kedmi"]\nseeds = [0]\n'
    )
    cells = expand(read_grids(path))
    assert [(c.attack, c.seed) for c in cells] == [("gmi", 0), ("gmi", 1), ("kedmi", 0)]
    assert all(c.overrides == {"attack.iterations": 3} for c in cells)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"atacks": ["gmi"]}, "atacks: did you mean 'attacks'"),
        ({"seeds": "0-"}, "seeds '0-': write numbers and ranges"),
        ({"seeds": "3-1"}, "seeds '3-1'"),
        ({"attacks": []}, "attacks: .*at least 1"),
        ({"sweeps": {"bido": {"defense.scale": [1]}}}, "no defense 'bido'; it has none"),
        ({"sweeps": {"none": {"target.epochs": "all"}}}, "it has none: list the values"),
        ({"sweeps": {"none": {"target.epochs": "many"}}}, "a list of values"),
        ({"defenses": ["bidoo"]}, "bido"),
    ],
)
def test_wrong_grids_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        specs(**fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a = ", "is no TOML"), ("grid = 3", r"write \[\[grid\]\]"), ("x = 1", "x: ")],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(RequestError, match=message):
        read_grids(path)
    with pytest.raises(RequestError, match="there is no such file"):
        read_grids(tmp_path / "absent.toml")


def test_seeds() -> None:
    assert parse_seeds("0-2,7") == [0, 1, 2, 7]
    assert Grid(seeds="1-2").seeds == (1, 2)


# Plans and runs in this process


def planned(store: Path, out: Path, **fields: Any) -> Plan:
    return make_plan(specs(**fields), Store(store), out)


class Log(Listener):
    def __init__(self) -> None:
        self.names: list[str] = []
        self.most = 0
        self.now = 0

    def started(self, node: Any) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def ended(self, node: Any, outcome: JobOutcome) -> None:
        self.now -= 1
        self.names.append(f"{node.stage.name} {outcome.status}")


def test_shared_stages_are_planned_once(tiny: Protocol, tmp_path: Path) -> None:
    attacks = ["gmi", "gmi+ma", "improved-kedmi"]
    plan = planned(tmp_path / "store", tmp_path, attacks=attacks)
    names = [node.stage.name for node in plan.planned.values()]
    assert names.count("target") == names.count("student test_byobnet") == 1
    assert names.count("general-prior") == names.count("evaluator") == names.count("data") == 1
    assert names.count("reconstructions") == names.count("metrics") == 3
    assert plan.separately == sum(len(cell.graph.stages) for cell in plan.cells) > len(names)
    assert plan.estimate() == (0, len(names))
    for node in plan.planned.values():  # parents come first
        earlier = list(plan.planned)[: list(plan.planned).index(node.stage.key)]
        assert node.parents <= set(earlier)


def test_cells_that_differ_in_their_prior_share_the_rest(tiny: Protocol, tmp_path: Path) -> None:
    plan = planned(tmp_path / "store", tmp_path, attacks=["gmi", "kedmi"], priors=[None, "gan"])
    names = [node.stage.name for node in plan.planned.values()]
    assert [cell.graph.cell.request.prior for cell in plan.cells] == [
        None,
        None,
        "gan",
    ]  # gmi's own is `gan`
    assert names.count("target") == names.count("general-prior") == names.count("prior") == 1
    assert names.count("reconstructions") == 3


def test_a_cell_that_equals_another_is_left_out(tiny: Protocol, tmp_path: Path) -> None:
    sweep = {"mid": {"defense.beta": [0.01]}}  # mid's default
    plan = planned(tmp_path / "store", tmp_path, defenses=["mid"], sweeps=sweep)
    assert [cell.graph.cell.request.overrides for cell in plan.cells] == [{}]


def test_wrong_cells_are_named_before_anything_runs(tiny: Protocol, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cell gmi on resnet1 under none, seed 0: .*resnet"):
        planned(tmp_path / "store", tmp_path, attacks=["gmi"], targets=["test_resnet", "resnet1"])
    assert not list((tmp_path / "store").glob("*/*/manifest.json"))


def test_white_box_attacks_on_defenses_of_answers_are_left_out(
    tiny: Protocol, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"defenses": ["none", "rounding"], "controls": True, "seeds": "0-1"}
    plan = planned(tmp_path / "store", tmp_path, attacks=["gmi", "kedmi", "lookup"], **fields)
    found = [(cell.graph.cell.attack.full, cell.graph.cell.defense_name) for cell in plan.cells]
    assert found.count(("lookup", "rounding")) == 4
    assert found.count(("gmi", "none")) == found.count(("kedmi", "none")) == 2
    assert ("gmi", "rounding") not in found
    assert plan.left_out == {("gmi", "rounding"): 4, ("kedmi", "rounding"): 4}
    console = Console(file=io.StringIO(), width=500)
    show_plan(plan, 1, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "8 more cells are not applicable (n/a) and left out" in text
    assert "gmi, kedmi on rounding" in text
    with pytest.raises(RequestError, match=r"no cell of the grid is left: .*'gmi' on .*n/a"):
        planned(tmp_path / "store", tmp_path, attacks=["gmi"], defenses=["rounding", "ssd"])
    # What is wrong is refused as before, whatever else is left out.
    with pytest.raises(RequestError, match="cell lookup on resnet1 under rounding"):
        planned(
            tmp_path / "store",
            tmp_path,
            attacks=["gmi", "lookup"],
            defenses=["rounding"],
            targets=["resnet1"],
        )


def test_a_grid_runs_resumes_and_equals_single_runs(
    tiny: Protocol, tiny_store: Path, tmp_path: Path
) -> None:
    fields = {"attacks": ["gmi", "gmi+ma"], "defenses": ["none", "mid"], "seeds": [3]}
    store = tmp_path / "store"
    plan = planned(store, tmp_path / "grid", **fields)
    result = run_grid(plan, store, InProcess(), Listener())
    assert not result.failed
    made = records(plan.cells, result)
    assert len(made) == 4
    for index, cell in enumerate(plan.cells):
        single = mibench.run(
            protocol="tiny",
            attack=cell.graph.cell.request.attack,
            defense=cell.graph.cell.request.defense,
            seed=3,
            store=tmp_path / "other",
            out=tmp_path / "single" / str(index),
        )
        assert made[index].results() == single.results()
        assert {cost.stage for cost in made[index].costs} == {cost.stage for cost in single.costs}
        assert made[index].command == single.command
    again = planned(store, tmp_path / "grid", **fields)
    assert not again.to_compute
    log = Log()
    run_grid(again, store, InProcess(), log)
    assert log.names == ["picture cached"] * 4
    more = planned(store, tmp_path / "grid", **{**fields, "attacks": ["gmi+lom"]})
    kinds = {node.stage.kind for node in more.to_compute}
    assert kinds == {"reconstructions", "metrics", "picture"}
    seconds, unknown = more.estimate()
    assert unknown == 0
    assert seconds > 0


BROKEN = """
from mibench.defenses.none import NoDefense


class Broken(NoDefense):
    def loss(self, model, images, labels, state):
        raise RuntimeError("the loss is lost")
"""


def test_a_failing_cell_fails_alone(tiny: Protocol, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    store, log = tmp_path / "store", Log()
    plan = planned(
        store,
        tmp_path / "out",
        defenses=[f"{tmp_path / 'broken.py'}:Broken", "none"],
        attacks=["gmi", "gmi+ma"],
    )
    result = run_grid(plan, store, InProcess(), log)
    assert {index: stage for index, (stage, _) in result.failed.items()} == {
        0: "target",
        1: "target",
    }
    assert list(records(plan.cells, result)) == [2, 3]
    assert log.names.count("target failed") == 1
    for cell in plan.cells[:2]:
        text = (cell.folder / "error.txt").read_text()
        assert "RuntimeError: the loss is lost" in text
        assert not (cell.folder / "record.json").exists()
    # Repaired, the cell is computed, and the trace of the failure is gone.
    lost, found = 'raise RuntimeError("the loss is lost")', "return super().loss(*arguments)"
    repaired = BROKEN.replace(lost, found).replace("model, images, labels, state", "*arguments")
    (tmp_path / "broken.py").write_text(repaired)
    plan = planned(
        store, tmp_path / "out", defenses=[f"{tmp_path / 'broken.py'}:Broken"], attacks=["gmi"]
    )
    assert not run_grid(plan, store, InProcess(), Listener()).failed
    assert not (plan.cells[0].folder / "error.txt").exists()


def test_a_diverged_cell_is_a_status(tiny: Protocol, tmp_path: Path) -> None:
    wild = {"target.learning_rate": 1e30, "target.warmup": 0.0, "target.epochs": 4}
    store = tmp_path / "store"
    plan = planned(store, tmp_path / "out", attacks=["improved-kedmi"], set=wild)
    result = run_grid(plan, store, InProcess(), Listener())
    assert not result.failed
    assert records(plan.cells, result)[0].status == "diverged"
    done = {plan.planned[key].stage.kind for key, o in result.outcomes.items() if o.computed}
    assert not done & {"prior", "student", "reconstructions", "references"}


class Jumble(Executor):
    """Takes many jobs and ends them in the order last come, first served."""

    capacity = 4

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def wait(self, seconds: float) -> list[JobOutcome]:
        return [work_module.work(self.jobs.pop())]

    def close(self) -> None:
        assert not self.jobs


def test_the_order_in_which_stages_end_does_not_matter(tiny: Protocol, tmp_path: Path) -> None:
    fields = {"attacks": ["improved-kedmi", "gmi+ma"], "seeds": [0]}
    results = []
    for name, executor in (("a", InProcess()), ("b", Jumble())):
        store, log = tmp_path / name, Log()
        plan = planned(store, tmp_path / name / "out", **fields)
        result = run_grid(plan, store, executor, log)
        assert log.most == (1 if name == "a" else 4)
        results.append([each.results() for each in records(plan.cells, result).values()])
    assert results[0] == results[1]


# Worker processes


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_folder(tmp_path_factory.mktemp("faces"))


def folder_specs(faces: Path, **fields: Any) -> list[Request]:
    grid = {"protocol": "folder", "root": str(faces), "set": SETTINGS, **fields}
    return expand([make_grid(grid, "test")])


def test_worker_processes_give_the_same_records(faces: Path, tmp_path: Path) -> None:
    cells = folder_specs(faces, attacks=["gmi", "gmi+ma"])
    results = []
    for name, executor in (("one", InProcess()), ("two", Workers(["cpu", "cpu"], 1))):
        store = tmp_path / name
        plan = make_plan(cells, Store(store), tmp_path / name / "out")
        result = run_grid(plan, store, executor, Listener(), "cpu")
        assert not result.failed
        results.append([each.results() for each in records(plan.cells, result).values()])
        workers = {outcome.worker for outcome in result.outcomes.values()}
        assert len(workers) == (1 if name == "one" else 2)
    assert results[0] == results[1]


DEADLY = """
import os
import signal
from pathlib import Path

import torch

from mibench.defenses.none import NoDefense


class Deadly(NoDefense):
    def loss(self, model, images, labels, state):
        once = Path(os.environ["DEADLY"])
        if not once.exists() or os.environ.get("ALWAYS"):
            once.touch()
            if os.environ.get("FULL"):
                raise torch.OutOfMemoryError("the GPU is full")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, images, labels, state)
"""


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("always", [False, True])
def test_a_worker_that_dies_or_whose_gpu_fails_is_replaced(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: bool, full: bool
) -> None:
    monkeypatch.setenv("DEADLY", str(tmp_path / "once"))
    if always:
        monkeypatch.setenv("ALWAYS", "1")
    if full:
        monkeypatch.setenv("FULL", "1")
    (tmp_path / "deadly.py").write_text(DEADLY)
    cells = folder_specs(faces, attacks=["gmi"], defenses=[f"{tmp_path / 'deadly.py'}:Deadly"])
    store = tmp_path / "store"
    plan = make_plan(cells, Store(store), tmp_path / "out")
    result = run_grid(plan, store, Workers(["cpu"], 1), Listener(), "cpu")
    if always:
        assert ("the GPU is full" if full else "died 2 times") in result.failed[0][1]
    else:
        assert not result.failed
        assert records(plan.cells, result)[0].status == "complete"


def test_a_killed_grid_resumes(faces: Path, tmp_path: Path) -> None:
    settings = [f"--set={path}={json.dumps(value)}" for path, value in SETTINGS.items()]
    command = [
        sys.executable, "-m", "mibench", "grid", "--protocol", "folder", "--root", str(faces),
        "--attacks", "gmi,gmi+lom", "--store", str(tmp_path / "store"),
        "--out", str(tmp_path / "out"), *settings,
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "store").glob("target/*/manifest.json")):
            assert process.poll() is None, "it ended before its target was there"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    before = set((tmp_path / "store").glob("*/*/manifest.json"))
    times = {path: path.stat().st_ino for path in before}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 cells done" in done.stdout
    assert {path: path.stat().st_ino for path in before} == times  # nothing was computed again
    assert len(list((tmp_path / "out").rglob("record.json"))) == 2


# Command line


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["grid", *arguments])


def test_dry_run_computes_nothing(tiny: Protocol, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = invoke(
        "--protocol", "tiny", "--attacks", "gmi,gmi+ma", "--dry-run", "--store", str(store)
    )
    assert done.exit_code == 0, done.output
    assert "2 cells, " in done.output
    assert "stages were never measured" in done.output
    assert not list(store.glob("*/*/manifest.json"))


def test_cells_with_filed_records_are_left_out(tiny: Protocol, tmp_path: Path) -> None:
    boards, asked = tmp_path / "boards", ["--protocol", "tiny", "--attacks", "gmi,gmi+ma"]
    asked += ["--seeds", "0-1", "--dry-run", "--store", str(tmp_path / "store")]
    asked += ["--filed", str(boards)]

    def refused(message: str) -> None:
        done = invoke(*asked)
        assert (done.exit_code, message in done.output) == (2, True), done.output

    def planned() -> str:
        done = invoke(*asked)
        assert done.exit_code == 0, done.output
        return done.output

    refused("--filed names a leaderboards folder")
    boards.mkdir()
    refused("has no folder 'records'")
    file_all(boards, make(attack="gmi", seed=1))
    assert "3 cells, " in (text := planned())
    assert "1 more cells are left out: their records are filed." in text

    (path,) = boards.glob("records/tiny/*.json")
    record = json.loads(path.read_text())
    record["protocol"]["version"] = 2  # of another version of the protocol
    path.write_text(json.dumps(record))
    assert "4 cells, " in planned()

    path.write_text("{")
    assert "4 cells, " in (text := planned())
    assert f"a cell whose record boards do not take is run: tiny/{path.name}: " in text

    file_all(boards, *(make(attack=a, seed=s) for a in ("gmi", "gmi+ma") for s in (0, 1)))
    refused("all 4 cells of the grid are filed: nothing is left to do")


def test_without_a_terminal_a_long_stage_is_told_of_every_half_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("mibench.cli.show.grid.time.monotonic", lambda: now[0])
    out = io.StringIO()
    display = GridDisplay(Plan((), {}, {}, 0), 1, out)
    stage = Named({}, None, [])
    stage.key = KEY
    display.running[KEY] = (PlannedStage(stage, 0, frozenset(), (0,)), 0.0)
    display.begin(600, "steps")
    for second in range(1, 91):
        now[0] = float(second)
        display.advance(1)
    lines = out.getvalue().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["31/600", "62/600"]


def test_the_command_runs_a_file_and_reports(tiny: Protocol, tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text('protocol = "tiny"\nattacks = ["gmi"]\ndefenses = ["none"]\n')
    common = (str(path), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"))
    done = invoke(*common, "--sweep", "none:target.epochs=1,2", "--json")
    assert done.exit_code == 0, done.output
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["target"]["passed"] for record in made] == [{}, {"target.epochs": 2}]
    assert "2 of 2 cells done" in done.stderr
    assert "validation accuracy" in done.stderr
    # Ten validation images show nothing, neither of this cell nor of that.
    warned = [line for line in done.stderr.splitlines() if ": The target" in line]
    assert warned[0].startswith("all cells: ")
    assert "hardly better than guessing" in warned[0]
    assert len(warned) == 1
    assert (tmp_path / "out" / "tiny" / "gmi_none_test_resnet_seed0" / "record.json").exists()


def test_a_failed_cell_is_exit_code_1(tiny: Protocol, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    done = invoke(
        "--protocol", "tiny", "--attacks", "gmi", "--defenses", f"{tmp_path / 'broken.py'}:Broken",
        "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert done.exit_code == 1
    assert "failed in target" in done.output
    assert "RuntimeError: the loss is lost" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep", "bido"], "write DEFENSE:FIELD=VALUES"),
        (["--num-gpus", "1"], "--num-gpus is for --executor ray"),
        (["--executor", "ray", "--threads", "2"], "--threads is for --executor local"),
        (["--executor", "ray", "--num-gpus", "target=x"], "write a number, or STAGE=NUMBER"),
        (
            ["--executor", "ray", "--address", "auto", "--num-cpus", "targte=2"],
            "the grid has no stage 'targte'; it has",
        ),
        (["--executor", "ray", "--num-gpus", "nan"], "a number from 0 to a million"),
        (["--device", "cuda:7"], "CUDA"),
    ],
)
def test_wrong_options(tiny: Protocol, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = invoke("--protocol", "tiny", "--store", str(tmp_path), *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.output


class Named(Stage[None]):
    kind = "student"

    def load(self, bench: Bench) -> None:
        """Nothing."""


def test_names_of_cells_are_no_markup() -> None:
    """A cell is named after a method's file, which may be called anything."""
    stage = Named({}, None, [], detail="[red]x[/]")
    stage.key = KEY
    graph = SimpleNamespace(stages={stage.name: stage}, picture=stage)
    cell = GridCell(graph, Path("[red]x[bold]"))  # type: ignore[arg-type]
    node = PlannedStage(stage, 0, frozenset(), (0, 1))
    plan = Plan((cell, cell), {KEY: node}, {}, 2)
    out = io.StringIO()
    console = Console(file=out, width=160)
    display = GridDisplay(plan, 1, out)
    display.started(node)
    console.print(display._status())
    failed = JobOutcome(KEY, "failed", 1.0, 0.0, "here", "ValueError: [/] no [bold]such")
    display.ended(node, failed)
    result = Result(failed={1: ("[bold]stage", failed.error or "")})
    show_plan(plan, 1, console)
    show_result(plan, result, {0: make_record()}, console)
    lines = out.getvalue().splitlines()
    assert sum("[red]x[bold]" in line for line in lines) >= 5
    assert sum("[red]x[/]" in line for line in lines) == 2
    assert sum("ValueError: [/] no [bold]such" in line for line in lines) == 2
    assert any("failed in [bold]stage" in line for line in lines)


def test_the_end_leads_with_what_a_protocol_measures() -> None:
    stage = Named({}, None, [])
    stage.key = KEY
    graph = SimpleNamespace(stages={stage.name: stage}, picture=stage)
    cell = GridCell(graph, Path("one"))  # type: ignore[arg-type]
    plan = Plan((cell,), {KEY: PlannedStage(stage, 0, frozenset(), (0,))}, {}, 1)

    def shown(record: Record) -> tuple[str, str]:
        out = io.StringIO()
        show_result(plan, Result(), {0: record}, Console(file=out, width=160))
        title, row = out.getvalue().splitlines()[:2]
        return title, row

    people, *_ = judged(10)
    bits = people.metrics["identity_bits"]
    title, row = shown(people)
    assert "identity bits [95 % interval]" in title
    assert f" {bits.value:.2f}" in row
    title, row = shown(make(10))
    assert "top-1 attack accuracy [95 % interval]" in title
    assert "50.0 %" in row


def test_devices_of_local_workers() -> None:
    assert local_devices("cpu", 3) == ["cpu"] * 3
    assert local_devices("cpu", None) == ["cpu"]
    assert local_devices("cuda:1", 2) == ["cuda:1"] * 2
