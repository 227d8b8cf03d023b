"""What a cell is: a method's one name, keys and folders that hold all it depends on, its maker."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import mibench
from mibench.cell.graph import Graph
from mibench.cell.record import claim, run_folder
from mibench.cell.request import Request
from mibench.cell.resolve import Cell, resolve
from mibench.cli import cli
from mibench.data.divided import Counts
from mibench.data.identity_division import IdentityDivision
from mibench.data.prepared_division import PreparedImages
from mibench.data.sources.mnist import MNIST
from mibench.errors import MibenchError, RequestError
from mibench.files import sha256
from mibench.grid.grid import make_grid
from mibench.grid.plan import make_plan
from mibench.grid.work import job_of, work
from mibench.inversion.attack import ATTACKS
from mibench.protocols import Protocol
from mibench.store import environment
from mibench.store.store import Store
from mibench.training.defense import DEFENSES
from tests.kit.cells import bench, graph_of
from tests.kit.tiny_folder import SETTINGS, make_tiny_folder

DEFENSE = """
import torch
from mibench.defenses.none import NoDefense
from mibench.training.defense import register_defense


class Mine(NoDefense):
    rate = 0.5


@register_defense("random-erasing")
class RandomErasing(NoDefense):
    def loss(self, model, images, labels, state):
        return super().loss(model, images * (torch.rand(()) > 0.1), labels, state)
"""
ATTACK = """
from mibench.attacks.gmi import Gmi
from mibench.inversion.attack import register_attack


class Mine(Gmi):
    pass


@register_attack("my-attack")
class Named(Gmi):
    pass
