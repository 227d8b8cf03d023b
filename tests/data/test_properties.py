"""Generated folders of odd images and odd paths: refused with a word, or used; nothing else.

Whatever is named as an image folder, as the originals of a data set or as the data folder, the
outcome is an error that names it (exit code 2, or 1 for damage), or work that is done. No
traceback, no hang, and nothing that is half there under its final name.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mibench.data import pixels
from mibench.data.folder import FolderOptions
from mibench.data.prepare import prepare
from mibench.data.prepared import DataFolder
from mibench.data.source import SOURCES, SUFFIXES, UnusableImage
from mibench.data.sources.cifar10 import CLASSES
from mibench.data.sources.folder import Folder
from mibench.errors import MibenchError, RequestError
from tests.data.test_sources import celeba_files, lists, mnist_files, picture, row
from tests.kit import layouts
from tests.kit.command_line import invoke

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")

LIMIT = 20.0  # seconds that one example may take before it counts as hanging
SLOW = settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one example: fixtures live as long as all examples."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)


def outcome(work: Callable[[], Any]) -> Any:
    """What work returns, or its error; a hang fails the test instead of the whole session."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert result, "it hangs"
    if isinstance(result[0], BaseException) and not isinstance(result[0], MibenchError):
        raise result[0]
    return result[0]


# Image files


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(seed: int, mode: str = "RGB", side: int = 9) -> Image.Image:
    channels = {"RGB": 3, "RGBA": 4, "L": 1, "LA": 2, "CMYK": 4}[mode]
    shape = (side, side, channels) if channels > 1 else (side, side)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels, mode)


def promise(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises so many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 100)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def text_bomb() -> bytes:
    """A PNG whose comment unpacks to 64 MB."""
    whole = encoded(noise(1), "PNG")
    body = b"k\0\0" + zlib.compress(b"x" * 2**26)
    piece = struct.pack(">I", len(body)) + b"zTXt" + body
    return whole[:33] + piece + struct.pack(">I", zlib.crc32(b"zTXt" + body)) + whole[33:]


def frames(kind: str) -> bytes:
    return encoded(noise(2), kind, save_all=True, append_images=[noise(3), noise(4)])


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(noise(5), "JPEG", exif=exif)


