"""The stages of one cell: what each is called, what its key is, and which others it stands on.

A stage's key is made of all that affects its result, and is known without computing anything, so a
finished cell touches no image and no network, and a grid knows beforehand what its cells share.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm

from mibench import provenance
from mibench.data.division import Division, PreparedSplit
from mibench.models.initialisation import Initialisation
from mibench.resolve import Cell
from mibench.store import stage_key

_CORE = ("mibench.training", "mibench.models.classifiers", "mibench.streams", "mibench.data.images")
_RENDERER = ("mibench.data.synthfaces", "mibench.data.rendered", "mibench.streams")
_LOADERS = ("mibench.data.folder", "mibench.data.decode")
_GAN = ("mibench.gan_training", "mibench.models.gan")
_ATTACK_CORE = ("mibench.identity", "mibench.methods", "mibench.models.freeze")
_JUDGING = ("mibench.evaluate", "mibench.metrics")


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
        if self.split is not None:
            return {"split": self.split.digest, "resolution": protocol.resolution}
        return {"data": protocol.data.model_dump(mode="json"), "resolution": protocol.resolution}

    @functools.cached_property
    def data_key(self) -> str:
        """Key of the images."""
        sources: tuple[str, ...] = _RENDERER if self.split is None else _LOADERS
        if isinstance(self.split, PreparedSplit):
            sources = ()  # the contents of prepared files, and which are used, are in its digest
        return stage_key("data", self.data_inputs, None, [], provenance.source_digest(*sources))

    def start_inputs(self, architecture: str) -> dict[str, Any]:
        """What identifies the weights that a network starts from; nothing from scratch."""
        how = self.cell.protocol.start(architecture).model_copy(update={"note": None})
        if how == Initialisation():
            return {}
        return {"initialisation": how.identity(self.cell.weights[architecture])}

    def _network_sources(self, architecture: str) -> tuple[str, ...]:
        """Modules that define a network and its start, beside timm's."""
        own = timm.model_entrypoint(architecture).__module__
        start = ("mibench.models.initialisation",) if self.start_inputs(architecture) else ()
        return (*((own,) if own.startswith("mibench.") else ()), *start)

    @functools.cached_property
    def target_inputs(self) -> dict[str, Any]:
        """What identifies the target, beside images and seed."""
        cell = self.cell
        return {
            "architecture": cell.architecture,
            "training": cell.training.model_dump(mode="json"),
            "defense": cell.spec.defense,
            "config": cell.defense_config.model_dump(mode="json"),
            **self.start_inputs(cell.architecture),
        }

    @functools.cached_property
    def target_key(self) -> str:
        """Key of the target."""
        source = provenance.source_digest(
            *_CORE,
            *self._network_sources(self.cell.architecture),
            *provenance.method_sources(self.cell.defense_class),
        )
        return stage_key("target", self.target_inputs, self.seed, [self.data_key], source)

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
            return self.cell.protocol.assets["prior"].sha256
        inputs, source = self.general_prior_inputs, provenance.source_digest(*_GAN)
        return stage_key("general-prior", inputs, self.prior_seed, [self.data_key], source)

    @functools.cached_property
    def prior_inputs(self) -> dict[str, Any]:
        """What identifies the attack's own prior: the attack and its fields on priors."""
        config = self.cell.attack_config.model_dump(mode="json")
        own = {k: v for k, v in config.items() if k.startswith("prior_training")}
        return {"attack": self.cell.attack.base, **own}

    @functools.cached_property
    def prior_key(self) -> str:
        """Key of the attack's prior, which holds the target when the prior depends on it."""
        attack = self.cell.attack_class
        if not attack.own_prior():
            return self.general_prior_key
        parents = [self.general_prior_key, self.data_key]
        if attack.target_specific_prior():
            parents.append(self.target_key)
        source = provenance.source_digest(*_GAN, *provenance.method_sources(attack))
        return stage_key("prior", self.prior_inputs, self.seed, parents, source)

    def student_key(self, architecture: str) -> str:
        """Key of one student."""
        inputs = self.student_inputs(architecture)
        own = self._network_sources(architecture)
        source = provenance.source_digest(*_CORE, *own, "mibench.students")
        return stage_key("student", inputs, self.seed, [self.target_key, self.data_key], source)

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
        source = provenance.source_digest(
            *_ATTACK_CORE, *provenance.method_sources(self.cell.attack_class)
        )
        return stage_key("reconstructions", self.attack_inputs, self.seed, parents, source)

    def student_architectures(self) -> tuple[str, ...]:
        """The students that the attack takes along; none without model augmentation."""
        config = self.cell.attack_config
        return config.students.architectures if config.augment else ()

    def evaluator_key(self, role: str) -> str:
        """Key of an evaluator; a pinned one is identified by its checksum."""
        protocol = self.cell.protocol
        if role in protocol.assets:
            return protocol.assets[role].sha256
        own = self._network_sources(getattr(protocol, role).architecture)
        source = provenance.source_digest(*_CORE, *own, "mibench.models.evaluators")
        return stage_key("evaluator", self.evaluator_inputs(role), None, [self.data_key], source)

    def evaluator_inputs(self, role: str) -> dict[str, Any]:
        """What identifies an evaluator, beside the images; not the seed, for one judges all."""
        protocol = self.cell.protocol
        config = getattr(protocol, role)
        start = self.start_inputs(config.architecture)
        known = {"public": True} if protocol.judges_know_public else {}
        return {"role": role, **config.model_dump(mode="json"), **start, **known}

    @functools.cached_property
    def _judging(self) -> tuple[dict[str, Any], list[str], str]:
        """Inputs, parents and source of every stage that judges images."""
        protocol = self.cell.protocol
        fields = {"name", "version", "samples", "attacked", "chance_kappa"}
        inputs = protocol.model_dump(mode="json", include=fields)
        inputs |= self._share
        inputs["pinned"] = {role: asset.sha256 for role, asset in protocol.assets.items()}
        parents = [
            self.target_key,
            self.evaluator_key("evaluator"),
            self.evaluator_key("second"),
            self.general_prior_key,
        ]
        return inputs, parents, provenance.source_digest(*_JUDGING)

    @functools.cached_property
    def judging_inputs(self) -> dict[str, Any]:
        """What identifies the judging, beside its parents."""
        return self._judging[0]

    @functools.cached_property
    def references_key(self) -> str:
        """Key of floors, ceiling and accuracies: they depend on the target, not on the attack."""
        inputs, parents, source = self._judging
        return stage_key("references", inputs, self.seed, parents, source)

    @functools.cached_property
    def metrics_key(self) -> str:
        """Key of the last stage: the metrics and the picture."""
        inputs, parents, source = self._judging
        source += provenance.source_digest("mibench.pictures")
        parents = [*parents, self.reconstructions_key]
        return stage_key("metrics", inputs, self.seed, parents, source)

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