"""


@pytest.fixture(autouse=True)
def _registries_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (ATTACKS, DEFENSES):
        loaded = {name: registry.get(name) for name in registry.names()}
        monkeypatch.setattr(registry, "_classes", loaded)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a defense and an attack in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(DEFENSE)
    (tmp_path / "attack.py").write_text(ATTACK)
    return tmp_path


def cell(**fields: Any) -> Cell:
    return resolve(Request(protocol="tiny", **{"attack": "gmi", **fields}))


# One name, however a file is spelled


def spellings(place: Path) -> list[str]:
    (place / "below").mkdir()
    (place / "link.py").symlink_to("mine.py")
    return ["mine.py", "./mine.py", "below/../mine.py", str(place / "mine.py"), "link.py"]


@pytest.mark.parametrize(
    ("cls", "name"), [("Mine", "Mine"), ("RandomErasing", "random-erasing")], ids=["own", "named"]
)
def test_a_files_spelling_is_in_no_key_name_or_folder(
    tiny: Protocol, place: Path, cls: str, name: str
) -> None:
    cells = [cell(defense=f"{each}:{cls}") for each in spellings(place)]
    assert {each.defense_name for each in cells} == {name}
    assert len({each.defense_source for each in cells}) == 1
    assert len({graph_of(each).metrics.key for each in cells}) == 1
    assert len({folder_of(each) for each in cells}) == 1


def test_a_files_spelling_is_in_no_number(tiny: Protocol, place: Path) -> None:
    trained = set()
    for index, spelled in enumerate(("mine.py", str(place / "mine.py"))):
        made = cell(defense=f"{spelled}:RandomErasing")
        artifact = bench(place / f"store{index}").artifact(graph_of(made).target)
        trained.add(sha256(artifact.file("model.safetensors")))
    assert len(trained) == 1


def test_another_code_is_another_method(tiny: Protocol, place: Path) -> None:
    (place / "other").mkdir()
    (place / "other" / "mine.py").write_text(
        DEFENSE.replace("0.5", "0.6").replace("random", "rarely")
    )
    first, second = cell(defense="mine.py:Mine"), cell(defense="other/mine.py:Mine")
    assert first.defense_name == second.defense_name
    assert first.defense_source != second.defense_source
    assert graph_of(first).target.key != graph_of(second).target.key
    assert folder_of(first) != folder_of(second)


def test_mibenchs_own_methods_keep_their_names(tiny: Protocol) -> None:
    made = cell(defense="bido", attack="improved-kedmi")
    assert (made.defense_name, made.attack.full) == ("bido", "improved-kedmi")
    assert made.defense_source is made.attack_source is None
    assert folder_of(made).name == "improved-kedmi_bido_test_resnet_seed0"


@pytest.mark.parametrize("before", ["", "improved-"])
@pytest.mark.parametrize("cls", ["Mine", "Named"])
def test_an_attack_of_a_file_has_one_name(
    tiny: Protocol, place: Path, before: str, cls: str
) -> None:
    (place / "a+b").mkdir()
    (place / "a+b" / "attack.py").symlink_to(place / "attack.py")
    name = {"Mine": "Mine", "Named": "my-attack"}[cls]
    after = "" if before else "+lom"
    made = {
        (each.attack.full, graph_of(each).metrics.key, folder_of(each))
        for path in ("attack.py", "./attack.py", str(place / "attack.py"), "a+b/attack.py")
        for each in [cell(attack=f"{before}{path}:{cls}{after}")]
    }
    ((full, _, folder),) = made
    assert full == f"{before}{name}{after}"
    assert folder.parts[:2] == ("mibench-runs", "tiny")
    assert folder.name.startswith(f"{full}@")


def test_a_record_says_whose_method_it_was(tiny: Protocol, place: Path, tiny_store: Path) -> None:
    record = mibench.run(
        protocol="tiny", attack="gmi", defense="mine.py:RandomErasing", store=tiny_store
    )
    assert record.defense.name == "random-erasing"
    assert record.defense.source == cell(defense="mine.py:RandomErasing").defense_source
    assert record.attack.source is None
    (path,) = place.rglob("record.json")
    source = str(record.defense.source)[:8]
    assert path.parent.name == f"gmi_random-erasing@{source}_test_resnet_seed0"


# Keys


def test_an_attacks_own_prior_depends_on_its_own_settings(tiny: Protocol) -> None:
    def prior(attack: str, **overrides: Any) -> str:
        named = {path.replace("__", "."): value for path, value in overrides.items()}
        return graph_of(cell(attack=attack, overrides=named)).prior.key

    assert len({prior("kedmi"), prior("kedmi+lom"), prior("improved-kedmi")}) == 1
    assert prior("kedmi") == prior("kedmi", attack__iterations=7)
    assert prior("kedmi") != prior("kedmi", prior__steps=7)
    assert prior("kedmi") != prior("kedmi", prior__gan__steps=7)
    assert prior("gmi") == prior("vmi")
    other = cell(attack="gmi", prior="inversion-gan")
    assert graph_of(other).prior.key == prior("kedmi")


def test_inceptions_weights_are_in_the_keys_of_what_they_judge(
    tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "inception.pth"
    monkeypatch.setenv("MIBENCH_INCEPTION", str(path))
    absent = graph_of(cell()).stages
    path.write_bytes(b"others")
    others = graph_of(cell()).stages
    monkeypatch.setattr("mibench.metrics.find_inception", lambda: path)
    there = graph_of(cell()).stages
    assert {name: each.key for name, each in absent.items()} == {
        name: each.key for name, each in others.items()
    }
    changed = {name for name in there if there[name].key != absent[name].key}
    assert changed == {"references", "metrics", "picture"}


def test_whether_digits_may_be_mirrored_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    made = resolve(Request(protocol="mnist-32-small", attack="gmi"))
    options = made.protocol.data
    assert isinstance(options, IdentityDivision)
    counts = Counts(5, 9, 3, 3, 9, 1)
    split = PreparedImages("2" * 64, "1" * 64, True, counts, False, options, 32, None)
    before = Graph(made, split).target.key
    monkeypatch.setattr(MNIST, "card", MNIST.card.model_copy(update={"mirror": True}))
    assert Graph(made, split).target.key != before


# Run folders


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two image folders; the second lacks a picture of the first."""
    made = tuple(make_tiny_folder(tmp_path_factory.mktemp(name)) for name in ("one", "two"))
    (made[1] / "public-0" / "000.png").unlink()
    return made  # type: ignore[return-value]


