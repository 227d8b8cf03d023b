"""The records of a leaderboards folder: one file a cell, checked when it is filed and read.

Layout: ``records/<protocol>/<cell>.json``, ``verifications/<protocol>/<cell>.json`` with what was
found in checking it, and ``galleries/<protocol>/<cell>.png`` beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mibench.errors import MibenchError, RequestError
from mibench.files import inside, read_plain, write_atomic
from mibench.leaderboard.checks import HEADLINE, faults, foreign, warnings
from mibench.leaderboard.defaults import flat
from mibench.leaderboard.galleries import make_gallery
from mibench.leaderboard.names import GALLERIES, RECORDS, cell_name, record_place
from mibench.leaderboard.parsing import MOST_BYTES, parse, read_record
from mibench.leaderboard.verifications import SELF_REPORTED, State, Verification, note, noted
from mibench.progress import SILENT, Progress
from mibench.types import FLOOR_PRIOR, FLOOR_PUBLIC, Record

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
    "load",
    "parse",
    "read_all",
    "schema",
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
    return foreign(record) or faults(record)


def load(folder: Path) -> dict[str, list[Filed]]:
    """All filed records by protocol, in the order of their file names.

    Raises:
        MibenchError: a record is damaged, filed under another name than its own, or does not go
            with the others; the message names file and reason.
    """
    found, problems = read_all(folder)
    if not problems:
        for protocol in found.values():
            problems += disagreements(protocol)
    if problems:
        raise MibenchError(
            f"{len(problems)} problems with the records in {folder / RECORDS}:\n  "
            + "\n  ".join(problems)
        )
    return found


def read_all(folder: Path, protocol: str = "*") -> tuple[dict[str, list[Filed]], list[str]]:
    """The sound records by protocol, in the order of their file names; and what is wrong.

    Args:
        folder: the leaderboards folder.
        protocol: read the records of this one only.
    """
    found: dict[str, list[Filed]] = {}
    problems = []
    for path in sorted((folder / RECORDS).glob(f"{protocol}/*.json")):
        relative = path.relative_to(folder / RECORDS).as_posix()
        try:
            data = read_plain(inside(folder, f"{RECORDS}/{relative}"), "the record", MOST_BYTES)
            record = parse(data)
        except MibenchError as error:
            problems.append(f"{relative}: {error}")
            continue
        reasons = faults(record)
        if not reasons and f"{record.protocol.name}/{cell_name(record)}.json" != relative:
            own = f"{record.protocol.name}/{cell_name(record)}.json"
            reasons.append(f"its cell belongs into the file {own}")
        if reasons:
            problems += [f"{relative}: {reason}" for reason in reasons]
            continue
        verification = noted(folder, relative, hashlib.sha256(data).hexdigest())
        found.setdefault(path.parent.name, []).append(Filed(relative, record, verification))
    return found, problems


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
    from mibench.store import default_root

    known: dict[str, list[Filed]] = {}
    outcomes = []
    for path in map(Path, paths):
        filing = _Filing(folder, known, store or default_root(), data, device, progress)
        try:
            outcomes.append(filing.file(path))
        except MibenchError as error:
            outcomes.append(Outcome(str(path), "refused", None, (str(error),)))
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
        place = record_place(self.folder, record)
        name = f"{record.protocol.name}/{place.name}"
        others = self._filed(record.protocol.name)
        there = next((each for each in others if each.path == name), None)
        if there is None and place.exists():
            raise MibenchError(f"{place} is damaged: remove it, or see `mibench leaderboard build`")
        if there is not None and there.record.results() != record.results():
            raise MibenchError(_duplicate(place, there.record, record))
        rest = [each for each in others if each.path != name]
        if reasons := disagreements([*rest, Filed(name, record)], only=name):
            return Outcome(source, "refused", None, tuple(reasons))
        state, notes = self._recomputed(record, path)
        notes = [*notes, *warnings(record)]
        if there is not None and (state == SELF_REPORTED or there.state != SELF_REPORTED):
            return Outcome(source, "already there", place, (), tuple(notes), there.state)
        if there is None:
            notes += self._gallery(record, path, place)
            write_atomic(place, (record.model_dump_json() + "\n").encode())
        found = note(self.folder, name, "metrics recomputed") if state != SELF_REPORTED else None
        others[:] = sorted([*rest, Filed(name, record, found)], key=lambda each: each.path)
        status: Literal["filed", "verification filed"]
        status = "filed" if there is None else "verification filed"
        return Outcome(source, status, place, (), tuple(notes), state)

    def _filed(self, protocol: str) -> list[Filed]:
        if protocol not in self.known:
            self.known[protocol] = read_all(self.folder, protocol)[0].get(protocol, [])
        return self.known[protocol]

    def _recomputed(self, record: Record, path: Path) -> tuple[State, list[str]]:
        """What the reconstructions beside a record say of it, and why not, where they can't.

        Raises:
            MibenchError: a number differs, or the reconstructions are none.
        """
        if record.status != "complete" or not (path.parent / IMAGES).exists():
            return SELF_REPORTED, []
        from mibench.leaderboard import verify

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
            return SELF_REPORTED, [f"self-reported, its metrics could not be recomputed: {error}"]
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
            return SELF_REPORTED, [f"self-reported, {reason}"]
        return "metrics recomputed", []

    def _gallery(self, record: Record, path: Path, place: Path) -> list[str]:
        """Make the record's gallery; it comes first, so that a record is never half filed."""
        name = f"{GALLERIES}/{record.protocol.name}/{place.stem}.png"
        try:
            make_gallery(record, path.parent / "reconstructions.png", inside(self.folder, name))
        except Exception as error:  # whatever a picture that anyone made can do to its reader
            return [f"no gallery: {type(error).__name__}: {error}"]
        return []


