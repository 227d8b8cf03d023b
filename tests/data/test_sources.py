"""The data sets' readers, on small files in each real layout, made here."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
import torchvision.transforms
from PIL import Image

from mibench.data.identity_division import IdentityDivision
from mibench.data.pixels import decode, image_bytes
from mibench.data.prepare import prepare
from mibench.data.source import PARTS, SOURCES, Listing, UnusableImage, md5, source_named
from mibench.data.sources import celeba, mnist
from mibench.data.sources.cifar10 import CLASSES
from mibench.errors import MibenchError, RequestError


def picture(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """A picture of random pixels; PNG keeps them exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def read(name: str, path: Path, *options: Any) -> np.ndarray:
    """Pixels of a picture of a data set."""
    source = source_named(name)
    return decode(image_bytes(source, path.parent, path.name), source, *options)


def celeba_files(root: Path, people: dict[str, int]) -> Path:
    for i, file in enumerate(people):
        picture(root / "img_align_celeba" / file, 178, 218, i)
    lines = [f"{file} {number}\n" for file, number in people.items()]
    (root / "identity_CelebA.txt").write_text("".join(lines))
    return root


def listing(name: str, root: Path) -> Listing:
    found = source_named(name).listing(root, incomplete=True)
    assert list(found.sources) == sorted(found.sources)
    assert len(set(found.sources)) == len(found) == len(found.labels) == len(found.parts)
    assert list(found.names) == sorted(found.names)
    if found.pixels is None:
        assert all((root / file).is_file() for file in found.files)
    return found


def people(found: Listing) -> list[tuple[str, str]]:
    pairs = zip(found.sources, found.labels, strict=True)
    return [(source, found.names[label]) for source, label in pairs]


PUBLISHED = [name for name in SOURCES.names() if source_named(name).card.images]


@pytest.mark.parametrize("name", PUBLISHED)
def test_cards_say_what_a_user_needs(name: str, tmp_path: Path) -> None:
    source = source_named(name)
    card = source.card
    assert card.name == name
    assert card.home.startswith("http")
    assert card.licence
    assert card.images is not None
    assert card.images > 10_000
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(RequestError) as error:
            source.listing(folder)
        text = str(error.value)
        assert str(folder) in text
        assert card.how_to_get in text
        assert all(line in text for line in card.layout.splitlines())


def test_unknown_names_get_the_close_one() -> None:
    with pytest.raises(RequestError, match=r"'celebA'; did you mean 'celeba'"):
        source_named("celebA")
    everything = (
        "arrow, celeba, cifar10, csv, facescrub, ffhq, folder, huggingface, lfw, mnist, npz"
    )
    with pytest.raises(RequestError, match=f"there are {everything}"):
        source_named("zzz")


# CelebA


