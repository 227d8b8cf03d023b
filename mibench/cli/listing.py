"""Names, and what listings say of each, without importing a method or anything slow.

What attacks, defenses and protocols are called and say of themselves is read from their files
(:mod:`mibench.reading`). One that does not say it outright, or that another package brings, is
imported for it.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from mibench.cell.request import Request
from mibench.errors import RequestError
from mibench.reading import Call, Class, UnreadableError, known, read_module
from mibench.registry import Registry, closest, no_such
from mibench.settings import shown

Entry = dict[str, Any]

_PROTOCOLS = Path(__file__).parents[1] / "protocols"
_METRICS = Path(__file__).parents[1] / "metrics" / "catalogue.py"
VARIANTS = {
    "{}": "",
    "{}+lom": "with the improved objective",
    "{}+ma": "with model augmentation",
    "improved-{}": "with the improved objective and model augmentation",
}


def listing(kind: str, pattern: str | None) -> list[Entry]:
    """All entries of a kind (``"attacks"``, …) whose name matches a glob pattern.

    Returns:
        Dictionaries with ``name`` and, but for targets, ``title`` and what tells them apart.
    """
    entries = _LISTINGS[kind]()
    return [e for e in entries if pattern is None or fnmatch.fnmatchcase(e["name"], pattern)]


def refuse_unknown(spec: Request) -> None:
    """Refuse a protocol or method that does not exist, before the others are imported.

    Raises:
        RequestError: there is none of that name; the message offers close ones.
    """
    check_protocol(spec.protocol)
    check_method("defense", spec.defense)
    check_method("attack", spec.attack)


def check_method(kind: str, name: str) -> None:
    """Refuse a method that does not exist; an attack's name may be that of a variant.

    Methods of a file are let pass: only running it tells.

    Raises:
        RequestError: there is none of that name; the message offers close ones.
    """
    if kind == "attack":  # mibench.resolve.AttackName takes it apart, and is strict
        name = name.removeprefix("improved-").partition("+")[0]
    if ".py" not in name:
        _names(kind).check(name)


def check_protocol(name: str) -> None:
    """Refuse a protocol that does not exist; one of a file is let pass.

    Raises:
        RequestError: there is none of that name; the message offers close ones.
    """
    if ".py" in name or name.endswith(".toml"):  # only reading it tells
        return
    if name not in (names := protocol_names()):
        raise RequestError(no_such("protocol", name, names))


def refuse_misspelt(name: str) -> None:
    """Refuse a name that is nearly one of ours and no network of timm's, before any import.

    Raises:
        RequestError: as :func:`nothing_called` says it.
    """
    loaded = "mibench.inversion.attack" in sys.modules  # then importing costs nothing
    if (
        loaded
        or ".py:" in name
        or name.endswith(".toml")
        or name in (ours := known_names())
        or not closest(name, ours)
    ):
        return
    if not _may_be_timms(name):
        raise RequestError(nothing_called(name))


def nothing_called(name: str, networks: Collection[str] = ()) -> str:
    """The message that nothing of any kind is called so, with close names.

    Args:
        networks: timm's networks, which are offered where nothing of ours is close.
    """
    hint = closest(name, known_names()) or closest(name, networks)
    kinds = ", ".join(f"`mibench list {kind}`" for kind in KINDS)
    return f"nothing is called {shown(name)}; {hint + ' ' if hint else ''}All names: {kinds}"


def known_names() -> list[str]:
    """All attacks with their variants, defenses, protocols and metrics."""
    methods = [entry["name"] for kind in ("attacks", "defenses") for entry in _LISTINGS[kind]()]
    return [*methods, *protocol_names(), *read_module(_METRICS)["METRICS"]]


def _may_be_timms(name: str) -> bool:
    """Whether timm's sources define a function of this name; importing timm takes seconds."""
    found = importlib.util.find_spec("timm")
    folders = (found.submodule_search_locations if found else None) or []
    start = f"def {name.partition('.')[0]}(".encode()
    return any(start in file.read_bytes() for each in folders for file in Path(each).rglob("*.py"))


def protocol_names() -> list[str]:
    """Every protocol, that of image folders last."""
    if "mibench.protocols" in sys.modules:  # which may know more than its files say
        return [*sys.modules["mibench.protocols"].PROTOCOLS, "folder"]
    return [entry["name"] for entry in _protocols()]


def _protocols() -> list[Entry]:
    """As the cards say it; the imported ones where a file does not say it outright."""
    try:
        return _read_protocols()
    except UnreadableError:
        from mibench.data.splits import FolderOptions
        from mibench.protocols import PROTOCOLS, folder_protocol

        cards = [*PROTOCOLS.values(), folder_protocol(FolderOptions())]
        return [{name: getattr(card, name) for name in _OF_PROTOCOLS} for card in cards]


_OF_PROTOCOLS = ("name", "title", "version", "resolution", "target", "samples")


