"""Divisions by published lists: the rule by hand, where lists are kept, and CelebA's real ones."""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mibench.data.division import Division, Pictures, divide
from mibench.data.identity_division import IdentityDivision
from mibench.data.listed_division import ListedDivision
from mibench.data.lists import kept_lists, lists_folder, read_lists
from mibench.data.prepare import prepare
from mibench.data.source import arrange, md5, source_named
from mibench.data.sources import celeba
from mibench.errors import MibenchError, RequestError
from mibench.protocols import PROTOCOLS
from mibench.streams import stream
from tests.data.test_prepare import SHARED
from tests.data.test_sources import celeba_files

# Pictures of each person; the lists name those of the first four, but for one of each public one.
COUNTS = {"00001": 8, "00002": 4, "00003": 7, "00004": 3, "00005": 2, "00006": 1, "00007": 5}
TRAIN, TEST, PUBLIC = "trainset.txt", "testset.txt", "ganset.txt"
OWNERS = [name for name, count in COUNTS.items() for _ in range(count)]
FILES = [f"{row + 1:06d}.jpg" for row in range(len(OWNERS))]


def of(name: str) -> list[str]:
    return [file for file, owner in zip(FILES, OWNERS, strict=True) if owner == name]


LISTS = {
    TRAIN: [*of("00003")[:4], *of("00001")[3:]],
    TEST: [*of("00001")[:3], *of("00003")[4:]],
    PUBLIC: [*of("00004")[:2], *of("00002")[1:]],
}


def pictures(
    files: list[str] = FILES, owners: list[str] = OWNERS, name: str = "celeba"
) -> Pictures:
    """The index of a data set, without a pixel."""
    found = arrange("", files, files, owners)
    rows = np.arange(len(found))
    return Pictures(name, name, found.names, found.labels, found.parts, found.sources, rows)


def spec(**options: Any) -> ListedDivision:
    lists = {"train_list": TRAIN, "test_list": TEST, "public_list": PUBLIC}
    return ListedDivision(**{"dataset": "celeba", **lists, **options})


def named(made: Division, use: str, among: Pictures) -> list[str]:
    part, _ = made.uses[use]
    return [among.sources[row] for row in part.rows.tolist()]


def test_the_rule_by_hand() -> None:
    among = pictures()
    made = divide(spec(val_fraction=0.4, decoy_images=2, seed=7), among.listed(LISTS))
    assert made.names == ("00001", "00003")
    assert named(made, "test", among) == sorted(LISTS[TEST])
    # Of 5 and of 4 pictures: floor(0.4 n) = 2 and 1 for validation.
    kept = []
    for name, count in (("00001", 2), ("00003", 1)):
        rest = [file for file in of(name) if file in LISTS[TRAIN]]
        generator = stream(7, "listed-division", "celeba", "val", name)
        order = torch.randperm(len(rest), generator=generator).tolist()
        kept += sorted(rest[i] for i in order[:count])
    assert named(made, "val", among) == kept
    assert named(made, "train", among) == sorted({*LISTS[TRAIN]} - {*kept})
    assert named(made, "public", among) == sorted(LISTS[PUBLIC])
    assert made.public_names == ("00002", "00004")
    # 00006 has one picture only; nobody of the lists is a decoy.
    assert made.decoy_names == ("00005", "00007")
    owners = [among.names[label] for label in among.labels[made.decoys.rows]]  # type: ignore[union-attr]
    assert owners == ["00005", "00005", "00007", "00007"]
    assert (made.counts.least_test, made.counts.decoys, made.counts.decoy_images) == (3, 2, 2)
    alone = divide(spec(), among.listed(LISTS))
    assert alone.decoy_names == ("00005", "00006", "00007")
    lines = []
    for use in ("train", "val", "test", "public", "decoys"):
        for row in alone.uses[use][0].rows.tolist():
            who = among.names[among.labels[row]]
            lines.append(f"{use}\tceleba\t{who}\t{among.sources[row]}\n")
    assert alone.digest == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_pictures_or_people_that_are_not_the_published_ones() -> None:
    among = pictures()
    with pytest.raises(RequestError, match=r"lacks 1 of the 10 pictures that trainset.txt names"):
        among.listed({**LISTS, TRAIN: [*LISTS[TRAIN], "999999.jpg"]})
    for lists, options, reason in (
        ({TEST: of("00001")[:3]}, {}, r"'00003' has 4 pictures in trainset.txt and 0 in testset"),
        ({PUBLIC: [*LISTS[PUBLIC], FILES[0]]}, {}, r"1 of the pictures in ganset.txt show private"),
        ({}, {"decoy_images": 6}, r"no identity that is in no list has 6 pictures"),
        ({}, {"decoy_images": 4}, r"'00001' has 3 test images, decoys have 4 each"),
    ):
        with pytest.raises(RequestError, match=reason):
            divide(spec(**options), among.listed({**LISTS, **lists}))
    for options, reason in (
        ({"dataset": "celebb"}, "did you mean 'celeba'"),
        ({"min_images": 3}, "Extra inputs"),
        ({"decoys": "rare"}, "unlisted"),
        ({"val_fraction": 0}, "greater than 0"),
    ):
        with pytest.raises(ValidationError, match=reason):
            spec(**options)


