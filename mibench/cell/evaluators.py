"""The stages of the evaluators, which judge reconstructions: pinned by the protocol, or trained."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from mibench.assets import load_asset
from mibench.cell.stage import Bench, Stage
from mibench.cell.target import defined, start_inputs
from mibench.errors import EvaluatorDivergedError
from mibench.judges.evaluators import (
    EVALUATORS,
    Evaluator,
    EvaluatorConfig,
    EvaluatorJob,
    restored_evaluator,
    train_evaluator,
)
from mibench.store.artifact import save_json, save_tensors
from mibench.streams import stream

if TYPE_CHECKING:
    from mibench.cell.images import Images
    from mibench.cell.resolve import Cell

Role = Literal["evaluator", "second"]
_NAMES = {"evaluator": "evaluator", "second": "second evaluator"}


class PinnedEvaluator(Stage[Evaluator]):
    """A network that the protocol pins, identified by its checksum."""

    kind, stored = "pinned", False

    def __init__(self, cell: Cell, role: str) -> None:
        self.asset = cell.protocol.assets[role]
        super().__init__({"sha256": self.asset.sha256}, None, [], [cell.evaluators[role]])

    def load(self, bench: Bench) -> Evaluator:
        return restored_evaluator(*load_asset(self.asset)).to(bench.device)


class TrainedEvaluator(Stage[Evaluator]):
    """Train an evaluator on the private training images: one for all cells of the protocol."""

    kind = "evaluator"

    def __init__(self, cell: Cell, images: Images, role: Role) -> None:
        self.cell, self.images, self.role = cell, images, role
        self.config: EvaluatorConfig = getattr(cell.protocol, role)
        evaluator, protocol = cell.evaluators[role], cell.protocol
        networks = evaluator.networks(self.config)
        inputs = {
            "role": role,
            # No seed: its generator is seeded with the protocol's name.
            "protocol": protocol.name,
            **self.config.model_dump(mode="json"),
            **({"public": True} if protocol.judges_know_public else {}),
            "start": {each: start for each in networks if (start := start_inputs(cell, each))},
        }
        methods: list[type | str | ModuleType] = [evaluator, *EVALUATORS.files_of(evaluator)]
        methods += [module for each in networks for module in defined(each)]
        super().__init__(inputs, None, [images], methods, "" if role == "evaluator" else role)

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        data, protocol = bench.get(self.images), self.cell.protocol
        known = data.everyone if protocol.judges_know_public else data.train
        rng, classes = stream(0, self.role, protocol.name), len(known.names)
        job = EvaluatorJob(known, protocol.start, rng, bench.progress, self.role)
        evaluator, result = train_evaluator(
            self.cell.evaluators[self.role], self.config, classes, job
        )
        save_tensors(folder / "model.safetensors", dict(evaluator.network.state_dict()))
        save_json(folder / "result.json", {"diverged": result.diverged, "classes": classes})
        return {"iterations": result.steps}

    def load(self, bench: Bench) -> Evaluator:
        artifact, config = bench.artifact(self), self.config
        result = artifact.load_json("result.json")
        if result["diverged"] is not None:
            raise EvaluatorDivergedError(
                f"the {_NAMES[self.role]} ({config.architecture or config.kind}) diverged: "
                f"{result['diverged']}. Without it no cell of {self.cell.protocol.name} can be "
                f"judged: lower protocol.{self.role}.training.learning_rate. What was computed "
                "before is kept"
            )
        evaluator = self.cell.evaluators[self.role](config, result["classes"])
        return evaluator.restore(artifact.load_tensors("model.safetensors")).to(bench.device)
