"""Run the reported cells of synthfaces-32 and turn their records into the README's tables.

    python tools/report.py run [--protocol NAME] [--cells attacks|defenses] [--seeds 0 1 2]
    python tools/report.py table [--protocol NAME]

`run` writes one record a cell to leaderboards/records/<protocol>/ and skips cells that are there;
the store keeps finished stages, so it resumes where it was stopped. `table` is a pure function of
the records.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

import mibench
from mibench.evaluate import CEILING, FLOOR_PRIOR, FLOOR_PUBLIC
from mibench.methods import DEFENSES
from mibench.metrics import paired_interval
from mibench.protocols import protocol_named
from mibench.resolve import attack_names
from mibench.store import write_atomic
from mibench.types import Record

RECORDS = Path(__file__).resolve().parent.parent / "leaderboards" / "records"
VARIANTS = ("{}", "{}+lom", "{}+ma", "improved-{}")


def control(defense: str) -> dict[str, float]:
    """The override that turns a defense into its control."""
    strength = DEFENSES.get(defense).strength
    return {f"defense.{strength}": 0} if strength else {}


def cells(kind: str, seeds: list[int]) -> list[tuple[str, dict]]:
    """Names and arguments of the reported cells, seed by seed."""
    bases = [name for name in attack_names() if "+" not in name and "improved-" not in name]
    found: list[tuple[str, dict]] = []
    for seed in seeds:
        if kind == "attacks":
            for base in bases:
                for variant in VARIANTS:
                    attack = variant.format(base)
                    found.append((f"{attack}_none_seed{seed}", {"attack": attack, "seed": seed}))
            continue
        for defense in DEFENSES.names():
            common = {"attack": "improved-kedmi", "defense": defense, "seed": seed}
            found.append((f"improved-kedmi_{defense}_seed{seed}", common))
            if control(defense):
                name = f"improved-kedmi_{defense}-control_seed{seed}"
                found.append((name, {**common, "overrides": control(defense)}))
    return found


def run(protocol: str, kind: str, seeds: list[int], backwards: bool) -> None:
    """Run the cells that have no record yet; a second process takes them from the end."""
    for name, arguments in cells(kind, seeds)[:: -1 if backwards else 1]:
        path = RECORDS / protocol / f"{name}.json"
        if path.exists():
            continue
        start = time.monotonic()
        record = mibench.run(protocol=protocol, **arguments)
        write_atomic(path, (record.model_dump_json() + "\n").encode())
        value = record.metrics["attack_accuracy_top1"].value
        print(
            f"{name} {value} {record.utility['natural_accuracy']} {time.monotonic() - start:.0f}s"
        )


def load(protocol: str) -> dict[str, list[Record]]:
    """Records of a protocol, by cell without the seed, in the order of seeds."""
    found: dict[str, list[Record]] = {}
    version = protocol_named(protocol).digest
    for path in sorted((RECORDS / protocol).glob("*.json")):
        record = Record.model_validate_json(path.read_text())
        if record.protocol.resolved["digest"] != version:
            raise SystemExit(f"{path} was made under another version of {protocol}")
        found.setdefault(path.stem.rpartition("_seed")[0], []).append(record)
    return {name: sorted(records, key=lambda r: r.seed) for name, records in found.items()}


def value(records: list[Record], metric: str, scale: float = 100, digits: int = 1) -> str:
    """Mean ± standard deviation over seeds."""
    values = [record.metrics[metric].value for record in records]
    if any(each is None for each in values):
        return "—"
    return spread([scale * each for each in values if each is not None], digits)


def spread(values: list[float], digits: int = 1) -> str:
    """Mean ± standard deviation, the latter where there are at least two."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def difference(one: list[Record], other: list[Record], metric: str) -> str:
    """Paired difference ``one − other`` in points, with its 95 % interval over identities."""
    rows = []
    for a, b in zip(one, other, strict=True):
        mine, theirs = a.metrics[metric].per_identity, b.metrics[metric].per_identity
        assert a.seed == b.seed
        assert mine is not None
        assert theirs is not None
        rows.append([100 * (x - y) for x, y in zip(mine, theirs, strict=True)])
    mean, low, high = paired_interval(torch.tensor(rows))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def table(protocol: str) -> None:
    """Print the tables as Markdown."""
    found = load(protocol)
    print(
        "| attack | top-1 % | Δ top-1 to base | both evaluators % | top-5 % | KNN distance "
        "| FD (evaluator) | attribute error |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, records in found.items():
        attack = name.removesuffix("_none")
        if not name.endswith("_none") or "improved" in name or "+" in name:
            continue
        for variant in VARIANTS:
            full = variant.format(attack)
            each = found.get(f"{full}_none")
            if each:
                delta = "" if full == attack else difference(each, records, "attack_accuracy_top1")
                print(line(full, each, delta))
    some = next(iter(found.values()))
    for reference in (FLOOR_PRIOR, FLOOR_PUBLIC, CEILING):
        shown = [r.model_copy(update={"metrics": r.references[reference]}) for r in some]
        print(line(f"*{reference}*", shown, ""))
    print()
    print(
        "| defense | natural accuracy % | improved-kedmi top-1 % | both evaluators % "
        "| Δ top-1 to none | ε (unit) |"
    )
    print("|---|---|---|---|---|---|")
    base = found.get("improved-kedmi_none", [])
    for name, records in found.items():
        if not name.startswith("improved-kedmi_"):
            continue
        seeds = {record.seed for record in records}
        paired = [record for record in base if record.seed in seeds]
        natural = spread([100 * float(r.utility["natural_accuracy"] or 0) for r in records])
        delta = (
            "" if name.endswith("_none") else difference(records, paired, "attack_accuracy_top1")
        )
        utility = records[0].utility
        epsilon = utility.get("epsilon")
        guarantee = f"{epsilon:.2f} ({utility['privacy_unit']})" if epsilon else "—"
        print(
            f"| {name.removeprefix('improved-kedmi_')} | {natural} "
            f"| {value(records, 'attack_accuracy_top1')} "
            f"| {value(records, 'attack_accuracy_both')} | {delta} | {guarantee} |"
        )


def line(name: str, records: list[Record], delta: str) -> str:
    """A row of the first table."""
    return (
        f"| {name} | {value(records, 'attack_accuracy_top1')} | {delta} "
        f"| {value(records, 'attack_accuracy_both')} | {value(records, 'attack_accuracy_top5')} "
        f"| {value(records, 'knn_distance', 1, 2)} | {value(records, 'fd_evaluator', 1, 2)} "
        f"| {value(records, 'attribute_error', 1, 3)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--protocol", default="synthfaces-32")
    parser.add_argument("--cells", choices=["attacks", "defenses"], default="attacks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backwards", action="store_true", help="start with the last cell")
    options = parser.parse_args()
    if options.action == "run":
        run(options.protocol, options.cells, options.seeds, options.backwards)
    else:
        table(options.protocol)


if __name__ == "__main__":
    main()