def folder_of(made: Cell) -> Path:
    return run_folder(made, graph_of(made).images)


def folder_cell(root: Path, **overrides: Any) -> Cell:
    spec = Request(
        protocol="folder", root=str(root), attack="gmi", overrides={**SETTINGS, **overrides}
    )
    return resolve(spec)


def test_folders_hold_what_cells_depend_on(
    tiny: Protocol, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "copy").symlink_to(roots[0])
    one, two, again = (folder_of(folder_cell(root)) for root in (*roots, tmp_path / "copy"))
    assert one != two
    assert one == again
    assert one != folder_of(folder_cell(roots[0], **{"attack.iterations": 4}))
    names = {
        folder_of(cell(defense="mid", seed=seed, budget=budget, overrides=overrides)).name
        for seed in (0, 1)
        for budget in (1, 0.5)
        for overrides in (
            {},
            {"defense.beta": 0},
            {"defense.beta": 0.5},
            {"defense.beta": 0.5, "attack.iterations": 9},
            {"defense.beta": 0.5, "target.epochs": 9},
        )
    }
    assert len(names) == 20
    assert "gmi_mid-beta=0.5_test_resnet_seed1" in names
    assert "gmi_mid-beta=0_test_resnet_seed0-budget-0.5" in names


def test_a_folders_name_is_never_too_long(tiny: Protocol, place: Path) -> None:
    long = "M" * 250
    (place / "long.py").write_text(DEFENSE.replace("class Mine", f"class {long}"))
    names = [folder_of(cell(defense=f"long.py:{long}", seed=seed)).name for seed in (0, 1)]
    assert names[0] != names[1]
    assert all(len(name) < 255 for name in names)


def test_a_grid_over_two_folders_gives_each_cell_its_own(
    roots: tuple[Path, Path], tmp_path: Path
) -> None:
    specs = [folder_cell(root).request for root in roots]
    plan = make_plan(specs, Store(tmp_path / "store"), tmp_path / "out")
    assert len({each.folder for each in plan.cells}) == len({each.name for each in plan.cells}) == 2
    assert all(each.folder.parent == tmp_path / "out" / "folder" for each in plan.cells)


def test_another_cells_record_is_not_overwritten(
    tiny: Protocol, tiny_store: Path, place: Path
) -> None:
    request = {"protocol": "tiny", "attack": "gmi", "store": tiny_store, "out": place / "out"}
    first = mibench.run(**request)  # type: ignore[arg-type]
    assert mibench.run(**request).results() == first.results()  # type: ignore[arg-type]
    before = (place / "out" / "record.json").read_bytes()
    for changed, word in (
        ({"seed": 1}, "seed"),
        ({"attack": "gmi+lom"}, "attack"),
        ({"defense": "mine.py:Mine"}, "defense"),
        ({"overrides": {"attack.iterations": 4}}, "settings"),
        ({"budget": 0.5}, "settings"),
    ):
        with pytest.raises(RequestError, match=rf"record of another cell.*{word}.*--out"):
            mibench.run(**{**request, **changed})  # type: ignore[arg-type]
    edited = dataclasses.replace(cell(), defense_source="0" * 64)
    claim(place / "out", edited, graph_of(cell()).images)
    assert (place / "out" / "record.json").read_bytes() == before
    (place / "out" / "record.json").write_text("{}")
    with pytest.raises(RequestError, match="is no record"):
        mibench.run(**request)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"the run folder .*mine\.py"):
        mibench.run(**{**request, "out": place / "mine.py"})  # type: ignore[arg-type]


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_a_dry_run_writes_nothing(
    roots: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [f"--set={path}={json.dumps(value)}" for path, value in SETTINGS.items()]
    before = tree(tmp_path) | tree(roots[0])
    options = ["--protocol", "folder", "--root", str(roots[0]), "--attacks", "gmi", *settings]
    for more in ([], ["--out", "out"]):
        done = CliRunner().invoke(cli, ["grid", *options, "--dry-run", "--store", "store", *more])
        assert done.exit_code == 0, done.output
    assert tree(tmp_path) | tree(roots[0]) == before


def test_a_refused_run_writes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError):
        mibench.run(protocol="folder", root=tmp_path / "gone", store=tmp_path / "store")
    assert not (tmp_path / "mibench-runs").exists()


