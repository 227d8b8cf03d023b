"""The stages of model augmentation: students distilled from the target on public images.

What other networks that imitate the target share with them is here, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mibench.cell.stage import Bench, Stage
from mibench.cell.target import Target, defined, start_inputs
from mibench.data.images import to_float
from mibench.errors import DivergedError
from mibench.models.access import WhiteBoxTarget
from mibench.models.classifiers import Classifier
from mibench.models.freeze import freeze
from mibench.models.initialisation import initialise
from mibench.settings import counted
from mibench.store.artifact import save_json, save_tensors
from mibench.streams import seeded, stream
from mibench.training.loop import TrainingResult
from mibench.training.students import distill

if TYPE_CHECKING:
    from mibench.cell.images import Images
    from mibench.cell.resolve import Cell


class Imitator(Stage[Classifier]):
    """Train a network to answer as the target does; the result is frozen."""

    cell: Cell
    images: Images
    architecture: str

    def empty(self, bench: Bench, generator: torch.Generator) -> Classifier:
        """The network before its training."""
        identities = bench.get(self.images).identities
        with seeded(generator):
            return Classifier(self.architecture, identities, self.cell.protocol.resolution)

    def save(
        self, folder: Path, model: Classifier, result: TrainingResult, agreement: float
    ) -> None:
        """Write what its training came to."""
        summary = {"agreement": agreement, "loss": result.loss, "diverged": result.diverged}
        if result.diverged is not None:
            summary |= {"agreement": None, "loss": None}
        save_tensors(folder / "model.safetensors", dict(model.state_dict()))
        save_json(folder / "result.json", summary)

    def load(self, bench: Bench) -> Classifier:
        artifact = bench.artifact(self)
        diverged = artifact.load_json("result.json")["diverged"]
        if diverged is not None:
            raise DivergedError(f"{self.name}: {diverged}")
        model = self.empty(bench, stream(0, "weights are loaded"))
        model.load_state_dict(artifact.load_tensors("model.safetensors"))
        sample = to_float(bench.get(self.images).public.images[:2])
        return freeze(model.to(bench.device).eval(), sample)


class Student(Imitator):
    """Distill one student."""

    kind = "student"

    def __init__(self, cell: Cell, images: Images, target: Target, architecture: str) -> None:
        self.cell, self.images, self.target = cell, images, target
        self.architecture = architecture
        self.training = cell.attack_config.students.training
        training = counted(self.training)
        start = start_inputs(cell, architecture)
        inputs = {"architecture": architecture, "training": training, **start}
        methods = defined(architecture)
        super().__init__(inputs, cell.request.seed, [target, images], methods, architecture)

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        generator = stream(self.cell.request.seed, "student", self.architecture)
        teacher = WhiteBoxTarget(bench.get(self.target).frozen)
        model, result, agreement = distill(
            teacher,
            initialise(self.empty(bench, generator), self.cell.protocol.start(self.architecture)),
            bench.get(self.images).public,
            self.training,
            generator,
            bench.progress,
        )
        self.save(folder, model, result, agreement)
        return {"iterations": result.steps, "queries": teacher.queries}
