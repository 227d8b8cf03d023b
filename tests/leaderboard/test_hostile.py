"""What a pull request can bring into a leaderboards folder: links, lists, names, bad records."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mibench.errors import RequestError, printable
from mibench.leaderboard.board import Board, Column, Curve, CurvePoint, Table, Value
from mibench.leaderboard.build import boards, build, stale
from mibench.leaderboard.figure import privacy_utility_figure
from mibench.leaderboard.fit import unfit
from mibench.leaderboard.folder import BUILT, refuse_link
from mibench.leaderboard.formats import csv_text, html_fragment, latex, markdown
from mibench.leaderboard.names import command_of_record
from mibench.record import FLOOR_PRIOR, Part, Record, protocol_digest
from mibench.types import digest
from tests.kit import browser
from tests.kit.board_records import CARDS, bido, diverged, file_all, make
from tests.kit.command_line import invoke

IK = "improved-kedmi"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("built")
    file_all(place, make(18, attack=IK), make(16, attack=IK, seed=1), make(10), bido(12, 0.93, 3))
    build(place, CARDS)
    return place


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A leaderboards folder that was built once."""
    return Path(shutil.copytree(built, tmp_path / "leaderboards"))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder outside, whose files must stay as they are."""
    place = tmp_path / "victim"
    place.mkdir()
    for name in ("thesis.tex", "keys.csv", "README.md"):
        (place / name).write_text("mine")
    return place


def untouched(victim: Path) -> bool:
    there = {path.name: path.read_text() for path in victim.iterdir()}
    return there == dict.fromkeys(("thesis.tex", "keys.csv", "README.md"), "mine")


# -- links and lists -----------------------------------------------------------------------------


def test_nothing_is_removed_through_a_link(folder: Path, victim: Path) -> None:
    (folder / "tables/evil").symlink_to(victim)
    build(folder, CARDS)
    assert untouched(victim)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tables", "folder"),
        ("tables/tiny", "folder"),
        ("records", "folder"),
        ("galleries", "folder"),
        ("README.md", "file"),
        ("tables/tiny/cells.csv", "file"),
        (BUILT, "file"),
    ],
)
def test_a_link_in_the_way_is_refused_by_name(
    name: str, kind: str, folder: Path, victim: Path
) -> None:
    place = folder / name
    if place.is_dir():
        place.rename(victim.parent / "moved")
    elif place.exists():
        place.unlink()
    place.symlink_to(victim if kind == "folder" else victim / "README.md")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}
    for command in (build, stale):
        with pytest.raises(RequestError, match=f"{re.escape(name)}.* link"):
            command(folder, CARDS)
    assert untouched(victim)
    assert before == {
        p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()
    }


@pytest.mark.parametrize("name", ["../victim/thesis.tex", "/etc/passwd", "records/../../x.json"])
def test_a_name_outside_the_folder_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(RequestError, match="does not lie in"):
        refuse_link(folder, name)


def test_linked_records_are_named_and_left_out(folder: Path, tmp_path: Path) -> None:
    real = folder / "records/tiny/gmi_none_test_resnet_seed0.json"
    real.rename(tmp_path / "elsewhere.json")
    real.symlink_to(tmp_path / "elsewhere.json")
    (folder / "records/other").symlink_to(folder / "records/tiny")
    os.mkfifo(folder / "records/tiny/fifo.json")
    _, problems, _ = build(folder, CARDS)
    assert problems == [
        "other: a link, which is not followed here",
        "tiny/fifo.json: no file",
        "tiny/gmi_none_test_resnet_seed0.json: a link, which is not followed here",
    ]


def test_only_listed_files_are_removed(folder: Path) -> None:
    (folder / "tables/tiny/mine.csv").write_text("mine")
    (folder / "privacy-utility-mine.svg").write_text("mine")
    for path in (folder / "records/tiny").glob("improved*"):
        path.unlink()
    file_all(folder, make(attack="gmi", seed=3))
    _, _, alone = build(folder, CARDS)
    # There is no curve any more, and its figure was a build's own.
    assert not (folder / "privacy-utility-tiny.svg").exists()
    assert alone == ["privacy-utility-mine.svg", "tables/tiny/mine.csv"]
    assert (folder / "tables/tiny/mine.csv").read_text() == "mine"
    assert stale(folder, CARDS)[0] == alone


def test_a_changed_file_of_an_earlier_build_stays(folder: Path) -> None:
    (folder / "privacy-utility-tiny.svg").write_text("edited since")
    for path in (folder / "records/tiny").glob("improved*"):
        path.unlink()
    _, _, alone = build(folder, CARDS)
    assert alone == ["privacy-utility-tiny.svg"]
    assert (folder / "privacy-utility-tiny.svg").read_text() == "edited since"


def test_a_forged_list_removes_nothing(folder: Path, victim: Path) -> None:
    own = hashlib.sha256(b"mine").hexdigest()
    names = ["../victim/thesis.tex", str(victim / "thesis.tex"), "tables/../../victim/keys.csv"]
    (folder / "tables/evil").symlink_to(victim)
    names += ["tables/evil/thesis.tex", "records/tiny/mine.csv"]
    (folder / "records/tiny/mine.csv").write_text("mine")
    (folder / BUILT).write_text(json.dumps({"files": dict.fromkeys(names, own)}))
    with pytest.raises(RequestError, match="tables/evil is a link"):
        build(folder, CARDS)
    (folder / "tables/evil").unlink()
    (folder / BUILT).write_text(json.dumps({"files": dict.fromkeys(names, own)}))
    build(folder, CARDS)
    assert untouched(victim)
    assert (folder / "records/tiny/mine.csv").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"files": 3}', "[" * 100_000, '{"files": {"a"'])
def test_a_damaged_list_is_named(text: str, folder: Path) -> None:
    (folder / BUILT).write_text(text)
    with pytest.raises(RequestError, match=r"built\.json is damaged: remove it"):
        build(folder, CARDS)


# -- records that fit no board --------------------------------------------------------------------


def plus(folder: Path, record: Record) -> list[str]:
    """What a build says of one more record; everything else must be there."""
    file_all(folder, record)
    _, problems, _ = build(folder, CARDS)
    assert re.search(r"\| improved-kedmi +\| white-box +\|", (folder / "README.md").read_text())
    assert stale(folder, CARDS) == ([], problems)
    return problems


def rows(count: int) -> list[str]:
    return ["1100"] * count


def edited(**changes: Any) -> Record:
    return make(attack="vmi", **changes)


def identities(folder: Path) -> Record:
    """Of a protocol whose card does not say how many it attacks, as of photographs."""
    paths = sorted((folder / "records/tiny").glob("*.json"))
    for path in paths:
        data = json.loads(path.read_text())
        resolved = data["protocol"]["resolved"]
        resolved["data"].pop("identities")
        own = {k: v for k, v in resolved.items() if k != "digest"}
        resolved["digest"] = protocol_digest(own)
        path.write_text(json.dumps(data))
    record = json.loads(paths[0].read_text())
    few = make(rows(3), attack="vmi", protocol=record["protocol"])
    references = {
        name: {key: make(rows(3)).metrics[key].model_dump(mode="json") for key in metrics}
        for name, metrics in few.references.items()
    }
    return make(rows(3), attack="vmi", protocol=record["protocol"], references=references)


def test_a_record_of_fewer_identities_is_left_out(folder: Path) -> None:
    (problem,) = plus(folder, identities(folder))
    assert problem.startswith("tiny/vmi_none_test_resnet_seed0.json: the number of attacked ident")


def test_the_version_that_most_records_have_is_the_boards(folder: Path) -> None:
    other = make(attack="a-first").protocol.model_dump(mode="json")
    other["resolved"] = {**other["resolved"], "chance_kappa": 0.5}
    other["resolved"]["digest"] = protocol_digest(other["resolved"])
    (problem,) = plus(folder, make(attack="a-first", protocol=other))
    assert problem.startswith("tiny/a-first_none")
    assert "another version of the protocol" in problem


@pytest.mark.parametrize("strength", ["much", float("inf"), float("nan"), True, 10**400])
def test_a_main_knob_without_a_number_is_left_out(strength: Any, folder: Path) -> None:
    record = make(attack=IK, defense="bido", seed=3, scale=3)
    resolved = {**record.defense.resolved, "scale": strength}
    part = record.defense.model_copy(update={"resolved": resolved})
    path = folder / "records/tiny/improved-kedmi_bido_test_resnet_seed3.json"
    data = record.model_copy(update={"defense": part}).model_dump()
    path.write_text(json.dumps(data))
    _, (problem,), _ = build(folder, CARDS)
    assert "improved-kedmi_bido_test_resnet_seed3.json" in problem


def test_a_diverged_record_may_lack_its_references_metrics(folder: Path) -> None:
    floor = {FLOOR_PRIOR: {"knn_distance": {"value": None, "reason": "diverged"}}}
    record = Record.model_validate({**diverged(attack="vmi").model_dump(), "references": floor})
    assert plus(folder, record) == []


def test_a_reference_called_like_a_formula_is_named_and_left_out(folder: Path) -> None:
    bound = make(attack=IK).references["floor: random prior samples"]
    names = {r"$\frac$": bound, "<script>alert(1)</script>": bound}
    for seed in (0, 1):
        file_all(folder, make(18 - seed, attack=IK, seed=seed, references=names))
    _, problems, _ = build(folder, CARDS)
    assert len(problems) == 2
    assert all("is no reference" in each for each in problems)
    svg = (folder / "privacy-utility-tiny.svg").read_text()
    assert "<script" not in svg
    assert "<script>alert" not in (folder / "README.md").read_text()


def test_numbers_that_are_none_in_the_protocol_are_named(folder: Path) -> None:
    record = make(attack="vmi").model_dump(mode="json")
    for value in (float("nan"), float("inf"), 10**400):
        record["protocol"]["resolved"]["chance_kappa"] = value
        path = folder / "records/tiny/vmi_none_test_resnet_seed0.json"
        path.write_text(json.dumps(record))
        _, (problem,), _ = build(folder, CARDS)
        assert problem.startswith("tiny/vmi_none_test_resnet_seed0.json: ")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        '{"a": ' * 5000,
        json.dumps({"schema_version": 1}),
        "null",
        "\x00",
        json.dumps({**make(attack="vmi").model_dump(mode="json"), "metrics": []}),
        json.dumps({**make(attack="vmi").model_dump(mode="json"), "seed": 1e400}),
    ],
)
def test_what_is_no_record_is_left_out(text: str, folder: Path) -> None:
    (folder / "records/tiny/vmi_none_test_resnet_seed0.json").write_text(text)
    written, problems, _ = build(folder, CARDS)
    assert written
    assert [each.partition(":")[0] for each in problems] == [
        "tiny/vmi_none_test_resnet_seed0.json"
    ] * len(problems)
    assert problems


@pytest.mark.usefixtures("tiny")
def test_the_exit_code_says_that_something_was_left_out(folder: Path) -> None:
    (folder / "records/tiny/vmi_none_test_resnet_seed0.json").write_text("{")
    for options in (("build",), ("build", "--check"), ("export", "--protocol", "tiny")):
        result = invoke("leaderboard", *options, "--folder", str(folder))
        assert result.exit_code == 1, result.output
        assert "1 left out of the boards" in result.stderr
        assert "tiny/vmi_none_test_resnet_seed0.json: it is no JSON" in result.stderr
    shown = invoke("leaderboard", "export", "--protocol", "tiny", "--folder", str(folder)).stdout
    assert re.search(r"\| none +\|", shown)


def test_a_protocol_that_boards_do_not_know_is_left_out(folder: Path) -> None:
    record = make().protocol.model_dump(mode="json")
    record["name"] = record["resolved"]["name"] = "evil"
    record["resolved"]["digest"] = protocol_digest(record["resolved"])
    (problem,) = plus(folder, make(protocol=record))
    assert problem == "evil/: this mibench has no protocol of that name"


def test_a_folder_of_bad_records_alone_is_a_wrong_request(folder: Path) -> None:
    for path in (folder / "records/tiny").glob("*.json"):
        path.write_text("{")
    with pytest.raises(RequestError, match=r"gmi_none_test_resnet_seed0\.json: it is no JSON"):
        boards(folder, CARDS)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"recipe": "a\x1b[2J"}, "a character that is not shown, U\\+001B"),
        ({"recipe": "a\nb"}, "U\\+000A"),
        ({"recipe": "‮drowssap"}, "U\\+202E"),
        ({"recipe": "x" * 5000}, "5000 characters"),
        ({"passed": {"target.x": 10**30}}, "no number that a board can show"),
        ({"artifacts": {"a\x00": "b"}}, "U\\+0000"),
        ({"passed": {"target.x": nested(30)}}, "deeper than 20 levels"),
    ],
)
def test_what_boards_cannot_hold(changes: dict[str, Any], reason: str) -> None:
    found = unfit(make(**changes))
    assert len(found) == bool(reason)
    assert all(re.search(reason, each) for each in found)


def test_names_for_a_terminal() -> None:
    assert printable("a\x1b[31m ü\udc80") == "a\\x1b[31m ü\\udc80"


# -- text is never markup -------------------------------------------------------------------------

EVIL = (
    "<script>window.hacked=1</script>",
    "</td><img src=x onerror='window.hacked=1'>",
    "[a](javascript:alert(1))",
    "![a](https://evil.example/a.png)",
    "=cmd|'/c calc'!A1",
    r"$\frac$ \input{/etc/passwd} % & # ~ ^",
    "' onmouseover='window.hacked=1",
)


def evil_board() -> Board:
    columns = (Column("a", EVIL[0], help=EVIL[1]), Column("b", "b", "percent"))
    row = [{"a": Value(text=text), "b": Value(text=text)} for text in EVIL]
    table = Table("cells", EVIL[1], columns, tuple(row), EVIL, (), EVIL)
    point = CurvePoint(1.0, 0.9, 0.4, None, 0.1, (0,), True, ())
    curves = tuple(Curve(text, IK, EVIL[0], text, (point,)) for text in EVIL)
    bounds = tuple((text, Value(number=0.1 * k)) for k, text in enumerate(EVIL))
    return Board("tiny", 1, EVIL[0], (table,), curves, bounds, EVIL[0], IK)


def test_text_of_records_is_text_in_every_format() -> None:
    (table,) = evil_board().tables
    text = markdown(table)
    assert not re.search("<(script|img|/td)", text)
    assert not re.search(r"(?<!\\)\]\(", text)
    assert "https://" not in text
    assert not re.search("<(script|img)", html_fragment(table))
    made = latex(table)
    body = "\n".join(line for line in made.splitlines() if not line.startswith("%"))
    assert r"\input{" not in body
    assert r"\textbackslash{}input\{" in body
    assert not re.search(r"(?<!\\)[#^~]", body)
    svg = privacy_utility_figure(evil_board())
    assert b"<script" not in svg
    assert b"onerror='" not in re.sub(rb"<!--.*?-->", b"", svg, flags=re.DOTALL)
    assert privacy_utility_figure(evil_board(), "pdf").startswith(b"%PDF")


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠"])
def test_a_spreadsheet_takes_no_cell_for_a_formula(first: str) -> None:
    table = Table("t", "t", (Column("a", "a"),), ({"a": Value(text=f"{first}cmd")},))
    assert csv_text(table).splitlines()[1].strip('"').startswith("'")


def test_numbers_stay_numbers_in_csv() -> None:
    columns = (Column("a", "a", "number"), Column("b", "b"))
    row = {"a": Value(number=-0.5), "b": Value(text="-0.5")}
    assert csv_text(Table("t", "t", columns, (row,))) == "a,b\n-0.5,-0.5\n"


def test_no_script_runs_and_nothing_is_fetched(folder: Path) -> None:
    """Names and reasons of a real build, and a script that got into the page all the same."""
    reasons = {
        key: {**metric.model_dump(mode="json"), **({"reason": EVIL[1]} if key == "fid" else {})}
        for key, metric in make(attack=IK, seed=7).metrics.items()
    }
    changes: dict[str, Any] = {"metrics": reasons, "recipe": EVIL[1], "command": EVIL[0]}
    changes["passed"] = {"target.x": EVIL[6]}
    assert plus(folder, make(attack=IK, seed=7, **changes)) == []
    page = folder / "index.html"
    page.write_text(page.read_text().replace("<main>", f"<main>{EVIL[0]}{EVIL[1]}"))
    with browser.chromium() as driver:
        driver.get(page.as_uri())
        assert driver.execute_script("return document.querySelector('.count').textContent")
        driver.execute_script("document.querySelectorAll('details').forEach((d) => d.open = true)")
        driver.execute_script("document.querySelector('.source').click()")
        assert driver.execute_script("return window.hacked") is None
        assert {each.partition(":")[0] for each in browser.requests(driver)} <= {"file"}


# -- commands -------------------------------------------------------------------------------------


def test_a_command_is_made_from_what_the_record_holds() -> None:
    swept = make(defense="bido", scale=0, passed={"defense.scale": 0}, command="rm -rf ~")
    assert command_of_record(swept) == (
        "mibench run --protocol tiny --attack gmi --defense bido --seed 0 --set defense.scale=0"
    )
    odd = make(passed={"target.optimizer": "$(touch x); `y`"}, target="net", seed=2)
    assert command_of_record(odd) == (
        "mibench run --protocol tiny --attack gmi --defense none --seed 2 --target net "
        "--set 'target.optimizer=$(touch x); `y`'"
    )
    tried = make(protocol={**make().protocol.model_dump(), "passed": {"budget": 0.05}})
    assert command_of_record(tried).endswith("--budget 0.05")


def test_a_method_of_a_file_stands_without_its_path() -> None:
    mine = Part(name="mine", passed={}, resolved={}, source=digest("code"))
    assert "--defense FILE.py:mine" in command_of_record(
        make().model_copy(update={"defense": mine})
    )
    old = make(attack="improved-a/b.py:Mine", defense="/home/me/evil.py:bido")
    assert "--attack improved-FILE.py:Mine --defense FILE.py:bido" in command_of_record(old)


def test_no_shell_expands_a_command(tmp_path: Path) -> None:
    record = make(passed={"target.optimizer": "$(touch hacked) `touch hacked` ; touch hacked '"})
    command = command_of_record(record).replace("mibench run", "echo")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert not list(tmp_path.iterdir())
