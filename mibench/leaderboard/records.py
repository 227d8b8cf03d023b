"""The records of a leaderboards folder: one file a cell, checked when it is filed and read.

Layout: ``records/<protocol>/<cell>.json``, ``verifications/<protocol>/<cell>.json`` with what was
found in checking it, and ``galleries/<protocol>/<cell>.png`` beside them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mibench.errors import MibenchError, RequestError, printable
from mibench.files import read_plain
from mibench.leaderboard.checks import HEADLINE, faults
from mibench.leaderboard.fit import unfit
from mibench.leaderboard.folder import LeftOut, plain_files
from mibench.leaderboard.names import RECORDS, cell_name, method_label, reconstructions
from mibench.leaderboard.parsing import MOST_BYTES, parse
from mibench.leaderboard.verifications import SELF_REPORTED, State, Verification, noted
from mibench.record import FLOOR_PRIOR, FLOOR_PUBLIC, LOOKALIKE, MetricValue, Record
from mibench.settings import flat
from mibench.types import Access, canonical_json

_LABELS: Access = "label-only"
Samples = tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]  # hits and ranks


@dataclass(frozen=True)
class Filed:
    """A record and its file, relative to the records folder (``synthfaces-32/….json``).

    Attributes:
        verification: what was found in checking it; None for a self-reported one.
    """

    path: str
    record: Record
    verification: Verification | None = None

    @property
    def state(self) -> State:
        """Self-reported, metrics recomputed, or retrained; only the last is called verified."""
        return self.verification.state if self.verification else SELF_REPORTED


def load(folder: Path) -> dict[str, list[Filed]]:
    """All filed records by protocol, in the order of their file names.

    Raises:
        MibenchError: :func:`survey` found a problem; the message names file and reason.
    """
    found, problems = survey(folder)
    if problems:
        raise MibenchError(
            f"{len(problems)} problems with the records in {folder / RECORDS}:\n  "
            + "\n  ".join(map(str, problems))
        )
    return found


def filed_cells(folder: Path) -> tuple[set[tuple[str, int | None, str]], list[LeftOut]]:
    """What has a record that boards take, and what is wrong with the others.

    Returns:
        Name and version of the protocol, and the cell's name, of each record; and the problems.

    Raises:
        RequestError: the folder holds no records.
    """
    if not (folder / RECORDS).is_dir():
        raise RequestError(f"{folder} has no folder {RECORDS!r}: it is no leaderboards folder")
    found, problems = survey(folder)
    cells = set()
    for filed in found.values():
        for record in (each.record for each in filed):
            cells.add((record.protocol.name, record.protocol.version, cell_name(record)))
    return cells, problems


def survey(folder: Path) -> tuple[dict[str, list[Filed]], list[LeftOut]]:
    """The filed records that boards can take, by protocol, and what is wrong with the others.

    Anyone may have written a file in this folder: links are not followed, and a file that is
    damaged, filed under another name than its own, or does not go with the others of its protocol
    is left out and named, with the reason.
    """
    found, problems = _sound(folder)
    for protocol, filed in found.items():
        unlike = disagreements(filed)
        problems += [LeftOut(*map(printable, each)) for each in unlike.items()]
        found[protocol] = [each for each in filed if each.path not in unlike]
    return {protocol: filed for protocol, filed in found.items() if filed}, problems


def _sound(folder: Path, protocol: str = "") -> tuple[dict[str, list[Filed]], list[LeftOut]]:
    """Filed records, of one protocol or all, that are sound in themselves; what is wrong."""
    found: dict[str, list[Filed]] = {}
    paths, problems = plain_files(folder, RECORDS, ".json")
    for relative in paths:
        if protocol and relative.partition("/")[0] != protocol:
            continue
        each, reasons = read_filed(folder, relative)
        if each is not None and not reasons:
            found.setdefault(each.record.protocol.name, []).append(each)
        problems += [LeftOut(printable(relative), printable(reason)) for reason in reasons]
    return found, problems


def read_filed(folder: Path, relative: str) -> tuple[Filed | None, list[str]]:
    """A filed record, or None; and why boards cannot take it."""
    try:
        data = read_plain(folder / RECORDS / relative, "the record", MOST_BYTES)
        record = parse(data)
        if reasons := unfit(record) or faults(record):
            return None, reasons
    except MibenchError as error:
        return None, [str(error)]
    except HOSTILE as error:
        return None, [uncheckable(error)]
    if (own := file_name(record)) != relative:
        return None, [f"its cell belongs into the file {own}"]
    return Filed(relative, record, noted(folder, relative, hashlib.sha256(data).hexdigest())), []


def file_name(record: Record) -> str:
    """Where a record is filed, relative to the records folder."""
    return f"{record.protocol.name}/{cell_name(record)}.json"


# The checks read what anyone may have put in the place of a number or a table.
HOSTILE = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


def uncheckable(error: Exception) -> str:
    """What is said of a record that a check stumbled over."""
    return f"it cannot be checked: {type(error).__name__}: {str(error)[:200]}"


def _labelled_alike(one: Record, other: Record) -> bool:
    """Whether two cells may agree because an attack that sees labels alone sees the same ones.

    That is so of defenses that change scores, before the same network.
    """
    defenses = {method_label(each.defense) for each in (one, other)}
    accuracies = {each.utility.get("natural_accuracy") for each in (one, other)}
    accesses = {each.access for each in (one, other)}
    same = len(accuracies) == 1 and one.seed == other.seed
    return accesses == {_LABELS} and len(defenses) == 2 and same


def filed_with(record: Record, folder: Path) -> list[Filed]:
    """The sound filed records of a record's protocol, in the order of their files' names."""
    return _sound(folder, record.protocol.name)[0].get(record.protocol.name, [])


def disagreements(filed: Sequence[Filed]) -> dict[str, str]:
    """Records of one protocol that cannot stand beside the others: path and reason.

    All have one version of the protocol, one division of the images and the same pixels; seeds of
    one cell have the same settings; no two have the same reconstructions; and what is said of one
    target, or of one seed's random samples, is said alike. Where as many say one thing as another,
    the first in the order given is right.
    """
    found: dict[str, str] = {}

    def outliers(
        kind: str,
        members: Sequence[tuple[Filed, Any]],
        alike: Callable[[Any, Any], bool] = lambda one, other: False,
    ) -> None:
        texts = [canonical_json(value) for _, value in members]
        usual = texts.index(max(texts, key=texts.count)) if texts else 0
        for (each, value), text in zip(members, texts, strict=True):
            other, its = members[usual]
            if text != texts[usual] and not alike(value, its):
                found.setdefault(
                    each.path, f"{kind} is {value!r:.60}, in {other.path} it is {its!r:.60}"
                )

    for kind, value in ALIKE.items():
        outliers(kind, [(each, value(each.record)) for each in filed])
    sizes = [(each, len(rows)) for each in filed if (rows := _top1_hits(each.record.metrics))]
    outliers("the number of attacked identities", sizes)
    for seeds in _grouped(filed, lambda each: each.path.rpartition("_seed")[0]):
        for part in ("target", "defense", "attack", "prior"):
            settings = [dict(flat(getattr(each.record, part).resolved)) for each in seeds]
            for field in sorted(set().union(*settings)):
                pairs = zip(seeds, settings, strict=True)
                # A field that some lack is of another version of the code, with its default.
                there = [(each, own[field]) for each, own in pairs if field in own]
                outliers(f"seeds of one cell must have the same settings: {part}.{field}", there)
    for same in _grouped(filed, lambda each: method_label(each.record.defense)):
        knobs = [(each, each.record.strength and each.record.strength.path) for each in same]
        outliers("of one defense, its main knob", knobs)
    # Whatever the file or the cell is called: no two runs agree in every distance.
    for what, key in (("reconstructions", _reconstructions), ("distances", _distances)):
        for first, *twins in _grouped(filed, key):
            for each in twins:
                if not _labelled_alike(first.record, each.record):
                    reason = f"the same {what} as {first.path}: one run counts once"
                    found.setdefault(each.path, reason)
    for target in _grouped(
        filed, lambda each: (_machine(each), each.record.artifacts.get("target", each.path))
    ):
        for name in sorted(set().union(*(each.record.utility for each in target))):
            said = [(each, each.record.utility.get(name)) for each in target]
            outliers(f"of one target, {name}", said)
        for reference in (FLOOR_PUBLIC, LOOKALIKE):
            hits = [(each, _samples(each, reference)) for each in target]
            outliers(f"of one target, {reference}", hits)
    pinned = [each for each in filed if "asset prior" in each.record.artifacts]
    for seeds in _grouped(pinned, lambda each: (_machine(each), each.record.seed)):
        samples = [(each, _samples(each, FLOOR_PRIOR)) for each in seeds]
        outliers(f"of one seed, {FLOOR_PRIOR}", samples, _alike)
    some = [each for each in pinned if any(_samples(each, FLOOR_PRIOR))]
    for same in _grouped(some, lambda each: _samples(each, FLOOR_PRIOR)):
        outliers(f"of one {FLOOR_PRIOR}, the seed", [(each, each.record.seed) for each in same])
    return found


# What all records of a board have in common.
ALIKE: dict[str, Callable[[Record], Any]] = {
    "made under another version of the protocol: its digest": (
        lambda record: record.protocol.resolved["digest"]
    ),
    "whether it shows people": lambda record: record.people,
    "how many people its ranks are among": lambda record: (
        record.metrics["median_rank"].among if "median_rank" in record.metrics else None
    ),
    "its images are divided otherwise: the split": lambda record: record.artifacts.get("split"),
    "made from other pixels, as in another alignment of the same pictures: the digest of the "
    "images": lambda record: record.artifacts.get("images"),
}


def _grouped(filed: Iterable[Filed], key: Callable[[Filed], Any]) -> list[list[Filed]]:
    groups: dict[Any, list[Filed]] = {}
    for each in filed:
        groups.setdefault(key(each), []).append(each)
    return list(groups.values())


def _machine(filed: Filed) -> tuple[Any, ...]:
    """What equal inputs give equal numbers on."""
    place = filed.record.environment
    return place.device, place.torch, place.timm, place.threads, place.processor


def _reconstructions(filed: Filed) -> Any:
    return tuple(reconstructions(filed.record).values()) or filed.path


def _distances(filed: Filed) -> Any:
    metric = filed.record.metrics.get("knn_distance")
    return (metric.per_identity if metric and metric.per_identity else None) or (filed.path,)


def _top1_hits(metrics: Mapping[str, MetricValue]) -> tuple[str, ...]:
    metric = metrics.get(HEADLINE)
    return (metric.hits or ()) if metric else ()


def _alike(one: Samples, other: Samples) -> bool:
    """Whether two say the same of one reference's samples but for what rounding changes.

    Another processor or number of threads moves the last digits of a likeness: a rank by the few
    strangers in between, and a hit where two classes are equally likely. Of other samples nearly
    every rank is another.
    """
    hits, its_hits = ("".join(each[0]) for each in (one, other))
    ranks, its_ranks = (list(itertools.chain(*each[1])) for each in (one, other))
    if (len(hits), len(ranks)) != (len(its_hits), len(its_ranks)):
        return False
    flips = sum(a != b for a, b in zip(hits, its_hits, strict=True))
    near = (abs(a - b) <= max(2, 0.001 * max(a, b)) for a, b in zip(ranks, its_ranks, strict=True))
    return flips <= 0.01 * len(hits) and all(near)


def _samples(filed: Filed, reference: str) -> Samples:
    """Hits and ranks of a reference's samples, a row an identity."""
    metrics = filed.record.references.get(reference, {})
    rank = metrics.get("median_rank")
    return _top1_hits(metrics), (rank.ranks or ()) if rank else ()


def schema() -> str:
    """The JSON Schema of a record, as text."""
    described = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Record.model_json_schema(),
    }
    return json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
