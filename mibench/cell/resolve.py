"""From what was asked for to a cell with every option resolved, refusing what is wrong at once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from mibench.cell.request import Request
from mibench.data.folder import FolderOptions
from mibench.errors import RequestError
from mibench.inversion.attack import ATTACKS, Attack, AttackConfig
from mibench.judges import JUDGES, Judge, JudgeConfig
from mibench.models.access import ACCESS
from mibench.models.classifiers import Classifier, check_architecture
from mibench.models.initialisation import check_initialisation
from mibench.names import AttackName, method_label, variants
from mibench.priors import PRIORS, PriorConfig, PriorKind
from mibench.priors.gan import Gan
from mibench.protocols import Protocol, folder_protocol, is_file, protocol_named
from mibench.record import PriorPart
from mibench.registry import closest, contained
from mibench.settings import explain, plain, scaled, shown
from mibench.store.source import outside_digest
from mibench.training.defense import DEFENSES, Defense, DefenseConfig
from mibench.training.loop import TrainingConfig
from mibench.types import AttackCard, Card, DefenseCard, Frozen, digest

Model = TypeVar("Model", bound=Frozen)
PARTS = ("protocol", "target", "defense", "attack", "prior")
_NO_ROOT = "the protocol `{}` needs its image folder: --root DIR, one sub-folder for each identity"
# What a card says of itself and what it pins; methods' settings have paths of their own.
_IDENTITY = ("name", "version", "title", "notes", "assets", "board")
_METHODS = ("attacks", "priors", "defenses")
_MOVED = ("attack.prior", "attack.prior_training")  # where the prior's settings were


@dataclass(frozen=True)
class Cell:
    """A cell with all options resolved.

    Attributes:
        defense_name: the defense's one name, wherever and however its file was named; likewise
            ``attack.base`` and ``prior_name``.
        protocol_source: digest of a card that is not mibench's own, and of judges' code.
        judges: the kinds of the protocol's two evaluators.
        defense_source, attack_source, prior_source: digest of a method's code that is not
            mibench's own.
        defense_modules, attack_modules, prior_modules: files beside a class's own that it came
            through.
        weights: by architecture, what identifies the weights that it starts from (:func:`check`).
    """

    request: Request
    protocol: Protocol
    protocol_source: str | None
    judges: Mapping[str, type[Judge]]
    architecture: str
    training: TrainingConfig
    defense_name: str
    defense_source: str | None
    defense_class: type[Defense[Any]]
    defense_modules: tuple[ModuleType, ...]
    defense_config: DefenseConfig
    attack: AttackName
    attack_source: str | None
    attack_class: type[Attack[Any]]
    attack_modules: tuple[ModuleType, ...]
    attack_config: AttackConfig
    prior_name: str
    prior_source: str | None
    prior_kind: type[PriorKind[Any]]
    prior_modules: tuple[ModuleType, ...]
    prior_config: PriorConfig
    weights: Mapping[str, str] = field(default_factory=dict)

    @property
    def prior(self) -> PriorPart:
        """The attacker's image prior, as records and boards describe it."""
        return PriorPart(
            kind=self.prior_name,
            source=self.prior_source,
            recipe=self.prior_kind(self.prior_config).recipe(),
            pinned=self.protocol.pins_prior,
            passed=self.passed("prior"),
            resolved=self.prior_config.model_dump(mode="json"),
        )

    @property
    def knob(self) -> str | None:
        """Path of the defense's main knob."""
        return self.defense_class.knob()

    def contained(self) -> contextlib.AbstractContextManager[None]:
        """A block in which its methods cannot end the program."""
        return contained(self.defense_class, self.attack_class, self.prior_kind)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that was passed by a path; another prior than the attack's is one of it."""
        given = dict(self.request.overrides)
        if self.request.prior is not None:
            given["prior.kind"] = method_label(self.prior_name, self.prior_source)
        return given

    def passed(self, part: str) -> dict[str, Any]:
        """The settings that were passed for one of a record's parts; a budget is the protocol's."""
        given = {k: v for k, v in self.settings.items() if k.split(".")[0] == part}
        if part == "protocol" and self.request.budget != 1:
            given["budget"] = self.request.budget
        if part == "protocol" and self.request.preset is not None:
            given["preset"] = self.request.preset
        return given


