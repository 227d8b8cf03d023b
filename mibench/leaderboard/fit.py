"""Whether boards can hold what a record says, whoever wrote it."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from mibench.record import Record

_DEEPEST = 20  # levels of tables within tables
_LONGEST = 2_000  # characters of a text: names, settings, reasons
_LARGEST = 10**15  # of numbers
# Control characters, and those that make a text look like another one.
_UNSHOWN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def unfit(record: Record) -> list[str]:
    """Why boards cannot hold a record, at most one reason; empty for one that they can."""
    # Values of each identity and sample have to fit their means, which is checked elsewhere.
    rows = {"__all__": {"hits", "per_identity"}}
    said = record.model_dump(
        exclude={"metrics": rows, "references": {"__all__": rows}, "seed": True}
    )
    todo: list[tuple[str, Any, int]] = [("", said, 0)]
    while todo:
        place, value, depth = todo.pop()
        if depth > _DEEPEST:
            return [f"{place[:60]!r}…: tables within tables, more than {_DEEPEST} deep"]
        if isinstance(value, Mapping):
            todo += [(f"{place}.{key}".lstrip("."), each, depth + 1) for key, each in value.items()]
            todo += [(f"a name in {place or 'the record'}", str(key), depth + 1) for key in value]
        elif isinstance(value, list | tuple):
            todo += [(place, each, depth + 1) for each in value]
        elif isinstance(value, int | float) and not -_LARGEST <= value <= _LARGEST:
            shown = "an integer of many digits" if isinstance(value, int) else repr(value)
            return [f"{place!r}: {shown} is no number that a board can show"]
        elif isinstance(value, str) and (reason := _unshown(value)):
            return [f"{place!r} {reason}"]
    return []


def _unshown(text: str) -> str:
    if len(text) > _LONGEST:
        return f"has {len(text)} characters, more than {_LONGEST}"
    odd = next((each for each in text if unicodedata.category(each) in _UNSHOWN), None)
    return "" if odd is None else f"holds a character that is not shown, U+{ord(odd):04X}"


def number(value: Any) -> float | None:
    """A value as a number; None for what is none: text, a truth value, NaN, infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _LARGEST and math.isfinite(value) else None
