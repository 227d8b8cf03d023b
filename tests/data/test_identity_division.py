"""Splits of prepared data sets: the rule, its determinism, and the real sets where present."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from mibench.data.division import Division, divide
from mibench.data.identity_division import IdentityDivision
from mibench.data.images import Dataset
from mibench.data.prepare import prepare
from mibench.data.prepared import Prepared, open_prepared
from mibench.data.source import source_named
from mibench.errors import RequestError
from mibench.protocols import PROTOCOLS
from mibench.streams import stream
from tests.data.test_prepare import SHARED
from tests.data.test_sources import mnist_files

COUNTS = {"Ann": 10, "Bob": 6, "Cyd": 12, "Dan": 6, "Eve": 3, "Fay": 2, "Gus": 10}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a small LFW, whose pictures are all different, and a small FFHQ."""
    folder = tmp_path_factory.mktemp("sets")
    colour = 0
    for name, count in COUNTS.items():
        for i in range(count):
            path = folder / "lfw" / name / f"{name}_{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (colour, 0, i)).save(path)
            colour += 1
    (folder / "ffhq").mkdir()
    for i in range(9):
        Image.new("RGB", (128, 128), (i, 200, 0)).save(folder / "ffhq" / f"{i:05d}.png")
    for name in ("lfw", "ffhq"):
        prepare(name, folder / name, folder / "data", 4, incomplete=True, workers=1)
    return folder / "data"


@pytest.fixture
def lfw(data: Path) -> Prepared:
    return open_prepared("lfw", 4, data)


def spec(**options: Any) -> IdentityDivision:
    return IdentityDivision(**{"dataset": "lfw", **options})


def split(chosen: IdentityDivision, *sets: Prepared) -> Division:
    return divide(chosen, *(each.pictures() for each in sets))


def load(chosen: IdentityDivision, resolution: int, data: Path) -> Dataset:
    return chosen.divide(resolution=resolution, data=data).load()


def owners(made: Division, lfw: Prepared, part: str) -> dict[str, int]:
    """How many pictures of each identity a part has; checks the labels on the way."""
    part_ = getattr(made, part)
    names = [lfw.names[label] for label in lfw.labels[part_.rows]]
    assert [made.names[label] for label in part_.labels] == names
    return {name: names.count(name) for name in made.names}


def test_the_identities_with_the_most_images_are_private(lfw: Prepared) -> None:
    made = split(spec(identities=3, val_fraction=0.2, test_fraction=0.3), lfw)
    assert made.names == ("Ann", "Cyd", "Gus")  # labels follow the names, not the counts
    assert made.public_names == ("Bob", "Dan", "Eve", "Fay")
    # Test: floor(0.3 n); validation: floor(0.2 · the rest).  10 → 3, 1, 6.  12 → 3, 1, 8.
    assert owners(made, lfw, "test") == {"Ann": 3, "Cyd": 3, "Gus": 3}
    assert owners(made, lfw, "val") == {"Ann": 1, "Cyd": 1, "Gus": 1}
    assert owners(made, lfw, "train") == {"Ann": 6, "Cyd": 8, "Gus": 6}
    used = np.concatenate([made.train.rows, made.val.rows, made.test.rows, made.public.rows])
    assert sorted(used.tolist()) == list(range(sum(COUNTS.values())))


def test_ties_go_by_name_and_small_identities_are_never_private(lfw: Prepared) -> None:
    assert split(spec(identities=4), lfw).names == ("Ann", "Bob", "Cyd", "Gus")
    every = split(spec(), lfw)
    assert every.names == ("Ann", "Bob", "Cyd", "Dan", "Eve", "Gus")
    assert owners(every, lfw, "train")["Eve"] == 1  # three images: one for each part
    assert split(spec(min_images=7), lfw).names == ("Ann", "Cyd", "Gus")


def test_named_classes_keep_their_order(lfw: Prepared) -> None:
    made = split(spec(classes=("Gus", "Bob")), lfw)
    assert made.names == ("Gus", "Bob")
    owners(made, lfw, "train")
    # 10 and 6 images: one of each for the test, one for validation.
    assert made.train.labels.tolist() == [0] * 8 + [1] * 4
    assert "Bob" not in made.public_names


