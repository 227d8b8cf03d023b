"""What a user or a stranger names is opened with care, and what is written is never half there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mibench.errors import MibenchError, RequestError
from mibench.files import output_folder, read_file, read_plain, user_path, write_atomic

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")


def test_a_regular_file_is_read_whole_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"x" * 10)
    assert read_file(path, "the record", most=10) == b"x" * 10
    with pytest.raises(RequestError, match=r"the record .*a\.json has more than"):
        read_file(path, "the record", most=9)


@posix
@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "absent"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    with pytest.raises(RequestError, match=f"the grid {path}"):
        read_file(path, "the grid")


@posix
def test_links_are_followed_for_users_and_not_for_strangers(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"1")
    (tmp_path / "link").symlink_to("real")
    assert read_file(tmp_path / "link", "it") == b"1"
    with pytest.raises(RequestError, match="a link"):
        read_plain(tmp_path / "link", "it")


@posix
@pytest.mark.parametrize("text", ["", "a\0b", "caf\udce9", "x" * 300, "~no-such-user-here/x"])
def test_paths_that_no_file_system_takes(text: str) -> None:
    with pytest.raises(RequestError, match="the store"):
        user_path(text, "the store")


def test_a_folder_to_write_to_need_not_exist_and_is_not_made(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "new", tmp_path / "new" / "er"):
        assert output_folder(place, "--out") == place
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize("kind", ["file", "below a file", "dangling", "device", "kernel"])
def test_what_no_folder_can_be_made_of_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("nowhere")
    place = {
        "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "x",
        "dangling": tmp_path / "link",
        "device": Path("/dev/null"),
        "kernel": Path("/proc/mibench"),
    }[kind]
    if kind == "kernel" and not place.parent.exists():
        pytest.skip("no /proc here")
    with pytest.raises(RequestError, match=f"--out {place}"):
        output_folder(place, "--out")


@posix
def test_writing_follows_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"old")
    place = tmp_path / "place"
    place.symlink_to(victim)
    write_atomic(place, b"new")
    assert victim.read_bytes() == b"old"
    assert place.read_bytes() == b"new"
    assert not place.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["place", "victim"]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MibenchError, match="cannot write"):
        write_atomic(tmp_path / "file" / "below", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MibenchError, match="cannot write"):
        write_atomic(tmp_path / "folder", b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
