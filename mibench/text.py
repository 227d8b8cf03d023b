"""Text that others chose (names of files, identities and methods), shown as text."""

from __future__ import annotations


def printable(text: str, most: int | None = None, keep: str = "") -> str:
    r"""``text`` with what would not show, or would steer a terminal, written as escapes.

    Control characters, lone surrogates (of file names that are no UTF-8), and the marks that turn
    the direction of writing become ``\x1b``, ``\udcff``, ``\u202e``.

    Args:
        text: any text.
        most: characters at most; the middle of a longer text becomes ``…``. None: all.
        keep: characters to leave as they are, as ``"\n"``.
    """
    shown = "".join(
        each
        if each.isprintable() or each in keep
        else each.encode("unicode_escape").decode("ascii")
        for each in text
    )
    if most is None or len(shown) <= most:
        return shown
    return f"{shown[: most // 2]}…{shown[len(shown) - (most - most // 2 - 1) :]}"