ODD: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"<html>404</html>",
    "zeros": lambda: bytes(4096),
    "eps": lambda: (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch /tmp/x) (w) file\n"
    ),
    "pdf": lambda: b"%PDF-1.4\n",
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
    "gif": lambda: encoded(noise(1).convert("P"), "GIF"),
    "animated gif": lambda: frames("GIF"),
    "animated png": lambda: frames("PNG"),
    "animated webp": lambda: frames("WEBP"),
    "pages": lambda: frames("TIFF"),
    "ico": lambda: encoded(noise(1, side=16), "ICO"),
    "cmyk": lambda: encoded(noise(1, "CMYK"), "JPEG"),
    "cmyk tiff": lambda: encoded(noise(1, "CMYK"), "TIFF"),
    "grey": lambda: encoded(noise(1, "L"), "PNG"),
    "grey and alpha": lambda: encoded(noise(1, "LA"), "PNG"),
    "alpha": lambda: encoded(noise(1, "RGBA"), "PNG"),
    "one bit": lambda: encoded(noise(1).convert("1"), "PNG"),
    "palette": lambda: encoded(noise(1).convert("P"), "PNG", transparency=3),
    "deep": lambda: encoded(Image.fromarray(np.arange(81, dtype=np.uint16).reshape(9, 9)), "PNG"),
    "deep pnm": lambda: b"P5 2 2 65535\n" + bytes(8),
    "float": lambda: encoded(Image.new("F", (9, 9)), "TIFF"),
    "integers": lambda: encoded(Image.new("I", (9, 9)), "TIFF"),
    "lab": lambda: encoded(Image.new("LAB", (9, 9)), "TIFF"),
    "plain pnm": lambda: b"P3 1 1 255\n1 2 3\n",
    "endless pnm": lambda: b"P3 9 9 255\n" + b"1" * 5000,
    "line": lambda: encoded(Image.new("RGB", (3000, 1), (1, 2, 3)), "PNG"),
    "one pixel": lambda: encoded(Image.new("RGB", (1, 1)), "BMP"),
    "promise": lambda: promise(40_000, 40_000),
    "small promise": lambda: promise(2000, 2000),
    "endless promise": lambda: promise(2**31 - 1, 2**31 - 1),
    "no pixels": lambda: promise(0, 0),
    "text bomb": text_bomb,
    **{f"turned {number}": lambda number=number: turned(number) for number in (0, 6, 9)},  # type: ignore[misc]
}
WHOLE: dict[str, Callable[[int], bytes]] = {
    "JPEG": lambda seed: encoded(noise(seed), "JPEG"),
    "PNG": lambda seed: encoded(noise(seed), "PNG"),
    "BMP": lambda seed: encoded(noise(seed), "BMP"),
    "WEBP": lambda seed: encoded(noise(seed), "WEBP"),
    "TIFF": lambda seed: encoded(noise(seed), "TIFF", compression="tiff_lzw"),
    "PPM": lambda seed: encoded(noise(seed), "PPM"),
}


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Bytes of an image file: of an odd kind, or whole ones damaged anywhere."""
    if draw(st.booleans()):
        return ODD[draw(st.sampled_from(sorted(ODD)))]()
    data = bytearray(WHOLE[draw(st.sampled_from(sorted(WHOLE)))](draw(st.integers(0, 3))))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data) - 1))
        data[place] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


def decodes_or_says_why(data: bytes) -> None:
    with contextlib.suppress(UnusableImage):
        assert pixels.decode(data, Folder(), 8).shape == (3, 8, 8)


@given(contents())
@settings(QUICK, max_examples=150)
def test_any_bytes_are_an_image_or_a_reason(data: bytes) -> None:
    decodes_or_says_why(data)


@pytest.mark.slow
@given(contents() | st.binary(max_size=500))
@settings(SLOW, max_examples=20_000)
def test_many_bytes_are_an_image_or_a_reason(data: bytes) -> None:
    decodes_or_says_why(data)


@pytest.mark.parametrize("kind", ["eps", "pdf", "svg", "gif", "ico", "animated gif"])
def test_only_the_accepted_formats_have_a_decoder(kind: str) -> None:
    with pytest.raises(UnusableImage, match="not an image in a known format"):
        pixels.decode(ODD[kind](), Folder(), 8)


# Paths


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _socket(path: Path) -> None:
    with scratch() as short, socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short / "s"))
        (short / "s").rename(path)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"P6 9 9 255\n")
        file.truncate(2**40)


def _empty_folders(path: Path, count: int) -> None:
    for i in range(count):
        (path / str(i)).mkdir(parents=True)


PLACES: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "socket": _socket,
    "folder": Path.mkdir,
    "empty folders": lambda path: _empty_folders(path, 20),
    "link to nowhere": lambda path: path.symlink_to("nowhere-at-all"),
    "link to itself": _loop,
    "link to its folder": lambda path: path.symlink_to(".."),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to a file": lambda path: path.symlink_to("/etc/hostname"),
    "link to all": lambda path: path.symlink_to("/dev"),
    "larger than any image": _sparse,
    "no image": lambda path: _write(path, b"\0"),
}
NAME_PARTS = [
    "a",
    "é",
    "日本",
    "-x",
    "~",
    "~nouser",
    "$(x)",
    "`x`",
    "%s",
    "{x}",
    "Pa$$ion",
    " ",
    "\n",
]
ENDS = [*sorted(SUFFIXES), ".JPG", ".gif", ".eps", "", ".png.txt", "."]


@st.composite
def file_names(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([b"caf\xe9.png", b"\xff\xfe.jpg", b"x" * 251 + b".png"]))
    name = "".join(draw(st.lists(st.sampled_from(NAME_PARTS), min_size=1, max_size=4)))
    return (name + draw(st.sampled_from(ENDS))).encode()


@st.composite
def entries(draw: st.DrawFn) -> tuple[bytes, str | bytes]:
    """A name, and what has it: a kind of place, or a file's bytes."""
    what = draw(st.sampled_from(sorted(PLACES)) | contents())
    return draw(file_names()), what