def test_draws_are_the_documented_ones(lfw: Prepared) -> None:
    """Recomputed here from the rule alone."""
    made = split(spec(identities=2, seed=5, val_fraction=0.3, test_fraction=0.2, max_train=4), lfw)
    expected: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for name in ("Ann", "Cyd"):
        rows = np.flatnonzero(lfw.labels == lfw.names.index(name))
        part = {}
        for purpose, count in (("test", int(0.2 * len(rows))), ("val", None)):
            generator = stream(5, "identity-split", "lfw", purpose, name)
            order = rows[torch.randperm(len(rows), generator=generator).numpy()]
            count = int(0.3 * len(rows)) if count is None else count
            part[purpose], rows = np.sort(order[:count]), np.sort(order[count:])
        generator = stream(5, "identity-split", "lfw", "train", name)
        part["train"] = np.sort(rows[torch.randperm(len(rows), generator=generator).numpy()][:4])
        for purpose, found in part.items():
            expected[purpose] += found.tolist()
    assert {p: getattr(made, p).rows.tolist() for p in expected} == expected


def test_public_images_can_be_drawn(lfw: Prepared) -> None:
    every = split(spec(identities=3), lfw)
    drawn = split(spec(identities=3, public_images=5), lfw)
    assert len(drawn.public.rows) == 5
    assert set(drawn.public.rows) < set(every.public.rows)
    assert (drawn.train.rows == every.train.rows).all()
    names = [lfw.names[label] for label in lfw.labels[drawn.public.rows]]
    assert [drawn.public_names[label] for label in drawn.public.labels] == names
    assert sorted(set(names)) == list(drawn.public_names)
    others = {split(spec(identities=3, public_images=5, seed=s), lfw).digest for s in range(5)}
    assert len(others) == 5


def test_public_images_of_another_data_set(data: Path, lfw: Prepared) -> None:
    crossed = spec(public_dataset="ffhq", public_images=6)
    made, private, public = crossed.open(4, data)
    assert private.index.dataset == "lfw"
    assert public.index.dataset == "ffhq"
    assert len(made.public.rows) == len(made.public_names) == 6
    assert set(made.public_names) <= {f"{i:05d}" for i in range(9)}
    loaded = load(crossed, 4, data)
    assert loaded.train.mirror
    for image, label in zip(loaded.public.images, loaded.public.labels, strict=True):
        assert image[0, 0, 0] == int(made.public_names[label])
        assert image[1, 0, 0] == 200
    # Every identity may be private then.
    assert len(split(spec(min_images=3, public_dataset="ffhq"), lfw, public).names) == 6


def test_images_arrive_under_their_own_labels(data: Path, lfw: Prepared) -> None:
    chosen = spec(identities=3, public_images=4)
    made = split(chosen, lfw)
    loaded = load(chosen, 4, data)
    assert loaded.identities == 3
    for images, rows, labels, names in (
        (loaded.train, made.train.rows, made.train.labels, made.names),
        (loaded.val, made.val.rows, made.val.labels, made.names),
        (loaded.test, made.test.rows, made.test.labels, made.names),
        (loaded.public, made.public.rows, made.public.labels, made.public_names),
    ):
        assert images.images.dtype == torch.uint8
        assert (images.images.numpy() == lfw.images[rows]).all()
        assert images.labels.tolist() == labels.tolist()
        assert images.labels.dtype == torch.int64
        assert images.names == names


def test_the_digest_says_which_picture_is_used_for_what(lfw: Prepared) -> None:
    made = split(spec(identities=2, public_images=3), lfw)
    lines = []
    for part in ("train", "val", "test", "public"):
        for row in getattr(made, part).rows:
            name = lfw.names[lfw.labels[row]]
            lines.append(f"{part}\tlfw\t{name}\t{lfw.sources[row]}\n")
    assert made.digest == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert made.digest != split(spec(identities=2, public_images=3, seed=1), lfw).digest
    # Another way to ask for the same is the same split.
    assert split(spec(identities=2), lfw).digest == split(spec(classes=("Ann", "Cyd")), lfw).digest