# Who made it


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The commit that this process claims to run from."""
    state = {"commit": "a" * 40, "dirty": True, "timm": "0.0.1"}
    usual = environment.package_version
    monkeypatch.setattr(environment, "git_state", lambda: (state["commit"], state["dirty"]))
    monkeypatch.setattr(environment, "package_version", lambda name: state.get(name) or usual(name))
    return state


def test_a_record_names_who_made_it_not_who_reads_it(
    tiny: Protocol, tmp_path: Path, commits: dict[str, Any]
) -> None:
    request = {"protocol": "tiny", "attack": "gmi", "store": tmp_path / "store"}
    made = mibench.run(**request, out=tmp_path / "a")  # type: ignore[arg-type]
    assert made.environment.dirty
    commits.update(commit="b" * 40, dirty=False, timm="0.0.2")
    read = mibench.run(**request, out=tmp_path / "b")  # type: ignore[arg-type]
    assert read.environment == made.environment
    assert all(cost.maker == made.environment for cost in read.costs)
    # Another attack on the same target: its own stages are clean, and the record says what is not.
    mixed = mibench.run(**{**request, "attack": "gmi+lom"}, out=tmp_path / "c")  # type: ignore[arg-type]
    makers = {cost.stage: cost.maker for cost in mixed.costs}
    assert makers["target"] == made.environment
    assert makers["reconstructions"] is not None
    assert makers["reconstructions"].dirty is False
    assert (mixed.environment.commit, mixed.environment.timm) == ("b" * 40, "0.0.2")
    assert mixed.environment.dirty
    clean = mibench.run(**{**request, "seed": 1, "store": tmp_path / "new"}, out=tmp_path / "d")  # type: ignore[arg-type]
    assert clean.environment.dirty is False
    manifest = Store(tmp_path / "store").manifest("target", made.artifacts["target"])
    assert manifest is not None
    assert manifest.maker == made.environment


def test_a_worker_with_other_code_says_so(
    tiny: Protocol, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"protocol": "tiny", "attacks": ["gmi"], "defenses": ["mine.py:Mine"]}
    (spec,) = make_grid(fields, "test").cells()
    store = Store(place / "store")
    planned = make_plan([spec], store, place / "out").cells[0]
    job = job_of(planned, planned.graph.images, store.root, "cpu")
    (place / "mine.py").write_text(DEFENSE.replace("0.5", "0.6"))
    outcome = work(job)
    assert outcome.status == "failed"
    assert "not those that the grid was planned with" in str(outcome.error)
    again = make_plan([spec], store, place / "out").cells[0]
    assert again.goal != planned.goal
    assert work(job_of(again, again.graph.images, store.root, "cpu")).status == "done"


# Methods that end the program


EXITS = """
import sys
from mibench.defenses.none import NoDefense


class Mine(NoDefense):
    def {hook}(self, *arguments):
        {how}
