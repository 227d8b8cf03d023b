"""Progress of long work, as the core reports it; how it is shown is the caller's affair."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

StageState = Literal["computing", "done", "cached"]


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
        """A stage starts computing, was computed in ``seconds``, or was found cached."""

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


SILENT = Progress()