def test_a_split_is_pinned(lfw: Prepared, data: Path) -> None:
    """The rule may not change unnoticed: protocol cards hold such digests."""
    pinned = "8b58a95f6f6bc2345b3adbcb1f6bb1eaeb216e9753a4218dad359ed733e390d5"
    chosen = spec(identities=3, public_images=8, seed=3)
    assert split(chosen, lfw).digest == pinned
    program = (
        "from mibench.data.identity_division import *\n"
        f"spec = IdentityDivision.model_validate_json({chosen.model_dump_json()!r})\n"
        f"print(spec.divide(resolution=4, data={str(data)!r}).split)"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == pinned


def test_the_official_test_part(tmp_path: Path) -> None:
    mnist_files(tmp_path / "raw", train=300, test=50)
    prepare("mnist", tmp_path, tmp_path / "data", 28, incomplete=True, workers=1)
    digits = spec(dataset="mnist", classes=("1", "4"), test_fraction=None, val_fraction=0.1)
    made, mnist, _ = digits.open(28, tmp_path / "data")
    test = np.flatnonzero((mnist.parts == 3) & np.isin(mnist.labels, (1, 4)))
    assert sorted(made.test.rows.tolist()) == test.tolist()
    assert len(made.test) == 10
    assert (len(made.val), len(made.train)) == (6, 54)
    assert set(mnist.parts[np.concatenate([made.train.rows, made.val.rows])]) == {1}
    assert len(made.public.rows) == 350 - 70  # from both parts
    assert set(mnist.parts[made.public.rows]) == {1, 3}
    loaded = load(digits, 28, tmp_path / "data")
    assert not loaded.train.mirror
    assert not loaded.public.to(torch.device("cpu")).select(torch.arange(3)).mirror


def test_too_little_data_says_what_to_do(lfw: Prepared, data: Path) -> None:
    for options, reason in (
        ({"identities": 7}, r"6 of 7 identities have 3 or more images, but 7 private"),
        ({"min_images": 50}, r"0 of 7 identities have 50 or more"),
        ({"classes": ("Ann", "Zoe")}, r"no identity 'Zoe'; it has 7, 'Ann' to 'Gus'"),
        ({"classes": ("Ann", "Fay")}, r"'Fay' has 2 images, fewer than min_images = 3"),
        ({"identities": 2, "public_images": 99}, r"27 images can be public, but 99 .*public_data"),
        ({"identities": 2, "test_fraction": None}, r"'Ann' has 0 images in the official test"),
    ):
        with pytest.raises(RequestError, match=reason):
            split(spec(**options), lfw)
    with pytest.raises(RequestError, match="mibench data prepare celeba --root DIR"):
        load(spec(dataset="celeba"), 64, data)
    with pytest.raises(RequestError, match=r"mibench data prepare ffhq .* --crop 100"):
        load(spec(public_dataset="ffhq", public_crop=100), 4, data)


def test_wrong_specifications() -> None:
    for options, reason in (
        ({"dataset": "lfv"}, "no data set 'lfv'"),
        ({"public_dataset": "lfw"}, "leave public_dataset out"),
        ({"public_crop": 3}, "which is not given"),
        ({"identities": 3, "classes": ("a", "b")}, "either identities"),
        ({"classes": ("a", "a")}, "twice"),
        ({"classes": ("a",)}, "at least 2"),
        ({"val_fraction": 0}, "greater than 0"),
        ({"max_trains": 1}, "Extra inputs"),
    ):
        with pytest.raises(ValidationError, match=reason):
            spec(**options)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_holds_the_chosen_rows_only(tmp_path: Path) -> None:
    """A set of 192 MiB, of which a tenth is chosen: the peak is that tenth and little more."""
    mnist_files(tmp_path / "raw", train=60_000, test=5536)
    prepare("mnist", tmp_path, tmp_path / "data", 32, incomplete=True, workers=1)
    program = f"""
from mibench.data.identity_division import IdentityDivision
def most():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(l for l in lines if l.startswith("VmHWM")).split()[1]) / 1024
def spec(n):
    return IdentityDivision(dataset="mnist", classes=("0", "1"), max_train=n, public_images=n)
spec(9).divide(resolution=32, data={str(tmp_path / "data")!r}).load()
before = most()
data = spec(3000).divide(resolution=32, data={str(tmp_path / "data")!r}).load()
held = sum(p.images.nbytes for p in (data.train, data.val, data.test, data.public)) / 2**20
print(held, most() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    held, more = map(float, run.stdout.split())
    assert 30 < held < 40
    assert more < held + 12


# Real sets


def test_the_real_mnist_has_the_papers_counts(tmp_path: Path) -> None:
    if not (SHARED / "mnist").exists():
        pytest.skip("mnist is not present beside the repository (shared/data)")
    prepare("mnist", SHARED / "mnist", tmp_path, 8, workers=1)
    low = spec(dataset="mnist", classes=tuple("01234"), test_fraction=None)
    made, _, _ = low.open(8, tmp_path)
    assert len(made.train) + len(made.val) == 30_596
    assert len(made.test) == 5_139
    assert len(made.public.rows) == 34_265
    assert made.public_names == tuple("56789")
    for name in ("mnist-32", "mnist-32-small"):
        card = PROTOCOLS[name]
        assert isinstance(card.data, IdentityDivision)
        assert card.data.divide(resolution=8, data=tmp_path).split == card.split


@pytest.mark.slow
def test_the_real_cifar_in_files(tmp_path: Path) -> None:
    """Listed only; decoding it is no other code than the other sets'."""
    archive = SHARED / "cifar10-jpg.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not present beside the repository (shared/data)")
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile():
                path = tmp_path / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    found = source_named("cifar10").listing(tmp_path)
    assert np.bincount(found.parts).tolist() == [0, 50_000, 0, 10_000]
    assert np.bincount(found.labels).tolist() == [6_000] * 10


