"""From what was asked for to a cell with every option resolved, refusing what is wrong at once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from mibench.cell.request import Request
from mibench.data.identity_split import IdentitySplit
from mibench.data.splits import FolderOptions, expected_training_images
from mibench.errors import RequestError
from mibench.inversion.attack import ATTACKS, Attack, AttackConfig
from mibench.judges import JUDGES, Judge, JudgeConfig
from mibench.models.classifiers import Classifier, check_architecture
from mibench.models.initialisation import check_initialisation
from mibench.priors._networks import map_sizes
from mibench.protocols import Protocol, folder_protocol, is_file, protocol_named
from mibench.registry import closest, contained
from mibench.settings import explain, plain, scaled, shown
from mibench.store.source import outside_digest
from mibench.training.defense import DEFENSES, Defense, DefenseConfig
from mibench.training.loop import TrainingConfig
from mibench.types import AttackCard, Card, DefenseCard, Frozen, Preset, digest

Model = TypeVar("Model", bound=Frozen)
PARTS = ("protocol", "target", "defense", "attack")
_NO_ROOT = "the protocol `{}` needs its image folder: --root DIR, one sub-folder for each identity"
# What a card says of itself and what it pins; methods' settings have paths of their own.
_IDENTITY = ("name", "version", "title", "notes", "assets")
_METHODS = ("attacks", "defenses")


@dataclass(frozen=True)
class AttackName:
    """An attack's name taken apart: the base attack and its improvements.

    Attributes:
        base: a registered name, or ``path/to/file.py:Class`` as it was asked for; of a resolved
            cell, the name that the attack has everywhere.
    """

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
        """Read ``X``, ``X+lom``, ``X+ma``, ``X+lom+ma`` or ``improved-X``; X may be a file's class.

        Raises:
            RequestError: a part after ``+`` is neither ``lom`` nor ``ma``, or is there twice.
        """
        improved = name.startswith("improved-")
        path, colon, last = name.removeprefix("improved-").rpartition(":")  # a path may hold a +
        last, *parts = last.split("+")
        base = path + colon + last
        if improved:
            if parts:
                raise RequestError(f"attack {name!r}: `improved-` already holds +lom and +ma")
            return cls(base, True, True)
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
    """A cell with all options resolved.

    Attributes:
        defense_name: the defense's one name, wherever and however its file was named; likewise
            ``attack.base``.
        protocol_source: digest of a card that is not mibench's own, and of judges' code.
        defense_source, attack_source: digest of a method's code that is not mibench's own.
        judges: the kinds of the protocol's two evaluators.
        weights: by architecture, what identifies the weights that it starts from.
    """

    spec: Request
    protocol: Protocol
    protocol_source: str | None
    architecture: str
    training: TrainingConfig
    defense_name: str
    defense_source: str | None
    defense_class: type[Defense]
    defense_config: DefenseConfig
    attack: AttackName
    attack_source: str | None
    attack_class: type[Attack]
    attack_config: AttackConfig
    judges: dict[str, type[Judge]]
    weights: dict[str, str]

    @property
    def prior(self) -> str:
        """The attacker's image prior, as records and boards describe it."""
        pinned = " (general prior pinned by the protocol)" if self.protocol.pins_prior else ""
        return self.attack_class(self.attack_config).prior_recipe() + pinned

    def passed(self, part: str) -> dict[str, Any]:
        """The overrides that were passed for one of the four parts; a budget is the protocol's."""
        given = {k: v for k, v in self.spec.overrides.items() if k.split(".")[0] == part}
        if part == "protocol" and self.spec.budget != 1:
            given["budget"] = self.spec.budget
        if part == "protocol" and self.spec.preset is not None:
            given["preset"] = self.spec.preset
        return given