# Where lists are kept


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the small set's lists, which its card knows during the test."""
    folder = tmp_path / "lists"
    folder.mkdir()
    for name, files in LISTS.items():
        label = "" if name == PUBLIC else " 0"
        (folder / name).write_text("".join(f"{file}{label}\n" for file in files))
    know(folder, monkeypatch)
    return folder


def know(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a folder's lists for the published ones."""
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in LISTS}
    card = celeba.CelebA.card.model_copy(update={"lists": sums})
    monkeypatch.setattr(celeba.CelebA, "card", card)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    owners = {file: int(owner) for file, owner in zip(FILES, OWNERS, strict=True)}
    return celeba_files(tmp_path / "originals", owners)


def make_ready(root: Path, data: Path, lists: Path | None = None) -> None:
    prepare("celeba", root, data, 8, incomplete=True, lists=lists, workers=1)


def test_a_set_is_prepared_with_its_lists_and_divided(
    brought: Path, root: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    make_ready(root, data)
    with pytest.raises(RequestError) as refused:
        spec().divide(resolution=8, data=data)
    said = str(refused.value)
    assert f"looked for {data / 'celeba-lists' / TRAIN}" in said
    assert f"--root DIR --resolution 8 --data {data} --lists FOLDER" in said
    make_ready(root, data, brought)  # nothing is decoded again
    divided = spec(decoy_images=2).divide(resolution=8, data=data)
    assert divided.split == divide(spec(decoy_images=2), pictures().listed(LISTS)).digest
    assert not divided.complete
    assert divided.of_people
    loaded = divided.load()
    assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (7, 2, 6)
    assert loaded.decoys is not None
    assert loaded.decoys.names == ("00005", "00007")
    assert len(loaded.public) == 5
    with pytest.raises(RequestError, match=r"no published list 'trainset2.txt'; known: trainset"):
        spec(train_list="trainset2.txt").divide(resolution=8, data=data)
    (data / "celeba-lists" / TEST).write_text("000001.jpg 0\n")
    with pytest.raises(
        MibenchError, match=r"testset.txt is damaged .*\nTo bring it again, run mib"
    ):
        divided.load()


def test_lists_are_missed_before_the_pictures_are(brought: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="published lists of celeba are not here"):
        spec().divide(resolution=8, data=tmp_path / "data")


def test_lists_are_checked_before_long_work(brought: Path, root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (brought / TRAIN).write_bytes((brought / TRAIN).read_bytes()[:-3])
    (brought / TEST).unlink()
    png = (brought / PUBLIC).read_text().replace(".jpg", ".png 0")
    (brought / PUBLIC).write_text(png)
    with pytest.raises(RequestError) as refused:
        make_ready(root, data, brought)
    said = str(refused.value)
    assert f"{brought / TRAIN} is damaged or another list (its SHA-256 is" in said
    assert f"{brought / TEST} cannot be read: No such file" in said
    assert f"{brought / PUBLIC} begins with '000020.png', where the published list names" in said
    assert "BiDO's with .png, have the same pictures under other names" in said
    assert "Expected in that folder: trainset.txt, testset.txt, ganset.txt. The released" in said
    assert not data.exists()
    with pytest.raises(RequestError, match=r"--lists: no published lists divide lfw: leave it out"):
        prepare("lfw", root, data, 8, lists=brought)


def test_line_ends_are_no_difference(brought: Path, root: Path, tmp_path: Path) -> None:
    """KEDMI's copies have those of Windows."""
    for name in LISTS:
        path = brought / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    make_ready(root, tmp_path / "data", brought)
    kept = kept_lists("celeba", tuple(LISTS), 8, tmp_path / "data")
    assert kept == {name: tuple(files) for name, files in LISTS.items()}
    text = (lists_folder("celeba", tmp_path / "data") / PUBLIC).read_bytes()
    assert b"\r" not in text


# The real division


def real(name: str) -> list[str]:
    path = SHARED / "celeba-lists" / f"{name}.xz"
    if not path.exists():
        pytest.skip(f"{path.name} is not present beside the repository (shared/data)")
    return lzma.decompress(path.read_bytes()).decode().splitlines()


@pytest.fixture(scope="module")
def everybody() -> Pictures:
    """All of CelebA, without a pixel."""
    text = "\r\n".join([*real("identity_CelebA.txt"), ""])
    assert md5(text.encode()) == celeba._MD5["identity_CelebA.txt"]
    files, owners = zip(*(line.split() for line in text.splitlines()), strict=True)
    return pictures(list(files), [owner.zfill(5) for owner in owners])


@pytest.mark.parametrize("name", ["celeba-64", "celeba-ffhq-64", "celeba-224"])
def test_a_draw_of_celebas_people_is_the_pinned_one(name: str, everybody: Pictures) -> None:
    card = PROTOCOLS[name]
    assert isinstance(card.data, IdentityDivision)
    stems = [f"{i:05d}" for i in range(70_000)]
    ffhq = [pictures(stems, stems, "ffhq")] if card.data.public_dataset else []
    made = divide(card.data, everybody, *ffhq)
    assert made.digest == card.split
    assert (made.counts.identities, made.counts.decoys) == (1_000, 3_661 - 1_000)
    assert (made.counts.least_test, made.counts.public) == (3, 30_000)
    assert made.counts.decoy_images < made.counts.least_test, "there is a ceiling"
    assert not {*made.names} & {*made.decoy_names}
    if not ffhq:
        assert not {*made.names, *made.decoy_names} & {*made.public_names}


def test_celebas_published_division(everybody: Pictures, tmp_path: Path) -> None:
    source, lists = source_named("celeba"), {}
    for name in source.card.lists:
        lists[name] = real(name)
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lists[name]))
    assert read_lists(source, tmp_path).keys() == lists.keys()  # by their SHA-256
    card = PROTOCOLS["celeba-64-lists"]
    assert isinstance(card.data, ListedDivision)
    files = {name: [line.split()[0] for line in lines] for name, lines in lists.items()}
    made = divide(card.data, everybody.listed(files))
    assert made.digest == card.split
    assert len(made.names) == 1_000
    assert len(made.train) + len(made.val) == len(lists[TRAIN]) == 27_018
    assert len(made.test) == len(lists[TEST]) == 3_009
    assert (len(made.public), len(made.public_names)) == (30_000, 6_453)
    assert (len(everybody.names), len(made.decoy_names)) == (1_000 + 6_453 + 2_724, 2_691)
    groups = [{*made.names}, {*made.public_names}, {*made.decoy_names}]
    assert len(set.union(*groups)) == sum(map(len, groups))
    # Labels are the published ones.
    owner = dict(zip(everybody.sources, everybody.labels.tolist(), strict=True))
    for line in lists[TEST]:
        file, label = line.split()
        assert made.names[int(label)] == everybody.names[owner[file]]
