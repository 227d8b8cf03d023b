"""What is said of a release in several places agrees, and every document that is named is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mibench

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "mibench.__version__"}


def test_changelog_and_citation_are_of_this_version() -> None:
    """A version that was not released has no date, and a released one has the same in both."""
    citation = (ROOT / "CITATION.cff").read_text()
    (version,) = re.findall(r"^version: (.*)$", citation, re.MULTILINE)
    heading = re.search(r"^## (\S+) \((.*)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading is not None
    assert version == heading[1] == mibench.__version__
    dates = re.findall(r"^date-released: (.*)$", citation, re.MULTILINE)
    assert dates == ([] if heading[2] == "unreleased" else [heading[2]])


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.suffix in (".md", ".py", ".toml", ".json", ".cff")]


def test_every_document_that_is_named_is_there() -> None:
    known = {path.name for path in tracked()}
    named = re.compile(r"\b[A-Z][A-Z0-9_-]+\.(?:md|cff)\b")
    for path in tracked():
        if "records" not in path.parts:
            for name in set(named.findall(path.read_text(encoding="utf-8"))):
                assert name in known, f"{path.relative_to(ROOT)} names {name}, which isn't there"


def test_links_between_documents_lead_somewhere() -> None:
    for path in (each for each in tracked() if each.suffix == ".md"):
        for link in re.findall(r"(?<!\\)\]\(([^()#\s]+)\)", path.read_text(encoding="utf-8")):
            if "://" not in link:
                place = path.parent / link
                assert place.exists(), f"{path.relative_to(ROOT)} links {link}, which isn't there"
