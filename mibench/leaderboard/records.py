"""The records of a leaderboards folder: one file a cell, checked when it is filed and read.

Layout: ``records/<protocol>/<cell>.json``, and ``galleries/<protocol>/<cell>.png`` beside them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from mibench.errors import MibenchError
from mibench.files import read_plain, write_atomic
from mibench.leaderboard.checks import (
    HEADLINE,
    faults,
    foreign,
    overrides,
    short_name,
    warnings,
)
from mibench.leaderboard.fit import unfit
from mibench.leaderboard.folder import plain_files, printable, refuse_link
from mibench.leaderboard.galleries import IMAGES, has_gallery, make_gallery, reconstructions
from mibench.naming import setting_token
from mibench.types import SCHEMA_VERSION, Record, canonical_json

RECORDS, GALLERIES = "records", "galleries"


@dataclass(frozen=True)
class Filed:
    """A record and its file, relative to the records folder (``synthfaces-32/….json``)."""

    path: str
    record: Record


@dataclass(frozen=True)
class Outcome:
    """What became of one record that was to be added.

    Attributes:
        source: what was given.
        place: its file, unless it was refused.
        reasons: why it was refused.
        warnings: what readers should know of it.
    """

    source: str
    status: Literal["filed", "already there", "verification filed", "refused"]
    place: Path | None = None
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())


def cell_name(record: Record) -> str:
    """``<attack>_<defense>[-<settings>]_<architecture>_seed<N>``: a cell's file, without suffix."""
    passed = overrides(record)
    token = f"-{setting_token(passed)}" if passed else ""
    attack, defense = short_name(record.attack.name), short_name(record.defense.name)
    return f"{attack}_{defense}{token}_{record.target.name}_seed{record.seed}"


