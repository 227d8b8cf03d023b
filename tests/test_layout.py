"""Imports point one way, and no file of the project names a machine or a registry's host."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module may import from its own layer's names and from those below it.
LAYERS = (
    {"errors", "types", "streams", "progress", "text", "reading"},
    {"files", "record", "settings", "names"},
    {"registry"},
    {"store", "metrics", "models", "assets", "data", "leaderboard"},
    {"training"},
    {"priors"},
    {"inversion", "judges"},
    {"attacks", "defenses"},
    {"protocols"},
    {"cell"},
    {"grid", "verify"},
    {"cli", "__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules() -> list[tuple[str, Path]]:
    """Each source file with the part of the package that it belongs to."""
    found = []
    for folder, part in (("mibench", None), ("attacks", "attacks"), ("defenses", "defenses")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT / folder)
            name = part or relative.parts[0].removesuffix(".py")
            if name != "__init__":
                found.append((name, path))
    return found


def imported(path: Path) -> set[str]:
    """Parts of mibench that a file imports when it is imported (not inside functions).

    Files that begin with an underscore are a method's own, wherever they lie.
    """
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "mibench" and not (len(parts) > 2 and parts[2].startswith("_")):
                names |= {parts[1]} if len(parts) > 1 else {a.name for a in node.names}
    return names - {"__version__"}


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: str(value).split("/")[-1])
def test_imports_point_one_way(name: str, path: Path) -> None:
    assert name in LEVEL, f"give {name} a layer here"
    for other in imported(path):
        assert other in LEVEL, f"give {other} a layer here"
        assert LEVEL[other] <= LEVEL[name], f"{path.name} imports {other}, which lies above it"


@pytest.mark.parametrize("kind", ["attacks", "defenses"])
def test_methods_do_not_import_each_other(kind: str) -> None:
    for path in (ROOT / kind).glob("*.py"):
        assert not imported(path) & {"attacks", "defenses"}, path


def test_methods_lie_flat() -> None:
    """A nested package would silently be missing from wheels."""
    for kind in ("attacks", "defenses"):
        assert not [p for p in (ROOT / kind).iterdir() if p.is_dir() and p.name != "__pycache__"]


def test_the_core_names_no_method() -> None:
    """The core's code (not its protocol cards) works for methods it has never heard of."""
    homes = ("attacks", "defenses", "mibench/priors")
    names = {p.stem for home in homes for p in (ROOT / home).glob("[!_]*.py")}
    names = {n.replace("_", "-") for n in names - {"none"}}
    for name, path in modules():
        if name in {"attacks", "defenses", "priors", "protocols", "cli"}:
            continue  # cards and the user's defaults name methods
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                texts = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant)]
                assert not names & {t for t in texts if isinstance(t, str)}, path


def test_no_tracked_file_names_a_registry_host() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    hosts = "pypi" + r"\.org|python" + r"hosted|registry\.npm" + "js"
    found = subprocess.run(
        ["git", "grep", "-nIE", hosts], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not found.stdout