@contained()  # methods' configs may run code
def resolve(request: Request, *, without: Collection[str] = ()) -> Cell:
    """Resolve a request: protocol card, then the methods' defaults, then what was passed.

    Nothing of this machine is looked at but the files that are named; :func:`check` does that.

    Args:
        without: ``"defense"`` and ``"attack"``, for a cell that can run neither: the part of one
            that is left out is its base class, with the settings that all have.

    Raises:
        RequestError: an unknown name or path, or a value of the wrong type.
    """
    overrides = request.overrides
    _check_paths(overrides)
    card, protocol = _protocol(request)
    protocol, judges = _judges(protocol)

    defense_class: type[Defense[Any]]
    defense_class = DEFENSES.base if "defense" in without else DEFENSES.get(request.defense)
    defense_modules = DEFENSES.files_of(defense_class)
    defense_name = DEFENSES.name_of(defense_class)
    if "defense" not in without:
        _check_card(defense_name, defense_class, DefenseCard)
    defense_config, training = defense_settings(defense_name, defense_class, protocol, overrides)
    name = AttackName("") if "attack" in without else AttackName.parse(request.attack)
    attack_class: type[Attack[Any]]
    attack_class = ATTACKS.base if "attack" in without else ATTACKS.get(name.base)
    attack_modules = ATTACKS.files_of(attack_class)
    name = replace(name, base=ATTACKS.name_of(attack_class))
    if (name.lom or name.ma) and not attack_class.optimises_identity:
        raise RequestError(
            f"attack {request.attack!r}: {name.base} optimises no identity loss, so it has no "
            "variants"
        )
    if "attack" not in without:
        _check_card(name.base, attack_class, AttackCard)
    attack_config = attack_settings(name, attack_class, protocol, overrides)
    prior_kind = _prior_kind(request.prior or attack_class.prior, name.base, attack_class)
    if request.prior and prior_kind is _prior_kind(attack_class.prior, name.base, attack_class):
        request = request.model_copy(update={"prior": None})  # the same cell
    prior_name, prior_modules = PRIORS.name_of(prior_kind), PRIORS.files_of(prior_kind)
    trained: set[type[PriorKind[Any]]] = {Gan, prior_kind}
    if "prior" in protocol.assets:
        trained.discard(Gan)
    for kind in trained:
        kind.check(protocol.resolution)
    return Cell(
        request=request,
        protocol=scaled(protocol, request.budget),
        protocol_source=_outside(request, card, judges),
        judges=judges,
        architecture=request.target or protocol.target,
        training=scaled(training, request.budget),
        defense_name=defense_name,
        defense_source=outside_digest(defense_class, *defense_modules),
        defense_class=defense_class,
        defense_modules=tuple(defense_modules),
        defense_config=defense_config,
        attack=name,
        attack_source=outside_digest(attack_class, *attack_modules),
        attack_class=attack_class,
        attack_modules=tuple(attack_modules),
        attack_config=scaled(attack_config, request.budget),
        prior_name=prior_name,
        prior_source=outside_digest(prior_kind, *prior_modules),
        prior_kind=prior_kind,
        prior_modules=tuple(prior_modules),
        prior_config=scaled(
            prior_settings(prior_name, prior_kind, protocol, overrides), request.budget
        ),
    )


def check(cell: Cell) -> Cell:
    """Ask this machine whether it can run a cell: its networks are built, their weights found.

    Returns:
        The cell, with what identifies the weights that its networks start from.

    Raises:
        RequestError: an architecture that is unknown or cannot have the protocol's resolution, or
            weights to start from that are absent.
    """
    protocol, config = cell.protocol, cell.attack_config
    students = config.students.architectures if config.augment else ()
    networks = {each: protocol.resolution for each in (cell.architecture, *students)}
    for each, resolution in networks.items():
        _check_architecture(each, resolution)
    for role in ("evaluator", "second"):
        if role not in protocol.assets:
            judge: JudgeConfig = getattr(protocol, role)
            for each in cell.judges[role].networks(judge):
                _check_architecture(each, judge.resolution)
                networks.setdefault(each, judge.resolution)
    weights, absent = {}, []
    for each, resolution in networks.items():
        try:
            weights[each] = check_initialisation(each, protocol.start(each), resolution)
        except RequestError as error:
            absent.append(str(error))
    if absent:  # all of them, so that they can be fetched together
        raise RequestError("\n".join(absent))
    return replace(cell, weights=weights)


def defense_settings(
    name: str, method: type[Defense[Any]], protocol: Protocol, overrides: Mapping[str, Any]
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
    name: AttackName, method: type[Attack[Any]], protocol: Protocol, overrides: Mapping[str, Any]
) -> AttackConfig:
    """An attack's options: defaults, then the protocol's, then overrides.

    Raises:
        RequestError: an override names no field, does not fit, or is what the name says.
    """
    base = method.Config(students=protocol.students).model_dump()
    base["augment"] = name.ma
    base["identity"]["objective"] = "logit" if name.lom else "cross-entropy"
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
                f"({', '.join(variants(name.base))})"
            )
    return config


def prior_settings(
    name: str, kind: type[PriorKind[Any]], protocol: Protocol, overrides: Mapping[str, Any]
) -> PriorConfig:
    """A prior's options: defaults, then the protocol's, then overrides.

    Raises:
        RequestError: an override names no field, or does not fit.
    """
    return with_overrides(
        kind.Config(gan=protocol.gan),
        _under("prior", protocol.priors.get(name, {}), overrides),
        "prior",
    )


