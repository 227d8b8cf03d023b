"""Names in records: what they may be, and the files that they give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mibench.record import Part, Record
from mibench.settings import command_line, named_code, setting_token

RECORDS, GALLERIES = "records", "galleries"

PARTS = ("protocol", "target", "defense", "attack")

_WORDS = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_CLASS = r"[A-Za-z_][A-Za-z0-9_]*"
_ARCHITECTURE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
_PATTERNS = {
    "protocol": re.compile(_WORDS),
    "target": _ARCHITECTURE,
    "defense": re.compile(f"{_WORDS}|{_CLASS}"),
    "attack": re.compile(f"improved-(?:{_WORDS}|{_CLASS})|(?:{_WORDS}|{_CLASS})(?:\\+lom|\\+ma)?"),
}
_LONGEST, _LONGEST_CELL = 64, 200
_PATH = re.compile(r"(protocol|target|defense|attack)(\.[A-Za-z0-9_-]{1,64}){1,6}")


def overrides(record: Record) -> dict[str, Any]:
    """Everything that was passed through ``--set``."""
    parts = (record.protocol, record.target, record.defense, record.attack)
    return {path: value for part in parts for path, value in part.passed.items()}


def base_attack(name: str) -> str:
    """An attack's name without its improvements: ``"gmi"`` of ``"improved-gmi"``, ``"gmi+ma"``."""
    return name.removeprefix("improved-").partition("+")[0]


def name_faults(record: Record) -> Iterator[str]:
    """Why a record's names cannot name a cell and its file.

    A method has a registered name, or that of its class; an architecture is timm's own, without a
    source that timm would load it from. A path is none of these.
    """
    for key in PARTS:
        part: Part = getattr(record, key)
        if len(part.name) > _LONGEST or not _PATTERNS[key].fullmatch(part.name):
            yield f"{key}.name {part.name[:_LONGEST]!r} is no name of one"
        paths = [path for path in part.passed if (key, path) != ("protocol", "budget")]
        wrong = [path for path in paths if not _PATH.fullmatch(path)]
        wrong += [path for path in paths if path.partition(".")[0] != key]
        if wrong:
            yield f"{key}.passed: {wrong[0][:_LONGEST]!r} is no path of a setting of it"
        for path, value in part.passed.items():
            for place in named_code(value, path):
                yield f"{place[:_LONGEST]} names a file of code, which no record may"
        if key != "protocol" and part.version is not None:
            yield f"{key}.version: only a protocol has one"
        if key == "protocol" and part.source is not None:
            yield (
                f"the protocol {part.name!r} is someone's own card or has someone's own judge, and "
                "boards take mibench's alone"
            )
        if key == "target" and part.source is not None:
            yield f"{key}.source: only a method has one"
    if len(name := cell_name(record)) > _LONGEST_CELL:
        yield f"its cell has a name of {len(name)} characters: {name[:_LONGEST]!r}…"


def architectures(record: Record) -> Iterator[str]:
    """Why the networks that a record's settings name are none of timm's."""
    tables = [record.attack.resolved.get("students"), record.attack.passed.get("attack.students")]
    named = [table.get("architectures") for table in tables if isinstance(table, dict)]
    named.append(record.attack.passed.get("attack.students.architectures"))
    for each in named:
        for name in each if isinstance(each, list | tuple) else [each]:
            if name is not None and not (isinstance(name, str) and _ARCHITECTURE.fullmatch(name)):
                yield f"attack.students.architectures: {str(name)[:_LONGEST]!r} is no architecture"


def method_label(part: Part) -> str:
    """A method as files and tables call it; one of an outside file with its source's digest.

    Two authors' files may hold a class of one name.
    """
    return part.name if part.source is None else f"{part.name}@{part.source[:8]}"


def cell_name(record: Record) -> str:
    """``<attack>_<defense>[-<settings>]_<architecture>_seed<N>``: a cell's file, without suffix."""
    passed = overrides(record)
    token = f"-{setting_token(passed)}" if passed else ""
    attack, defense = method_label(record.attack), method_label(record.defense)
    return f"{attack}_{defense}{token}_{record.target.name}_seed{record.seed}"


def command_of_record(record: Record) -> str:
    """The command line that makes a record again, from its parts; its own word is not taken.

    A method of somebody's file stands as ``FILE.py:NAME``: where that file is, a record can't know.
    """
    cell = (record.protocol, record.target, record.defense, record.attack)
    overrides = {path: value for part in cell for path, value in part.passed.items()}
    usual = record.protocol.resolved.get("target")
    return command_line(
        protocol=record.protocol.name,
        target=None if record.target.name == usual else record.target.name,
        defense=_method(record.defense),
        attack=_method(record.attack),
        seed=record.seed,
        preset=overrides.pop("preset", None),
        budget=overrides.pop("budget", 1),
        overrides=overrides,
    )


def _method(part: Part) -> str:
    """A method as ``--attack`` and ``--defense`` take it, without a path that a record names."""
    if part.source is None and ":" not in part.name:
        return part.name
    prefix = "improved-" if part.name.startswith("improved-") else ""
    return f"{prefix}FILE.py:{part.name.removeprefix(prefix).rpartition(':')[2]}"
