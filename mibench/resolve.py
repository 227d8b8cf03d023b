"""From what was asked for to a cell with every option resolved, refusing what is wrong at once."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from mibench.budget import scaled
from mibench.data.identity_split import IdentitySplit
from mibench.data.splits import FolderOptions
from mibench.errors import RequestError
from mibench.methods import ATTACKS, DEFENSES, Attack, AttackConfig, Defense, DefenseConfig
from mibench.models.classifiers import Classifier
from mibench.models.evaluators import JudgeConfig
from mibench.models.gan import map_sizes
from mibench.models.initialisation import check_initialisation
from mibench.protocols import Protocol, folder_protocol, protocol_named
from mibench.registry import closest
from mibench.training import TrainingConfig
from mibench.types import Frozen, RunSpec

Model = TypeVar("Model", bound=Frozen)
PARTS = ("protocol", "target", "defense", "attack")
_LISTS = ("tuple_type", "list_type")  # pydantic's names of the errors


@dataclass(frozen=True)
class AttackName:
    """An attack's name taken apart: the base attack and its improvements."""

    base: str
    lom: bool = False
    ma: bool = False

    @property
    def full(self) -> str:
        """The name that records and boards use."""
        if self.lom and self.ma:
            return f"improved-{self.base}"
        return self.base + ("+lom" if self.lom else "") + ("+ma" if self.ma else "")

    @classmethod
    def parse(cls, name: str) -> AttackName:
        """Read ``X``, ``X+lom``, ``X+ma``, ``X+lom+ma`` or ``improved-X``.

        Raises:
            RequestError: a part after ``+`` is neither ``lom`` nor ``ma``, or is there twice.
        """
        if name.startswith("improved-"):
            if "+" in name:
                raise RequestError(f"attack {name!r}: `improved-` already holds +lom and +ma")
            return cls(name.removeprefix("improved-"), True, True)
        base, *parts = name.split("+")
        if not set(parts) <= {"lom", "ma"} or len(set(parts)) != len(parts):
            raise RequestError(f"attack {name!r}: after `+` may come lom and ma, once each")
        return cls(base, "lom" in parts, "ma" in parts)


def attack_names() -> list[str]:
    """Every attack with its variants."""
    names = []
    for base in ATTACKS.names():
        names.append(base)
        if ATTACKS.get(base).optimises_identity:
            names += [f"{base}+lom", f"{base}+ma", f"improved-{base}"]
    return names


@dataclass(frozen=True)
class Cell:
    """A cell with all options resolved."""

    spec: RunSpec
    protocol: Protocol
    architecture: str
    training: TrainingConfig
    defense_class: type[Defense]
    defense_config: DefenseConfig
    attack: AttackName
    attack_class: type[Attack]
    attack_config: AttackConfig
    weights: dict[str, str]  # by architecture: what identifies the weights it starts from

    @property
    def prior(self) -> str:
        """The attacker's image prior, as records and boards describe it."""
        pinned = " (general prior pinned by the protocol)" if self.protocol.pins_prior else ""
        return self.attack_class.card.prior_recipe + pinned

    def passed(self, part: str) -> dict[str, Any]:
        """The overrides that were passed for one of the four parts; a budget is the protocol's."""
        given = {k: v for k, v in self.spec.overrides.items() if k.split(".")[0] == part}
        if part == "protocol" and self.spec.budget != 1:
            given["budget"] = self.spec.budget
        return given


