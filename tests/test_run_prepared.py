"""Cells on prepared data sets, from files in a real layout to a record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mibench
from mibench import protocols
from mibench.data.identity_split import IdentitySplit
from mibench.data.prepare import prepare
from mibench.errors import RequestError
from mibench.leaderboard.galleries import may_be_shown
from mibench.progress import SILENT
from mibench.resolve import resolve
from mibench.types import RunSpec
from tests.command_line import invoke

SPLIT = IdentitySplit(dataset="lfw", min_images=8, val_fraction=0.2, test_fraction=0.25)
NAMES = ("Ann", "Bob", "Cyd", "Dan", "Eva")


@pytest.fixture(autouse=True)
def card(tiny: protocols.Protocol, monkeypatch: pytest.MonkeyPatch) -> protocols.Protocol:
    """The protocol ``tiny``, on a prepared data set; every other step is as it was."""
    changed = tiny.model_copy(update={"data": SPLIT})
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", changed)
    monkeypatch.delenv("MIBENCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    return changed


def originals(root: Path, shade: int = 0) -> Path:
    """Photographs of eight each of three people and of two each of two others."""
    generator = np.random.default_rng(shade)
    for who, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for i in range(8 if who < 3 else 2):
            pixels = generator.integers(0, 60, (40, 40, 3), dtype=np.uint8) + 40 * who
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{name}_{i:04d}.jpg")
    return root


def make_ready(tmp_path: Path, name: str = "data", shade: int = 0) -> Path:
    data = tmp_path / name
    root = originals(tmp_path / f"{name}-originals", shade)
    prepare("lfw", root, data, 32, incomplete=True, workers=1)
    return data


def test_a_cell_end_to_end(tmp_path: Path) -> None:
    data = make_ready(tmp_path)
    request = {"protocol": "tiny", "attack": "improved-kedmi", "data": data}
    places = {"store": tmp_path / "store", "out": tmp_path / "out"}
    record = mibench.run(**request, **places)
    assert record.status == "complete"
    assert record.metrics["attack_accuracy_top1"].n == 3 * 4  # three people, four samples
    assert f"--data {data}" in record.command
    assert record.protocol.resolved["data"]["dataset"] == "lfw"
    assert not may_be_shown(record)
    # Nothing of the photographs is copied into the store: they are read where they lie.
    assert not (tmp_path / "store" / "data").exists()
    again = mibench.run(**request, **places)
    assert again.metrics == record.metrics
    assert all(cost.cached for cost in again.costs)


def test_other_contents_are_another_target(tmp_path: Path) -> None:
    from mibench.keys import Keys
    from mibench.pipeline import split_of

    def key(data: Path, **changes: object) -> str:
        cell = resolve(RunSpec(protocol="tiny", attack="gmi", data=str(data)))
        return Keys(cell, split_of(cell, tmp_path, SILENT)).target_key

    first, same, other = (
        make_ready(tmp_path, name, shade) for name, shade in (("a", 0), ("b", 0), ("c", 1))
    )
    assert key(first) == key(same)
    assert key(first) != key(other)


def test_a_grid_reads_the_data_once_for_all_cells(tmp_path: Path) -> None:
    data = make_ready(tmp_path)
    options = f"grid --protocol tiny --attacks gmi,kedmi --data {data} --dry-run"
    result = invoke(*options.split(), "--store", str(tmp_path / "store"))
    assert result.exit_code == 0, result.output
    # One target, two reconstructions; the data is no stage.
    rows = [line.split() for line in result.output.splitlines()]
    counts = {row[0]: row[2] for row in rows if len(row) > 2 and row[1] == "0"}
    assert (counts["target"], counts["reconstructions"]) == ("1", "2")
    assert "data" not in counts


def test_data_that_is_not_there_is_refused_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="mibench data prepare lfw"):
        mibench.run(protocol="tiny", attack="gmi", data=tmp_path, store=tmp_path, out=tmp_path)


@pytest.mark.parametrize(
    "name", ["celeba-64", "celeba-ffhq-64", "lfw-64", "mnist-32", "cifar10-32"]
)
@pytest.mark.parametrize("attack", ["improved-gmi", "improved-kedmi", "improved-vmi"])
@pytest.mark.parametrize("defense", ["none", "bido", "mid", "dp-sgd"])
def test_the_papers_protocols_resolve(name: str, attack: str, defense: str) -> None:
    """All of their settings are fields that exist, and their networks take the resolution."""
    scratch = {"protocol.initialisation": {}}
    cell = resolve(RunSpec(protocol=name, attack=attack, defense=defense, overrides=scratch))
    assert isinstance(cell.protocol.data, IdentitySplit)
    assert cell.protocol.title
