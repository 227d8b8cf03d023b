"""What every registered source must keep, whoever wrote it; and one of someone's own, one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mibench
from mibench import protocols
from mibench.data.identity_division import IdentityDivision
from mibench.data.prepare import prepare
from mibench.data.prepared import CONTENTS, DataFolder, open_prepared
from mibench.data.source import PARTS, SOURCES, source_named
from mibench.data.sources.cifar10 import CLASSES
from mibench.errors import RequestError
from tests.data.test_sources import celeba_files, mnist_files, picture
from tests.kit import layouts
from tests.kit.command_line import invoke
from tests.kit.listing import Reversed


def people(root: Path, side: int) -> None:
    for who in ("Ann", "Bob", "Cyd"):
        for i in range(5):
            picture(root / who / f"{who}_{i:04d}.png", side, side, 10 * ord(who[0]) + i)


def celeba(root: Path) -> None:
    celeba_files(root, {f"{i:06d}.jpg": 1 + i // 5 for i in range(15)})


def cifar10(root: Path) -> None:
    for part, count in (("train", 4), ("test", 2)):
        for number, name in enumerate(CLASSES):
            for i in range(count):
                seed = 100 * number + 10 * len(part) + i
                picture(root / part / name / f"{i:04d}.png", 32, 32, seed)


def ffhq(root: Path) -> None:
    for i in range(6):
        picture(root / f"{i:05d}.png", 128, 128, i)


def of_pyarrow(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Files that pyarrow writes and reads; without it there is nothing to test."""

    def made(root: Path) -> Path:
        pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'mibench[arrow]'")
        return make(root)

    return made


# Makes small files in a folder; what it returns is the root, else that folder.
FILES: dict[str, Callable[[Path], Path | None]] = {
    "arrow": of_pyarrow(layouts.parquet_file),
    "celeba": celeba,
    "cifar10": cifar10,
    "csv": layouts.csv_file,
    "facescrub": lambda root: people(root, 20),
    "ffhq": ffhq,
    "folder": lambda root: people(root, 24),
    "huggingface": of_pyarrow(layouts.hugging_face),
    "lfw": lambda root: people(root, 64),
    "mnist": lambda root: mnist_files(root / "raw", train=40, test=20),
    "npz": layouts.npz_file,
}
every_source = pytest.mark.parametrize("name", SOURCES.names())


@pytest.fixture
def root(name: str, tmp_path: Path) -> Path:
    """Small files in the source's real layout."""
    folder = tmp_path / "originals"
    folder.mkdir()
    return FILES[name](folder) or folder


def test_every_source_has_files_here() -> None:
    assert sorted(FILES) == SOURCES.names()


@every_source
def test_a_card_is_complete(name: str) -> None:
    card = source_named(name).card
    assert card.name == name
    assert all((card.title, card.licence, card.layout, card.preprocessing))
    assert card.images is None or (card.home and card.how_to_get and card.original_bytes)


