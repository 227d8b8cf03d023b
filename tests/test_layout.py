"""Imports point one way, and no file of the project names a machine or a registry's host."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The rooms, floor by floor: a room imports from lower floors alone, anywhere in its files.
FLOORS = (
    {"errors", "types", "streams", "progress", "reading"},
    {"files", "record", "settings"},
    {"registry", "names", "store", "metrics", "assets"},
    {"data", "leaderboard"},
    {"models", "reports"},
    {"training", "priors"},
    {"inversion", "judges", "defenses"},
    {"attacks", "protocols"},
    {"cell"},
    {"grid", "verify"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS, 1) for room in rooms}


def sources() -> dict[str, Path]:
    """Each module of mibench, but for the package itself, by its name."""
    found = {}
    for folder, inside in (("mibench", ""), ("attacks", "attacks."), ("defenses", "defenses.")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = inside + ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name:
                found[f"mibench.{name.rstrip('.')}"] = path
    return found


SOURCES = sources()


def imported(path: Path) -> set[str]:
    """The modules of mibench that a file imports: at its top, inside functions, or for types."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{each.name}" for each in node.names}
            names |= below & SOURCES.keys() or {node.module}
        elif isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
    return names & SOURCES.keys()


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down(module: str) -> None:
    assert room(module) in FLOOR, f"give {room(module)} a floor here"
    for other in imported(SOURCES[module]):
        below = FLOOR[room(other)] < FLOOR[room(module)] or room(other) == room(module)
        assert below, f"{module} imports {other}, which does not lie below it"


def test_no_files_import_each_other_in_a_circle() -> None:
    arrows = {module: imported(path) - {module} for module, path in SOURCES.items()}
    while free := [module for module, others in arrows.items() if not others & arrows.keys()]:
        for module in free:
            del arrows[module]
    # A package's face hands on what its files hold, and these may take it from there.
    faces = {module for module in arrows if SOURCES[module].name == "__init__.py"}
    kept = {module: others - faces for module, others in arrows.items() if module not in faces}
    while free := [module for module, others in kept.items() if not others & kept.keys()]:
        for module in free:
            del kept[module]
    assert not kept


def test_the_house_stays_small() -> None:
    assert len(FLOORS) <= 12
    assert len({room(module) for module in SOURCES} | {"mibench", "tools"}) <= 31


@pytest.mark.parametrize("kind", ["attacks", "defenses"])
def test_methods_do_not_import_each_other(kind: str) -> None:
    """Files that begin with an underscore are a method's own."""
    for path in (ROOT / kind).glob("*.py"):
        others = {each for each in imported(path) if room(each) in ("attacks", "defenses")}
        assert all(each.split(".")[2].startswith("_") for each in others), path


def test_methods_lie_flat() -> None:
    """A nested package would silently be missing from wheels."""
    for kind in ("attacks", "defenses"):
        assert not [p for p in (ROOT / kind).iterdir() if p.is_dir() and p.name != "__pycache__"]


def test_the_core_names_no_method() -> None:
    """The core's code (not its protocol cards) works for methods it has never heard of."""
    homes = ("attacks", "defenses", "mibench/priors")
    names = {p.stem for home in homes for p in (ROOT / home).glob("[!_]*.py")}
    names = {n.replace("_", "-") for n in names - {"none"}}
    for module, path in SOURCES.items():
        if room(module) in {"attacks", "defenses", "priors", "protocols", "cli"}:
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
