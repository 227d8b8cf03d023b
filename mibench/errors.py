"""Errors that name what was wrong, where, and what to do."""

from __future__ import annotations


class MibenchError(Exception):
    """A run failed for a reason that the message explains (exit code 1)."""

    exit_code = 1


class RequestError(MibenchError):
    """The request itself was wrong, found before any long work started (exit code 2)."""

    exit_code = 2


class UncheckedError(MibenchError):
    """A claim holds as far as it can be checked here, which is not all of it (exit code 3)."""

    exit_code = 3


class DivergedError(MibenchError):
    """A student's training or an attack left the numbers: a status of the cell, not a crash."""


class JudgeDivergedError(MibenchError):
    """An evaluator's training left the numbers: no cell of its protocol can be judged."""


class ArtifactError(MibenchError):
    """A stored artifact is missing, incomplete or does not match its checksum."""
