"""`mibench data prepare` against plain Pillow on all cores, and its peak memory.

    python -m tests.benchmarks.prepare [--images 40000] [--rounds 5]

Random pictures in CelebA's layout are written to a temporary folder. "Plain" is one process for
each core, started beforehand, that does nothing but what the pictures need: open, decode, crop,
resize. `prepare` does that too, and lists the files, starts its processes, checks, hashes and
writes. Beside it stands the rate of decoding alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mibench.data.prepare import prepare
from mibench.data.workers import cores

GOAL = 0.9
_BOX = (35, 55, 143, 163)  # CelebA's central 108×108


def write_pictures(
    root: Path, count: int, identity: Callable[[int], int] = lambda i: i % 1000 + 1
) -> None:
    """Smooth random pictures with a little noise, of about the size of CelebA's files.

    Args:
        identity: who is in the picture number i, counted from 0.
    """
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    different = min(count, 500)  # the others are copies: other files, equal cost
    for i in range(count):
        path = folder / f"{i + 1:06d}.jpg"
        if i >= different:
            shutil.copy(folder / f"{i % different + 1:06d}.jpg", path)
            continue
        coarse = numbers.integers(0, 256, (14, 12, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((178, 218), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth) + numbers.integers(-4, 5, (218, 178, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=85)
    lines = [f"{i + 1:06d}.jpg {identity(i)}\n" for i in range(count)]
    (folder.parent / "identity_CelebA.txt").write_text("".join(lines))


def decode_only(paths: Sequence[str]) -> None:
    for path in paths:
        with Image.open(path) as image:
            image.load()


def decode_and_resize(paths: Sequence[str]) -> None:
    for path in paths:
        with Image.open(path) as image:
            small = image.convert("RGB").crop(_BOX).resize((64, 64), Image.Resampling.BILINEAR)
            np.asarray(small)


def timed_prepare(root: Path, folder: Path) -> float:
    start = time.perf_counter()
    made = prepare("celeba", root, folder, incomplete=True)
    seconds = time.perf_counter() - start
    shutil.rmtree(made.folder)
    return seconds


def memory() -> tuple[int, int]:
    """Resident bytes of this process and of its children, without mapped files (Linux)."""
    own = children = 0
    me = multiprocessing.current_process().pid
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
        except OSError:
            continue
        size = int(fields.get("RssAnon", "0 kB").split()[0]) * 1024
        if int(fields["Pid"]) == me:
            own = size
        elif int(fields["PPid"]) == me:
            children += size
    return own, children


def peak_memory(root: Path, folder: Path) -> float:
    """Most MiB that a run and its processes hold beyond what was held before."""
    before = sum(memory())
    peak, stop = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.05):
            peak = max(peak, sum(memory()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    timed_prepare(root, folder)
    stop.set()
    watcher.join()
    return (peak - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        large, small, folder = Path(name, "large"), Path(name, "small"), Path(name, "data")
        write_pictures(large, options.images)
        write_pictures(small, options.images // 4)
        paths = [str(path) for path in sorted(large.glob("celeba/img_align_celeba/*"))]
        parts = [paths[i : i + 100] for i in range(0, len(paths), 100)]
        results: dict[str, list[float]] = {"decode": [], "plain": [], "prepare": []}
        with multiprocessing.get_context("spawn").Pool(cores()) as pool:
            pool.map(decode_and_resize, parts[: cores()])  # started and warm
            for _ in range(options.rounds):
                for title, work in (("decode", decode_only), ("plain", decode_and_resize)):
                    start = time.perf_counter()
                    pool.map(work, parts, chunksize=1)
                    results[title].append(time.perf_counter() - start)
                results["prepare"].append(timed_prepare(large, folder))
        for title, seconds in results.items():
            rate = len(paths) / statistics.median(seconds)
            print(f"{title}: {rate:,.0f} pictures a second on {cores()} cores")
        for title in ("plain", "decode"):
            pairs = zip(results[title], results["prepare"], strict=True)
            ratios = [theirs / ours for theirs, ours in pairs]
            middle = statistics.median(ratios)
            shown = f"prepare runs at {middle:.1%} ({min(ratios):.1%}–{max(ratios):.1%})"
            if title == "plain":
                met = "met" if middle >= GOAL else "NOT MET"
                print(f"{shown} of plain decode, crop and resize, goal {GOAL:.0%}: {met}")
            else:
                print(f"{shown} of decoding alone")
        for root, count in ((small, options.images // 4), (large, options.images)):
            print(
                f"{count:,} pictures: {peak_memory(root, folder):.0f} MiB more memory at the peak"
            )


if __name__ == "__main__":
    main()
