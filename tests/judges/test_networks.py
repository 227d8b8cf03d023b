"""Judges of the user's own: weights by path and SHA-256, and what dlib's packages bring."""

from __future__ import annotations

import hashlib
import importlib.util
import lzma
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mibench.assets import Asset
from mibench.errors import ArtifactError, RequestError
from mibench.judges import JUDGES, JudgeCard, restored_judge
from mibench.streams import stream
from tests.judges.test_contract import images
from tests.kit.guide import forget_afterwards

JUDGE = """
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d
from mibench.judges import Judge, register_judge

@register_judge("mine")
class Mine(Judge):
    title = "a matrix"
    def build(self):
        return nn.Linear(48, 8)
    def embed(self, images):
        return self.network(adaptive_avg_pool2d(images, 4).flatten(1))
"""


@pytest.fixture(autouse=True)
def unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge of a file is known to no other test."""
    forget_afterwards(monkeypatch)


def asset(path: Path) -> Asset:
    return Asset(file=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def kind(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(JUDGE)
    return f"{tmp_path / 'mine.py'}:Mine"


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt", "wrapped.pth"])
def test_a_network_by_path(name: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    linear, path = torch.nn.Linear(48, 8), tmp_path / name
    if name == "net.safetensors":
        save_file(linear.state_dict(), path)
    else:
        state: Any = linear.state_dict()
        torch.save({"state_dict": state} if "wrapped" in name else state, path)
    judge, gallery = restored_judge(JudgeCard(kind=kind, network=asset(path)))
    assert gallery is None
    pooled = torch.nn.functional.adaptive_avg_pool2d(images(3), 4).flatten(1)
    expected = torch.nn.functional.normalize(linear(pooled), dim=1)
    torch.testing.assert_close(judge(images(3)), expected.detach())


def test_a_network_that_is_not_the_pinned_one(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(torch.nn.Linear(48, 8).state_dict(), path)
    card = JudgeCard(kind=kind, network=Asset(file=str(path), sha256="0" * 64))
    with pytest.raises(ArtifactError, match=r"net.safetensors has sha256 .* the protocol pins 000"):
        restored_judge(card)
    path.unlink()
    with pytest.raises(ArtifactError, match="restore it, or name the file that is meant"):
        restored_judge(card)
    with pytest.raises(RequestError, match="brings no weights: name them"):
        restored_judge(JudgeCard(kind=kind))


def test_a_packed_network_is_pinned_by_what_it_holds(kind: str, tmp_path: Path) -> None:
    plain, path = tmp_path / "net.safetensors", tmp_path / "net.safetensors.xz"
    save_file(torch.nn.Linear(48, 8).state_dict(), plain)
    path.write_bytes(lzma.compress(plain.read_bytes()))
    card = JudgeCard(kind=kind, network=Asset(file=str(path), sha256=asset(plain).sha256))
    unpacked, _ = restored_judge(JudgeCard(kind=kind, network=asset(plain)))
    assert torch.equal(restored_judge(card)[0](images(2)), unpacked(images(2)))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match="is damaged"):
        restored_judge(card)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("ran",))


@pytest.mark.parametrize("content", [pickle.dumps(Code(), protocol=2), b"no tensors", b""])
@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_files_of_another_kind_run_nothing(
    name: str, content: bytes, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match="holds no tensors that can be read"):
        restored_judge(JudgeCard(kind=kind, network=asset(tmp_path / name)))
    assert not (tmp_path / "ran").exists()


def test_without_its_packages_dlib_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'mibench[faces]'" in (JUDGES.get("dlib").absent() or "")
    with pytest.raises(RequestError, match="dlib-bin is not installed"):
        restored_judge(JudgeCard(kind="dlib"))


def test_other_weights_than_dlibs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(ArtifactError, match="is not the file that mibench knows"):
        restored_judge(JudgeCard(kind="dlib"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "dlib_face_recognition_resnet_model_v1.dat").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="is not the file that mibench knows"):
        restored_judge(JudgeCard(kind="dlib"))
    with pytest.raises(RequestError, match="leave `network` out"):
        restored_judge(JudgeCard(kind="dlib", network=Asset(file="x", sha256="0")))


@pytest.mark.skipif(
    JUDGES.get("dlib").absent() is not None, reason=str(JUDGES.get("dlib").absent())
)
def test_dlib_gives_what_dlib_gives() -> None:
    """Against the package's own call on one enlarged 8-bit image."""
    import numpy as np

    judge: Any = restored_judge(JudgeCard(kind="dlib"))[0]
    given = torch.rand(2, 3, 150, 150, generator=stream(0, "dlib"))
    for image, ours in zip(given, judge(given), strict=True):
        array = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        theirs = np.array(judge.descriptor.compute_face_descriptor(array))
        assert ours.numpy() == pytest.approx(theirs / np.linalg.norm(theirs), abs=1e-5)
