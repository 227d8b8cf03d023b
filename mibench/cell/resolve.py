"""From what was asked for to a cell with every option resolved, refusing what is wrong at once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import torch

from mibench.cell.given import Given, GivenFiles
from mibench.cell.overrides import Model, with_overrides
from mibench.cell.request import Request, check_paths
from mibench.data.audited import IMAGES, PUBLIC, AuditData
from mibench.data.folder import FolderOptions
from mibench.errors import NotApplicableError, RequestError
from mibench.inversion.attack import ATTACKS, Attack, AttackConfig, TransferConfig
from mibench.judges import JUDGES, Judge
from mibench.judges.evaluators import EVALUATORS, Evaluator, EvaluatorConfig
from mibench.models.access import ACCESS
from mibench.models.classifiers import Classifier, check_architecture
from mibench.models.initialisation import check_initialisation
from mibench.models.trapdoors import triggers_of
from mibench.names import AttackName, method_label
from mibench.priors import PRIORS, PriorConfig, PriorKind
from mibench.priors._given import Given as GivenKind
from mibench.priors.gan import Gan
from mibench.protocols import (
    Protocol,
    audit_protocol,
    folder_protocol,
    is_file,
    protocol_named,
)
from mibench.record import GIVEN, PriorPart
from mibench.registry import closest, contained
from mibench.settings import plain, scaled, shown
from mibench.store.source import outside_digest
from mibench.training.defense import DEFENSES, Defense, DefenseConfig
from mibench.training.loop import TrainingConfig
from mibench.types import AttackCard, DefenseCard, digest

_NO_ROOT = (
    "the protocol `{}` needs its image folder: --root DIR, one sub-folder for each identity, or a "
    "file or folder in another layout (.csv, .npz, .parquet, .arrow, Hugging Face's `datasets`)"
)
# What a card says of itself and what it pins; methods' settings have paths of their own.
_IDENTITY = ("name", "version", "title", "notes", "assets", "board")
_METHODS = ("attacks", "priors", "defenses")


@dataclass(frozen=True)
class Cell:
    """A cell with all options resolved.

    Attributes:
        defense_name: the defense's one name, wherever and however its file was named; likewise
            ``attack.base`` and ``prior_name``.
        protocol_source: digest of a card that is not mibench's own, and of evaluators' code.
        evaluators: the kinds of the protocol's two evaluators.
        judges: the kinds of its embedding judges, in the card's order.
        defense_source, attack_source, prior_source: digest of a method's code that is not
            mibench's own.
        defense_modules, attack_modules, prior_modules: files beside a class's own that it came
            through.
        weights: by architecture (of surrogates, :func:`surrogate_weights`), what identifies the
            weights that it starts from (:func:`check`).
        given: the audited network, in the place of a target that is trained.
    """

    request: Request
    protocol: Protocol
    protocol_source: str | None
    evaluators: Mapping[str, type[Evaluator]]
    judges: tuple[type[Judge], ...]
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
    given: Given | None = None

    @property
    def prior(self) -> PriorPart:
        """The attacker's image prior, as records and boards describe it."""
        return PriorPart(
            kind=self.prior_name,
            source=self.prior_source,
            recipe=self.prior_kind(self.prior_config).recipe(),
            pinned=self.protocol.pins_prior,
            passed=self.passed("prior"),
            resolved=self.prior_config.model_dump(mode="json")
            if self.given_prior is None
            else {**self.given_prior.settings, "files": dict(self.given_prior.sums)},
        )

    @property
    def given_prior(self) -> GivenFiles | None:
        """What identifies the image prior, where that is given, and the attack takes it."""
        return self.given.prior if self.given and self.prior_kind is GivenKind else None

    @property
    def places(self) -> dict[str, Any]:
        """Where images lie that ``--root`` does not name, and who they show."""
        if self.given is None:
            return {}
        asked = self.given.asked
        return {"public": asked.public, "decoys": asked.decoys, "names": self.given.names}

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
        NotApplicableError: the attack's access takes the defense off.
        RequestError: an unknown name or path, or a value of the wrong type.
    """
    overrides = request.overrides
    check_paths(overrides)
    given, card, protocol = _protocol(request)
    if given is not None:
        without = {*without, "defense"}
    protocol, evaluators = _evaluators(protocol)
    protocol, judges = _judges(protocol)

    defense_class: type[Defense[Any]]
    defense_class = DEFENSES.base if "defense" in without else DEFENSES.get(request.defense)
    defense_modules = DEFENSES.files_of(defense_class)
    defense_name = DEFENSES.name_of(defense_class) if given is None else GIVEN
    if "defense" not in without:
        check_method(defense_name, defense_class)
    defense_config, training = defense_settings(defense_name, defense_class, protocol, overrides)
    name = AttackName("") if "attack" in without else AttackName.parse(request.attack)
    attack_class: type[Attack[Any]]
    attack_class = ATTACKS.base if "attack" in without else ATTACKS.get(name.base)
    attack_modules = ATTACKS.files_of(attack_class)
    name = replace(name, base=ATTACKS.name_of(attack_class))
    check_variant(name, attack_class)
    if "attack" not in without:
        check_method(name.base, attack_class)
    if given is not None and "attack" not in without:
        given.check_access(name.full, attack_class)
    elif not without:
        check_applicable(name.full, attack_class, defense_name, defense_class)
    attack_config = attack_settings(name, attack_class, protocol, overrides)
    prior_kind = prior_kind_of(request.prior or attack_class.prior, name.base, attack_class)
    if request.prior and prior_kind is prior_kind_of(attack_class.prior, name.base, attack_class):
        request = request.model_copy(update={"prior": None})  # the same cell
    if given is not None and given.prior is not None and prior_kind is Gan:
        if attack_class.needs_realism:
            raise NotApplicableError(
                f"the attack {shown(name.full)} asks the prior how real images look, which that of "
                "--prior does not say: choose another one, or leave --prior out"
            )
        prior_kind = GivenKind
    own = attack_config.surrogates if isinstance(attack_config, TransferConfig) else None
    if own is not None and own.prior_head and not prior_kind.tells_identities:
        raise RequestError(
            f"--set attack.surrogates.prior_head=true: the prior "
            f"{shown(PRIORS.name_of(prior_kind))} tells no identities apart; leave it out, or "
            "choose another one with --prior"
        )
    attack_class.check_prior(attack_config, prior_kind)
    prior_name, prior_modules = PRIORS.name_of(prior_kind), PRIORS.files_of(prior_kind)
    prior_source = outside_digest(prior_kind, *prior_modules)
    if prior_kind is GivenKind and given is not None and given.prior is not None:
        prior_name, prior_source = GIVEN, given.prior.source
    _check_tables(protocol, {"attacks": name.base, "defenses": defense_name, "priors": prior_name})
    trained: set[type[PriorKind[Any]]] = {Gan, prior_kind}
    if "prior" in protocol.assets:
        trained.discard(Gan)
    if prior_kind is GivenKind:
        trained.clear()
    for kind in trained:
        kind.check(protocol.resolution)
    prior_config = prior_settings(prior_name, prior_kind, protocol, overrides)
    prior_kind(prior_config).check_general()
    return Cell(
        request=request,
        protocol=scaled(protocol, request.budget),
        protocol_source=_outside(request, card, evaluators, judges),
        evaluators=evaluators,
        judges=judges,
        architecture=request.target or protocol.target,
        training=scaled(training, request.budget),
        defense_name=defense_name,
        defense_source=outside_digest(defense_class, *defense_modules),
        defense_class=defense_class,
        defense_modules=tuple(defense_modules),
        defense_config=scaled(defense_config, request.budget),
        attack=name,
        attack_source=outside_digest(attack_class, *attack_modules),
        attack_class=attack_class,
        attack_modules=tuple(attack_modules),
        attack_config=scaled(attack_config, request.budget),
        prior_name=prior_name,
        prior_source=prior_source,
        prior_kind=prior_kind,
        prior_modules=tuple(prior_modules),
        prior_config=scaled(prior_config, request.budget),
        given=given,
    )


def check(cell: Cell) -> Cell:
    """Ask this machine whether it can run a cell: its networks are built, their weights found.

    Returns:
        The cell, with what identifies the weights that its networks start from.

    Raises:
        RequestError: an architecture that is unknown, cannot have the protocol's resolution, or is
            none that the defense or the attack can work with; weights to start from that are
            absent.
    """
    protocol, config = cell.protocol, cell.attack_config
    students = config.students.architectures if config.augment else ()
    trained = () if cell.given is not None else (cell.architecture,)
    networks = {each: protocol.resolution for each in (*trained, *students)}
    for each, resolution in networks.items():
        _check_architecture(each, resolution)
    with cell.contained():
        if cell.given is not None:
            cell.given.check_attack(cell.attack, cell.attack_class)
            if cell.given_prior is not None:
                cell.given.image_prior()
        else:
            _check_methods(
                cell.architecture,
                protocol.resolution,
                cell.defense_class,  # type: ignore[arg-type]  # mypy asks instances for their hash
                cell.defense_config.model_dump_json(),
                cell.attack_class,
                config.untrap,
            )
    for role in ("evaluator", "second"):
        if role not in protocol.assets:
            evaluator: EvaluatorConfig = getattr(protocol, role)
            for each in cell.evaluators[role].networks(evaluator):
                _check_architecture(each, evaluator.resolution)
                networks.setdefault(each, evaluator.resolution)
    weights, absent = {}, []
    for each, resolution in networks.items():
        try:
            weights[each] = check_initialisation(each, protocol.start(each), resolution)
        except RequestError as error:
            absent.append(str(error))
    if isinstance(config, TransferConfig):
        surrogates = config.surrogates
        for each in surrogates.architectures:
            _check_architecture(each, protocol.resolution)
            try:
                weights[surrogate_weights(each)] = check_initialisation(
                    each, surrogates.initialisation, protocol.resolution
                )
            except RequestError as error:
                absent.append(str(error))
    if absent:  # all of them, so that they can be fetched together
        raise RequestError("\n".join(absent))
    return replace(cell, weights=weights)


def surrogate_weights(architecture: str) -> str:
    """Under what :attr:`Cell.weights` has a surrogate's, which start as the attack says."""
    return f"surrogate {architecture}"


