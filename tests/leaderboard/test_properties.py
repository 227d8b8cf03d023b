"""Boards hold whatever anyone files: a record changed in any field stops no build.

A file is taken, or named and left out while all others are shown; there is no traceback. What is
taken shows nothing as markup, in whatever format.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mibench.errors import MibenchError
from mibench.leaderboard import build as building
from mibench.leaderboard import records
from mibench.leaderboard.names import cell_name
from mibench.leaderboard.parsing import parse
from mibench.protocols import PROTOCOLS
from mibench.record import protocol_digest
from mibench.verify.filing import add

ROOT = Path(__file__).resolve().parents[2]
EARLIER = ROOT / "leaderboards/earlier/lfw-64-small-v1"
CARDS = {name: card.board for name, card in PROTOCOLS.items()}
PROTOCOL = "lfw-64-small"  # how many people it attacks stands in no card
OTHERS = ("gmi_none_test_resnet_seed0", "improved-kedmi_none_test_resnet_seed0")
CELLS = ("improved-kedmi_bido_test_resnet_seed0", "improved-kedmi_none_test_resnet_seed1")

HOSTILE = (
    "<script>window.hacked=1</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "=cmd|'/c calc'!A1",
    "@SUM(1)",
    "+1+cmd",
    "\tx",
    r"$\frac$",
    r"\input{/etc/passwd}",
    "</script><script>alert(1)</script>",
    "`a` | b | c",
    "x\x1b[31m\x00",
    "‮txt",
    "../../../x",
    "x" * 5_000,
    "https://evil.example www.evil.example",
    "'\"><svg onload=alert(1)>",
    "&lt;b&gt;",
)

NUMBERS = (
    *(0, -1, 1, 2**63, 10**400, -(10**400), 0.5, -0.0, 1e308, 5e-324),
    *(float("nan"), float("inf"), -float("inf")),
)


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def odd_values() -> st.SearchStrategy[Any]:
    """What may stand in the place of a field, whatever it held."""
    return st.one_of(
        st.sampled_from(HOSTILE),
        st.sampled_from([None, True, False, "", [], {}, [[]], {"": None}, *NUMBERS]),
        st.sampled_from([15, 60, 400]).map(deep),
        st.text(max_size=20),
        st.dictionaries(st.sampled_from(HOSTILE[:12]), st.integers(), max_size=2),
        st.lists(st.floats(), max_size=3),
    )


@st.composite
def changed_records(draw: st.DrawFn) -> tuple[str, bytes]:
    """A real record with one to three fields replaced, removed or added, and where it is filed."""
    name = draw(st.sampled_from(CELLS))
    data = json.loads((EARLIER / f"{name}.json").read_text())
    for _ in range(draw(st.integers(1, 3))):
        place = data
        while True:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else [0]))
            inner = place[key]
            if not (isinstance(inner, dict | list) and inner) or draw(st.integers(0, 3)) == 0:
                break
            place = inner
        action = draw(st.sampled_from(["replace"] * 6 + ["remove", "rename"]))
        if action == "replace":
            place[key] = draw(odd_values())
        elif isinstance(place, dict):
            moved = place.pop(key)
            if action == "rename":
                place[draw(st.sampled_from(HOSTILE[:16]))] = moved
    text = json.dumps(data)
    if draw(st.booleans()):  # as one would who knows what is checked
        text, name = consistent(data, text, name)
    if draw(st.integers(0, 9)) == 0:
        cut = draw(st.integers(0, len(text)))
        text = text[:cut] + draw(st.sampled_from(["", "\x00", "[" * 5000, "NaN"]))
    return name, text.encode(errors="surrogatepass")


def consistent(data: dict[str, Any], text: str, name: str) -> tuple[str, str]:
    """The record with the digest of its own protocol, and under the name of its own cell."""
    try:
        own = copy.deepcopy(data)
        resolved = own["protocol"]["resolved"]
        resolved["digest"] = protocol_digest(resolved)
        text = json.dumps(own)
        own_name = cell_name(parse(text))
    except Exception:
        return text, name
    fits = len(own_name) < 200 and re.fullmatch(r"[\w+.=-]+", own_name)
    return text, own_name if fits else name


class Tags(HTMLParser):
    """The elements of a page, and their attributes' names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A leaderboards folder with two sound records."""
    place = tmp_path_factory.mktemp("leaderboards")
    filed = place / "records" / PROTOCOL
    filed.mkdir(parents=True)
    for name in OTHERS:
        shutil.copy(EARLIER / f"{name}.json", filed)
    return place


