"""What there is by name, and what listings say of it, without importing a method or anything slow.

What methods and protocols say of themselves is read from their files (:mod:`mibench.reading`). One
that does not say it outright, or that another package brings, is imported for it.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
import importlib.util
import operator
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from mibench.errors import RequestError
from mibench.files import read_file, read_toml
from mibench.names import (
    IMPROVEMENTS,
    REPEATED,
    STANDARD,
    STANDARD_SET,
    UNTRAPPED,
    VIEWS,
    AttackName,
)
from mibench.reading import Call, Class, UnreadableError, known, read_module
from mibench.registry import Registry, closest, no_such
from mibench.settings import shown
from mibench.types import Access, DefenseKind

if TYPE_CHECKING:
    from mibench.leaderboard.board import DefenseFacts
    from mibench.leaderboard.papers import Papers

Entry = dict[str, Any]


class Row(NamedTuple):
    """A registry in listings.

    Attributes:
        package: of its files. home: module that holds it and its base class. base: that class.
        columns: what is shown of a class: an attribute of it, ``card.<field>``, or several of them.
    """

    package: str
    home: str
    base: str
    columns: dict[str, str]


_TITLE, _SOURCE = {"title": "card.title"}, {"source": "card.venue card.year"}
ROWS = {
    "attack": Row(
        "mibench.attacks",
        "mibench.inversion.attack",
        "Attack",
        {"access": "access", "prior": "prior", **_TITLE, **_SOURCE},
    ),
    "defense": Row(
        "mibench.defenses",
        "mibench.training.defense",
        "Defense",
        {
            "kind": "card.kind",
            **_TITLE,
            "strength": "strength",
            "guarantee": "card.privacy_unit",
            "venue": "card.venue",
            "year": "card.year",
        },
    ),
    "prior": Row(
        "mibench.priors",
        "mibench.priors._prior",
        "PriorKind",
        {"needs": "needs", "title": "title"},
    ),
    "judge": Row("mibench.judges", "mibench.judges._judge", "Judge", {"title": "title"}),
    "evaluator": Row(
        "mibench.judges.evaluators",
        "mibench.judges.evaluators._evaluator",
        "Evaluator",
        {"title": "title"},
    ),
    "source": Row(
        "mibench.data.sources",
        "mibench.data.source",
        "Source",
        {**_TITLE, "images": "card.images", "licence": "card.licence"},
    ),
}

_PACKAGE = Path(__file__).parents[1]
_OF_PROTOCOLS = ("name", "title", "version", "resolution", "target", "samples")
_OF_METRICS = ("title", "unit", "direction")  # as the catalogue's `_info` takes them


def listing(kind: str, pattern: str | None = None) -> list[Entry]:
    """All entries of a kind (``"attacks"``, …) whose name matches a glob pattern.

    Returns:
        Dictionaries with ``name`` and, but for targets, ``title`` and what tells them apart.
    """
    entries = _LISTINGS[kind]()
    return [e for e in entries if pattern is None or fnmatch.fnmatchcase(e["name"], pattern)]


def names(kind: str) -> list[str]:
    """All names of a kind, an attack's variants among them."""
    return [entry["name"] for entry in listing(kind)]


def papers() -> Papers:
    """The papers of mibench's own attacks and defenses, as their cards name them.

    Not those of installed packages: what a board shows must not depend on these.
    """
    from mibench.leaderboard.papers import Paper, Papers

    columns = {"title": "card.title", "venue": "card.venue card.year", "url": "card.url"}

    def of(kind: str) -> dict[str, Paper]:
        return {
            name: Paper(f"{card['title']}, {card['venue']}", card["url"])
            for name, card in _own_facts(kind, columns).items()
            if card["url"]
        }

    return Papers(of("attack"), of("defense"))


def defense_facts() -> dict[str, DefenseFacts]:
    """What mibench's own defenses say that boards need.

    Of their adaptive attacks, with the access of these, of their strengths' order, whether they
    change the answers only, and whether `none` is their control.
    """
    from mibench.leaderboard.board import DefenseFacts

    columns = {
        "attack": "card.adaptive_attack",
        "note": "card.adaptive_note",
        "strengths": "strengths",
        "kind": "card.kind",
        "undefended_control": "card.undefended_control",
    }
    accesses = {n: said["access"] for n, said in _own_facts("attack", {"access": "access"}).items()}
    found = {}
    for name, said in _own_facts("defense", columns).items():
        sizes = [abs(value) for value in said["strengths"][1:]]  # without the control
        falls = sizes == sorted(sizes, reverse=True) and len(sizes) > 1
        attack = said["attack"]
        found[name] = DefenseFacts(
            attack,
            said["note"] or "",
            falls,
            access=accesses.get(AttackName.parse(attack).base) if attack else None,
            output=said["kind"] == "output",
            undefended_control=said["undefended_control"] is True,
        )
    return found


