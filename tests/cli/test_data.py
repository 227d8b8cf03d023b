"""``mibench data``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from mibench.data.source import SOURCES, source_named
from mibench.data.sources.celeba import CelebA
from tests.data.test_sources import celeba_files, mnist_files, picture
from tests.kit.command_line import invoke


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mnist_files(tmp_path / "originals" / "MNIST" / "raw")
    return tmp_path / "originals"


@pytest.fixture
def data(root: Path, tmp_path: Path) -> Path:
    """A data folder with the ten digits of ``root`` prepared."""
    folder = tmp_path / "data"
    args = ("mnist", "--root", str(root), "--data", str(folder), "--incomplete", "--quiet")
    assert invoke("data", "prepare", *args).exit_code == 0
    return folder


def test_data_prepare(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBENCH_DATA", str(tmp_path / "named"))
    result = invoke("data", "prepare", "mnist", "--root", str(root), "--incomplete")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "mnist: 10 images of 10 identities (not the published counts), 30.0 KiB, in "
        f"{tmp_path / 'named' / 'mnist-32'}"
    ]
    other = ("--resolution", "16", "--data", str(tmp_path / "chosen"))
    args = ("data", "prepare", "mnist", "--root", str(root), "--incomplete", *other)
    assert invoke(*args).exit_code == 0
    assert len(list((tmp_path / "chosen" / "mnist-16").glob("*/index.json"))) == 1


def test_data_prepare_shows_progress(root: Path, tmp_path: Path) -> None:
    picture(tmp_path / "faces" / "Ann" / "Ann_0001.png", 8, 8)
    args = ("data", "prepare", "lfw", "--root", str(tmp_path / "faces"), "--data", str(tmp_path))
    result = invoke(*args, "--incomplete", "--crop", "100")
    assert result.exit_code == 2
    assert "only 250×250 can be cropped" in result.stderr
    assert result.stdout == ""


def test_what_is_prepared_already_is_said(root: Path, tmp_path: Path) -> None:
    places = ("--root", str(root), "--data", str(tmp_path / "data"))
    args = ("data", "prepare", "mnist", *places, "--incomplete")
    first = invoke(*args)
    again = invoke(*args)
    assert first.exit_code == again.exit_code == 0
    assert first.stdout == again.stdout
    assert "cached" not in first.stderr
    assert "pictures of mnist: cached" in again.stderr


def test_data_prepare_refuses_with_the_layout(root: Path, tmp_path: Path) -> None:
    args = ("--root", str(root), "--data", str(tmp_path / "data"))
    result = invoke("data", "prepare", "celeba", *args)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: celeba: there is no folder img_align_celeba in")
    assert "├── identity_CelebA.txt" in result.stderr
    result = invoke("data", "prepare", "celebb", *args)
    assert result.exit_code == 2
    assert "did you mean 'celeba'?" in result.stderr
    result = invoke("data", "prepare", "mnist", *args)
    assert result.exit_code == 2
    assert "t10k-images-idx3-ubyte is damaged" in result.stderr


def test_data_list(data: Path) -> None:
    result = invoke("data", "list", "--data", str(data))
    assert result.exit_code == 0
    for name in SOURCES.names():
        assert name in result.stdout
    assert "mnist-32 (10 images):" in result.stdout
    assert f"data folder: {data}" in result.stdout
    listing = json.loads(invoke("data", "list", "--data", str(data), "--json").stdout)
    assert listing["data"] == str(data)
    entries = {entry["name"]: entry for entry in listing["datasets"]}
    assert list(entries) == SOURCES.names()
    card = source_named("celeba").card
    assert entries["celeba"]["licence"] == card.licence
    assert entries["celeba"]["home"] == card.home
    assert entries["celeba"]["images"] == 202_599
    assert entries["celeba"]["prepared"] == []
    (held,) = entries["mnist"]["prepared"]
    assert (held["images"], held["identities"], held["resolution"]) == (10, 10, 32)
    assert held["complete"] is False
    assert held["bytes"] > 10 * 3 * 32 * 32
    assert len(held["digest"]) == 64


def test_data_list_without_a_data_folder(tmp_path: Path) -> None:
    result = invoke("data", "list", "--data", str(tmp_path / "none"))
    assert result.exit_code == 0
    assert not (tmp_path / "none").exists()


def test_data_check_where_nothing_is(tmp_path: Path) -> None:
    result = invoke("data", "check", "--data", str(tmp_path / "none"))
    assert result.exit_code == 0
    assert result.stdout.startswith(f"nothing is prepared in {tmp_path / 'none'}; --data")


def test_data_check(data: Path) -> None:
    args = ("--data", str(data))
    result = invoke("data", "check", *args)
    assert result.exit_code == 0
    assert result.stdout == f"1 prepared data sets in {data} are intact\n"
    assert invoke("data", "check", "mnist", *args).exit_code == 0
    result = invoke("data", "check", "lfw", *args)
    assert result.exit_code == 2
    again = f"run mibench data prepare lfw --root DIR --resolution 64 --data {data}"
    assert again in result.stderr
    stopped = data / "partial" / f"mnist-64-{'0' * 64}"
    stopped.mkdir()
    assert f"{stopped} was not finished" in invoke("data", "check", *args).stdout
    (images,) = data.glob("mnist-32/*/images.npy")
    images.write_bytes(images.read_bytes()[:-1] + b"\x07")
    result = invoke("data", "check", *args)
    assert result.exit_code == 1
    assert "images.npy does not match its checksum" in result.stdout
    assert "to make it again, run mibench data prepare mnist" in result.stdout
    assert "1 of 1 prepared data sets" in result.stderr
    result = invoke("data", "check", "--json", *args)
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["checked"]["mnist-32"]) == 1
    (images.parent / "index.json").unlink()
    assert "mnist-32: damaged" in invoke("data", "list", *args).stdout
    listed = json.loads(invoke("data", "list", "--json", *args).stdout)["datasets"]
    (held,) = next(entry for entry in listed if entry["name"] == "mnist")["prepared"]
    assert "index.json cannot be read" in held["problem"]


def test_what_was_left_out_and_what_is_there_twice_is_said(tmp_path: Path) -> None:
    root, args = tmp_path / "set", ("--data", str(tmp_path / "data"))
    for i in range(3):
        picture(root / "Ann" / f"Ann_{i:04d}.png", 8, 8, i // 2)
    picture(root / "Bob" / "Bob_0001.png", 8, 8, 1)
    result = invoke("data", "prepare", "lfw", "--root", str(root), *args, "--incomplete", "--quiet")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:] == [
        "1 pictures equal an earlier one of their identity in every pixel, and 2 one of another "
        "identity"
    ]


def test_data_check_says_that_originals_changed(root: Path, data: Path) -> None:
    folder = root / "MNIST" / "raw"
    assert "changed" not in invoke("data", "check", "--data", str(data)).stdout
    images = folder / "t10k-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1] + b"\x33")
    result = invoke("data", "check", "--data", str(data))
    assert result.exit_code == 0
    assert "mnist-32 is intact, but its originals have changed since: to make it" in result.stdout
    found = json.loads(invoke("data", "check", "--data", str(data), "--json").stdout)
    assert found["originals_changed"] == ["mnist-32"]
    (folder / "t10k-images-idx3-ubyte").unlink()  # what is there no more has not changed
    assert "changed" not in invoke("data", "check", "--data", str(data)).stdout


def test_published_lists_are_brought_with_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = celeba_files(tmp_path / "originals", {"000001.jpg": 1, "000002.jpg": 2})
    brought, data = tmp_path / "brought", tmp_path / "data"
    brought.mkdir()
    (brought / "trainset.txt").write_text("000001.jpg 0\n")
    args = ("--root", str(root), "--data", str(data), "--incomplete", "--quiet")
    result = invoke("data", "prepare", "celeba", *args, "--lists", str(brought))
    assert result.exit_code == 2
    assert f"{brought / 'trainset.txt'} is damaged or another list" in result.stderr
    assert f"{brought / 'ganset.txt'} cannot be read" in result.stderr
    assert not data.exists()
    known = {"trainset.txt": hashlib.sha256(b"000001.jpg 0\n").hexdigest()}
    card = CelebA.card.model_copy(update={"lists": known})
    monkeypatch.setattr(CelebA, "card", card)
    result = invoke("data", "prepare", "celeba", *args, "--lists", str(brought))
    assert result.exit_code == 0, result.output
    kept = data / "celeba-lists"
    assert result.stdout.splitlines()[1] == f"its published lists: trainset.txt, in {kept}"
    assert (kept / "trainset.txt").read_text() == "000001.jpg 0\n"
    assert invoke("data", "check", "--data", str(data)).exit_code == 0


@pytest.mark.parametrize(
    "command", [("run", "--attack", "gmi"), ("grid", "--attacks", "gmi", "--dry-run")]
)
def test_a_protocol_of_published_lists_says_how_to_bring_them(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    places = ("--data", str(tmp_path / "data"), "--store", str(tmp_path / "store"))
    scratch = ("--set", "protocol.initialisation={}")
    result = invoke(*command, "--protocol", "celeba-64-lists", *places, *scratch)
    assert result.exit_code == 2
    assert f"looked for {tmp_path / 'data' / 'celeba-lists' / 'trainset.txt'}" in result.stderr
    way = f"mibench data prepare celeba --root DIR --resolution 64 --data {tmp_path / 'data'}"
    assert f"{way} --lists FOLDER" in result.stderr
    assert "FOLDER trainset.txt, testset.txt, ganset.txt" in result.stderr
