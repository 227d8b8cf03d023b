"""The stage of the target: a classifier of the private identities, trained under the defense."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import timm
import torch

from mibench.cell.stage import Bench, Stage
from mibench.models.classifiers import Classifier, predict
from mibench.models.freeze import freeze
from mibench.models.initialisation import Initialisation, initialise
from mibench.store.artifact import Artifact, save_json, save_tensors
from mibench.streams import stream
from mibench.training.defense import claimed
from mibench.training.loop import train_classifier

if TYPE_CHECKING:
    from mibench.cell.images import Images
    from mibench.cell.resolve import Cell


def start_inputs(cell: Cell, architecture: str) -> dict[str, Any]:
    """What identifies the weights that a network starts from; nothing from scratch."""
    how = cell.protocol.start(architecture).model_copy(update={"note": None})
    if how == Initialisation():
        return {}
    return {"initialisation": how.identity(cell.weights[architecture])}


def defined(architecture: str) -> list[str]:
    """The module that defines an architecture, where it is not timm's own."""
    module = timm.model_entrypoint(architecture).__module__
    return [] if module.startswith("timm.") else [module]


class Trained:
    """A trained target.

    Attributes:
        result: how its training ended, with its guarantee; ``diverged`` is null or says why.
        model: the deployed network, in evaluation mode.
        frozen: the network as attacks run it: frozen, BatchNorm folded.
    """

    def __init__(self, result: dict[str, Any], stage: Target, artifact: Artifact, bench: Bench):
        self.result = result
        self._stage, self._artifact, self._bench = stage, artifact, bench

    @property
    def diverged(self) -> str | None:
        """Why it is of no use, if so."""
        reason: str | None = self.result["diverged"]
        return reason

    @property
    def model(self) -> Classifier:
        return self._bench.once((self._stage.key, "model"), self._load)

    @property
    def frozen(self) -> Classifier:
        def make() -> Classifier:
            data = self._bench.get(self._stage.images)
            return freeze(self.model, data.public.images[:2].float() / 255)

        return self._bench.once((self._stage.key, "frozen"), make)

    def _load(self) -> Classifier:
        weights = self._artifact.load_tensors("model.safetensors")
        # Its weights are in the store: those that it started from are not loaded again.
        empty = self._stage.empty(self._bench, stream(0, "weights are loaded"), Initialisation())
        empty.load_state_dict(weights)
        defense = self._stage.cell.defense_class(self._stage.cell.defense_config)
        return defense.deploy(empty).to(self._bench.device).eval()


class Target(Stage[Trained]):
    """Train the target; a diverged one is a result, too."""

    kind = "target"

    def __init__(self, cell: Cell, images: Images) -> None:
        self.cell, self.images = cell, images
        inputs = {
            "architecture": cell.architecture,
            "training": cell.training.model_dump(mode="json"),
            "defense": cell.defense_name,
            "config": cell.defense_config.model_dump(mode="json"),
            **start_inputs(cell, cell.architecture),
        }
        methods: list[type | str | ModuleType] = [cell.defense_class, *cell.defense_modules]
        methods += defined(cell.architecture)
        super().__init__(inputs, cell.request.seed, [images], methods)

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        cell, data = self.cell, bench.get(self.images)
        generator = stream(cell.request.seed, "target", cell.architecture, cell.defense_name)
        defense = cell.defense_class(cell.defense_config)
        defense.check(data.train.labels.cpu(), cell.training)
        model = self.empty(bench, generator, cell.protocol.start(cell.architecture))
        model = defense.pretrain(model, data.public, generator, bench.progress)
        model, result = train_classifier(
            model, data.train, cell.training, generator, bench.progress, defense
        )
        save_tensors(folder / "model.safetensors", dict(model.state_dict()))
        diverged, deployed = result.diverged, defense.deploy(model)
        logits, _ = predict(deployed, data.val.images, progress=bench.progress, label="testing")
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

    def empty(self, bench: Bench, generator: torch.Generator, start: Initialisation) -> Classifier:
        """The network before its training, its structure as the defense wants it."""
        cell, data = self.cell, bench.get(self.images)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            model = Classifier(cell.architecture, data.identities, cell.protocol.resolution)
            defense = cell.defense_class(cell.defense_config)
            return defense.prepare(initialise(model, start))

    def load(self, bench: Bench) -> Trained:
        artifact = bench.artifact(self)
        result: dict[str, Any] = artifact.load_json("result.json")
        if result["diverged"] is None:
            accuracy, chance = result["validation_accuracy"], 1 / result["identities"]
            if (accuracy - chance) / (1 - chance) <= self.cell.protocol.chance_kappa:
                at = f"validation accuracy {accuracy:.1%} is at chance ({chance:.1%})"
                result = {**result, "diverged": at}
        return Trained(result, self, artifact, bench)
