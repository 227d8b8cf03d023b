"""Records filed in a leaderboards folder, each checked before, and all of them checked again."""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mibench.cell.measures import Evaluation
from mibench.cell.picture import private_images
from mibench.errors import MibenchError, RequestError
from mibench.files import read_plain, write_atomic
from mibench.leaderboard.checks import HEADLINE, warnings
from mibench.leaderboard.folder import refuse_link
from mibench.leaderboard.galleries import has_gallery, make_gallery
from mibench.leaderboard.names import GALLERIES, RECORDS, reconstructions
from mibench.leaderboard.parsing import read_record
from mibench.leaderboard.records import (
    HOSTILE,
    Filed,
    disagreements,
    file_name,
    filed_with,
    read_filed,
    survey,
    uncheckable,
)
from mibench.leaderboard.verifications import (
    SELF_REPORTED,
    VERIFICATIONS,
    Finding,
    Found,
    State,
    Verification,
    noted,
)
from mibench.record import Record
from mibench.store.environment import git_state, package_version
from mibench.verify.compare import UNCHECKED, of
from mibench.verify.recompute import Place, evaluation_of, read_images, recompute
from mibench.verify.settings import check, foreign

WRONG = "does not hold"


@dataclass(frozen=True)
class Added:
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
    warnings: tuple[str, ...] = ()
    state: State = SELF_REPORTED


def add(paths: Iterable[Path], folder: Path, place: Place | None = None) -> list[Added]:
    """File records, each on its own: a bad one does not keep the others out.

    Where the reconstructions lie beside a record, its metrics are computed anew, and a record whose
    numbers differ is refused; without them it is self-reported.

    Args:
        paths: record files, or run folders with a ``record.json``.
        folder: the leaderboards folder.
        place: where metrics are computed.
    """
    known: dict[str, list[Filed]] = {}  # filed records by protocol
    judges = _Judges(place or Place())
    result = []
    for path in map(Path, paths):
        try:
            result.append(_add(path, folder, known, judges))
        except MibenchError as error:
            result.append(Added(str(path), "refused", reasons=(str(error),)))
        except HOSTILE as error:
            result.append(Added(str(path), "refused", reasons=(uncheckable(error),)))
    return result