@contained()  # methods' configs may run code
def resolve(spec: Request, *, machine: bool = True) -> Cell:
    """Resolve a request: protocol card, then the methods' defaults, then what was passed.

    Args:
        spec: the request.
        machine: whether the cell is to run here: its networks are built, and the weights that they
            start from looked for. Without it the settings alone are resolved.

    Raises:
        RequestError: an unknown name or path, a value of the wrong type, an architecture or prior
            that cannot have the protocol's resolution, or weights to start from that are absent.
    """
    if spec.protocol == "folder" and spec.preset is None:
        # Stated from here on: whoever else resolves the cell may have another machine.
        spec = spec.model_copy(update={"preset": _preset()})
    overrides = spec.overrides
    _check_paths(overrides)
    card, protocol = _protocol(spec)
    architecture = spec.target or protocol.target

    defense_class = DEFENSES.get(spec.defense)
    defense_name = DEFENSES.name_of(defense_class)
    _check_card(defense_name, defense_class, DefenseCard)
    defense_config, training = defense_settings(defense_name, defense_class, protocol, overrides)
    name = AttackName.parse(spec.attack)
    attack_class = ATTACKS.get(name.base)
    name = replace(name, base=ATTACKS.name_of(attack_class))
    if (name.lom or name.ma) and not attack_class.optimises_identity:
        raise RequestError(
            f"attack {spec.attack!r}: {name.base} optimises no identity loss, so it has no variants"
        )
    _check_card(name.base, attack_class, AttackCard)
    attack_config = attack_settings(name, attack_class, protocol, overrides)
    students = attack_config.students.architectures if attack_config.augment else ()
    networks = {each: protocol.resolution for each in (architecture, *students)}
    for each, resolution in networks.items():
        if machine:
            _check_architecture(each, resolution)
    judges = {}
    for role in ("evaluator", "second"):
        config: JudgeConfig = getattr(protocol, role)
        judges[role] = JUDGES.get(config.kind)
        config = config.model_copy(update={"kind": JUDGES.name_of(judges[role])})
        protocol = protocol.model_copy(update={role: config})
        judges[role].check(config, f"protocol.{role}")
        for each in judges[role].networks(config) if role not in protocol.assets else ():
            if machine:
                _check_architecture(each, config.resolution)
            networks.setdefault(each, config.resolution)
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
        _outside(spec, card, judges),
        architecture,
        scaled(training, spec.budget),
        defense_name,
        outside_digest(defense_class, *DEFENSES.files_of(defense_class)),
        defense_class,
        defense_config,
        name,
        outside_digest(attack_class, *ATTACKS.files_of(attack_class)),
        attack_class,
        scaled(attack_config, spec.budget),
        judges,
        weights,
    )


def defense_settings(
    name: str, method: type[Defense], protocol: Protocol, overrides: Mapping[str, Any]
) -> tuple[DefenseConfig, TrainingConfig]:
    """A defense's options and its target's training: defaults, then the card, then overrides.

    Raises:
        RequestError: an override names no field, or does not fit.
    """
    card = protocol.defenses.get(name, {})
    config = with_overrides(method.Config(), _under("defense", card, overrides), "defense")
    trained = {**method.training, **_under("target", card, overrides)}
    return config, with_overrides(protocol.training, trained, "target")


def attack_settings(
    name: AttackName, method: type[Attack], protocol: Protocol, overrides: Mapping[str, Any]
) -> AttackConfig:
    """An attack's options: defaults, then the protocol's, then overrides.

    Raises:
        RequestError: an override names no field, does not fit, or is what the name says.
    """
    base = method.Config(students=protocol.students).model_dump()
    base["augment"] = name.ma
    base["identity"]["objective"] = "logit" if name.lom else "cross-entropy"
    base["prior"]["gan"] = protocol.gan.model_dump()
    config = with_overrides(
        method.Config.model_validate(base),
        _under("attack", protocol.attacks.get(name.base, {}), overrides),
        "attack",
    )
    for fixed, value, named in (
        ("augment", config.augment, base["augment"]),
        ("identity.objective", config.identity.objective, base["identity"]["objective"]),
    ):
        if f"attack.{fixed}" in overrides or value != named:
            raise RequestError(
                f"--set attack.{fixed}: choose it by the attack's name "
                f"({name.base}, {name.base}+lom, {name.base}+ma, improved-{name.base})"
            )
    return config


@functools.lru_cache
def _check_architecture(name: str, resolution: int) -> None:
    """Build it, which is the check that it exists and can take the resolution."""
    check_architecture(name)
    try:
        with torch.device("meta"):  # shapes only: neither memory nor time
            Classifier(name, 2, resolution)
    except RequestError:  # some of timm's networks compute while they are built
        Classifier(name, 2, resolution)


def _check_card(name: str, method: type[Attack] | type[Defense], kind: type[Card]) -> None:
    """Refuse a method without its card, which the record at the end reads."""
    if not isinstance(getattr(method, "card", None), kind):
        raise RequestError(
            f"{shown(name)}: {method.__name__} has no card; write `card = {kind.__name__}(…)` in "
            "it, as CONTRIBUTING.md shows"
        )


def _check_paths(overrides: Mapping[str, Any]) -> None:
    """Refuse paths of no part of a cell, and a path beside one that holds it."""
    for path in overrides:
        part, dot, _ = path.partition(".")
        if part not in PARTS or not dot:
            raise RequestError(
                f"--set {plain(path)}: paths start with one of {', '.join(p + '.' for p in PARTS)}"
            )
        above = path
        while "." in above:
            above = above.rpartition(".")[0]
            if above in overrides:
                raise RequestError(
                    f"--set {plain(path)}: it lies in {plain(above)}, which is set as a whole; "
                    "set one of them"
                )


