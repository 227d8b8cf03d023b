"""Settings: dotted paths and their values as they are written, shares of a budget, and messages.

Nothing here looks at a method or a protocol, and nothing slow is imported: what is wrong whatever
the method is found before any of them is loaded.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from mibench.errors import RequestError
from mibench.types import Frozen

# A setting that is larger than this is a slip of the pen, and would take long to refuse elsewhere.
_DEEPEST, _LONGEST, _MOST_CHARACTERS = 16, 10_000, 10_000
Model = TypeVar("Model", bound=Frozen)

NEEDED_BYTES = 2**30  # what a cell may write at most; with less space it is refused
LEAST_IDENTITIES = 8  # attacked by the smallest share: intervals over identities need a few
_CODE = re.compile(r"\.py(:|\s*$)", re.IGNORECASE)
_LISTS = ("tuple_type", "list_type")  # pydantic's names of the errors


def explain(error: ValidationError, where: str = "") -> str:
    """What pydantic found wrong, with the path and the value of each problem.

    Args:
        where: what the paths start with: ``"attack"``.
    """
    found = []
    for each in error.errors():
        path = ".".join(filter(None, [where, *map(str, each["loc"])]))
        text = f"{path}: {each['msg'].removeprefix('Value error, ')}"
        if each["type"] not in ("missing", "value_error"):
            text += f" (got {shown(each['input'])})"
        found.append(text + (", which is written as [1, 2]" if each["type"] in _LISTS else ""))
    return "; ".join(found)


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


def named_code(value: object, where: str) -> Iterator[str]:
    """Where in a setting a text names a Python file, which whoever looks it up would run.

    Args:
        where: path of the setting; the paths of what lies in it begin with this.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from named_code(each, f"{where}.{plain(str(key))}")
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from named_code(each, f"{where}.{index}")
    elif isinstance(value, str) and _CODE.search(value):
        yield where


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


def parse_settings(texts: Iterable[str]) -> dict[str, Any]:
    """All of ``--set``, by path.

    Raises:
        RequestError: as :func:`parse_setting`; or a path is given twice.
    """
    found: dict[str, Any] = {}
    for path, value in map(parse_setting, texts):
        if path in found:
            raise RequestError(
                f"--set {plain(path)} is given twice, {shown(found[path])} and {shown(value)}: "
                "leave one of them out"
            )
        found[path] = value
    return found


def write_setting(path: str, value: Any) -> str:
    """The text ``path=value`` that :func:`parse_setting` reads as these two."""
    if isinstance(value, str):
        try:
            json.loads(value, parse_constant=str)
        except json.JSONDecodeError:
            return f"{path}={value}"
        except (ValueError, RecursionError):
            pass
    # Also of text that reads like a number or a list.
    return f"{path}={json.dumps(value, allow_nan=False)}"


def moved(path: str) -> str | None:
    """The path of a prior's setting whose path was the attack's once; None for any other."""
    attack, part, *fields = (*path.split("."), "")
    if attack == "attack" and part in ("prior", "prior_training"):
        return ".".join(["prior", *fields]).rstrip(".")
    return None


def share_of(count: int, share: float, least: int = 1) -> int:
    """How many of ``count`` things a share of them is: ``least`` at least, or all there are."""
    return count if share == 1 else min(count, max(least, round(count * share)))


def scaled(config: Model, share: float) -> Model:
    """A copy whose budgeted fields, nested ones too, are ``share`` of what they were.

    A field is budgeted when it was declared with ``json_schema_extra=BUDGETED``, to which
    ``"least"`` may be added. Whole numbers stay whole and at least that, or 1, unless the field
    also takes fractions, as epochs do; None stays None.

    Args:
        config: any of the frozen models.
        share: over 0; 1 changes nothing.
    """
    if share == 1:
        return config
    changed: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value, extra = getattr(config, name), field.json_schema_extra
        if isinstance(value, Frozen):
            changed[name] = scaled(value, share)
        elif isinstance(extra, dict) and extra.get("budgeted") and value is not None:
            if field.annotation is float or float in get_args(field.annotation):
                # Above 0, as a field of epochs is: one step is taken.
                changed[name] = max(value * share, sys.float_info.min)
            else:
                changed[name] = share_of(value, share, int(str(extra.get("least", 1))))
    return config.model_copy(update=changed)


