"""Checking a claim: its metrics computed anew, or its whole cell run anew.

This module stands above ``run``: what it needs of it is imported by the functions.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mibench.errors import MibenchError
from mibench.files import write_atomic
from mibench.leaderboard.checks import HEADLINE, foreign, overrides
from mibench.leaderboard.records import RECORDS, cell_name, parse
from mibench.progress import SILENT, Progress
from mibench.types import MetricValue, Record, RunSpec

IMAGES = "reconstructions.safetensors"

# Counted like hits, and recorded without them.
_COUNTS = ("precision", "recall", "density", "coverage")
_EXACT = 1e-9
_RELATIVE = 1e-3
_FLIPS = 2  # samples that another device may judge otherwise
_LEAST_SEEDS = 3
_NORMAL_QUANTILE = 1.96

Verdict = Literal["agrees", "differs", "cannot be checked here"]


@dataclass(frozen=True)
class Comparison:
    """A number as claimed and as found.

    Attributes:
        note: what differs, what was allowed, or why it could not be checked.
    """

    name: str
    claimed: float | None
    found: float | None
    verdict: Verdict
    note: str = ""


def find_images(record: Record, path: Path, store: Path) -> Path | None:
    """The reconstructions of a record: beside it in its run folder, or in the store.

    Args:
        record: the record.
        path: its file.
        store: folder of cached stages.

    Returns:
        The file, or None where there is none.

    Raises:
        MibenchError: the one beside the record is another than that which the record names.
    """
    claimed = record.artifacts.get(IMAGES)
    beside = path.parent / IMAGES
    if beside.is_file():
        found = hashlib.sha256(beside.read_bytes()).hexdigest()
        if found == claimed:
            return beside
        raise MibenchError(
            f"{beside} is not what the record was made from: its SHA-256 is {found[:12]}…, the "
            f"record names {str(claimed)[:12]}…"
        )
    from mibench.store import Store

    key = record.artifacts.get("metrics")
    artifact = Store(store).find("metrics", key) if key and store.is_dir() else None
    if artifact is None or IMAGES not in artifact.manifest.files:
        return None
    return artifact.file(IMAGES) if artifact.manifest.files[IMAGES].sha256 == claimed else None


def recompute(
    record: Record,
    images: Path,
    *,
    store: Path,
    data: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> list[Comparison]:
    """Compute a record's metrics from its reconstructions and compare them.

    Only the protocol's data and evaluators are needed, not the target: no code of the record's
    defense or attack runs.

    Args:
        record: the claim.
        images: its reconstructions, already compared with the record's checksum.
        store: folder of cached stages, for the data and evaluators that are not pinned.
        data: folder of prepared data sets; None: ``MIBENCH_DATA`` or the user's cache folder.
        device: where to compute. On the kind of device that the record names, accuracies must
            agree sample by sample; on another, two samples may differ. Distances agree within a
            thousandth.
        progress: told of stages.

    Raises:
        MibenchError: the record is of another version of the protocol, or its reconstructions are
            of other identities than the protocol attacks.
    """
    from safetensors.torch import load_file

    from mibench.evaluate import Evaluation
    from mibench.metrics import natural_accuracy
    from mibench.models.evaluators import judge
    from mibench.pipeline import select_device, split_of
    from mibench.resolve import resolve
    from mibench.stages import Stages
    from mibench.store import Store

    if reasons := foreign(record):
        raise MibenchError(f"the record does not compare with this mibench: {'; '.join(reasons)}")
    place = select_device(device)
    # Any attack will do; one without students asks for no weights of theirs.
    name, target = record.protocol.name, record.target.name
    request = RunSpec(protocol=name, target=target, attack="gmi", seed=record.seed, data=data)
    cell = resolve(request)
    stages = Stages(cell, Store(store), place, progress, split_of(cell, progress))
    evaluation = Evaluation(stages, record.rules)
    tensors = load_file(images)
    labels, shape = evaluation.labels.tolist(), tuple(tensors["images"].shape)
    if tensors["labels"].tolist() != labels or shape[:2] != (len(labels), cell.protocol.samples):
        raise MibenchError(
            f"{images} holds {shape[0]} × {shape[1]} reconstructions; the protocol "
            f"{record.protocol.name} asks for {len(labels)} × {cell.protocol.samples} of its own "
            "identities"
        )
    found = evaluation(tensors["images"].to(place))
    flips = 0 if _kind(record.environment.device) == _kind(str(place)) else _FLIPS
    result = [
        compare(name, claimed, found[name], flips) for name, claimed in record.metrics.items()
    ]
    test = evaluation.data.test
    accuracy = natural_accuracy(judge(evaluation.evaluator, test.images)[0], test.labels)
    claimed_accuracy = record.utility.get("evaluator_accuracy")
    number = float(claimed_accuracy) if isinstance(claimed_accuracy, float | int) else math.nan
    near = abs(number - accuracy) <= flips / len(test) + _EXACT
    verdict: Verdict = "agrees" if near else "differs"
    return [*result, Comparison("evaluator_accuracy", number, accuracy, verdict)]


def compare(name: str, claimed: MetricValue, found: MetricValue, flips: int) -> Comparison:
    """Compare a metric as claimed with the same metric computed anew.

    Args:
        name: the metric.
        claimed: the record's.
        found: computed from the record's reconstructions.
        flips: how many samples may be judged otherwise (0 on the same kind of device).
    """
    if claimed.value is None:
        note = "missing in both" if found.value is None else "not claimed"
        return Comparison(name, None, found.value, "agrees", note)
    if found.value is None:
        why = found.reason or ""
        return Comparison(name, claimed.value, None, "cannot be checked here", why)
    problem = _problem(name, claimed, found, flips)
    verdict: Verdict = "differs" if problem else "agrees"
    return Comparison(name, claimed.value, found.value, verdict, problem)


def _problem(name: str, claimed: MetricValue, found: MetricValue, flips: int) -> str:
    """What of a metric differs by more than it may; empty for nothing."""
    n, value, theirs = found.n or 1, found.value or 0.0, claimed.value or 0.0
    if claimed.n != found.n:
        return f"n is {found.n}, not {claimed.n}"
    if found.hits is not None:
        mine, other = "".join(found.hits), "".join(claimed.hits or ())
        if len(mine) != len(other):
            return f"there are hits of {len(other)} samples, not {len(mine)}"
        differing = sum(a != b for a, b in zip(mine, other, strict=True))
        if differing > flips:
            return f"{differing} of {n} samples are judged otherwise"
    counted = found.hits is not None or name in _COUNTS
    relative = 0.0 if found.hits is not None else _RELATIVE
    slack = _EXACT + (flips / n if counted else 0)
    if abs(theirs - value) > relative * abs(value) + slack:
        return "the value"
    if claimed.interval and found.interval:
        width = found.interval[1] - found.interval[0]
        ends = zip(claimed.interval, found.interval, strict=True)
        if any(abs(a - b) > relative * (abs(value) + width) + slack for a, b in ends):
            return "the interval"
    if found.per_identity is not None and not (flips and counted):
        values = claimed.per_identity or ()
        if len(values) != len(found.per_identity):
            return "values per identity are missing"
        allowed = relative * max(map(abs, found.per_identity)) + _EXACT
        pairs = zip(values, found.per_identity, strict=True)
        if any(abs(a - b) > allowed for a, b in pairs):
            return "values per identity"
    return ""


def filed_seeds(record: Record, folder: Path) -> list[Record]:
    """Filed records of the same cell, at whatever seed, in a leaderboards folder."""
    place = folder / RECORDS / record.protocol.name
    stem = cell_name(record).rpartition("_seed")[0]
    files = sorted(place.glob("*.json")) if place.is_dir() else []
    return [parse(p.read_bytes()) for p in files if p.stem.rpartition("_seed")[0] == stem]


def retrain(
    record: Record,
    filed: Sequence[Record],
    *,
    defense: str | None = None,
    attack: str | None = None,
    data: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> list[Comparison]:
    """Run a record's cell anew in an empty store and compare top-1 and natural accuracy.

    With the cell filed at three seeds or more, the other seeds' standard deviation s is the
    measure: two independent runs differ by less than 2·√2·s as good as always. With fewer, top-1
    must lie in the record's own interval, and natural accuracy within the 95 % interval of two
    counts over the private test images.

    Args:
        record: the claim.
        filed: filed records of the same cell, :func:`filed_seeds`.
        defense: where the record's defense is no registered one: ``path/to/file.py:Class``.
        attack: the same for the attack.
        device: where to compute.
        progress: told of stages and steps.

    Raises:
        MibenchError: the record is of another version of the protocol, or the run failed.
        RequestError: the defense or the attack is not known here.
    """
    from mibench.run import run

    if reasons := foreign(record):
        raise MibenchError(f"the record does not compare with this mibench: {'; '.join(reasons)}")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        again = run(
            protocol=record.protocol.name,
            target=record.target.name,
            defense=defense or record.defense.name,
            attack=attack or record.attack.name,
            seed=record.seed,
            data=data,
            overrides=overrides(record),
            store=place / "store",
            out=place / "out",
            device=device,
            progress=progress,
        )
    return compare_runs(record, again, filed)


def compare_runs(record: Record, again: Record, filed: Sequence[Record]) -> list[Comparison]:
    """Compare a claim with a second run of its cell; see :func:`retrain`."""
    if "diverged" in (record.status, again.status):
        verdict: Verdict = "agrees" if record.status == again.status else "differs"
        note = f"the record's cell is {record.status}, the new one {again.status}"
        return [Comparison(HEADLINE, _top1(record), _top1(again), verdict, note)]
    others = [each for each in filed if each.seed != record.seed and each.status == "complete"]
    enough = len({each.seed for each in others} | {record.seed}) >= _LEAST_SEEDS
    interval = record.metrics[HEADLINE].interval
    result = []
    for name, read in ((HEADLINE, _top1), ("natural_accuracy", _natural)):
        claimed, found = read(record), read(again)
        if claimed is None or found is None:
            result.append(Comparison(name, claimed, found, "differs", "one of them is missing"))
            continue
        difference = abs(claimed - found)
        if enough:
            spread = statistics.stdev(
                [value for each in others if (value := read(each)) is not None]
            )
            near = difference <= 2 * math.sqrt(2) * spread + _EXACT
            note = f"within 2·√2·{100 * spread:.2f} points of {len(others)} other seeds"
        elif name == HEADLINE and interval is not None:
            near = interval[0] - _EXACT <= found <= interval[1] + _EXACT
            note = f"within the record's own interval: fewer than {_LEAST_SEEDS} seeds are filed"
        else:
            allowed = _counts(claimed, _test_images(record))
            near = difference <= allowed + _EXACT
            note = f"within {100 * allowed:.1f} points: fewer than {_LEAST_SEEDS} seeds are filed"
        note = note if near else f"not {note}"
        result.append(Comparison(name, claimed, found, "agrees" if near else "differs", note))
    return result


def _counts(share: float, n: int) -> float:
    """Half the 95 % interval of the difference of two shares of ``n`` images (Agresti, Coull)."""
    adjusted = (share * n + 2) / (n + 4)
    return _NORMAL_QUANTILE * math.sqrt(2 * adjusted * (1 - adjusted) / (n + 4))


def _test_images(record: Record) -> int:
    """Private test images, as the protocol's card states them, else as many as reconstructions."""
    data = record.protocol.resolved.get("data", {})
    stated = (data.get("identities") or 0) * (data.get("test") or 0)
    return stated or record.metrics[HEADLINE].n or 1


def _top1(record: Record) -> float | None:
    return record.metrics[HEADLINE].value


def _natural(record: Record) -> float | None:
    value = record.utility.get("natural_accuracy")
    return float(value) if isinstance(value, float | int) else None


def sign(record: Record, path: Path, by: str) -> Record:
    """Write into a record's file who has reproduced it, and return the new record."""
    names = [name for name in (record.verified_by or "").split(", ") if name]
    signed = record.model_copy(update={"verified_by": ", ".join(dict.fromkeys([*names, by]))})
    write_atomic(path, (signed.model_dump_json() + "\n").encode())
    return signed


def _kind(device: str) -> str:
    """``"cuda"`` of ``"cuda:0 (NVIDIA H200)"``."""
    return device.partition(":")[0].partition(" ")[0]
