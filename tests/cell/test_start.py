"""Weights that a protocol's networks start from, through requests, keys and stages."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from mibench import protocols
from mibench.cell.request import Request
from mibench.cell.resolve import Cell, check, resolve
from mibench.errors import RequestError
from mibench.models.initialisation import Initialisation
from mibench.record import protocol_digest
from mibench.store.store import Store
from mibench.streams import seeded
from mibench.training.loop import TrainingConfig
from tests.kit.cells import bench, graph_of

STILL = TrainingConfig(epochs=0.01, batch_size=16, learning_rate=1e-12, optimizer="sgd")


def weights(path: Path, architecture: str, seed: int = 0) -> Initialisation:
    """A file of an architecture's weights."""
    with seeded(seed):
        save_file(timm.create_model(architecture).state_dict(), path)
    pinned = hashlib.sha256(path.read_bytes()).hexdigest()
    return Initialisation(source="file", path=str(path), sha256=pinned)


def cell(monkeypatch: pytest.MonkeyPatch, starts: dict[str, Initialisation], **card: Any) -> Cell:
    fields = {"initialisation": starts, **card}
    changed = protocols.PROTOCOLS["tiny"].model_copy(update=fields)
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", changed)
    return check(resolve(Request(protocol="tiny", attack="gmi+ma")))


@pytest.fixture(autouse=True)
def _tiny(tiny: protocols.Protocol) -> None:
    """The protocol ``tiny`` in every test."""


ROLES = {
    "test_resnet": "target",
    "test_byobnet": "student test_byobnet",
    "test_efficientnet": "evaluator",
    "test_convnext": "evaluator second",
}


@pytest.mark.parametrize("architecture", list(ROLES))
def test_other_weights_are_another_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    def key(starts: dict[str, Initialisation]) -> str:
        others = {name: Initialisation() for name in ROLES}
        return graph_of(cell(monkeypatch, {**others, **starts})).stages[ROLES[architecture]].key

    first, second = (
        weights(tmp_path / f"{seed}.safetensors", architecture, seed) for seed in (0, 1)
    )
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(Path(str(first.path)).read_bytes())
    elsewhere = first.model_copy(update={"path": str(moved), "note": "as the paper"})
    scratch, one, other, again = (
        key(starts)
        for starts in (
            {},
            {architecture: first},
            {architecture: second},
            {architecture: elsewhere},
        )
    )
    assert len({scratch, one, other}) == 3
    assert again == one


def test_networks_start_from_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly trained, each is what the file holds, but for its head."""
    starts = {name: weights(tmp_path / f"{name}.safetensors", name) for name in ROLES}
    tiny = protocols.PROTOCOLS["tiny"]
    still = {
        "training": STILL,
        "evaluator": tiny.evaluator.model_copy(update={"training": STILL}),
        "second": tiny.second.model_copy(update={"training": STILL}),
        "students": tiny.students.model_copy(update={"training": STILL}),
    }
    store = Store(tmp_path / "store")
    made = cell(monkeypatch, starts, **still)
    graph, place = graph_of(made), bench(tmp_path / "store")
    networks = {"test_resnet": place.get(graph.target).model}
    networks["test_efficientnet"] = place.get(graph.evaluator).network
    networks["test_convnext"] = place.get(graph.second).network
    place.get(graph.students[0])
    artifact = store.get_or_compute("student", graph.students[0].key, {}, _never)
    trained = {name: dict(model.state_dict()) for name, model in networks.items()}
    trained["test_byobnet"] = artifact.load_tensors("model.safetensors")
    for name, found in trained.items():
        torch.manual_seed(0)
        expected = timm.create_model(name).state_dict()
        compared = 0
        for key, value in found.items():
            plain = key.removeprefix("backbone.")
            if plain in expected and plain.endswith("weight") and value.ndim == 4:
                torch.testing.assert_close(value, expected[plain])
                compared += 1
        assert compared > 3, name


def _never(folder: Path) -> dict[str, Any]:
    raise AssertionError("it is in the store")


def test_absent_weights_are_refused_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = weights(tmp_path / "there.safetensors", "test_resnet")
    (tmp_path / "there.safetensors").unlink()
    with pytest.raises(RequestError, match=r"there\.safetensors"):
        cell(monkeypatch, {"test_resnet": start})


@pytest.mark.parametrize("architecture", ["test_vit", "resnet18"])
def test_networks_that_a_card_does_not_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """Else they would silently start from scratch, and their records look alike."""
    starts = {name: Initialisation() for name in ROLES}
    cell(monkeypatch, starts)
    with pytest.raises(RequestError, match=f"does not say what '{architecture}' starts from"):
        check(resolve(Request(protocol="tiny", attack="gmi", target=architecture)))
    nothing = {"protocol.initialisation": {}}
    check(resolve(Request(protocol="tiny", attack="gmi", target=architecture, overrides=nothing)))


def test_a_tag_of_timms_is_the_architecture() -> None:
    start = protocols.PROTOCOLS["celeba-64"].start("resnet152.a1h_in1k")
    assert start.source == "imagenet"


def test_digests_of_cards_without_it_stay() -> None:
    """Those of cards from before there was the field, too."""
    card = protocols.PROTOCOLS["synthfaces-32"]
    older = card.model_dump(mode="json", exclude={"initialisation"})
    assert protocol_digest(older) == card.digest
    started = card.model_copy(update={"initialisation": {"resnet18": Initialisation()}})
    assert started.digest != card.digest