def put(folder: Path, name: bytes, what: str | bytes) -> None:
    path = folder / os.fsdecode(name)
    if os.path.lexists(path):
        return
    if isinstance(what, bytes):
        path.write_bytes(what)
    else:
        PLACES[what](path)


def people(root: Path) -> Path:
    """Three identities with six images, five with two."""
    for who, count in (("Ann", 6), ("Bob", 6), ("Cyd", 6), *((f"P{i}", 2) for i in range(5))):
        for i in range(count):
            picture(root / who / f"{who}_{i:04d}.png", 8, 8, 100 * ord(who[-1]) + i)
    return root


def divides_or_says_why(root: Path, *, skip: bool) -> None:
    def work() -> Any:
        options = FolderOptions(min_images=5, max_private=2, skip_unreadable=skip)
        split = options.divide(resolution=8, root=root)
        return split, split.load()

    made = outcome(work)
    if isinstance(made, MibenchError):
        assert isinstance(made, RequestError)
        assert str(root) in str(made)
        return
    split, data = made
    assert len(data.train) == split.counts.train
    pictures = [set(map(bytes, part.images.numpy())) for part in (data.train, data.val, data.test)]
    assert not pictures[0] & pictures[1] | pictures[0] & pictures[2] | pictures[1] & pictures[2]


odd_folders = given(
    st.lists(st.tuples(st.sampled_from(["", "Ann", "P1", "New"]), entries()), max_size=3),
    st.booleans(),
)


def try_folder(odd: list[tuple[str, tuple[bytes, str | bytes]]], skip: bool) -> None:
    with scratch() as folder:
        root = people(folder / "faces")
        for where, (name, what) in odd:
            (root / where).mkdir(exist_ok=True)
            put(root / where, name, what)
        divides_or_says_why(root, skip=skip)


@odd_folders
@QUICK
def test_folders_with_odd_entries(
    odd: list[tuple[str, tuple[bytes, str | bytes]]], skip: bool
) -> None:
    try_folder(odd, skip)


@pytest.mark.slow
@odd_folders
@SLOW
def test_many_folders_with_odd_entries(
    odd: list[tuple[str, tuple[bytes, str | bytes]]], skip: bool
) -> None:
    try_folder(odd, skip)


def test_thousands_of_empty_folders_and_levels(tmp_path: Path) -> None:
    root = people(tmp_path / "faces")
    _empty_folders(root, 2000)
    divides_or_says_why(root, skip=True)
    divides_or_says_why(root, skip=False)
    deep = root / "Ann"
    here = os.open(deep, os.O_RDONLY)
    for _ in range(1500):  # relative to each other: together they are longer than a path may be
        os.mkdir("d", dir_fd=here)
        there = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)
    try:
        divides_or_says_why(root, skip=True)
    finally:  # pytest's own cleaning up would recurse too deep, in every later session
        subprocess.run(["rm", "-rf", str(deep / "d")], check=True)


# Data sets


OF_FILES = {"csv": layouts.csv_file, "npz": layouts.npz_file}
if importlib.util.find_spec("pyarrow"):
    OF_FILES |= {"arrow": layouts.arrow_file, "huggingface": layouts.hugging_face}
NAMES = [n for n in SOURCES.names() if n in OF_FILES or n not in ("arrow", "huggingface")]