def _prior_kind(
    wanted: str | type[PriorKind[Any]], attack: str, attack_class: type[Attack[Any]]
) -> type[PriorKind[Any]]:
    """The kind of prior that is asked for, if the attack may see what that sees of the target."""
    kind = PRIORS.get(wanted) if isinstance(wanted, str) else wanted
    if not (isinstance(kind, type) and issubclass(kind, PriorKind)):
        raise RequestError(
            f"{shown(attack)}: its prior is {shown(kind)}; write a registered name or a class that "
            "extends mibench.priors.PriorKind"
        )
    levels = list(ACCESS)  # from the most to the least
    if kind.needs and levels.index(kind.needs) < levels.index(attack_class.access):
        raise RequestError(
            f"the prior {shown(PRIORS.name_of(kind))} is trained with {kind.needs} access to the "
            f"target, which the {attack_class.access} attack {shown(attack)} has not: choose "
            "another one with --prior"
        )
    return kind


@functools.lru_cache
def _check_architecture(name: str, resolution: int) -> None:
    """Build it, which is the check that it exists and can take the resolution."""
    check_architecture(name)
    try:
        with torch.device("meta"):  # shapes only: neither memory nor time
            Classifier(name, 2, resolution)
    except RequestError:  # some of timm's networks compute while they are built
        Classifier(name, 2, resolution)


def _check_card(
    name: str, method: type[Attack[Any]] | type[Defense[Any]], kind: type[Card]
) -> None:
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
        moved = ".".join(path.split(".")[:2])
        if moved in _MOVED:
            raise RequestError(
                f"--set {plain(path)}: a prior's settings are no longer the attack's; write "
                f"{plain('prior' + path.removeprefix(moved))}"
            )
        above = path
        while "." in above:
            above = above.rpartition(".")[0]
            if above in overrides:
                raise RequestError(
                    f"--set {plain(path)}: it lies in {plain(above)}, which is set as a whole; "
                    "set one of them"
                )


def _judges(protocol: Protocol) -> tuple[Protocol, dict[str, type[Judge]]]:
    """The kinds of a protocol's evaluators, which it names as they are registered from here on."""
    judges = {}
    for role in ("evaluator", "second"):
        config: JudgeConfig = getattr(protocol, role)
        judges[role] = JUDGES.get(config.kind)
        config = config.model_copy(update={"kind": JUDGES.name_of(judges[role])})
        judges[role].check(config, f"protocol.{role}")
        protocol = protocol.model_copy(update={role: config})
    return protocol, judges


def _outside(request: Request, card: Protocol, judges: Mapping[str, type[Judge]]) -> str | None:
    """Digest of what in a protocol is not mibench's own: a file's card, and the code of judges."""
    found: dict[str, Any] = {
        role: code
        for role, kind in judges.items()
        if (code := outside_digest(kind, *JUDGES.files_of(kind)))
    }
    if is_file(request.protocol):
        # What its author wrote, so that a release with more fields is no change.
        said = card.model_dump(mode="json", exclude_unset=True)
        for role in judges:
            said[role].pop("kind", None)  # of a file, it is a path
        found["card"] = said
    return digest(found) if found else None


def _protocol(request: Request) -> tuple[Protocol, Protocol]:
    """The card that was asked for, and the same with what was set."""
    if request.protocol == "folder":
        if request.root is None:
            raise RequestError(_NO_ROOT.format("folder"))
        fields = FolderOptions.model_fields
        given = {k: v for k, v in _under("protocol", request.overrides).items() if k in fields}
        options = with_overrides(FolderOptions(), given, "protocol")
        images = None
        with contextlib.suppress(RequestError):  # dividing the folder says what is wrong with it
            images = options.expected_training_images(request.root)
        card = folder_protocol(FolderOptions(), request.preset or "small", images)
    else:
        if request.preset is not None:
            raise RequestError(f"--preset is for the protocol `folder`, not {request.protocol!r}")
        card, fields = protocol_named(request.protocol), {}
        if card.data.of_root:
            fields = type(card.data).model_fields
            if request.root is None:
                raise RequestError(_NO_ROOT.format(card.name))
        elif request.root is not None:
            raise RequestError(f"--root is for the protocol `folder`, not {request.protocol!r}")
    if request.data is not None and not card.data.sets:
        raise RequestError(
            f"--data is for protocols on prepared data sets; {card.name} takes its images elsewhere"
        )
    wanted = _under("protocol", request.overrides)
    # Of a folder, `protocol.min_images` is short for `protocol.data.min_images`.
    wanted = {f"data.{k}" if k in fields else k: v for k, v in wanted.items()}
    for path in wanted:
        if path.partition(".")[0] in _IDENTITY:
            raise RequestError(f"--set protocol.{path}: this identifies the protocol and is fixed")
        if path.partition(".")[0] in _METHODS:
            raise RequestError(
                f"--set protocol.{plain(path)}: set the method's own fields, by attack.…, "
                "prior.…, defense.… and target.…"
            )
    if wanted and card.assets:
        raise RequestError(
            f"--set protocol.…: {card.name} is frozen, its evaluators are pinned; "
            "settings of target, defense, attack and prior can be changed, the protocol's cannot"
        )
    if any(path.partition(".")[0] == "data" for path in wanted):
        wanted.setdefault("split", None)  # another division than the one that the card pins
    return card, with_overrides(card, wanted, "protocol")


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
