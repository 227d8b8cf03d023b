"""Whether boards can hold what a record says, whoever wrote it."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection
from typing import Any

from mibench.record import Record

_LARGEST = 10**15  # of numbers that a board shows
# Control characters, and those that make a text look like another one.
CONTROL = {"Cc", "Cf", "Cs"}
_UNSHOWN = CONTROL | {"Co", "Cn", "Zl", "Zp"}


def unfit(record: Record) -> list[str]:
    """Why boards cannot hold a record, at most one reason; empty for one that they can."""
    # Values of each identity and sample have to fit their means, which is checked elsewhere.
    rows = {"__all__": {"hits", "per_identity"}}
    said = record.model_dump(
        exclude={"metrics": rows, "references": {"__all__": rows}, "seed": True}
    )
    reason = oddity(said, deepest=20, longest=2_000, unshown=_UNSHOWN, largest=_LARGEST)
    return [reason] if reason else []


def oddity(
    data: Any,
    *,
    deepest: int,
    longest: int,
    unshown: Collection[str],
    largest: float = math.inf,
) -> str:
    """What of some JSON is too deep, too long, too large or not to be shown; empty for nothing.

    Args:
        deepest: levels of tables within tables.
        longest: characters of a text, keys included.
        unshown: Unicode's categories of characters that a terminal or an editor would act on.
        largest: of numbers.
    """
    pending: list[tuple[str, Any, int]] = [("", data, 0)]
    while pending:
        place, value, depth = pending.pop()
        if depth > deepest:
            return f"{_where(place)} is nested deeper than {deepest} levels"
        if isinstance(value, dict):
            for key, each in value.items():
                pending.append((f"{place}.{key}".lstrip("."), each, depth + 1))
                pending.append((f"a name in {place or 'the record'}", str(key), depth + 1))
        elif isinstance(value, list | tuple):
            pending += [(place, each, depth + 1) for each in value]
        elif isinstance(value, int | float) and not -largest <= value <= largest:
            shown = "an integer of many digits" if isinstance(value, int) else repr(value)
            return f"{_where(place)}: {shown} is no number that a board can show"
        elif isinstance(value, str):
            if len(value) > longest:
                return f"{_where(place)}: a text has {len(value)} characters, more than {longest}"
            if not value.isprintable():  # printable texts, most of all, need no second look
                for each in value:
                    if unicodedata.category(each) in unshown:
                        return (
                            f"{_where(place)} holds a character that is not shown, "
                            f"U+{ord(each):04X}"
                        )
    return ""


def _where(place: str) -> str:
    """A place within some JSON, for a message; repr, as it holds names that were not looked at."""
    return repr(place[:60]) if place else "it"


def number(value: Any) -> float | None:
    """A value as a number; None for what is none: text, a truth value, NaN, infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _LARGEST and math.isfinite(value) else None
