"""Settings by dotted paths put into frozen configurations, each checked where it was written."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from mibench.errors import RequestError
from mibench.registry import closest
from mibench.settings import explain, plain, shown
from mibench.types import Frozen

Model = TypeVar("Model", bound=Frozen)


def with_overrides(
    config: Model, settings: Mapping[str, Any], where: str, said: str = "--set"
) -> Model:
    """A copy of ``config`` with dotted paths set.

    Args:
        where: the part that the paths lie in, as ``"attack"``.
        said: who says so: ``"--set"``, or a place in a file.

    Raises:
        RequestError: a path does not exist (close ones are offered) or a value does not fit.
    """
    values = config.model_dump()
    known = list(_paths(values))
    for path, value in settings.items():
        if path not in known and not _in_a_table(config, path):
            fields = [f"{where}.{each}" for each in known]
            hint = closest(f"{where}.{path}", fields) or "fields: " + ", ".join(fields)
            hint = hint if fields else "it has no settings at all"
            raise RequestError(f"{said} {where}.{plain(path)}: there is no such field; {hint}")
        *parents, last = path.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    # A part keeps its own type, so that a wrong value of it is not held against other types too.
    for name, part in config:
        if isinstance(part, Frozen):
            values[name] = _validated(type(part), values[name], f"{said} {where}.{name}")
    made = _validated(type(config), values, f"{said} {where}")
    found = made.model_dump()
    for path, value in settings.items():
        own = functools.reduce(dict.__getitem__, path.split("."), found)
        _check_kind(value, own, f"{said} {where}.{path}")
    return made


def _in_a_table(config: Frozen, path: str) -> bool:
    """Whether a path leads into a table of another class's fields, as an evaluator's options."""
    value: Any = config
    for name in path.split(".")[:-1]:
        if not isinstance(value, Frozen) or name not in type(value).model_fields:
            return False
        value = getattr(value, name)
        if isinstance(value, Mapping):
            return True
    return False


def _check_kind(given: Any, found: Any, where: str) -> None:
    """Refuse true and false that pydantic has read as 1 and 0, and the other way round."""
    if isinstance(given, Mapping) and isinstance(found, Mapping):
        for key in given.keys() & found.keys():
            _check_kind(given[key], found[key], f"{where}.{key}")
    elif isinstance(given, list | tuple) and isinstance(found, list | tuple):
        for index, pair in enumerate(zip(given, found, strict=False)):
            _check_kind(*pair, f"{where}.{index}")
    elif isinstance(given, bool) != isinstance(found, bool):
        wanted = "true or false" if isinstance(found, bool) else "a number"
        raise RequestError(f"{where}: {shown(given)} is not {wanted}")


def _validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RequestError(explain(error, where)) from error


def _paths(values: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in values.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")