@pytest.mark.parametrize("below", ["celeba", "."])
def test_celeba(tmp_path: Path, below: str) -> None:
    people_ = {"000002.jpg": 2937, "000001.jpg": 2880, "000003.jpg": 12}
    base = celeba_files(tmp_path / below, people_)
    found = listing("celeba", tmp_path)
    assert people(found) == [
        ("000001.jpg", "02880"),
        ("000002.jpg", "02937"),
        ("000003.jpg", "00012"),
    ]
    assert found.names == ("00012", "02880", "02937")
    assert [PARTS[part] for part in found.parts] == [None] * 3
    (base / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n")
    assert [PARTS[p] for p in listing("celeba", tmp_path).parts] == ["train", "val", "test"]


def test_celebas_lists_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    celeba_files(tmp_path, {"000001.jpg": 1})
    with pytest.raises(RequestError, match=r"identity_CelebA.txt is damaged .*fetch it again"):
        source_named("celeba").listing(tmp_path)
    path = tmp_path / "identity_CelebA.txt"
    monkeypatch.setitem(celeba._MD5, path.name, md5(path.read_bytes()))
    assert len(source_named("celeba").listing(tmp_path)) == 1
    picture(tmp_path / "img_align_celeba" / "000009.jpg", 178, 218)
    with pytest.raises(RequestError, match=r"1 files .* not in identity_CelebA.txt \(000009.jpg\)"):
        listing("celeba", tmp_path)
    path.write_text("000001.jpg 1\n000009.jpg 2\n000001.jpg 1\n")
    assert len(listing("celeba", tmp_path)) == 2
    path.write_text("000001.jpg 1\n000009.jpg 2\n000001.jpg 3\n")
    with pytest.raises(RequestError, match=r"line 3: 000001.jpg has 3 here and 1 in an earlier"):
        listing("celeba", tmp_path)
    path.write_text("000001.jpg 1\n000009.jpg 2\n")
    parts = tmp_path / "list_eval_partition.txt"
    parts.write_text("000001.jpg 7\n")
    with pytest.raises(RequestError, match=r"partition.txt has the part '7', but there are 0, 1"):
        listing("celeba", tmp_path)
    parts.unlink()
    path.write_text("000001.jpg\n")
    with pytest.raises(RequestError, match=r"identity_CelebA.txt, line 1: expected"):
        listing("celeba", tmp_path)
    path.unlink()
    with pytest.raises(RequestError, match=r"identity_CelebA.txt cannot be read: No such file"):
        listing("celeba", tmp_path)


def published(crop: int, width: int, height: int, side: int) -> Callable[[Image.Image], np.ndarray]:
    """The released code's transformation: tensor, slice, picture, Resize, tensor."""
    top, left = (height - crop) // 2, (width - crop) // 2
    transform = torchvision.transforms.Compose(
        [
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Lambda(lambda x: x[:, top : top + crop, left : left + crop]),
            torchvision.transforms.ToPILImage(),
            torchvision.transforms.Resize((side, side)),
        ]
    )
    return lambda image: np.asarray(transform(image))


def test_celebas_crop_is_the_papers(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 178, 218)
    expected = published(108, 178, 218, 64)(Image.open(path))
    found = read("celeba", path, 64)
    assert found.shape == (3, 64, 64)
    assert (found == expected.transpose(2, 0, 1)).all()
    # At the crop's own size nothing is resampled: rows 55 to 162, columns 35 to 142.
    raw = np.asarray(Image.open(path))
    assert (read("celeba", path, 108).transpose(1, 2, 0) == raw[55:163, 35:143]).all()
    assert (read("celeba", path, 10, 10).transpose(1, 2, 0) == raw[104:114, 84:94]).all()
    with pytest.raises(UnusableImage, match="178×218: img_celeba"):
        read("celeba", picture(tmp_path / "b.png", 178, 200), 64)


# FFHQ


@pytest.mark.parametrize("below", ["thumbnails128x128", "ffhq/images1024x1024", "."])
def test_ffhq(tmp_path: Path, below: str) -> None:
    for file in ("01000/01000.png", "00000/00001.png", "00000/00000.png"):
        picture(tmp_path / below / file, 4, 4)
    picture(tmp_path / below / "69999.png", 4, 4)
    found = listing("ffhq", tmp_path)
    assert people(found) == [(n, n) for n in ("00000", "00001", "01000", "69999")]


def test_ffhq_refuses_other_names(tmp_path: Path) -> None:
    picture(tmp_path / "00000" / "00000.png", 4, 4)
    picture(tmp_path / "00000.png", 4, 4)
    with pytest.raises(RequestError, match="00000 twice"):
        listing("ffhq", tmp_path)
    picture(tmp_path / "00000" / "face.png", 4, 4)
    with pytest.raises(RequestError, match=r"not 00000/face\.png"):
        listing("ffhq", tmp_path)


def test_ffhqs_crop_is_the_same_face_at_both_sizes(tmp_path: Path) -> None:
    small = picture(tmp_path / "00000.png", 128, 128)
    expected = published(88, 128, 128, 64)(Image.open(small))
    assert (read("ffhq", small, 64) == expected.transpose(2, 0, 1)).all()
    big = tmp_path / "00001.png"
    Image.open(small).resize((1024, 1024), Image.Resampling.NEAREST).save(big)
    box = (160, 160, 864, 864)  # 20 · 8 and 108 · 8
    assert (
        read("ffhq", big, 704).transpose(1, 2, 0) == np.asarray(Image.open(big).crop(box))
    ).all()
    with pytest.raises(UnusableImage, match="256×256, but"):
        read("ffhq", picture(tmp_path / "00002.png", 256, 256), 64)


# FaceScrub


@pytest.mark.parametrize(
    "bases", [("actors/faces", "actresses/faces"), ("actors", "actresses"), "."]
)
def test_facescrub_in_actor_folders(tmp_path: Path, bases: tuple[str, ...]) -> None:
    first, second = (bases[0], bases[-1])
    picture(tmp_path / second / "Zoe" / "Zoe_7_8.png", 5, 5)
    picture(tmp_path / first / "Adam Ant" / "b.jpeg", 5, 5)
    picture(tmp_path / first / "Adam Ant" / "a.jpeg", 5, 5)
    (tmp_path / "README.txt").write_text("about")
    assert people(listing("facescrub", tmp_path)) == [
        ("Adam Ant/a.jpeg", "Adam Ant"),
        ("Adam Ant/b.jpeg", "Adam Ant"),
        ("Zoe/Zoe_7_8.png", "Zoe"),
    ]


def test_facescrub_needs_both_groups_and_flat_folders(tmp_path: Path) -> None:
    picture(tmp_path / "actors" / "Adam" / "a.png", 5, 5)
    with pytest.raises(RequestError, match="has actors, but not actresses"):
        listing("facescrub", tmp_path)
    picture(tmp_path / "actresses" / "Adam" / "a.png", 5, 5)
    with pytest.raises(RequestError, match="Adam is in actors and in actresses"):
        listing("facescrub", tmp_path)
    picture(tmp_path / "other" / "x" / "y" / "z.png", 5, 5)
    with pytest.raises(RequestError, match=r"x holds folders, not images \(y\)"):
        listing("facescrub", tmp_path / "other")


HEADER = "name\timage_id\tface_id\turl\tbbox\tsha256\n"


def lists(root: Path, actors: str, actresses: str) -> None:
    root.mkdir(exist_ok=True)
    (root / "facescrub_actors.txt").write_text(HEADER + actors)
    (root / "facescrub_actresses.txt").write_text(HEADER + actresses)


@pytest.mark.parametrize("below", ["actors/images", "images", "."])
def test_facescrub_crops_to_the_boxes(tmp_path: Path, below: str) -> None:
    other = below.replace("actors", "actresses")
    lists(
        tmp_path,
        "Adam Ant\t1\t4\thttp://a\t2,3,12,9\tx\nAdam Ant\t2\t5\thttp://b\t0,0,9,9\tx\n",
        "Zoe\t8\t9\thttp://c\t-2,1,99,8\tx\nGone\t3\t3\thttp://d\t1,1,2,2\tx\n",
    )
    picture(tmp_path / below / "Adam_Ant" / "Adam_Ant_1.png", 20, 15)
    zoe = picture(tmp_path / other / "Zoe" / "Zoe_8_9.png", 10, 10)
    found = listing("facescrub", tmp_path)
    assert people(found) == [("Adam_Ant/1_4", "Adam_Ant"), ("Zoe/8_9", "Zoe")]
    assert found.boxes is not None
    assert found.boxes.tolist() == [[2, 3, 12, 9], [-2, 1, 99, 8]]

    adam = Image.open(tmp_path / found.files[0])
    squeezed = adam.crop((2, 3, 12, 9)).resize((6, 6), Image.Resampling.BILINEAR)
    pixels = read("facescrub", tmp_path / found.files[0], 6, None, found.boxes[0])
    assert (pixels.transpose(1, 2, 0) == np.asarray(squeezed)).all()
    clipped = Image.open(zoe).crop((0, 1, 10, 8)).resize((6, 6), Image.Resampling.BILINEAR)
    pixels = read("facescrub", zoe, 6, None, found.boxes[1])
    assert (pixels.transpose(1, 2, 0) == np.asarray(clipped)).all()
    with pytest.raises(UnusableImage, match="10×10: its face's box lies outside it"):
        read("facescrub", zoe, 6, None, np.array([10, 0, 20, 9], dtype=np.int32))


def test_facescrubs_lists_are_checked(tmp_path: Path) -> None:
    lists(tmp_path, "Adam\t1\t4\thttp://a\t2,3,12\tx\n", "")
    with pytest.raises(RequestError, match=r"facescrub_actors.txt, line 2 is not a row"):
        listing("facescrub", tmp_path)
    lists(tmp_path, "Adam\t1\t4\thttp://a\t2,3,12,9\tx\n", "")
    with pytest.raises(RequestError, match="none of the pictures they name"):
        listing("facescrub", tmp_path)
    (tmp_path / "facescrub_actors.txt").write_text("a,b\n")
    with pytest.raises(RequestError, match="line 1: expected the columns name, image_id"):
        listing("facescrub", tmp_path)
    (tmp_path / "facescrub_actors.txt").unlink()
    with pytest.raises(
        RequestError, match=r"has facescrub_actresses\.txt, but not facescrub_actors"
    ):
        listing("facescrub", tmp_path)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def row(name: str, image: int, face: int, sum_: str, box: str = "2,3,12,9") -> str:
    return f"{name}\t{image}\t{face}\thttp://a\t{box}\t{sum_}\n"


def test_facescrubs_rows_count_once(tmp_path: Path) -> None:
    paths = [picture(tmp_path / "Adam" / f"Adam_{i}.png", 20, 15, i) for i in range(4)]
    zoe = [picture(tmp_path / "Zoe" / f"Zoe_{i}.png", 20, 15, 10 + i) for i in range(2)]
    shutil.copy(paths[0], paths[1])  # one original at two addresses
    shutil.copy(paths[2], zoe[1])  # and one that is said to show two people
    adam = [row("Adam", i, i, sha(path)) for i, path in enumerate(paths)]
    adam += [adam[3], adam[3], row("Adam", 3, 9, sha(paths[3]), "0,0,5,5"), row("Gone", 1, 1, "")]
    lists(tmp_path, "".join(adam), "".join(row("Zoe", i, 7, sha(p)) for i, p in enumerate(zoe)))
    found = listing("facescrub", tmp_path)
    assert found.sources == ["Adam/0_0", "Adam/3_3", "Adam/3_9", "Zoe/0_7"]
    assert found.sums == [sha(tmp_path / file) for file in found.files]
    assert found.notes == (
        "left out: 2 rows of the lists repeat earlier ones",
        "left out: 1 row of the lists shows a face of another row",
        "left out: 2 rows of the lists give one face to two people",
    )
    lists(tmp_path, row("Adam", 0, 0, "unknown"), "")
    assert listing("facescrub", tmp_path).notes == (
        "1 rows of the lists hold no SHA-256 to compare a picture with",
    )


def test_facescrubs_contradictions_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "Adam_Ant" / "Adam_Ant_1.png", 20, 15)
    rows = row("Adam Ant", 1, 4, "a" * 64), row("Adam Ant", 1, 4, "b" * 64)
    lists(tmp_path, "".join(rows), "")
    wrong = (
        r"actors.txt, line 3, gives the picture Adam_Ant/1_4 another .* than .*actors.txt, line 2"
    )
    with pytest.raises(RequestError, match=wrong):
        listing("facescrub", tmp_path)
    lists(tmp_path, rows[0], row("Adam_Ant", 1, 4, "a" * 64, "1,1,2,2"))
    with pytest.raises(RequestError, match=r"actresses.txt, line 2, gives .* Adam_Ant/1_4 another"):
        listing("facescrub", tmp_path)
    lists(tmp_path, rows[0], "")
    picture(tmp_path / "Adam_Ant" / "Adam_Ant_1.jpg", 20, 15)
    with pytest.raises(RequestError, match=r"Adam_Ant has Adam_Ant_1\.jpg and Adam_Ant_1\.png"):
        listing("facescrub", tmp_path)
    picture(tmp_path / "Adam Ant" / "Adam_Ant_1.png", 20, 15)
    with pytest.raises(RequestError, match="has Adam Ant and Adam_Ant, but the lists know one"):
        listing("facescrub", tmp_path)
    shutil.rmtree(tmp_path / "Adam Ant")
    lists(tmp_path, row("Adam Ant", 1, 4, "", "0,0,9,99999999999"), "")
    with pytest.raises(RequestError, match=r"line 2: no picture has a box like 0,0,9,9+"):
        listing("facescrub", tmp_path)


