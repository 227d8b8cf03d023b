"""Whether a record was made under today's protocol: its settings beside those that it asked for."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Set
from typing import Any

import timm
from pydantic import ValidationError

import mibench.models.classifiers  # noqa: F401  (registers ours with timm)
from mibench.cell.request import Request
from mibench.cell.resolve import Cell, resolve
from mibench.errors import MibenchError, RequestError
from mibench.inversion.attack import ATTACKS
from mibench.leaderboard.checks import (
    faults,
    guarantee_keys,
    incomplete,
    no_shares,
    protocol_faults,
)
from mibench.leaderboard.fit import unfit
from mibench.leaderboard.names import architectures, name_faults, overrides
from mibench.names import AttackName, method_label
from mibench.priors import PRIORS
from mibench.protocols import PROTOCOLS
from mibench.record import AUDIT, INCOMPLETE, Part, PriorPart, Record
from mibench.registry import Registry
from mibench.settings import flat, later_defaults
from mibench.training.defense import DEFENSES
from mibench.types import Frozen, canonical_json


def check(record: Record) -> list[str]:
    """Reasons why a record is refused; empty for one that boards can take."""
    return unfit(record) or foreign(record) or faults(record)


def foreign(record: Record) -> list[str]:
    """Why a record's numbers do not compare with today's protocol of its name."""
    if record.protocol.name == AUDIT:
        return [
            "an audit of a network that was trained elsewhere, on pictures of its owner's: it "
            "compares with nobody's, and boards take none"
        ]
    # Names first: nothing else is done with what may be a path.
    if wrong := [*name_faults(record), *architectures(record)]:
        return wrong
    name = record.protocol.name
    card = PROTOCOLS.get(name)
    if card is None:
        return [f"the protocol {name!r} is none of the boards': {', '.join(PROTOCOLS)}"]
    if "budget" in record.protocol.passed:
        return [
            f"made with {record.protocol.passed['budget']} of the protocol's budget, which is "
            "for trying out: run it without --budget"
        ]
    if wrong := list(protocol_faults(record)):
        return wrong
    if (stated := record.protocol.resolved.get("digest")) != card.digest:
        return [
            f"made under another version of {name}, or with its settings changed: the protocol's "
            f"digest is {card.digest[:12]}, the record's {str(stated)[:12]}"
        ]
    if INCOMPLETE in record.artifacts:
        return [
            "made from a data set that lacks pictures: prepare it without --incomplete (what can "
            "be had of FaceScrub differs from person to person: such records do not compare)"
        ]
    return _other_settings(record) or [*no_shares(record), *incomplete(record)]


def require_comparable(record: Record) -> None:
    """Refuse a foreign record; of what it names, nothing is loaded or run before this.

    Raises:
        MibenchError: it is; the message says why.
    """
    if reasons := foreign(record):
        raise MibenchError(f"the record does not compare with this mibench: {'; '.join(reasons)}")


def _cell(record: Record) -> tuple[Cell, Set[str]]:
    """A record's request, resolved, and its parts that nothing unknown here has a say in.

    No file is imported, no network is built.
    """
    passed, without = overrides(record), []
    known = {"target", "defense", "attack", "prior"}
    if record.defense.name not in DEFENSES.names():  # it may prescribe how its target is trained
        known -= {"target", "defense"}
        without.append("defense")
    if AttackName.parse(record.attack.name, strict=False).base not in ATTACKS.names():
        known -= {"attack", "prior"}  # which may be of a kind that comes with it
        without.append("attack")
    chosen = passed.pop("prior.kind", None) is not None
    if chosen and record.prior.kind not in PRIORS.names():
        known.discard("prior")
    request = Request(
        protocol=record.protocol.name,
        target=record.target.name,
        defense=record.defense.name,
        attack=record.attack.name,
        prior=record.prior.kind if chosen and "prior" in known else None,
        overrides={
            path: value
            for path, value in passed.items()
            if path.partition(".")[0] in {"protocol", *known}
        },
    )
    return resolve(request, without=without), known


def _other_settings(record: Record) -> list[str]:
    """What of a record is not as its own request resolves here; empty for nothing.

    Every field that the record states is compared; one that it lacks is of a later version, unless
    its rules are today's. Of a method that is not registered here, only what does not depend on it.
    """
    base = AttackName.parse(record.attack.name, strict=False).base
    try:
        cell, known = _cell(record)
        found = [
            *_origin(DEFENSES, record.defense.name, record.defense),
            *_origin(ATTACKS, base, record.attack),
            *_prior_origin(record),
            *_architecture(record.target.name),
        ]
    except (RequestError, ValidationError) as error:
        return [f"nothing can be asked for like this: {str(error)[:500]}"]
    if found:
        return found
    found += _protocol(record, cell)
    card = cell.protocol
    defaults = {**card.attacks.get(base, {}), **card.defenses.get(record.defense.name, {})}
    defaults |= card.priors.get(record.prior.kind, {})
    configs: dict[str, Frozen] = {
        "target": cell.training,
        "defense": cell.defense_config,
        "attack": cell.attack_config,
        "prior": cell.prior_config,
    }
    for part in sorted(known):
        ours = dict(flat(configs[part].model_dump(mode="json")))
        # What a later release added was as it is by default.
        theirs = later_defaults(configs[part]) | dict(flat(getattr(record, part).resolved))
        if record.rules > 1 and (lacking := sorted(ours.keys() - theirs.keys())):
            found.append(f"{part}.{lacking[0]} is not stated")
        for field, value in theirs.items():
            path = f"{part}.{field}"
            if field not in ours:
                found.append(f"{path} is no setting of it")
            elif not _equal(value, ours[field]):
                whose = "the protocol says" if path in defaults else "here it is"
                found.append(
                    f"made with other settings than the protocol's: {path} is {value!r}, {whose} "
                    f"{ours[field]!r}"
                )
    stated: dict[str, Any] = {"access": cell.attack_class.access} if "attack" in known else {}
    if "prior" in known:
        stated |= {f"prior.{key}": getattr(cell.prior, key) for key in ("kind", "recipe", "pinned")}
    for key, value in stated.items():
        if (claim := operator.attrgetter(key)(record)) != value:
            found.append(f"{key} is {claim!r}, that of the attack is {value!r}")
    knob = record.strength.path if record.strength else None
    if "defense" in known and knob != cell.knob:
        found.append(f"strength.path is {knob!r}, the defense's main knob is {cell.knob!r}")
    if "defense" in known and cell.defense_class.filters() and record.access == "white-box":
        found.append("access is 'white-box', for which a defense of answers alone has no number")
    if record.people != cell.protocol.data.of_people:
        found.append(f"people is {record.people}, the protocol's pictures are otherwise")
    return found or _guarantee(record, cell, known)


def is_own(method: type) -> bool:
    """Whether a method is one of mibench's own files, and not of another package or file."""
    return method.__module__.startswith("mibench.")