def holds(folder: Path, name: str, data: bytes) -> None:
    """Build with one more file, and look at what was built."""
    path = folder / "records" / PROTOCOL / f"{name}.json"
    if path.stem in OTHERS:
        return
    path.write_bytes(data)
    try:
        written, problems, _ = building.build(folder, CARDS)
        assert all("lfw-64-small/" in each for each in problems)
        assert all(each.isprintable() for each in problems)
        page = (folder / "index.html").read_text()
        readme = (folder / "README.md").read_text()
        assert "improved-kedmi" in readme
        if problems:
            assert name in problems[0]
        nothing_is_markup(page, readme, [each for each in written if each.suffix == ".csv"])
    except MibenchError as error:
        raise AssertionError(f"a build was stopped: {error}") from error
    finally:
        path.unlink()


def nothing_is_markup(page: str, readme: str, tables: list[Path]) -> None:
    tags = Tags(page)
    assert tags.found.count("script") == 2
    assert tags.found.count("img") == 1  # the dialog's, empty
    assert "svg" not in tags.found
    assert not [each for each in tags.attributes if each.startswith("on")]
    assert not re.search(r"<(?!/?(details|summary)>)", readme)
    assert not re.search(r"(?<!\\)\]\((?!records|index|tables|record\.schema|privacy)", readme)
    assert not re.search(r"(?i)(https?|ftp)://|www\.\w", readme.replace("https\\://", ""))
    for table in tables:
        for line in table.read_text().splitlines():
            for cell in line.split(","):
                if re.match(r"\"?[=@\t＝]|\"?[+-](?!\d)", cell):
                    raise AssertionError(f"{table.name}: {cell}")


OPTIONS: dict[str, Any] = {
    "deadline": None,
    "phases": (Phase.explicit, Phase.reuse, Phase.generate),  # a build a step is slow to shrink by
    "print_blob": True,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@settings(max_examples=15, derandomize=True, **OPTIONS)
@given(changed=changed_records())
def test_a_changed_record_stops_no_build(changed: tuple[str, bytes], folder: Path) -> None:
    holds(folder, *changed)


def is_filed_or_refused(folder: Path, name: str, data: bytes) -> None:
    """What `add` says of a record, and what boards would take of it once it lies there."""
    path = folder / "submitted.json"
    path.write_bytes(data)
    scratch = folder / "scratch"
    try:
        (outcome,) = add([path], scratch)
        assert (outcome.status == "refused") == bool(outcome.reasons)
        assert scratch.exists() == (outcome.status == "filed")
        if outcome.status == "filed":
            found, problems = records.survey(scratch)
            assert not problems
            assert [each.record for each in found[PROTOCOL]] == [parse(data)]
    finally:
        path.unlink()
        shutil.rmtree(scratch, ignore_errors=True)


@settings(max_examples=120, derandomize=True, **OPTIONS)
@given(changed=changed_records())
def test_a_changed_record_is_filed_or_refused(changed: tuple[str, bytes], folder: Path) -> None:
    is_filed_or_refused(folder, *changed)


@pytest.mark.slow
@settings(max_examples=5000, **OPTIONS)
@given(changed=changed_records())
def test_many_changed_records_are_filed_or_refused(
    changed: tuple[str, bytes], folder: Path
) -> None:
    is_filed_or_refused(folder, *changed)


@pytest.mark.slow
@settings(max_examples=300, **OPTIONS)
@given(changed=changed_records())
def test_no_changed_record_stops_a_build(changed: tuple[str, bytes], folder: Path) -> None:
    holds(folder, *changed)


@pytest.mark.slow
@settings(max_examples=100, **OPTIONS)
@given(data=st.binary(max_size=300))
def test_no_file_stops_a_build(data: bytes, folder: Path) -> None:
    holds(folder, CELLS[0], data)
