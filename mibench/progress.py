"""Progress of long work, as the core reports it, and its numbers as a person writes them.

How it is shown is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

StageState = Literal["computing", "done", "cached", "fetched"]

ABSENT = "—"  # in the place of a number that is not there


class Progress:
    """Told of every step of a stage. This base class shows nothing."""

    def expect(self, stages: Sequence[str]) -> None:
        """These stages will be gone through, computed or found, unless something ends it."""

    def steps(self, total: int, label: str) -> Generator[int, None, None]:
        """Iterate over ``range(total)``, telling :meth:`begin`, :meth:`advance` and :meth:`end`."""
        self.begin(total, label)
        try:
            for step in range(total):
                yield step
                self.advance(1)
        finally:
            self.end()

    def stage(self, name: str, state: StageState, seconds: float = 0.0) -> None:
        """A stage starts computing, was computed in ``seconds``, found cached, or fetched."""

    def begin(self, total: int, label: str) -> None:
        """A loop of ``total`` steps starts."""

    def advance(self, steps: int) -> None:
        """``steps`` more steps are done."""

    def report(self, **values: float | Tensor) -> None:
        """Losses and other values of the current step.

        A tensor of one detached value is read only when it is shown, which is far from every step:
        on a GPU, reading waits for all the work before it.
        """

    def end(self) -> None:
        """The loop ended, or was left."""


class Together(Progress):
    """Tells a loop that each of several rounds goes through as one, to show all the time left.

    A context manager, around the rounds. Rounds of more loops than one are told loop by loop.
    """

    def __init__(self, progress: Progress, rounds: int) -> None:
        self.progress, self.rounds = progress, rounds
        self.label: str | None = None  # of the loop that is open

    def __enter__(self) -> Together:
        return self

    def __exit__(self, *error: object) -> None:
        if self.label is not None:
            self.progress.end()

    def begin(self, total: int, label: str) -> None:
        """Go on with the loop of this label, or start it for all rounds."""
        if label != self.label:
            self.__exit__()
            self.progress.begin(total * self.rounds, label)
            self.label = label

    def advance(self, steps: int) -> None:
        self.progress.advance(steps)

    def report(self, **values: float | Tensor) -> None:
        self.progress.report(**values)


SILENT = Progress()


def duration(seconds: float) -> str:
    """A time as a person writes it: ``"3.2 s"``, ``"2 min 05 s"``, ``"1 h 04 min"``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes as a person writes them: ``"512 B"``, ``"1.4 MiB"``."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1023.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"
