"""Checking a claim: its metrics computed anew, or its whole cell run anew.

This module stands above ``run``: what it needs of it is imported by the functions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scipy.special import stdtrit

from mibench.cell.request import Request
from mibench.errors import MibenchError, RequestError
from mibench.files import read_plain
from mibench.leaderboard.checks import HEADLINE, foreign
from mibench.leaderboard.defaults import guarantee_faults, is_own
from mibench.leaderboard.names import (
    RECORDS,
    base_attack,
    cell_name,
    overrides,
)
from mibench.leaderboard.records import HOSTILE, IMAGES, Filed, filed_with, survey
from mibench.leaderboard.verifications import note
from mibench.progress import SILENT, Progress
from mibench.record import MetricValue, Part, Record
from mibench.registry import Registry
from mibench.store.source import outside_digest

if TYPE_CHECKING:
    from torch import Tensor

    from mibench.cell.evaluate import Evaluation
    from mibench.cell.stages import Stages
    from mibench.protocols import Protocol

# Counted like hits, and recorded without them.
_COUNTS = ("precision", "recall", "density", "coverage")
_EXACT = 1e-9
_RELATIVE = 1e-3
_FLIPS = 2  # samples that another device may judge otherwise
_LEAST_FREEDOM = 4  # degrees of freedom behind the protocol's seed variance
_NORMAL_QUANTILE = 1.96
_HEADER = 2**16  # bytes of a file of reconstructions beside its numbers
_UNCHECKED = "cannot be checked here"
# Metrics that need weights which a machine may lack.
_MAY_BE_MISSING = ("fid", "fid_successful")

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


def read_images(record: Record, path: Path, store: Path) -> dict[str, Tensor] | None:
    """The reconstructions of a record: beside it in its run folder, or in the store.

    The file is data that anyone may have made: it is read whole, no larger than the record says it
    is, and it is safetensors, which hold numbers only.

    Args:
        record: the record.
        path: its file.
        store: folder of cached stages.

    Returns:
        Tensors by name, or None where there is no file.

    Raises:
        MibenchError: the file is another than the record names, too large, or no safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    claimed, place = record.artifacts.get(IMAGES), path.parent / IMAGES
    if not (place.exists() or place.is_symlink()):
        from mibench.store.store import Store

        key = record.artifacts.get("metrics")
        artifact = Store(store).find("metrics", key) if key and store.is_dir() else None
        if artifact is None or IMAGES not in artifact.manifest.files:
            return None
        if artifact.manifest.files[IMAGES].sha256 != claimed:
            return None
        place = artifact.file(IMAGES)
    hits = record.metrics[HEADLINE].hits or ()
    size = record.protocol.resolved["resolution"]
    most = 4 * 3 * sum(map(len, hits)) * size**2 + 8 * len(hits) + _HEADER
    try:
        data = read_plain(place, "the reconstructions", most)
    except RequestError as error:
        raise MibenchError(str(error)) from error
    found = hashlib.sha256(data).hexdigest()
    if found != claimed:
        raise MibenchError(
            f"{place} is not what the record was made from: its SHA-256 is {found[:12]}…, the "
            f"record names {str(claimed)[:12]}…"
        )
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise MibenchError(f"{place} holds no tensors: {error}") from error


