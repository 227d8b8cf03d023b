"""The records of a leaderboards folder: one file a cell, checked when it is filed and read.

Layout: ``records/<protocol>/<cell>.json``, ``verifications/<protocol>/<cell>.json`` with what was
found in checking it, and ``galleries/<protocol>/<cell>.png`` beside them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mibench.errors import MibenchError, RequestError
from mibench.files import read_plain, write_atomic
from mibench.leaderboard.checks import HEADLINE, faults, foreign, warnings
from mibench.leaderboard.defaults import flat
from mibench.leaderboard.fit import unfit
from mibench.leaderboard.folder import plain_files, refuse_link
from mibench.leaderboard.galleries import has_gallery, make_gallery
from mibench.leaderboard.names import GALLERIES, RECORDS, cell_name, method_label
from mibench.leaderboard.parsing import MOST_BYTES, parse, read_record
from mibench.leaderboard.verifications import (
    SELF_REPORTED,
    VERIFICATIONS,
    State,
    Verification,
    note,
    noted,
)
from mibench.progress import SILENT, Progress
from mibench.record import FLOOR_PRIOR, FLOOR_PUBLIC, MetricValue, Record
from mibench.text import printable
from mibench.types import canonical_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "GALLERIES",
    "IMAGES",
    "RECORDS",
    "Filed",
    "Outcome",
    "add",
    "cell_name",
    "check",
    "disagreements",
    "filed_with",
    "load",
    "parse",
    "schema",
    "survey",
]

IMAGES = "reconstructions.safetensors"


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


@dataclass(frozen=True)
class Outcome:
    """What became of one record that was to be added.

    Attributes:
        source: what was given.
        place: its file, unless it was refused.
        reasons: why it was refused.
        warnings: what readers should know of it.
        state: what was found in checking it.
    """

    source: str
    status: Literal["filed", "already there", "verification filed", "refused"]
    place: Path | None = None
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    state: State = SELF_REPORTED


def check(record: Record) -> list[str]:
    """Reasons why a record is refused; empty for one that boards can take."""
    return unfit(record) or foreign(record) or faults(record)


def load(folder: Path) -> dict[str, list[Filed]]:
    """All filed records by protocol, in the order of their file names.

    Raises:
        MibenchError: :func:`survey` found a problem; the message names file and reason.
    """
    found, problems = survey(folder)
    if problems:
        raise MibenchError(
            f"{len(problems)} problems with the records in {folder / RECORDS}:\n  "
            + "\n  ".join(problems)
        )
    return found


def survey(folder: Path) -> tuple[dict[str, list[Filed]], list[str]]:
    """The filed records that boards can take, by protocol, and what is wrong with the others.

    Anyone may have written a file in this folder: links are not followed, and a file that is
    damaged, filed under another name than its own, or does not go with the others of its protocol
    is left out and named, with the reason.
    """
    found, problems = _sound(folder)
    for protocol, filed in found.items():
        unlike = disagreements(filed)
        problems += [printable(f"{path}: {reason}") for path, reason in unlike.items()]
        found[protocol] = [each for each in filed if each.path not in unlike]
    return {protocol: filed for protocol, filed in found.items() if filed}, problems


def _sound(folder: Path, protocol: str = "") -> tuple[dict[str, list[Filed]], list[str]]:
    """Filed records, of one protocol or all, that are sound in themselves; what is wrong."""
    found: dict[str, list[Filed]] = {}
    paths, problems = plain_files(folder, RECORDS, ".json")
    for relative in paths:
        if protocol and relative.partition("/")[0] != protocol:
            continue
        each, reasons = _read(folder, relative)
        if each is not None and not reasons:
            found.setdefault(each.record.protocol.name, []).append(each)
        problems += [printable(f"{relative}: {reason}") for reason in reasons]
    return found, problems


def _read(folder: Path, relative: str) -> tuple[Filed | None, list[str]]:
    """A filed record, or None; and why boards cannot take it."""
    try:
        data = read_plain(folder / RECORDS / relative, "the record", MOST_BYTES)
        record = parse(data)
        if reasons := unfit(record) or faults(record):
            return None, reasons
    except MibenchError as error:
        return None, [str(error)]
    except HOSTILE as error:
        return None, [_uncheckable(error)]
    own = f"{record.protocol.name}/{cell_name(record)}.json"
    if own != relative:
        return None, [f"its cell belongs into the file {own}"]
    return Filed(relative, record, noted(folder, relative, hashlib.sha256(data).hexdigest())), []


# The checks read what anyone may have put in the place of a number or a table.
HOSTILE = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


def _uncheckable(error: Exception) -> str:
    return f"it cannot be checked: {type(error).__name__}: {str(error)[:200]}"


def filed_with(record: Record, folder: Path) -> list[Filed]:
    """The sound filed records of a record's protocol, in the order of their files' names."""
    return _sound(folder, record.protocol.name)[0].get(record.protocol.name, [])


def add(
    paths: Iterable[Path],
    folder: Path,
    *,
    store: Path | None = None,
    data: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> list[Outcome]:
    """File records, each on its own: a bad one does not keep the others out.

    Where the reconstructions lie beside a record, its metrics are computed anew, and a record whose
    numbers differ is refused; without them it is self-reported.

    Args:
        paths: record files, or run folders with a ``record.json``.
        folder: the leaderboards folder.
        store: folder of cached stages, for data and evaluators; None: the usual one.
        data: folder of prepared data sets; None: the usual one.
        device: where to compute.
        progress: told of stages.
    """
    from mibench.store.store import default_root

    known: dict[str, list[Filed]] = {}
    outcomes = []
    for path in map(Path, paths):
        filing = _Filing(folder, known, store or default_root(), data, device, progress)
        try:
            outcomes.append(filing.file(path))
        except MibenchError as error:
            outcomes.append(Outcome(str(path), "refused", None, (str(error),)))
        except HOSTILE as error:
            outcomes.append(Outcome(str(path), "refused", None, (_uncheckable(error),)))
    return outcomes


@dataclass(frozen=True)
class _Filing:
    """Where one record is filed, and how it is checked; :func:`add` says what the fields are."""

    folder: Path
    known: dict[str, list[Filed]]  # filed records by protocol, read when they are needed
    store: Path
    data: str | None
    device: str
    progress: Progress

    def file(self, path: Path) -> Outcome:
        """Check one record and file it, wholly or not at all.

        Raises:
            MibenchError: it is refused.
        """
        source = str(path)
        path = path / "record.json" if path.is_dir() else path
        record = read_record(path)
        if reasons := check(record):
            return Outcome(source, "refused", None, tuple(reasons))
        name = f"{record.protocol.name}/{cell_name(record)}.json"
        place = self.folder / RECORDS / name
        picture = f"{GALLERIES}/{name.removesuffix('.json')}.png"
        for each in (f"{RECORDS}/{name}", f"{VERIFICATIONS}/{name}", picture):
            refuse_link(self.folder, each)
        others = self.known.setdefault(record.protocol.name, filed_with(record, self.folder))
        there = next((each for each in others if each.path == name), None)
        if there is None and place.exists():
            raise MibenchError(f"{place} is damaged: {'; '.join(_read(self.folder, name)[1])}")
        if there is not None and there.record.results() != record.results():
            raise MibenchError(_duplicate(place, there.record, record))
        rest = [each for each in others if each.path != name]
        unlike = disagreements([*rest, Filed(name, record)])
        if name in unlike:
            return Outcome(source, "refused", None, (unlike[name],))
        images, notes = self._recomputed(record, path)
        notes += warnings(record)
        if there is not None and (images is None or there.state != SELF_REPORTED):
            return Outcome(source, "already there", place, (), tuple(notes), there.state)
        if images is not None and has_gallery(record):
            from mibench import verify

            private, names = verify.private_images(
                record, store=self.store, data=self.data, device=self.device
            )
            gallery = make_gallery(record, images, private, names)
            write_atomic(self.folder / picture, gallery)
        try:
            if there is None:
                write_atomic(place, (record.model_dump_json() + "\n").encode())
            found = note(self.folder, name, "metrics recomputed") if images is not None else None
        except MibenchError:
            # A picture without its record is nothing, and neither is a record that says less of
            # itself than what was found.
            if there is None:
                (self.folder / picture).unlink(missing_ok=True)
                place.unlink(missing_ok=True)
            raise
        filed = Filed(name, record, found)
        others[:] = sorted([*rest, filed], key=lambda each: each.path)
        status: Literal["filed", "verification filed"]
        status = "filed" if there is None else "verification filed"
        return Outcome(source, status, place, (), tuple(notes), filed.state)

    def _recomputed(self, record: Record, path: Path) -> tuple[Tensor | None, list[str]]:
        """The reconstructions beside a record, if its numbers follow from them; else why not.

        Raises:
            MibenchError: a number differs, or the reconstructions are none.
        """
        if record.status != "complete" or not os.path.lexists(path.parent / IMAGES):
            return None, []
        from mibench import verify

        images = verify.read_images(record, path, self.store)
        assert images is not None
        try:
            found = verify.recompute(
                record,
                images,
                store=self.store,
                data=self.data,
                device=self.device,
                progress=self.progress,
            )
        except RequestError as error:  # the data are not on this machine
            return None, [f"self-reported, its metrics could not be recomputed: {error}"]
        wrong = [each for each in found if each.verdict == "differs"]
        if wrong:
            shown = "; ".join(f"{each.name}: {each.note or 'the value'}" for each in wrong[:5])
            raise MibenchError(
                f"its reconstructions give other numbers, {len(wrong)} of {len(found)}: {shown}"
            )
        open_ = [each for each in found if each.verdict == "cannot be checked here"]
        if open_:
            names = ", ".join(each.name for each in open_)
            reason = f"{names} cannot be checked here: {open_[0].note}"
            return None, [f"self-reported, {reason}"]
        return images["images"], []


def _duplicate(place: Path, filed: Record, record: Record) -> str:
    told = [each.metrics.get(HEADLINE) for each in (filed, record)]
    values = [metric.value if metric else None for metric in told]
    shown = " and ".join("none" if value is None else f"{value:.4f}" for value in values)
    return (
        f"the cell is already filed with other results ({HEADLINE} {shown}): {place}; remove that "
        "file first if this record should take its place"
    )


def disagreements(filed: Sequence[Filed]) -> dict[str, str]:
    """Records of one protocol that cannot stand beside the others: path and reason.

    All have one version of the protocol, one division of the images and the same pixels; seeds of
    one cell have the same settings; no two have the same reconstructions; and what is said of one
    target, or of one seed's random samples, is said alike. Where as many say one thing as another,
    the first in the order given is right.
    """
    found: dict[str, str] = {}

    def outliers(kind: str, members: Sequence[tuple[Filed, Any]]) -> None:
        texts = [canonical_json(value) for _, value in members]
        usual = texts.index(max(texts, key=texts.count)) if texts else 0
        for (each, value), text in zip(members, texts, strict=True):
            if text != texts[usual]:
                other, its = members[usual]
                found.setdefault(
                    each.path, f"{kind} is {value!r:.60}, in {other.path} it is {its!r:.60}"
                )

    for kind, read in _ALIKE.items():
        outliers(kind, [(each, read(each.record)) for each in filed])
    sizes = [(each, len(rows)) for each in filed if (rows := _top1_hits(each.record.metrics))]
    outliers("the number of attacked identities", sizes)
    for seeds in _grouped(filed, lambda each: each.path.rpartition("_seed")[0]):
        for part in ("target", "defense", "attack", "prior"):
            settings = [dict(flat(getattr(each.record, part).resolved)) for each in seeds]
            for key in sorted(set().union(*settings)):
                # A field that some lack is of another version of the code, with its default.
                there = [
                    (each, own[key])
                    for each, own in zip(seeds, settings, strict=True)
                    if key in own
                ]
                outliers(f"seeds of one cell must have the same settings: {part}.{key}", there)
    for same in _grouped(filed, lambda each: method_label(each.record.defense)):
        knobs = [(each, each.record.strength and each.record.strength.path) for each in same]
        outliers("of one defense, its main knob", knobs)
    for first, *twins in _grouped(filed, lambda each: each.record.artifacts.get(IMAGES, each.path)):
        for each in twins:
            found.setdefault(
                each.path, f"the same reconstructions as {first.path}: one run counts once"
            )
    # Whatever the file or the cell is called: no two runs agree in every distance.
    for first, *twins in _grouped(filed, _distances):
        for each in twins:
            found.setdefault(each.path, f"the same distances as {first.path}: one run counts once")
    for target in _grouped(
        filed, lambda each: (_machine(each), each.record.artifacts.get("target", each.path))
    ):
        for key in sorted(set().union(*(each.record.utility for each in target))):
            said = [(each, each.record.utility.get(key)) for each in target]
            outliers(f"of one target, {key}", said)
        hits = [(each, _reference_hits(each, FLOOR_PUBLIC)) for each in target]
        outliers(f"of one target, {FLOOR_PUBLIC}", hits)
    pinned = [each for each in filed if "asset prior" in each.record.artifacts]
    for seeds in _grouped(pinned, lambda each: (_machine(each), each.record.seed)):
        samples = [(each, _reference_hits(each, FLOOR_PRIOR)) for each in seeds]
        outliers(f"of one seed, {FLOOR_PRIOR}", samples)
    some = [each for each in pinned if _reference_hits(each, FLOOR_PRIOR)]
    for same in _grouped(some, lambda each: tuple(_reference_hits(each, FLOOR_PRIOR))):
        outliers(f"of one {FLOOR_PRIOR}, the seed", [(each, each.record.seed) for each in same])
    return found


# What all records of a board have in common.
_ALIKE: dict[str, Callable[[Record], Any]] = {
    "made under another version of the protocol: its digest": (
        lambda record: record.protocol.resolved["digest"]
    ),
    "whether it shows people": lambda record: record.people,
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
    return place.device, place.torch, place.timm, place.threads


def _distances(filed: Filed) -> tuple[Any, ...]:
    metric = filed.record.metrics.get("knn_distance")
    return (metric.per_identity if metric and metric.per_identity else None) or (filed.path,)


def _top1_hits(metrics: Mapping[str, MetricValue]) -> tuple[str, ...]:
    metric = metrics.get(HEADLINE)
    return (metric.hits or ()) if metric else ()


def _reference_hits(filed: Filed, reference: str) -> tuple[str, ...]:
    return _top1_hits(filed.record.references.get(reference, {}))


def schema() -> str:
    """The JSON Schema of a record, as text."""
    described = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Record.model_json_schema(),
    }
    return json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
