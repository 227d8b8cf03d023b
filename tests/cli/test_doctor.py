"""``mibench doctor``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

import mibench.assets
from mibench import __version__
from mibench.cli.doctor import PACKAGES
from mibench.errors import ArtifactError
from mibench.models import initialisation
from tests.kit.command_line import ROOT, invoke


def examined(*args: str) -> tuple[int, dict[str, Any]]:
    result = invoke("doctor", "--json", *args)
    checks = json.loads(result.stdout)
    return result.exit_code, {check["name"]: check for check in checks["checks"]}


def test_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mibench.assets, "load_asset", lambda asset: ({}, {}))
    monkeypatch.setenv("MIBENCH_INCEPTION", str(tmp_path / "absent.pth"))
    monkeypatch.setenv("MIBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "new" / "store"
    code, checks = examined("--store", str(place))
    assert code == 0
    assert checks["mibench"]["found"] == __version__
    assert checks["torch"]["found"] == torch.__version__.split("+")[0]
    assert str(place) in checks["store"]["found"]
    assert "GiB" in checks["store"]["found"] or "TiB" in checks["store"]["found"]
    assert not place.exists()
    assert checks["inception weights"]["status"] == "absent"
    assert "https://" in checks["inception weights"]["remedy"]
    assert "run `mibench data fetch inception`" in checks["inception weights"]["remedy"]
    assert "4 pinned networks verified" in checks["protocol synthfaces-32"]["found"]
    assert checks["protocol synthfaces-64"]["found"] == "trains its own networks"
    papers = checks["protocol celeba-ffhq-64"]
    assert papers["status"] == "absent"
    start = "needs the prepared data of celeba-64, ffhq-64 and the weights of vgg16_bn_mi, "
    assert papers["found"].startswith(start)
    assert "resnet152" in papers["found"]
    assert checks["protocol mnist-32"]["found"] == "needs the prepared data of mnist-32"
    surrogates = checks["surrogates of lokt"]
    assert surrogates["status"] == "absent"
    start = "need the weights of densenet121.tv_in1k, densenet161.tv_in1k, densenet169.tv_in1k, on "
    assert surrogates["found"].startswith(start)
    assert "celeba-64-lists" in surrogates["found"]
    assert "synthfaces" not in surrogates["found"], "whose surrogates start from scratch"
    assert "hf download timm/densenet121" in surrogates["remedy"]
    assert [name for name in checks if name.startswith("surrogates")] == ["surrogates of lokt"]
    assert {"device", "memory", "threads"} <= checks.keys()
    text = invoke("doctor", "--store", str(place)).stdout
    assert "absent.pth" in text
    assert "pinned networks verified" in text


def test_doctor_reads_no_weights_and_builds_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a paper's networks would take half a minute."""

    def never(*_: object) -> None:
        raise AssertionError("doctor only looks whether the file is there")

    weights = tmp_path / "weights"
    weights.write_bytes(b"none")
    monkeypatch.setattr(mibench.assets, "load_asset", lambda asset: ({}, {}))
    monkeypatch.setattr(initialisation, "sha256_once", never)
    monkeypatch.setattr(initialisation, "Classifier", never)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(weights))
    monkeypatch.setenv("MIBENCH_DATA", str(tmp_path / "data"))
    _, checks = examined("--store", str(tmp_path))
    papers = checks["protocol celeba-ffhq-64"]
    assert papers["found"] == "needs the prepared data of celeba-64, ffhq-64"
    surrogates = checks["surrogates of lokt"]
    assert surrogates["status"] == "ok"
    assert surrogates["found"].startswith("weights of densenet121.tv_in1k, ")
    needed = checks["protocol celeba-64-lists"]["found"]
    assert needed == "needs the prepared data of celeba-64 and the published lists of celeba"


def test_doctor_exits_1_when_something_essential_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(asset: object) -> None:
        raise ArtifactError("not the pinned one; reinstall mibench")

    monkeypatch.setattr(mibench.assets, "load_asset", load)
    code, checks = examined("--store", str(tmp_path))
    assert code == 1
    assert checks["protocol synthfaces-32"]["status"] == "broken"
    assert "reinstall" in checks["protocol synthfaces-32"]["remedy"]
    assert checks["protocol synthfaces-64"]["status"] == "ok"


def test_doctor_names_a_package_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mibench.assets, "load_asset", lambda asset: ({}, {}))
    monkeypatch.setitem(sys.modules, "tabulate", None)
    code, checks = examined("--store", str(tmp_path))
    assert code == 1
    assert checks["tabulate"]["status"] == "broken"
    assert "pip install" in checks["tabulate"]["remedy"]


def test_doctor_refuses_a_store_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mibench.assets, "load_asset", lambda asset: ({}, {}))
    (tmp_path / "file").write_text("")
    code, checks = examined("--store", str(tmp_path / "file" / "store"))
    assert (code, checks["store"]["status"]) == (1, "broken")


def test_doctor_looks_at_every_dependency() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    everywhere = re.findall(r'^ *"([A-Za-z0-9-]+)[^;"]*"', block[1], re.MULTILINE)
    assert set(PACKAGES) == set(everywhere)
