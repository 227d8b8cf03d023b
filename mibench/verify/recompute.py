"""A record's numbers computed anew from its reconstructions, which the target is not needed for."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from mibench.cell.graph import Graph
from mibench.cell.judges import NO_TARGET
from mibench.cell.measures import Evaluation
from mibench.cell.request import Request
from mibench.cell.resolve import check, resolve
from mibench.cell.run import divide, open_bench
from mibench.data.images import to_float
from mibench.errors import MibenchError, RequestError
from mibench.files import read_plain
from mibench.inversion.attack import ATTACKS
from mibench.leaderboard.checks import HEADLINE
from mibench.leaderboard.names import overrides, reconstructions
from mibench.metrics import natural_accuracy
from mibench.names import AttackName
from mibench.progress import SILENT, Progress
from mibench.record import FLOOR_PRIOR, LOOKALIKE, MetricValue, Record
from mibench.store.environment import environment
from mibench.store.store import Store, default_root
from mibench.verify.compare import (
    ABSENT,
    EXACT,
    UNCHECKED,
    Comparison,
    Verdict,
    compare,
    of,
    together,
)
from mibench.verify.copies import copies
from mibench.verify.settings import guarantee_faults, require_comparable

_FLIPS = 2  # samples that a GPU may judge otherwise than a CPU, or than another GPU
_BITS = 1e-3  # share by which bits may differ
_HEADER = 2**16  # bytes of a file of reconstructions beside its numbers


@dataclass(frozen=True)
class Place:
    """Where a claim is checked.

    Attributes:
        store: folder of cached stages, for the data and networks that are not pinned.
        data: folder of prepared data sets; None: ``MIBENCH_DATA`` or the user's cache folder.
        device: where to compute.
        progress: told of stages and steps.
    """

    store: Path = field(default_factory=default_root)
    data: str | None = None
    device: str = "auto"
    progress: Progress = SILENT


def read_images(record: Record, path: Path, store: Path) -> dict[str, Tensor] | None:
    """The reconstructions of a record: beside it in its run folder, or in the store.

    The files are data that anyone may have made: they are read whole, no larger than the record
    says they are, and they are safetensors, which hold numbers only.

    Args:
        record: the record.
        path: its file.
        store: folder of cached stages.

    Returns:
        Tensors by name, those of all files in one, or None where one is not there.

    Raises:
        MibenchError: a file is another than the record names, too large, or no safetensors.
    """
    hits = record.metrics[HEADLINE].hits or ()
    size = record.protocol.resolved["resolution"]
    most = 4 * 3 * sum(map(len, hits)) * size**2 + 8 * len(hits) + _HEADER
    key = record.artifacts.get("reconstructions")
    stored = Store(store).find("reconstructions", key) if key and store.is_dir() else None
    shards = []
    for name, claimed in reconstructions(record).items():
        place = path.parent / name
        if not os.path.lexists(place):
            entry = stored.manifest.files.get(name) if stored else None
            if stored is None or entry is None or entry.sha256 != claimed:
                return None
            place = stored.file(name)
        shards.append(_shard(place, claimed, most))
    if len(shards) < 2:
        return shards[0] if shards else None
    kinds = {frozenset((k, t.dtype, t.shape[1:], t.ndim) for k, t in s.items()) for s in shards}
    if len(kinds) > 1 or not all(tensor.ndim for tensor in shards[0].values()):
        raise MibenchError(f"the reconstructions of {path} hold other tensors in each file")
    return {key: torch.cat([shard[key] for shard in shards]) for key in shards[0]}


def _shard(place: Path, claimed: str, most: int) -> dict[str, Tensor]:
    """The tensors of one file of reconstructions, if it is the one that the record names."""
    try:
        data = read_plain(place, "the reconstructions", most)
    except RequestError as error:
        raise MibenchError(str(error)) from error
    found = hashlib.sha256(data).hexdigest()
    if found != claimed:
        raise MibenchError(
            f"{place} is not what the record was made from: its SHA-256 is {found[:12]}…, the "
            f"record names {claimed[:12]}…"
        )
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise MibenchError(f"{place} holds no tensors: {error}") from error


def evaluation_of(record: Record, place: Place) -> Evaluation:
    """What judges images as the record's protocol does at its seed, by the record's rules.

    Only the protocol's data, evaluators and general prior are needed, no target: no code of the
    record's defense or attack runs. This is the one place where a claim meets a cell's stages.

    Raises:
        MibenchError: the record is of another version of the protocol.
        RequestError: the data are not here.
    """
    require_comparable(record)
    bench = open_bench(place.store, place.device, place.progress)
    request = Request(protocol=record.protocol.name, seed=record.seed, data=place.data)
    cell = check(resolve(request, without=("defense", "attack")))
    graph = Graph(cell, divide(cell, place.progress))
    return Evaluation(graph.references, bench, rules=record.rules, target=False)


def recompute(
    record: Record, images: Mapping[str, Tensor], evaluation: Evaluation
) -> list[Comparison]:
    """Compute a record's numbers from its reconstructions and compare them.

    These are all metrics, by the version of their rules that the record names; the floor of random
    prior samples and the ceiling; the evaluators' accuracies; and what can be said of the other
    numbers without the target: of the best guesses, whether any sample gives what is claimed.
    Reconstructions that are copies of private or public images are a
    difference, too; look-up answers with public ones.

    Accuracies of a record made on a CPU must agree sample by sample on a CPU; where a GPU is on
    either side, whose sums are in another order, two samples may differ. Distances agree within a
    thousandth.

    Args:
        record: the claim.
        images: its reconstructions, :func:`read_images`.
        evaluation: of the record, :func:`evaluation_of`.

    Raises:
        MibenchError: the reconstructions are of other identities than the protocol attacks, or hold
            what is no image.
    """
    device = str(evaluation.bench.device)
    made = _checked(images, evaluation).to(device)
    flips = 0 if {_kind(record.environment.device), _kind(device)} == {"cpu"} else _FLIPS
    found, _ = evaluation([made])
    result = _compared(record.metrics, found, flips)
    result += _best_guesses(record, evaluation.guesses(made), flips)
    for reference, values in evaluation.of_references.items():
        each = _compared(record.references.get(reference, {}), values, flips)
        result.append(together(reference, each))
    if evaluation.identification is not None:
        values = evaluation.identification.of_lookalikes()
        each = _compared(record.references.get(LOOKALIKE, {}), values, flips)
        result.append(together(LOOKALIKE, each))
    if any(path.startswith(_GENERAL_PRIOR) for path in overrides(record)):
        note = "its general prior was trained by other settings than the protocol's"
        result = [_unchecked(each, note) if each.name == FLOOR_PRIOR else each for each in result]
    accuracies = list(_accuracies(record, evaluation, flips))
    result += accuracies
    if of("differs", accuracies) and not _same_judges(record, evaluation):
        note = "the evaluators that this machine trains are others than the record's"
        result = [_unchecked(each, note) if each.verdict == "differs" else each for each in result]
    result += _without_target(record, evaluation)
    searches = _searches(record)
    if searches:
        result.append(_public_images(made, evaluation))
    alike = copies(made, evaluation.data, evaluation.progress, public=not searches)
    found_copies = Comparison(
        "copies of known images",
        0,
        len(alike),
        "differs" if alike else "agrees",
        "; ".join(alike[:3]),
    )
    return [*result, found_copies]


# What a cell's general prior depends on beside the protocol.
_GENERAL_PRIOR = ("prior.gan", "prior.source")


def _compared(
    claimed: Mapping[str, MetricValue], found: Mapping[str, MetricValue], flips: int
) -> list[Comparison]:
    """The metrics of images, but for those that follow from what the target chose."""
    return [
        compare(key, claimed.get(key, ABSENT), value, flips)
        for key, value in found.items()
        if value.reason != NO_TARGET
    ]


def _best_guesses(
    record: Record, guesses: Mapping[str, Tensor], flips: int
) -> Iterator[Comparison]:
    """Whether for each identity what is said of its best guess holds of one and the same sample.

    Which sample the target scores highest, the target alone knows.
    """
    values = {key: (record.metrics.get(key) or ABSENT).per_identity for key in guesses}
    claims = {key: torch.tensor(each, dtype=torch.float64) for key, each in values.items() if each}
    if not claims:
        return
    fits = torch.stack(
        [
            (guesses[key] - claim[:, None]).abs() <= _BITS * guesses[key].abs() + EXACT
            if claim.shape == guesses[key].shape[:1]
            else torch.zeros_like(guesses[key], dtype=torch.bool)
            for key, claim in claims.items()
        ]
    )
    wrong = (~fits.all(0).any(1)).nonzero()[:, 0].tolist()
    problem = f"no guess at identity {wrong[0]} gives its {', '.join(claims)}" if wrong else ""
    verdict: Verdict = "differs" if len(wrong) > flips or guesses.keys() - claims else "agrees"
    yield Comparison("best guesses", 0, len(wrong), verdict, problem)


def _searches(record: Record) -> bool:
    """Whether its attack is one of mibench's own that answer with public images."""
    if record.attack.source is not None:
        return False
    return ATTACKS.get(AttackName.parse(record.attack.name).base).searches