# Decoys


def test_rare_people_are_decoys_and_not_public(lfw: Prepared) -> None:
    made = split(spec(identities=3, test_fraction=0.3, decoys="rare", decoy_images=2), lfw)
    assert made.names == ("Ann", "Cyd", "Gus")
    assert made.decoy_names == ("Fay",)
    assert made.public_names == ("Bob", "Dan", "Eve")
    assert made.decoys is not None
    assert [lfw.names[label] for label in lfw.labels[made.decoys.rows]] == ["Fay", "Fay"]
    assert (made.counts.decoys, made.counts.decoy_images) == (1, 2)
    rows = np.concatenate([part.rows for part, _ in made.uses.values()])
    assert sorted(rows.tolist()) == list(range(sum(COUNTS.values())))


def test_drawn_private_people_and_decoys_are_exchangeable(lfw: Prepared) -> None:
    """Over seeds each of those who could be private is so equally often; the others are decoys."""
    options = {"min_images": 6, "test_fraction": 0.3, "decoys": "drawn"}
    counts = dict.fromkeys(("Ann", "Bob", "Cyd", "Dan", "Gus"), 0)
    for seed in range(200):
        made = split(spec(identities=2, seed=seed, **options), lfw)
        assert {*made.names, *made.decoy_names} == counts.keys()
        assert made.public_names == ("Eve", "Fay")
        assert made.decoys is not None
        assert len(made.decoys) == 3  # a picture of each; their others are of no use
        for name in made.names:
            counts[name] += 1
    assert all(60 <= count <= 100 for count in counts.values())  # 80 ± 7 of 200


def test_a_draw_of_private_people_is_the_documented_one(lfw: Prepared) -> None:
    made = split(spec(identities=2, min_images=6, decoys="drawn", seed=4), lfw)
    labels = torch.tensor([lfw.names.index(n) for n in ("Ann", "Bob", "Cyd", "Dan", "Gus")])
    generator = stream(4, "identity-split", "lfw", "private", "lfw")
    first = labels[torch.randperm(5, generator=generator)][:2].tolist()
    assert made.names == tuple(sorted(lfw.names[label] for label in first))


def test_decoys_are_loaded_with_their_own_labels(data: Path, lfw: Prepared) -> None:
    chosen = spec(identities=2, min_images=6, decoys="drawn", decoy_images=2, test_fraction=0.4)
    made, loaded = split(chosen, lfw), load(chosen, 4, data)
    assert loaded.decoys is not None
    assert made.decoys is not None
    assert loaded.decoys.names == made.decoy_names
    assert torch.bincount(loaded.decoys.labels).tolist() == [2, 2, 2]
    assert torch.equal(loaded.decoys.images, lfw.rows(made.decoys.rows))
    others = {image.numpy().tobytes() for part in ("train", "val", "test", "public")
              for image in getattr(loaded, part).images}  # fmt: skip
    assert not others & {image.numpy().tobytes() for image in loaded.decoys.images}
    without = split(chosen.model_copy(update={"decoys": None, "decoy_images": 1}), lfw)
    assert without.digest != made.digest


def test_decoys_that_cannot_be_had(lfw: Prepared) -> None:
    for options, reason in (
        (
            {"decoys": "drawn", "identities": 5, "min_images": 6},
            "no identity is left to be a decoy",
        ),
        ({"decoys": "rare", "identities": 2, "min_images": 9, "decoy_images": 5}, "decoy_images"),
        (
            {"decoys": "rare", "identities": 2, "test_fraction": 0.1, "decoy_images": 2},
            "'Ann' has 1 test images, decoys have 2 each",
        ),
    ):
        with pytest.raises(RequestError, match=reason):
            split(spec(**options), lfw)
    for options, reason in (
        ({"decoys": "drawn"}, "give identities"),
        ({"decoys": "drawn", "identities": 2, "decoy_images": 4}, "more than min_images"),
        ({"decoys": "rare", "decoy_images": 3}, "no less than min_images"),
        ({"decoy_images": 2}, "does nothing without decoys"),
    ):
        with pytest.raises(ValidationError, match=reason):
            spec(**options)