def parse(text: str | bytes) -> Record:
    """Read a record.

    Raises:
        MibenchError: it is no JSON, of an unknown schema version, or does not fit the schema.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise MibenchError(f"it is no JSON, or was cut off: {error}") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise MibenchError(
            f"schema_version is {version!r}; this mibench reads {SCHEMA_VERSION}: make the record "
            "anew, or take the version of mibench that knows it"
        )
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        shown = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]]
        raise MibenchError(f"it does not fit the schema: {'; '.join(shown)}") from error


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
    found: dict[str, list[Filed]] = {}
    paths, problems = plain_files(folder, RECORDS, ".json")
    for relative in paths:
        record, reasons = _read(folder / RECORDS / relative)
        if record is not None and not reasons:
            own = f"{record.protocol.name}/{cell_name(record)}.json"
            if own == relative:
                found.setdefault(record.protocol.name, []).append(Filed(relative, record))
                continue
            reasons = [f"its cell belongs into the file {own}"]
        problems += [printable(f"{relative}: {reason}") for reason in reasons]
    for protocol, filed in found.items():
        unlike = _disagreements(filed)
        problems += [printable(f"{path}: {reason}") for path, reason in unlike.items()]
        found[protocol] = [each for each in filed if each.path not in unlike]
    return {protocol: filed for protocol, filed in found.items() if filed}, problems


def _read(path: Path) -> tuple[Record | None, list[str]]:
    """A filed record, or None; and why boards cannot take it."""
    try:
        record = parse(read_plain(path, "the record"))
        return record, unfit(record) or faults(record)
    except MibenchError as error:
        return None, [str(error)]
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        # The checks read what anyone may have put in the place of a number or a table.
        return None, [f"it cannot be checked: {type(error).__name__}: {str(error)[:200]}"]


def add(paths: Iterable[Path], folder: Path) -> list[Outcome]:
    """File records, each on its own: a bad one does not keep the others out.

    Args:
        paths: record files, or run folders with a ``record.json``.
        folder: the leaderboards folder.
    """
    return [_add(Path(path), folder) for path in paths]


def _add(path: Path, folder: Path) -> Outcome:
    source = str(path)
    path = path / "record.json" if path.is_dir() else path
    try:
        record = parse(path.read_bytes())
    except OSError as error:
        return Outcome(source, "refused", None, (f"it cannot be read: {error.strerror}",))
    except MibenchError as error:
        return Outcome(source, "refused", None, (str(error),))
    if reasons := check(record):
        return Outcome(source, "refused", None, tuple(reasons))
    place = folder / RECORDS / record.protocol.name / f"{cell_name(record)}.json"
    status: Literal["filed", "already there", "verification filed"] = "filed"
    if place.exists():
        try:
            filed = parse(place.read_bytes())
        except MibenchError as error:
            return Outcome(source, "refused", None, (f"{place} is damaged: {error}",))
        if filed.results() != record.results():
            return Outcome(source, "refused", None, (_duplicate(place, filed, record),))
        if filed.verified_by is not None or record.verified_by is None:
            return Outcome(source, "already there", place, (), tuple(warnings(record)))
        status = "verification filed"
    unlike = _disagreements([*_siblings(place, record), Filed(place.name, record)])
    if place.name in unlike:
        return Outcome(source, "refused", None, (unlike[place.name],))
    picture = folder / GALLERIES / record.protocol.name / f"{place.stem}.png"
    try:
        gallery = _gallery(record, path.parent / IMAGES)
        for each in (place, picture):
            refuse_link(folder, each.relative_to(folder).as_posix())
    except MibenchError as error:
        return Outcome(source, "refused", None, (str(error),))
    if gallery is not None:
        write_atomic(picture, gallery)
    try:
        write_atomic(place, (record.model_dump_json() + "\n").encode())
    except MibenchError:
        if gallery is not None:  # a picture without its record is nothing
            picture.unlink(missing_ok=True)
        raise
    return Outcome(source, status, place, (), tuple(warnings(record)))


def _gallery(record: Record, images: Path) -> bytes | None:
    """The picture of a record, drawn from its own reconstructions; None for one that gets none."""
    if not has_gallery(record) or not os.path.lexists(images):
        return None
    return make_gallery(record, reconstructions(record, images))


def _duplicate(place: Path, filed: Record, record: Record) -> str:
    values = [each.metrics[HEADLINE].value for each in (filed, record)]
    shown = " and ".join("none" if value is None else f"{value:.4f}" for value in values)
    return (
        f"the cell is already filed with other results ({HEADLINE} {shown}): {place}; remove that "
        "file first if this record should take its place"
    )


def _siblings(place: Path, record: Record) -> list[Filed]:
    """Filed records of the same cell at other seeds."""
    stem = place.stem.rpartition("_seed")[0]
    found = []
    for path in sorted(place.parent.glob("*.json")):
        if path != place and path.stem.rpartition("_seed")[0] == stem:
            found.append(Filed(path.name, parse(path.read_bytes())))
    return found


def _disagreements(filed: Sequence[Filed]) -> dict[str, str]:
    """Records of one protocol that do not go with the most of the others: path and reason.

    All have one version of the protocol and one number of identities; seeds of one cell have the
    same settings. Where as many say one thing as another, the first in the order of paths is right.
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

    versions = [(each, each.record.protocol.resolved["digest"]) for each in filed]
    outliers("made under another version of the protocol: its digest", versions)
    sizes = [(each, len(rows)) for each in filed if (rows := _headline_rows(each.record))]
    outliers("the number of attacked identities", sizes)
    cells: dict[str, list[Filed]] = {}
    for each in filed:
        cells.setdefault(each.path.rpartition("_seed")[0], []).append(each)
    for seeds in cells.values():
        for part in ("target", "defense", "attack"):
            settings = [dict(_flat(getattr(each.record, part).resolved)) for each in seeds]
            for key in sorted(set().union(*settings)):
                # A field that some lack is of another version of the code, with its default.
                there = [
                    (each, own[key])
                    for each, own in zip(seeds, settings, strict=True)
                    if key in own
                ]
                outliers(f"seeds of one cell must have the same settings: {part}.{key}", there)
    return found


def _headline_rows(record: Record) -> tuple[str, ...]:
    metric = record.metrics.get(HEADLINE)
    return (metric.hits or ()) if metric else ()


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def schema() -> str:
    """The JSON Schema of a record, as text."""
    described = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Record.model_json_schema(),
    }
    return json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
