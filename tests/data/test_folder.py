"""The image-folder dataset: decoding, refusals, splits, and the real sets where present."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mibench.data import pixels
from mibench.data.division import Pictures
from mibench.data.folder import FolderImages, FolderOptions
from mibench.data.pixels import MAX_PIXELS
from mibench.data.source import UnusableImage
from mibench.data.sources.folder import Folder
from mibench.errors import RequestError
from mibench.progress import Progress
from tests.kit.listing import Reversed

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
SMALL: dict[str, Any] = {"min_images": 6, "max_private": 3}


def decode(data: bytes, resolution: int) -> np.ndarray:
    """Pixels of a photograph, channels last."""
    return pixels.decode(data, Folder(), resolution).transpose(1, 2, 0)


def divide(root: Path, resolution: int = 8, **options: Any) -> FolderImages:
    return FolderOptions(**options).divide(resolution=resolution, root=root)


def skipped(split: FolderImages) -> dict[str, str]:
    return {each["path"]: each["reason"] for each in split.listing()["skipped"]}


def names(split: FolderImages, who: str) -> list[str]:
    return [each["name"] for each in split.listing()[who]]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flat(colour: int, side: int = 8) -> bytes:
    """A one-colour PNG that no other ``colour`` in 0..65535 shares."""
    return encoded(Image.new("RGB", (side, side), (colour % 256, colour // 256, 7)))


def build(root: Path, counts: dict[str, int], order: int = 1) -> Path:
    """A folder of distinct images; ``order`` -1 creates everything in reverse."""
    files = [(name, i) for name in sorted(counts) for i in range(counts[name])]
    for name, i in files[::order]:
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:03d}.png").write_bytes(flat(files.index((name, i))))
    return root


COUNTS = {"anna": 10, "bert": 6, "cara": 8, "dora": 20, "emil": 5, "finn": 1, "gail": 2}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path / "faces", COUNTS)


# Decoding


def test_modes_become_rgb() -> None:
    half = np.full((4, 4), 128, np.uint8)
    grey = Image.fromarray(half)
    assert (decode(encoded(grey), 4) == 128).all()
    assert (decode(encoded(grey, "PPM"), 4) == 128).all()
    assert (decode(encoded(Image.new("1", (4, 4), 1)), 4) == 255).all()

    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert (decode(encoded(palette), 4) == [10, 20, 30]).all()
    assert (decode(encoded(palette, transparency=1), 4) == 255).all()

    # Half-transparent red over white: 255 stays, 0 becomes 255 · (1 - 128/255) = 127.
    assert (
        decode(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128))), 4) == [255, 127, 127]
    ).all()
    assert (decode(encoded(Image.new("LA", (4, 4), (0, 0))), 4) == 255).all()

    # Cyan and no black; JPEG and the conversion may each round by a few levels.
    cmyk = decode(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=100), 16)
    assert np.abs(cmyk.astype(int) - [0, 255, 255]).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM"])
def test_sixteen_bit_grey_keeps_its_full_range(kind: str) -> None:
    values = np.array([[0, 25_900], [64_120, 65_535]], dtype=np.uint16)
    data = (
        b"P5 2 2 65535\n" + values.astype(">u2").tobytes()
        if kind == "PGM"
        else encoded(Image.fromarray(values), kind)
    )
    expected = np.array([[0, 101], [249, 255]])  # 25900/257 = 100.8, 64120/257 = 249.49
    assert (decode(data, 2) == expected[..., None]).all()


def test_undefined_value_ranges_are_refused() -> None:
    for array in (np.ones((4, 4), np.float32), np.ones((4, 4), np.int32)):
        with pytest.raises(UnusableImage, match="value range"):
            decode(encoded(Image.fromarray(array), "TIFF"), 4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    corners = np.array([[10, 90], [170, 250]], np.uint8)  # of the upright image
    # How a camera stores the upright image under each tag (EXIF 2.3, tag 0x0112: where row 0 and
    # column 0 of the stored array lie in the visual image).
    stored = {
        1: corners,
        2: corners[:, ::-1],
        3: corners[::-1, ::-1],
        4: corners[::-1],
        5: corners.T,
        6: np.rot90(corners, 1),
        7: corners[::-1, ::-1].T,
        8: np.rot90(corners, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    blocks = Image.fromarray(np.kron(stored, np.ones((16, 16), np.uint8))).convert("RGB")
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if kind == "JPEG":
        options["quality"] = 95
    decoded = decode(encoded(blocks, kind, exif=exif, **options), 32)
    assert np.abs(decoded[8::16, 8::16, 0].astype(int) - corners).max() <= 3


def test_unreadable_exif_counts_as_upright() -> None:
    image = Image.new("RGB", (8, 8), (5, 6, 7))
    data = encoded(image, "PNG", exif=b"Exif\x00\x00garbage that is no TIFF header")
    assert (decode(data, 8) == [5, 6, 7]).all()


def test_crop_is_central_and_resize_exact_where_it_can_be() -> None:
    # Columns 0..6 over 4 rows: the central square of 7 by 4 starts at floor((7 - 4) / 2) = 1.
    wide = np.tile(np.arange(7, dtype=np.uint8) * 10, (4, 1))
    assert (decode(encoded(Image.fromarray(wide)), 4)[..., 0] == [10, 20, 30, 40]).all()
    tall = decode(encoded(Image.fromarray(wide.T)), 4)[..., 0]
    assert (tall == np.array([[10], [20], [30], [40]])).all()


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    # Single-pixel stripes of 0 and 200: without antialiasing the result keeps 0 or 200.
    stripes = np.tile(np.array([0, 200], np.uint8), (64, 32))
    small = decode(encoded(Image.fromarray(stripes)), 8)
    assert np.abs(small[:, 1:-1].astype(int) - 100).max() <= 3


def lanczos(image: np.ndarray, size: int) -> np.ndarray:
    """Antialiased LANCZOS-3 along both axes, written out from its definition."""
    old = image.shape[0]
    scale = old / size
    centres = (np.arange(size) + 0.5) * scale - 0.5
    offset = (np.arange(old)[None] - centres[:, None]) / scale
    weights = np.where(np.abs(offset) < 3, np.sinc(offset) * np.sinc(offset / 3), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    resized: np.ndarray = weights @ image.astype(float) @ weights.T
    return resized


def test_resize_is_lanczos() -> None:
    image = np.random.default_rng(0).integers(60, 190, (24, 24)).astype(np.uint8)
    small = decode(encoded(Image.fromarray(image)), 10)[..., 0]
    assert np.abs(small - lanczos(image, 10)).max() <= 1.5


def test_draft_mode_stays_close_to_full_decoding() -> None:
    axis = np.linspace(0, 6, 400)
    scene = 128 + 60 * np.sin(axis)[:, None] * np.cos(2 * axis)[None]
    image = Image.fromarray(scene.astype(np.uint8))
    drafted = decode(encoded(image, "JPEG", quality=95), 32).astype(int)
    exact = decode(encoded(image), 32).astype(int)
    assert np.abs(drafted - exact).max() <= 4


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["L", "RGB", "RGBA", "P", "CMYK"]))
def test_any_shape_and_mode_gives_an_rgb_square(width: int, height: int, mode: str) -> None:
    data = encoded(Image.new(mode, (width, height)), "TIFF" if mode == "CMYK" else "PNG")
    pixels = decode(data, 16)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8


# Pictures that are there more than once


def test_a_picture_counts_once_in_its_identity(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = divide(root, **SMALL)
    data = (root / "anna" / "000.png").read_bytes()
    (root / "anna" / "zz.png").write_bytes(data)
    pixels = Image.open(io.BytesIO(data))
    (root / "anna" / "zy.png").write_bytes(encoded(pixels, "PNG", compress_level=0))
    (root / "anna" / "zx.bmp").write_bytes(encoded(pixels, "BMP"))
    after = divide(root, **SMALL)
    assert after.digest == before.digest
    assert skipped(after) == {
        f"anna/{name}": "the same picture as anna/000.png"
        for name in ("zx.bmp", "zy.png", "zz.png")
    }
    assert "3 pictures of" in caplog.text
    assert "anna/zx.bmp, the same picture as anna/000.png" in caplog.text


@pytest.mark.parametrize("others", [("bert",), ("gail",), ("bert", "cara", "gail")])
def test_a_picture_of_several_identities_is_of_none(root: Path, others: tuple[str, ...]) -> None:
    """Private and public alike: nothing tells whom it shows."""
    for other in others:
        shutil.copy(root / "dora" / "003.png", root / other / "copy.png")
    split = divide(root, **SMALL)
    left_out = {"dora/003.png", *(f"{other}/copy.png" for other in others)}
    assert skipped(split).keys() == left_out
    assert not left_out & split.sums.keys()
    assert all(reason.endswith(", of another identity") for reason in skipped(split).values())


def test_copies_do_not_make_an_identity_private(root: Path) -> None:
    for i in range(20):
        shutil.copy(root / "finn" / "000.png", root / "finn" / f"{i + 1:03d}.png")
    split = divide(root, **SMALL)
    public = split.listing()["public"]
    assert {each["name"]: len(each["files"]) for each in public}["finn"] == 1


def test_alike_is_not_equal(root: Path) -> None:
    """Pictures of another size, or with another pixel, are other pictures."""
    big = Image.new("RGB", (64, 64), (9, 9, 9))
    big.save(root / "anna" / "x1.png")
    big.resize((32, 32)).save(root / "anna" / "x2.png")
    big.putpixel((0, 0), (10, 9, 9))
    big.save(root / "anna" / "x3.png")
    assert divide(root, **SMALL).skipped == {}


def test_no_picture_is_in_two_parts_however_often_it_was_copied(root: Path) -> None:
    numbers = np.random.default_rng(0)
    pictures = sorted(root.glob("*/*.png"))
    for i in range(60):
        source = pictures[int(numbers.integers(len(pictures)))]
        place = pictures[int(numbers.integers(len(pictures)))].parent
        shutil.copy(source, place / f"copy-{i}.png")
    split = divide(root, **{**SMALL, "min_images": 3})
    assert len(set(split.sums.values())) == len(split.sums)


# Unusable files


def promising(side: int) -> bytes:
    """A PNG whose header promises ``side`` by ``side`` pixels, and which has none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def noise(kind: str) -> bytes:
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    return encoded(Image.fromarray(colours), kind)


