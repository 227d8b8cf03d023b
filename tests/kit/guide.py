"""What CONTRIBUTING.md shows: files, and commands by section."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from mibench.inversion.attack import ATTACKS
from mibench.judges import JUDGES
from mibench.judges.evaluators import EVALUATORS
from mibench.registry import Registry
from mibench.training.defense import DEFENSES
from tests.kit.command_line import invoke

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES: dict[str, str] = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", TEXT, re.DOTALL))
TRIED = "0.05"  # share of a protocol's budget that the guide's runs are given


def section(title: str) -> str:
    """The text below a heading of the second level."""
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.M)
    return str(found)


def commands(title: str, mark: str = "") -> list[list[str]]:
    """The commands of a section's blocks ```sh (or ```sh board), each taken apart."""
    info = re.escape(f"sh {mark}".strip())
    blocks = re.findall(rf"^```{info}\n(.*?)```", section(title), re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def write_files(folder: Path) -> Path:
    """All files of the guide, and the protocol that it tries them on, below a folder."""
    for name, code in FILES.items():
        (folder / name).write_text(code)
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "quick-faces.toml", folder / "docs")
    return folder


def tried(command: list[str]) -> Result:
    """What a command of the guide prints; a run gets a small share of its budget."""
    program, *words = command
    assert program == "mibench"
    result = invoke(*words, *(["--budget", TRIED] if words[0] == "run" else []))
    assert result.exit_code == 0, f"{shlex.join(command)}: {result.output}"
    return result


def _registries() -> Iterator[Registry[Any]]:
    yield from (ATTACKS, DEFENSES, EVALUATORS, JUDGES)
    with contextlib.suppress(ImportError):
        from mibench.data.source import SOURCES

        yield SOURCES
    with contextlib.suppress(ImportError):
        from mibench.priors import PRIORS

        yield PRIORS


def forget_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered from here on ends with the test: others go through all that is."""
    for each in _registries():
        known = {name: each.get(name) for name in each.names()}  # or its file would be asked again
        monkeypatch.setattr(each, "_classes", known)
