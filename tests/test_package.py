"""The wheel holds every method, the pinned networks and the type marker."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from the checkout, without network."""
    pytest.importorskip("setuptools", minversion="77")
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source") / "mibench"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.split(b"\0")  # fmt: skip
    for name in filter(None, listed):
        place = source / name.decode()
        origin = ROOT / name.decode()
        if origin.is_file() and not origin.is_symlink():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(origin.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_every_method(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    for kind in ("attacks", "defenses"):
        files = sorted((ROOT / kind).glob("*.py"))
        assert len(files) > 3
        for path in files:
            assert f"mibench/{kind}/{path.name}" in held


def test_the_wheel_holds_the_core_and_its_assets(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    for path in (ROOT / "mibench").rglob("*.py"):
        assert str(path.relative_to(ROOT)) in held
    assets = [p for p in (ROOT / "mibench" / "assets").iterdir() if p.suffix != ".py"]
    assets = [path for path in assets if path.is_file()]
    assert {f"mibench/assets/{path.name}" for path in assets} <= held
    assert "mibench/py.typed" in held
    for room in ("leaderboard", "reports"):
        pages = sorted((ROOT / "mibench" / room / "templates").iterdir())
        assert len(pages) > 3
        assert {f"mibench/{room}/templates/{path.name}" for path in pages} <= held
    assert sum(path.stat().st_size for path in assets) <= 45_000_000


def test_methods_run_from_the_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import mibench, pathlib; from mibench.inversion.attack import ATTACKS;"
        "from mibench.training.defense import DEFENSES;"
        "print(pathlib.Path(mibench.__file__).parent.parent);"
        "print(*[ATTACKS.get(n).__name__ for n in ATTACKS.names()]);"
        "print(*[DEFENSES.get(n).__name__ for n in DEFENSES.names()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    place, attacks, defenses = done.stdout.splitlines()
    assert Path(place) == tmp_path
    assert {"Gmi", "Kedmi", "Vmi"} <= set(attacks.split())
    assert {"Bido", "DpSgd", "Mid"} <= set(defenses.split())