def defense_settings(
    name: str, method: type[Defense[Any]], protocol: Protocol, overrides: Mapping[str, Any]
) -> tuple[DefenseConfig, TrainingConfig]:
    """A defense's options and its target's training: defaults, then the card, then overrides.

    Raises:
        RequestError: an override names no field, or does not fit.
    """
    training = with_overrides(
        protocol.training, method.training, "target", f"{method.__name__}.training:"
    )
    layers = (protocol, "defenses", name, overrides)
    return _set(method.Config(), "defense", *layers), _set(training, "target", *layers)


def attack_settings(
    name: AttackName, method: type[Attack[Any]], protocol: Protocol, overrides: Mapping[str, Any]
) -> AttackConfig:
    """An attack's options: defaults, then the protocol's, then overrides.

    Raises:
        RequestError: an override names no field, does not fit, or is what the name says.
    """
    named = config_named(name, method.Config(students=protocol.students))
    config = _set(named, "attack", protocol, "attacks", name.base, overrides)
    for path, otherwise in (
        ("attack.augment", config.augment != named.augment),
        ("attack.repeat", config.repeat != named.repeat),
        ("attack.untrap", config.untrap != named.untrap),
        ("attack.identity.views", config.identity.views != named.identity.views),
        ("attack.identity.objective", (config.identity.objective == "logit") != name.lom),
    ):
        if otherwise or (path in overrides and path in fixed_by(name)):
            raise RequestError(
                f"--set {path}: choose it by the attack's name "
                f"({', '.join(method.variants(name.base))})"
            )
    return config


