"""The commands of ``mibench leaderboard``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mibench.cli import Main
from mibench.cli.leaderboard import FORMATS, TABLES, leaderboard_commands
from mibench.leaderboard import formats, page
from mibench.leaderboard.records import load
from mibench.leaderboard.tables.defenses import KEYS
from mibench.record import Record
from tests.kit.board_records import file_all, make, record_data

pytestmark = pytest.mark.usefixtures("tiny")
IK = "improved-kedmi"


def invoke(*args: str | Path) -> Result:
    group = Main("mibench", commands={"leaderboard": leaderboard_commands})
    result = CliRunner().invoke(group, ["leaderboard", *map(str, args)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_add_says_what_became_of_each(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(record_data(evaluator=0.8, epochs=1)))
    forged = record_data(seed=1, epochs=1)
    forged["metrics"]["knn_distance"]["value"] = 1.0
    bad.write_text(json.dumps(forged))
    result = invoke("add", good, bad, "--folder", tmp_path / "board")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"filed: {good} as ")
    assert "80.0 %" in lines[1]
    assert lines[2] == f"refused: {bad}"
    assert "its values per identity average to 12" in lines[3]
    assert "1 of 2 records were refused" in result.stderr
    assert [each.record.seed for each in load(tmp_path / "board")["tiny"]] == [0]


@pytest.fixture
def board(tmp_path: Path) -> Path:
    folder = tmp_path / "board"
    folder.mkdir()
    file_all(folder, make(16, attack=IK), make(18, attack=IK, seed=1), make(10))
    return folder


def test_build_and_check(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "render_page", lambda *args: "a page")
    result = invoke("build", "--check", "--folder", board)
    assert result.exit_code == 1
    assert "README.md" in result.stdout.splitlines()
    assert not (board / "README.md").exists()
    assert invoke("build", "--folder", board).exit_code == 0
    result = invoke("build", "--check", "--folder", board)
    assert (result.exit_code, result.stderr) == (0, "")
    (board / "tables/tiny/defenses.tex").write_text("edited")
    result = invoke("build", "--check", "--folder", board)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["tables/tiny/defenses.tex"]
    assert "mibench leaderboard build" in result.stderr


def test_export_writes_one_table(board: Path) -> None:
    result = invoke(
        "export", "--folder", board, "--protocol", "tiny", "--format", "csv",
        "--columns", "defense, improved-kedmi",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "defense,improved-kedmi,improved-kedmi_std"
    assert lines[1].startswith("none,0.85,0.0707106781187")
    there = [table for table in TABLES if not table.endswith(("black-box", "label-only"))]
    for shape in FORMATS:
        for table in there:
            result = invoke(
                "export", "--folder", board, "--protocol", "tiny", "--format", shape,
                "--table", table,
            )  # fmt: skip
            assert result.exit_code == 0, result.output
            assert len(result.stdout.splitlines()) > 1
    assert set(FORMATS) == set(formats.FORMATS)


def test_a_table_that_a_board_lacks_is_refused(board: Path) -> None:
    result = invoke(
        "export", "--folder", board, "--protocol", "tiny", "--table", "defenses-label-only"
    )
    assert result.exit_code == 2
    assert "no table defenses-label-only: it has no records of that access" in result.stderr
    assert "there are defenses, improvement" in result.stderr
    assert {*KEYS.values(), "cells", "improvement", "published"} == set(TABLES)


def test_wrong_names_get_close_ones(board: Path, tmp_path: Path) -> None:
    result = invoke("export", "--folder", board, "--protocol", "tinny")
    assert result.exit_code == 2
    assert "did you mean 'tiny'?" in result.stderr
    result = invoke("export", "--folder", board, "--protocol", "tiny", "--columns", "defens")
    assert result.exit_code == 2
    assert "did you mean 'defense'?" in result.stderr
    result = invoke("build", "--folder", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "there is no folder" in result.stderr


def test_schema_is_json() -> None:
    result = invoke("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["title"] == "Record"
    assert Record.model_validate(record_data()).schema_version == 3


@pytest.mark.parametrize("command", ["build", "add", "verify", "export", "schema"])
def test_each_command_explains_itself(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 4
