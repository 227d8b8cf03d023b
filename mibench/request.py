"""Requests: what a user, a script or a grid file asks for becomes a RunSpec, or is refused.

Nothing here looks at a method or a protocol, and nothing slow is imported: what is wrong whatever
the method is found before any of them is loaded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from mibench.errors import RequestError
from mibench.types import RunSpec

# A setting that is larger than this is a slip of the pen, and would take long to refuse elsewhere.
_DEEPEST, _LONGEST, _MOST_CHARACTERS = 16, 10_000, 10_000
_LISTS = ("tuple_type", "list_type")  # pydantic's names of the errors
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:(0|[1-9][0-9]{0,3}))?")


def make_request(**fields: Any) -> RunSpec:
    """The request with these fields of :class:`~mibench.types.RunSpec`.

    Raises:
        RequestError: a field is unknown, of a wrong type or out of its range, or an override is no
            JSON value; the message names it.
    """
    try:
        spec = RunSpec(**fields)
    except ValidationError as error:
        raise RequestError(explain(error)) from error
    for path, value in spec.overrides.items():
        check_value(value, f"--set {plain(path)}")
    return spec


def explain(error: ValidationError, where: str = "") -> str:
    """What pydantic found wrong, with the path and the value of each problem.

    Args:
        where: what the paths start with: ``"attack"``.
    """
    return "; ".join(
        f"{'.'.join(filter(None, [where, *map(str, each['loc'])]))}: {each['msg']} "
        f"(got {shown(each['input'])})"
        + (", which is written as JSON: '[1, 2]'" if each["type"] in _LISTS else "")
        for each in error.errors()
    )


def shown(value: object) -> str:
    """A value as messages quote it: its ``repr``, shortened where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python prints no integer of more than 4,300 digits
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:100]}…{text[-1]} ({len(text):,} characters)"


def plain(path: str) -> str:
    """A field's path as messages name it: as it is, unless it is long or holds odd characters."""
    return path if len(path) <= 200 and path.isprintable() else shown(path)


def check_value(value: object, where: str, depth: int = 0) -> None:
    """Refuse what cannot be the value of a setting: it is to be JSON, of a size that is meant.

    Args:
        where: what the message calls it: ``"--set attack.iterations"``.

    Raises:
        RequestError: a type that JSON lacks, NaN, an infinity, an integer of more than 63 bits, or
            a text, list or nesting that is too long.
    """
    problem = None
    if isinstance(value, Mapping | list | tuple):
        if depth == _DEEPEST:
            problem = f"nested more than {_DEEPEST} deep"
        elif len(value) > _LONGEST:
            problem = f"{len(value):,} entries, more than {_LONGEST:,}"
        elif isinstance(value, Mapping):
            for key, each in value.items():
                if not isinstance(key, str):
                    raise RequestError(f"{where}: the key {shown(key)} is no text")
                check_value(key, where)
                check_value(each, f"{where}.{plain(key)}", depth + 1)
        else:
            for index, each in enumerate(value):
                check_value(each, f"{where}.{index}", depth + 1)
    elif isinstance(value, str):
        if len(value) > _MOST_CHARACTERS:
            problem = f"a text of {len(value):,} characters, more than {_MOST_CHARACTERS:,}"
        elif not _is_unicode(value):
            problem = f"{shown(value)} is no valid Unicode"
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            problem = f"an integer of {value.bit_length():,} bits, more than 63"
    elif isinstance(value, float):
        if not math.isfinite(value):
            problem = f"{value} is no finite number"
    elif value is not None:
        problem = (
            f"{shown(value)}, a {type(value).__name__}, is no value of a setting: these are "
            "numbers, text, true, false, null, lists and tables"
        )
    if problem:
        raise RequestError(f"{where}: {problem}")


def _is_unicode(text: str) -> bool:
    """Whether it has no halves of surrogate pairs, which no file and no JSON can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_setting(text: str) -> tuple[str, Any]:
    """Split ``path=value``; the value is JSON where it parses as JSON, else text.

    Raises:
        RequestError: there is no ``=`` or no path before it, or the value is none of a setting.
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path:
        raise RequestError(
            f"--set {shown(text)}: write a path and a value, as attack.iterations=600"
        )
    where = f"--set {plain(path)}"
    found: Any = value
    try:  # Infinity and NaN are no JSON, and no setting
        found = json.loads(value, parse_constant=str)
    except json.JSONDecodeError:
        pass  # it is text
    except RecursionError as error:
        raise RequestError(f"{where}: nested more than {_DEEPEST} deep") from error
    except ValueError as error:
        raise RequestError(f"{where}: a number of {len(value):,} digits is too long") from error
    check_value(found, where)
    return path, found


def write_setting(path: str, value: Any) -> str:
    """The text ``path=value`` that :func:`parse_setting` reads as these two."""
    if isinstance(value, str):
        try:
            json.loads(value, parse_constant=str)
        except json.JSONDecodeError:
            return f"{path}={value}"
        except (ValueError, RecursionError):
            pass
    return f"{path}={json.dumps(value)}"  # also of text that reads like a number or a list


def check_device(name: str) -> str:
    """Refuse a device's name that stands for none that mibench computes on.

    Whether this machine has it is another question (:func:`mibench.pipeline.select_device`).

    Returns:
        ``name``.

    Raises:
        RequestError: it is not ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    if not isinstance(name, str) or not _DEVICE.fullmatch(name):
        raise RequestError(
            f"--device {shown(name)}: mibench computes on auto, cpu, cuda, cuda:N (a GPU by its "
            "number, as cuda:0) or mps"
        )
    return name