def _own_facts(kind: str, columns: dict[str, str]) -> dict[str, Entry]:
    own = registry(kind)
    return {name: _facts(kind, name, columns) for name in own.names() if own.file(name)}


def refuse_unknown(
    protocol: str,
    defenses: Iterable[str],
    attacks: Iterable[str],
    priors: Iterable[str | None] = (),
) -> None:
    """Refuse a protocol or a method that does not exist, before anything is imported for it.

    What is in a file is let pass, if there is one: only running it tells; so is the standard set
    of attacks, whose names a protocol's card holds.

    Raises:
        RequestError: there is none of that name (the message offers close ones), or no such file.
    """
    loaded = sys.modules.get("mibench.protocols")  # which may know more than its files say
    protocols = [*loaded.PROTOCOLS, "folder"] if loaded else names("protocols")
    if protocol.endswith(".toml"):
        read_toml(protocol, "the protocol file")
    elif ".py" in protocol:
        read_file(protocol.rpartition(":")[0] or protocol, "the protocol file")
    elif protocol not in protocols:
        raise RequestError(no_such("protocol", protocol, protocols))
    kinds = {"defense": defenses, "attack": attacks, "prior": filter(None, priors)}
    for kind, methods in kinds.items():
        for name in methods:
            if kind == "attack" and name == STANDARD:
                continue
            base = AttackName.parse(name).base if kind == "attack" else name
            if ".py" not in base:
                registry(kind).check(base)
            elif ".py:" in base:
                read_file(base.rpartition(":")[0], f"the {kind} file")


def refuse_misspelt(name: str) -> None:
    """Refuse a name that is nearly one of ours and no network of timm's, before any import.

    Raises:
        RequestError: as :func:`nothing_called` says it.
    """
    if (
        "timm" in sys.modules or ".py:" in name or name.endswith(".toml")
    ):  # then importing costs nothing, or tells
        return
    if name not in (ours := _ours()) and closest(name, ours) and not _may_be_timms(name):
        raise RequestError(nothing_called(name))


def nothing_called(name: str, networks: Collection[str] = ()) -> str:
    """The message that nothing of any kind is called so, with close names.

    Args:
        networks: timm's networks, which are offered where nothing of ours is close.
    """
    hint = closest(name, _ours()) or closest(name, networks)
    kinds = ", ".join(f"`mibench list {kind}`" for kind in KINDS)
    return f"nothing is called {shown(name)}; {hint + ' ' if hint else ''}All names: {kinds}"


def _ours() -> list[str]:
    return [name for kind in KINDS if kind != "targets" for name in names(kind)]


def _may_be_timms(name: str) -> bool:
    """Whether timm's sources define a function of this name; importing timm takes seconds."""
    found = importlib.util.find_spec("timm")
    folders = (found.submodule_search_locations if found else None) or []
    start = f"def {name.partition('.')[0]}(".encode()
    return any(start in file.read_bytes() for each in folders for file in Path(each).rglob("*.py"))


def registry(kind: str, *, load: bool = False) -> Registry[Any]:
    """A registry; unless it is loaded already, or to be, an empty one with its names and files."""
    row = ROWS[kind]
    if load:
        importlib.import_module(row.home)
    if row.home in sys.modules:
        found: Registry[Any] = getattr(sys.modules[row.home], f"{kind.upper()}S")
        return found
    reserved = {STANDARD: STANDARD_SET} if kind == "attack" else {}
    return Registry(kind, object, row.package, f"mibench.{kind}s", reserved)


def _registered(kind: str) -> list[Entry]:
    columns = ROWS[kind].columns
    return [{"name": name, **_facts(kind, name, columns)} for name in registry(kind).names()]


def _attacks() -> list[Entry]:
    """Attacks of the same access and prior together, each with its variants.

    Of views and of `+untrap`, which go with any of them, the base attack alone has rows. Last comes
    the standard set, which is named like an attack.
    """
    columns = ROWS["attack"].columns | {"varied": "optimises_identity"}
    found = [{"base": n, **_facts("attack", n, columns)} for n in registry("attack").names()]
    order = {access: place for place, access in enumerate(get_args(Access))}
    found.sort(key=lambda each: (order.get(each["access"], len(order)), each["prior"]))
    entries = []
    for facts in found:
        base, told = facts.pop("base"), dict[AttackName, str]()
        told[AttackName(base)] = ""
        varied, white_box = facts.pop("varied"), facts["access"] == "white-box"
        if varied and white_box:
            told |= {AttackName(base, *improved): says for improved, says in IMPROVEMENTS.items()}
            told |= {AttackName(base, views=views): says for views, says in VIEWS.items()}
            told[AttackName(base, untrap=True)] = UNTRAPPED
        elif not (varied or white_box):  # as mibench.inversion.attack.Attack.asks
            told[AttackName(base, repeat=True)] = REPEATED
        for name, says in told.items():
            title = facts["title"] + (f", {says}" if says else "")
            entries.append({"name": name.full, **facts, "title": title})
    several: Entry = {"access": "all", "prior": "each its own", "title": STANDARD_SET}
    return [*entries, {"name": STANDARD, **several, "source": "the protocol's card"}]