@functools.cache
def _read_protocols() -> list[Entry]:
    package = read_module(_PROTOCOLS / "__init__.py")
    card = read_module(_PROTOCOLS / "_card.py")["Protocol"]
    families = [read_module(_PROTOCOLS / f"{name}.py") for name in package["FAMILIES"]]
    calls = [each for family in families for each in family["CARDS"]]
    defaults = {}
    for name in ("version", "samples"):
        value = card.attributes[name]
        defaults[name] = value.arguments[0] if isinstance(value, Call) else value
    entries = []
    folder = read_module(_PROTOCOLS / "folder.py")["folder_protocol"]
    for each in [*calls, folder]:
        if not isinstance(each, Call):
            raise UnreadableError
        fields = {name: (defaults[name],) if name in defaults else () for name in _OF_PROTOCOLS}
        entries.append({name: each.get(name, *default) for name, default in fields.items()})
    return entries


def _attacks() -> list[Entry]:
    entries = []
    for base in _names("attack").names():
        facts = _facts(
            "attack",
            base,
            {"title": (), "venue": (), "year": (), "prior_recipe": ()},
            {"access": ("white-box",), "optimises_identity": (True,)},
        )
        for full, variant in VARIANTS.items():
            if variant and not facts["optimises_identity"]:
                continue
            entries.append(
                {
                    "name": full.format(base),
                    "title": facts["title"] + (f", {variant}" if variant else ""),
                    "access": facts["access"],
                    "prior": facts["prior_recipe"],
                    "source": f"{facts['venue']} {facts['year']}",
                }
            )
    return entries


def _defenses() -> list[Entry]:
    entries = []
    for name in _names("defense").names():
        facts = _facts(
            "defense",
            name,
            {"title": (), "venue": (), "year": (), "privacy_unit": (None,)},
            {"strength": (None,)},
        )
        entries.append(
            {
                "name": name,
                "title": facts["title"],
                "strength": facts["strength"],
                "guarantee": facts["privacy_unit"],
                "source": f"{facts['venue']} {facts['year']}",
            }
        )
    return entries


Defaults = dict[str, tuple[Any, ...]]  # () where there is none


def _facts(kind: str, name: str, of_card: Defaults, of_class: Defaults) -> Entry:
    """What a method's card and its class say, by field and attribute."""
    try:
        found = _read_class(kind, name)
        card = found.attributes.get("card")
        if not isinstance(card, Call):
            raise UnreadableError
        facts = {field: card.get(field, *default) for field, default in of_card.items()}
        return facts | {each: found.get(each, *default) for each, default in of_class.items()}
    except UnreadableError:
        importlib.import_module(_HOMES[kind])
        registry = _names(kind)
        cls = registry.get(name)
        facts = {field: getattr(cls.card, field) for field in of_card}
        return facts | {each: getattr(cls, each) for each in of_class}


def _read_class(kind: str, name: str) -> Class:
    """The class statement that registers a method and extends nothing but the base class."""
    file = _names(kind).file(name)
    if file is not None:
        for each in read_module(file).values():
            if isinstance(each, Class) and each.bases == (kind.capitalize(),):
                for decorator in each.decorators:
                    if decorator == Call(f"register_{kind}", (name,)):
                        return each
    raise UnreadableError


def _targets() -> list[Entry]:
    import timm

    from mibench.models import vgg_mi  # noqa: F401 (it tells timm of mibench's own)

    return [{"name": name} for name in timm.list_models()]


_OF_METRICS = ("title", "unit", "direction")  # as the catalogue's `_info` takes them


def _metrics() -> list[Entry]:
    try:
        found = read_module(_METRICS)["METRICS"]
        facts = {name: known(each.arguments[: len(_OF_METRICS)]) for name, each in found.items()}
    except UnreadableError:
        from mibench.metrics import METRICS

        facts = {n: [getattr(info, each) for each in _OF_METRICS] for n, info in METRICS.items()}
    return [
        {"name": name, **dict(zip(_OF_METRICS, each, strict=True))} for name, each in facts.items()
    ]


_LISTINGS: dict[str, Callable[[], list[Entry]]] = {
    "attacks": _attacks,
    "defenses": _defenses,
    "targets": _targets,
    "protocols": _protocols,
    "metrics": _metrics,
}
KINDS = tuple(_LISTINGS)
# Where the registries are, once they are loaded.
_HOMES = {"attack": "mibench.inversion.attack", "defense": "mibench.training.defense"}


def _names(kind: str) -> Registry[Any]:
    """A registry for its names and files: the one that holds classes, if it is loaded already."""
    home = _HOMES[kind]
    if home in sys.modules:
        registry: Registry[Any] = getattr(sys.modules[home], f"{kind.upper()}S")
        return registry
    package = f"mibench.{kind}s"
    return Registry(kind, object, package, package)
