"""The stages of one cell: what each is called, what its key is, and which others it stands on.

A stage's key is made of all that affects its result, and is known without computing anything, so a
finished cell touches no image and no network, and a grid knows beforehand what its cells share.

The code of a stage is what can be reached by name from the method of
:class:`~mibench.cell.stages.Stages` that computes and loads it, or from the function that does;
where that comes to another stage, it stops, for the other's key is a parent.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from mibench.cell.resolve import Cell
from mibench.data.catalog import reader
from mibench.data.division import Division, PreparedSplit
from mibench.data.identity_split import IdentitySplit
from mibench.data.rendered import SynthFacesData
from mibench.data.splits import FolderOptions
from mibench.errors import RequestError
from mibench.inversion.attack import ATTACKS
from mibench.judges import JUDGES
from mibench.metrics.inception import SHA256, find_inception, inception_place
from mibench.models.initialisation import Initialisation
from mibench.store.source import code_digest
from mibench.store.store import stage_key
from mibench.training.defense import DEFENSES
from mibench.types import digest

_STAGES = "mibench.cell.stages:Stages"
_DATA = {
    SynthFacesData: "mibench.data.rendered:render_dataset",
    FolderOptions: "mibench.data.folder:load_folder",
    IdentitySplit: "mibench.data.division:PreparedSplit",
}
# What hands one stage's result to another, or runs and stores any stage; and methods' base classes,
# which the methods' own code holds.
_BETWEEN = {"mibench.inversion.attack:Attack", "mibench.training.defense:Defense"} | {
    f"{_STAGES}.{name}"
    for name in (
        "data",
        "target",
        "target_result",
        "general_prior",
        "prior",
        "student",
        "reconstructions",
        "evaluator",
        "stage",
    )
}
# What trains a network that a protocol may pin.
_TRAINS = (
    "mibench.priors.gan:train_general_gan",
    "mibench.judges._judge:train_judge",
    "mibench.judges.classifier:ClassifierJudge.train",
)


@functools.cache  # mibench's own code is what this process loaded
def _code(*roots: str, pinned: bool = False) -> str:
    """Digest of mibench's own code behind a stage; of a pinned network, of what loads it."""
    stops = (_BETWEEN - set(roots)) | set(_TRAINS if pinned else ())
    return code_digest(*roots, stops=stops)


