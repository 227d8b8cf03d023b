"""Names in records: what they may be, and the files that they give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mibench import names
from mibench.names import AttackName
from mibench.record import GIVEN, Part, PriorPart, Record
from mibench.settings import audit_command, command_line, named_code

RECORDS, GALLERIES = "records", "galleries"

PARTS = ("protocol", "target", "defense", "attack")

_WORDS = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_CLASS = r"[A-Za-z_][A-Za-z0-9_]*"
_ARCHITECTURE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
_PATTERNS = {
    "protocol": re.compile(_WORDS),
    "target": _ARCHITECTURE,
    "defense": re.compile(f"{_WORDS}|{_CLASS}"),
    "prior": re.compile(f"{_WORDS}|{_CLASS}"),
    "attack": re.compile(
        f"(?:improved-(?:{_WORDS}|{_CLASS})|(?:{_WORDS}|{_CLASS})(?:\\+lom|\\+ma)?)"
        "(?:\\+taa|\\+paa)?(?:\\+untrap)?"
        f"|(?!improved-)(?:{_WORDS}|{_CLASS})\\+repeat"
    ),
}
_SHARD = re.compile(r"reconstructions(\.[0-9]{5})?\.safetensors")
_LONGEST, _LONGEST_CELL = 64, 200
_PATH = re.compile(r"(protocol|target|defense|attack|prior)(\.[A-Za-z0-9_-]{1,64}){1,6}")


def overrides(record: Record) -> dict[str, Any]:
    """Everything that was passed through ``--set``."""
    return {path: value for part in _parts(record).values() for path, value in part.passed.items()}


def _parts(record: Record) -> dict[str, Part | PriorPart]:
    return {name: getattr(record, name) for name in (*PARTS, "prior")}


def name_faults(record: Record) -> Iterator[str]:
    """Why a record's names cannot name a cell and its file.

    A method has a registered name, or that of its class; an architecture is timm's own, without a
    source that timm would load it from. A path is none of these.
    """
    for key, part in _parts(record).items():
        name = part.kind if isinstance(part, PriorPart) else part.name
        if len(name) > _LONGEST or not _PATTERNS[key].fullmatch(name):
            yield f"{key}.name {name[:_LONGEST]!r} is no name of one"
        paths = [path for path in part.passed if (key, path) != ("protocol", "budget")]
        wrong = [path for path in paths if not _PATH.fullmatch(path)]
        wrong += [path for path in paths if path.partition(".")[0] != key]
        if wrong:
            yield f"{key}.passed: {wrong[0][:_LONGEST]!r} is no path of a setting of it"
        for path, value in part.passed.items():
            for place in named_code(value, path):
                yield f"{place[:_LONGEST]} names a file of code, which no record may"
        if isinstance(part, Part) and key != "protocol" and part.version is not None:
            yield f"{key}.version: only a protocol has one"
        if isinstance(part, Part) and key == "protocol" and part.source is not None:
            yield (
                f"the protocol {part.name!r} is someone's own card or has someone's own evaluator, "
                "and boards take mibench's alone"
            )
        if key == "target" and part.source is not None:
            yield f"{key}.source: only a method has one"
    if len(name := cell_name(record)) > _LONGEST_CELL:
        yield f"its cell has a name of {len(name)} characters: {name[:_LONGEST]!r}…"


def architectures(record: Record) -> Iterator[str]:
    """Why the networks that a record's settings name are none of timm's."""
    resolved, passed = record.attack.resolved, record.attack.passed
    for part in ("students", "surrogates"):
        path = f"attack.{part}"
        tables = [resolved.get(part), passed.get(path)]
        named = [table.get("architectures") for table in tables if isinstance(table, dict)]
        named.append(passed.get(f"{path}.architectures"))
        for each in named:
            for name in each if isinstance(each, list | tuple) else [each]:
                known = isinstance(name, str) and _ARCHITECTURE.fullmatch(name)
                if name is not None and not known:
                    yield f"{path}.architectures: {str(name)[:_LONGEST]!r} is no architecture"


def method_label(part: Part) -> str:
    """A method as files and tables call it."""
    return names.method_label(part.name, part.source)


def reconstructions(record: Record) -> dict[str, str]:
    """SHA-256 of the files of a record's reconstructions by name, in the order of identities."""
    return {n: record.artifacts[n] for n in sorted(record.artifacts) if _SHARD.fullmatch(n)}


def cell_name(record: Record) -> str:
    """A cell's file, without suffix: the name that :func:`mibench.names.cell_name` gives it."""
    return names.cell_name(
        attack=method_label(record.attack),
        defense=method_label(record.defense),
        target=record.target.name,
        seed=record.seed,
        passed=overrides(record),
    )


def command_of_record(record: Record) -> str:
    """The command line that makes a record again, from its parts; its own word is not taken.

    A method of somebody's file stands as ``FILE.py:NAME``: where that file is, a record can't know.
    """
    passed = overrides(record)
    kind = passed.pop("prior.kind", None)
    if record.given is not None:
        return _audit_of_record(record, passed)
    usual = record.protocol.resolved.get("target")
    return command_line(
        protocol=record.protocol.name,
        target=None if record.target.name == usual else record.target.name,
        defense=_method(AttackName(record.defense.name), record.defense.source),
        attack=_method(AttackName.parse(record.attack.name, strict=False), record.attack.source),
        prior=None if kind is None else _method(AttackName(record.prior.kind), record.prior.source),
        seed=record.seed,
        preset=passed.pop("preset", None),
        budget=passed.pop("budget", 1),
        overrides=passed,
    )


def _audit_of_record(record: Record, passed: dict[str, Any]) -> str:
    """The command of an audit; names in capitals stand for files, which a record does not know."""
    model, data = record.target.resolved, record.protocol.resolved["data"]
    exported = str(record.given).endswith((".pt", ".pt2"))
    files = model.get("files")
    weights = isinstance(files, dict) and not exported and len(files) > (":" in str(record.given))
    said = {
        "model": {**model, "model": "MODEL", "weights": "WEIGHTS" if weights else None},
        "images": "PRIVATE",
        "public": "PUBLIC",
        "decoys": "DECOYS" if data.get("decoys") == "given" else None,
        "trained_on": data.get("trained_on"),
        "prior": {"model": "PRIOR"} if record.prior.kind == GIVEN else None,
    }
    return audit_command(
        said,
        attack=_method(AttackName.parse(record.attack.name, strict=False), record.attack.source),
        seed=record.seed,
        preset=passed.pop("preset", None),
        budget=passed.pop("budget", 1),
        overrides=passed,
    )


def _method(name: AttackName, source: str | None) -> str:
    """A method as ``--attack`` and ``--defense`` take it, without a path that a record names."""
    if source is None and ":" not in name.base:
        return name.full
    return replace(name, base=f"FILE.py:{name.base.rpartition(':')[2]}").full
