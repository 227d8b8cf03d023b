"""A user's own pictures in the layouts that people have: read alike, refused by name."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import struct
import sys
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mibench
from mibench.data import own, pixels
from mibench.data.folder import FolderImages, FolderOptions
from mibench.data.layout import layout_of
from mibench.data.prepare import prepare
from mibench.data.source import Source
from mibench.data.sources.csv import CSV
from mibench.data.sources.folder import Folder
from mibench.data.sources.npz import NPZ
from mibench.errors import RequestError
from tests.data.test_folder import promising
from tests.kit import layouts
from tests.kit.command_line import ROOT, invoke
from tests.kit.guide import forget_afterwards
from tests.kit.layouts import COUNTS, LAYOUTS, SIDE, encoded
from tests.kit.tiny_folder import SETTINGS, make_tiny_folder

OPTIONS: dict[str, Any] = {"min_images": 5, "max_private": 2}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def divide(root: Path, **options: Any) -> FolderImages:
    return FolderOptions(**{**OPTIONS, **options}).divide(resolution=SIDE, root=root)


def refused(root: Path, pattern: str, **options: Any) -> str:
    with pytest.raises(RequestError, match=pattern) as caught:
        divide(root, **options)
    assert str(root) in str(caught.value)
    return str(caught.value)


def pyarrow() -> Any:
    return pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'mibench[arrow]'")


# All of them


@every_layout
def test_the_same_pictures_are_the_same_data(layout: str, tmp_path: Path) -> None:
    """In every pixel, with the same use and the same names; also in a worker of a grid."""
    split = divide(LAYOUTS[layout](tmp_path / "other"))
    assert (
        split.listing()["layout"]
        == split.album.source.card.name
        == layout_of(Path(split.album.root)).card.name
    )
    expected = divide(layouts.folder(tmp_path / "folder")).load()
    found = pickle.loads(pickle.dumps(split)).load()
    for part in ("train", "val", "test", "public"):
        one, other = getattr(expected, part), getattr(found, part)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert one.names == other.names
    assert len(split.sums) == sum(COUNTS.values()) == len(set(split.sums.values()))


@every_layout
def test_other_pictures_or_labels_have_another_digest(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file lies is in no digest; who is shown in it is, and so is each pixel."""
    split = divide(LAYOUTS[layout](tmp_path / "a"))
    assert divide(LAYOUTS[layout](tmp_path / "b")).digest == split.digest
    made = layouts.rows()
    changed = [(who, array ^ np.uint8(i == 3)) for i, (who, array) in enumerate(made)]
    monkeypatch.setattr(layouts, "rows", lambda counts: changed)
    other = divide(LAYOUTS[layout](tmp_path / "c"))
    assert (other.split, other.digest != split.digest) == (split.split, True)
    monkeypatch.setattr(layouts, "rows", lambda counts: [("Bob", made[0][1]), *made[1:]])
    assert divide(LAYOUTS[layout](tmp_path / "d")).digest != split.digest