def check_variant(name: AttackName, method: type[Attack[Any]]) -> None:
    """Refuse a variant that an attack has not.

    Raises:
        RequestError: the identity loss is to be changed of an attack that minimises none, or
            questions are to be repeated of one that has the weights.
    """
    if name.improves and not method.varied():
        raise RequestError(
            f"attack {name.full!r}: {name.base} optimises no identity loss of the target itself, "
            f"so it has no variants; there are {' and '.join(method.variants(name.base))}"
        )
    if name.repeat and not method.asks():
        why = "its surrogates have learned from the answers before it runs, and it asks nothing"
        if method.access == "white-box":
            why = (
                f"{name.base} has its weights; against noise in these it averages its loss "
                "(attack.identity.eot)"
            )
        raise RequestError(
            f"attack {name.full!r}: +repeat is for attacks that only ask the target, and {why}"
        )


def check_applicable(
    attack: str, attack_class: type[Attack[Any]], defense: str, defense_class: type[Defense[Any]]
) -> None:
    """Refuse an attack that has the weights on a defense that only changes answers.

    Raises:
        NotApplicableError: it says why there is no number.
    """
    if defense_class.filters() and attack_class.access == "white-box":
        raise NotApplicableError(
            f"the attack {shown(attack)} on the defense {shown(defense)} is not applicable (n/a): "
            "the defense changes the target's answers alone, and whoever has the weights takes "
            "that off and attacks the target without it. Choose an attack with black-box or "
            "label-only access (`mibench list attacks`)"
        )


