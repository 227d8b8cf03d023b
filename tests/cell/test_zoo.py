"""Trained targets by name, and runs that take stages from a hub."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mibench
from mibench import protocols
from mibench.cell import zoo
from mibench.cell.push import Shared, push, shared_by_cells, shared_by_name
from mibench.cell.request import Request
from mibench.cell.resolve import resolve
from mibench.cell.run import run_cell
from mibench.cell.zoo import TargetName, load_target, name_of, wanted
from mibench.data.rendered import SynthFacesData
from mibench.errors import ArtifactError, HubError, MibenchError, RequestError
from mibench.grid.grid import expand, make_grid
from mibench.grid.local import InProcess
from mibench.grid.plan import make_plan
from mibench.grid.run import records, run_grid
from mibench.grid.schedule import Listener
from mibench.models.classifiers import Classifier
from mibench.models.initialisation import Initialisation
from mibench.protocols import Protocol
from mibench.record import Record
from mibench.store import place as places
from mibench.store.artifact import MANIFEST, save_json, save_tensors
from mibench.store.hub import INDEX, Hub, Shipped, entry_of
from mibench.store.store import Store, stage_key
from tests.conftest import TINY
from tests.kit.cells import bench, graph
from tests.kit.hubs import Fault, WebServer, altered, failing, missing, serving

pytest.importorskip("aiohttp")
NAME = "tiny/test_resnet/none/0"
CELL: dict[str, Any] = {"protocol": "tiny", "attack": "gmi"}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Record]:
    """A store with a finished cell, a hub of all its stages, and its record."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocols.PROTOCOLS, "tiny", TINY)
        place = tmp_path_factory.mktemp("shared")
        record = mibench.run(**CELL, store=place / "store", out=place / "out", device="cpu")
        stages = shared_by_cells([Request(**CELL)], {*_kinds(Request(**CELL))})
        push(stages, [place / "out"], Store(place / "store"), Hub(str(place / "hub")))
        return place / "store", place / "hub", record


def _kinds(request: Request) -> list[str]:
    return [stage.kind for stage in graph(**request.model_dump()).stages.values()]


@pytest.fixture
def server(
    shared: tuple[Path, Path, Record], tiny: Protocol, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WebServer]:
    monkeypatch.setattr(places, "_PAUSE", 0.0)
    monkeypatch.delenv("MIBENCH_HUB", raising=False)
    with serving(shared[1]) as server:
        yield server


def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# Names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "defense", "settings"),
    [
        ("synthfaces-32/test_resnet/bido/0", "bido", {}),
        ("synthfaces-32/test_resnet/bido-scale=0/0", "bido", {"defense.scale": 0}),
        ("p/a/dp-sgd-noise_multiplier=0.2/1", "dp-sgd", {"defense.noise_multiplier": 0.2}),
        ("p/a/label-smoothing-alpha=-0.05/0", "label-smoothing", {"defense.alpha": -0.05}),
        ("p/a/none-target.epochs=7/2", "none", {"target.epochs": 7}),
        ("p/a/bido-measure=COCO/0", "bido", {"defense.measure": "COCO"}),
        (
            "p/a/bido-layers=[1,2]-scale=0.5-target.epochs=3/0",
            "bido",
            {"defense.layers": [1, 2], "defense.scale": 0.5, "target.epochs": 3},
        ),
    ],
)
def test_a_name_says_what_it_stands_for(text: str, defense: str, settings: dict[str, Any]) -> None:
    name = TargetName.parse(text)
    assert (name.defense, name.settings) == (defense, settings)
    assert str(name) == text
    assert name.request().overrides == settings


def test_one_target_has_one_name() -> None:
    name = TargetName.parse("p/a/bido-target.epochs=7.0-scale=2.0/0")
    assert str(name) == "p/a/bido-scale=2-target.epochs=7/0"


@pytest.mark.parametrize(
    "text",
    [
        *("", "bido", "p/a/d", "p/a/d/0/1", "p//d/0", "p/a/d/-1", "p/a/d/x", "p/a/d/01"),
        *("../a/d/", "p/a/x.py:Mine/0", "p.py:CARD/a/d/0", "p/a/d\n/0", "p/a/d-x=1-x=2/0"),
        *("p/a/=1/0", "p/a/d/99999999999999999999", "p/ä/d/0"),
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(RequestError):
        TargetName.parse(text).request()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("synthfaces-33/test_resnet/none/0", "did you mean 'synthfaces-32'"),
        ("tiny/test_resne/none/0", "did you mean 'test_resnet'"),
        ("tiny/test_resnet/bidoo/0", "did you mean 'bido'"),
        ("tiny/test_resnet/bido-scal=1/0", "defense.scale"),
        ("tiny/test_resnet/bido-scale=x/0", "defense.scale"),
    ],
)
def test_a_slip_in_a_name_is_named(text: str, said: str, tiny: Protocol) -> None:
    with pytest.raises(RequestError, match=said):
        load_target(text)