def originals(name: str, root: Path) -> Path:
    """A few pictures in a data set's layout; what is returned is the root."""
    root.mkdir()
    if name == "mnist":
        mnist_files(root / "raw")
    elif name == "celeba":
        celeba_files(root, {f"{i:06d}.jpg": i % 2 for i in range(4)})
    elif name == "facescrub":
        lists(root, row("Ann", 1, 1, "") + row("Bob", 2, 2, "-"), row("Cyd", 1, 1, ""))
        for who, i in (("Ann", 1), ("Bob", 2), ("Cyd", 1)):
            picture(root / who / f"{who}_{i}.png", 16, 16, i + ord(who[0]))
    elif name == "ffhq":
        for i in range(3):
            picture(root / f"{i:05d}.png", 128, 128, i)
    elif name == "cifar10":
        for part in ("train", "test"):
            for i, label in enumerate(CLASSES):
                picture(root / part / label / f"{i:04d}.png", 8, 8, i)
    elif name in OF_FILES:
        return OF_FILES[name](root)
    else:
        for who in ("Ann", "Bob"):
            for i in range(3):
                picture(root / who / f"{who}_{i:04d}.png", 8, 8, i)
    return root


def prepares_or_says_why(name: str, root: Path, data: Path) -> None:
    made = outcome(lambda: prepare(name, root, data, 8, incomplete=True, workers=1))
    if isinstance(made, MibenchError):
        assert name in str(made) or str(root) in str(made) or str(data) in str(made)
        assert not DataFolder(data).sets()
    else:
        assert DataFolder(data).problem(made.folder.parent.name) is None
        assert len(made.sources) == len(made.labels)


odd_originals = given(
    st.sampled_from(NAMES),
    st.sampled_from(["put", "replace"]),
    st.integers(0, 50),
    entries(),
)


def try_originals(name: str, how: str, where: int, odd: tuple[bytes, str | bytes]) -> None:
    with scratch() as folder:
        root = originals(name, folder / "originals")
        below = folder / "originals"
        there = sorted(path for path in below.rglob("*") if how == "put" or path.is_file())
        folders = [below, *(path for path in there if path.is_dir())]
        if how == "put":  # one more, somewhere
            put(folders[where % len(folders)], *odd)
        else:  # one of its files is something else
            path = there[where % len(there)]
            path.unlink()
            put(path.parent, os.fsencode(path.name), odd[1])
        prepares_or_says_why(name, root, folder / "data")
        prepares_or_says_why(name, root, folder / "data")  # and so when it is repeated


@odd_originals
@settings(QUICK, max_examples=80)
def test_odd_originals(name: str, how: str, where: int, odd: tuple[bytes, str | bytes]) -> None:
    try_originals(name, how, where, odd)


@pytest.mark.slow
@odd_originals
@SLOW
def test_many_odd_originals(
    name: str, how: str, where: int, odd: tuple[bytes, str | bytes]
) -> None:
    try_originals(name, how, where, odd)