def recompute(
    record: Record,
    images: Mapping[str, Tensor],
    *,
    store: Path,
    data: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> list[Comparison]:
    """Compute a record's numbers from its reconstructions and compare them.

    These are all metrics, by the version of their rules that the record names; the evaluators'
    accuracies; the floor of random prior samples and the ceiling; and what can be said of the other
    numbers without the target. Reconstructions that are copies of private or public images are a
    difference, too. Only the protocol's data, evaluators and general prior are needed, not the
    target: no code of the record's defense or attack runs.

    Args:
        record: the claim.
        images: its reconstructions, :func:`read_images`.
        store: folder of cached stages, for the data and networks that are not pinned.
        data: folder of prepared data sets; None: ``MIBENCH_DATA`` or the user's cache folder.
        device: where to compute. On the kind of device that the record names, accuracies must
            agree sample by sample; on another, two samples may differ. Distances agree within a
            thousandth.
        progress: told of stages.

    Raises:
        MibenchError: the record is of another version of the protocol, or its reconstructions are
            of other identities than the protocol attacks, or hold what is no image.
        RequestError: the data are not here.
    """
    from mibench.cell.evaluate import Evaluation
    from mibench.leaderboard.copies import copies

    if reasons := foreign(record):
        raise MibenchError(f"the record does not compare with this mibench: {'; '.join(reasons)}")
    stages = _stages(record, store, data, device, progress)
    evaluation, place = Evaluation(stages, rules=record.rules), stages.device
    made = _checked_images(images, evaluation, stages.cell.protocol).to(place)
    flips = 0 if _kind(record.environment.device) == _kind(str(place)) else _FLIPS
    found = evaluation(made)
    result = [compare(key, record.metrics.get(key, _ABSENT), found[key], flips) for key in found]
    for reference, known in evaluation.references(target=False).items():
        values, claimed = evaluation(known), record.references.get(reference, {})
        each = [compare(key, claimed.get(key, _ABSENT), values[key], flips) for key in values]
        result.append(_together(reference, each))
    accuracies = list(_accuracies(record, evaluation, flips))
    result += accuracies
    if any(each.verdict == "differs" for each in accuracies) and not _same_judges(record, place):
        note = "the evaluators that this machine trains are others than the record's"
        result = [
            dataclasses.replace(each, verdict="cannot be checked here", note=note)
            if each.verdict == "differs"
            else each
            for each in result
        ]
    result += _without_target(record, evaluation)
    alike = copies(made, evaluation.data, progress)
    verdict: Verdict = "differs" if alike else "agrees"
    result.append(
        Comparison("copies of known images", 0, len(alike), verdict, "; ".join(alike[:3]))
    )
    return result


def private_images(
    record: Record,
    *,
    store: Path,
    data: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> tuple[Tensor, list[str]]:
    """A private training image of each attacked identity, and their names.

    The arguments are those of :func:`recompute`, and so is what is raised.

    Returns:
        Images ``(identities, 3, h, w)`` in [0, 1], and as many names.
    """
    images, names = _stages(record, store, data, device, progress).private_images()
    return images.cpu(), names


def _stages(
    record: Record, store: Path, data: str | None, device: str, progress: Progress
) -> Stages:
    """The stages of a record's protocol and seed."""
    from mibench.cell.pipeline import select_device, split_of
    from mibench.cell.resolve import resolve
    from mibench.cell.stages import Stages
    from mibench.store.store import Store

    place = select_device(device)
    # The protocol's own target and any attack will do: neither is built or run.
    request = Request(protocol=record.protocol.name, attack="gmi", seed=record.seed, data=data)
    cell = resolve(request)
    return Stages(cell, Store(store), place, progress, split_of(cell, progress))


def _checked_images(
    images: Mapping[str, Tensor], evaluation: Evaluation, protocol: Protocol
) -> Tensor:
    """The reconstructions ``(identities, samples, 3, h, w)``, finite and in [0, 1]."""
    import torch

    labels, shape = evaluation.labels.tolist(), evaluation.data.public.images.shape[1:]
    expected = (len(labels), protocol.samples, *shape)
    if images.keys() != {"images", "labels"}:
        raise MibenchError(f"the reconstructions hold {sorted(images)} beside images and labels")
    made = images["images"]
    if tuple(made.shape) != expected or images["labels"].tolist() != labels:
        raise MibenchError(
            f"the reconstructions are {tuple(made.shape)}; the protocol {protocol.name} asks for "
            f"{expected} of its own identities"
        )
    if made.dtype != torch.float32:
        raise MibenchError(f"the reconstructions are {made.dtype}, not torch.float32")
    outside = int((~((made >= 0) & (made <= 1))).sum())  # which NaN is, too
    if outside:
        raise MibenchError(f"{outside} numbers of the reconstructions are not in [0, 1]")
    return made


def _together(name: str, each: Sequence[Comparison]) -> Comparison:
    """A reference's comparisons as one, by its headline."""
    headline = next(c for c in each if c.name == HEADLINE)
    wrong = [c for c in each if c.verdict == "differs"]
    open_ = [c for c in each if c.verdict == "cannot be checked here"]
    verdict: Verdict = wrong[0].verdict if wrong else open_[0].verdict if open_ else "agrees"
    note = "; ".join(f"{c.name}: {c.note}" for c in (wrong or open_)[:3])
    return Comparison(name, headline.claimed, headline.found, verdict, note)


def _accuracies(record: Record, evaluation: Evaluation, flips: int) -> Iterator[Comparison]:
    from mibench.metrics import natural_accuracy

    test = evaluation.data.test
    for name, model in (
        ("evaluator_accuracy", evaluation.evaluator),
        ("second_evaluator_accuracy", evaluation.second),
    ):
        claimed = record.utility.get(name)
        number = float(claimed) if isinstance(claimed, float | int) else math.nan
        found = natural_accuracy(model(test.images)[0], test.labels)
        near = abs(number - found) <= flips / len(test) + _EXACT
        yield Comparison(name, number, found, "agrees" if near else "differs")


def _same_judges(record: Record, place: object) -> bool:
    """Whether the protocol's evaluators are the same networks here as where the record was made."""
    from mibench.protocols import protocol_named
    from mibench.store import environment as provenance

    if {"evaluator", "second"} <= protocol_named(record.protocol.name).assets.keys():
        return True
    here, there = provenance.environment(str(place)), record.environment
    same = ("torch", "timm", "device", "threads", "platform")
    return all(getattr(here, key) == getattr(there, key) for key in same)


def _without_target(record: Record, evaluation: Evaluation) -> Iterator[Comparison]:
    """What the data say of the numbers that the target gave, where they contradict them."""
    sets = {
        "natural_accuracy": (len(evaluation.data.test), _EXACT),
        "validation_accuracy": (len(evaluation.data.val), 1e-6),  # it is rounded
    }
    for name, (n, allowed) in sets.items():
        claimed = record.utility.get(name)
        if isinstance(claimed, float | int) and abs(claimed - round(claimed * n) / n) > allowed:
            yield Comparison(name, claimed, None, "differs", f"no share of {n} images")
    stated = {
        "validation_images": len(evaluation.data.val),
        "chance_accuracy": 1 / evaluation.data.identities,
    }
    for name, found in stated.items():
        claimed = record.utility.get(name)
        if claimed is not None and claimed != found:
            number = float(claimed) if isinstance(claimed, float | int) else None
            yield Comparison(name, number, found, "differs")
    for reason in guarantee_faults(record, len(evaluation.data.train)):
        epsilon = record.utility.get("epsilon")
        number = float(epsilon) if isinstance(epsilon, float | int) else None
        yield Comparison("epsilon", number, None, "differs", reason)


_ABSENT = MetricValue(value=None, reason="the record says nothing of it")


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
        hidden = found.value is not None and name not in _MAY_BE_MISSING
        return Comparison(name, None, found.value, "differs" if hidden else "agrees", note)
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
    if bool(claimed.interval) != bool(found.interval):
        return "the interval is missing, or there is one"
    if claimed.interval and found.interval:
        width = found.interval[1] - found.interval[0]
        ends = zip(claimed.interval, found.interval, strict=True)
        if any(abs(a - b) > relative * (abs(value) + width) + slack for a, b in ends):
            return "the interval"
    if found.per_identity is not None:
        values = claimed.per_identity or ()
        if len(values) != len(found.per_identity):
            return "values per identity are missing"
        allowed = relative * max(map(abs, found.per_identity)) + _EXACT
        pairs = zip(values, found.per_identity, strict=True)
        # A sample that is judged otherwise changes the value of its own identity only.
        if sum(abs(a - b) > allowed for a, b in pairs) > (flips if counted else 0):
            return "values per identity"
    return ""


def methods_of(record: Record, defense: str | None, attack: str | None) -> tuple[str, str]:
    """The defense and the attack to run a record's cell with.

    A record names registered methods, or a class in a file that it cannot name: the file is given
    by who verifies, and is the record's if its source is.

    Args:
        record: the claim.
        defense: ``path/to/file.py:Class`` of a defense that is not registered here; else None.
        attack: the same for the attack.

    Raises:
        RequestError: a method is not registered and no file was given, or one was that is of
            another source, or is not needed.
    """
    from mibench.inversion.attack import ATTACKS
    from mibench.training.defense import DEFENSES

    chosen = []
    for kind, registry, part, given in (
        ("defense", DEFENSES, record.defense, defense),
        ("attack", ATTACKS, record.attack, attack),
    ):
        base = base_attack(part.name) if kind == "attack" else part.name
        if base in registry.names():
            if given is not None:
                raise RequestError(
                    f"the record's {kind} {base!r} is registered: leave --{kind} out"
                )
            if not is_own(method := registry.get(base)):
                _check_source(f"the installed {kind}", registry, method, part)
            chosen.append(part.name)
            continue
        if given is None:
            raise RequestError(
                f"the record's {kind} {base!r} is not registered here: get its file, read it, and "
                f"name it by --{kind} FILE.py:CLASS"
            )
        _check_source(f"--{kind} {given}", registry, registry.load_file(given), part)
        chosen.append(part.name.replace(base, given, 1))
    return chosen[0], chosen[1]


def _check_source(what: str, registry: Registry[Any], method: type, part: Part) -> None:
    source = outside_digest(method, *registry.files_of(method))
    if source != part.source:
        raise RequestError(
            f"{what}: its source is {str(source)[:12]}…, the record's {part.name!r} has "
            f"{str(part.source)[:12]}…: it is another file, or another version of it"
        )


def filed_name(record: Record, folder: Path) -> str:
    """The file of a record in a leaderboards folder, relative to its records.

    Raises:
        RequestError: the folder has no such record.
    """
    name = f"{record.protocol.name}/{cell_name(record)}.json"
    filed = filed_with(record, folder)
    if not any(each.path == name and each.record.results() == record.results() for each in filed):
        raise RequestError(
            f"--by: {folder} has no such record as {name}; file it first, by "
            "`mibench leaderboard add`"
        )
    return name


def note_retrained(record: Record, folder: Path, name: str, by: str) -> None:
    """Note beside a filed record that someone has run its cell anew and found the same.

    Raises:
        MibenchError: the filed record is another one by now.
    """
    filed_name(record, folder)
    note(folder, name, "retrained", by)


@dataclass(frozen=True)
class Audit:
    """What came of checking all records of a folder.

    Attributes:
        lines: what is wrong with which record, and what could not be checked.
        states: how many records are in which state.
        wrong: how many records do not hold.
        unchecked: how many hold as far as they could be checked here, which was not wholly.
    """

    lines: tuple[str, ...]
    states: Mapping[str, int]
    wrong: int
    unchecked: int


def verify_all(
    folder: Path,
    *,
    store: Path,
    data: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Audit:
    """Check every record of a leaderboards folder, as if it was added now.

    Those whose reconstructions are in the store have their metrics computed anew. What an earlier
    check noted counts for nothing here, except that a record with such a note whose reconstructions
    are not in the store is counted by it. Self-reported records are no failure: boards name them.
    """
    found, problems = survey(folder)
    lines = [f"does not hold: {problem}" for problem in problems]
    wrong = {problem.partition(":")[0] for problem in problems}
    unchecked: set[str] = set()
    states: dict[str, int] = {}
    for filed in found.values():
        for each in filed:
            verdict, reasons = _verdict(each, folder, store, data, device, progress)
            lines += [f"{verdict}: {each.path}: {reason}" for reason in reasons]
            if verdict == "does not hold":
                wrong.add(each.path)
            elif verdict == "cannot be checked here":
                unchecked.add(each.path)
            else:
                states[verdict] = states.get(verdict, 0) + 1
    return Audit(tuple(lines), states, len(wrong), len(unchecked))


def _verdict(
    each: Filed, folder: Path, store: Path, data: str | None, device: str, progress: Progress
) -> tuple[str, list[str]]:
    """The state of a filed record, or that it is none; with the reasons."""
    record = each.record
    try:
        if reasons := foreign(record):
            return "does not hold", reasons
        if record.status != "complete":
            return each.state, []
        images = read_images(record, folder / RECORDS / each.path, store)
        if images is None:
            return each.state, []
        found = recompute(record, images, store=store, data=data, device=device, progress=progress)
    except RequestError as error:
        return "cannot be checked here", [str(error)]
    except (MibenchError, *HOSTILE) as error:
        return "does not hold", [str(error) or type(error).__name__]
    for verdict, said in (("differs", "does not hold"), (_UNCHECKED, _UNCHECKED)):
        if wrong := [c for c in found if c.verdict == verdict]:
            return said, [f"{c.name}: {c.note or 'the value'}" for c in wrong[:5]]
    return ("retrained" if each.state == "retrained" else "metrics recomputed"), []


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

    The measure is the protocol's seed variance, pooled over its filed cells: two independent runs
    differ by less than √2·s times Student's .975 quantile in 95 % of all cases. Where too few seeds
    are filed to know it, top-1 must lie in the record's own interval, and natural accuracy within
    the 95 % interval of two counts over the private test images.

    Args:
        record: the claim.
        filed: all filed records of its protocol, at all seeds.
        defense: where the record's defense is no registered one: ``path/to/file.py:Class``.
        attack: the same for the attack.
        device: where to compute.
        progress: told of stages and steps.

    Raises:
        MibenchError: the record is of another version of the protocol, or the run failed.
        RequestError: the defense or the attack is not known here, as :func:`methods_of` says.
    """
    from mibench.cell.run import run

    if reasons := foreign(record):
        raise MibenchError(f"the record does not compare with this mibench: {'; '.join(reasons)}")
    with_defense, with_attack = methods_of(record, defense, attack)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        again = run(
            protocol=record.protocol.name,
            target=record.target.name,
            defense=with_defense,
            attack=with_attack,
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
    interval = record.metrics[HEADLINE].interval
    result = []
    for name, read in ((HEADLINE, _top1), ("natural_accuracy", _natural)):
        claimed, found = read(record), read(again)
        if claimed is None or found is None:
            result.append(Comparison(name, claimed, found, "differs", "one of them is missing"))
            continue
        difference = abs(claimed - found)
        spread, freedom = _seed_spread(record, filed, read)
        few = f"fewer than {_LEAST_FREEDOM} degrees of freedom are filed"
        if freedom >= _LEAST_FREEDOM:
            allowed = float(stdtrit(freedom, 0.975)) * math.sqrt(2) * spread
            near = difference <= allowed + _EXACT
            note = (
                f"within {100 * allowed:.2f} points: seeds of the protocol spread by "
                f"{100 * spread:.2f} ({freedom} degrees of freedom)"
            )
        elif name == HEADLINE and interval is not None:
            near = interval[0] - _EXACT <= found <= interval[1] + _EXACT
            note = f"within the record's own interval: {few}"
        else:
            allowed = _counts(claimed, _test_images(record))
            near = difference <= allowed + _EXACT
            note = f"within {100 * allowed:.1f} points: {few}"
        note = note if near else f"not {note}"
        result.append(Comparison(name, claimed, found, "agrees" if near else "differs", note))
    return result


def _seed_spread(
    record: Record, filed: Sequence[Record], read: Callable[[Record], float | None]
) -> tuple[float, int]:
    """Standard deviation over seeds, pooled over filed cells, and its degrees of freedom.

    The claim itself does not count.
    """
    cells: dict[str, list[float]] = {}
    for each in filed:
        value, own = read(each), cell_name(each)
        if each.status == "complete" and value is not None and own != cell_name(record):
            cells.setdefault(own.rpartition("_seed")[0], []).append(value)
    squares = [(n - 1) * statistics.variance(of) for of in cells.values() if (n := len(of)) > 1]
    freedom = sum(len(of) - 1 for of in cells.values())
    return (math.sqrt(math.fsum(squares) / freedom) if freedom else 0.0), freedom


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


def _kind(device: str) -> str:
    """``"cuda"`` of ``"cuda:0 (NVIDIA H200)"``."""
    return device.partition(":")[0].partition(" ")[0]