def _inception() -> str | None:
    """SHA-256 of Inception's weights; None where they are absent or others, and FID is missing."""
    try:
        place = inception_place()
        status = place.stat()
    except (OSError, RequestError):
        return None
    return _inception_at(place, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _inception_at(place: Path, _mtime_ns: int, _size: int) -> str | None:
    return SHA256 if isinstance(find_inception(place), Path) else None


@dataclass(frozen=True)
class Task:
    """One stage of a cell.

    Attributes:
        name: as progress shows it: ``"target"``, ``"student resnet18"``.
        key: of its artifact; equal keys are one artifact, in whatever cells.
        inputs: what the key was made of, for the manifest.
        parents: names of the stages that it reads.
    """

    name: str
    key: str
    inputs: dict[str, Any]
    parents: tuple[str, ...]

    @property
    def stage(self) -> str:
        """The kind of stage, which is the store's folder: ``"student"``."""
        return self.name.split(" ")[0]


def needed(plan: dict[str, Task], present: Callable[[Task], bool]) -> list[Task]:
    """The stages to compute for the last one, and those that they read; parents come first.

    Args:
        plan: stages by name, parents first, the wanted one last.
        present: whether the store holds a stage's artifact.
    """
    goal = next(reversed(plan))
    absent: set[str] = set()
    pending = [goal]
    while pending:
        name = pending.pop()
        if name not in absent and not present(plan[name]):
            absent.add(name)
            pending += plan[name].parents
    read = {parent for name in absent for parent in plan[name].parents}
    return [task for name, task in plan.items() if name in absent | read | {goal}]


class Keys:
    """Keys of the stages of a cell.

    Args:
        cell: the resolved cell.
        split: how the images are divided; None where they are rendered.
    """

    def __init__(self, cell: Cell, split: Division | None = None) -> None:
        self.cell, self.split = cell, split
        self.seed = cell.spec.seed

    @functools.cached_property
    def data_inputs(self) -> dict[str, Any]:
        """What identifies the images."""
        protocol = self.cell.protocol
        if isinstance(self.split, PreparedSplit):
            sets = filter(None, (self.split.spec.dataset, self.split.spec.public_dataset))
            mirror = {name: reader(name).card.mirror for name in sets}
            inputs = {"split": self.split.digest, "mirror": mirror}
            return {**inputs, "resolution": protocol.resolution}
        if self.split is not None:
            return {"split": self.split.digest, "resolution": protocol.resolution}
        return {"data": protocol.data.model_dump(mode="json"), "resolution": protocol.resolution}

    @functools.cached_property
    def data_key(self) -> str:
        """Key of the images."""
        code = _code(_DATA[type(self.cell.protocol.data)], f"{_STAGES}.data")
        return stage_key("data", self.data_inputs, None, [], code)

    def start_inputs(self, architecture: str) -> dict[str, Any]:
        """What identifies the weights that a network starts from; nothing from scratch."""
        how = self.cell.protocol.start(architecture).model_copy(update={"note": None})
        if how == Initialisation():
            return {}
        return {"initialisation": how.identity(self.cell.weights[architecture])}

    def _trains(self, stage: str, architecture: str) -> str:
        """Digest of the code behind a stage that trains a network."""
        defined = timm.model_entrypoint(architecture).__module__
        own = [] if defined.startswith("timm.") else [code_digest(defined)]
        return digest([_code(f"{_STAGES}.{stage}"), *own])

    @functools.cached_property
    def target_inputs(self) -> dict[str, Any]:
        """What identifies the target, beside images and seed."""
        cell = self.cell
        return {
            "architecture": cell.architecture,
            "training": cell.training.model_dump(mode="json"),
            "defense": cell.defense_name,
            "config": cell.defense_config.model_dump(mode="json"),
            **self.start_inputs(cell.architecture),
        }

    @functools.cached_property
    def target_key(self) -> str:
        """Key of the target."""
        cell = self.cell
        method = code_digest(cell.defense_class, also=DEFENSES.files_of(cell.defense_class))
        ends = _code(f"{_STAGES}.target_result")
        code = digest([self._trains("target", cell.architecture), ends, method])
        return stage_key("target", self.target_inputs, self.seed, [self.data_key], code)

    @property
    def general_prior_is_trained(self) -> bool:
        """Whether the general prior is a stage: the protocol pins none, or it was asked for."""
        source = self.cell.attack_config.prior.source
        return source == "scratch" or "prior" not in self.cell.protocol.assets

    @property
    def prior_seed(self) -> int:
        """Seed of the general prior: the protocol's, or the cell's."""
        fixed = self.cell.protocol.prior_seed
        return self.seed if fixed is None else fixed

    @functools.cached_property
    def general_prior_inputs(self) -> dict[str, Any]:
        """What identifies the general prior, beside images and seed."""
        return self.cell.attack_config.prior.gan.model_dump(mode="json")

    @functools.cached_property
    def general_prior_key(self) -> str:
        """Key of the general prior; a pinned one is identified by its checksum."""
        if not self.general_prior_is_trained:
            return self._pinned("prior", "general_prior")
        inputs, code = self.general_prior_inputs, _code(f"{_STAGES}.general_prior")
        return stage_key("general-prior", inputs, self.prior_seed, [self.data_key], code)

    def _pinned(self, role: str, stage: str, *roots: str) -> str:
        """Key of a network that the protocol pins: its checksum, and the code that loads it."""
        inputs = {"sha256": self.cell.protocol.assets[role].sha256}
        return stage_key(
            "pinned", inputs, None, [], _code(f"{_STAGES}.{stage}", *roots, pinned=True)
        )

    @functools.cached_property
    def prior_inputs(self) -> dict[str, Any]:
        """What identifies the attack's own prior: all that its training sees of the config."""
        attack = self.cell.attack_class
        seen = set(attack.prior_config(self.cell.attack_config).__dict__)
        config = self.cell.attack_config.model_dump(mode="json", include=seen)
        return {"attack": self.cell.attack.base, **config}

    @functools.cached_property
    def prior_key(self) -> str:
        """Key of the attack's prior, which holds the target when the prior depends on it."""
        attack = self.cell.attack_class
        if not attack.own_prior():
            return self.general_prior_key
        parents = [self.general_prior_key, self.data_key]
        if attack.target_specific_prior():
            parents.append(self.target_key)
        # No attack's problem comes near its prior.
        own = self._attack_code("mibench.inversion.attack:Problem")
        code = digest([_code(f"{_STAGES}.prior"), own])
        return stage_key("prior", self.prior_inputs, self.seed, parents, code)

    def _attack_code(self, *stops: str) -> str:
        attack = self.cell.attack_class
        return code_digest(attack, also=ATTACKS.files_of(attack), stops=stops)

    def student_key(self, architecture: str) -> str:
        """Key of one student."""
        inputs, code = self.student_inputs(architecture), self._trains("student", architecture)
        return stage_key("student", inputs, self.seed, [self.target_key, self.data_key], code)

    def student_inputs(self, architecture: str) -> dict[str, Any]:
        """What identifies a student, beside the target and the images."""
        training = self.cell.attack_config.students.training.model_dump(mode="json")
        start = self.start_inputs(architecture)
        return {"architecture": architecture, "training": training, **start}

    @functools.cached_property
    def attack_inputs(self) -> dict[str, Any]:
        """What identifies the attack, beside its parents: `max_rows` bounds memory, not results."""
        config = self.cell.attack_config.model_dump(mode="json", exclude={"max_rows", "students"})
        protocol = self.cell.protocol
        return {
            "attack": self.cell.attack.full,
            "config": config,
            "attacked": protocol.attacked,
            "samples": protocol.samples,
            **self._share,
        }

    @property
    def _share(self) -> dict[str, float]:
        """The share of the budget, which decides what is attacked and judged."""
        return {"budget": self.cell.spec.budget} if self.cell.spec.budget != 1 else {}

    @functools.cached_property
    def reconstructions_key(self) -> str:
        """Key of the reconstructions."""
        students = [self.student_key(each) for each in self.student_architectures()]
        parents = [self.target_key, self.prior_key, *students]
        code = digest([_code(f"{_STAGES}.reconstructions"), self._attack_code()])
        return stage_key("reconstructions", self.attack_inputs, self.seed, parents, code)

    def student_architectures(self) -> tuple[str, ...]:
        """The students that the attack takes along; none without model augmentation."""
        config = self.cell.attack_config
        return config.students.architectures if config.augment else ()

    def evaluator_key(self, role: str) -> str:
        """Key of an evaluator; a pinned one is identified by its checksum."""
        protocol, kind = self.cell.protocol, self.cell.judges[role]
        if role in protocol.assets:
            return self._pinned(role, "evaluator", f"{kind.__module__}:{kind.__qualname__}")
        config = getattr(protocol, role)
        method = code_digest(kind, also=JUDGES.files_of(kind))
        networks = [self._trains("evaluator", each) for each in kind.networks(config)]
        code = digest([_code(f"{_STAGES}.evaluator"), method, *networks])
        return stage_key("evaluator", self.evaluator_inputs(role), None, [self.data_key], code)

    def evaluator_inputs(self, role: str) -> dict[str, Any]:
        """What identifies an evaluator, beside the images; not the seed, for one judges all."""
        protocol = self.cell.protocol
        config = getattr(protocol, role)
        networks = self.cell.judges[role].networks(config)
        start = {each: inputs for each in networks if (inputs := self.start_inputs(each))}
        known = {"public": True} if protocol.judges_know_public else {}
        # Its generator is seeded with the protocol's name.
        own = {"role": role, "protocol": protocol.name}
        return {**own, **config.model_dump(mode="json"), **known, "start": start}

    @functools.cached_property
    def _judging(self) -> tuple[dict[str, Any], list[str]]:
        """Inputs and parents of every stage that judges images."""
        protocol = self.cell.protocol
        fields = {"name", "version", "samples", "attacked", "chance_kappa"}
        inputs = protocol.model_dump(mode="json", include=fields)
        inputs |= self._share
        inputs["pinned"] = {role: asset.sha256 for role, asset in protocol.assets.items()}
        inputs["inception"] = _inception()
        parents = [
            self.target_key,
            self.evaluator_key("evaluator"),
            self.evaluator_key("second"),
            self.general_prior_key,
        ]
        return inputs, parents

    @functools.cached_property
    def judging_inputs(self) -> dict[str, Any]:
        """What identifies the judging, beside its parents."""
        return self._judging[0]

    @functools.cached_property
    def references_key(self) -> str:
        """Key of floors, ceiling and accuracies: they depend on the target, not on the attack."""
        inputs, parents = self._judging
        return stage_key(
            "references",
            inputs,
            self.seed,
            parents,
            _code("mibench.cell.results:references", f"{_STAGES}.labels"),
        )

    @functools.cached_property
    def metrics_key(self) -> str:
        """Key of the last stage: the metrics and the picture."""
        inputs, parents = self._judging
        parents = [*parents, self.references_key, self.reconstructions_key]
        return stage_key(
            "metrics",
            inputs,
            self.seed,
            parents,
            _code("mibench.cell.results:result", f"{_STAGES}.private_images"),
        )

    def plan(self) -> dict[str, Task]:
        """All stages of the cell by name, parents first; what is pinned is no stage."""
        assets, attack = self.cell.protocol.assets, self.cell.attack_class
        tasks: dict[str, Task] = {}

        def add(name: str, key: str, inputs: dict[str, Any], *parents: str) -> None:
            there = tuple(parent for parent in parents if parent in tasks)
            tasks[name] = Task(name, key, inputs, there)

        if not isinstance(self.split, PreparedSplit):  # which is read where it lies
            add("data", self.data_key, self.data_inputs)
        add("target", self.target_key, self.target_inputs, "data")
        if self.general_prior_is_trained:
            add("general-prior", self.general_prior_key, self.general_prior_inputs, "data")
        if attack.own_prior():
            on_target = ("target",) if attack.target_specific_prior() else ()
            parents = ("data", "general-prior", *on_target)
            add("prior", self.prior_key, self.prior_inputs, *parents)
        students = []
        for each in self.student_architectures():
            students.append(f"student {each}")
            add(students[-1], self.student_key(each), self.student_inputs(each), "data", "target")
        attacked = ("data", "target", "general-prior", "prior", *students)
        add("reconstructions", self.reconstructions_key, self.attack_inputs, *attacked)
        evaluators = []
        for role in ("evaluator", "second"):
            if role not in assets:
                evaluators.append(evaluator_stage(role))
                inputs = self.evaluator_inputs(role)
                add(evaluators[-1], self.evaluator_key(role), inputs, "data")
        judged = ("data", "target", "general-prior", *evaluators)
        add("references", self.references_key, self.judging_inputs, *judged)
        everything = (*judged, "reconstructions", "references")
        add("metrics", self.metrics_key, self.judging_inputs, *everything)
        return tasks


def evaluator_stage(role: str) -> str:
    """Name of the stage that trains an evaluator."""
    return role if role == "evaluator" else f"evaluator {role}"
