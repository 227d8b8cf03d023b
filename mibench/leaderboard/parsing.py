"""From the bytes of a file that anyone may have written to a record, or a reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mibench.errors import MibenchError
from mibench.files import read_plain
from mibench.leaderboard.fit import CONTROL, oddity
from mibench.record import RULES_VERSION, Record

MOST_BYTES = 8 * 2**20  # the largest filed record has 65 kB
_MOST_DEPTH, _LARGEST = 32, 2**63
_LONGEST = 4096  # characters of a text; the longest command line that was filed has 200
_VERSIONS = (1, 2, 3)


def read_record(path: Path) -> Record:
    """The record in a file that a stranger may have made: no link is followed, no device read.

    Raises:
        RequestError: it is no regular file, too large, or cannot be read.
        MibenchError: it is no record, as :func:`parse` says.
    """
    return parse(read_plain(path, "the record", MOST_BYTES))


def parse(text: str | bytes) -> Record:
    """Read a record strictly: what two programs could read in two ways is refused.

    Numbers are finite and written as numbers, no key is there twice, texts are short and hold no
    control characters, and nothing is nested deeper than 32 levels.

    Raises:
        MibenchError: it is no JSON, of an unknown schema version, or does not fit the schema.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        data = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
    except ValueError as error:
        raise MibenchError(f"it is no JSON, or was cut off: {error}") from error
    except RecursionError as error:
        raise MibenchError("it is nested too deeply for a record") from error
    # First: what is said below quotes names, which a terminal would act on.
    if odd := oddity(data, deepest=_MOST_DEPTH, longest=_LONGEST, unshown=CONTROL):
        raise MibenchError(odd)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is not int or version not in _VERSIONS:
        raise MibenchError(
            f"schema_version is {version!r}; this mibench reads 1 to 3: make the record anew, or "
            "take the version of mibench that knows it"
        )
    rules = data.get("rules", 1 if version == 1 else None)
    if type(rules) is not int or not 1 <= rules <= (1 if version == 1 else RULES_VERSION):
        raise MibenchError(
            f"rules is {rules!r} in a record of schema {version}; this mibench knows the rules 1 "
            f"of schema 1, and 1 to {RULES_VERSION} of later ones"
        )
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        shown = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]]
        raise MibenchError(f"it does not fit the schema: {'; '.join(shown)[:1000]}") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _bounded(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= _LARGEST:
        raise ValueError(f"the number {text[:40]} is too large")
    return int(text)
