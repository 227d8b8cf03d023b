"""Pictures of runs: everything that is drawn can be seen."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from mibench.pictures import reconstructions_picture


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
