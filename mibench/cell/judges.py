"""The stages of the evaluators, which judge reconstructions: pinned by the protocol, or trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mibench.assets import load_asset
from mibench.cell.stage import Bench, Stage
from mibench.cell.target import defined, start_inputs
from mibench.errors import JudgeDivergedError
from mibench.judges.evaluators import Judge, JudgeConfig, pinned_judge, train_judge
from mibench.store.artifact import save_json, save_tensors
from mibench.streams import stream

if TYPE_CHECKING:
    from mibench.cell.images import Images
    from mibench.cell.resolve import Cell

Role = Literal["evaluator", "second"]
_NAMES = {"evaluator": "evaluator", "second": "second evaluator"}


class PinnedJudge(Stage[Judge]):
    """A network that the protocol pins, identified by its checksum."""

    kind, stored = "pinned", False

    def __init__(self, cell: Cell, role: str) -> None:
        self.asset = cell.protocol.assets[role]
        super().__init__({"sha256": self.asset.sha256}, None, [])

    def load(self, bench: Bench) -> Judge:
        return pinned_judge(*load_asset(self.asset)).to(bench.device)


class TrainedJudge(Stage[Judge]):
    """Train an evaluator on the private training images: one for all cells of the protocol."""

    kind = "evaluator"

    def __init__(self, cell: Cell, images: Images, role: Role) -> None:
        self.cell, self.images, self.role = cell, images, role
        self.config: JudgeConfig = getattr(cell.protocol, role)
        architecture = self.config.architecture
        start = start_inputs(cell, architecture)
        known = {"public": True} if cell.protocol.judges_know_public else {}
        # No seed: its generator is seeded with the protocol's name.
        own = {"role": role, "protocol": cell.protocol.name}
        inputs = {**own, **self.config.model_dump(mode="json"), **start, **known}
        detail = "" if role == "evaluator" else role
        super().__init__(inputs, None, [images], defined(architecture), detail)

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        data, protocol = bench.get(self.images), self.cell.protocol
        known = data.everyone if protocol.judges_know_public else data.train
        model, result = train_judge(
            self.config,
            known,
            len(known.names),
            stream(0, self.role, protocol.name),
            bench.progress,
            label=self.role,
            start=protocol.start(self.config.architecture),
        )
        save_tensors(folder / "model.safetensors", dict(model.state_dict()))
        outputs = len(known.names)
        save_json(folder / "result.json", {"diverged": result.diverged, "outputs": outputs})
        return {"iterations": result.steps}

    def load(self, bench: Bench) -> Judge:
        artifact = bench.artifact(self)
        result, config = artifact.load_json("result.json"), self.config
        if result["diverged"] is not None:
            raise JudgeDivergedError(
                f"the {_NAMES[self.role]} ({config.architecture}) diverged: {result['diverged']}. "
                f"Without it no cell of {self.cell.protocol.name} can be judged: lower "
                f"protocol.{self.role}.training.learning_rate. What was computed before is kept"
            )
        description = {"judge": config.model_dump(mode="json"), "outputs": result["outputs"]}
        return pinned_judge(artifact.load_tensors("model.safetensors"), description).to(
            bench.device
        )
