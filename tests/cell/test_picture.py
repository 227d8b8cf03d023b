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
from safetensors.torch import load_file

import mibench
from mibench.cell.picture import _shown, _strips, reconstructions_picture
from mibench.protocols import Protocol
from mibench.record import GALLERY, Record, ordinal
from tests.kit.command_line import invoke


@pytest.mark.parametrize("images", [3, 4])
@pytest.mark.parametrize("identities", [1, 5, 8, 60])
def test_nothing_lies_over_anything_else(
    identities: int, images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    strips = [list(torch.rand(images, 3, 8, 8)) for _ in range(identities)]
    path = tmp_path / "picture.png"
    labels = [[f"Some_Name {i}", *["100,001st"] * (images - 1)] for i in range(identities)]
    legend = "private image | best guess | median | look-alike\nabove each, its rank"
    reconstructions_picture(path, strips, labels, "gmi against test_resnet", legend)
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(drawn) == identities
    boxes = [axis.get_tightbbox() for axis in drawn]  # with the labels above the images
    assert figure._suptitle is not None  # type: ignore[attr-defined]
    boxes.append(figure._suptitle.get_window_extent())  # type: ignore[attr-defined]
    assert all(box is not None for box in boxes)
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]


def test_sixty_identities_are_drawn_evenly_chosen() -> None:
    assert _shown(3).tolist() == [0, 1, 2]
    assert len(set(_shown(62).tolist())) == 60
    assert _shown(1000).tolist()[::59] == [0, 999]


def test_ranks_stand_above_the_guess_the_median_and_the_lookalike() -> None:
    """The best guess is the target's choice, however well the judges rank another."""
    samples = {
        "confidence": torch.tensor([[0.1, 0.2, 0.3]]),
        "rank": torch.tensor([[7, 1, 1600]]),
        "best": torch.tensor([2]),
        "lookalike": torch.tensor([5]),
        "lookalike_rank": torch.tensor([12]),
    }
    private, images, alike = (
        torch.zeros(1, 3, 8, 8),
        torch.rand(1, 3, 3, 8, 8),
        torch.ones(1, 3, 8, 8),
    )
    ((strip,), (labels,)) = _strips(private, ["Ada"], images, samples, alike)
    assert labels == ["Ada", "1,600th", "7th", "12th"]
    for got, wanted in zip(strip, [private[0], images[0, 2], images[0, 0], alike[0]], strict=True):
        assert torch.equal(got, wanted)
    ((strip,), (labels,)) = _strips(private, ["Ada"], images, samples, None)
    assert labels == ["Ada", "30%", "20%"]
    assert torch.equal(strip[1], images[0, 2])


def test_ordinals() -> None:
    said = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 13: "13th"}
    said |= {21: "21st", 111: "111th", 112: "112th", 1000: "1,000th", 100_001: "100,001st"}
    assert {rank: ordinal(rank) for rank in said} == said


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
    images = torch.rand(len(names), 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = [[name, "best", "median"] for name in names]
    reconstructions_picture(path, [*map(list, images)], labels, "\n".join(names), "legend")
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
        "gallery.safetensors",
        "record.json",
        "reconstructions.safetensors",
        "report.html",
    }


def test_a_report_that_cannot_be_written_is_a_warning(
    tiny: Protocol, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no [/] template")

    request = ["run", "--protocol", "tiny", "--attack", "gmi", "--seed", "17"]
    request += ["--store", str(tiny_store), "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr("mibench.reports.run.render_report", fail)
        result = invoke(*request)
    assert result.exit_code == 0, result.output
    assert "its report could not be written (RuntimeError: no [/] template)" in result.output
    record = Record.model_validate_json((tmp_path / "out" / "record.json").read_text("utf-8"))
    assert record.status == "complete"
    assert not (tmp_path / "out" / "report.html").exists()
    again = invoke(*request)  # finds all stages, and writes the report
    assert "computing" not in again.output
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert page.count("<img") == 3 * 5  # no judge, no look-alike
    assert "private-0004" in page
    assert "report.html" in again.stdout


def test_the_gallery_holds_what_the_picture_shows(
    tiny: Protocol, tiny_store: Path, tmp_path: Path
) -> None:
    """Private images and the samples that are drawn, whatever is drawn of them."""
    out = tmp_path / "out"
    mibench.run(protocol="tiny", attack="gmi", seed=17, store=tiny_store, out=out)
    found = load_file(out / GALLERY)
    made = load_file(out / "reconstructions.safetensors")["images"]
    assert found["identities"].tolist() == list(range(len(made)))
    assert found["private"].shape == made[:, 0].shape
    assert found["private"].dtype == torch.uint8
    assert {"best", "median", "identities", "private"} == found.keys()
    assert found["best"].max() < made.shape[1]
