from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mibench.record
from mibench.store.environment import checkout_state, environment, peak_memory_bytes


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_and_dirty(tmp_path: Path) -> None:
    (tmp_path / "mibench").mkdir()
    (tmp_path / "attacks").mkdir()
    (tmp_path / "mibench" / "a.py").write_text("x = 1")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mibench"\n')
    assert checkout_state(tmp_path) == (None, None)  # not a repository
    git(tmp_path, "init", "-q")
    assert checkout_state(tmp_path) == (None, None)  # no commit
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert checkout_state(tmp_path) == (commit, False)
    (tmp_path / "notes.txt").write_text("not code")
    assert checkout_state(tmp_path) == (commit, False)
    (tmp_path / "attacks" / "new.py").write_text("x = 1")
    assert checkout_state(tmp_path) == (commit, True)
    (tmp_path / "attacks" / "new.py").unlink()
    (tmp_path / "mibench" / "a.py").write_text("x = 2")
    assert checkout_state(tmp_path) == (commit, True)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "thesis"\n')
    assert checkout_state(tmp_path) == (None, None)  # someone else's repository
    inner = tmp_path / "vendored"
    inner.mkdir()
    (inner / "pyproject.toml").write_text('name = "mibench"\n')
    assert checkout_state(inner) == (None, None)  # the commit would be the outer repository's


def test_environment() -> None:
    result = environment("cpu")
    assert result.device == "cpu"
    assert result.threads == torch.get_num_threads()
    assert result.python == platform.python_version()
    assert result.torch == torch.__version__
    assert (result.commit is None) == (result.dirty is None)
    assert isinstance(result, mibench.record.Environment)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_peak_memory_is_in_bytes() -> None:
    script = (
        "from mibench.store.environment import peak_memory_bytes as peak\n"
        "before = peak(); block = b'x' * (300 << 20); print(peak() - before)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert 200 << 20 < int(result.stdout) < 400 << 20
    assert peak_memory_bytes() is not None