@every_layout
def test_what_changed_since_is_named(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = divide(LAYOUTS[layout](tmp_path / "faces"))
    made = [(who, array ^ np.uint8(1)) for who, array in layouts.rows()]
    monkeypatch.setattr(layouts, "rows", lambda counts: made)
    LAYOUTS[layout](tmp_path / "faces")
    with pytest.raises(RequestError, match="has changed since the folder was divided: restore"):
        split.load()
    shutil.rmtree(tmp_path / "faces")
    with pytest.raises(RequestError, match=r"faces.*cannot be read: No such file"):
        split.load()


@every_layout
def test_copies_count_once_or_not_at_all(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = layouts.rows()
    made[1] = made[0]  # Ann twice
    made[8] = ("Bob", made[2][1])  # Ann's as Bob's
    monkeypatch.setattr(layouts, "rows", lambda counts: made)
    split = divide(LAYOUTS[layout](tmp_path))
    assert len(split.skipped) == 3
    assert sum("of another identity" in reason for reason in split.skipped.values()) == 2
    assert len(set(split.sums.values())) == len(split.sums) == sum(COUNTS.values()) - 3


@pytest.mark.parametrize("layout", ["csv", "arrow"])
def test_any_picture_is_decoded_as_in_a_folder(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upright, in the middle, and of every mode; truncated ones and bombs are named."""
    exif = Image.Exif()
    exif[0x0112] = 6
    scene = np.random.default_rng(5).integers(0, 256, (SIDE, 2 * SIDE, 3), dtype=np.uint8)
    rgba = np.random.default_rng(6).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    deep = np.random.default_rng(7).integers(0, 65536, (SIDE, SIDE), dtype=np.uint16)
    cmyk = io.BytesIO()
    Image.fromarray(rgba, "CMYK").save(cmyk, "JPEG")
    files = [
        encoded(scene, exif=exif),
        encoded(rgba),
        encoded(deep),
        encoded(rgba[..., 0]),
        cmyk.getvalue(),
    ]
    usual = layouts.encoded
    numbered = iter([*files, usual(scene)[:-300], promising(60_000)])
    monkeypatch.setattr(layouts, "encoded", lambda array: next(numbered, None) or usual(array))
    root = LAYOUTS[layout](tmp_path)
    names = layout_of(root).listing(root).files
    assert f"{names[6]}: oversized" in refused(root, "cannot be used")
    split = divide(root, skip_unreadable=True, min_images=4)
    assert split.skipped.keys() == {names[5], names[6]}
    assert split.skipped[names[5]].startswith("cannot be decoded")
    data = split.load()
    everything = torch.cat(
        [data.train.images, data.val.images, data.test.images, data.public.images]
    )
    for name, file in zip(names, files, strict=False):
        expected = torch.from_numpy(pixels.decode(file, Folder(), SIDE).copy())
        assert (everything == expected).all(dim=(1, 2, 3)).any(), name


def test_the_documents_source_names_columns_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prepared data sets take no columns: a source in a file does, as docs/data.md shows."""
    text = (ROOT / "docs" / "data.md").read_text()
    ((name, code),) = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", text, re.DOTALL)
    (tmp_path / name).write_text(code)
    table = layouts.csv_file(tmp_path / "faces")
    table.write_text(table.read_text().replace("path,label", "photo,who", 1))
    forget_afterwards(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^mibench data prepare (photo_book.py:\S+) --root", text, re.MULTILINE)
    data = ("--root", str(table), "--data", str(tmp_path / "data"), "--quiet")
    made = invoke("data", "prepare", command, *data)
    assert made.exit_code == 0, made.stderr
    assert made.stdout.startswith(f"{command}: 24 images of 5 identities")
    plain = invoke("data", "prepare", "csv", *data)
    assert plain.exit_code == 2
    assert "in a source of your own (docs/data.md, Other layouts)" in plain.stderr


@every_layout
def test_one_picture_a_person_is_too_few(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dict(layouts.rows()[::-1])  # the first of each
    monkeypatch.setattr(layouts, "rows", lambda counts: list(made.items()))
    root = LAYOUTS[layout](tmp_path / "faces")
    refused(root, "0 of 5 identities.*at least two identities need 3 images")


def test_prepared_data_of_a_file_are_known(tmp_path: Path) -> None:
    root = layouts.npz_file(tmp_path / "npz")
    data = ("--data", str(tmp_path / "data"))
    result = invoke("data", "prepare", "npz", "--root", str(root), *data, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("npz: 24 images of 5 identities")
    assert "1 prepared data sets" in invoke("data", "check", *data).stdout
    layouts.npz_file(tmp_path / "npz", {**COUNTS, "Eve": 2})
    assert "its originals have changed since" in invoke("data", "check", "npz", *data).stdout
    result = invoke("data", "prepare", "csv", "--root", str(root.with_suffix(".csv")), *data)
    assert result.exit_code == 2
    assert "csv: there is no file" in result.stderr
    assert "Expected as --root:\n  faces.csv:   path,label" in result.stderr


# Which layout


def test_a_layout_is_recognised_or_those_that_there_are_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.txt", "archive.zip", "noend"):
        (tmp_path / name).write_text("x")
        refused(tmp_path / name, r"no layout that is known.*`datasets` saved, or a file \.csv")
    (tmp_path / "FACES.CSV").write_text("path,label\n")
    assert isinstance(layout_of(tmp_path / "FACES.CSV"), CSV)
    refused(tmp_path, "no sub-folders, but holds FACES.CSV: name the file itself, --root ")
    layouts.folder(tmp_path)
    assert isinstance(layout_of(tmp_path), Folder)
    divide(tmp_path)
    assert caplog.text.count("FACES.CSV of") == 1
    refused(tmp_path, "has no columns: drop protocol.image_column", image_column="path")
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", Path("/dev/zero"), tmp_path / "absent.csv"):
        refused(path, "cannot be listed")
    (tmp_path / "folder.csv").mkdir()
    refused(tmp_path / "folder.csv", "no sub-folders")


def test_a_cell_takes_the_file_and_the_columns(tmp_path: Path) -> None:
    root = tmp_path / "faces.csv"
    root.write_text("who;a;b\n")
    args = ("run", "--protocol", "folder", "--root", str(root), "--out", str(tmp_path / "out"))
    result = invoke(*args)
    assert result.exit_code == 2
    assert "which one holds the pictures? There are 'who', 'a', 'b', of which" in result.stderr
    result = invoke(*args, "--set", "protocol.image_column=a", "--set", "protocol.label_column=b")
    assert "has no line below the names of its columns" in result.stderr


# CSV


def people_csv(root: Path, text: str | bytes, name: str = "faces.csv") -> Path:
    if not root.exists():
        layouts.folder(root, {"Ann": 2, "Bob": 1})
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


PLAIN = "path,label\nAnn/000.png,Ann\nAnn/001.png,Ann\nBob/002.png,Bob\n"
SAME: dict[str, str | bytes] = {
    "plain": PLAIN,
    "byte-order mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "Windows": PLAIN.replace("/", "\\").replace("\n", "\r\n"),
    "old Macs'": PLAIN.replace("\n", "\r"),
    "quoted": '"path","label"\n"Ann/000.png","Ann"\n"Ann/001.png", "Ann"\n"Bob/002.png","Bob"',
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "other columns": "id,Label,n,File Name\n"
    + "".join(f"{i},{w},0,{w}/00{i}.png\n" for i, w in enumerate(["Ann", "Ann", "Bob"])),
    "identity": PLAIN.replace("path,label", "Image,Identity"),
    "blanks": "\n\n path , label\n ./Ann/000.png , Ann\n\nAnn//001.png,Ann \n"
    "Ann/../Bob/002.png,Bob\n",
    "repeated": PLAIN + "./Ann/000.png,Ann\n",
    "another order": "path,label\nBob/002.png,Bob\nAnn/001.png,Ann\nAnn/000.png,Ann\n",
}


@pytest.mark.parametrize("how", SAME)
def test_a_table_may_be_written_in_many_ways(how: str, tmp_path: Path) -> None:
    path = people_csv(tmp_path / "faces", SAME[how])
    found = CSV().listing(path)
    assert list(found.files) == ["Ann/000.png", "Ann/001.png", "Bob/002.png"]
    assert (found.names, found.labels.tolist()) == (("Ann", "Bob"), [0, 0, 1])
    assert not found.unusable
    assert all(CSV().path(path, file).is_file() for file in found.files)
    again = "1 rows say what an earlier one says, and were left out"
    assert found.notes == ((again,) if how == "repeated" else ())


def test_absolute_paths_into_the_folder_are_its_pictures(tmp_path: Path) -> None:
    path = people_csv(tmp_path / "faces", f"path,label\n{tmp_path}/faces/Ann/000.png,Ann\n")
    assert CSV().listing(path).files == ["Ann/000.png"]


def test_columns_may_be_named(tmp_path: Path) -> None:
    text = "path,image,label,who\nAnn/000.png,Ann/001.png,x,Ann\n"
    path = people_csv(tmp_path / "faces", text)
    with pytest.raises(RequestError, match=r"the pictures.*of which 2 are called one of path"):
        CSV().listing(path)
    found = CSV("image", "who").listing(path)
    assert (found.files, found.names) == (["Ann/001.png"], ("Ann",))
    with pytest.raises(RequestError, match="of which none is called 'Image'"):
        CSV("Image", "who").listing(path)


NO_TABLE: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "which one holds the pictures. There are none"),
    "only names": ("path,label\n", "has no line below the names"),
    "no names": ("Ann/000.png,Ann\n", "There are 'Ann/000.png', 'Ann', of which none is called"),
    "UTF-16": (PLAIN.encode("utf-16"), "is no UTF-8.*save it as UTF-8"),
    "Latin-1": (PLAIN.replace("Bob", "Bj\xf6rn").encode("latin-1"), "is no UTF-8"),
    "a longer row": (
        PLAIN + "Ann/000.png,Ann,Bob\n",
        "line 5: 3 columns where the first line has 2",
    ),
    "a shorter row": ("path,label\nAnn/000.png\n", "line 2: 1 columns where the first line has 2"),
    "an open quote": (PLAIN + '"Ann/000.png,Ann\n', "is no CSV: unexpected end"),
    "a long field": (PLAIN + '"' + "x\n" * 200_000, "is no CSV: field larger"),
    "text after a quote": (PLAIN + '"Ann"/000.png,Ann\n', "is no CSV"),
    "two of a name": ("path,label,label\n", "labels.*2 are called one of label"),
}


@pytest.mark.parametrize("how", NO_TABLE)
def test_what_is_no_table_is_refused(how: str, tmp_path: Path) -> None:
    text, why = NO_TABLE[how]
    refused(people_csv(tmp_path / "faces", text), f"(?s){why}")


def test_huge_lines_and_files_are_not_read(tmp_path: Path) -> None:
    """Files with holes: they take no space, and would take all memory."""
    path = people_csv(tmp_path / "faces", PLAIN)
    for size, why in (
        (300, "a line of more than 1,048,576 characters"),
        (600, "more than 512 MiB"),
    ):
        with path.open("r+b") as file:
            file.truncate(size * 2**20)
        tracemalloc.start()
        refused(path, why)
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
        tracemalloc.stop()


def test_rows_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    root = layouts.folder(tmp_path / "faces")
    outside = tmp_path / "secret.png"
    outside.write_bytes(encoded(layouts.pixels(99)))
    os.mkfifo(root / "pipe.png")
    odd = [
        ("", "Ann", "line 26", "no path"),
        ("../secret.png", "Ann", "line 27", r"\.\./secret\.png leads out of"),
        (str(outside), "Ann", "line 28", "is an absolute path outside of"),
        ("Ann/../../secret.png", "Ann", "line 29", "leads out of"),
        (r"..\secret.png", "Ann", "line 30", "leads out of"),
        (r"C:\Users\ann.png", "Ann", "line 31", "is an absolute path outside of"),
        ("Ann/000.png", "", "line 32", "no label"),
        ("Bob/008.png", "Cyd", "Bob/008.png", "'Bob' in line 10, but 'Cyd' in line 33"),
        ("absent.png", "Ann", "absent.png", "cannot be read: No such file"),
        ("pipe.png", "Ann", "pipe.png", "is a device, FIFO or socket"),
        ("Ann", "Ann", "Ann", "is a folder, not a file"),
        ("a\0b.png", "Ann", "line 37", "holds a control character"),
        ("Ann/000.png", "A\x1bnn", "line 38", "holds a control character"),
        ("Ann/000.png", "A" * 256, "line 39", "has more than 255 characters"),
        ("x" * 300, "Ann", "x" * 300, "cannot be read: File name too long"),
    ]
    if sys.version_info < (3, 11):  # its csv module itself refuses NUL bytes
        odd = [each for each in odd if "\0" not in each[0]]
    good = "".join(f"{p.relative_to(root)},{p.parent.name}\n" for p in sorted(root.glob("*/*.png")))
    path = root / "faces.csv"
    path.write_text("path,label\n" + good + "".join(f"{p},{who}\n" for p, who, _, _ in odd))
    refused(path, "(?s)entries of .* cannot be used:.*skip_unreadable=true")
    split = divide(path, skip_unreadable=True)
    assert len(split.skipped) == len(odd)
    if sys.version_info >= (3, 11):
        for _, _, place, why in odd:
            assert re.search(why, split.skipped[place]), place
    assert len(split.sums) == 24 - 1  # all but the one with two labels


# NumPy


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def images(count: int = 24) -> np.ndarray:
    return np.stack([array for _, array in layouts.rows()])[:count]


LABELS = [who for who, _ in layouts.rows()]
ALIKE: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "channels first": ("images", lambda x: x.transpose(0, 3, 1, 2)),
    "channels first, copied": ("x", lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2))),
    "floats": ("image", lambda x: (x / 255).astype(np.float32)),
    "doubles": ("image", lambda x: x / 255),
    "halves": ("image", lambda x: (x / 255).astype(np.float16)),
    "big-endian": ("image", lambda x: (x / 255).astype(">f4")),
}


@pytest.mark.parametrize("how", ALIKE)
def test_arrays_have_several_shapes_and_types(how: str, tmp_path: Path) -> None:
    name, change = ALIKE[how]
    path = npz(tmp_path / "faces.npz", **{name: change(images())}, y=np.array(LABELS, dtype="S"))
    found = divide(path, image_column=name, label_column="y")
    expected = divide(layouts.npz_file(tmp_path / "plain"))
    assert found.sums == expected.sums  # in every pixel
    assert found.division.names == expected.division.names


@pytest.mark.parametrize("shape", [(24, SIDE, SIDE), (24, SIDE, SIDE, 1), (24, 1, SIDE, SIDE)])
def test_grey_arrays(shape: tuple[int, ...], tmp_path: Path) -> None:
    grey = np.ascontiguousarray(images()[..., 0])
    path = npz(tmp_path / "faces.npz", images=grey.reshape(shape), labels=LABELS)
    data = divide(path).load()
    rows = {array.tobytes() for array in grey}
    for picture in data.train.images.numpy():
        assert picture[0].tobytes() in rows
        assert (picture == picture[:1]).all()


def test_numbers_as_labels(tmp_path: Path) -> None:
    numbers = np.unique(LABELS, return_inverse=True)[1].reshape(24, 1)
    path = npz(tmp_path / "faces.npz", images=images(), labels=numbers)
    assert NPZ().listing(path).names == ("0", "1", "2", "3", "4")


class Trap:
    """Unpickling it would say so."""

    def __reduce__(self) -> Any:
        return (Path("/tmp/trapped").touch, ())  # pragma: no cover


def arrays(**changes: Any) -> dict[str, Any]:
    return {"images": images(), "labels": LABELS, **changes}


NO_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no pictures": ({"labels": LABELS}, "which one holds the pictures. There are 'labels'"),
    "no labels": ({"images": images()}, "which one holds the labels. There are 'images'"),
    "two": (arrays(image=images()), "of which 2 are called one of image"),
    "fewer labels": (arrays(labels=LABELS[:-1]), r"\(23,\), but 24 pictures"),
    "one-hot": (arrays(labels=np.eye(24, dtype=int)), r"\(24, 24\), but 24 pictures"),
    "one label": (arrays(labels=3), r"\(\), but 24 pictures"),
    "float labels": (arrays(labels=np.zeros(24)), "as float64: labels are integers or text"),
    "objects": (arrays(labels=np.array([Trap()] * 24)), "as Python objects, which are never"),
    "pictures as objects": (arrays(images=np.array([Trap()] * 24)), "as Python objects"),
    "integers": (arrays(images=images().astype(int)), "as int64: pictures are bytes"),
    "16 bits": (arrays(images=images().astype(np.uint16)), "as uint16: pictures are bytes"),
    "truth values": (arrays(images=images() > 0), "as bool: pictures are bytes"),
    "four channels": (arrays(images=np.zeros((24, 8, 8, 4), np.uint8)), r"\(24, 8, 8, 4\)"),
    "flat": (arrays(images=np.zeros((24, 192), np.uint8)), r"\(24, 192\): pictures are"),
    "two meanings": (arrays(images=np.zeros((24, 3, 8, 3), np.uint8)), r"\(24, 3, 8, 3\)"),
    "no rows": ({"images": images(0), "labels": np.zeros(0, int)}, "one there has to be"),
    "no height": (arrays(images=np.zeros((24, 0, 8, 3), np.uint8)), "a picture has 1 to"),
    "Fortran": (arrays(images=np.asfortranarray(images())), "Fortran's order"),
}


