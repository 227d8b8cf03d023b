"""The stages of one cell, computed: from images to reconstructions.

Each stage is read from the store, or computed and stored; what it stands on is fetched likewise.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mibench.assets import load_asset
from mibench.cell.keys import Keys, evaluator_stage
from mibench.cell.resolve import Cell
from mibench.data.division import Division, PreparedSplit
from mibench.data.folder import load_folder
from mibench.data.images import Dataset, ImageSet
from mibench.data.rendered import SynthFacesData, render_dataset
from mibench.data.splits import FolderSplit
from mibench.errors import DivergedError, JudgeDivergedError
from mibench.inversion.access import ACCESS, WhiteBoxTarget
from mibench.inversion.attack import PriorJob, Problem
from mibench.inversion.identity import FeatureStatistics, IdentityLoss
from mibench.judges import Judge, JudgeConfig, JudgeJob, restored_judge, train_judge
from mibench.models.classifiers import Classifier, predict
from mibench.models.freeze import freeze
from mibench.models.initialisation import Initialisation, initialise
from mibench.priors._networks import Prior
from mibench.priors.gan import train_general_gan
from mibench.progress import Progress
from mibench.settings import LEAST_IDENTITIES, share_of
from mibench.store import environment as provenance
from mibench.store.artifact import Artifact, save_json, save_tensors
from mibench.store.store import Store
from mibench.streams import stream
from mibench.training.defense import claimed
from mibench.training.loop import train_classifier
from mibench.training.students import distill

_JUDGES = {"evaluator": "evaluator", "second": "second evaluator"}
_STATISTICS_IMAGES = 5000  # public images behind LOM's feature statistics (seed paper)

Compute = Callable[[Path], dict[str, Any]]


class Stages(Keys):
    """The stages of a cell against a store.

    Args:
        cell: the resolved cell.
        store: where artifacts live.
        device: where tensors live.
        progress: told of stages and steps.
        split: how the images are divided; None where they are rendered.
    """

    def __init__(
        self,
        cell: Cell,
        store: Store,
        device: torch.device,
        progress: Progress,
        split: Division | None = None,
    ) -> None:
        super().__init__(cell, split)
        self.store, self.device, self.progress = store, device, progress
        self.computed: set[str] = set()  # names of the stages that were not cached
        self._told: set[str] = set()  # names of the stages that progress was told of
        self._within: list[float] = [0.0]  # seconds of the stages computed inside each open one

    @property
    def seconds(self) -> float:
        """Seconds spent in computing stages so far."""
        return self._within[0]

    def stage(self, name: str, key: str, inputs: dict[str, Any], compute: Compute) -> Artifact:
        """The artifact of a stage, computed if need be; its cost is kept with it."""

        def timed(folder: Path) -> dict[str, Any]:
            self.progress.stage(name, "computing")
            start = time.monotonic()
            self._within.append(0.0)
            try:
                cost = compute(folder)
            finally:
                inside = self._within.pop()
            elapsed = time.monotonic() - start
            self._within[-1] += elapsed
            return {
                "seconds": round(elapsed - inside, 3),
                "peak_memory_bytes": provenance.peak_memory_bytes(self.device),
                **cost,
            }

        artifact = self.store.get_or_compute(name.split(" ")[0], key, inputs, timed, self.device)
        if not artifact.cached:
            self.computed.add(name)
        if not artifact.cached or name not in self._told:
            seconds = float(artifact.manifest.cost.get("seconds", 0))
            self.progress.stage(name, "cached" if artifact.cached else "done", seconds)
        self._told.add(name)
        return artifact

    @functools.cached_property
    def data(self) -> Dataset:
        """The images, on the device."""
        if isinstance(self.split, PreparedSplit):
            for _ in self.progress.steps(1, "reading and checking the prepared pictures"):
                dataset = self.split.load().to(self.device)
            return dataset

        def compute(folder: Path) -> dict[str, Any]:
            dataset = self._make_data()
            tensors = {"attributes": dataset.attributes} if dataset.attributes is not None else {}
            names: dict[str, tuple[str, ...]] = {}
            for part in ("train", "val", "test", "public"):
                images: ImageSet = getattr(dataset, part)
                tensors[f"{part}.images"], tensors[f"{part}.labels"] = images.images, images.labels
                names[part] = images.names
            save_tensors(folder / "images.safetensors", tensors)
            save_json(folder / "names.json", names)
            return {}

        artifact = self.stage("data", self.data_key, self.data_inputs, compute)
        tensors = artifact.load_tensors("images.safetensors")
        names = artifact.load_json("names.json")

        def part(name: str) -> ImageSet:
            labels = tensors[f"{name}.labels"]
            return ImageSet(tensors[f"{name}.images"], labels, tuple(names[name]))

        dataset = Dataset(
            part("train"), part("val"), part("test"), part("public"), tensors.get("attributes")
        )
        return dataset.to(self.device)

    def _make_data(self) -> Dataset:
        protocol = self.cell.protocol
        if isinstance(protocol.data, SynthFacesData):
            return render_dataset(protocol.data, protocol.resolution, self.progress)
        assert isinstance(self.split, FolderSplit)
        assert self.cell.spec.root is not None
        images = len(self.split.files)
        self.progress.begin(images, "pictures")
        try:
            return load_folder(
                self.cell.spec.root,
                self.split,
                protocol.resolution,
                progress=lambda done, total: self.progress.advance(1),
            )
        finally:
            self.progress.end()

    @functools.cached_property
    def target_result(self) -> dict[str, Any]:
        """How training the target ended, with its guarantee; ``diverged`` is null or says why."""
        result: dict[str, Any] = self._target_artifact.load_json("result.json")
        if result["diverged"] is None:
            accuracy, chance = result["validation_accuracy"], 1 / result["identities"]
            if (accuracy - chance) / (1 - chance) <= self.cell.protocol.chance_kappa:
                at = f"validation accuracy {accuracy:.1%} is at chance ({chance:.1%})"
                return {**result, "diverged": at}
        return result

    @functools.cached_property
    def _target_artifact(self) -> Artifact:
        return self.stage("target", self.target_key, self.target_inputs, self._train_target)

    def _train_target(self, folder: Path) -> dict[str, Any]:
        cell, data = self.cell, self.data
        generator = stream(self.seed, "target", cell.architecture, cell.defense_name)
        defense = cell.defense_class(cell.defense_config)
        defense.check(data.train.labels.cpu(), cell.training)
        model = self._empty_target(defense, generator, cell.protocol.start(cell.architecture))
        model = defense.pretrain(model, data.public, generator, self.progress)
        model, result = train_classifier(
            model, data.train, cell.training, generator, self.progress, defense
        )
        save_tensors(folder / "model.safetensors", dict(model.state_dict()))
        diverged = result.diverged
        images = data.val.images
        logits, _ = predict(defense.deploy(model), images, progress=self.progress, label="testing")
        if diverged is None and not torch.isfinite(logits).all():
            diverged = "its outputs on the validation images are not finite"
        summary: dict[str, Any] = {
            "steps": result.steps,
            "loss": result.loss if diverged is None else None,
            "diverged": diverged,
            "guarantee": claimed(defense),
            "identities": data.identities,
            "validation_images": len(data.val),
        }
        if diverged is None:
            accuracy = (logits.argmax(1) == data.val.labels).float().mean()
            summary["validation_accuracy"] = round(float(accuracy), 6)
        save_json(folder / "result.json", summary)
        return {"iterations": result.steps}

    def _empty_target(
        self, defense: Any, generator: torch.Generator, start: Initialisation
    ) -> Classifier:
        cell, data = self.cell, self.data
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            model = Classifier(cell.architecture, data.identities, cell.protocol.resolution)
            return defense.prepare(initialise(model, start))

    @functools.cached_property
    def target(self) -> Classifier:
        """The deployed target, in evaluation mode."""
        defense = self.cell.defense_class(self.cell.defense_config)
        weights = self._target_artifact.load_tensors("model.safetensors")
        # Its weights are in the store: those that it started from are not loaded again.
        scratch = Initialisation()
        model = self._empty_target(defense, stream(0, "weights are loaded"), scratch)
        model.load_state_dict(weights)
        return defense.deploy(model).to(self.device).eval()

    @functools.cached_property
    def frozen_target(self) -> Classifier:
        """The target as attacks run it: frozen, BatchNorm folded."""
        return freeze(self.target, self._sample())

    def _sample(self) -> Tensor:
        return self.data.public.images[:2].float() / 255

    def general_prior(self) -> Prior:
        """A fresh copy of the general prior: pinned, or trained once.

        Raises:
            DivergedError: its training left the numbers.
        """
        config = self.cell.attack_config.prior
        if not self.general_prior_is_trained:
            tensors, description = load_asset(self.cell.protocol.assets["prior"])
            return Prior.rebuild(description, tensors).to(self.device)

        def compute(folder: Path) -> dict[str, Any]:
            generator = stream(self.prior_seed, "general prior")
            public = self.data.public
            maker, critic = train_general_gan(public, config.gan, generator, self.progress)
            recipe = f"{config.gan.recipe} GAN, {config.gan.steps} steps"
            _save_prior(folder, Prior(maker, critic, recipe))
            return {"iterations": config.gan.steps}

        artifact = self.stage(
            "general-prior", self.general_prior_key, self.general_prior_inputs, compute
        )
        return _load_prior(artifact, "general prior").to(self.device)

    @functools.cached_property
    def prior(self) -> Prior:
        """The attack's prior.

        Raises:
            DivergedError: its training, or that of the general prior, left the numbers.
        """
        kind = self.cell.attack_class
        if not kind.own_prior():
            return self.general_prior()

        def compute(folder: Path) -> dict[str, Any]:
            attack = kind(kind.prior_config(self.cell.attack_config))
            generator = stream(self.seed, "prior", self.cell.attack.base)
            job = PriorJob(self.data.public, self.general_prior, generator, self.progress)
            extra = {"target": self.frozen_target} if kind.target_specific_prior() else {}
            devices = [self.device] if self.device.type == "cuda" else []
            # A stochastic target draws its noise from torch's own generator: seed that too.
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(stream(self.seed, "prior", "noise").initial_seed() % 2**63)
                prior = attack.train_prior(job, **extra)
            _save_prior(folder, prior)
            return {}

        artifact = self.stage("prior", self.prior_key, self.prior_inputs, compute)
        return _load_prior(artifact, "prior").to(self.device)

    def student(self, architecture: str) -> Classifier:
        """A student distilled from the target on public images, frozen.

        Raises:
            DivergedError: its loss left the numbers.
        """

        protocol = self.cell.protocol

        def build(generator: torch.Generator) -> Classifier:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
                return Classifier(architecture, self.data.identities, protocol.resolution)

        def compute(folder: Path) -> dict[str, Any]:
            generator = stream(self.seed, "student", architecture)
            model, result, agreement = distill(
                self.frozen_target,
                initialise(build(generator), protocol.start(architecture)),
                self.data.public,
                self.cell.attack_config.students.training,
                generator,
                self.progress,
            )
            summary = {"agreement": agreement, "loss": result.loss, "diverged": result.diverged}
            if result.diverged is not None:
                summary |= {"agreement": None, "loss": None}
            save_tensors(folder / "model.safetensors", dict(model.state_dict()))
            save_json(folder / "result.json", summary)
            return {"iterations": result.steps}

        artifact = self.stage(
            f"student {architecture}",
            self.student_key(architecture),
            self.student_inputs(architecture),
            compute,
        )
        diverged = artifact.load_json("result.json")["diverged"]
        if diverged is not None:
            raise DivergedError(f"student {architecture}: {diverged}")
        model = build(stream(0, "weights are loaded"))
        model.load_state_dict(artifact.load_tensors("model.safetensors"))
        return freeze(model.to(self.device).eval(), self._sample())

    def private_images(self) -> tuple[Tensor, list[str]]:
        """A private training image of each attacked identity ``(k, 3, h, w)`` in [0, 1]; names."""
        train = self.data.train
        first = [train.images[train.labels == label][0] for label in self.labels]
        names = [train.names[label] for label in self.labels.tolist()]
        return torch.stack(first).float() / 255, names

    @functools.cached_property
    def labels(self) -> Tensor:
        """The attacked identities."""
        there, attacked = self.data.identities, self.cell.protocol.attacked
        if attacked is None:  # a share of what there is, where the card states no number
            attacked = share_of(there, self.cell.spec.budget, LEAST_IDENTITIES)
        return torch.arange(min(attacked, there), device=self.device)

    @functools.cached_property
    def reconstructions(self) -> Tensor:
        """The attack's output ``(identities, samples, 3, h, w)`` in [0, 1].

        Raises:
            DivergedError: a student or the attack left the numbers.
        """
        artifact = self.stage(
            "reconstructions", self.reconstructions_key, self.attack_inputs, self._attack
        )
        diverged = artifact.load_json("result.json")["diverged"]
        if diverged is not None:
            raise DivergedError(diverged)
        return artifact.load_tensors("reconstructions.safetensors")["images"].to(self.device)

    def _attack(self, folder: Path) -> dict[str, Any]:
        try:
            cost, diverged = self._invert(folder), None
        except DivergedError as error:
            cost, diverged = {}, str(error)
        save_json(folder / "result.json", {"diverged": diverged})
        return cost

    def _invert(self, folder: Path) -> dict[str, Any]:
        attack = self.cell.attack_class(self.cell.attack_config)
        prior = self.prior
        latent = torch.zeros(2, prior.generator.latent, device=self.device)
        frozen = Prior(
            freeze(prior.generator, latent),
            freeze(prior.critic, self._sample()),
            prior.recipe,
            prior.bank,
        )
        target = ACCESS[attack.access](self.frozen_target)
        problem = Problem(
            target=target,
            prior=frozen,
            identity_loss=self._identity_loss(target),
            labels=self.labels,
            samples=self.cell.protocol.samples,
            public=self.data.public,
            seed=self.seed,
            device=self.device,
            progress=self.progress,
        )
        images = attack(problem)
        save_tensors(
            folder / "reconstructions.safetensors", {"images": images, "labels": self.labels}
        )
        return {"queries": target.queries, "iterations": getattr(attack.config, "iterations", None)}

    def _identity_loss(self, target: Any) -> IdentityLoss | None:
        if not isinstance(target, WhiteBoxTarget):
            return None
        config, statistics = self.cell.attack_config.identity, None
        if config.objective == "logit":
            generator = stream(self.seed, "feature statistics")
            chosen = torch.randperm(len(self.data.public), generator=generator)
            images = self.data.public.images[chosen[:_STATISTICS_IMAGES].to(self.device)]
            features = predict(
                self.frozen_target, images, progress=self.progress, label="feature statistics"
            )[1]
            statistics = FeatureStatistics.of(features)
            target.queries += len(images)
        students = [self.student(each) for each in self.student_architectures()]
        return IdentityLoss(
            target.outputs, students, config, statistics, self.frozen_target.stochastic
        )

    def evaluator(self, role: str) -> Judge:
        """The evaluator (``"evaluator"``) or the second one (``"second"``): pinned, or trained.

        Raises:
            JudgeDivergedError: its training left the numbers, so nothing can be judged.
        """
        protocol = self.cell.protocol
        config: JudgeConfig = getattr(protocol, role)
        if role in protocol.assets:
            return restored_judge(*load_asset(protocol.assets[role])).to(self.device)
        kind = self.cell.judges[role]
        known = self.data.everyone if protocol.judges_know_public else self.data.train

        def compute(folder: Path) -> dict[str, Any]:
            # No seed: all cells of a protocol are judged by the same evaluator.
            generator = stream(0, role, protocol.name)
            job = JudgeJob(known, protocol.start, generator, self.progress, role)
            judge, result = train_judge(kind, config, len(known.names), job)
            save_tensors(folder / "model.safetensors", dict(judge.network.state_dict()))
            save_json(folder / "result.json", {"diverged": result.diverged})
            return {"iterations": result.steps}

        artifact = self.stage(
            evaluator_stage(role), self.evaluator_key(role), self.evaluator_inputs(role), compute
        )
        diverged = artifact.load_json("result.json")["diverged"]
        if diverged is not None:
            raise JudgeDivergedError(
                f"the {_JUDGES[role]} ({config.architecture or config.kind}) diverged: "
                f"{diverged}. Without it no cell of {protocol.name} can be judged: lower "
                f"protocol.{role}.training.learning_rate. What was computed before is kept"
            )
        judge = kind(config, len(known.names))
        return judge.restore(artifact.load_tensors("model.safetensors")).to(self.device)


def _save_prior(folder: Path, prior: Prior) -> None:
    save_tensors(folder / "prior.safetensors", prior.tensors())
    save_json(folder / "prior.json", prior.description())


def _load_prior(artifact: Artifact, name: str) -> Prior:
    tensors = artifact.load_tensors("prior.safetensors")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise DivergedError(f"the {name}'s training diverged: its weights are not finite")
    return Prior.rebuild(artifact.load_json("prior.json"), tensors)