def _protocol(spec: Request) -> tuple[Protocol, Protocol]:
    """The card that was asked for, and the same with what was set."""
    if spec.protocol == "folder":
        if spec.root is None:
            raise RequestError(_NO_ROOT.format("folder"))
        assert spec.preset is not None
        fields = FolderOptions.model_fields
        given = {k: v for k, v in _under("protocol", spec.overrides).items() if k in fields}
        options = with_overrides(FolderOptions(), given, "protocol")
        images = None
        with contextlib.suppress(RequestError):  # dividing the folder says what is wrong with it
            images = expected_training_images(spec.root, options)
        card = folder_protocol(FolderOptions(), spec.preset, images)
    else:
        if spec.preset is not None:
            raise RequestError(f"--preset is for the protocol `folder`, not {spec.protocol!r}")
        card, fields = protocol_named(spec.protocol), {}
        if isinstance(card.data, FolderOptions):  # a card of someone's own
            fields = FolderOptions.model_fields
            if spec.root is None:
                raise RequestError(_NO_ROOT.format(card.name))
        elif spec.root is not None:
            raise RequestError(f"--root is for the protocol `folder`, not {spec.protocol!r}")
    if spec.data is not None and not isinstance(card.data, IdentitySplit):
        raise RequestError(
            f"--data is for protocols on prepared data sets; {card.name} takes its images elsewhere"
        )
    wanted = _under("protocol", spec.overrides)
    # Of a folder, `protocol.min_images` is short for `protocol.data.min_images`.
    wanted = {f"data.{k}" if k in fields else k: v for k, v in wanted.items()}
    for path in wanted:
        if path in _IDENTITY:
            raise RequestError(f"--set protocol.{path}: this identifies the protocol and is fixed")
        if path.partition(".")[0] in _METHODS:
            raise RequestError(
                f"--set protocol.{plain(path)}: set the method's own fields, by attack.…, "
                "defense.… and target.…"
            )
    if wanted and card.assets:
        raise RequestError(
            f"--set protocol.…: {card.name} is frozen, its evaluators are pinned; "
            "settings of target, defense and attack can be changed, the protocol's cannot"
        )
    if any(path.partition(".")[0] == "data" for path in wanted):
        wanted.setdefault("split", None)  # another division than the one that the card pins
    return card, with_overrides(card, wanted, "protocol")


def _outside(spec: Request, card: Protocol, judges: Mapping[str, type[Judge]]) -> str | None:
    """Digest of what in a protocol is not mibench's own: a file's card, and the code of judges."""
    found: dict[str, Any] = {
        role: code
        for role, kind in judges.items()
        if (code := outside_digest(kind, *JUDGES.files_of(kind)))
    }
    if is_file(
        spec.protocol
    ):  # what its author wrote, so that a release with more fields is no change
        said = card.model_dump(mode="json", exclude_unset=True)
        for role in judges:
            said[role].pop("kind", None)  # of a file, it is a path
        found["card"] = said
    return digest(found) if found else None


def _preset() -> Preset:
    """The size of the protocol `folder` that this machine is for."""
    return "paper" if torch.cuda.is_available() else "small"


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
            raise RequestError(f"--set {where}.{plain(path)}: there is no such field; {hint}")
        *parents, last = path.split(".")
        place = values
        for parent in parents:
            place = place[parent]
        place[last] = value
    # A part keeps its own type, so that a wrong value of it is not held against other types too.
    for name, part in config:
        if isinstance(part, Frozen):
            values[name] = _validated(type(part), values[name], f"{where}.{name}")
    made = _validated(type(config), values, where)
    found = made.model_dump()
    for path, value in settings.items():
        _check_kind(value, functools.reduce(dict.__getitem__, path.split("."), found), path, where)
    return made


def _check_kind(given: Any, found: Any, path: str, where: str) -> None:
    """Refuse true and false that pydantic has read as 1 and 0, and the other way round."""
    if isinstance(given, Mapping) and isinstance(found, Mapping):
        for key in given.keys() & found.keys():
            _check_kind(given[key], found[key], f"{path}.{key}", where)
    elif isinstance(given, list | tuple) and isinstance(found, list | tuple):
        for index, pair in enumerate(zip(given, found, strict=False)):
            _check_kind(*pair, f"{path}.{index}", where)
    elif isinstance(given, bool) != isinstance(found, bool):
        wanted = "true or false" if isinstance(found, bool) else "a number"
        raise RequestError(f"--set {where}.{path}: {shown(given)} is not {wanted}")


def _validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RequestError(f"--set {explain(error, where)}") from error


def _paths(values: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in values.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")
