"""What ``mibench info`` says of a method, prior, source, target, protocol or metric."""

from __future__ import annotations

import contextlib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal, get_args

import timm
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mibench.assets import load_json
from mibench.cell.request import Request
from mibench.cell.resolve import (
    attack_settings,
    check_method,
    check_variant,
    config_named,
    defense_settings,
    fixed_by,
    prior_kind_of,
    prior_settings,
)
from mibench.cli.known import Entry, nothing_called, registry
from mibench.data.folder import FolderOptions
from mibench.data.source import SOURCES
from mibench.errors import RequestError
from mibench.inversion.attack import ATTACKS
from mibench.judges import JUDGES
from mibench.judges.evaluators import EVALUATORS
from mibench.metrics import METRICS
from mibench.names import STANDARD, STANDARD_SET, AttackName
from mibench.priors import PRIORS
from mibench.protocols import PROTOCOLS, Protocol, card_named, folder_protocol, is_file
from mibench.registry import closest, named_in_file
from mibench.settings import shown
from mibench.training.defense import DEFENSES
from mibench.types import Access

_SET = "set of attacks"  # kind of the name `standard`


def describe(name: str, protocol: str | None = None, kind: str | None = None) -> Entry:
    """Everything about one name, of whatever kind: card, fields, and what is particular to it.

    Args:
        protocol: whose settings stand beside a method's and a target's own; None: the default one.
        kind: what the name is of, where it is known: ``folder`` is a protocol and a source.

    Raises:
        RequestError: nothing is called so (the message offers close names of all kinds), or there
            is no such protocol.
    """
    card = card_named(protocol or Request.model_fields["protocol"].default)
    kind = kind or (_kind_in_file(name) if is_file(name) else _kind(name))
    if protocol is not None and kind not in ("attack", "defense", "prior", "target", _SET):
        raise RequestError(
            f"--protocol is for attacks, defenses, priors and targets; {shown(name)} is none"
        )
    return {"kind": kind, "name": name, **_DESCRIBED[kind](name, card)}


def _kind_in_file(name: str) -> str:
    if name.endswith(".toml"):
        return "protocol"
    module, attribute = named_in_file(AttackName.parse(name).base, "the file")
    there = {each: kind for each, value in vars(module).items() if (kind := _kind_of(value))}
    if attribute not in there:
        hint = closest(attribute, there) or f"there are {', '.join(there) or 'none'}"
        raise RequestError(
            f"{module.__file__} has no method, source, judge or protocol {attribute!r}; {hint}"
        )
    return there[attribute]


def _kind_of(value: object) -> str | None:
    """What kind of thing a file's object is, if any that ``info`` knows; no base class is one."""
    for each in (ATTACKS, DEFENSES, PRIORS, EVALUATORS, JUDGES, SOURCES):
        if isinstance(value, type) and issubclass(value, each.base) and value is not each.base:
            return each.kind
    return "protocol" if isinstance(value, Protocol) else None


def _kind(name: str) -> str:
    if name == STANDARD:
        return _SET
    with contextlib.suppress(RequestError):  # not an attack's name: `improved-…+lom`
        if AttackName.parse(name).base in ATTACKS.names():
            return "attack"
    there: dict[str, Collection[str]] = {
        "defense": DEFENSES.names(),
        "target": [name] if timm.is_model(name) else [],
        "protocol": [*PROTOCOLS, "folder"],  # whose images are of the source of that name
        "metric": METRICS,
        **{kind: registry(kind).names() for kind in ("prior", "evaluator", "judge", "source")},
    }
    for kind, names in there.items():
        if name in names:
            return kind
    raise RequestError(nothing_called(name, timm.list_models()))


def _attack(asked: str, protocol: Protocol) -> Entry:
    name = AttackName.parse(asked)
    cls = ATTACKS.get(name.base)
    check_method(name.base, cls)
    check_variant(name, cls)
    kind = prior_kind_of(cls.prior, name.base, cls)
    prior = PRIORS.name_of(kind)
    config, fixed = config_named(name, cls.Config.model_validate({})), fixed_by(name)
    return {
        "name": name.full,
        "variants": cls.variants(name.base),
        "access": cls.access,
        "prior": prior,
        "from_protocol": ["attack.students", "prior.gan"],
        "card": cls.card.model_dump(mode="json"),
        "in_protocol": protocol.name,
        "fields": [
            *fields(config, "attack.", attack_settings(name, cls, protocol, {}), fixed=fixed),
            *fields(kind.Config(), "prior.", prior_settings(prior, kind, protocol, {})),
        ],
        "protocols": _in_protocols(attacks=name.base, priors=prior),
    }


def _standard(name: str, protocol: Protocol) -> Entry:
    board = protocol.board
    return {
        "about": f"It is {STANDARD_SET}.",
        "of_protocol": f"{protocol.name}, list {board.list_version}",
        **{access: list(board.attacks(access)) for access in get_args(Access)},
    }


def _defense(name: str, protocol: Protocol) -> Entry:
    cls = DEFENSES.get(name)
    check_method(name, cls)
    config, training = defense_settings(name, cls, protocol, {})
    return {
        "strength": cls.knob(),
        "strengths": list(cls.strengths),
        "stochastic": cls.stochastic,
        "training": {f"target.{path}": value for path, value in cls.training.items()},
        "card": cls.card.model_dump(mode="json"),
        "in_protocol": protocol.name,
        "fields": [
            *fields(cls.Config.model_validate({}), "defense.", config),
            *fields(protocol.training, "target.", training),
        ],
        "protocols": _in_protocols(defenses=name),
    }


