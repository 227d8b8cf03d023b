"""``mibench zoo``, and ``--from`` of `run` and `grid`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mibench import protocols
from mibench.protocols import Protocol
from mibench.store import hub as hubs
from mibench.store import place as places
from mibench.store.hub import Hub, Shipped
from mibench.store.store import Store
from tests.conftest import TINY
from tests.kit.command_line import ROOT, invoke
from tests.kit.hubs import WebServer, altered, artifact_of, failing, pushed, serving

pytest.importorskip("aiohttp")
NAME = "tiny/test_resnet/none/0"
RUN = ("run", "--protocol", "tiny", "--device", "cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store and the run folder of a cell."""
    place = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocols.PROTOCOLS, "tiny", TINY)
        done = invoke(
            *(*RUN, "--attack", "gmi", "--quiet"),
            *("--store", str(place / "store"), "--out", str(place / "out")),
        )
        assert done.exit_code == 0, done.output
    return place


@pytest.fixture
def boards(tiny: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that ships the names of two targets."""
    found = tuple(Shipped(name=f"tiny/test_resnet/none/{n}", key=f"{n}" * 64) for n in range(2))
    monkeypatch.setattr(hubs, "shipped", lambda: found)
    monkeypatch.delenv("MIBENCH_HUB", raising=False)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A hub of three small artifacts."""
    monkeypatch.setattr(places, "_PAUSE", 0.0)
    theirs = Store(tmp_path / "theirs")
    pushed(Hub(str(tmp_path / "hub")), *(artifact_of(theirs, n, floats=9) for n in range(3)))
    with serving(tmp_path / "hub") as server:
        yield server


def test_a_maintainers_push_is_one_command(run: Path, boards: None, tmp_path: Path) -> None:
    hub, store = str(tmp_path / "hub"), str(run / "store")
    command = ("zoo", "push", hub, "--protocol", "tiny", "--store", store)
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    assert f"target {NAME}  " in done.stdout
    assert f"on {hub}" in done.stdout
    assert "1 are not in the store" in done.stdout
    assert "tiny/test_resnet/none/1" in done.stdout
    (entry,) = json.loads(invoke("zoo", "list", hub, "--json", "--store", store).stdout)
    assert entry["names"] == [NAME]
    assert entry["here"]
    assert invoke(*command).exit_code == 0

    mine = str(tmp_path / "mine")
    pulled = invoke("zoo", "pull", hub, NAME, "--store", mine)
    assert pulled.exit_code == 0, pulled.output
    assert pulled.stdout.startswith(f"target {NAME}: {mine}")
    assert [each.key for each in Store(mine).ls()] == [entry["key"]]
    absent = invoke("zoo", "pull", hub, "tiny/test_resnet/none/1", "--store", mine)
    assert absent.exit_code == 2
    assert "nor on the hub" in absent.stderr


def test_all_stages_of_a_grid_and_a_record(
    run: Path, tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, hub, store = tmp_path / "grid.toml", str(tmp_path / "hub"), str(run / "store")
    grid.write_text('protocol = "tiny"\nattacks = ["gmi"]\n')
    done = invoke("zoo", "push", hub, str(grid), "--store", store)
    assert done.exit_code == 0, done.output
    kinds = [kind for kind, _ in Hub(hub).entries]
    assert sorted(kinds) == ["evaluator", "evaluator", "general-prior", "target"]
    names = {name for each in Hub(hub).entries.values() for name in each.names}
    assert names == {NAME, "tiny/evaluator", "tiny/evaluator-second", "tiny/general-prior"}
    out = str(run / "out")
    done = invoke(
        "zoo", "push", hub, str(grid), "--stage", "all", "--record", out, "--store", store
    )
    assert done.exit_code == 0, done.output
    assert "record tiny/gmi_none_test_resnet_seed0" in done.stdout

    done = invoke(
        *(*RUN, "--attack", "gmi"),
        *("--store", str(tmp_path / "mine"), "--out", str(tmp_path / "out"), "--from", hub),
    )
    assert done.exit_code == 0, done.output
    assert "metrics: fetched" in done.stderr
    assert "computing" not in done.stderr
    assert "target" not in done.stderr  # which nothing reads that is there
    record, theirs = (
        json.loads((each / "record.json").read_text()) for each in (tmp_path / "out", run / "out")
    )
    assert record["metrics"] == theirs["metrics"]
    assert f"--from {hub}" in record["command"]

    monkeypatch.chdir(tmp_path)
    done = invoke("grid", str(grid), "--store", str(tmp_path / "grids"), "--from", hub)
    assert done.exit_code == 0, done.output
    assert "1 of 1 cells done; 0 stages computed" in done.stdout

    done = invoke("zoo", "pull", hub, "tiny/gmi_none_test_resnet_seed0", "--json", "--store", "m")
    (pulled,) = json.loads(done.stdout)
    held = Path(pulled["path"]) / "record.json"
    assert held.read_bytes() == (run / "out" / "record.json").read_bytes()


def test_the_standard_set_takes_stages_from_a_hub(tiny: Protocol, tmp_path: Path) -> None:
    done = invoke(
        *(*RUN, "--attack", "standard", "--access", "white-box", "--from", "nowhere"),
        *("--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")),
    )
    assert done.exit_code == 2
    assert "has no index.json; without --from everything is computed here" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "grid"])
