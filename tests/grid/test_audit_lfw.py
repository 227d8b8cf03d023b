"""A torchvision network, trained on photographs by a loop of its own, audited from its .pth."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

import mibench
from mibench.record import CEILING

ROOT = Path(__file__).resolve().parents[2]
LFW = ROOT.parent / "shared" / "data" / "lfw-64.tar.xz"
SIZE, PEOPLE, STRANGERS = 32, 8, 120
MODEL = """
import torch
from torchvision.models import resnet18


def build():
    return resnet18(num_classes={people})


@torch.no_grad()
def scores(images):
    net = build()
    net.load_state_dict(torch.load("{weights}", weights_only=True))
    return net.eval()((images - 0.5) / 0.25).softmax(1)


def labels(images):
    return scores(images).argmax(1)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight people with many pictures, strangers with few, and a network of the eight."""
    if not LFW.exists():
        pytest.skip(f"no {LFW.name} beside the checkout: it is of photographs, which are not in it")
    pytest.importorskip("torchvision")
    root = tmp_path_factory.mktemp("lfw")
    with tarfile.open(LFW) as archive:
        archive.extractall(root, filter="data")
    folders = sorted((root / "lfw").iterdir(), key=lambda each: -len(list(each.iterdir())))
    few = sorted(each for each in folders if len(list(each.iterdir())) in (2, 3))[:STRANGERS]
    for name, chosen in (("private", folders[:PEOPLE]), ("public", few)):
        for each in chosen:
            shutil.copytree(each, root / name / each.name)
    command = ["--out", str(root / "net.pth"), "--epochs", "8", "--size", str(SIZE)]
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "train_outside.py"), str(root / "private"), *command],
        check=True,
    )
    text = MODEL.replace("{people}", str(PEOPLE)).replace("{weights}", str(root / "net.pth"))
    (root / "model.py").write_text(text)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "attacks"),
    [
        ("logits", ("lookup", "improved-gmi")),
        ("scores", ("lookup", "mirror-blackbox")),
        ("labels", ("lookup-label-only", "brep-mi")),
    ],
)
def test_a_network_of_photographs(place: Path, answers: Any, attacks: tuple[str, ...]) -> None:
    own: dict[str, Any] = {"model": f"{place / 'model.py'}:{answers}", "answers": answers}
    if answers == "logits":
        own = {"model": f"{place / 'model.py'}:build", "weights": place / "net.pth"}
        own |= {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    found = mibench.audit(
        **own,
        images=place / "private",
        public=place / "public",
        size=SIZE,
        trained_on=True,
        attack=attacks,
        budget=0.05,
        preset="small",
        store=place / "store",
        out=place / answers,
    )
    assert found.known.accuracy > 0.6
    assert found.overview is not None
    for record in found.records.values():
        assert record.status == "complete"
        bits = record.metrics["identity_bits"]
        if importlib.util.find_spec("dlib") and importlib.util.find_spec("face_recognition_models"):
            assert bits.value is not None
            ceiling = record.references[CEILING]["identity_bits"].value
            assert ceiling is not None
            assert ceiling > 3, "private test images, at 32×32 among 60 people"
        else:
            assert "not installed" in str(bits.reason)
