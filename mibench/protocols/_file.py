"""Protocol cards of someone else: a TOML file, which is data alone, or a name in a Python file."""

from __future__ import annotations

import re
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mibench.assets import load_asset
from mibench.errors import ArtifactError, RequestError
from mibench.files import read_toml
from mibench.protocols._card import Protocol
from mibench.registry import closest, named_in_file
from mibench.settings import check_value, explain, moved, named_code, plain, shown
from mibench.types import Frozen, canonical_json

_WHAT = "the protocol file"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# Where a method's settings on a card may lie; a name with another one is never looked up.
_PLACES = {
    "attacks": ("attack.",),
    "defenses": ("defense.", "target."),
    "priors": ("prior.",),
}
_TEXTS = ("title", "notes")
_PINNED = ("evaluator", "second", "attributes", "prior")


def is_file(name: str) -> bool:
    """Whether a protocol is asked for by its file, not by a name of mibench's."""
    return name.endswith((".toml", ".py")) or ".py:" in name


def card_of_file(spec: str, taken: Collection[str]) -> Protocol:
    """The card of ``path/to/mine.toml`` or ``path/to/mine.py:CARD``.

    Args:
        taken: names of mibench's own protocols, which numbers of others must not go under.

    Raises:
        RequestError: the file cannot be read, or its card has an unknown field, a wrong value, or
            something that no cell could use; the message names the file and the field.
    """
    card = _read_toml(spec) if spec.endswith(".toml") else _import(spec)
    for fault in faults(card):
        raise RequestError(f"{_WHAT} {spec}: {fault}")
    if card.name in taken:
        raise RequestError(
            f"{_WHAT} {spec}: name: {card.name!r} is a protocol of mibench's own, whose numbers "
            "these would be taken for; choose another name"
        )
    return card


def faults(card: Protocol) -> Iterator[str]:
    """What is wrong with a card as a whole, beside the types and bounds of its fields."""
    if not _NAME.fullmatch(card.name) or len(card.name) > 64:
        yield (
            f"name: {shown(card.name)} names folders and boards: use at most 64 lower-case letters "
            "and digits, with single dashes between words"
        )
    for methods, places in _PLACES.items():
        for name, settings in getattr(card, methods, {}).items():
            if not _NAME.fullmatch(name) or name.startswith("improved-"):
                yield (
                    f"{methods}.{plain(name)}: settings are those of a registered name, without "
                    "improvements: kedmi, not improved-kedmi or kedmi+lom"
                )
            for path in settings:
                if now := moved(path) or (path if path.startswith("prior.") else None):
                    if methods != "priors" or now != path:
                        yield (
                            f"{methods}.{name}: {plain(path)}: it is a setting of the prior: write "
                            f"{plain(now)}, under [priors.KIND]"
                        )
                elif not path.startswith(places):
                    yield (
                        f"{methods}.{name}: {plain(path)}: paths of settings begin with "
                        f"{' or '.join(places)}"
                    )
    for role, asset in card.assets.items():
        if role not in _PINNED:
            hint = closest(role, _PINNED) or f"there are {', '.join(_PINNED)}"
            yield f"assets.{plain(role)}: nothing of this name can be pinned; {hint}"
        elif Path(asset.file).name != asset.file:
            yield f"assets.{role}: {shown(asset.file)} is no file of mibench's assets"
        else:
            yield from _pinned(card, role)


def _pinned(card: Protocol, role: str) -> Iterator[str]:
    try:
        _, description = load_asset(card.assets[role])
    except ArtifactError as error:
        yield f"assets.{role}: {error}"
        return
    if role in ("evaluator", "second"):
        evaluator = getattr(card, role)
        if type(evaluator).model_validate(description["judge"]) != evaluator:
            yield f"assets.{role}: the pinned network is another than {role} describes"


def _import(spec: str) -> Protocol:
    module, name = named_in_file(spec, _WHAT, "CARD")
    card = getattr(module, name, None)
    if not isinstance(card, Protocol):
        found = [each for each, value in vars(module).items() if isinstance(value, Protocol)]
        hint = closest(name, found) or f"its cards: {', '.join(found) or 'none'}"
        raise RequestError(f"{module.__file__} has no protocol card {name!r}; {hint}")
    return card


def _read_toml(path: str) -> Protocol:
    content, where = read_toml(path, _WHAT), f"{_WHAT} {path}"
    for name, value in content.items():
        check_value(value, f"{where}: {plain(name)}")  # dates, NaN and the like
        for field in named_code(value, plain(name)) if name not in _TEXTS else ():
            raise RequestError(
                f"{where}: {field}: a TOML card is data and names nobody's code: name the file "
                f"with --set protocol.{field}=…, or write the card in Python"
            )
    # Its kind first, or each problem would be held against every kind of data.
    if isinstance(content.get("data"), Mapping):
        _validated(_kind_of_data(content["data"]), content["data"], where, "data")
    return _validated(Protocol, content, where)


def _kind_of_data(table: Mapping[str, Any]) -> type[Frozen]:
    """The kind of data that most fields of a table are of."""
    kinds: tuple[type[Frozen], ...] = typing.get_args(Protocol.model_fields["data"].annotation)

    def fits(kind: type[Frozen]) -> tuple[int, int]:
        absent = [n for n, f in kind.model_fields.items() if f.is_required() and n not in table]
        return len(table.keys() & kind.model_fields), -len(absent)

    return max(kinds, key=fits)


_Model = typing.TypeVar("_Model", bound=Frozen)


def _validated(
    model: type[_Model], content: Mapping[str, Any], where: str, part: str = ""
) -> _Model:
    """A model of a file's values, strictly: "5" and true are no numbers."""
    try:
        return model.model_validate_json(canonical_json(content), strict=True)
    except ValidationError as error:
        for each in error.errors():
            if each["type"] == "extra_forbidden":
                *parents, name = map(str, each["loc"])
                fields = _fields(model, parents)
                hint = closest(name, fields) or f"fields: {', '.join(fields)}"
                path = plain(".".join(filter(None, [part, *parents, name])))
                raise RequestError(f"{where}: {path}: there is no such field; {hint}") from error
        raise RequestError(f"{where}: {explain(error, part)}") from error


def _fields(model: type[Frozen], parents: list[str]) -> list[str]:
    """Names of the fields of a model's part."""
    for name in parents:
        field = model.model_fields.get(name)
        if field is None or not isinstance(field.annotation, type):
            break  # a table of tables, as initialisation and assets are
        model = field.annotation
    return list(model.model_fields)