def _duplicate(place: Path, filed: Record, record: Record) -> str:
    values = [each.metrics[HEADLINE].value for each in (filed, record)]
    shown = " and ".join("none" if value is None else f"{value:.4f}" for value in values)
    return (
        f"the cell is already filed with other results ({HEADLINE} {shown}): {place}; remove that "
        "file first if this record should take its place"
    )


def disagreements(filed: Sequence[Filed], only: str | None = None) -> list[str]:
    """Records of one protocol that cannot stand on one board, or be true together.

    Args:
        filed: the records.
        only: name what this file takes part in, and nothing else.
    """
    found: list[str] = []
    firsts: dict[tuple[str, ...], Filed] = {}
    for each in filed:
        record, first = each.record, filed[0]
        seeds = ("cell", each.path.rpartition("_seed")[0])
        images = ("images", record.artifacts.get(IMAGES, each.path))
        target = ("target", record.artifacts.get("target", each.path))
        floor = ("floor", *_top1_hits(record, FLOOR_PRIOR))
        same, twin, sibling = (firsts.setdefault(k, each) for k in (seeds, images, target))
        pairs = [(first, reason) for reason in _other_board(record, first.record)]
        pairs += [(same, reason) for reason in _other_cell(record, same.record)]
        pairs += [(sibling, reason) for reason in _other_target(record, sibling.record)]
        if twin is not each:
            pairs.append((twin, "it has the same reconstructions: one run counts once"))
        if len(floor) > 1 and "asset prior" in record.artifacts:
            twin = firsts.setdefault(floor, each)
            if twin.record.seed != record.seed:
                pairs.append((twin, "it has the same random prior samples, at another seed"))
            twin = firsts.setdefault(("seed", str(record.seed)), each)
            theirs = _top1_hits(twin.record, FLOOR_PRIOR)
            if theirs and theirs != floor[1:] and _one_machine(record, twin.record):
                pairs.append((twin, "it has other random prior samples, at the same seed"))
        found += [
            f"{each.path}, beside {other.path}: {reason}"
            for other, reason in pairs
            if only is None or only in (each.path, other.path)
        ]
    return found


def _other_board(record: Record, first: Record) -> Iterator[str]:
    """Why two records do not compare at all."""
    if record.protocol.resolved["digest"] != first.protocol.resolved["digest"]:
        yield "made under another version of the protocol"
    if record.artifacts.get("split") != first.artifacts.get("split"):
        yield "its images are divided otherwise"
    elif record.artifacts.get("images") != first.artifacts.get("images"):
        yield "made from other pixels, as another alignment of the same pictures has"


def _other_cell(record: Record, same: Record) -> Iterator[str]:
    """Why two records are not of one cell at two seeds."""
    for part in ("target", "defense", "attack"):
        theirs = dict(flat(getattr(same, part).resolved))
        mine = dict(flat(getattr(record, part).resolved))
        # A field that one of them lacks is of another version of the code, with its default.
        for key in sorted(mine.keys() & theirs.keys()):
            if mine[key] != theirs[key]:
                yield (
                    f"{part}.{key} is {mine[key]!r}, there it is {theirs[key]!r}: seeds of one "
                    "cell must have the same settings"
                )


def _other_target(record: Record, sibling: Record) -> Iterator[str]:
    """What two records say of one target, and say differently."""
    if not _one_machine(record, sibling):
        return
    for key in sorted(record.utility.keys() & sibling.utility.keys()):
        if record.utility[key] != sibling.utility[key]:
            yield (
                f"{key} is {record.utility[key]}, there it is {sibling.utility[key]}, and the "
                "target is the same"
            )
    if _top1_hits(record, FLOOR_PUBLIC) != _top1_hits(sibling, FLOOR_PUBLIC):
        yield f"{FLOOR_PUBLIC}: other hits, and the target is the same"


def _one_machine(one: Record, other: Record) -> bool:
    """Whether two records were computed alike, so that equal inputs give equal numbers."""
    a, b = one.environment, other.environment
    return (a.device, a.torch, a.timm, a.threads) == (b.device, b.torch, b.timm, b.threads)


def _top1_hits(record: Record, reference: str) -> tuple[str, ...]:
    metric = record.references.get(reference, {}).get(HEADLINE)
    return (metric.hits or ()) if metric else ()


def schema() -> str:
    """The JSON Schema of a record, as text."""
    described = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Record.model_json_schema(),
    }
    return json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
