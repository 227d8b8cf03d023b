"""Errors that name what was wrong, where, and what to do; how text of strangers stands in them."""

from __future__ import annotations


class MibenchError(Exception):
    """A run failed for a reason that the message explains (exit code 1)."""

    exit_code = 1


class RequestError(MibenchError):
    """The request itself was wrong, found before any long work started (exit code 2)."""

    exit_code = 2


class NotApplicableError(RequestError):
    """The attack's access takes the defense off: a cell that has no number, and is no mistake."""


class UncheckedError(MibenchError):
    """A claim holds as far as it can be checked here, which is not all of it (exit code 3)."""

    exit_code = 3


class DivergedError(MibenchError):
    """A student's training or an attack left the numbers: a status of the cell, not a crash."""


class EvaluatorDivergedError(MibenchError):
    """An evaluator's training left the numbers: no cell of its protocol can be judged."""


class ArtifactError(MibenchError):
    """A stored artifact is missing, incomplete or does not match its checksum."""


class HubError(MibenchError):
    """A hub lacks what was asked for, or what it sent is not what was asked for."""


class UnreachableError(HubError):
    """A hub does not answer."""


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