def test_cells_and_their_targets_names(tiny: Protocol, tmp_path: Path) -> None:
    cell = resolve(Request(**CELL, overrides={"attack.iterations": 4, "target.epochs": 2}))
    assert name_of(cell) == "tiny/test_resnet/none-target.epochs=2/0"
    assert name_of(resolve(Request(**CELL, budget=0.5))) is None
    moved = {"protocol.data.identities": 6}
    assert name_of(resolve(Request(**CELL, overrides=moved))) is None


def test_a_name_has_the_key_of_the_cells_that_need_it(tiny: Protocol) -> None:
    assert wanted(NAME).key == graph(**CELL).target.key
    other = graph(protocol="tiny", attack="lookup", defense="rounding", seed=3)
    assert wanted("tiny/test_resnet/rounding/3").key == other.target.key


# Loading -----------------------------------------------------------------------------------------


def test_a_target_from_an_empty_machine(
    shared: tuple[Path, Path, Record],
    server: WebServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("neither images nor training are needed")

    store = shared[0]
    theirs = bench(store).get(graph(**CELL).target).model
    with monkeypatch.context() as patch:
        patch.setattr(type(graph(**CELL).images.divided), "load", refuse)
        patch.setattr("mibench.cell.target.train", refuse)
        start = time.monotonic()
        model = load_target(NAME, url=server.url, store=tmp_path / "empty")
        assert time.monotonic() - start < 10
    assert not model.training
    with torch.no_grad():
        assert torch.equal(model(images()), theirs(images()))
    assert model(images()).shape == (3, 5)
    key = wanted(NAME).key
    mine, made = (root / "target" / str(key) for root in (tmp_path / "empty", store))
    assert {p.name: p.read_bytes() for p in mine.iterdir()} == {
        p.name: p.read_bytes() for p in made.iterdir()
    }
    asked = {path for path, _ in server.asked}
    assert asked == {INDEX, *(f"target/{key}/{p.name}" for p in made.iterdir())}
    server.asked.clear()
    load_target(NAME, url=server.url, store=tmp_path / "empty")  # from the store
    assert not server.asked


@pytest.mark.slow  # it imports torch
def test_a_process_of_its_own_loads_a_target(
    shared: tuple[Path, Path, Record], server: WebServer, tmp_path: Path
) -> None:
    code = (
        "import hashlib, mibench, torch; from mibench import protocols;"
        "from tests.conftest import TINY; protocols.PROTOCOLS['tiny'] = TINY;"
        f"model = mibench.load_target({NAME!r}); x = torch.full((2, 3, 32, 32), .5);"
        "print(hashlib.sha256(model(x).detach().numpy().tobytes()).hexdigest())"
    )
    said = {"MIBENCH_HUB": server.url, "MIBENCH_STORE": str(tmp_path / "empty"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**said, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs = bench(shared[0]).get(graph(**CELL).target).model
    with torch.no_grad():
        logits = theirs(torch.full((2, 3, 32, 32), 0.5))
    assert done.stdout.strip() == hashlib.sha256(logits.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("defense", ["mid", "rounding", "loft-rank=2"])
def test_a_target_answers_as_its_defense_deploys_it(
    tiny: Protocol, tiny_store: Path, tmp_path: Path, defense: str
) -> None:
    name = f"tiny/test_resnet/{defense}/0"
    found, work = wanted(name), bench(tiny_store)
    theirs = work.get(found.stage).model
    push(shared_by_name([name]), [], work.store, Hub(str(tmp_path / "hub")))
    model = load_target(name, url=str(tmp_path / "hub"), store=tmp_path / "empty")
    assert type(model.output) is type(theirs.output)
    assert type(model.head) is type(theirs.head)
    assert model.stochastic == theirs.stochastic
    with torch.no_grad():
        torch.manual_seed(0)
        expected = theirs(images())
        torch.manual_seed(0)
        assert torch.equal(model(images()), expected)


def test_neither_store_nor_hub_have_it(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "tiny/test_resnet/none-target.epochs=2/7"
    with pytest.raises(RequestError) as caught:
        load_target(other, store=tmp_path / "empty")
    said = str(caught.value)
    assert "is not in the store" in said
    assert "Name a hub that has it with url=, --from or MIBENCH_HUB" in said
    assert "mibench run --protocol tiny" in said
    assert "--seed 7 --target test_resnet --set target.epochs=2" in said
    with pytest.raises(RequestError, match=f"nor on the hub {server.url}. To train it"):
        load_target(other, store=tmp_path / "empty", url=server.url)
    monkeypatch.setenv("MIBENCH_HUB", server.url)
    with pytest.raises(RequestError, match=f"nor on the hub {server.url}. To train it"):
        load_target(other, store=tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_the_command_that_a_message_names_trains_the_target(tiny: Protocol) -> None:
    for name in (NAME, "tiny/test_resnet/bido-scale=2/1"):
        found = wanted(name)
        said = zoo._compute(found).partition("`")[2].partition("`")[0]
        options = said.split()[2:]
        given = dict(zip(options[::2], options[1::2], strict=True))
        sets = [given.pop("--set")] if "--set" in given else []
        overrides = {k: json.loads(v) for k, _, v in (each.partition("=") for each in sets)}
        fields: dict[str, Any] = {k.removeprefix("--"): v for k, v in given.items()}
        fields["seed"] = int(fields["seed"])
        assert graph(**fields, overrides=overrides).target.key == found.key


def test_other_code_made_it(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mibench.cell.stage.code_digest", lambda *_: "d" * 64)
    with pytest.raises(RequestError, match=r"has it as other code made it: mibench 0.*any_version"):
        load_target(NAME, url=server.url, store=tmp_path / "empty")
    model = load_target(NAME, url=server.url, store=tmp_path / "empty", any_version=True)
    assert model(images()).shape == (3, 5)


def test_a_target_of_the_boards_is_known_without_a_hub(
    shared: tuple[Path, Path, Record], tiny: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = str(wanted(NAME).key)
    monkeypatch.setattr(zoo, "shipped", lambda: (Shipped(name=NAME, key=key),))
    monkeypatch.setattr("mibench.cell.stage.code_digest", lambda *_: "d" * 64)
    with pytest.raises(RequestError, match="is not in the store"):
        load_target(NAME, store=shared[0])
    assert load_target(NAME, store=shared[0], any_version=True)(images()).shape == (3, 5)


def test_a_name_on_another_target_is_noticed(
    shared: tuple[Path, Path, Record], server: WebServer, tmp_path: Path
) -> None:
    place = server.root / INDEX
    before = place.read_text()
    other = "tiny/test_resnet/none-target.epochs=2/5"
    try:
        index = json.loads(before)
        for each in index["objects"]:
            if each["kind"] == "target":
                each["names"] = [other]
        place.write_text(json.dumps(index))
        with pytest.raises(RequestError, match=r"differs in training\.epochs, seed"):
            load_target(other, url=server.url, store=tmp_path / "empty", any_version=True)
    finally:
        place.write_text(before)


@pytest.mark.parametrize("fault", [altered, failing])
def test_a_spoilt_target_is_never_loaded(server: WebServer, tmp_path: Path, fault: Fault) -> None:
    server.faults["model.safetensors"] = fault
    with pytest.raises(HubError):
        load_target(NAME, url=server.url, store=tmp_path / "empty")
    server.faults.clear()
    assert load_target(NAME, url=server.url, store=tmp_path / "empty")


def test_a_hub_that_does_not_answer(tiny: Protocol, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"does not answer.*To train it"):
        load_target(NAME, url="http://127.0.0.1:9", store=tmp_path / "empty")


def hub_with(
    place: Path, name: str, classes: int = 10, diverged: str | None = None, **result: Any
) -> str:
    """A hub that says that it has a target of this name, of whatever data set."""
    found, hub, store = wanted(name), Hub(str(place / "hub")), Store(place / "theirs")
    cell, stage = found.cell, found.stage
    inputs, parents = {**stage.inputs}, ["e" * 64]
    if found.key is not None:
        parents = [each.key for each in stage.parents]
    if "initialisation" in inputs:
        inputs["initialisation"] = "whatever it started from"

    def compute(folder: Path) -> dict[str, Any]:
        model = Classifier(cell.architecture, classes, cell.protocol.resolution)
        save_tensors(folder / "model.safetensors", dict(model.state_dict()))
        save_json(folder / "result.json", {"diverged": diverged, "identities": classes, **result})
        return {}

    key = stage_key("target", inputs, stage.seed, parents, stage.code)
    artifact = store.get_or_compute("target", key, inputs, compute)
    hub.open_for_push()
    entry = entry_of(artifact, [name], stage.seed, parents, stage.code)
    hub.push(entry, artifact)
    hub.publish([entry])
    return hub.url


def test_a_target_is_loaded_without_its_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIBENCH_DATA", str(tmp_path / "no data"))
    name = "mnist-32-small/test_resnet/none/0"
    assert wanted(name).key is None
    with pytest.raises(RequestError, match="whose key cannot be told here"):
        load_target(name, store=tmp_path / "empty")
    url = hub_with(tmp_path, name)
    assert load_target(name, url=url, store=tmp_path / "empty")(images()).shape == (3, 10)
    monkeypatch.setattr("mibench.cell.stage.code_digest", lambda *_: "d" * 64)
    with pytest.raises(RequestError, match="other code"):
        load_target(name, url=url, store=tmp_path / "empty")


def test_a_target_is_loaded_without_the_weights_that_it_started_from(
    tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrained = TINY.model_copy(
        update={"initialisation": {"test_resnet": Initialisation(source="imagenet")}}
    )
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", pretrained)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = wanted(NAME)
    assert found.key is None
    assert "initialisation" in found.stage.inputs
    url = hub_with(tmp_path, NAME, classes=5)
    assert load_target(NAME, url=url, store=tmp_path / "empty")(images()).shape == (3, 5)


def test_a_diverged_target_is_none(tiny: Protocol, tmp_path: Path) -> None:
    url = hub_with(tmp_path, NAME, diverged="the loss is not finite")
    with pytest.raises(MibenchError, match="diverged: the loss is not finite"):
        load_target(NAME, url=url, store=tmp_path / "empty")


@pytest.mark.parametrize("identities", [-1, 10**12, "ten", None, 6, 2.5])
def test_weights_that_do_not_fit_are_refused(
    tiny: Protocol, tmp_path: Path, identities: Any
) -> None:
    url = hub_with(tmp_path, NAME, classes=5, identities=identities)
    with pytest.raises(ArtifactError, match="holds no test_resnet under none"):
        load_target(NAME, url=url, store=tmp_path / "empty")


# Runs --------------------------------------------------------------------------------------------


def numbers(record: Record) -> Any:
    return record.model_dump(mode="json", include={"metrics", "references", "artifacts"})


def test_a_run_takes_all_that_there_is(
    shared: tuple[Path, Path, Record],
    server: WebServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mibench.cell.target.train", lambda *_: pytest.fail("trained"))
    record = mibench.run(**CELL, store=tmp_path / "store", out=tmp_path / "out", hub=server.url)
    assert numbers(record) == numbers(shared[2])
    assert all(cost.cached for cost in record.costs)
    assert Store(tmp_path / "store").verify() == []


def test_what_is_spoilt_is_computed(
    shared: tuple[Path, Path, Record],
    server: WebServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.faults["metrics.json"] = altered
    server.faults["reconstructions.safetensors"] = missing
    record = mibench.run(**CELL, store=tmp_path / "store", out=tmp_path / "out", hub=server.url)
    assert numbers(record) == numbers(shared[2])
    computed = {cost.stage for cost in record.costs if not cost.cached}
    assert computed == {"reconstructions", "metrics"}
    lines = [each.message for each in caplog.records if "it is computed here" in each.message]
    assert len(lines) == 2
    assert all(server.url in line for line in lines)


def test_what_a_hub_lacks_is_computed(
    shared: tuple[Path, Path, Record], tiny: Protocol, tmp_path: Path
) -> None:
    hub = Hub(str(tmp_path / "hub"))
    push(shared_by_name([NAME]), [], Store(shared[0]), hub)
    record = mibench.run(**CELL, store=tmp_path / "store", out=tmp_path / "out", hub=hub.url)
    assert [cost.stage for cost in record.costs if cost.cached] == ["target"]
    assert numbers(record) == numbers(shared[2])


def test_a_hub_that_breaks_down_is_said_once(
    shared: tuple[Path, Path, Record],
    server: WebServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.faults["/"] = failing  # all but the index
    record = mibench.run(**CELL, store=tmp_path / "store", out=tmp_path / "out", hub=server.url)
    assert numbers(record) == numbers(shared[2])
    assert caplog.text.count("nothing more is taken") == 1
    assert caplog.text.count("computed here") == 1


def test_a_hub_that_was_asked_for_is_looked_for_first(
    tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in ("http://127.0.0.1:9", str(tmp_path), "ftp://x/y"):
        with pytest.raises(RequestError):
            mibench.run(**CELL, store=tmp_path / "store", out=tmp_path / "out", hub=url)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "store").exists()


def test_a_hub_of_the_environment_need_not_answer(
    shared: tuple[Path, Path, Record],
    tiny: Protocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MIBENCH_HUB", "http://127.0.0.1:9")
    record = mibench.run(**CELL, store=shared[0], out=tmp_path / "out")
    assert numbers(record) == numbers(shared[2])
    assert caplog.text.count("does not answer") == 1


def test_a_cell_that_is_verified_takes_nothing_from_a_hub(
    shared: tuple[Path, Path, Record],
    server: WebServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIBENCH_HUB", server.url)
    run_cell(Request(**CELL), shared[0], tmp_path / "out", "cpu")  # as verification calls it
    assert not server.asked
    mibench.run(**CELL, store=shared[0], out=tmp_path / "out")
    assert server.asked


@pytest.mark.slow
def test_a_grid_takes_stages_from_a_hub(
    shared: tuple[Path, Path, Record], server: WebServer, tmp_path: Path
) -> None:
    requests = expand([make_grid({"protocol": "tiny", "attacks": ["gmi", "lookup"]}, "test")])
    plan = make_plan(requests, tmp_path / "store", tmp_path / "out", Hub(server.url))
    assert {planned.stage.kind for planned in plan.to_compute} == {
        "reconstructions",
        "metrics",
        "picture",
    }
    result = run_grid(
        plan, tmp_path / "store", InProcess(), Listener(), device="cpu", hub=server.url
    )
    assert not result.failed
    done = records(plan.cells, result)
    assert numbers(done[0]) == numbers(shared[2])
    assert next(c for c in done[1].costs if c.stage == "target").cached


# Pushing -----------------------------------------------------------------------------------------


def test_a_record_goes_along(shared: tuple[Path, Path, Record], tmp_path: Path) -> None:
    hub = Hub(str(shared[1]))
    (entry,) = [each for each in hub.entries.values() if each.kind == "record"]
    assert entry.names == ("tiny/gmi_none_test_resnet_seed0",)
    artifact = Store(tmp_path).fetch("record", entry.key, lambda folder: hub.fetch(entry, folder))
    assert Record.model_validate_json(artifact.file("record.json").read_bytes()) == shared[2]


def test_what_is_no_record_is_not_pushed(shared: tuple[Path, Path, Record], tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(MibenchError):
        push([], [tmp_path], Store(shared[0]), Hub(str(tmp_path / "hub")))
    assert not (tmp_path / "hub").exists()


def test_the_store_lacks_some(
    shared: tuple[Path, Path, Record], tiny: Protocol, tmp_path: Path
) -> None:
    hub, other = Hub(str(tmp_path / "hub")), "tiny/test_resnet/bido/9"
    done = push(shared_by_name([NAME, other]), [], Store(shared[0]), hub)
    assert done.absent == (other,)
    assert [entry.names for entry in done.entries] == [(NAME,)]


def test_pictures_of_people_are_not_shared(
    tiny: Protocol, monkeypatch: pytest.MonkeyPatch, shared: tuple[Path, Path, Record]
) -> None:
    divide = SynthFacesData.divide

    def of_people(self: SynthFacesData, **given: Any) -> Any:
        divided = divide(self, **given)
        object.__setattr__(divided, "of_people", True)
        return divided

    monkeypatch.setattr(SynthFacesData, "divide", of_people)
    for kind in ("data", "reconstructions", "picture", "labelled-images", "enrolment"):
        with pytest.raises(RequestError, match="shows people"):
            shared_by_cells([Request(**CELL)], {"target", kind})
    found: list[Shared] = shared_by_cells([Request(**CELL)], {"target", "metrics"})
    assert [each.stage.kind for each in found] == ["target", "metrics"]


def test_every_stage_can_be_shared_or_is_left_out_on_purpose() -> None:
    from mibench.cell.push import STAGES
    from mibench.cell.stage import Stage

    pending, kinds = [*Stage.__subclasses__()], set()
    while pending:
        each = pending.pop()
        pending += each.__subclasses__()
        if each.__module__.startswith("mibench.") and each.stored and hasattr(each, "kind"):
            kinds.add(each.kind)
    asked = {"given"}  # what an audited network made of private images: no name stands for it
    assert kinds - asked == set(STAGES)
    assert asked < kinds


def test_stages_hold_data_alone(shared: tuple[Path, Path, Record]) -> None:
    suffixes = {path.suffix for path in shared[1].rglob("*/*/*") if path.name != MANIFEST}
    assert suffixes <= {".safetensors", ".json", ".png"}
