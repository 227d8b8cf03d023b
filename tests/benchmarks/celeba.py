"""The cell `celeba-64` at a thousandth of its budget on random pictures in CelebA's layout.

    python -m tests.benchmarks.celeba [--attack A] [--budget 0.001] [--keep FOLDER] [--device D]

30,000 pictures of 1,000 people and 32,000 of 8,000 others, as many as the protocol uses, and 3,000
of 100 decoys go through every stage: `mibench data prepare`, then `mibench run`, each in a process
of its own. Random pictures have nothing to learn: only that it runs, and what memory and time it
takes, is to be seen. The judge, which takes the CPU minutes for the public images, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.prepare import write_pictures

PRIVATE, DECOYS, EACH, PUBLIC, EACH_PUBLIC = 1000, 100, 30, 8000, 4
MANY = PRIVATE + DECOYS


def identity(picture: int) -> int:
    """Those who may be private first, then the others."""
    if picture < MANY * EACH:
        return picture // EACH + 1
    return MANY + (picture - MANY * EACH) // EACH_PUBLIC + 1


def run(*arguments: str) -> str:
    """Run `mibench` and print its seconds and the most memory any such process had so far."""
    start = time.monotonic()
    command = [sys.executable, "-m", "mibench", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    seconds = time.monotonic() - start
    print(
        f"{' '.join(arguments[:2])}: {seconds:.0f} s, at most {peak / 2**20:,.0f} MiB", flush=True
    )
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attack", default="improved-kedmi")
    parser.add_argument("--budget", default="0.001")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--keep", type=Path, help="work here, and keep what was made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = (options.keep or Path(name)).resolve()
        originals = place / "originals"
        if not originals.exists():
            write_pictures(originals, MANY * EACH + PUBLIC * EACH_PUBLIC, identity)
        os.environ["MIBENCH_DATA"] = str(place / "data")
        os.environ["MIBENCH_STORE"] = str(place / "store")
        run("data", "prepare", "celeba", "--root", str(originals), "--incomplete", "--quiet")
        # ImageNet weights may not be at hand, and what is learnt from noise is at chance.
        fewer = {"initialisation": {}, "chance_kappa": -10, "judges": []}
        settings = [f"--set=protocol.{path}={json.dumps(value)}" for path, value in fewer.items()]
        output = run(
            *("run", "--protocol", "celeba-64", "--attack", options.attack),
            *("--device", options.device, "--budget", options.budget, *settings),
            *("--out", str(place / f"out-{options.budget}"), "--json"),
        )
    record = json.loads(output)
    for cost in record["costs"]:
        memory = cost["peak_memory_bytes"]
        shown = f"{memory / 2**20:,.0f} MiB" if memory else "—"
        print(f"  {cost['stage']}: {cost['seconds']:.0f} s, process at most {shown}")
    print(f"status {record['status']}, {record['metrics']['attack_accuracy_top1']['n']} images")


if __name__ == "__main__":
    main()
