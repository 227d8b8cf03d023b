"""What shells complete: the scripts that click writes, and what these are answered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mibench.training.defense import DEFENSES
from tests.kit.command_line import ROOT

DOCUMENT = (ROOT / "docs" / "install.md").read_text()
# `mibench` itself need not be on PATH: click goes by the name that main() gives.
MAIN = "from mibench.cli import main; main()"


def asked(**variables: str) -> str:
    """What the command prints to a shell that completes."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN], env=os.environ | variables, capture_output=True, text=True,
        check=True, cwd=ROOT,
    )  # fmt: skip
    return done.stdout


def completed(line: str) -> list[str]:
    words = line.split(" ")
    answer = asked(
        _MIBENCH_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1)
    )
    return [each.partition(",")[2] for each in answer.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_takes_the_documented_script(shell: str, tmp_path: Path) -> None:
    assert f"_MIBENCH_COMPLETE={shell}_source mibench" in DOCUMENT
    try:
        script = asked(_MIBENCH_COMPLETE=f"{shell}_source")
    except subprocess.CalledProcessError as error:  # bash older than click's scripts
        pytest.skip(error.stderr)
    assert f"_MIBENCH_COMPLETE={shell}_complete" in script
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on PATH to read its script")
    path = tmp_path / "script"
    path.write_text(script)
    done = subprocess.run([shell, "-n", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_commands_options_and_names_are_completed() -> None:
    assert "report" in completed("mibench re")
    assert set(completed("mibench store ")) >= {"gc", "ls", "verify"}
    assert completed("mibench run --at") == ["--attack"]
    assert set(completed("mibench run --defense ")) == set(DEFENSES.names())
    assert completed("mibench grid --attacks gmi,improved-ked") == ["gmi,improved-kedmi"]
    assert "synthfaces-32" in completed("mibench run --protocol synth")
