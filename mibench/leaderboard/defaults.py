"""A record's settings beside those that its request has here: the card's and the methods'.

This module stands above methods and protocols: what it needs of them is imported by the functions.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mibench.errors import RequestError
from mibench.leaderboard.names import base_attack, overrides
from mibench.record import Part, Record
from mibench.types import canonical_json

if TYPE_CHECKING:
    from mibench.cell.resolve import Cell

# Stand in for methods that are not registered here, whose own settings nothing here knows.
_SOME_DEFENSE, _SOME_ATTACK = "none", "gmi"


def other_settings(record: Record) -> list[str]:
    """What of a record is not as its own request resolves here; empty for nothing.

    The request is the record's protocol, target, methods and passed settings. Every field that the
    record states is compared; one that it lacks is of a later version. Of a method that is not
    registered here only what does not depend on it is. A record of today's rules states every
    field. No file is imported, no network is built.
    """
    from mibench.cell.resolve import PRIOR_FIELDS
    from mibench.cell.results import of_people

    try:
        cell, known, found = _cell(record)
    except (RequestError, ValidationError) as error:
        return [f"nothing can be asked for like this: {str(error)[:500]}"]
    found += _architecture(record.target.name)
    if found:
        return found
    found += _protocol(record, cell)
    defaults = {
        **cell.protocol.attacks.get(base_attack(record.attack.name), {}),
        **cell.protocol.defenses.get(record.defense.name, {}),
    }
    here = {
        "target": cell.training.model_dump(mode="json"),
        "defense": cell.defense_config.model_dump(mode="json"),
        "attack": cell.attack_config.model_dump(mode="json", exclude=PRIOR_FIELDS),
        "prior": cell.prior.resolved,
    }
    for key in (*known, *["prior"] * ("attack" in known)):
        theirs, ours = dict(flat(getattr(record, key).resolved)), dict(flat(here[key]))
        if record.rules > 1 and (lacking := sorted(ours.keys() - theirs.keys())):
            found.append(f"{key}.{lacking[0]} is not stated")
        for field, value in theirs.items():
            path = f"{key}.{field}"
            if field not in ours:
                found.append(f"{path} is no setting of it")
            elif not _equal(value, ours[field]):
                whose = "the protocol says" if path in defaults else "here it is"
                found.append(
                    f"made with other settings than the protocol's: {path} is {value!r}, {whose} "
                    f"{ours[field]!r}"
                )
    if "attack" in known:
        stated = {"access": cell.attack_class.access}
        stated |= {f"prior.{key}": getattr(cell.prior, key) for key in ("kind", "recipe", "pinned")}
        for key, value in stated.items():
            claim = operator.attrgetter(key)(record)
            if claim != value:
                found.append(f"{key} is {claim!r}, that of the attack is {value!r}")
    knob = record.strength.path if record.strength else None
    if "defense" in known and knob != cell.knob:
        found.append(f"strength.path is {knob!r}, the defense's main knob is {cell.knob!r}")
    if record.people != of_people(cell.protocol.data):
        found.append(f"people is {record.people}, the protocol's pictures are otherwise")
    return found or _guarantee(record, cell, "defense" in known)


def _cell(record: Record) -> tuple[Cell, list[str], list[str]]:
    """A record's request, resolved; the parts that nothing unknown has a say in; what is wrong."""
    from mibench.cell.request import Request
    from mibench.cell.resolve import resolve
    from mibench.inversion.attack import ATTACKS
    from mibench.training.defense import DEFENSES

    known = ["target", "defense", "attack"]
    defense, attack, base = record.defense.name, record.attack.name, base_attack(record.attack.name)
    reasons: list[str] = []
    if defense not in DEFENSES.names():  # which may prescribe how its target is trained
        known = ["attack"]
        reasons += _outside("defense", defense, record.defense)
        defense = _SOME_DEFENSE
    else:
        reasons += _registered("defense", defense, DEFENSES.get(defense), record.defense)
    if base not in ATTACKS.names():
        known.remove("attack")
        reasons += _outside("attack", base, record.attack)
        attack = _SOME_ATTACK
    else:
        reasons += _registered("attack", base, ATTACKS.get(base), record.attack)
    settings = {
        path: value
        for path, value in overrides(record).items()
        if path.partition(".")[0] in ("protocol", *known)
    }
    request = Request(
        protocol=record.protocol.name,
        target=record.target.name,
        defense=defense,
        attack=attack,
        overrides=settings,
    )
    return resolve(request, machine=False), known, reasons


