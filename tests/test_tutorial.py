"""The tutorial: a notebook that runs, and whose committed outputs are its own and show no one.

To make its outputs anew: ``jupyter nbconvert --execute --inplace docs/tutorial.ipynb``.
"""

from __future__ import annotations

import ast
import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import mibench

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
MOST_BYTES = 250_000
LEAST_CELLS = 8


@pytest.fixture
def notebook() -> Any:
    nbformat = pytest.importorskip("nbformat", reason="pip install 'mibench[test]'")
    read = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(read)
    return read


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_goes_from_data_to_a_comparison_and_was_run_in_order(notebook: Any) -> None:
    cells = code(notebook)
    assert len(cells) >= LEAST_CELLS
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    source = "\n".join(cell.source for cell in cells)
    for step in ("render_dataset", "mibench.run(", "record.metrics", "mibench.compare("):
        assert step in source
    assert {"none", "midre"} <= {
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "run"
    }
    for name in re.findall(r"\bmibench\.(\w+)\(", source):
        assert hasattr(mibench, name)


def test_its_outputs_are_small_whole_and_of_no_machine(notebook: Any) -> None:
    assert NOTEBOOK.stat().st_size <= MOST_BYTES
    pictures = 0
    for output in (each for cell in code(notebook) for each in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        data = dict(output.get("data", {})) or {"text/plain": output.text}
        for kind, value in data.items():
            if kind == "image/png":
                Image.open(io.BytesIO(base64.b64decode(value))).verify()
                pictures += 1
            else:
                assert kind in ("text/plain", "text/markdown")
                assert not re.search(r"/(home|root|tmp|Users|work)/", value)
    assert pictures == 2


def test_it_shows_drawn_faces_alone(notebook: Any) -> None:
    """Pictures of people are never in a document: its protocol renders who is private."""
    from mibench.data.rendered import SynthFacesData
    from mibench.protocols import protocol_named

    source = "\n".join(cell.source for cell in code(notebook))
    assert set(re.findall(r'protocol(?:_named\(|=)"([^"]+)"', source)) == {"quick-faces.toml"}
    card = protocol_named(str(ROOT / "docs" / "quick-faces.toml"))
    assert isinstance(card.data, SynthFacesData)


def test_its_links_lead_somewhere(notebook: Any) -> None:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^()#\s]+)", text)
    assert len(links) > 5
    assert not [link for link in links if not (NOTEBOOK.parent / link).exists()]


@pytest.mark.slow
def test_it_runs(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel of its own, which talks through sockets of the file system: no port is open."""
    nbclient = pytest.importorskip("nbclient", reason="pip install 'mibench[test]'")
    pytest.importorskip("ipykernel")
    config = pytest.importorskip("traitlets.config").Config()
    config.KernelManager.transport = "ipc"
    config.KernelManager.ip = str(tmp_path / "kernel")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # its stages and runs
    monkeypatch.setenv("MIBENCH_STORE", str(tmp_path / "store"))
    before = [cell.source for cell in notebook.cells]
    for cell in code(notebook):
        cell.outputs = []
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    client = nbclient.NotebookClient(notebook, timeout=600, resources=place, config=config)
    client.execute()
    assert [cell.source for cell in notebook.cells] == before
    said = str([cell.outputs for cell in code(notebook)])
    assert "natural accuracy" in said
    assert "Identity bits" in said
    (page,) = tmp_path.glob("mibench-*/comparison.html")
    assert page.stat().st_size > 10_000
    for defense in ("none", "midre"):
        assert (page.parent / defense / "report.html").is_file()
    assert not (NOTEBOOK.parent / "mibench-runs").exists()
