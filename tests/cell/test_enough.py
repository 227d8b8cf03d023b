"""Too little of something is refused before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mibench
from mibench.cell.request import Request
from mibench.errors import RequestError
from mibench.grid.plan import make_plan
from mibench.store.store import Store
from tests.kit.tiny_folder import SETTINGS


def faces(root: Path, **counts: int) -> Path:
    """Identities with so many images of noise each."""
    numbers = np.random.default_rng(0)
    for who, count in counts.items():
        (root / who).mkdir(parents=True)
        for i in range(count):
            pixels = numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / who / f"{i}.png")
    return root


def request(root: Path, attack: str = "gmi", defense: str = "none", **changes: Any) -> Request:
    settings = {path.replace("__", "."): value for path, value in changes.items()}
    return Request(
        protocol="folder",
        root=str(root),
        attack=attack,
        defense=defense,
        overrides={**SETTINGS, "protocol.min_images": 3, "protocol.gan.batch_size": 2, **settings},
    )


@pytest.mark.parametrize(
    ("counts", "options", "problem"),
    [
        ({"p": 1}, {}, "there is 1 public image, but .* need 2 or more: make fewer"),
        (
            {"p": 2},
            {"protocol__gan__batch_size": 8},
            "batches of 8, but there are 2 public .* --set prior.gan.batch_size=2",
        ),
        ({"p": 2}, {"protocol__attacked": 3}, "3 identities are to be attacked, but 2 are private"),
    ],
)
def test_what_is_too_little_is_named_with_the_way_out(
    tmp_path: Path, counts: dict[str, int], options: dict[str, Any], problem: str
) -> None:
    root = faces(tmp_path / "faces", **{"a": 3, "b": 3, **counts})
    spec = request(root, **options)
    place = {"store": tmp_path / "store", "out": tmp_path / "out", "device": "cpu"}
    with pytest.raises(RequestError, match=problem) as error:
        mibench.run(**spec.model_dump(exclude={"audit"}), **place)
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "store").glob("*/*"))
    with pytest.raises(RequestError, match=problem):
        make_plan([spec], Store(tmp_path / "store"))
    advised = re.search(r"--set (\S+)=(\d+)", str(error.value))
    if advised:  # is enough
        overrides = {**spec.overrides, advised[1]: int(advised[2])}
        make_plan([spec.model_copy(update={"overrides": overrides})], Store(tmp_path / "store"))


def test_the_smallest_folder_is_enough(tmp_path: Path) -> None:
    root = faces(tmp_path / "faces", a=3, b=3, p=2)
    made = mibench.run(
        **request(root, attack="improved-gmi").model_dump(exclude={"audit"}),
        store=tmp_path / "store",
        out=tmp_path / "out",
        device="cpu",
    )
    assert made.status == "complete"
    assert set(made.artifacts) >= {"split", "images"}
    assert (tmp_path / "out" / "split.json").exists()


def test_rendered_faces_are_counted_too() -> None:
    few = {"protocol.data.public_identities": 1, "protocol.data.public_images": 1}
    with pytest.raises(RequestError, match="there is 1 public image"):
        mibench.run(protocol="synthfaces-64", attack="gmi", overrides=few, device="cpu")
