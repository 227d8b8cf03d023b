"""``mibench store``."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from mibench.store.store import Store
from tests.kit.command_line import invoke


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two artifacts of 2 KiB, one of them unused for ten days."""
    root = tmp_path / "store"
    for stage, key in (("target", "a" * 64), ("prior", "b" * 64)):

        def compute(folder: Path) -> dict[str, Any]:
            (folder / "data.bin").write_bytes(bytes(2048))
            return {}

        Store(root).get_or_compute(stage, key, {}, compute)
    manifest = root / "prior" / ("b" * 64) / "manifest.json"
    old = manifest.stat().st_mtime - 10 * 86400
    os.utime(manifest, (old, old))
    return root


def test_store_ls(store: Path) -> None:
    result = invoke("store", "ls", "--store", str(store))
    assert result.exit_code == 0
    assert "aaaaaaaaaaaa" in result.stdout
    assert "10 days ago" in result.stdout
    assert "today" in result.stdout
    assert re.search(r"2 artifacts, \d\.\d KiB", result.stdout)
    entries = json.loads(invoke("store", "ls", "--json", "--store", str(store)).stdout)
    assert [entry["stage"] for entry in entries] == ["prior", "target"]
    assert all(entry["size"] > 2048 for entry in entries)


def test_store_gc(store: Path) -> None:
    def left() -> list[str]:
        return [each.stage for each in Store(store).ls()]

    args = ("store", "gc", "--store", str(store))
    assert "freed 0 B" in invoke(*args).stdout
    assert "would free 2." in invoke(*args, "--older-than", "5", "--dry-run").stdout
    assert left() == ["prior", "target"]
    assert "freed 0 B" in invoke(*args, "--older-than", "5", "--stage", "target").stdout
    assert re.search(r"freed 2\.\d KiB", invoke(*args, "--older-than", "5").stdout)
    assert left() == ["target"]


def test_store_gc_refuses_what_would_do_nothing(store: Path) -> None:
    args = ("store", "gc", "--store", str(store))
    result = invoke(*args, "--stage", "target")
    assert result.exit_code == 2
    assert "--older-than" in result.stderr
    result = invoke(*args, "--stage", "targets", "--older-than", "0")
    assert result.exit_code == 2
    assert "'target'" in result.stderr
    assert len(Store(store).ls()) == 2


@pytest.mark.parametrize("days", ["nan", "NaN", "inf", "-inf", "1e999", "-1", "1e9"])
def test_store_gc_takes_a_number_of_days(store: Path, days: str) -> None:
    """NaN lies in every range, and once removed everything."""
    result = invoke("store", "gc", "--store", str(store), f"--older-than={days}")
    assert result.exit_code == 2
    assert "--older-than" in result.stderr
    assert len(Store(store).ls()) == 2


def test_store_verify(store: Path) -> None:
    args = ("store", "verify", "--store", str(store))
    result = invoke(*args)
    assert (result.exit_code, "2 artifacts" in result.stdout) == (0, True)
    (store / "target" / ("a" * 64) / "data.bin").write_bytes(b"\1" + bytes(2047))
    result = invoke(*args)
    assert result.exit_code == 1
    assert "data.bin" in result.stdout
    assert "1 of 2" in result.stderr
    result = invoke(*args, "--json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["problems"]) == 1


@pytest.mark.parametrize("command", ["ls", "gc", "verify"])
def test_a_store_that_was_never_made(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "none"
    result = invoke("store", command, "--store", str(place))
    assert result.exit_code == 2
    assert str(place) in result.stderr
    monkeypatch.setenv("MIBENCH_STORE", str(place))
    assert invoke("store", command).exit_code == 0
    assert not place.exists()
