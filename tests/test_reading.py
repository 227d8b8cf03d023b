"""Values read off a file's text, which runs nothing in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mibench.reading import Call, UnreadableError, read_module

TEXT = """
import torch

raise_ = 1
PLAIN = {"a": -1, "b": [1, "x"]}
MORE: dict = {**PLAIN, "a": 2}
HIDDEN = {**torch.settings, "a": 2}

@register("mine", at=PLAIN)
class Mine(Base["Mine.Config"]):
    card = Card(title="A " "title", year=2026, **MORE)
    odd = Card(title=str(2), **HIDDEN)

    def method(self): ...

def made():
    text = "not read"
    return Card(title="made")
"""


def test_what_a_file_says_outright(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(TEXT)
    found = read_module(tmp_path / "a.py")
    assert found["MORE"] == {"a": 2, "b": [1, "x"]}
    mine = found["Mine"]
    assert mine.bases == ("Base",)
    assert mine.decorators == (Call("register", ("mine",), {"at": found["PLAIN"]}),)
    assert mine.get("absent", 3) == 3
    card = mine.attributes["card"]
    assert (card.get("title"), card.get("a"), card.get("venue", None)) == ("A title", 2, None)
    assert found["made"].get("title") == "made"
    for name in ("title", "venue"):  # computed; perhaps in the settings that are not known
        with pytest.raises(UnreadableError):
            mine.attributes["odd"].get(name, None)
    with pytest.raises(UnreadableError):
        mine.get("card")


@pytest.mark.parametrize("data", [b"a = (", b"a = 1\0", b"a = '\xff'", b"-" * 100_000 + b"1"])
def test_what_is_no_python_is_unreadable(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.py").write_bytes(data)
    with pytest.raises(UnreadableError):
        read_module(tmp_path / "a.py")
    with pytest.raises(UnreadableError):
        read_module(tmp_path / "absent.py")
