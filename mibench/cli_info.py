"""What ``mibench list`` and ``mibench info`` say about methods, protocols, metrics and targets."""

from __future__ import annotations

import contextlib
import fnmatch
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal

import annotated_types
import timm
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mibench.data.splits import FolderOptions
from mibench.errors import RequestError
from mibench.methods import ATTACKS, DEFENSES
from mibench.metrics import METRICS
from mibench.protocols import PROTOCOLS, Protocol, folder_protocol
from mibench.registry import closest
from mibench.resolve import AttackName, attack_names
from mibench.types import RunSpec

Entry = dict[str, Any]
_FIXED = {"attack.augment", "attack.identity.objective"}  # chosen by the attack's name
_VARIANTS = {
    (False, False): "",
    (True, False): "with the improved objective",
    (False, True): "with model augmentation",
    (True, True): "with the improved objective and model augmentation",
}


def listing(kind: str, pattern: str | None) -> list[Entry]:
    """All entries of a kind (``"attacks"``, …) whose name matches a glob pattern.

    Returns:
        Dictionaries with ``name`` and, but for targets, ``title`` and what tells them apart.
    """
    entries = _LISTINGS[kind]()
    return [e for e in entries if pattern is None or fnmatch.fnmatchcase(e["name"], pattern)]


def _attacks() -> list[Entry]:
    entries = []
    for full in attack_names():
        name = AttackName.parse(full)
        cls = ATTACKS.get(name.base)
        variant = _VARIANTS[name.lom, name.ma]
        entries.append(
            {
                "name": full,
                "title": cls.card.title + (f", {variant}" if variant else ""),
                "access": cls.access,
                "prior": cls.card.prior_recipe,
                "source": f"{cls.card.venue} {cls.card.year}",
            }
        )
    return entries


def _defenses() -> list[Entry]:
    entries = []
    for name in DEFENSES.names():
        cls = DEFENSES.get(name)
        entries.append(
            {
                "name": name,
                "title": cls.card.title,
                "strength": cls.strength,
                "guarantee": cls.card.privacy_unit,
                "source": f"{cls.card.venue} {cls.card.year}",
            }
        )
    return entries


def _targets() -> list[Entry]:
    return [{"name": name} for name in timm.list_models()]


def _protocols() -> list[Entry]:
    return [
        {
            "name": each.name,
            "title": each.title,
            "version": each.version,
            "resolution": each.resolution,
            "target": each.target,
            "samples": each.samples,
        }
        for each in [*PROTOCOLS.values(), folder_protocol(FolderOptions())]
    ]


def _metrics() -> list[Entry]:
    return [
        {"name": name, "title": info.title, "unit": info.unit, "direction": info.direction}
        for name, info in METRICS.items()
    ]


_LISTINGS: dict[str, Callable[[], list[Entry]]] = {
    "attacks": _attacks,
    "defenses": _defenses,
    "targets": _targets,
    "protocols": _protocols,
    "metrics": _metrics,
}
KINDS = tuple(_LISTINGS)


def describe(name: str) -> Entry:
    """Everything about one name, of whatever kind: card, fields, and what is particular to it.

    Raises:
        RequestError: nothing is called so; the message offers close names of all kinds.
    """
    if ".py:" in name:
        return _described_file(name)
    with contextlib.suppress(RequestError):  # not an attack's name: `improved-…+lom`
        if AttackName.parse(name).base in ATTACKS.names():
            return _described_attack(AttackName.parse(name))
    if name in DEFENSES.names():
        return _described_defense(name)
    if name in [*PROTOCOLS, "folder"]:
        return _described_protocol(name)
    if name in METRICS:
        return {"kind": "metric", "name": name, **METRICS[name].model_dump(mode="json")}
    if timm.is_model(name):
        return _described_target(name)
    known = [*attack_names(), *DEFENSES.names(), *PROTOCOLS, "folder", *METRICS]
    hint = closest(name, known) or closest(name, timm.list_models())
    kinds = ", ".join(f"`mibench list {kind}`" for kind in KINDS)
    raise RequestError(
        f"nothing is called {name!r}; {hint + ' ' if hint else ''}All names: {kinds}"
    )


def _described_file(spec: str) -> Entry:
    with contextlib.suppress(RequestError):
        return _described_attack(AttackName.parse(spec))
    return _described_defense(spec)


def _described_attack(name: AttackName) -> Entry:
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
        "fields": list(fields(config, "attack.")),
        "protocols": {p.name: p.attacks[name.base] for p in _all() if name.base in p.attacks},
    }


def _described_defense(name: str) -> Entry:
    cls = DEFENSES.get(name)
    return {
        "kind": "defense",
        "name": name,
        "strength": cls.strength and f"defense.{cls.strength}",
        "strengths": list(cls.strengths),
        "stochastic": cls.stochastic,
        "training": {f"target.{path}": value for path, value in cls.training.items()},
        "card": cls.card.model_dump(mode="json"),
        "fields": list(fields(cls.Config.model_validate({}), "defense.")),
        "protocols": {p.name: p.defenses[name] for p in _all() if name in p.defenses},
    }


def _described_protocol(name: str) -> Entry:
    protocol = PROTOCOLS.get(name) or folder_protocol(FolderOptions())
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


def _described_target(name: str) -> Entry:
    protocol = PROTOCOLS[RunSpec.model_fields["protocol"].default]
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


def fields(config: BaseModel, prefix: str, settable: bool = True) -> Iterator[Entry]:
    """The fields of a configuration, nested ones by their dotted ``--set`` path.

    Yields:
        ``path``, ``type`` (with its bounds), ``default`` (a JSON value), ``meaning`` and
        ``settable``.
    """
    values = config.model_dump(mode="json")
    for name, info in type(config).model_fields.items():
        value, path = getattr(config, name), prefix + name
        if isinstance(value, BaseModel):
            yield from fields(value, path + ".", settable)
            continue
        yield {
            "path": path,
            "type": _type_name(info.annotation) + _bounds(info),
            "default": values[name],
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