def test_facescrubs_originals_are_compared_with_the_lists_sums(tmp_path: Path) -> None:
    paths = [picture(tmp_path / name / f"{name}_1.png", 20, 15, i) for i, name in enumerate("AZ")]
    lists(tmp_path, row("A", 1, 1, sha(paths[0]).upper()), row("Z", 1, 1, "0" * 64))
    with pytest.raises(RequestError) as error:
        prepare("facescrub", tmp_path, tmp_path / "data", 8, incomplete=True, workers=1)
    assert "1 pictures of facescrub cannot be used" in str(error.value)
    assert f"{paths[1]}: is not the published picture: its SHA-256 is not" in str(error.value)
    paths[1].unlink()
    made = prepare("facescrub", tmp_path, tmp_path / "data", 8, incomplete=True, workers=1)
    assert made.sources == ["A/1_1"]


def test_copies_of_a_set_that_nobody_has_whole_are_left_out_of_its_parts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for group, people in (("actors", "ABC"), ("actresses", "DEF")):
        for who in people:
            for i in range(6 if who in "AB" else 2):
                picture(tmp_path / group / who / f"{who}_{i}.png", 8, 8, 100 * ord(who) + i)
    for i in range(6, 9):
        shutil.copy(tmp_path / "actors/A/A_0.png", tmp_path / "actors/A" / f"A_{i}.png")
    shutil.copy(tmp_path / "actors/B/B_5.png", tmp_path / "actresses/D/D_9.png")
    made = prepare("facescrub", tmp_path, tmp_path / "data", 8, incomplete=True, workers=1)
    spec = IdentityDivision(dataset="facescrub", identities=2, test_fraction=0.3)
    split, private, _ = spec.open(8, tmp_path / "data")
    rows = [row for part in (split.train, split.val, split.test, split.public) for row in part.rows]
    left_out = {made.sources[row] for row in range(len(made.labels))} - {
        private.sources[row] for row in rows
    }
    assert left_out == {"A/A_6.png", "A/A_7.png", "A/A_8.png", "B/B_5.png", "D/D_9.png"}
    spec.divide(resolution=8, data=tmp_path / "data")
    assert "pictures of another part too" not in caplog.text
    with pytest.raises(RequestError, match="1 of 6 identities have 6 or more images"):
        spec.model_copy(update={"min_images": 6}).open(8, tmp_path / "data")


