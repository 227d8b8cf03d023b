"""The pictures of an audit: who is private, public or a decoy, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mibench.data.audited import AuditData, AuditImages
from mibench.errors import RequestError
from tests.kit import layouts

PRIVATE = {"Ann": 8, "Bob": 5, "Cyd": 3}
PUBLIC = {"Pat": 4, "Quin": 3, "Rae": 1, "Sam": 2, "Tom": 2}
DECOYS = {"Una": 2, "Vic": 1, "Wes": 3}


def people(root: Path, counts: dict[str, int], first: int) -> Path:
    """A folder whose pictures no other one has."""
    number = first
    for who, count in counts.items():
        (root / who).mkdir(parents=True)
        for _ in range(count):
            data = layouts.encoded(layouts.pixels(number))
            (root / who / f"{number:03d}.png").write_bytes(data)
            number += 1
    return root


@pytest.fixture
def place(tmp_path: Path) -> Path:
    people(tmp_path / "private", PRIVATE, 0)
    people(tmp_path / "public", PUBLIC, 100)
    people(tmp_path / "decoys", DECOYS, 200)
    (tmp_path / "flat").mkdir()
    for number in range(6):
        (tmp_path / "flat" / f"{number}.png").write_bytes(
            layouts.encoded(layouts.pixels(300 + number))
        )
    return tmp_path


def divide(place: Path, public: str = "public", **said: Any) -> AuditImages:
    own = {name: said.pop(name) for name in ("names",) if name in said}
    decoys = said.pop("of", None)
    kind = "given" if decoys else ("public" if public == "public" else None)
    options = {"decoys": kind} | said
    return AuditData(**options).divide(
        resolution=8,
        root=place / "private",
        public=place / public,
        decoys=None if decoys is None else place / decoys,
        **own,
    )


def files(images: AuditImages, use: str) -> dict[str, list[str]]:
    album, part, names = images.uses[use]
    found: dict[str, list[str]] = {name: [] for name in names}
    for row, label in zip(part.rows.tolist(), part.labels.tolist(), strict=True):
        found[names[label]].append(album.files[row])
    return found


def test_private_images_judge_only(place: Path) -> None:
    """min(n - 1, max(2, floor(.3 n))) test images, the rest for the evaluators; no validation."""
    images = divide(place)
    train, test = files(images, "train"), files(images, "test")
    assert {who: len(own) for who, own in test.items()} == {"Ann": 2, "Bob": 2, "Cyd": 2}
    assert {who: len(own) for who, own in train.items()} == {"Ann": 6, "Bob": 3, "Cyd": 1}
    for who, count in PRIVATE.items():
        assert len({*train[who], *test[who]}) == count
        assert all(file.startswith(f"{who}/") for file in train[who] + test[who])
    assert images.counts.val == 0
    assert images.counts.least_test == 2
    more = divide(place, test_fraction=0.6)
    assert len(files(more, "test")["Ann"]) == 4


def test_half_of_the_public_people_are_held_out(place: Path) -> None:
    images = divide(place)
    public, decoys = files(images, "public"), files(images, "decoys")
    assert not public.keys() & decoys.keys()
    assert public.keys() | decoys.keys() == PUBLIC.keys()
    assert len(decoys) == len(PUBLIC) // 2
    assert all(len(own) == 1 for own in decoys.values())
    assert all(len(own) == PUBLIC[who] for who, own in public.items())
    drawn = {frozenset(files(divide(place, split_seed=s), "decoys")) for s in range(8)}
    assert len(drawn) > 2
    two = divide(place, decoy_images=2)
    assert all(len(own) == 2 for own in files(two, "decoys").values())
    assert "Rae" not in files(two, "decoys")
    assert two.counts.decoy_images == 2


def test_decoys_of_their_own(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = divide(place, of="decoys")
    assert files(images, "decoys").keys() == DECOYS.keys()
    assert files(images, "public").keys() == PUBLIC.keys()
    two = divide(place, of="decoys", decoy_images=2)
    assert files(two, "decoys").keys() == {"Una", "Wes"}
    assert "1 people" in caplog.text
    shutil.rmtree(place / "decoys" / "Una")
    shutil.rmtree(place / "decoys" / "Wes")
    with pytest.raises(RequestError, match=r"nobody there has 2 pictures.*decoy_images"):
        divide(place, of="decoys", decoy_images=2)


def test_public_images_without_labels(place: Path) -> None:
    images = divide(place, public="flat")
    assert images.counts.public == 6
    assert images.counts.decoys == 0
    assert "decoys" not in images.uses
    assert divide(place, public="flat", of="decoys").counts.decoys == 3


def test_what_is_loaded_is_what_was_divided(place: Path) -> None:
    images = divide(place, of="decoys")
    data = images.load()
    assert data.val.images.shape == (0, 3, 8, 8)
    assert data.train.names == data.test.names == ("Ann", "Bob", "Cyd")
    assert torch.bincount(data.test.labels).tolist() == [2, 2, 2]
    assert data.decoys is not None
    assert data.decoys.names == ("Una", "Vic", "Wes")
    album, part, _ = images.uses["test"]
    expected = album.load(part.rows.tolist(), 8)
    assert torch.equal(data.test.images, expected)


def test_the_networks_order_of_classes(place: Path) -> None:
    names = ("Cyd", "Ann", "Bob")
    images = divide(place, names=names)
    assert images.uses["test"][2] == names
    assert files(images, "test").keys() == set(names)
    assert all(file.startswith("Cyd/") for file in files(images, "test")["Cyd"])
    assert images.digest != divide(place).digest


def test_content_counts_and_places_do_not(place: Path, tmp_path: Path) -> None:
    before = divide(place, of="decoys")
    other = tmp_path / "elsewhere"
    for name in ("private", "public", "decoys"):
        shutil.copytree(place / name, other / name)
    assert divide(other, of="decoys").digest == before.digest
    (other / "decoys" / "Una" / "200.png").write_bytes(layouts.encoded(layouts.pixels(999)))
    assert divide(other, of="decoys").digest != before.digest


def test_other_layouts(tmp_path: Path) -> None:
    table = layouts.csv_file(tmp_path / "csv", {"Ann": 4, "Bob": 4})
    people(tmp_path / "public", PUBLIC, 100)
    images = AuditData(decoys="public").divide(resolution=8, root=table, public=tmp_path / "public")
    assert images.uses["test"][2] == ("Ann", "Bob")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"names": ("Ann", "Bob")}, "shows 1 people whom --classes does not name .Cyd.*order"),
        ({"names": ("Ann", "Bob", "Cyd", "Dan")}, "no picture of 1 of the network's 4.*Dan"),
        ({"decoy_images": 3}, "'Cyd' has 3 usable images, but 4 are the least"),
    ],
)
def test_people_who_do_not_fit(place: Path, said: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        divide(place, **said)


def test_an_empty_class(place: Path) -> None:
    (place / "private" / "Dan").mkdir()
    with pytest.raises(RequestError, match=r"--images: .*\n.*Dan: no image in this folder"):
        divide(place)


@pytest.mark.parametrize(
    ("copy_to", "of", "message"),
    [
        ("public/Pat", None, r"1 pictures of --public .* also in --images .*would hold"),
        ("decoys/Una", "decoys", r"1 pictures of --decoys .* also in --images"),
    ],
)
def test_private_images_elsewhere_are_refused_by_content(
    place: Path, copy_to: str, of: str | None, message: str
) -> None:
    """Under another name and, in one case, in another format."""
    original = next((place / "private" / "Ann").iterdir())
    if of is None:
        from PIL import Image

        Image.open(original).save(place / copy_to / "holiday.bmp")
    else:
        shutil.copy(original, place / copy_to / "holiday.png")
    with pytest.raises(RequestError, match=message):
        divide(place, of=of)


def test_public_images_among_the_decoys_are_refused(place: Path) -> None:
    shutil.copy(next((place / "public" / "Pat").iterdir()), place / "decoys" / "Una" / "x.png")
    with pytest.raises(RequestError, match=r"also in --public.*neither the network nor"):
        divide(place, of="decoys")


def test_names_of_private_people_are_warned_of(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    people(place / "public", {"ann": 2}, 400)
    with caplog.at_level(logging.WARNING):
        divide(place)
    assert "1 people of --public are called as some whom --images shows (ann)" in caplog.text


def test_a_changed_picture_is_noticed(place: Path) -> None:
    images = divide(place)
    file = next((place / "private" / "Ann").iterdir())
    file.write_bytes(layouts.encoded(layouts.pixels(7777)))
    with pytest.raises(RequestError, match="has changed since"):
        images.load()


def test_what_is_written_down(place: Path, tmp_path: Path) -> None:
    (place / "private" / "Ann" / "broken.png").write_bytes(b"no picture")
    images = divide(place, skip_unreadable=True)
    images.write(tmp_path)
    said = json.loads((tmp_path / "split.json").read_text())
    assert said["skipped"]["--images"].keys() == {"Ann/broken.png"}
    assert said["val"] == {"Ann": [], "Bob": [], "Cyd": []}
    held = [file for use in ("train", "test") for own in said[use].values() for file in own]
    assert len(held) == sum(PRIVATE.values()) == len(np.unique(held))


def test_messages_name_the_option(place: Path) -> None:
    (place / "nothing").mkdir()
    with pytest.raises(RequestError, match=r"--public: .*pass their parent folder as --public"):
        AuditData().divide(resolution=8, root=place / "private", public=place / "nothing")
    with pytest.raises(RequestError, match=r"--decoys: .*6 images outside any identity's folder"):
        divide(place, of="flat")
