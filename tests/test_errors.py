"""Text that others chose, shown as text."""

from __future__ import annotations

from typing import Any

import pytest

from mibench.errors import RequestError, printable
from tests.kit.command_line import invoke


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pa$$ion [red]x[/]", "Pa$$ion [red]x[/]"),
        ("王 ü é", "王 ü é"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\udcff", "\\udcff"),
        ("a\u202eb\u200b", "a\\u202eb\\u200b"),
    ],
)
def test_what_would_not_show_is_an_escape(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable(text).encode("utf-8")


@pytest.mark.parametrize("most", [1, 2, 3, 8, 9])
def test_long_text_loses_its_middle(most: int) -> None:
    assert printable("0123456789", 10) == "0123456789"
    short = printable("0123456789", most)
    assert len(short) == most
    assert "…" in short


def test_kept_characters_stay() -> None:
    assert printable("a\nb\tc", keep="\n") == "a\nb\\tc"


def test_errors_steer_no_terminal_and_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or an identity may be called anything, and messages name it."""

    def fail(*_: Any, **__: Any) -> None:
        raise RequestError("the folder [red]x[/] \x1b[31m is empty\nand so is \udcff")

    monkeypatch.setattr("mibench.cell.run.resolve", fail)
    result = invoke("run")
    assert result.exit_code == 2
    expected = "error: the folder [red]x[/] \\x1b[31m is empty\nand so is \\udcff\n"
    assert result.output.endswith(expected)
