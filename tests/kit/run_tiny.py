"""Run a cell of the tests' tiny protocol in a process of its own.

    python -m tests.kit.run_tiny STORE OUT ATTACK DEFENSE [STAGE]

With STAGE the process kills itself (SIGKILL) in the middle of that stage.
"""

from __future__ import annotations

import os
import signal
import sys

import mibench
from mibench import protocols
from mibench.progress import Progress, StageState
from tests.conftest import TINY


class Killer(Progress):
    """Kills the process in the middle of a stage: at its second step."""

    def __init__(self, stage: str | None) -> None:
        self.victim, self.steps_seen = stage, 0
        self.open: list[str] = [""]  # stages at work, the innermost last

    def stage(self, name: str, state: StageState, seconds: float = 0.0) -> None:
        print(name, state, flush=True)
        if state == "computing":
            self.open.append(name)
            self.steps_seen = 0
        elif state == "done":
            self.open.remove(name)
            self.steps_seen = 0

    def advance(self, steps: int) -> None:
        self.steps_seen += steps
        if self.open[-1] == self.victim and self.steps_seen == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    store, out, attack, defense, *stage = sys.argv[1:]
    protocols.PROTOCOLS["tiny"] = TINY
    mibench.run(
        protocol="tiny",
        attack=attack,
        defense=defense,
        store=store,
        out=out,
        progress=Killer(stage[0] if stage else None),
        command="tests.kit.run_tiny",
    )


if __name__ == "__main__":
    main()
