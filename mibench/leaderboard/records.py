"""The records of a leaderboards folder: one file a cell, checked when it is filed and read.

Layout: ``records/<protocol>/<cell>.json``, and ``galleries/<protocol>/<cell>.png`` beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from mibench.errors import MibenchError
from mibench.files import write_atomic
from mibench.leaderboard.checks import (
    HEADLINE,
    faults,
    foreign,
    overrides,
    short_name,
    warnings,
)
from mibench.leaderboard.galleries import make_gallery
from mibench.naming import setting_token
from mibench.types import SCHEMA_VERSION, Record

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
    return foreign(record) or faults(record)


def load(folder: Path) -> dict[str, list[Filed]]:
    """All filed records by protocol, in the order of their file names.

    Raises:
        MibenchError: a record is damaged, filed under another name than its own, or does not go
            with the others; the message names file and reason.
    """
    found: dict[str, list[Filed]] = {}
    problems = []
    records = folder / RECORDS
    for path in sorted(records.glob("*/*.json")):
        relative = path.relative_to(records).as_posix()
        try:
            record = parse(path.read_bytes())
        except MibenchError as error:
            problems.append(f"{relative}: {error}")
            continue
        reasons = faults(record)
        own = f"{record.protocol.name}/{cell_name(record)}.json"
        if not reasons and own != relative:
            reasons.append(f"its cell belongs into the file {own}")
        problems += [f"{relative}: {reason}" for reason in reasons]
        found.setdefault(path.parent.name, []).append(Filed(relative, record))
    if not problems:
        for protocol in found.values():
            problems += _disagreements(protocol)
    if problems:
        raise MibenchError(
            f"{len(problems)} problems with the records in {records}:\n  " + "\n  ".join(problems)
        )
    return found


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
    if reasons := _disagreements([*_siblings(place, record), Filed(place.name, record)]):
        return Outcome(source, "refused", None, tuple(reasons))
    write_atomic(place, (record.model_dump_json() + "\n").encode())
    picture = path.parent / "reconstructions.png"
    make_gallery(record, picture, folder / GALLERIES / record.protocol.name / f"{place.stem}.png")
    return Outcome(source, status, place, (), tuple(warnings(record)))


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


def _disagreements(filed: Sequence[Filed]) -> list[str]:
    """Records of one protocol that were made under different versions or settings."""
    found = []
    first = filed[0]
    cells: dict[str, Filed] = {}
    for each in filed:
        if each.record.protocol.resolved["digest"] != first.record.protocol.resolved["digest"]:
            found.append(
                f"{each.path}: made under another version of the protocol than {first.path}"
            )
        same = cells.setdefault(each.path.rpartition("_seed")[0], each)
        for part in ("target", "defense", "attack"):
            one = dict(_flat(getattr(same.record, part).resolved))
            other = dict(_flat(getattr(each.record, part).resolved))
            # A field that one of them lacks is of another version of the code, with its default.
            for key in sorted(one.keys() & other.keys()):
                if one[key] != other[key]:
                    found.append(
                        f"{each.path}: {part}.{key} is {other[key]!r}, in {same.path} it is "
                        f"{one[key]!r}: seeds of one cell must have the same settings"
                    )
    return found


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
