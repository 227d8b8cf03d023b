from __future__ import annotations

import importlib
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mibench.types
from mibench.errors import MibenchError
from mibench.provenance import checkout_state, environment, peak_memory_bytes, source_digest

PLAIN = """
import os
class Net:
    rate: float = 0.1
    def scale(self, x):
        if x:
            return x * 2
        return {"a": 1}
"""
SAME = [
    PLAIN.replace("import os", '"""Module."""\n# comment\n\n\nimport os  # why'),
    PLAIN.replace("class Net:", 'class Net:\n    """Doc."""'),
    PLAIN.replace("= 0.1", '= 0.1\n    """What the rate is."""'),
    PLAIN.replace("(self, x):", '(\n        self,\n        x,\n    ):\n        """Doc."""'),
    PLAIN.replace('{"a": 1}', "{\n            'a': (1),\n        }"),
]
DIFFERENT = [
    PLAIN.replace("* 2", "* 3"),
    PLAIN.replace("0.1", "0.2"),
    PLAIN.replace("x", "y"),
    PLAIN.replace("import os", "import sys"),
    PLAIN.replace('"a"', '"b"'),
    PLAIN.replace("    if x:\n            return", "    if x:\n            yield"),
]


def digest_of(folder: Path, source: str) -> str:
    path = folder / "method.py"
    path.write_text(source)
    return source_digest(path)


@pytest.mark.parametrize("source", SAME)
def test_what_does_not_run_does_not_count(tmp_path: Path, source: str) -> None:
    assert source != PLAIN
    assert digest_of(tmp_path, source) == digest_of(tmp_path, PLAIN)


@pytest.mark.parametrize("source", DIFFERENT)
def test_what_runs_counts(tmp_path: Path, source: str) -> None:
    assert source != PLAIN
    assert digest_of(tmp_path, source) != digest_of(tmp_path, PLAIN)


def test_a_body_of_documentation_only(tmp_path: Path) -> None:
    documented = digest_of(tmp_path, 'class Error(Exception):\n    """Doc."""\n')
    assert documented == digest_of(tmp_path, "class Error(Exception):\n    pass\n")


def test_the_place_and_name_of_a_file_do_not_count(tmp_path: Path) -> None:
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("x = 1"), second.write_text("x = 1")
    assert source_digest(first) == source_digest(second)
    second.write_text("x = 2")
    assert source_digest(first, second) != source_digest(second, first)


def test_packages_and_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pack_for_digest"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    before = source_digest("pack_for_digest")
    assert "pack_for_digest" not in sys.modules
    assert before == source_digest(package)
    (package / "part.py").write_text("x = 22")
    assert source_digest("pack_for_digest") not in (before, source_digest("pack_for_digest.part"))


def test_loaded_code_keeps_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "loaded_for_digest.py"
    path.write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("loaded_for_digest")
    before = source_digest(module)
    path.write_text("x = 22")
    assert source_digest(module) == source_digest("loaded_for_digest") == before
    assert source_digest(path) != before


def test_missing_and_broken_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match=r"gone\.py"):
        source_digest(tmp_path / "gone.py")
    with pytest.raises(MibenchError, match="no_such_module"):
        source_digest("mibench.no_such_module")
    with pytest.raises(MibenchError, match=r"method\.py"):
        digest_of(tmp_path, "def f(:")


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
    assert isinstance(result, mibench.types.Environment)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_peak_memory_is_in_bytes() -> None:
    script = (
        "from mibench.provenance import peak_memory_bytes as peak\n"
        "before = peak(); block = b'x' * (300 << 20); print(peak() - before)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert 200 << 20 < int(result.stdout) < 400 << 20
    assert peak_memory_bytes() is not None
