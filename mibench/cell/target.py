"""The stage of the target: a classifier of the private identities, trained under the defense."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import Tensor

from mibench.cell.stage import Bench, Stage
from mibench.data.images import to_float
from mibench.models.classifiers import Classifier, predict
from mibench.models.freeze import freeze
from mibench.models.initialisation import Initialisation, initialise
from mibench.settings import counted
from mibench.store.artifact import Artifact, save_json, save_tensors
from mibench.streams import seeded, stream
from mibench.training.defense import claimed
from mibench.training.loop import Job, train

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


def deployed(cell: Cell, identities: int, tensors: Mapping[str, Tensor]) -> Classifier:
    """The network that a target's weights are of, on the CPU; those it started from are not read.

    Raises:
        RuntimeError: they are of another one.
    """
    with seeded(stream(0, "weights are loaded")):
        empty = Classifier(cell.architecture, identities, cell.protocol.resolution)
        model = cell.defense_class(cell.defense_config).built(empty)
    model.load_state_dict(tensors)
    return model


class Trained:
    """A trained target.

    Attributes:
        result: how its training ended, with its guarantee; ``diverged`` is null or says why.
        model: the deployed network, in evaluation mode.
        frozen: the network as attacks run it: frozen, BatchNorm folded.
        unfolded: the same with its BatchNorm in place.
    """

    def __init__(
        self,
        result: dict[str, Any],
        stage: Stage[Trained],
        images: Images,
        bench: Bench,
        load: Callable[[], Classifier],
    ) -> None:
        self.result = result
        self._stage, self._images, self._bench, self._load = stage, images, bench, load

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
        return self._frozen(fold=True)

    @property
    def unfolded(self) -> Classifier:
        return self._frozen(fold=False)

    def _frozen(self, *, fold: bool) -> Classifier:
        def make() -> Classifier:
            data = self._bench.get(self._images)
            return freeze(self.model, to_float(data.public.images[:2]), fold=fold)

        return self._bench.once((self._stage.key, "frozen", fold), make)


class Target(Stage[Trained]):
    """Train the target; a diverged one is a result, too."""

    kind = "target"

    def __init__(self, cell: Cell, images: Images) -> None:
        self.cell, self.images = cell, images
        inputs = {
            "architecture": cell.architecture,
            "training": counted(cell.training),
            "defense": cell.defense_name,
            "config": counted(cell.defense_config),
            **start_inputs(cell, cell.architecture),
        }
        # A filter of answers changes nothing of the training: it stands before the same network.
        filters = cell.defense_class.filters()
        self.trained_as = "none" if filters else cell.defense_name
        if filters:  # which the card says, and cards are in no key
            inputs["trained_as"] = self.trained_as
        methods: list[type | str | ModuleType] = [cell.defense_class, *cell.defense_modules]
        methods += defined(cell.architecture)
        super().__init__(inputs, cell.request.seed, [images], methods)

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        cell, data = self.cell, bench.get(self.images)
        rng = stream(cell.request.seed, "target", cell.architecture, self.trained_as)
        defense = cell.defense_class(cell.defense_config)
        start = cell.protocol.start(cell.architecture)
        with seeded(rng):
            model = Classifier(cell.architecture, data.identities, cell.protocol.resolution)
            model = defense.built(initialise(model, start))
        job = Job(model, data.train, data.val, data.public, cell.training, rng, bench.progress)
        result = train(job, defense)
        save_tensors(folder / "model.safetensors", dict(job.model.state_dict()))
        diverged = result.diverged
        logits, _ = predict(job.model, data.val.images, progress=bench.progress, label="testing")
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

    def load(self, bench: Bench) -> Trained:
        artifact = bench.artifact(self)
        result: dict[str, Any] = artifact.load_json("result.json")
        if result["diverged"] is None:
            accuracy, chance = result["validation_accuracy"], 1 / result["identities"]
            if (accuracy - chance) / (1 - chance) <= self.cell.protocol.chance_kappa:
                at = f"validation accuracy {accuracy:.1%} is at chance ({chance:.1%})"
                result = {**result, "diverged": at}
        return Trained(result, self, self.images, bench, lambda: self.restored(artifact, bench))

    def restored(self, artifact: Artifact, bench: Bench) -> Classifier:
        """The deployed network with the weights that an artifact holds."""
        tensors, data = artifact.load_tensors("model.safetensors"), bench.get(self.images)
        return deployed(self.cell, data.identities, tensors).to(bench.device).eval()
