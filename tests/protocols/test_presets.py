"""The sizes of the protocol ``folder``: chosen by the machine, stated everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mibench.cell.request import Request, command_of
from mibench.cell.resolve import Cell, resolve
from mibench.cell.run import settled
from mibench.data.folder import FolderOptions
from mibench.errors import RequestError
from mibench.grid.plan import make_plan
from mibench.protocols import PROTOCOLS, folder_protocol
from mibench.store.store import Store
from mibench.types import Preset
from tests.cell.test_enough import faces
from tests.kit.command_line import invoke
from tests.kit.tiny_folder import SETTINGS


def cell(root: Path, preset: Preset | None = None, attack: str = "improved-kedmi") -> Cell:
    asked = Request(protocol="folder", root=str(root), preset=preset, attack=attack)
    return resolve(settled(asked))


@pytest.mark.parametrize(("gpu", "preset"), [(True, "paper"), (False, "small")])
def test_the_machine_chooses_and_the_cell_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, preset: Preset
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    found = cell(tmp_path)
    assert found.request.preset == preset
    assert found.passed("protocol") == {"preset": preset}
    assert found.protocol == cell(tmp_path, preset).protocol
    assert f"--preset {preset}" in command_of(found.request)


def test_the_sizes_differ_in_their_digest(tmp_path: Path) -> None:
    small, paper = (cell(tmp_path, preset) for preset in ("small", "paper"))
    assert small.protocol.digest != paper.protocol.digest
    assert paper.protocol == folder_protocol(FolderOptions())
    assert (small.architecture, paper.architecture) == ("test_resnet", "resnet18")


@pytest.mark.parametrize("attack", ["improved-gmi", "improved-kedmi", "improved-vmi"])
@pytest.mark.parametrize("preset", ["small", "paper"])
def test_every_attack_has_its_budget(tmp_path: Path, preset: Preset, attack: str) -> None:
    found = cell(tmp_path, preset, attack)
    assert (found.attack_config.model_dump()["iterations"] <= 300) == (preset == "small")


def test_more_images_take_fewer_passes_of_the_small_size_only(tmp_path: Path) -> None:
    few = faces(tmp_path / "few", a=20, b=20, c=2)
    many = faces(tmp_path / "many", a=1500, b=1000, c=700)
    assert FolderOptions().expected_training_images(many) == 2240
    assert FolderOptions(max_private=2).expected_training_images(many) == 1493
    assert (cell(few, "small").training.epochs, cell(many, "small").training.epochs) == (40, 15)
    assert cell(few, "paper").protocol == cell(many, "paper").protocol


def test_other_protocols_have_one_size(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--preset is for the protocol `folder`, not 'mnist"):
        resolve(Request(protocol="mnist-32-small", preset="small"))
    result = invoke("run", "--protocol", "folder", "--root", str(tmp_path), "--preset", "large")
    assert result.exit_code == 2
    assert "'large' is not one of 'small', 'paper'" in result.stderr
    assert all(
        resolve(Request(protocol=name)).passed("protocol") == {} for name in list(PROTOCOLS)[:2]
    )


def test_workers_of_a_grid_are_told(tmp_path: Path) -> None:
    root = faces(tmp_path / "faces", a=6, b=6, c=4)
    spec = Request(
        protocol="folder",
        root=str(root),
        attack="gmi",
        overrides={**SETTINGS, "protocol.min_images": 6, "protocol.gan.batch_size": 4},
    )
    (planned,) = make_plan([spec], Store(tmp_path / "store")).cells
    assert planned.graph.cell.request.preset in ("small", "paper")


def test_a_record_names_the_size(tmp_path: Path) -> None:
    root = faces(tmp_path / "faces", a=6, b=6, c=4)
    changed = {**SETTINGS, "protocol.min_images": 6, "protocol.gan.batch_size": 4}
    settings = [f"--set={path}={json.dumps(value)}" for path, value in changed.items()]
    places = ("--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"))
    args = ("run", "--protocol", "folder", "--root", str(root), "--attack", "gmi", *places)
    result = invoke(*args, "--preset", "small", "--quiet", "--device", "cpu", *settings)
    assert result.exit_code == 0, result.output
    assert "folder (small) v1" in result.stdout
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["protocol"]["passed"]["preset"] == "small"