@st.composite
def paths(draw: st.DrawFn) -> str:
    """What may stand behind an option that takes a folder; ``{}`` is the example's folder."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.sampled_from(FIXED))
    if kind == 1:
        return "{}/" + draw(st.sampled_from(sorted(PLACES)))
    if kind == 2:
        return "{}/" + draw(st.sampled_from(sorted(PLACES))) + "/below"
    return "{}/" + os.fsdecode(draw(file_names()))


FIXED = [
    *("", "~nobody-is-called-so/x", "a\0b", "/dev/null", "/dev/zero", "/dev/full/x", "x" * 300),
    *("/proc/self/mem", "/".join(["d"] * 3000), "//", "\udce9", "{}", "{}/../{}"),
]
COMMANDS: dict[str, list[str]] = {
    "originals": ["data", "prepare", "lfw", "--data", "{}/data", "--incomplete", "--root"],
    "data to prepare in": ["data", "prepare", "lfw", "--root", "{}/lfw", "--incomplete", "--data"],
    "data to check": ["data", "check", "--data"],
    "data to list": ["data", "list", "--data"],
    "image folder": ["run", "--protocol", "folder", "--out", "{}/out", "--quiet", "--root"],
    "data of a protocol": ["run", "--protocol", "lfw-64-small", "--out", "{}/out", "--data"],
}


def try_path(command: str, path: str) -> None:
    with scratch() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIBENCH_DATA", str(folder / "usual"))
        originals("lfw", folder / "lfw")
        for name, make in PLACES.items():
            make(folder / name)
        arguments = [part.replace("{}", str(folder)) for part in (*COMMANDS[command], path)]
        result = outcome(lambda: invoke(*arguments))
        error = result.exception
        assert error is None or isinstance(error, SystemExit), result.exception
        assert result.exit_code in (0, 1, 2)
        assert result.exit_code == 0 or "error: " in result.stderr.lower()
        if result.exit_code:
            assert not (folder / "out").exists()


@given(st.sampled_from(sorted(COMMANDS)), paths())
@settings(QUICK, max_examples=60)
def test_odd_paths(command: str, path: str) -> None:
    try_path(command, path)


@pytest.mark.slow
@given(st.sampled_from(sorted(COMMANDS)), paths())
@SLOW
def test_many_odd_paths(command: str, path: str) -> None:
    try_path(command, path)


@pytest.mark.parametrize("command", sorted(COMMANDS))
@pytest.mark.parametrize("where", ["lfw", "data"])
def test_no_permission(
    command: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another user than root sees a folder that is closed to him."""
    originals("lfw", tmp_path / "lfw")
    closed = tmp_path / where
    closed.mkdir(exist_ok=True)

    def shut(call: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, *args: Any, **options: Any) -> Any:
            inside = isinstance(path, str | os.PathLike) and str(os.fspath(path)).startswith(
                str(closed)
            )
            if inside:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return call(path, *args, **options)

        return opened

    for name in ("open", "scandir", "listdir", "mkdir"):
        monkeypatch.setattr(os, name, shut(getattr(os, name)))
    arguments = [part.replace("{}", str(tmp_path)) for part in (*COMMANDS[command], "{}/" + where)]
    result = outcome(lambda: invoke(*arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1, 2)
    assert result.exit_code or command in ("data to check", "data to list")


# Files that hold many pictures


def damaged(data: bytes, changes: list[tuple[float, int]], end: float) -> bytes:
    """With other bytes in a few places, and cut off."""
    changed = bytearray(data)
    for place, value in changes:
        changed[int(place * (len(data) - 1))] = value
    return bytes(changed[: round(end * len(data))])


KINDS = [*OF_FILES, "npz-compressed", *(["parquet"] if "arrow" in OF_FILES else [])]
damages = given(
    st.sampled_from(KINDS),
    st.integers(0, 3),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    st.one_of(st.just(1.0), st.floats(0, 1)),
    st.booleans(),
)


def try_damage(
    kind: str, which: int, changes: list[tuple[float, int]], end: float, skip: bool
) -> None:
    with scratch() as folder:
        root = layouts.LAYOUTS[kind](folder / "faces")
        paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".png")
        path = paths[which % len(paths)]
        path.write_bytes(damaged(path.read_bytes(), changes, end))
        divides_or_says_why(root, skip=skip)


@damages
@settings(QUICK, max_examples=30)
def test_damaged_files_of_pictures(
    kind: str, which: int, changes: list[tuple[float, int]], end: float, skip: bool
) -> None:
    try_damage(kind, which, changes, end, skip)


@pytest.mark.slow
@damages
@SLOW
def test_many_damaged_files_of_pictures(
    kind: str, which: int, changes: list[tuple[float, int]], end: float, skip: bool
) -> None:
    try_damage(kind, which, changes, end, skip)
