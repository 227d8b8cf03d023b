"""Show that a change of the code changes no number that is measured.

    python tools/same_metrics.py measure CHECKOUT OUT   # in that checkout's environment
    python tools/same_metrics.py tiny CHECKOUT OUT      # the tiny protocol alone
    python tools/same_metrics.py compare BEFORE AFTER

``measure`` runs, with one seed, every attack on the tests' tiny protocol, and ``improved-kedmi``
against ``none`` and ``bido`` on ``synthfaces-32`` at ``--budget 0.05``, from an empty store, and
leaves the records under OUT. ``compare`` takes two such folders and prints, for each record, how
many numbers are equal and every one that is not; it ends with status 1 if any differs. Both must
be measured on one machine with as many threads.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ATTACKS = tuple(
    f"{form}{attack}{added}"
    for attack in ("gmi", "kedmi", "vmi")
    for form, added in (("", ""), ("", "+lom"), ("", "+ma"), ("improved-", ""))
)
RUNNERS = ("tests.kit.run_tiny", "tests.run_tiny")  # where the tests keep it now, and did before


def measure(checkout: Path, out: Path, synthfaces: bool) -> None:
    """Run the cells with the code of ``checkout``; records go to folders under ``out``."""
    runner = next(r for r in RUNNERS if (checkout / f"{r.replace('.', '/')}.py").exists())
    cells = [(attack, "none") for attack in ATTACKS]
    cells += [("gmi", defense) for defense in ("mid", "bido", "dp-sgd")]
    for attack, defense in cells:
        folder = out / "tiny" / f"{attack}_{defense}"
        words = ["-m", runner, str(out / "store"), str(folder), attack, defense]
        subprocess.run([sys.executable, *words], cwd=checkout, check=True)
    for defense in ("none", "bido") if synthfaces else ():
        words = ["run", "--protocol", "synthfaces-32", "--attack", "improved-kedmi"]
        words += ["--defense", defense, "--budget", "0.05"]
        words += ["--store", str(out / "store"), "--out", str(out / "synthfaces" / defense)]
        subprocess.run([sys.executable, "-m", "mibench", *words], cwd=checkout, check=True)


def measured(record: dict) -> dict[str, object]:
    """Every number of a record that an experiment gave, by its path; no times, keys or versions."""
    found: dict[str, object] = {}

    def walk(path: str, value: object) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{path}.{name}" if path else name, inner)
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                walk(f"{path}[{number}]", inner)
        else:
            found[path] = value

    for part in ("status", "metrics", "references", "utility"):
        walk(part, record.get(part))
    return found


def records(folder: Path) -> dict[str, dict]:
    """The records under a folder, by protocol, attack and defense."""
    found = {}
    for path in sorted(folder.rglob("record.json")):
        record = json.loads(path.read_text())
        parts = (record["protocol"], record["attack"], record["defense"])
        found[" ".join(part["name"] for part in parts)] = record
    return found


def compare(before: Path, after: Path) -> int:
    """Print what differs; the number of values that do."""
    old, new = records(before), records(after)
    wrong = len(set(old) ^ set(new))
    for name in sorted(set(old) ^ set(new)):
        print(f"{name}: only in {before if name in old else after}")
    for name in sorted(set(old) & set(new)):
        left, right = measured(old[name]), measured(new[name])
        differ = [path for path in {**left, **right} if left.get(path) != right.get(path)]
        wrong += len(differ)
        print(f"{name}: {len(left) - len(differ)} of {len(left)} values equal")
        for path in differ:
            print(f"  {path}: {left.get(path)} -> {right.get(path)}")
    return wrong


def main() -> None:
    match sys.argv[1:]:
        case ["measure" | "tiny" as what, checkout, out]:
            measure(Path(checkout).resolve(), Path(out).resolve(), what == "measure")
        case ["compare", before, after]:
            sys.exit(1 if compare(Path(before), Path(after)) else 0)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