def counted(config: Frozen) -> dict[str, Any]:
    """A configuration's settings that its results depend on, as JSON values.

    Left out are fields that were declared with ``json_schema_extra=MEMORY``.
    """
    held, settings = {}, config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value, extra = getattr(config, name), field.json_schema_extra
        if not (isinstance(extra, dict) and extra.get("memory")):
            held[name] = counted(value) if isinstance(value, Frozen) else settings[name]
    return held


def later_defaults(config: Frozen, prefix: str = "", *, later: bool = False) -> dict[str, Any]:
    """Defaults of the fields that a later release added (``json_schema_extra=LATER``), by path.

    Args:
        config: any of the frozen models.
        later: whether the model as a whole is such a field's.
    """
    found: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        extra, value = field.json_schema_extra, getattr(config, name)
        added = later or bool(isinstance(extra, dict) and extra.get("later"))
        if isinstance(value, Frozen):
            found |= later_defaults(value, f"{prefix}{name}.", later=added)
        elif added:
            found[prefix + name] = field.default
    return found


def plain_settings(value: Any) -> Any:
    """Settings as they count: 0 and 0.0 are one, in tables and lists too."""
    if isinstance(value, dict):
        return {key: plain_settings(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_settings(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested settings by their dotted paths; an empty table is a leaf."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def command_line(
    *,
    protocol: str,
    attack: str,
    defense: str,
    seed: int,
    prior: str | None = None,
    target: str | None = None,
    root: str | None = None,
    preset: str | None = None,
    data: str | None = None,
    budget: float = 1,
    overrides: Mapping[str, Any],
) -> str:
    """The command line that asks for a cell; what is None or the whole budget goes unsaid."""
    parts = ["mibench", "run", "--protocol", protocol, "--attack", attack]
    parts += ["--defense", defense, "--seed", str(seed)]
    said = {"prior": prior, "target": target, "root": root, "preset": preset, "data": data}
    for name, value in said.items():
        if value:
            parts += [f"--{name}", value]
    if budget != 1:
        parts += ["--budget", repr(budget)]
    for path, value in overrides.items():
        parts += ["--set", write_setting(path, value)]
    return shlex.join(parts)


def audit_command(
    said: Mapping[str, Any],
    *,
    attack: str,
    seed: int,
    preset: str | None = None,
    budget: float = 1,
    overrides: Mapping[str, Any],
) -> str:
    """The command line that asks for one attack of an audit.

    Args:
        said: what is audited: ``model`` and ``prior`` as tables, ``images``, ``public`` and others
            as options call them; what is None goes unsaid.
    """
    model, prior = said["model"], said.get("prior") or {}
    parts = ["mibench", "audit", "--model", model["model"]]
    options = {
        "weights": model.get("weights"),
        "images": said["images"],
        **{name: said.get(name) for name in ("public", "decoys", "classes")},
        "size": model.get("size"),
        **{name: model.get(name) for name in ("mean", "std")},
        "channels": model.get("channels") if model.get("channels") != "rgb" else None,
        "answers": model.get("answers") if model.get("answers") != "logits" else None,
        "prior": prior.get("model"),
        "prior-weights": prior.get("weights"),
        "prior-latent": prior.get("latent"),
        "attack": attack,
        "seed": seed,
        "preset": preset,
        "budget": None if budget == 1 else budget,
    }
    for name, value in options.items():
        if value is not None:
            values = value if isinstance(value, list | tuple) else [value]
            parts += [
                f"--{name}",
                *(each if isinstance(each, str) else repr(each) for each in values),
            ]
    if model.get("stochastic"):
        parts.append("--stochastic")
    if (trained_on := said.get("trained_on")) is not None:
        parts.append("--trained-on" if trained_on else "--held-out")
    for path, value in overrides.items():
        parts += ["--set", write_setting(path, value)]
    return shlex.join(parts)
