"""The stage of an attack that knows the triggers: a copy of the target that ignores them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mibench.cell.stage import Bench, Stage
from mibench.cell.target import Target, Trained
from mibench.errors import DivergedError
from mibench.models.access import WhiteBoxTarget
from mibench.models.trapdoors import triggers_of
from mibench.settings import counted
from mibench.store.artifact import save_json, save_tensors
from mibench.streams import stream
from mibench.training.loop import Job, train
from mibench.training.students import Untrapping

if TYPE_CHECKING:
    from mibench.cell.images import Images
    from mibench.cell.resolve import Cell


class Untrapped(Target):
    """Train a copy of the target on public images to answer as it does, triggers or not.

    All of the attack, its prior and its students included, sees the copy in the target's place.
    """

    kind = "untrapped"

    def __init__(self, cell: Cell, images: Images, target: Target) -> None:
        self.cell, self.images, self.target = cell, images, target
        self.training = cell.attack_config.students.training
        inputs = {"training": counted(self.training)}
        Stage.__init__(self, inputs, cell.request.seed, [target, images])

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        trained, public = bench.get(self.target), bench.get(self.images).public
        triggers = triggers_of(trained.model)
        assert triggers is not None  # as the request was checked for
        rng = stream(self.cell.request.seed, self.kind)
        model = copy.deepcopy(trained.model)
        job = Job(
            model, public, None, None, self.training, rng, bench.progress, "copy without trapdoors"
        )
        teacher = WhiteBoxTarget(trained.frozen)
        result = train(job, Untrapping(teacher, triggers))
        save_tensors(folder / "model.safetensors", dict(model.state_dict()))
        save_json(folder / "result.json", {"diverged": result.diverged})
        return {"iterations": result.steps, "queries": teacher.queries}

    def load(self, bench: Bench) -> Trained:
        artifact = bench.artifact(self)
        result = artifact.load_json("result.json")
        if result["diverged"] is not None:
            raise DivergedError(f"copy without trapdoors: {result['diverged']}")
        return Trained(result, self, self.images, bench, lambda: self.restored(artifact, bench))