class _Judges:
    """What judges a protocol's images at a seed, kept for the next record of the same ones."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._kept: dict[tuple[str, int, int], Evaluation] = {}

    def of(self, record: Record) -> Evaluation:
        """Raises as :func:`evaluation_of`, of a record that is comparable."""
        key = (record.protocol.name, record.seed, record.rules)
        if key not in self._kept:
            self._kept.clear()  # before the next one's data and networks come
            self._kept[key] = evaluation_of(record, self.place)
        return self._kept[key]


def _add(path: Path, folder: Path, known: dict[str, list[Filed]], judges: _Judges) -> Added:
    """Check one record and file it, wholly or not at all.

    Raises:
        MibenchError: it is refused.
    """
    source = str(path)
    path = path / "record.json" if path.is_dir() else path
    record = read_record(path)
    if reasons := check(record):
        return Added(source, "refused", reasons=tuple(reasons))
    name, protocol = file_name(record), record.protocol.name
    file, picture = folder / RECORDS / name, f"{GALLERIES}/{name.removesuffix('.json')}.png"
    for each in (f"{RECORDS}/{name}", f"{VERIFICATIONS}/{name}", picture):
        refuse_link(folder, each)
    if protocol not in known:
        known[protocol] = filed_with(record, folder)
    there = next((each for each in known[protocol] if each.path == name), None)
    if there is None and file.exists():
        raise MibenchError(f"{file} is damaged: {'; '.join(read_filed(folder, name)[1])}")
    if there is not None and there.record.results() != record.results():
        told = [each.metrics.get(HEADLINE) for each in (there.record, record)]
        values = [metric.value if metric else None for metric in told]
        shown = " and ".join("none" if value is None else f"{value:.4f}" for value in values)
        raise MibenchError(
            f"the cell is already filed with other results ({HEADLINE} {shown}): {file}; remove "
            "that file first if this record should take its place"
        )
    rest = [each for each in known[protocol] if each.path != name]
    unlike = disagreements([*rest, Filed(name, record)])
    if name in unlike:
        return Added(source, "refused", reasons=(unlike[name],))
    gallery, notes, recomputed = _recomputed(record, path, judges)
    said = (*notes, *warnings(record))
    if there is not None and (not recomputed or there.state != SELF_REPORTED):
        return Added(source, "already there", file, warnings=said, state=there.state)
    try:
        if gallery is not None:
            write_atomic(folder / picture, gallery)
        if there is None:
            write_atomic(file, (record.model_dump_json() + "\n").encode())
        found = note(folder, name, "metrics recomputed") if recomputed else None
    except MibenchError:
        # A picture without its record is nothing, and neither is a record that says less of
        # itself than what was found.
        if there is None:
            (folder / picture).unlink(missing_ok=True)
            file.unlink(missing_ok=True)
        raise
    filed = Filed(name, record, found)
    known[protocol] = sorted([*rest, filed], key=lambda each: each.path)
    status: Literal["filed", "verification filed"]
    status = "filed" if there is None else "verification filed"
    return Added(source, status, file, warnings=said, state=filed.state)


def _recomputed(
    record: Record, path: Path, judges: _Judges
) -> tuple[bytes | None, tuple[str, ...], bool]:
    """A record's gallery, notes, and whether its numbers follow from what lies beside it.

    Raises:
        MibenchError: a number differs, or the reconstructions are none.
    """
    beside = [os.path.lexists(path.parent / name) for name in reconstructions(record)]
    if record.status != "complete" or not (beside and all(beside)):
        return None, (), False
    images = read_images(record, path, judges.place.store)
    assert images is not None
    try:
        evaluation = judges.of(record)
        found = recompute(record, images, evaluation)
    except RequestError as error:  # the data are not on this machine
        return None, (f"self-reported, its metrics could not be recomputed: {error}",), False
    if wrong := of("differs", found):
        raise MibenchError(
            f"its reconstructions give other numbers, {len(wrong)} of {len(found)}: "
            + "; ".join(map(str, wrong[:5]))
        )
    if unchecked := of(UNCHECKED, found):
        which = ", ".join(each.name for each in unchecked)
        why = f"self-reported, {which} cannot be checked here: {unchecked[0].note}"
        return None, (why,), False
    gallery = None
    if has_gallery(record):
        private, names = private_images(evaluation.data.train, evaluation.labels)
        gallery = make_gallery(record, images["images"], private.cpu(), names)
    return gallery, (), True


def note(folder: Path, name: str, found: Found, by: str | None = None) -> Verification:
    """Note beside a filed record what was found of it.

    Args:
        folder: the leaderboards folder.
        name: the record's file, relative to the records folder.
        found: what was done, with success.
        by: who did it.

    Raises:
        MibenchError: the record is not there, or the note cannot be written.
    """
    for part in (RECORDS, VERIFICATIONS):
        refuse_link(folder, f"{part}/{name}")
    data = read_plain(folder / RECORDS / name, "the record")
    digest = hashlib.sha256(data).hexdigest()
    earlier = noted(folder, name, digest)
    finding = Finding(
        found=found,
        by=by,
        at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        mibench=package_version("mibench"),
        commit=git_state()[0],
    )
    findings = earlier.findings if earlier else ()
    kept = [each for each in findings if (each.found, each.by) != (found, by)]
    made = Verification(record=digest, findings=(*kept, finding))
    write_atomic(folder / VERIFICATIONS / name, (made.model_dump_json(indent=1) + "\n").encode())
    return made


def filed_name(record: Record, folder: Path) -> str:
    """The file of a record in a leaderboards folder, relative to its records.

    Raises:
        RequestError: the folder has no such record.
    """
    name, filed = file_name(record), filed_with(record, folder)
    if not any(each.path == name and each.record.results() == record.results() for each in filed):
        raise RequestError(
            f"--by: {folder} has no such record as {name}; file it first, by "
            "`mibench leaderboard add`"
        )
    return name


def verify_all(folder: Path, place: Place) -> Iterator[tuple[str, str, list[str]]]:
    """Check every record of a leaderboards folder, as if it was added now.

    Those whose reconstructions are in the store have their metrics computed anew. What an earlier
    check noted counts for nothing here, except that a record with such a note whose reconstructions
    are not in the store is counted by it. Self-reported records are no failure: boards name them.

    Yields:
        Of each record its state, ``WRONG`` or ``UNCHECKED``; its file; and the reasons.
    """
    judges = _Judges(place)
    found, problems = survey(folder)
    for path, reason in problems:
        yield WRONG, path, [reason]
    for each in (filed for board in found.values() for filed in board):
        verdict, reasons = _verdict(each, folder, judges)
        yield verdict, each.path, reasons


def _verdict(each: Filed, folder: Path, judges: _Judges) -> tuple[str, list[str]]:
    """The state of a filed record, or that it is none; with the reasons."""
    record = each.record
    try:
        if reasons := foreign(record):
            return WRONG, reasons
        path = folder / RECORDS / each.path
        images = None
        if record.status == "complete":
            images = read_images(record, path, judges.place.store)
        if images is None:
            return each.state, []
        found = recompute(record, images, judges.of(record))
    except RequestError as error:
        return UNCHECKED, [str(error)]
    except (MibenchError, *HOSTILE) as error:
        return WRONG, [str(error) or type(error).__name__]
    if wrong := of("differs", found):
        return WRONG, list(map(str, wrong[:5]))
    if unchecked := of(UNCHECKED, found):
        return UNCHECKED, list(map(str, unchecked[:5]))
    return ("retrained" if each.state == "retrained" else "metrics recomputed"), []
