"""A grid on a real Ray of two nodes on this machine, one of which is killed on the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mibench.grid.grid import expand, make_grid
from mibench.grid.local import Workers
from mibench.grid.plan import make_plan
from mibench.grid.run import records, run_grid
from mibench.grid.schedule import Listener
from mibench.grid.work import JobOutcome
from mibench.store.store import Store
from tests.kit.tiny_folder import SETTINGS, make_tiny_folder

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
pytest.importorskip("ray", reason="needs Ray: pip install 'mibench[ray]'")

from ray.cluster_utils import Cluster

from mibench.grid.ray_cluster import RayCluster, Resources, parse_resources


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes of one CPU each; only the second can be killed."""
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    yield nodes
    nodes.shutdown()


class Killer(Listener):
    """Kills a node as soon as a few stages are done and another one runs."""

    def __init__(self, cluster: Cluster, node: Any, store: Path) -> None:
        self.cluster, self.node, self.store = cluster, node, store
        self.done = 0
        self.there: dict[Path, int] = {}  # finished artifacts when the node died

    def ended(self, node: Any, outcome: JobOutcome) -> None:
        self.done += 1
        if self.done == 4:
            self.cluster.remove_node(self.node, allow_graceful=False)
            found = self.store.glob("*/*/manifest.json")
            self.there = {path: path.stat().st_ino for path in found}


def test_a_lost_node_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    faces = make_tiny_folder(tmp_path / "faces")
    grid = {"protocol": "folder", "root": str(faces), "set": SETTINGS}
    cells = expand([make_grid({**grid, "attacks": ["gmi", "gmi+ma"], "seeds": "0-1"}, "test")])

    local = tmp_path / "local"
    plan = make_plan(cells, Store(local), local / "out")
    expected = records(plan.cells, run_grid(plan, local, Workers(["cpu"], 1), Listener(), "cpu"))

    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    store = tmp_path / "ray"
    killer = Killer(cluster, second, store)
    plan = make_plan(cells, Store(store), store / "out")
    executor = RayCluster(cluster.address, {"": Resources(cpus=1)})
    assert executor.capacity >= 2
    result = run_grid(plan, store, executor, killer)
    assert killer.there, "no node was killed"
    assert not result.failed, result.failed
    found = records(plan.cells, result)
    assert [each.results() for each in found.values()] == [
        each.results() for each in expected.values()
    ]
    # Nothing that was finished was computed again.
    assert {path: path.stat().st_ino for path in killer.there} == killer.there
    assert len(list(store.glob("*/*/manifest.json"))) == len(list(local.glob("*/*/manifest.json")))


def test_a_failing_stage_is_an_outcome_on_ray_too(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "from mibench.defenses.none import NoDefense\n\n\nclass Broken(NoDefense):\n"
        "    def loss(self, *arguments):\n        raise RuntimeError('the loss is lost')\n"
    )
    faces = make_tiny_folder(tmp_path / "faces")
    defenses = [f"{tmp_path / 'broken.py'}:Broken"]
    grid = {"protocol": "folder", "root": str(faces), "set": SETTINGS, "defenses": defenses}
    store = tmp_path / "store"
    plan = make_plan(expand([make_grid({**grid, "attacks": ["gmi"]}, "test")]), Store(store))
    executor = RayCluster(cluster.address, {"": Resources()})
    result = run_grid(plan, store, executor, Listener())
    assert result.failed[0][0] == "target"
    assert "RuntimeError: the loss is lost" in result.failed[0][1]


def test_resources() -> None:
    found = parse_resources(("2", "target=4"), ("target=1", "reconstructions=0.5"), 0)
    assert found == {
        "": Resources(2, 0),
        "target": Resources(4, 1),
        "reconstructions": Resources(2, 0.5),
    }