def _public_images(made: Tensor, evaluation: Evaluation) -> Comparison:
    """Whether look-up's answers are public images, to the last bit."""
    public = {image.numpy().tobytes() for image in evaluation.data.public.images.cpu()}
    flat = made.flatten(0, 1).cpu()
    stored = (flat * 255).round().to(torch.uint8)
    exact = (to_float(stored) == flat).flatten(1).all(1).tolist()
    pairs = zip(stored, exact, strict=True)
    others = sum(not (same and image.numpy().tobytes() in public) for image, same in pairs)
    note = f"{others} of {len(flat)} answers are no public images" if others else ""
    return Comparison("public images", 0, others, "differs" if others else "agrees", note)


def _unchecked(each: Comparison, note: str) -> Comparison:
    return dataclasses.replace(each, verdict=UNCHECKED, note=note)


def _kind(device: str) -> str:
    """``"cuda"`` of ``"cuda (NVIDIA H200)"``."""
    return device.partition(":")[0].partition(" ")[0]


def _checked(images: Mapping[str, Tensor], evaluation: Evaluation) -> Tensor:
    """The reconstructions ``(identities, samples, 3, h, w)``, finite and in [0, 1]."""
    protocol, labels = evaluation.stage.cell.protocol, evaluation.labels.tolist()
    expected = (len(labels), protocol.samples, *evaluation.data.public.images.shape[1:])
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