def config_named(name: AttackName, config: AttackConfig) -> AttackConfig:
    """An attack's options with those that its name chooses."""
    chosen: dict[str, Any] = {"views": name.views or "none"}
    if name.lom:
        chosen["objective"] = "logit"
    identity = config.identity.model_copy(update=chosen)
    return config.model_copy(
        update={
            "augment": name.ma,
            "identity": identity,
            "repeat": name.repeat,
            "untrap": name.untrap,
        }
    )


def fixed_by(name: AttackName) -> tuple[str, ...]:
    """Paths of the options that an attack's name chooses, which cannot be set beside it."""
    objective = ("attack.identity.objective",) if name.lom else ()
    chosen = ("attack.augment", "attack.identity.views", "attack.repeat", "attack.untrap")
    return (*chosen, *objective)


def prior_settings(
    name: str, kind: type[PriorKind[Any]], protocol: Protocol, overrides: Mapping[str, Any]
) -> PriorConfig:
    """A prior's options: defaults, then the protocol's, then overrides.

    Raises:
        RequestError: an override names no field, or does not fit.
    """
    config = _set(kind.Config(gan=protocol.gan), "prior", protocol, "priors", name, overrides)
    general = [path for path in overrides if path.startswith("prior.gan")]
    if general and "prior" in protocol.assets and config.source == "protocol":
        raise RequestError(
            f"--set {plain(general[0])}: {protocol.name} pins its general prior, which these "
            "settings are no longer of; to train another one, add --set prior.source=scratch"
        )
    return config