# LFW


@pytest.mark.parametrize("below", ["lfw-py/lfw_funneled", "lfw-py/lfw-deepfunneled", "lfw", "."])
def test_lfw(tmp_path: Path, below: str) -> None:
    for name, count in (("Zoe_Ball", 1), ("Al_Gore", 2)):
        for i in range(count):
            picture(tmp_path / below / name / f"{name}_{i + 1:04d}.jpg", 4, 4)
    assert people(listing("lfw", tmp_path)) == [
        ("Al_Gore/Al_Gore_0001.jpg", "Al_Gore"),
        ("Al_Gore/Al_Gore_0002.jpg", "Al_Gore"),
        ("Zoe_Ball/Zoe_Ball_0001.jpg", "Zoe_Ball"),
    ]
    picture(tmp_path / below / "Al_Gore" / "Zoe_Ball_0002.jpg", 4, 4)
    with pytest.raises(RequestError, match=r"Zoe_Ball_0002.jpg is not named Al_Gore_0001.jpg"):
        listing("lfw", tmp_path)


def test_lfws_crop(tmp_path: Path) -> None:
    original = picture(tmp_path / "a.png", 250, 250)
    raw = np.asarray(Image.open(original))
    assert (read("lfw", original, 128).transpose(1, 2, 0) == raw[61:189, 61:189]).all()
    cropped = picture(tmp_path / "b.png", 64, 64)
    raw = np.asarray(Image.open(cropped))
    assert (read("lfw", cropped, 64).transpose(1, 2, 0) == raw).all()
    with pytest.raises(UnusableImage, match="64×60, but"):
        read("lfw", picture(tmp_path / "c.png", 64, 60), 64)
    with pytest.raises(UnusableImage, match="only 250×250 can be cropped"):
        read("lfw", cropped, 64, 100)


