"""A network of the user's own judges a folder of images, among decoys of the same folder."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mibench
from mibench.data.folder import FolderOptions
from mibench.data.images import to_float
from mibench.errors import RequestError
from mibench.leaderboard.checks import incomplete
from mibench.record import CEILING, IDENTITY_METRICS, LOOKALIKE, Record
from mibench.reports.words import notes
from tests.judges.test_networks import JUDGE
from tests.kit.guide import forget_afterwards
from tests.kit.tiny_folder import SETTINGS, make_tiny_folder

RARE = 4  # of the eight small identities


@pytest.fixture(autouse=True)
def unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge of a file is known to no other test."""
    forget_afterwards(monkeypatch)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, a judge's code and its weights."""
    folder = tmp_path_factory.mktemp("own")
    make_tiny_folder(folder / "images")
    for number in range(RARE):
        for extra in sorted((folder / "images" / f"public-{number}").iterdir())[1:]:
            extra.unlink()
    (folder / "mine.py").write_text(JUDGE)
    torch.manual_seed(0)
    save_file(torch.nn.Linear(48, 8).state_dict(), folder / "net.safetensors")
    return folder


def run(place: Path, judge: dict[str, Any], out: str, **data: Any) -> Record:
    own = {f"protocol.{name}": value for name, value in data.items()}
    settings = {**SETTINGS, "protocol.judges": [judge], "protocol.decoys": "rare", **own}
    return mibench.run(
        protocol="folder",
        root=place / "images",
        attack="gmi",
        overrides=settings,
        store=place / "store",
        out=place / out,
    )


def mine(place: Path) -> dict[str, Any]:
    weights = place / "net.safetensors"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    network = {"file": str(weights), "sha256": sha256}
    return {"kind": f"{place / 'mine.py'}:Mine", "network": network}


def test_ranks_among_the_folders_own_decoys(place: Path) -> None:
    """Recomputed from the images alone: one test image a person, one picture a decoy."""
    record = run(place, mine(place), "mine", test_fraction=0.3)
    assert list(incomplete(record)) == []
    assert record.protocol.resolved["judges"][0]["kind"] == "mine"
    told = {name: record.metrics[name] for name in IDENTITY_METRICS}
    assert told["median_rank"].among == RARE + 1
    assert "4 decoys are too few" in str(told["leak_at_1e-2"].reason)
    assert "no coin" in str(told["two_choice_accuracy"].reason)
    assert record.references[LOOKALIKE]["identity_bits"].value is not None
    assert record.references[CEILING]["identity_bits"].value is not None
    assert any("nominal" in note for note in notes(record))

    options = FolderOptions(min_images=12, decoys="rare", test_fraction=0.3)
    data = options.divide(resolution=32, root=place / "images").load()
    assert data.decoys is not None
    assert len(data.decoys) == RARE
    assert len(data.public.names) == 8 - RARE
    weights = load_file(place / "net.safetensors")

    def embedded(images: torch.Tensor) -> torch.Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        return torch.nn.functional.normalize(pooled @ weights["weight"].T + weights["bias"], dim=1)

    made = load_file(place / "mine" / "reconstructions.safetensors")["images"]
    decoys = embedded(to_float(data.decoys.images))
    for person in range(len(data.train.names)):
        own = to_float(data.test.images[data.test.labels == person][:1])
        score = embedded(made[person]) @ embedded(own).T
        ranks = 1 + (embedded(made[person]) @ decoys.T >= score - 0.01).sum(1)
        least = 1 + (embedded(made[person]) @ decoys.T >= score + 0.01).sum(1)  # int8 rounds
        found = (told["median_rank"].per_identity or ())[person]
        assert least.float().quantile(0.5) <= found <= ranks.float().quantile(0.5)


def test_drawn_decoys_are_not_nominal(place: Path) -> None:
    record = run(place, mine(place), "drawn", decoys="drawn", max_private=3)
    assert record.metrics["median_rank"].among == 3  # five could be private, and two are decoys
    assert not any("nominal" in note for note in notes(record))
    ceiling = record.references[CEILING]["identity_bits"]
    assert "one has too few" in str(ceiling.reason)  # of a single test image
    assert list(incomplete(record)) == []


def test_people_who_are_not_attacked_may_have_fewer_test_images(place: Path) -> None:
    """The ceiling is of as many images a person as everybody has."""
    fewer = place / "fewer"
    shutil.copytree(place / "images", fewer / "images")
    for extra in sorted((fewer / "images" / "private-4").iterdir())[8:]:
        extra.unlink()
    for file in ("mine.py", "net.safetensors"):
        shutil.copy(place / file, fewer)
    settings = {"min_images": 8, "attacked": 4, "test_fraction": 0.3}
    ceiling = run(fewer, mine(fewer), "out", **settings).references[CEILING]
    assert ceiling["identity_bits"].n == ceiling["attack_accuracy_top1"].n == 4 * 2


def test_without_its_packages_the_numbers_are_null_with_the_reason(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    lacking = ("dlib", "face_recognition_models")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name in lacking else found(name, *_)
    )
    record = run(place, {"kind": "dlib"}, "dlib")
    assert record.status == "complete"
    for name in IDENTITY_METRICS:
        assert record.metrics[name].value is None
        assert "pip install 'mibench[faces]'" in str(record.metrics[name].reason)
    assert "identity_bits" in str(list(incomplete(record)))


def test_a_judge_needs_somebody_to_rank_among(place: Path) -> None:
    with pytest.raises(RequestError, match="nobody to rank among"):
        run(place, mine(place), "none", decoys=None)
