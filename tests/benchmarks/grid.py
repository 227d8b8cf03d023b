"""What sharing saves, and what the grid itself costs.

    python -m tests.benchmarks.grid [GRID.toml] [--run]

Prints how many stages a grid computes, and how many a script would that runs cell after cell. With
``--run`` it computes the grid in this process, in a store of its own, and prints the share of the
time that was not spent in computing stages (planning, scheduling, checksums, loading).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from mibench.grid.grid import expand, make_grid, read_grids
from mibench.grid.local import InProcess
from mibench.grid.plan import make_plan
from mibench.grid.run import run_grid
from mibench.grid.schedule import Listener
from mibench.store.store import Store

GOAL = 0.02
SMALL = {"attacks": ["gmi", "gmi+ma", "improved-gmi"], "defenses": ["none"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--run", action="store_true")
    options = parser.parse_args()
    grids = read_grids(options.file) if options.file else [make_grid(SMALL, "benchmark")]
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        store = Path(folder) / "store"
        plan = make_plan(expand(grids), Store(store), Path(folder))
        planning = time.perf_counter() - start
        stages = len(plan.to_compute)
        print(
            f"{len(plan.cells)} cells: {stages} stages computed, {plan.separately} cell by cell "
            f"({plan.separately / stages:.2f} times as many); planned in {planning:.1f} s"
        )
        if not options.run:
            return
        result = run_grid(plan, store, InProcess(), Listener())
        wall = planning + result.wall
        share = (wall - result.computed) / wall
        print(
            f"{wall:.1f} s, {result.computed:.1f} s of it computing stages: the grid itself takes "
            f"{share:.1%}, goal {GOAL:.0%}: {'met' if share <= GOAL else 'NOT MET'}"
        )


if __name__ == "__main__":
    main()