"""


@pytest.mark.parametrize("how", ["sys.exit()", "raise BaseException('no')", "raise GeneratorExit"])
def test_a_file_that_exits_is_refused(tiny: Protocol, place: Path, how: str) -> None:
    (place / "quit.py").write_text(f"import sys\n{how}")
    done = CliRunner().invoke(cli, ["run", "--defense", "quit.py:X", "--out", "out"])
    assert done.exit_code == 2
    assert "quit.py cannot be imported" in done.output
    assert "line 2" in done.output
    assert not (place / "out").exists()


@pytest.mark.parametrize("hook", ["loss", "build", "guarantee", "finish", "augment"])
def test_a_hook_that_exits_fails_and_is_named(tiny: Protocol, place: Path, hook: str) -> None:
    (place / "quit.py").write_text(EXITS.format(hook=hook, how="sys.exit()"))
    options = ["--protocol", "tiny", "--attack", "gmi", "--defense", "quit.py:Mine", "--quiet"]
    done = CliRunner().invoke(cli, ["run", *options, "--store", "store", "--out", "out"])
    assert done.exit_code == 1
    assert f"Mine: {hook}() raised SystemExit" in done.output
    assert not (place / "out" / "record.json").exists()


def test_an_attack_that_exits_fails_its_cell_of_a_grid(
    tiny: Protocol, place: Path, tiny_store: Path
) -> None:
    text = "import sys\nfrom mibench.attacks.gmi import Gmi\nclass Mine(Gmi):\n"
    (place / "quit.py").write_text(f"{text}    def invert(self, problem): sys.exit(0)\n")
    options = ["--protocol", "tiny", "--attacks", "quit.py:Mine,gmi", "--quiet"]
    done = CliRunner().invoke(cli, ["grid", *options, "--store", str(tiny_store), "--out", "out"])
    assert done.exit_code == 1
    assert "Mine: invert() raised SystemExit" in done.output
    assert len(list((place / "out").rglob("record.json"))) == 1


def test_a_config_that_exits_is_no_silent_end(tiny: Protocol, place: Path) -> None:
    (place / "quit.py").write_text(
        "import sys\nfrom mibench.training.defense import DefenseConfig\n"
        "from mibench.defenses.none import NoDefense\nclass Mine(NoDefense):\n"
        "    class Config(DefenseConfig):\n        def __init__(self, **fields): sys.exit(0)\n"
    )
    with pytest.raises(MibenchError, match=r"quit\.py: __init__\(\) raised SystemExit"):
        cell(defense="quit.py:Mine")


def test_ctrl_c_in_a_hook_passes(tiny: Protocol, place: Path) -> None:
    (place / "quit.py").write_text(EXITS.format(hook="loss", how="raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        mibench.run(protocol="tiny", attack="gmi", defense="quit.py:Mine", store=place / "store")
    assert not list((place / "store" / "tmp").iterdir())


def test_a_number_written_otherwise_is_the_same_cell(tiny: Protocol, tmp_path: Path) -> None:
    places = {"store": tmp_path / "store", "out": tmp_path / "out"}
    request: dict[str, Any] = {"protocol": "tiny", "attack": "gmi"}
    mibench.run(**request, **places, overrides={"target.epochs": 1})
    again = mibench.run(**request, **places, overrides={"target.epochs": 1.0})
    assert all(cost.cached for cost in again.costs)


def test_nothing_of_an_earlier_run_lies_beside_a_diverged_record(
    tiny: Protocol, tmp_path: Path
) -> None:
    place = tmp_path / "out"
    place.mkdir()
    for name in ("reconstructions.safetensors", "reconstructions.png", "gallery.safetensors"):
        (place / name).write_bytes(b"of an earlier release")
    overrides = {"target.learning_rate": 1e30, "target.warmup": 0.0, "target.epochs": 4}
    record = mibench.run(
        protocol="tiny", attack="gmi", store=tmp_path / "store", out=place, overrides=overrides
    )
    assert record.status == "diverged"
    assert sorted(each.name for each in place.iterdir()) == ["record.json", "report.html"]
    assert "training or attack diverged" in (place / "report.html").read_text("utf-8")


def test_evaluators_of_two_protocols_are_two(tiny: Protocol) -> None:
    cell = resolve(Request(protocol="tiny", attack="gmi"))
    renamed = dataclasses.replace(cell, protocol=cell.protocol.model_copy(update={"name": "other"}))
    assert graph_of(cell).second.key != graph_of(renamed).second.key