def _architecture(name: str) -> Iterator[str]:
    """An architecture is one that timm knows, with a tag only if it names published weights."""
    import timm

    import mibench.models.classifiers  # noqa: F401  (registers ours)

    known = timm.is_model(name)
    if known and "." in name:
        try:
            timm.models.get_pretrained_cfg(name)
        except RuntimeError:
            known = False
    if not known:
        yield f"target {name!r} is no architecture of timm's"


def _outside(kind: str, name: str, part: Part) -> Iterator[str]:
    """Two authors' files may hold classes of one name: the source says which one it is."""
    if part.source is None:
        yield (
            f"the {kind} {name!r} is not registered here, and the record does not say what source "
            "it has: make it again with this version of mibench"
        )


def is_own(method: type) -> bool:
    """Whether a method is one of mibench's own files, and not of another package or file."""
    return method.__module__.startswith("mibench.")


def _registered(kind: str, name: str, method: type, part: Part) -> Iterator[str]:
    own = is_own(method)
    if own and part.source is not None:
        yield f"the {kind} {name!r} is mibench's own, the record's has another source"
    if not own and part.source is None:
        yield f"the {kind} {name!r} is of another package, and the record has no source of it"


def _protocol(record: Record, cell: Cell) -> Iterator[str]:
    """What a protocol's digest leaves out, but for notes: methods' settings, and what is pinned."""
    for key, card in (("attacks", cell.protocol.attacks), ("defenses", cell.protocol.defenses)):
        stated = record.protocol.resolved.get(key, {})
        if not isinstance(stated, dict) or not all(isinstance(v, dict) for v in stated.values()):
            yield f"protocol.{key} holds no settings"
            continue
        for method, settings in stated.items():
            for path, value in settings.items():
                ours = card.get(method, {}).get(path)
                if path not in overrides(record) and not _equal(value, ours):
                    yield f"protocol.{key}.{method}: {path} is {value!r}, the card says {ours!r}"
    for role, asset in cell.protocol.assets.items():
        if record.artifacts.get(f"asset {role}") != asset.sha256:
            yield f"it was made with another {role} than the protocol pins"
    if cell.protocol.split and record.artifacts.get("split") != cell.protocol.split:
        yield "its pictures are divided otherwise than the protocol pins it"


def guarantee_faults(record: Record, images: int | None = None) -> list[str]:
    """Whether a guarantee is the one that the defense's own accountant comes to.

    Args:
        record: the record, whose settings were found to be those of its request.
        images: private training images; None: as many as the card states, if it does.
    """
    cell, known, _ = _cell(record)
    return _guarantee(record, cell, "defense" in known, images)


def _guarantee(
    record: Record, cell: Cell, registered: bool, images: int | None = None
) -> list[str]:
    keys = ("epsilon", "delta", "noise_multiplier")
    claimed = {
        key: float(value) for key in keys if isinstance(value := record.utility.get(key), float)
    }
    unit = record.utility.get("privacy_unit")
    if not registered:
        if claimed or unit:
            return ["only a defense that is registered here can have its guarantee checked"]
        return []
    own = cell.defense_class.card.privacy_unit
    if unit != (own if claimed else None):
        return [f"privacy_unit is {unit!r}, the defense's is {own!r}"]
    data = record.protocol.resolved["data"]
    if images is None and data.get("identities") and data.get("train"):
        images = data["identities"] * data["train"]
    defense = cell.defense_class(cell.defense_config)
    return defense.audit(claimed, images, cell.training, complete=record.status == "complete")


def flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The leaves of nested settings by their dotted paths; an empty table is a leaf."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _equal(a: Any, b: Any) -> bool:
    """Equal as JSON; true is not 1."""
    return (a == b and canonical_json(a) == canonical_json(b)) or _same_number(a, b)


def _same_number(a: Any, b: Any) -> bool:
    """1 and 1.0 are one setting."""
    numbers = all(type(each) in (int, float) for each in (a, b))
    return numbers and a == b
