"""What a full cell and a full grid would cost, from two runs of a cell at shares of its budget.

    python -m tests.benchmarks.projection SMALL/record.json LARGE/record.json --data FOLDER

A stage's time is taken as linear in the budget, which epochs and steps are: two shares give what it
costs at the whole one. The grid is every defense under every attack, three seeds; its other targets
and attacks are counted as if they cost what the timed ones do, which is too little for DP-SGD.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from mibench.grid.grid import expand, make_grid
from mibench.grid.plan import make_plan
from mibench.progress import duration
from mibench.record import Record
from mibench.store.store import Store
from mibench.training.defense import DEFENSES
from tests.kit.methods import attack_names

FIXED = {"references", "metrics"}  # stages without a budget


def projected(small: Record, large: Record) -> dict[str, float]:
    """Seconds of each stage at the whole budget, at least those at the larger share.

    Raises:
        SystemExit: the records are not of one cell at two shares, or a stage was not computed.
    """
    shares = [float(record.protocol.passed.get("budget", 1)) for record in (small, large)]
    before, after = (
        {cost.stage: cost.seconds for cost in record.costs if not cost.cached}
        for record in (small, large)
    )
    if shares[0] >= shares[1] or before.keys() | FIXED != after.keys() | FIXED:
        raise SystemExit("needed: two records of one cell, computed at a small and a large share")
    rest = (1 - shares[1]) / (shares[1] - shares[0])
    return {
        stage: seconds + (0 if stage in FIXED else max(0.0, rest * (seconds - before[stage])))
        for stage, seconds in after.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("small", type=Path)
    parser.add_argument("large", type=Path)
    parser.add_argument("--data", required=True, help="folder of the prepared data set")
    options = parser.parse_args()
    records = [Record.model_validate_json(p.read_text()) for p in (options.small, options.large)]
    stages = projected(*records)
    for stage, seconds in stages.items():
        print(f"{stage}: {duration(seconds)}")
    print(f"cell: {sum(stages.values()) / 3600:.2f} hours")
    fields = {
        "protocol": records[0].protocol.name,
        "data": options.data,
        "defenses": DEFENSES.names(),
        "attacks": [name for name in attack_names() if "+" not in name],
        "seeds": "0-2",
        "set": {"protocol.initialisation": {}},
    }
    with TemporaryDirectory() as folder:
        plan = make_plan(expand([make_grid(fields, "projection")]), Store(Path(folder)))
    total: dict[str, float] = defaultdict(float)
    for planned in plan.to_compute:
        total[planned.stage.kind] += stages[planned.stage.name]
    print(f"grid of {len(plan.cells)} cells: {sum(total.values()) / 3600:.1f} hours")
    for stage, seconds in sorted(total.items(), key=lambda item: -item[1]):
        print(f"  {stage}: {seconds / 3600:.1f}")


if __name__ == "__main__":
    main()