def _defenses() -> list[Entry]:
    """Defenses that change the same thing together; last those that change none of the kinds."""
    order = {kind: place for place, kind in enumerate(get_args(DefenseKind))}
    return sorted(_registered("defense"), key=lambda each: order.get(each["kind"], len(order)))


def _facts(kind: str, name: str, columns: dict[str, str]) -> Entry:
    """What a method's class and its card say, by column."""

    def said(say: Callable[[str], Any]) -> Entry:
        facts: Entry = {}
        for column, paths in columns.items():
            each = [v.__name__ if isinstance(v, type) else v for v in map(say, paths.split())]
            facts[column] = each[0] if len(each) == 1 else " ".join(map(str, each))
        return facts

    try:
        return said(functools.partial(_read, _read_class(kind, name, columns), _base(kind)))
    except UnreadableError:
        cls = registry(kind, load=True).get(name)
        return said(lambda path: operator.attrgetter(path)(cls))


def _read(found: Class, base: Class, path: str) -> Any:
    """An attribute of a class, which may be its base's, or a field of a card, which may be None."""
    attribute, dot, field = path.partition(".")
    if not dot:
        inherited = [base.attributes[attribute]] if attribute in base.attributes else []
        return known(found.get(attribute, *inherited))
    card = found.attributes.get(attribute)
    if not isinstance(card, Call):
        raise UnreadableError
    return card.get(field, None)


def _read_class(kind: str, name: str, columns: dict[str, str]) -> Class:
    """The class statement that registers a method, which says what the columns show.

    What it leaves out, the base class says, if it extends nothing else.
    """
    asked = {path.partition(".")[0] for paths in columns.values() for path in paths.split()}
    file, decorator = registry(kind).file(name), Call(f"register_{kind}", (name,))
    for each in read_module(file).values() if file else ():
        if isinstance(each, Class) and decorator in each.decorators:
            bases = [base.partition("[")[0].rpartition(".")[2] for base in each.bases]
            if bases != [ROWS[kind].base] and not asked <= each.attributes.keys():
                break  # what it does not say itself, another class does
            return each
    raise UnreadableError


@functools.cache
def _base(kind: str) -> Class:
    """The base class, for what a method's class leaves as it is."""
    file = _PACKAGE.joinpath(*ROWS[kind].home.split(".")[1:]).with_suffix(".py")
    found = read_module(file).get(ROWS[kind].base)
    if not isinstance(found, Class):
        raise UnreadableError
    return found


def _protocols() -> list[Entry]:
    """As the cards say it; the imported ones where a file does not say it outright."""
    try:
        return _read_protocols()
    except UnreadableError:
        from mibench.data.folder import FolderOptions
        from mibench.protocols import PROTOCOLS, folder_protocol

        cards = [*PROTOCOLS.values(), folder_protocol(FolderOptions())]
        return [{name: getattr(card, name) for name in _OF_PROTOCOLS} for card in cards]


@functools.cache
def _read_protocols() -> list[Entry]:
    folder = _PACKAGE / "protocols"
    card = read_module(folder / "_card.py")["Protocol"]
    families = read_module(folder / "__init__.py")["FAMILIES"]
    calls = [each for name in families for each in read_module(folder / f"{name}.py")["CARDS"]]
    defaults = {}
    for name in ("version", "samples"):
        value = card.attributes[name]
        defaults[name] = value.arguments if isinstance(value, Call) else (value,)
    entries = []
    for each in [*calls, read_module(folder / "folder.py")["folder_protocol"]]:
        if not isinstance(each, Call):
            raise UnreadableError
        entries.append({n: each.get(n, *defaults.get(n, ())) for n in _OF_PROTOCOLS})
    return entries


def _metrics() -> list[Entry]:
    try:
        found = read_module(_PACKAGE / "metrics" / "catalogue.py")["METRICS"]
        facts = {name: known(each.arguments[: len(_OF_METRICS)]) for name, each in found.items()}
    except UnreadableError:
        from mibench.metrics import METRICS

        facts = {name: operator.attrgetter(*_OF_METRICS)(info) for name, info in METRICS.items()}
    return [{"name": n, **dict(zip(_OF_METRICS, each, strict=True))} for n, each in facts.items()]


def _targets() -> list[Entry]:
    import timm

    from mibench.models import vgg_mi  # noqa: F401 (it tells timm of mibench's own)

    return [{"name": name} for name in timm.list_models()]


_LISTINGS: dict[str, Callable[[], list[Entry]]] = {
    **{f"{kind}s": functools.partial(_registered, kind) for kind in ROWS},
    "attacks": _attacks,
    "defenses": _defenses,
    "targets": _targets,
    "protocols": _protocols,
    "metrics": _metrics,
}
KINDS = tuple(_LISTINGS)