BROKEN = {
    "empty.jpg": (b"", "0 bytes"),
    "text.jpg": (b"this is not an image at all", "not an image"),
    "huge.png": (promising(int(MAX_PIXELS**0.5) + 1), "oversized"),
    "bomb.png": (promising(60_000), "oversized"),
    "cut.jpg": (noise("JPEG")[:-300], "cannot be decoded"),
    "cut.png": (noise("PNG")[:-300], "cannot be decoded"),
    "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_by_name(root: Path, name: str) -> None:
    data, reason = BROKEN[name]
    (root / "finn" / name).write_bytes(data)
    with pytest.raises(RequestError, match=f"(?s)finn/{name}: .*{reason}.*skip_unreadable=true"):
        divide(root, **SMALL)


def test_skipped_files_are_listed_and_change_nothing_else(root: Path, tmp_path: Path) -> None:
    clean = divide(root, **SMALL)
    for name, (data, _) in BROKEN.items():
        (root / "dora" / name).write_bytes(data)
    (root / "hollow").mkdir()
    (root / "dora" / "link.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(root / "dora" / "pipe.png")
    split = divide(root, **SMALL, skip_unreadable=True)
    reasons = skipped(split)
    expected = {f"dora/{name}" for name in [*BROKEN, "link.png", "pipe.png"]} | {"hollow"}
    assert reasons.keys() == expected
    assert all(BROKEN[name][1] in reasons[f"dora/{name}"] for name in BROKEN)
    assert split.digest == clean.digest


def test_an_identity_whose_images_are_all_broken_disappears(root: Path) -> None:
    (root / "finn" / "000.png").write_bytes(b"")
    split = divide(root, **SMALL, skip_unreadable=True)
    assert "finn" not in names(split, "public")
    assert list(skipped(split)) == ["finn/000.png"]


def test_truncated_images_count_before_identities_are_chosen(tmp_path: Path) -> None:
    root = build(tmp_path, {"anna": 6, "bert": 6, "cara": 2})
    for i in range(4):
        (root / "anna" / f"{i:03d}.png").write_bytes(noise("PNG")[:-300])
    with pytest.raises(RequestError, match="1 of 3 identities"):
        divide(root, **SMALL, skip_unreadable=True)


def test_a_message_lists_ten_files_and_counts_the_rest(root: Path) -> None:
    for i in range(13):
        (root / "anna" / f"bad{i:02d}.png").write_bytes(b"")
    with pytest.raises(RequestError, match="13 entries") as caught:
        divide(root, **SMALL)
    assert str(caught.value).count("0 bytes") == 10
    assert "and 3 more" in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="file names are text on this system")
def test_names_that_are_not_text_are_refused(root: Path) -> None:
    try:
        with open(os.fsencode(root / "finn") + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123
            file.write(flat(1))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(RequestError, match=r"finn/caf\\udce9\.png: its name"):
        divide(root, **SMALL)


# Layouts


def test_wrong_layouts_are_refused_with_what_to_do(root: Path, tmp_path: Path) -> None:
    def refused(folder: Path, pattern: str, **options: Any) -> None:
        with pytest.raises(RequestError, match=pattern):
            divide(folder, **{**SMALL, **options})

    refused(tmp_path / "absent", "absent.*No such file")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", r"no layout that is known.*\.csv, \.tsv, \.npz, \.parquet")
    (tmp_path / "bare").mkdir()
    refused(tmp_path / "bare", "no sub-folders")
    refused(root / "anna", "10 images outside any identity.*000.png, 001.png, 002.png, ...")
    refused(tmp_path, "only direct sub-folders.*--root")
    refused(root, r"1 of 7 identities.*lower --set protocol.min_images to 10", min_images=15)
    refused(build(tmp_path / "thin", {"a": 2, "b": 1}), "two identities need 3 images")
    everyone = build(tmp_path / "everyone", {name: 6 for name in "abcd"})
    refused(everyone, "no public image.*protocol.max_private to 2", max_private=None)
    (root / "hollow").mkdir()
    refused(root, "hollow: no image in this folder")


def test_wrong_requests_decode_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("decoded before the request was checked")

    monkeypatch.setattr("mibench.data.checked.decode", forbidden)
    with pytest.raises(RequestError, match="min_images"):
        divide(root, min_images=50)
    (root / "anna" / "empty.png").touch()
    with pytest.raises(RequestError, match=r"empty\.png"):
        divide(root, **SMALL)


def test_hidden_and_other_files_are_ignored(root: Path) -> None:
    before = divide(root, **SMALL)
    (root / ".cache").mkdir()
    (root / "README.txt").write_text("about")
    (root / "anna" / ".hidden.png").write_bytes(b"")
    (root / "anna" / "notes.txt").write_text("about")
    assert divide(root, **SMALL).listing() == before.listing()


def test_extensions_in_any_case_count(root: Path) -> None:
    for i, suffix in enumerate(["JPG", "Jpeg", "PNG", "PpM", "bmp", "WEBP", "TIF", "tiff", "pgm"]):
        (root / "finn" / f"more{i}.{suffix}").write_bytes(flat(1000 + i))
    split = divide(root, **SMALL, split_seed=1)
    found = [file for file in split.sums if file.startswith("finn/")]
    assert len(found) == 10


# Splits


def test_who_is_private_and_how_images_are_divided(root: Path) -> None:
    split = divide(root, min_images=6, max_private=None)
    assert names(split, "private") == ["anna", "bert", "cara", "dora"]
    assert names(split, "public") == ["emil", "finn", "gail"]
    # floor(0.15 n), at least 1: 10 → 1, 6 → 1, 8 → 1, 20 → 3.
    listing = split.listing()
    uses = ("train", "val", "test")
    sizes = [tuple(len(each[use]) for use in uses) for each in listing["private"]]
    assert sizes == [(8, 1, 1), (4, 1, 1), (6, 1, 1), (14, 3, 3)]
    assert listing["public"][1]["files"] == ["finn/000.png"]
    assert all(file.startswith(f"{i['name']}/") for i in listing["private"] for file in i["val"])
    files = [file for i in listing["private"] for use in uses for file in i[use]]
    files += [file for i in listing["public"] for file in i["files"]]
    assert sorted(files) == sorted(listing["sha256"])
    assert len(set(files)) == len(files) == sum(COUNTS.values())


def test_candidates_beyond_the_limit_are_public(root: Path) -> None:
    chosen = set()
    for seed in range(6):
        split = divide(root, min_images=6, max_private=2, split_seed=seed)
        private = set(names(split, "private"))
        assert len(private) == 2
        assert set(names(split, "public")) == COUNTS.keys() - private
        chosen.add(frozenset(private))
    assert len(chosen) > 1


def test_a_split_ignores_the_listing_order(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = divide(root, **SMALL)
    elsewhere = tmp_path / "elsewhere"
    for folder in sorted(root.iterdir(), reverse=True):
        shutil.copytree(folder, elsewhere / folder.name)
    monkeypatch.setattr("mibench.data.source.os.scandir", Reversed)
    assert divide(elsewhere, **SMALL).listing() == split.listing()
    assert divide(elsewhere, **SMALL, split_seed=1).digest != split.digest


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(3, 200),
    val=st.floats(0.001, 0.4),
    test=st.floats(0.001, 0.4),
    seed=st.integers(0, 5),
)
def test_every_division_is_disjoint_and_complete(
    count: int, val: float, test: float, seed: int
) -> None:
    options = FolderOptions(val_fraction=val, test_fraction=test, split_seed=seed)
    rows = np.arange(count)
    zeros = np.zeros(count, np.int32)
    pictures = Pictures("folder", "a", ("a",), zeros, zeros.astype(np.uint8), (), rows)
    parts = options.parts(pictures, "a", rows)
    assert sorted(np.concatenate(parts)) == list(range(count))
    assert min(map(len, parts)) >= 1
    assert len(parts[1]) == max(1, int(count * val + 1e-9))
    assert len(parts[2]) == max(1, int(count * test + 1e-9))


def test_the_listing_is_written_beside_a_record(root: Path, tmp_path: Path) -> None:
    split = divide(root, **SMALL)
    split.write(tmp_path / "new")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["split.json"]
    assert json.loads((tmp_path / "new" / "split.json").read_text()) == split.listing()


def test_images_that_vanish_or_change_are_named(root: Path, tmp_path: Path) -> None:
    split = pickle.loads(pickle.dumps(divide(root, **SMALL)))  # as it is sent to a grid's workers
    assert split.load().identities == 3
    (root / "gail" / "unrelated.png").write_bytes(flat(5))
    file = root / "gail" / "001.png"
    file.write_bytes(flat(60000))
    with pytest.raises(RequestError, match=r"gail/001\.png has changed.*restore"):
        split.load()
    file.unlink()
    with pytest.raises(RequestError, match=r"gail/001\.png.*cannot be read.*restore"):
        split.load()
    assert divide(root, **SMALL).digest != split.digest


# Loading


def test_images_arrive_under_their_own_labels(root: Path) -> None:
    split = divide(root, **SMALL)
    calls: list[int] = []

    class Count(Progress):
        def begin(self, total: int, label: str) -> None:
            calls.append(total)

        def advance(self, steps: int) -> None:
            calls.append(steps)

    data = split.load(Count())
    private = tuple(names(split, "private"))
    assert data.identities == 3
    assert data.attributes is None
    assert data.train.names == data.val.names == data.test.names == private
    assert data.public.names == tuple(names(split, "public"))
    assert calls == [len(split.sums)] + [1] * len(split.sums)
    for part, images in (("train", data.train), ("val", data.val), ("test", data.test)):
        files = [(i, f) for i, who in enumerate(split.listing()["private"]) for f in who[part]]
        check(root, files, images.images, images.labels)
    files = [(i, f) for i, who in enumerate(split.listing()["public"]) for f in who["files"]]
    check(root, files, data.public.images, data.public.labels)


def check(
    root: Path, files: list[tuple[int, str]], images: torch.Tensor, labels: torch.Tensor
) -> None:
    assert images.shape == (len(files), 3, 8, 8)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [label for label, _ in files]
    for (_, file), image in zip(files, images, strict=True):
        pixels = torch.from_numpy(np.array(Image.open(root / file)))
        assert torch.equal(image, pixels.permute(2, 0, 1))


def test_channels_and_rows_keep_their_places(tmp_path: Path) -> None:
    root = build(tmp_path, COUNTS)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    (root / "finn" / "000.png").write_bytes(encoded(Image.fromarray(pixels)))
    split = divide(root, **SMALL)
    data = split.load()
    row = data.public.labels == data.public.names.index("finn")
    assert torch.equal(data.public.images[row][0], torch.from_numpy(pixels).permute(2, 0, 1))


def test_a_model_of_a_split_refuses_unknown_options() -> None:
    with pytest.raises(ValueError, match="min_image"):
        FolderOptions(min_image=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="val_fraction"):
        FolderOptions(val_fraction=0.5)


# Real sets


def unpack(name: str, folder: Path) -> Path:
    archive = SHARED / f"{name}.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not present beside the repository (shared/data)")
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, filter="data")
        else:
            tar.extractall(folder)
    return folder / name.removesuffix("-64")


