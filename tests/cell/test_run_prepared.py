"""Cells on prepared data sets, from files in a real layout to a record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mibench
from mibench import protocols
from mibench.cell.request import Request
from mibench.cell.resolve import resolve
from mibench.cell.run import divide
from mibench.data.divided import Divided
from mibench.data.identity_division import IdentityDivision
from mibench.data.prepare import prepare
from mibench.data.prepared import DataFolder, open_prepared
from mibench.data.prepared_division import PreparedRule
from mibench.data.sources.lfw import LFW
from mibench.errors import MibenchError, RequestError
from mibench.leaderboard.checks import faults
from mibench.progress import SILENT
from mibench.verify.recompute import Place, evaluation_of, read_images, recompute
from mibench.verify.settings import foreign
from tests.kit.cells import graph, graph_of
from tests.kit.command_line import invoke
from tests.kit.problems import PAPERS

SPLIT = IdentityDivision(dataset="lfw", min_images=8, val_fraction=0.2, test_fraction=0.25)
NAMES = ("Ann", "Bob", "Cyd", "Dan", "Eva")


@pytest.fixture(autouse=True)
def card(tiny: protocols.Protocol, monkeypatch: pytest.MonkeyPatch) -> protocols.Protocol:
    """The protocol ``tiny``, on a prepared data set; every other step is as it was."""
    gan = tiny.gan.model_copy(update={"batch_size": 4})  # there are four public images
    changed = tiny.model_copy(update={"data": SPLIT, "gan": gan})
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
    assert record.people
    # Nothing of the photographs is copied into the store: they are read where they lie.
    assert not (tmp_path / "store" / "data").exists()
    assert faults(record) == []
    assert set(record.artifacts) >= {"split", "images", "incomplete images"}
    again = mibench.run(**request, **places)
    assert again.metrics == record.metrics
    assert all(cost.cached for cost in again.costs)


def test_metrics_are_verified_from_the_same_data(tmp_path: Path) -> None:
    data = make_ready(tmp_path)
    out = tmp_path / "out"
    request = {"protocol": "tiny", "attack": "gmi", "data": data, "store": tmp_path / "store"}
    record = mibench.run(**request, out=out)
    # Boards want the complete data set; what is to be seen here is that the numbers come again.
    whole = {k: v for k, v in record.artifacts.items() if k != "incomplete images"}
    (reason,) = foreign(record)
    assert "--incomplete" in reason
    claim = record.model_copy(update={"artifacts": whole})
    images = read_images(claim, out / "record.json", tmp_path / "store")
    assert images is not None
    place = Place(tmp_path / "other", str(data), "cpu")
    found = recompute(claim, images, evaluation_of(claim, place))
    assert {each.verdict for each in found} == {"agrees"}


def test_damaged_images_are_found_before_they_are_used(tmp_path: Path) -> None:
    data = make_ready(tmp_path)
    (folder,) = data.glob("lfw-*/*")
    contents = bytearray((folder / "images.npy").read_bytes())
    contents[-1] ^= 1
    (folder / "images.npy").write_bytes(contents)
    with pytest.raises(MibenchError, match=r"damaged.*checksum"):
        mibench.run(protocol="tiny", attack="gmi", data=data, store=tmp_path, out=tmp_path)


def test_labels_of_another_length_are_damage(tmp_path: Path) -> None:
    data = make_ready(tmp_path)
    (folder,) = data.glob("lfw-*/*")
    np.save(folder / "labels.npy", np.load(folder / "labels.npy")[:-1])
    with pytest.raises(MibenchError, match="damaged"):
        open_prepared("lfw", 32, data)


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    """A folder of originals beside the prepared ones is not called damaged."""
    data = make_ready(tmp_path)
    (data / "lfw-originals").mkdir()
    assert DataFolder(data).sets() == ["lfw-32"]
    assert DataFolder(tmp_path / "nowhere").sets() == []


def test_data_is_for_protocols_on_prepared_sets() -> None:
    with pytest.raises(RequestError, match="--data is for protocols on prepared data sets"):
        resolve(Request(attack="gmi", data="somewhere"))


def test_other_contents_are_another_target(tmp_path: Path) -> None:
    def key(data: Path, **changes: object) -> str:
        return graph(protocol="tiny", attack="gmi", data=str(data)).target.key

    first, same, other = (
        make_ready(tmp_path, name, shade) for name, shade in (("a", 0), ("b", 0), ("c", 1))
    )
    assert key(first) == key(same)
    assert key(first) != key(other)


def test_a_grid_reads_the_data_once_for_all_cells(tmp_path: Path) -> None:
    data = make_ready(tmp_path)
    options = f"grid --protocol tiny --attacks gmi,kedmi --data {data} --dry-run"
    out = tmp_path / "runs"
    result = invoke(*options.split(), "--store", str(tmp_path / "store"), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert not out.exists(), "a dry run writes nothing"
    # One target, two reconstructions; the data is no stage.
    rows = [line.split() for line in result.output.splitlines()]
    counts = {row[0]: row[2] for row in rows if len(row) > 2 and row[1] == "0"}
    assert (counts["target"], counts["reconstructions"]) == ("1", "2")
    assert "data" not in counts


def test_a_pinned_split_is_kept(
    tmp_path: Path, card: protocols.Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = LFW.card.model_copy(update={"images": 28, "identities": 5})
    monkeypatch.setattr(LFW, "card", published)
    data = make_ready(tmp_path)
    right = SPLIT.divide(resolution=32, data=data).split

    def split(pinned: str, **overrides: object) -> Divided:
        changed = card.model_copy(update={"split": pinned})
        monkeypatch.setitem(protocols.PROTOCOLS, "tiny", changed)
        spec = Request(protocol="tiny", attack="gmi", data=str(data), overrides=overrides)
        return divide(resolve(spec), SILENT)

    assert split(right)
    with pytest.raises(RequestError, match="lfw divide otherwise than tiny pins"):
        split("0" * 64)
    assert split("0" * 64, **{"protocol.data.seed": 1})  # a division of the user's own
    # Pictures are missing: boards refuse what comes of them, and nothing is to be compared.
    monkeypatch.setattr(LFW, "card", published.model_copy(update={"images": 29}))
    assert divide(
        resolve(Request(protocol="tiny", attack="gmi", data=str(make_ready(tmp_path, "less")))),
        SILENT,
    )


def test_data_that_is_not_there_is_refused_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="mibench data prepare lfw"):
        mibench.run(protocol="tiny", attack="gmi", data=tmp_path, store=tmp_path, out=tmp_path)


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("attack", ["improved-gmi", "improved-kedmi", "improved-vmi"])
@pytest.mark.parametrize("defense", ["none", "bido", "mid", "dp-sgd"])
def test_the_papers_protocols_resolve(name: str, attack: str, defense: str) -> None:
    """All of their settings are fields that exist, and their networks take the resolution."""
    scratch = {"protocol.initialisation": {}}
    cell = resolve(Request(protocol=name, attack=attack, defense=defense, overrides=scratch))
    assert isinstance(cell.protocol.data, PreparedRule)
    assert cell.protocol.title


def test_two_alignments_are_other_images_of_one_split(tmp_path: Path) -> None:
    found = []
    for name in ("lfw-deepfunneled", "lfw_funneled"):
        root = tmp_path / name
        originals(root / name, shade=len(found))
        data = tmp_path / f"{name}-data"
        prepare("lfw", root, data, 32, incomplete=True, workers=1)
        cell = resolve(Request(protocol="tiny", attack="gmi", data=str(data)))
        split = divide(cell, SILENT)
        assert split.stored
        made = graph_of(cell)
        found.append((split.split, split.digest, made.target.key, made.references.key))
    assert found[0][0] == found[1][0]
    assert all(one != other for one, other in zip(found[0][1:], found[1][1:], strict=True))