def _accuracies(record: Record, evaluation: Evaluation, flips: int) -> Iterator[Comparison]:
    test = evaluation.data.test
    for name, model in (
        ("evaluator_accuracy", evaluation.evaluator),
        ("second_evaluator_accuracy", evaluation.second),
    ):
        claimed = _number(record, name)
        number = math.nan if claimed is None else claimed
        found = natural_accuracy(model(test.images)[0], test.labels)
        near = abs(number - found) <= flips / len(test) + EXACT
        yield Comparison(name, number, found, "agrees" if near else "differs")


def _same_judges(record: Record, evaluation: Evaluation) -> bool:
    """Whether the protocol's evaluators are the same networks here as where the record was made."""
    if {"evaluator", "second"} <= evaluation.stage.cell.protocol.assets.keys():
        return True
    here, there = environment(evaluation.bench.device), record.environment
    same = ("torch", "timm", "device", "threads", "platform", "processor")
    return all(getattr(here, key) == getattr(there, key) for key in same)


def _without_target(record: Record, evaluation: Evaluation) -> Iterator[Comparison]:
    """What the data say of the numbers that the target gave, where they contradict them."""
    data = evaluation.data
    # Validation accuracy is rounded.
    for name, part, allowed in (
        ("natural_accuracy", data.test, EXACT),
        ("validation_accuracy", data.val, 1e-6),
    ):
        n, share = len(part), _number(record, name)
        if share is not None and abs(share - round(share * n) / n) > allowed:
            yield Comparison(name, share, None, "differs", f"no share of {n} images")
    for name, found in (
        ("validation_images", len(data.val)),
        ("chance_accuracy", 1 / data.identities),
    ):
        if record.utility.get(name) not in (None, found):
            yield Comparison(name, _number(record, name), found, "differs")
    for reason in guarantee_faults(record, len(data.train)):
        yield Comparison("epsilon", _number(record, "epsilon"), None, "differs", reason)


def _number(record: Record, name: str) -> float | None:
    """A number of ``utility``; None where it is none."""
    value = record.utility.get(name)
    return float(value) if isinstance(value, float | int) else None