def _origin(registry: Registry[Any], name: str, part: Part | PriorPart) -> Iterator[str]:
    """Two authors' files may hold classes of one name: the source says which one it is."""
    method = registry.get(name) if name in registry.names() else None
    if method is None and part.source is None:
        yield (
            f"the {registry.kind} {name!r} is not registered here, and the record does not say "
            "what source it has: make it again with this version of mibench"
        )
    elif method is not None and is_own(method) and part.source is not None:
        yield f"the {registry.kind} {name!r} is mibench's own, the record's has another source"
    elif method is not None and not is_own(method) and part.source is None:
        yield (
            f"the {registry.kind} {name!r} is of another package, and the record has no source of "
            "it"
        )


def _prior_origin(record: Record) -> Iterator[str]:
    """The same of a kind of prior that was asked for; the attack's own comes with the attack."""
    prior, asked = record.prior, record.prior.passed.get("prior.kind")
    if asked is not None:
        if asked != (label := method_label(prior.kind, prior.source)):
            yield f"prior.kind was passed as {asked!r}, the record's is {label!r}"
        yield from _origin(PRIORS, prior.kind, prior)


def _architecture(name: str) -> Iterator[str]:
    """An architecture is one that timm knows, with a tag only if it names published weights."""
    known = timm.is_model(name)
    if known and "." in name:
        try:
            timm.models.get_pretrained_cfg(name)
        except RuntimeError:
            known = False
    if not known:
        yield f"target {name!r} is no architecture of timm's"


def _protocol(record: Record, cell: Cell) -> Iterator[str]:
    """What a protocol's digest leaves out, but for notes: methods' settings, and what is pinned.

    A record states those of all methods; only those of its own say anything of it.
    """
    base = AttackName.parse(record.attack.name, strict=False).base
    own = {"attacks": base, "priors": record.prior.kind, "defenses": record.defense.name}
    for key, method in own.items():
        card = getattr(cell.protocol, key)
        stated = record.protocol.resolved.get(key, {})
        if not isinstance(stated, dict) or not all(isinstance(v, dict) for v in stated.values()):
            yield f"protocol.{key} holds no settings"
            continue
        for path, value in stated.get(method, {}).items():
            ours = card.get(method, {}).get(path)
            if path not in overrides(record) and not _equal(value, ours):
                yield f"protocol.{key}.{method}: {path} is {value!r}, the card says {ours!r}"
    for role, asset in cell.protocol.assets.items():
        if record.artifacts.get(f"asset {role}") != asset.sha256:
            yield f"it was made with another {role} than the protocol pins"
    if cell.protocol.split and record.artifacts.get("split") != cell.protocol.split:
        yield "its pictures are divided otherwise than the protocol pins it"


def guarantee_faults(record: Record, images: int | None = None) -> list[str]:
    """Why a guarantee is not the one that the defense's own accountant comes to.

    Args:
        record: the record, whose settings were found to be those of its request.
        images: private training images; None: as many as the card states, if it does.
    """
    return _guarantee(record, *_cell(record), images)


def _guarantee(record: Record, cell: Cell, known: Set[str], images: int | None = None) -> list[str]:
    keys, unit = guarantee_keys(record), record.utility.get("privacy_unit")
    claimed = {
        key: float(value) for key in keys if isinstance(value := record.utility.get(key), float)
    }
    if "defense" not in known:
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


def _equal(a: Any, b: Any) -> bool:
    """Equal as JSON; true is not 1, but 1 and 1.0 are one setting."""
    if all(type(each) in (int, float) for each in (a, b)):
        return bool(a == b)
    return a == b and canonical_json(a) == canonical_json(b)