def parse_setting(text: str) -> tuple[str, Any]:
    """Split ``path=value``; the value is JSON where it parses as JSON, else text.

    Raises:
        RequestError: there is no ``=`` or no path before it.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise RequestError(f"--set {text!r}: write a path and a value, as attack.iterations=600")
    try:  # Infinity and NaN are no JSON, and no setting
        return path.strip(), json.loads(value, parse_constant=str)
    except json.JSONDecodeError:
        return path.strip(), value


def resolve(spec: RunSpec, *, machine: bool = True) -> Cell:
    """Resolve a request: protocol card, then the methods' defaults, then what was passed.

    Args:
        spec: the request.
        machine: whether the cell is to run here: its networks are built, and the weights that they
            start from looked for. Without it the settings alone are resolved.

    Raises:
        RequestError: an unknown name or path, a value of the wrong type, an architecture or prior
            that cannot have the protocol's resolution, or weights to start from that are absent.
    """
    overrides = spec.overrides
    for path in overrides:
        if path.split(".")[0] not in PARTS or "." not in path:
            raise RequestError(
                f"--set {path}: paths start with one of {', '.join(p + '.' for p in PARTS)}"
            )
    protocol = _protocol(spec)
    architecture = spec.target or protocol.target

    defense_class = DEFENSES.get(spec.defense)
    card_defense = protocol.defenses.get(spec.defense, {})
    defense_config = with_overrides(
        defense_class.Config(), _under("defense", card_defense, overrides), "defense"
    )
    training = with_overrides(
        protocol.training,
        {**defense_class.training, **_under("target", card_defense, overrides)},
        "target",
    )

    name = AttackName.parse(spec.attack)
    attack_class = ATTACKS.get(name.base)
    if (name.lom or name.ma) and not attack_class.optimises_identity:
        raise RequestError(
            f"attack {spec.attack!r}: {name.base} optimises no identity loss, so it has no variants"
        )
    base = attack_class.Config(students=protocol.students).model_dump()
    base["augment"] = name.ma
    base["identity"]["objective"] = "logit" if name.lom else "cross-entropy"
    base["prior"]["gan"] = protocol.gan.model_dump()
    attack_config = with_overrides(
        attack_class.Config.model_validate(base),
        _under("attack", protocol.attacks.get(name.base, {}), overrides),
        "attack",
    )
    for fixed, value, named in (
        ("augment", attack_config.augment, base["augment"]),
        ("identity.objective", attack_config.identity.objective, base["identity"]["objective"]),
    ):
        if f"attack.{fixed}" in overrides or value != named:
            raise RequestError(
                f"--set attack.{fixed}: choose it by the attack's name "
                f"({name.base}, {name.base}+lom, {name.base}+ma, improved-{name.base})"
            )
    students = attack_config.students.architectures if attack_config.augment else ()
    networks = {each: protocol.resolution for each in (architecture, *students)}
    for each, resolution in networks.items():
        if machine:
            _check_architecture(each, resolution)
    for role in ("evaluator", "second"):
        if role not in protocol.assets:
            config: JudgeConfig = getattr(protocol, role)
            networks.setdefault(config.architecture, config.resolution)
    if "prior" not in protocol.assets:
        map_sizes(protocol.resolution)
    weights, absent = {}, []
    for each, resolution in networks.items() if machine else ():
        try:
            weights[each] = check_initialisation(each, protocol.start(each), resolution)
        except RequestError as error:
            absent.append(str(error))
    if absent:  # all of them, so that they can be fetched together
        raise RequestError("\n".join(absent))
    return Cell(
        spec,
        scaled(protocol, spec.budget),
        architecture,
        scaled(training, spec.budget),
        defense_class,
        defense_config,
        name,
        attack_class,
        scaled(attack_config, spec.budget),
        weights,
    )


@functools.lru_cache
def _check_architecture(name: str, resolution: int) -> None:
    """Build it, which is the check that it exists and can take the resolution."""
    Classifier(name, 2, resolution)


def _protocol(spec: RunSpec) -> Protocol:
    if spec.protocol == "folder":
        if spec.root is None:
            raise RequestError(
                "the protocol `folder` needs its image folder: --root DIR, one sub-folder for each "
                "identity"
            )
        options, card = FolderOptions(), folder_protocol(FolderOptions())
    else:
        if spec.root is not None:
            raise RequestError(f"--root is for the protocol `folder`, not {spec.protocol!r}")
        card, options = protocol_named(spec.protocol), None
    if spec.data is not None and not isinstance(card.data, IdentitySplit):
        raise RequestError(
            f"--data is for protocols on prepared data sets; {card.name} takes its images elsewhere"
        )
    wanted = _under("protocol", spec.overrides)
    if options is not None:  # `protocol.min_images` is short for `protocol.data.min_images`
        fields = FolderOptions.model_fields
        wanted = {f"data.{k}" if k in fields else k: v for k, v in wanted.items()}
    for path in wanted:
        if path in ("name", "version", "assets"):
            raise RequestError(f"--set protocol.{path}: this identifies the protocol and is fixed")
    if wanted and card.assets:
        raise RequestError(
            f"--set protocol.…: {card.name} is frozen, its evaluators are pinned; "
            "settings of target, defense and attack can be changed, the protocol's cannot"
        )
    if any(path.partition(".")[0] == "data" for path in wanted):
        wanted.setdefault("split", None)  # another division than the one that the card pins
    return with_overrides(card, wanted, "protocol")


def _under(part: str, *settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings below ``part.``, later ones winning."""
    return {
        path.partition(".")[2]: value
        for each in settings
        for path, value in each.items()
        if path.partition(".")[0] == part
    }


def with_overrides(config: Model, settings: Mapping[str, Any], where: str) -> Model:
    """A copy of ``config`` with dotted paths set.

    Raises:
        RequestError: a path does not exist (close ones are offered) or a value does not fit.
    """
    values = config.model_dump()
    known = list(_paths(values))
    for path, value in settings.items():
        if path not in known:
            fields = [f"{where}.{each}" for each in known]
            hint = closest(f"{where}.{path}", fields) or "fields: " + ", ".join(fields)
            raise RequestError(f"--set {where}.{path}: there is no such field; {hint}")
        *parents, last = path.split(".")
        place = values
        for parent in parents:
            place = place[parent]
        place[last] = value
    # A part keeps its own type, so that a wrong value of it is not held against other types too.
    for name, part in config:
        if isinstance(part, Frozen):
            values[name] = _validated(type(part), values[name], f"{where}.{name}")
    return _validated(type(config), values, where)


def _validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join([where, *map(str, e['loc'])])}: {e['msg']} (got {e['input']!r})"
            + (", which is written as JSON: '[1, 2]'" if e["type"] in _LISTS else "")
            for e in error.errors()
        )
        raise RequestError(f"--set {problems}") from error


def _paths(values: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in values.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")
