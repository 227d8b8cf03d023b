"""Pictures of runs: everything that is drawn can be seen."""

from __future__ import annotations

import warnings
from itertools import combinations
from pathlib import Path

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from mibench.cell.picture import reconstructions_picture
from mibench.protocols import Protocol
from mibench.record import Record
from tests.kit.command_line import invoke


@pytest.mark.parametrize("identities", [1, 5, 8, 62])
def test_nothing_lies_over_anything_else(
    identities: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    images = torch.rand(identities, 3, 3, 8, 8)
    path = tmp_path / "picture.png"
    names = [f"Some_Name {i}" for i in range(identities)]
    reconstructions_picture(
        path, images[:, 0], images, torch.rand(identities, 3), names, "gmi against test_resnet"
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(drawn) == min(identities, 60)
    boxes = [axis.get_tightbbox() for axis in drawn]  # with the labels above the images
    assert figure._suptitle is not None  # type: ignore[attr-defined]
    boxes.append(figure._suptitle.get_window_extent())  # type: ignore[attr-defined]
    assert all(box is not None for box in boxes)
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]


NAMES = [
    "Pa$$ion",
    "$\\frac{",
    "a_b^c $x$",
    "\\textbf{x} % #&~",
    "[red]x[/]",
    "line\nbreak\ttab",
    "\x1b[31mred\x07",
    "\udcff\udc80 no UTF-8",
    "王小明 山田太郎",
    "🙂👩‍👩‍👧",
    "عائشة \u202eright to left",
    "e\u0301\u0301\u0301",
    "x" * 5000,
    "",
    " ",
]


def drawn_text(names: list[str], path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    count = len(names)
    images = torch.rand(count, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    confidence = torch.rand(count, 3, generator=torch.Generator().manual_seed(1))
    title = "\n".join(names)
    reconstructions_picture(path, images[:, 0], images, confidence, names, title)
    (figure,) = figures
    assert figure._suptitle is not None  # type: ignore[attr-defined]
    texts = [text for axis in figure.axes for text in axis.texts]
    assert not any(text.get_usetex() or text.get_parse_math() for text in texts)
    return [text.get_text() for text in texts]


def test_names_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an identity is called, it is drawn as it is called, and nothing is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        texts = drawn_text(NAMES, tmp_path / "picture.png", monkeypatch)
    assert {"Pa$$ion", "$\\frac{", "[red]x[/]", "line\\nbreak\\ttab", "王小明 山田太郎"} <= set(
        texts
    )
    assert "xxxxxxxxx…xxxxxxxx" in texts
    assert all(len(text) <= 18 for text in texts)
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width < 3000
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_a_users_matplotlibrc_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LaTeX for all text, another resolution: none of it reaches a run's picture."""
    pictures = []
    for settings in ({}, {"text.usetex": True, "savefig.dpi": 300, "font.family": "nowhere"}):
        path = tmp_path / f"{len(settings)}.png"
        with matplotlib.rc_context(settings), monkeypatch.context() as patch:
            drawn_text(["Pa$$ion", "b"], path, patch)
            assert matplotlib.rcParams["text.usetex"] == bool(settings)  # as the user set it
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1]


def test_a_picture_that_cannot_be_drawn_is_a_warning(
    tiny: Protocol, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is complete, and the same command again computes nothing and does not fail."""

    def fail(*_: object) -> None:
        raise RuntimeError("no [/] font")

    monkeypatch.setattr("mibench.cell.picture.reconstructions_picture", fail)
    request = ["run", "--protocol", "tiny", "--attack", "gmi", "--seed", "17"]
    request += ["--store", str(tiny_store), "--out", str(tmp_path / "out")]
    results = [invoke(*request) for _ in range(2)]
    for result in results:
        assert result.exit_code == 0, result.output
        assert "picture could not be drawn (RuntimeError: no [/] font)" in result.output
    assert "metrics: computing" in results[0].output
    assert "computing" not in results[1].output
    record = Record.model_validate_json((tmp_path / "out" / "record.json").read_text("utf-8"))
    assert record.status == "complete"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "record.json",
        "reconstructions.safetensors",
    }