@every_source
def test_a_listing_is_the_same_on_every_disk(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_named(name)
    found = source.listing(root, incomplete=True)
    assert len(set(found.sources)) == len(found) == len(found.labels) == len(found.parts) > 3
    assert sorted(set(found.labels.tolist())) == list(range(len(found.names)))
    assert list(found.names) == sorted(found.names)
    assert found.parts.max() < len(PARTS)
    if found.pixels is None:
        assert all(source.path(root, file).is_file() for file in found.files)
        for file in found.files:
            with source.open(root, file) as stream:
                assert stream.read()
            assert str(source.path(root, file)) in source.shown(root, file)
    else:
        assert found.pixels.dtype == np.uint8
        assert len(found.pixels) == len(found)
    monkeypatch.setattr("mibench.data.source.os.scandir", Reversed)
    again = source.listing(root, incomplete=True)
    assert list(again.sources) == list(found.sources)
    assert (again.labels == found.labels).all()


@every_source
def test_it_is_prepared_divided_and_loaded(name: str, root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = prepare(name, root, data, 16, incomplete=True, workers=1)
    assert DataFolder(data).sets(name) == [f"{name}-16"]
    assert {path.name for path in made.folder.iterdir()} > set(CONTENTS)
    card = source_named(name).card
    assert made.index.complete == (card.images is None)
    assert prepare(name, root, data, 16, incomplete=True).folder == made.folder
    assert prepare(name, root, tmp_path / "other", 16, incomplete=True).digest == made.digest
    if not card.identities and card.images:
        return  # every picture is an identity of its own: public images only
    spec = IdentityDivision(dataset=name, identities=2)
    divided = spec.divide(resolution=16, data=data)
    assert divided.of_people == card.of_people
    loaded = divided.load()
    counts = divided.counts
    assert (len(loaded.train), len(loaded.test)) == (counts.train, counts.test)
    assert loaded.identities == counts.identities == 2
    assert loaded.train.mirror == card.mirror
    rows = [image.tobytes() for image in made.images]
    assert all(bytes(image.numpy()) in rows for image in loaded.public.images)


@every_source
def test_damaged_originals_are_named(name: str, root: Path, tmp_path: Path) -> None:
    below = sorted(root.rglob("*")) or [root]  # of a folder, or the file itself
    path = next(path for path in below if path.is_file())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RequestError) as error:
        prepare(name, root, tmp_path / "data", 16, incomplete=True, workers=1)
    assert path.name in str(error.value)
    assert DataFolder(tmp_path / "data").sets() == []


@every_source
def test_a_folder_that_holds_nothing_of_it_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("empty", "absent"):
        with pytest.raises(RequestError, match=place):
            prepare(name, tmp_path / place, tmp_path / "data")


# A source of someone's own: one file, and three of data.

OWN = '''
import numpy as np

from mibench.data.source import DatasetCard, Listing, Source, register_source


@register_source("dots")
class Dots(Source):
    """Three arrays, as anyone may have them."""

    card = DatasetCard(
        name="dots",
        title="Coloured dots",
        licence="CC0",
        images=40,
        identities=5,
        of_people=False,
        layout="pixels.npy, labels.npy and names.npy",
        preprocessing="as they are",
    )

    def listing(self, root, *, incomplete=False):
        try:
            pixels, labels, names = (
                np.load(root / f"{name}.npy") for name in ("pixels", "labels", "names")
            )
        except (OSError, ValueError) as error:
            raise self.refuse(str(error)) from error
        return Listing(
            layout="arrays",
            sources=[f"{row:04d}" for row in range(len(pixels))],
            files=(),
            names=tuple(names.tolist()),
            labels=labels.astype(np.int32),
            parts=np.zeros(len(pixels), np.uint8),
            pixels=pixels,
        )
'''


def own_data(root: Path) -> None:
    """Ten dots each of three, five each of two others."""
    labels = np.repeat(np.arange(5), (10, 10, 10, 5, 5))
    colours = np.random.default_rng(0).integers(0, 256, (5, 1, 1, 3))
    noise = np.random.default_rng(1).integers(-30, 30, (40, 32, 32, 3))
    root.mkdir()
    np.save(root / "pixels.npy", (colours[labels] + noise).clip(0, 255).astype(np.uint8))
    np.save(root / "labels.npy", labels)
    np.save(root / "names.npy", np.array(["blue", "green", "red", "teal", "white"]))


def test_a_source_of_ones_own_is_one_file(
    tmp_path: Path, tiny: protocols.Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From three arrays to a record; by its name in this process, by its file in any other."""
    (tmp_path / "dots.py").write_text(OWN)
    name = f"{tmp_path / 'dots.py'}:Dots"
    own_data(tmp_path / "set")
    data = str(tmp_path / "data")
    args = ("--root", str(tmp_path / "set"), "--data", data, "--resolution", "32")
    result = invoke("data", "prepare", name, *args, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert "40 images of 5 identities" in result.stdout
    assert invoke("data", "check", name, "--data", data).exit_code == 0
    assert open_prepared("dots", 32, data).digest == open_prepared(name, 32, data).digest
    spec = IdentityDivision(dataset=name, min_images=8, test_fraction=0.2)
    gan = tiny.gan.model_copy(update={"batch_size": 4})
    card = tiny.model_copy(update={"data": spec, "gan": gan})
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", card)
    places = {"store": tmp_path / "store", "out": tmp_path / "out"}
    record = mibench.run(protocol="tiny", attack="gmi", data=data, **places)
    assert record.status == "complete"
    assert record.metrics["attack_accuracy_top1"].n == 3 * 4  # three colours, four samples
    assert "incomplete images" not in record.artifacts
    by_name = spec.model_copy(update={"dataset": "dots"}).divide(resolution=32, data=data)
    assert by_name.split == record.artifacts["split"]
    assert by_name.digest == record.artifacts["images"]
    (tmp_path / "set" / "labels.npy").write_bytes(b"none")
    with pytest.raises(RequestError, match=r"dots: .*\nExpected below --root:\n  pixels.npy"):
        prepare(name, tmp_path / "set", tmp_path / "elsewhere", 32)