@pytest.mark.parametrize("how", NO_ARRAYS)
def test_arrays_that_are_no_pictures_are_refused(how: str, tmp_path: Path) -> None:
    held, why = NO_ARRAYS[how]
    refused(npz(tmp_path / "faces.npz", **held), why)
    assert not Path("/tmp/trapped").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01, 255.0])
def test_floats_outside_of_the_range_are_named(value: float, tmp_path: Path) -> None:
    floats = (images() / 255).astype(np.float32)
    floats[7, 3, 2, 1] = value
    path = npz(tmp_path / "faces.npz", images=floats, labels=LABELS)
    why = "in .0, 1" if np.isfinite(value) else "holds NaN or infinite values"
    refused(path, rf"(?s)1 entries.*#00000007: holds .*{why}" if np.isfinite(value) else why)
    assert divide(path, skip_unreadable=True).skipped.keys() == {"#00000007"}


def archive(path: Path, header: dict[str, Any], body: bytes, compress: int) -> Path:
    """A file whose array of pictures has a header of one's own."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    labels = io.BytesIO()
    np.lib.format.write_array(labels, np.array(LABELS))
    with zipfile.ZipFile(path, "w", compress) as file:
        file.writestr("images.npy", stream.getvalue() + body)
        file.writestr("labels.npy", labels.getvalue())
    return path


@pytest.mark.parametrize("compress", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_arrays_that_promise_more_than_they_hold(compress: int, tmp_path: Path) -> None:
    def header(*shape: int) -> dict[str, Any]:
        return {"descr": "|u1", "fortran_order": False, "shape": shape}

    path = tmp_path / "faces.npz"
    refused(archive(path, header(24, 8, 8, 3), b"x" * 99, compress), "another size than its shape")
    refused(
        archive(path, header(24, 10**5, 10**5, 3), b"", compress), "a picture has 1 to 50,000,000"
    )
    refused(archive(path, header(10**15, 64, 64, 3), b"", compress), "another size than its shape")
    refused(archive(path, header(-24, 8, 8, 3), b"", compress), "faces.npz")
    # A wrong size in the directory of a compressed member, a wrong checksum, and an encrypted one.
    whole = archive(path, header(24, 8, 8, 3), bytes(24 * 192), compress).read_bytes()
    start = whole.index(b"PK\x01\x02")
    for offset, change in ((24, b"\xff\xff\xff\x7f"), (8, b"\x01\x00")):
        path.write_bytes(whole[: start + offset] + change + whole[start + offset + len(change) :])
        refused(path, "faces.npz")
    for size in (0, 10, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path, "faces.npz File is not a zip file|faces.npz")


@pytest.mark.parametrize(("width", "why"), [(10**5, "another size"), (10**7, "than 512 MiB")])
def test_labels_that_promise_more_than_they_hold(width: int, why: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    header = {"descr": f"<U{width}", "fortran_order": False, "shape": (24,)}
    np.lib.format.write_array_header_1_0(stream, header)
    path = npz(tmp_path / "faces.npz", images=images())
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("labels.npy", stream.getvalue())
    refused(path, f"holds 'labels' with .*{why}")


def test_a_damaged_compressed_array_is_refused(tmp_path: Path) -> None:
    path = layouts.npz_file(tmp_path, save=np.savez_compressed)
    data = bytearray(path.read_bytes())
    data[2000] ^= 0xFF
    path.write_bytes(data)
    refused(path, "faces.npz (Bad CRC|Error -3|.*)")


def test_a_compressed_array_that_fits_nowhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = layouts.npz_file(tmp_path, save=np.savez_compressed)
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 10))  # type: ignore[attr-defined]
    refused(path, "is compressed.*save it with numpy.savez, or name a larger folder by TMPDIR")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pictures_are_read_one_by_one(save: Any, tmp_path: Path) -> None:
    many = np.zeros((150, 256, 256, 3), np.uint8)  # 29 MB
    many[:, 0, 0, 0] = np.arange(150)
    save(tmp_path / "faces.npz", images=many, labels=np.arange(150) % 20)
    del many
    tracemalloc.start()
    source = NPZ()
    found = source.listing(tmp_path / "faces.npz")
    for row, file in enumerate(found.files):
        data = pixels.image_bytes(source, tmp_path / "faces.npz", file)
        assert data.startswith(b"P6\n256 256\n255\n" + bytes([row]))
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


# Arrow, Parquet and `datasets`


def write(path: Path, held: dict[str, list[Any]], about: dict[str, Any] | None = None) -> Path:
    made = layouts.table(held, about)
    kinds: dict[str, Callable[..., Path]] = {
        ".parquet": layouts.write_parquet,
        ".arrow": layouts.write_arrow,
        ".feather": layouts.write_stream,
    }
    return kinds[path.suffix](path, made)


every_format = pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])


@every_format
def test_labels_are_text_or_numbers(suffix: str, tmp_path: Path) -> None:
    pa = pyarrow()
    held = layouts.columns()
    text = {"img": [each["bytes"] for each in held["image"]], "person": LABELS}
    expected = divide(layouts.folder(tmp_path / "folder")).division
    split = divide(write(tmp_path / f"a{suffix}", text))
    assert split.division.names == expected.names
    names = sorted(COUNTS)
    by_number = divide(write(tmp_path / f"b{suffix}", held)).division
    assert by_number.names == tuple(str(names.index(name)) for name in expected.names)
    made = layouts.table(text)
    made = made.set_column(1, "person", made["person"].dictionary_encode())
    writer = {".parquet": layouts.write_parquet, ".arrow": layouts.write_arrow}.get(
        suffix, layouts.write_stream
    )
    path = writer(tmp_path / f"c{suffix}", made.combine_chunks())
    assert divide(path).digest == divide(write(tmp_path / f"a{suffix}", text)).digest
    assert pa.types.is_dictionary(made.schema.field("person").type)


@every_format
def test_a_column_of_paths(suffix: str, tmp_path: Path) -> None:
    pyarrow()
    layouts.folder(tmp_path)
    (tmp_path / "..secret").mkdir()
    paths = [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.glob("*/*.png"))]
    split = divide(write(tmp_path / f"faces{suffix}", {"file_name": paths, "label": LABELS}))
    assert set(split.album.files) == set(paths)
    assert split.division.names == divide(layouts.folder(tmp_path / "f")).division.names
    odd = {"file_name": [*paths, "../x.png", "/etc/passwd", ""], "label": [*LABELS, "A", "A", "A"]}
    path = write(tmp_path / f"odd{suffix}", odd)
    text = refused(path, "3 entries")
    assert "#00000024: ../x.png leads out of" in text
    assert "#00000025: /etc/passwd is an absolute path outside of" in text
    assert "#00000026: no path" in text


@every_format
def test_cells_without_a_picture_or_a_label_are_named(suffix: str, tmp_path: Path) -> None:
    pyarrow()
    held = layouts.columns()
    held["image"][2] = {"bytes": None, "path": "/home/ann/1.png"}
    held["image"][3] = None
    held["image"][4] = {"bytes": b"", "path": None}
    held["label"][5] = -1
    held["label"][6] = None
    path = write(tmp_path / f"faces{suffix}", held, layouts.features())
    split = divide(path, skip_unreadable=True, min_images=3)
    assert split.skipped.keys() == {f"#{row:08d}" for row in range(2, 7)}
    assert "has no bytes, but a path ('/home/ann/1.png'): embed" in split.skipped["#00000002"]
    assert split.skipped["#00000003"] == "holds no picture"
    assert split.skipped["#00000005"] == split.skipped["#00000006"] == "no label"
    alike = {**layouts.features(), "label": {"names": ["Ann"] * 5, "_type": "ClassLabel"}}
    refused(write(path, held, alike), "the features name two classes alike")
    held["label"][7] = 5
    refused(write(path, held, layouts.features()), "a label is 5, but the features name 5 classes")


@every_format
def test_other_columns_are_refused(suffix: str, tmp_path: Path) -> None:
    pyarrow()
    held = layouts.columns()
    path = tmp_path / f"faces{suffix}"
    for column, values, why in (
        ("label", [0.5] * 24, "labels 'label' as double: they are integers or text"),
        ("label", [[1]] * 24, "labels 'label' as list"),
        ("label", [True] * 24, "labels 'label' as bool"),
        ("image", [1] * 24, "pictures 'image' as int64: they are encoded"),
        ("image", [[[0]]] * 24, "pictures 'image' as list"),
        (
            "image",
            [{"data": b"", "other": 1}] * 24,
            "pictures 'image' as struct|holds the pictures",
        ),
    ):
        other = {**held, column: values}
        pa = pyarrow()
        made = pa.table({name: pa.array(values) for name, values in other.items()})
        writers: dict[str, Any] = {".parquet": layouts.write_parquet, ".arrow": layouts.write_arrow}
        writers.get(suffix, layouts.write_stream)(path, made)
        refused(path, why)
    refused(write(path, {"pic": held["label"], "label": held["label"]}), "There are 'pic', 'label'")
    made = pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.string())})
    writers.get(suffix, layouts.write_stream)(path, made)
    refused(path, "has no row")


@every_format
def test_damaged_tables_are_refused(suffix: str, tmp_path: Path) -> None:
    pyarrow()
    path = write(tmp_path / f"faces{suffix}", layouts.columns(), layouts.features())
    data = path.read_bytes()
    for size in (0, 3, 20, 300, len(data) // 2):
        path.write_bytes(data[:size])
        refused(path, f"faces{suffix}")
    path.write_bytes(b"path,label\nAnn/000.png,Ann\n")
    refused(path, "is damaged, or no Arrow or Parquet file")


def test_offsets_are_not_believed(tmp_path: Path) -> None:
    """A table says where each picture begins; elsewhere would be foreign memory."""
    pyarrow()
    text = {"image": [each["bytes"] for each in layouts.columns()["image"]], "label": LABELS}
    path = write(tmp_path / "faces.arrow", text)
    data, lengths = path.read_bytes(), [len(each) for each in text["image"][:10]]
    offsets = struct.pack("<11i", 0, *np.cumsum(lengths).tolist())
    assert offsets in data
    path.write_bytes(data.replace(offsets, offsets[:-4] + struct.pack("<i", 2**30), 1))
    refused(path, "is damaged, or no Arrow")


def test_compressed_arrow_files_are_refused(tmp_path: Path) -> None:
    pa = pyarrow()
    held = {"image": [bytes(10_000) + each["bytes"] for each in layouts.columns()["image"]]}
    made = layouts.table({**held, "label": LABELS})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    path = layouts.write_arrow(tmp_path / "faces.arrow", made, options)
    refused(path, "is compressed, and would be in memory as a whole")


def test_few_row_groups_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow()
    from mibench.data import tables

    path = write(tmp_path / "faces.parquet", layouts.columns(), layouts.features())
    table = tables.Parquet(path)
    assert table.ends == [7, 14, 21, 24]
    expected = [each["bytes"] for each in layouts.columns()["image"]]
    assert [table.picture(0, row) for row in range(24)] == expected
    assert len(table._held) == 2
    monkeypatch.setattr(tables, "_MOST_BYTES", 1000)
    refused(path, "a row group with .* GiB of pictures.*row_group_size=1000")


def test_a_few_bytes_do_not_become_millions_of_rows(tmp_path: Path) -> None:
    """Repeated values take no space in Parquet."""
    pa = pyarrow()
    count = 10**6
    held = {"image": pa.array([b"x"] * count).dictionary_encode(), "label": pa.array([1] * count)}
    path = layouts.write_parquet(tmp_path / "faces.parquet", pa.table(held), count)
    assert path.stat().st_size < 10_000
    refused(path, "states 1,000,000 rows, more than it has bytes")


def test_splits_are_one_set(tmp_path: Path) -> None:
    pyarrow()
    root = layouts.splits(tmp_path / "faces", {"train": range(0, 24, 2), "test": range(1, 24, 2)})
    split = divide(root)
    assert split.album.files[0] == "test/data-00000-of-00001.arrow#00000000"
    assert split.counts == divide(layouts.folder(tmp_path / "folder")).counts
    assert set(split.sums.values()) == set(
        divide(layouts.hugging_face(tmp_path / "one")).sums.values()
    )


STATES: dict[str, tuple[str, str, str]] = {
    "traversal": (
        "state.json",
        '{"_data_files": [{"filename": "../x.arrow"}]}',
        "no name of a file",
    ),
    "absolute": ("state.json", '{"_data_files": [{"filename": "/x.arrow"}]}', "no name of a file"),
    "number": ("state.json", '{"_data_files": [{"filename": 3}]}', "names '3'"),
    "nothing": ("state.json", '{"_data_files": []}', "names no table"),
    "twice": ("state.json", '{"_data_files": [{"filename": "a"}, {"filename": "a"}]}', "one twice"),
    "absent": ("state.json", '{"_data_files": [{"filename": "a"}]}', "a cannot be read: No such"),
    "indices": (
        "state.json",
        '{"_indices_data_files": [{}], "_data_files": []}',
        "flatten_indices",
    ),
    "text": ("state.json", '"x"', "holds no JSON object"),
    "no JSON": ("state.json", "{", "is no JSON"),
    "deep": ("state.json", "[" * 100_000, "is no JSON"),
    "splits": ("dataset_dict.json", '{"splits": ["../other"]}', "no name of a file"),
    "no splits": ("dataset_dict.json", '{"splits": {}}', "names no table or split"),
    "no such split": ("dataset_dict.json", '{"splits": ["dev"]}', "there is no such file"),
    "info": ("dataset_info.json", "[]", "holds no JSON object"),
}


@pytest.mark.parametrize("how", STATES)
def test_what_datasets_did_not_write_is_refused(how: str, tmp_path: Path) -> None:
    pyarrow()
    root = layouts.hugging_face(tmp_path / "faces")
    name, text, why = STATES[how]
    (root / name).write_text(text)
    refused(root, why)


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "faces.parquet").write_bytes(b"PAR1")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "dataset_info.json").write_text("{}")
    (tmp_path / "hf" / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    for name in ("faces.parquet", "hf"):
        with pytest.raises(RequestError, match=r"need pyarrow.*pip install 'mibench\[arrow\]'"):
            divide(tmp_path / name)
        kind = "arrow" if name == "faces.parquet" else "huggingface"
        with pytest.raises(RequestError, match=r"pip install 'mibench\[arrow\]'"):
            prepare(kind, tmp_path / name, tmp_path / "data")


# Names


@pytest.mark.parametrize("label", ["$x$", "=1+1", "<b>", "Zoë", "a/b", "..", " x ", "\u202fx"])
def test_labels_are_text(label: str) -> None:
    assert own.named(label) == label.strip()


@pytest.mark.parametrize("label", [None, "", "  ", "a\nb", "a\x85b", "\udcff", b"\xff", "x" * 256])
def test_labels_that_are_none(label: object) -> None:
    with pytest.raises(ValueError, match=r"no label|control|255|decode"):
        own.named(label)


def test_every_source_of_files_says_what_a_picture_is_called(tmp_path: Path) -> None:
    shown: dict[str, Source] = {"x.csv": CSV(), "x.npz": NPZ()}
    assert shown["x.csv"].shown(tmp_path / "x.csv", "a/1.png") == str(tmp_path / "a" / "1.png")
    assert shown["x.npz"].shown(tmp_path / "x.npz", "#00000003") == f"{tmp_path}/x.npz#00000003"


# Cells


@pytest.mark.slow
@every_layout
def test_a_cell_of_a_file_is_the_folders(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers, for images and draws are the same; the layout is in the images' digest."""
    folder = make_tiny_folder(tmp_path / "folder")
    made = [(p.parent.name, np.asarray(Image.open(p))) for p in sorted(folder.glob("*/*.png"))]
    counts = dict(Counter(who for who, _ in made))
    monkeypatch.setattr(layouts, "rows", lambda _: made)
    for name in ("columns", "features"):
        make = getattr(layouts, name)
        monkeypatch.setattr(layouts, name, lambda _, make=make: make(counts))
    records = [
        mibench.run(
            protocol="folder",
            root=root,
            preset="small",
            attack="gmi",
            overrides=SETTINGS,
            store=tmp_path / "store",
            out=tmp_path / f"out-{number}",
        )
        for number, root in enumerate([folder, LAYOUTS[layout](tmp_path / "other")])
    ]
    one, other = ({k: v.value for k, v in each.metrics.items()} for each in records)
    assert one == other
    assert records[0].artifacts["images"] != records[1].artifacts["images"]