def test_lfw(tmp_path: Path) -> None:
    root = unpack("lfw-64", tmp_path)
    split = divide(root, 64, min_images=20)
    data = split.load()
    # The set's published counts: 13,233 images of 5,749 people, 62 of them with 20 or more.
    assert len(split.sums) == 13_233
    assert split.counts.identities == 62
    assert len(names(split, "private")) + len(names(split, "public")) == 5_749
    assert sum(len(identity["files"]) == 1 for identity in split.listing()["public"]) == 4_069
    assert split.skipped == {}
    assert len(data.train) + len(data.val) + len(data.test) == 3_023
    assert len(data.public) == 13_233 - 3_023
    mean = data.public.images[:2000].float().mean(dim=(0, 2, 3))
    assert mean[0] > mean[1] > mean[2]  # skin: the channels are red, green, blue


def test_orl(tmp_path: Path) -> None:
    root = unpack("orl", tmp_path)
    with pytest.raises(RequestError, match=r"0 of 40 identities.*protocol\.min_images to 10"):
        divide(root)
    split = divide(root, 32, min_images=10, max_private=20)
    data = split.load()
    assert (len(names(split, "private")), len(names(split, "public"))) == (20, 20)
    assert [len(part) for part in (data.train, data.val, data.test, data.public)] == [
        160,
        20,
        20,
        200,
    ]
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])
    # s1/1.pgm is 92 by 112: its central square drops 10 rows above and below.
    raw = np.array(Image.open(root / "s1" / "1.pgm"))
    assert raw.shape == (112, 92)
    small = decode((root / "s1" / "1.pgm").read_bytes(), 32)[..., 0]
    assert np.abs(small - lanczos(raw[10:102], 32)).max() <= 1.5