def prior_kind_of(
    wanted: str | type[PriorKind[Any]], attack: str, attack_class: type[Attack[Any]]
) -> type[PriorKind[Any]]:
    """The kind of prior that is asked for, if the attack may see what that sees of the target.

    Raises:
        RequestError: it is none, or the attack cannot have it.
    """
    kind = PRIORS.get(wanted) if isinstance(wanted, str) else wanted
    if not (isinstance(kind, type) and issubclass(kind, PriorKind)):
        raise RequestError(
            f"{shown(attack)}: its prior is {shown(kind)}; write a registered name or a class that "
            "extends mibench.priors.PriorKind"
        )
    check_method(PRIORS.name_of(kind), kind)
    if attack_class.needs_realism and not kind.scores_realism:
        raise RequestError(
            f"the prior {shown(PRIORS.name_of(kind))} does not score how real images look, which "
            f"the attack {shown(attack)} asks for: choose another one with --prior"
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


@functools.lru_cache
def _check_methods(
    architecture: str,
    resolution: int,
    defense_class: type[Defense[Any]],
    config: str,
    attack_class: type[Attack[Any]],
    untrap: bool,
) -> None:
    """Build the defended network, which the defense or the attack may refuse.

    Args:
        config: the defense's, as JSON, since its own may be no key of a cache.
        untrap: whether the attack needs the triggers of the target's trapdoors.
    """
    defense = defense_class(defense_class.Config.model_validate_json(config))

    def deployed() -> Classifier:
        return defense.built(Classifier(architecture, 2, resolution))

    try:
        with torch.device("meta"):
            model = deployed()
    except RequestError:
        raise
    except Exception:  # a defense that computes while it builds, which `meta` cannot
        model = deployed()
    attack_class.check(model)
    if untrap and triggers_of(model) is None:
        raise RequestError(
            "an attack that ends in +untrap knows the triggers of a target's trapdoors, and under "
            f"the defense {shown(DEFENSES.name_of(defense_class))} this one has none: leave "
            "+untrap out, or choose a defense with trapdoors (`mibench list defenses`)"
        )


def check_method(name: str, method: type[Attack[Any] | Defense[Any] | PriorKind[Any]]) -> None:
    """Refuse a class that does not say what a cell needs of it, before anything long.

    Raises:
        RequestError: its card, its options or its main knob are not as the base class says.
    """
    bases = ((Attack, AttackCard), (Defense, DefenseCard), (PriorKind, None))
    base, card = next(each for each in bases if issubclass(method, each[0]))
    where = f"{shown(name)}: {method.__name__}"
    if card is not None and not isinstance(getattr(method, "card", None), card):
        raise RequestError(
            f"{where} has no card; write `card = {card.__name__}(…)` in it, as CONTRIBUTING.md "
            "shows"
        )
    own, config = base.Config, method.Config
    if not (isinstance(config, type) and issubclass(config, own)):
        raise RequestError(f"{where}.Config is {shown(config)}: it must extend {own.__name__}")
    for each, info in config.model_fields.items():
        if info.is_required():
            raise RequestError(f"{where}.Config: {each}: every field needs a default")
    if issubclass(method, Defense) and method.strength not in (None, *config.model_fields):
        hint = closest(str(method.strength), config.model_fields)
        raise RequestError(
            f"{where}.strength is {method.strength!r}, and its Config has no such field"
            f"{'; ' + hint if hint else ''}"
        )
    stated = method.needs if issubclass(method, PriorKind) else None
    stated = method.access if issubclass(method, Attack) else stated
    if stated not in (None, *ACCESS):
        raise RequestError(f"{where}: {stated!r} is no access; write one of {', '.join(ACCESS)}")


def _evaluators(protocol: Protocol) -> tuple[Protocol, dict[str, type[Evaluator]]]:
    """The kinds of a protocol's evaluators, which it names as they are registered from here on."""
    evaluators = {}
    for role in ("evaluator", "second"):
        config: EvaluatorConfig = getattr(protocol, role)
        evaluators[role] = EVALUATORS.get(config.kind)
        config = config.model_copy(update={"kind": EVALUATORS.name_of(evaluators[role])})
        evaluators[role].check(config, f"protocol.{role}")
        protocol = protocol.model_copy(update={role: config})
    return protocol, evaluators


def _judges(protocol: Protocol) -> tuple[Protocol, tuple[type[Judge], ...]]:
    """The kinds of its embedding judges, which it names as they are registered from here on."""
    judges = tuple(JUDGES.get(each.kind) for each in protocol.judges)
    cards = tuple(
        card.model_copy(update={"kind": JUDGES.name_of(kind)})
        for card, kind in zip(protocol.judges, judges, strict=True)
    )
    return protocol.model_copy(update={"judges": cards}), judges


def _outside(
    request: Request,
    card: Protocol,
    evaluators: Mapping[str, type[Evaluator]],
    judges: Sequence[type[Judge]],
) -> str | None:
    """Digest of what is not mibench's own in a protocol: a file's card, the evaluators' code."""
    found: dict[str, Any] = {
        role: code
        for role, kind in evaluators.items()
        if (code := outside_digest(kind, *EVALUATORS.files_of(kind)))
    }
    for number, kind in enumerate(judges):
        if code := outside_digest(kind, *JUDGES.files_of(kind)):
            found[f"judge {number}"] = code
    if is_file(request.protocol):
        # What its author wrote, so that a release with more fields is no change.
        said = card.model_dump(mode="json", exclude_unset=True)
        for role in evaluators:
            said[role].pop("kind", None)  # of a file, it is a path
        found["card"] = said
    return digest(found) if found else None


def _protocol(request: Request) -> tuple[Given | None, Protocol, Protocol]:
    """What is audited, if so; the card that was asked for, and the same with what was set."""
    given, fields = None, {}
    if request.audit is not None:
        given, card = _audited(request)
        fields = AuditData.model_fields
    elif request.protocol == "folder":
        if request.root is None:
            raise RequestError(_NO_ROOT.format("folder"))
        fields = FolderOptions.model_fields
        told = {k: v for k, v in _under("protocol", request.overrides).items() if k in fields}
        options = with_overrides(FolderOptions(), told, "protocol")
        images = None
        with contextlib.suppress(RequestError):  # dividing the folder says what is wrong with it
            images = options.expected_training_images(request.root)
        card = folder_protocol(FolderOptions(), request.preset or "small", images)
    else:
        if request.preset is not None:
            raise RequestError(f"--preset is for the protocol `folder`, not {request.protocol!r}")
        card = protocol_named(request.protocol)
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
    return given, card, with_overrides(card, wanted, "protocol")


# What of an audit is said by options, which the settings must not contradict.
_BY_OPTIONS = {
    "decoys": "--decoys",
    "trained_on": "--trained-on or --held-out",
    "resolution": "--size",
    "target": "--model",
}


def _audited(request: Request) -> tuple[Given, Protocol]:
    """What is audited, with the card that its pictures give."""
    assert request.audit is not None
    asked, images = request.audit, request.root
    if images is None:
        raise RequestError(f"{IMAGES}: name the folder of the private images")
    for path in request.overrides:
        part, _, name = path.partition(".")
        if part in ("target", "defense"):
            raise RequestError(
                f"--set {plain(path)}: the network is given, and nobody trains it here; settings "
                "of attack, prior and protocol can be changed"
            )
        own = name.removeprefix("data.")
        if part == "protocol" and own in _BY_OPTIONS:
            raise RequestError(f"--set {plain(path)}: say it by {_BY_OPTIONS[own]}")
    fields = {
        path.removeprefix("data."): value
        for path, value in _under("protocol", request.overrides).items()
        if path.removeprefix("data.") in AuditData.model_fields
    }
    data = with_overrides(AuditData(trained_on=asked.trained_on), fields, "protocol")
    private = data.listing(images, IMAGES)
    given = Given.of(asked, data, images, private)
    decoys: Any = "given" if asked.decoys is not None else None
    if decoys is None and len(data.listing(asked.public, PUBLIC).names) > 1:
        decoys = "public"
    count = len(private) * (1 - data.test_fraction)
    data = AuditData(trained_on=asked.trained_on, decoys=decoys)
    preset = request.preset or "small"
    return given, audit_protocol(data, asked.model.size, preset, round(count))


def _set(
    config: Model,
    part: str,
    protocol: Protocol,
    methods: str,
    name: str,
    overrides: Mapping[str, Any],
) -> Model:
    """A method's settings below ``part.``: its defaults, then the card's, then what was passed."""
    card, said = getattr(protocol, methods).get(name, {}), f"the protocol {protocol.name}, "
    config = with_overrides(config, _under(part, card), part, f"{said}{methods}.{name}:")
    return with_overrides(config, _under(part, overrides), part)


def _under(part: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings below ``part.``."""
    found = {path.partition("."): value for path, value in settings.items()}
    return {field: value for (own, _, field), value in found.items() if own == part}


def _check_tables(protocol: Protocol, used: Mapping[str, str]) -> None:
    """Refuse a card's settings of a method that is a slip of the pen for a registered one.

    Of what is registered nowhere the card may hold settings: a file's method is known by its name
    in the cells that run it.

    Args:
        used: the cell's own methods, by what the card calls their settings.
    """
    for methods, registry in (("attacks", ATTACKS), ("defenses", DEFENSES), ("priors", PRIORS)):
        names: list[str] = registry.names()  # type: ignore[attr-defined]
        for name in getattr(protocol, methods).keys() - {*names, used[methods]}:
            if hint := closest(name, names):
                raise RequestError(
                    f"the protocol {protocol.name}, {methods}.{plain(name)}: nothing is called so; "
                    f"{hint}"
                )