def _prior(name: str, protocol: Protocol) -> Entry:
    cls = PRIORS.get(name)
    check_method(name, cls)
    return {
        "title": cls.title,
        "about": _about(cls),
        "needs": cls.needs,
        "in_protocol": protocol.name,
        "fields": list(fields(cls.Config(), "prior.", prior_settings(name, cls, protocol, {}))),
        "protocols": _in_protocols(priors=name),
    }


def _evaluator(name: str, protocol: Protocol) -> Entry:
    cls = EVALUATORS.get(name)
    return {"title": cls.title, "about": _about(cls), "fields": list(_options(cls.Options))}


def _judge(name: str, protocol: Protocol) -> Entry:
    cls = JUDGES.get(name)
    return {"title": cls.title, "about": _about(cls)}


def _options(model: type[BaseModel]) -> Iterator[Entry]:
    """Fields that a card states as ``options``; one may have no default."""
    for name, info in model.model_fields.items():
        yield {
            "path": f"protocol.evaluator.options.{name}",
            "type": _type_name(info.annotation) + _bounds(info),
            "default": None if info.is_required() else info.default,
            "meaning": info.description or "",
            "settable": True,
        }


def _source(name: str, protocol: Protocol) -> Entry:
    cls = registry("source", load=True).get(name)
    return {"about": _about(cls), "card": cls.card.model_dump(mode="json")}


def _protocol(name: str, default: Protocol) -> Entry:
    protocol = card_named(name)
    held = {"name", "version", "title", "notes", "assets", "attacks", "priors", "defenses"}
    prefix = "protocol."
    return {
        **protocol.model_dump(mode="json", include=held),
        "digest": protocol.digest,
        "frozen": bool(protocol.assets),
        "judges": [each.model_dump(mode="json") for each in protocol.judges],
        **({"acceptance": load_json(protocol.acceptance)} if protocol.acceptance else {}),
        "fields": [
            entry
            for entry in fields(protocol, prefix, settable=not protocol.assets)
            if entry["path"].removeprefix(prefix).split(".")[0] not in held
        ],
    }


def _target(name: str, protocol: Protocol) -> Entry:
    build = timm.model_entrypoint(name)
    own = build.__module__.startswith("mibench.")
    return {
        "module": build.__module__,
        **({"about": _about(build)} if own else {}),
        "defaults_of": protocol.name,
        "fields": list(fields(protocol.training, "target.")),
    }


def _metric(name: str, protocol: Protocol) -> Entry:
    return METRICS[name].model_dump(mode="json")


_DESCRIBED: dict[str, Callable[[str, Protocol], Entry]] = {
    "attack": _attack,
    _SET: _standard,
    "defense": _defense,
    "prior": _prior,
    "evaluator": _evaluator,
    "judge": _judge,
    "source": _source,
    "target": _target,
    "protocol": _protocol,
    "metric": _metric,
}


def _about(thing: Any) -> str:
    return inspect.cleandoc(thing.__doc__ or "").partition("\n\n")[0]


def _in_protocols(**methods: str) -> Entry:
    """What each protocol that has settings for methods sets: ``attacks="gmi"``."""
    found = {}
    for card in (*PROTOCOLS.values(), folder_protocol(FolderOptions())):
        held = [getattr(card, kind).get(name, {}) for kind, name in methods.items()]
        if any(held):
            found[card.name] = {path: value for each in held for path, value in each.items()}
    return found


def fields(
    config: BaseModel,
    prefix: str,
    resolved: BaseModel | None = None,
    settable: bool = True,
    fixed: Collection[str] = (),
) -> Iterator[Entry]:
    """The fields of a configuration, nested ones by their dotted ``--set`` path.

    Args:
        resolved: the same configuration as a protocol has it.
        fixed: paths that cannot be set.

    Yields:
        ``path``, ``type`` (with its bounds), ``default`` (a JSON value), ``in_protocol`` (likewise,
        of ``resolved``), ``meaning`` and ``settable``.
    """
    values = config.model_dump(mode="json")
    others = resolved.model_dump(mode="json") if resolved else {}
    for name, info in type(config).model_fields.items():
        value, path = getattr(config, name), prefix + name
        if isinstance(value, BaseModel):
            inside = getattr(resolved, name) if resolved else None
            yield from fields(value, path + ".", inside, settable, fixed)
            continue
        yield {
            "path": path,
            "type": _type_name(info.annotation) + _bounds(info),
            "default": values[name],
            **({"in_protocol": others[name]} if resolved else {}),
            "meaning": info.description or "",
            "settable": settable and path not in fixed,
        }


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_type_name, arguments))
    if arguments:
        inside = ", ".join("…" if each is Ellipsis else _type_name(each) for each in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inside}]"
    return getattr(annotation, "__name__", str(annotation))


def _bounds(info: FieldInfo) -> str:
    signs = dict(ge="≥", gt=">", le="≤", lt="<", min_length="length ≥", max_length="length ≤")
    found = [
        f"{sign} {getattr(each, name)}"
        for each in info.metadata
        for name, sign in signs.items()
        if hasattr(each, name)
    ]
    return f" ({', '.join(found)})" if found else ""