def test_a_hub_that_was_asked_for_is_looked_for_at_once(
    command: str, tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(command, "--protocol", "tiny", "--from", "http://127.0.0.1:9", "--store", "s")
    assert done.exit_code == 2
    assert "http://127.0.0.1:9 does not answer" in done.stderr
    assert not list(tmp_path.iterdir())


def test_everything_is_pulled_but_what_is_spoilt(server: WebServer, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    spoilt = next(iter(Hub(server.url).entries))[1]
    server.faults[f"{spoilt}/model"] = altered
    done = invoke("zoo", "pull", server.url, "--all", "--store", str(mine))
    assert done.exit_code == 1
    assert f"error: {server.url}: target/{spoilt}/model.safetensors has another" in done.stderr
    assert "1 of 3 could not be taken" in done.stderr
    assert len(Store(mine).ls()) == 2
    assert Store(mine).verify() == []
    server.faults.clear()
    for options in (["--protocol", "p"], ["--stage", "target"]):
        assert invoke("zoo", "pull", server.url, *options, "--store", str(mine)).exit_code == 0
    assert len(Store(mine).ls()) == 3


def test_a_hub_that_is_gone_is_not_asked_again(server: WebServer, tmp_path: Path) -> None:
    server.faults["/"] = failing
    done = invoke("zoo", "pull", server.url, "--all", "--store", str(tmp_path / "mine"))
    assert done.exit_code == 1
    assert done.stderr.count("does not answer") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("pull URL", "give either NAMEs, or --all"),
        ("pull URL x --all", "give either NAMEs, or --all"),
        ("pull URL x/y", "'x/y' is no name of a target"),
        ("pull URL --stage targets", "did you mean 'target'"),
        ("pull URL --protocol tiny", "has nothing of tiny"),
        ("pull ftp://x/y --all", "mibench takes file://, http://"),
        ("push URL", "say what"),
        ("push URL --name x", "a web server only gives files"),
        ("push hub --name x", "'x' is no name of a target"),
        ("push hub --protocol tinny", "no target of its is on a board; there are those of tiny"),
        ("push hub --protocol tiny --stage all", "--stage is for the cells of a FILE.toml"),
        ("push hub absent.toml", "there is no such file"),
        ("push hub grid.toml --stage targets", "did you mean 'target'"),
        ("push hub --record absent", "there is no such file"),
    ],
)
def test_wrong_requests(
    server: WebServer,
    boards: None,
    tmp_path: Path,
    options: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text('protocol = "tiny"\n')
    (tmp_path / "hub").rename(tmp_path / "moved")
    server.root = tmp_path / "moved"
    done = invoke("zoo", *options.replace("URL", server.url).split(), "--store", "mine")
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / "hub").exists()


def test_what_is_listed(server: WebServer, boards: None, tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "theirs"))
    done = invoke("zoo", "list", server.url, *store)
    assert done.exit_code == 0
    assert "p/a/d/2" in done.stdout
    assert (
        f"3 artifacts, {sum(e.size for e in Hub(server.url).entries.values()) / 1024:.1f} KiB"
        in (done.stdout)
    )
    assert done.stdout.count(" yes ") == 3
    done = invoke("zoo", "list", *store)
    assert "2 targets of the boards; no hub is named" in done.stdout
    assert "tiny/test_resnet/none/1" in done.stdout
    assert json.loads(invoke("zoo", "list", "--json", "--protocol", "x", *store).stdout) == []
    done = invoke("zoo", "list", "http://127.0.0.1:9", *store)
    assert done.exit_code == 1
    assert "does not answer" in done.stderr


def test_the_command_as_a_process(server: WebServer, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MIBENCH_STORE": str(tmp_path / "mine")}
    done = subprocess.run(
        [sys.executable, "-m", "mibench", "zoo", "pull", server.url, "--all"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("target p/a/d/") == 3
    assert len(Store(tmp_path / "mine").ls()) == 3


def test_the_shipped_index_is_what_the_records_say() -> None:
    """Else run `python tools/make_zoo.py`."""
    from tools import make_zoo

    pins = {each.key: each.manifest for each in hubs.shipped() if each.manifest}
    assert list(hubs.shipped()) == make_zoo.targets(pins)
    assert any(each.name == "synthfaces-32/test_resnet/bido/0" for each in hubs.shipped())
