"""What ``mibench info`` says about a method, protocol, metric or target."""

from __future__ import annotations

import contextlib
import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import annotated_types
import timm
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mibench.cell.request import Request
from mibench.cell.resolve import AttackName, attack_settings, defense_settings
from mibench.cli.listing import Entry, nothing_called
from mibench.data.splits import FolderOptions
from mibench.errors import RequestError
from mibench.inversion.attack import ATTACKS
from mibench.metrics import METRICS
from mibench.protocols import PROTOCOLS, Protocol, folder_protocol, protocol_named
from mibench.training.defense import DEFENSES

_FIXED = {"attack.augment", "attack.identity.objective"}  # chosen by the attack's name


def describe(name: str, protocol: str | None = None) -> Entry:
    """Everything about one name, of whatever kind: card, fields, and what is particular to it.

    Args:
        protocol: whose settings stand beside a method's and a target's own; None: the default one.

    Raises:
        RequestError: nothing is called so (the message offers close names of all kinds), or there
            is no such protocol.
    """
    card = _card(protocol or Request.model_fields["protocol"].default)
    if name.endswith(".toml"):
        return _described_protocol(protocol_named(name))
    if ".py:" in name:
        return _described_file(name, card)
    with contextlib.suppress(RequestError):  # not an attack's name: `improved-…+lom`
        if AttackName.parse(name).base in ATTACKS.names():
            return _described_attack(AttackName.parse(name), card)
    if name in DEFENSES.names():
        return _described_defense(name, card)
    if timm.is_model(name):
        return _described_target(name, card)
    if protocol is not None:
        raise RequestError(f"--protocol is for attacks, defenses and targets; {name!r} is none")
    if name in [*PROTOCOLS, "folder"]:
        return _described_protocol(_card(name))
    if name in METRICS:
        return {"kind": "metric", "name": name, **METRICS[name].model_dump(mode="json")}
    raise RequestError(nothing_called(name, timm.list_models()))


def _card(name: str) -> Protocol:
    return folder_protocol(FolderOptions()) if name == "folder" else protocol_named(name)


def _described_file(spec: str, protocol: Protocol) -> Entry:
    with contextlib.suppress(RequestError):
        return _described_attack(AttackName.parse(spec), protocol)
    return _described_defense(spec, protocol)


def _described_attack(name: AttackName, protocol: Protocol) -> Entry:
    cls = ATTACKS.get(name.base)
    if (name.lom or name.ma) and not cls.optimises_identity:
        raise RequestError(f"{name.base} optimises no identity loss, so it has no {name.full}")
    config = cls.Config.model_validate({})
    identity = config.identity.model_copy(
        update={"objective": "logit" if name.lom else "cross-entropy"}
    )
    config = config.model_copy(update={"augment": name.ma, "identity": identity})
    variants = [name.base]
    if cls.optimises_identity:
        variants += [f"{name.base}+lom", f"{name.base}+ma", f"improved-{name.base}"]
    return {
        "kind": "attack",
        "name": name.full,
        "variants": variants,
        "access": cls.access,
        "from_protocol": ["attack.students", "attack.prior.gan"],
        "card": cls.card.model_dump(mode="json"),
        "in_protocol": protocol.name,
        "fields": list(fields(config, "attack.", attack_settings(name, cls, protocol, {}))),
        "protocols": {p.name: p.attacks[name.base] for p in _all() if name.base in p.attacks},
    }


def _described_defense(name: str, protocol: Protocol) -> Entry:
    cls = DEFENSES.get(name)
    config, training = defense_settings(name, cls, protocol, {})
    return {
        "kind": "defense",
        "name": name,
        "strength": cls.strength and f"defense.{cls.strength}",
        "strengths": list(cls.strengths),
        "stochastic": cls.stochastic,
        "training": {f"target.{path}": value for path, value in cls.training.items()},
        "card": cls.card.model_dump(mode="json"),
        "in_protocol": protocol.name,
        "fields": [
            *fields(cls.Config.model_validate({}), "defense.", config),
            *fields(protocol.training, "target.", training),
        ],
        "protocols": {p.name: p.defenses[name] for p in _all() if name in p.defenses},
    }


def _described_protocol(protocol: Protocol) -> Entry:
    held = {"name", "version", "title", "notes", "assets", "attacks", "defenses"}
    prefix = "protocol."
    return {
        "kind": "protocol",
        **protocol.model_dump(mode="json", include=held),
        "digest": protocol.digest,
        "frozen": bool(protocol.assets),
        "fields": [
            entry
            for entry in fields(protocol, prefix, settable=not protocol.assets)
            if entry["path"].removeprefix(prefix).split(".")[0] not in held
        ],
    }


def _described_target(name: str, protocol: Protocol) -> Entry:
    build = timm.model_entrypoint(name)
    own = build.__module__.startswith("mibench.")
    return {
        "kind": "target",
        "name": name,
        "module": build.__module__,
        **({"about": inspect.cleandoc(build.__doc__ or "").partition("\n\n")[0]} if own else {}),
        "defaults_of": protocol.name,
        "fields": list(fields(protocol.training, "target.")),
    }


def _all() -> list[Protocol]:
    return [*PROTOCOLS.values(), folder_protocol(FolderOptions())]


def fields(
    config: BaseModel, prefix: str, resolved: BaseModel | None = None, settable: bool = True
) -> Iterator[Entry]:
    """The fields of a configuration, nested ones by their dotted ``--set`` path.

    Args:
        resolved: the same configuration as a protocol has it.

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
            yield from fields(value, path + ".", inside, settable)
            continue
        yield {
            "path": path,
            "type": _type_name(info.annotation) + _bounds(info),
            "default": values[name],
            **({"in_protocol": others[name]} if resolved else {}),
            "meaning": info.description or "",
            "settable": settable and path not in _FIXED,
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
    signs = {
        annotated_types.Ge: ("ge", "≥"),
        annotated_types.Gt: ("gt", ">"),
        annotated_types.Le: ("le", "≤"),
        annotated_types.Lt: ("lt", "<"),
        annotated_types.MinLen: ("min_length", "length ≥"),
        annotated_types.MaxLen: ("max_length", "length ≤"),
    }
    found = [
        f"{sign} {getattr(each, attribute)}"
        for each in info.metadata
        for kind, (attribute, sign) in signs.items()
        if isinstance(each, kind)
    ]
    return f" ({', '.join(found)})" if found else ""