def test_broken_pictures_are_named_with_the_reason(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", 64, 64)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnusableImage, match=r"cannot be decoded: .*truncated"):
        read("lfw", path, 64)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(UnusableImage, match="not an image"):
        read("lfw", path, 64)
    path.unlink()
    with pytest.raises(UnusableImage, match="cannot be read: No such file"):
        read("lfw", path, 64)


# MNIST


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist_files(folder: Path, train: int = 6, test: int = 4, zipped: bool = False) -> None:
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for kind, count in (("train", train), ("t10k", test)):
        pixels = numbers.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        digits = (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((f"{kind}-images-idx3", pixels), (f"{kind}-labels-idx1", digits)):
            data = idx(array)
            path = folder / f"{name}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(data) if zipped else data)


@pytest.mark.parametrize(("below", "zipped"), [("MNIST/raw", False), ("raw", True), (".", True)])
def test_mnist(tmp_path: Path, below: str, zipped: bool) -> None:
    mnist_files(tmp_path / "set" / below, zipped=zipped)
    found = listing("mnist", tmp_path / "set")
    assert found.names == tuple("0123456789")
    assert found.sources[0] == "test/00000"
    assert found.sources[-1] == "train/00005"
    assert found.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    assert [PARTS[part] for part in found.parts] == ["test"] * 4 + ["train"] * 6
    assert found.pixels is not None
    if below == "MNIST/raw":
        theirs = torchvision.datasets.MNIST(str(tmp_path / "set"), train=True)
        assert (found.pixels[4:] == theirs.data.numpy()).all()


def test_mnists_files_are_checked(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    mnist_files(folder)
    with pytest.raises(RequestError, match=r"t10k-images-idx3-ubyte is damaged .*--download"):
        source_named("mnist").listing(tmp_path)
    images = folder / "t10k-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-1])
    with pytest.raises(RequestError, match="is not an IDX file of 3 dimensions"):
        listing("mnist", tmp_path)
    images.write_bytes(idx(np.zeros((3, 28, 28), dtype=np.uint8)))
    with pytest.raises(RequestError, match="t10k images and labels do not belong together"):
        listing("mnist", tmp_path)
    images.unlink()
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(RequestError, match=r"t10k-images-idx3-ubyte\.gz cannot be read: Compress"):
        listing("mnist", tmp_path)
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(RequestError, match=r"t10k-images-idx3-ubyte\.gz cannot be read: No such"):
        listing("mnist", tmp_path)


# CIFAR-10


def cifar_folders(root: Path) -> None:
    for part, count in (("train", 2), ("test", 1)):
        for name in CLASSES:
            for i in range(count):
                picture(root / part / name / f"{i:04d}.jpg", 32, 32)


def test_cifar_in_folders(tmp_path: Path) -> None:
    cifar_folders(tmp_path)
    found = listing("cifar10", tmp_path)
    assert len(found) == 30
    assert found.names[:5] == ("airplane", "automobile", "bird", "cat", "deer")
    assert people(found)[0] == ("test/airplane/0000.jpg", "airplane")
    assert people(found)[-1] == ("train/truck/0001.jpg", "truck")
    assert [PARTS[part] for part in found.parts] == ["test"] * 10 + ["train"] * 20
    (tmp_path / "train" / "ship").rename(tmp_path / "train" / "boat")
    with pytest.raises(RequestError, match="train/boat is no class"):
        listing("cifar10", tmp_path)


def cifar_batches(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Three small batches, with their sums in the place of the published ones."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    data = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)

    def batch(name: str, content: dict[str, Any]) -> list[str]:
        buffer = io.BytesIO()
        pickle.dump(content, buffer)
        (folder / name).write_bytes(buffer.getvalue())
        return [name, md5(buffer.getvalue())]

    published_ = torchvision.datasets.CIFAR10
    train = [
        batch("data_batch_1", {"data": data[2:4], "labels": [3, 9]}),
        batch("data_batch_2", {"data": data[4:], "labels": [0, 1]}),
    ]
    test = [batch("test_batch", {"data": data[:2], "labels": [5, 6]})]
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    name, sum_ = batch("batches.meta", {"label_names": names})
    monkeypatch.setattr(published_, "train_list", train)
    monkeypatch.setattr(published_, "test_list", test)
    monkeypatch.setattr(published_, "meta", {"filename": name, "key": "label_names", "md5": sum_})
    return data


def test_cifar_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = cifar_batches(tmp_path, monkeypatch)
    found = listing("cifar10", tmp_path)
    assert people(found) == [
        ("test/00000", "dog"),
        ("test/00001", "frog"),
        ("train/00000", "cat"),
        ("train/00001", "truck"),
        ("train/00002", "airplane"),
        ("train/00003", "automobile"),
    ]
    assert found.pixels is not None
    assert (found.pixels.transpose(0, 3, 1, 2).reshape(6, 3072) == data).all()


def test_cifars_pickles_are_opened_only_when_they_are_the_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar_batches(tmp_path, monkeypatch)
    opened = []
    monkeypatch.setattr(pickle, "load", lambda *_, **__: opened.append(1))
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(RequestError, match="data_batch_2 is damaged"):
        listing("cifar10", tmp_path)
    path.unlink()
    with pytest.raises(RequestError, match="data_batch_2 is missing"):
        listing("cifar10", tmp_path)
    assert not opened


# Downloads


@pytest.mark.parametrize(
    ("name", "published_"), [("mnist", "MNIST"), ("cifar10", "CIFAR10"), ("celeba", "CelebA")]
)
def test_downloads_go_through_torchvision(
    name: str, published_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fetch(root: str, **options: Any) -> None:
        calls.append((root, options.get("download")))

    monkeypatch.setattr(torchvision.datasets, published_, fetch)
    source_named(name).download(tmp_path)
    assert calls == [(str(tmp_path), True)]

    def fail(root: str, **options: Any) -> None:
        raise RuntimeError("the quota is exceeded")

    monkeypatch.setattr(torchvision.datasets, published_, fail)
    with pytest.raises(MibenchError, match=r"could not be downloaded .*quota is exceeded.*by hand"):
        source_named(name).download(tmp_path)


@pytest.mark.parametrize("name", ["ffhq", "facescrub", "lfw"])
def test_what_cannot_be_downloaded_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    assert not source_named(name).card.download
    with pytest.raises(RequestError, match=r"cannot be downloaded by mibench: .*home page"):
        source_named(name).download(tmp_path)


def test_published_sums() -> None:
    """torchvision's own record of the sums agrees, where it has one."""
    known = {name: sum_ for _, sum_, name in torchvision.datasets.CelebA.file_list}
    assert known.items() >= celeba._MD5.items()
    zipped = {Path(name).stem for name, _ in torchvision.datasets.MNIST.resources}
    assert zipped == mnist.FILES.keys()
