"""Networks of others': loaded, checked, and behind the interface of a classifier."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from mibench.errors import RequestError
from mibench.models.access import ACCESS
from mibench.models.freeze import freeze
from mibench.models.given import (
    GivenClassifier,
    check_given,
    files_of,
    load_given,
    state_dict,
)
from mibench.streams import seeded, stream
from mibench.types import GivenModel

CLASSES, SIZE = 4, 32
IMAGES = torch.rand(3, 3, SIZE, SIZE, generator=stream(0, "given"))


class Net(nn.Module):
    """A small network, in train mode as networks are made."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(6, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.conv(images)).relu().mean((2, 3))
        logits: Tensor = self.head(self.drop(features))
        return logits


BUILD = """
import torch
from torch import nn
from tests.models.test_given import Net

def build():
    torch.manual_seed(0)
    return Net()

def wide():
    return Net({classes})

def scores(images):
    torch.manual_seed(0)
    return Net().eval()(images).softmax(1)

def labels(images):
    return scores(images).argmax(1).numpy()

def names(images):
    return ["anna"] * len(images)

def wrong(images):
    return torch.zeros(len(images), 9)

def nan():
    net = Net()
    net.head.bias.data.fill_(float("nan"))
    return net

def training():
    net = Net()
    net.train = lambda mode=True: net  # it will not leave it
    return net

class Several(Net):
    def forward(self, images):
        return super().forward(images), images

def several():
    return Several()

class Maps(Net):
    def forward(self, images):
        return self.conv(images)

def maps():
    return Maps()

nothing = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(BUILD.replace("{classes}", "9"))
    return path


def net() -> Net:
    with seeded(0):
        torch.manual_seed(0)
        made = Net()
    return made.eval()


def loaded(model: str, **fields: Any) -> GivenClassifier:
    given = GivenModel(model=model, size=SIZE, **fields)
    return check_given(load_given(given, CLASSES), IMAGES)


def assert_same(model: GivenClassifier, logits: Tensor) -> None:
    torch.testing.assert_close(model(IMAGES), logits, atol=1e-5, rtol=1e-4)


def test_a_function_that_builds(file: Path) -> None:
    model = loaded(f"{file}:build")
    assert_same(model, net()(IMAGES))
    features = net().norm(net().conv(IMAGES)).relu().mean((2, 3))
    torch.testing.assert_close(model.outputs(IMAGES).features, features)


def test_normalisation(file: Path) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    model = loaded(f"{file}:build", mean=mean, std=std)
    scaled = (IMAGES - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert_same(model, net()(scaled))


@pytest.mark.parametrize("form", ["safetensors", "pth", "nested", "wrapped"])
def test_weights(file: Path, tmp_path: Path, form: str) -> None:
    other = Net().eval()
    state = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    path = tmp_path / f"weights.{form}"
    if form == "safetensors":
        save_file(state, path)
    elif form == "pth":
        torch.save(state, path)
    elif form == "nested":
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    assert_same(loaded(f"{file}:build", weights=str(path)), other(IMAGES))


def test_an_architecture_of_timm(tmp_path: Path) -> None:
    trained = timm.create_model("test_resnet", num_classes=CLASSES).eval()
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    model = loaded("test_resnet", weights=str(tmp_path / "w.safetensors"))
    mean, std = (torch.tensor(trained.default_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    assert_same(model, trained((IMAGES - mean) / std))
    assert model.outputs(IMAGES).features.shape == (3, trained.num_features)


def test_an_exported_network(tmp_path: Path) -> None:
    shapes = {"images": {0: torch.export.Dim("n", min=1, max=1024)}}
    torch.export.save(
        torch.export.export(net(), (IMAGES,), dynamic_shapes=shapes), tmp_path / "m.pt2"
    )
    model = loaded(str(tmp_path / "m.pt2"))
    assert_same(model, net()(IMAGES))
    assert model.outputs(IMAGES).features.shape == (3, 0)


def test_torchscript(tmp_path: Path) -> None:
    torch.jit.script(net()).save(str(tmp_path / "m.pt"))
    assert_same(loaded(str(tmp_path / "m.pt")), net()(IMAGES))


@pytest.mark.parametrize("kind", ["build", "pt", "pt2"])
def test_it_is_frozen_and_attacked_as_any_other(file: Path, tmp_path: Path, kind: str) -> None:
    if kind == "pt":
        torch.jit.script(net()).save(str(tmp_path / "m.pt"))
    if kind == "pt2":
        shapes = {"images": {0: torch.export.Dim("n", min=1, max=1024)}}
        exported = torch.export.export(net(), (IMAGES,), dynamic_shapes=shapes)
        torch.export.save(exported, tmp_path / "m.pt2")
    model = loaded(f"{file}:build" if kind == "build" else str(tmp_path / f"m.{kind}"))
    target = ACCESS["white-box"](freeze(model, IMAGES[:2]))
    images = IMAGES.clone().requires_grad_(True)
    target.outputs(images).logits.sum().backward()
    assert images.grad is not None
    expected = IMAGES.clone().requires_grad_(True)
    net()(expected).sum().backward()
    torch.testing.assert_close(images.grad, expected.grad, atol=1e-4, rtol=1e-3)
    assert not any(each.requires_grad for each in target.model.parameters())


def test_functions_that_answer(file: Path) -> None:
    scores = net()(IMAGES).softmax(1)
    model = loaded(f"{file}:scores", answers="scores")
    torch.testing.assert_close(ACCESS["black-box"](model).scores(IMAGES), scores)
    model = copy.deepcopy(loaded(f"{file}:labels", answers="labels"))
    assert ACCESS["label-only"](model).predict(IMAGES).tolist() == scores.argmax(1).tolist()
    assert GivenModel(model="m.py:f", answers="labels").access == "label-only"


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("wide", {}, "tells 9 classes apart, and the images are of 4"),
        ("nan", {}, "not finite"),
        ("training", {}, "dropout is active"),
        ("several", {}, "returns tuple, not a tensor"),
        ("maps", {}, r"wanted is a tensor \(3, 4\)"),
        ("nothing", {}, "no function 'nothing'"),
        ("missing", {}, "no function 'missing'"),
        ("scores", {}, "called without arguments"),
        ("wrong", {"answers": "scores"}, "tells 9 classes apart"),
        ("scores", {"answers": "labels"}, "labels are integers"),
        ("wrong", {"answers": "labels"}, "labels are integers"),
    ],
)
def test_what_does_not_fit(file: Path, name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        loaded(f"{file}:{name}", **fields)


def test_batch_statistics_are_noticed(tmp_path: Path) -> None:
    """A network that was traced in train mode keeps its ways for ever."""
    made = net()
    made.drop = nn.Dropout(0)
    torch.jit.trace(made.train(), IMAGES).save(str(tmp_path / "m.pt"))
    with pytest.raises(RequestError, match="BatchNorm takes statistics of the batch"):
        loaded(str(tmp_path / "m.pt"))


class Code:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


def test_code_in_weights_is_not_run(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": net().state_dict(), "extra": Code()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Code()))
    torch.save(net(), tmp_path / "whole.pth")
    for name in ("evil.pth", "plain.pkl", "whole.pth"):
        with pytest.raises(RequestError, match=r"is not read.*safetensors"):
            loaded(f"{file}:build", weights=str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


def test_damaged_and_foreign_weights(file: Path, tmp_path: Path) -> None:
    save_file(net().state_dict(), tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    torch.save([1, 2], tmp_path / "list.pth")
    save_file(Net(9).state_dict(), tmp_path / "nine.safetensors")
    state = net().state_dict()
    del state["head.bias"]
    save_file({**state, "more": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, message in (
        ("cut.safetensors", "is not read"),
        ("list.pth", "holds no state dict"),
        ("nine.safetensors", r"head.bias \(9,\) for \(4,\).*--classes"),
        ("other.safetensors", "1 tensors are missing: head.bias; 1 are unknown to it: more"),
        ("absent.pth", "is not there"),
        (".", "is a folder"),
    ):
        with pytest.raises(RequestError, match=message):
            loaded(f"{file}:build", weights=str(tmp_path / name))


def test_state_dict_keeps_names_without_a_wrapper(tmp_path: Path) -> None:
    tensors = {"module.a": torch.ones(1), "b": torch.ones(1)}
    torch.save(tensors, tmp_path / "w.pth")
    assert state_dict(tmp_path / "w.pth").keys() == tensors.keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0, 0, 0)}, "or neither"),
        ({"mean": (0, 0, 0), "std": (1, 0, 1)}, "at least 1e-6"),
        ({"answers": "labels"}, "named as FILE.py:function"),
        ({"model": "m.pt", "weights": "w"}, "for an architecture"),
    ],
)
def test_fields_fit_together(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GivenModel(**{"model": "resnet18", **fields})


def test_files(file: Path, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"1")
    given = GivenModel(model=f"{file}:build", weights=str(tmp_path / "w.pth"))
    assert set(files_of(given)) == {file, tmp_path / "w.pth"}
    assert files_of(GivenModel(model="resnet18")) == ()
    with pytest.raises(RequestError, match="is not there"):
        files_of(GivenModel(model=str(tmp_path / "no.pt")))
