"""The stages of an audit: a network of others' in the target's place, and a prior of others'."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mibench.cell.stage import Bench, Stage
from mibench.cell.target import Target, Trained
from mibench.data.images import ImageSet
from mibench.models.acquainted import acquainted
from mibench.models.given import GivenClassifier
from mibench.priors import Prior
from mibench.store.artifact import save_json

if TYPE_CHECKING:
    from mibench.cell.images import Images
    from mibench.cell.resolve import Cell


class GivenTarget(Target):
    """Ask the network about the private images: is it the one that is meant?

    No network is stored: it lies where its owner has it.
    """

    kind = "given"

    def __init__(self, cell: Cell, images: Images) -> None:
        assert cell.given is not None
        self.cell, self.images, self.given = cell, images, cell.given
        model = self.given.model
        Stage.__init__(self, model.inputs, None, [images], model.modules)

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        data = bench.get(self.images)
        sets = (data.train, data.test)
        private = ImageSet(
            torch.cat([each.images for each in sets]),
            torch.cat([each.labels for each in sets]),
            data.test.names,
        )
        found = acquainted(self._network(bench), private, bench.progress)
        save_json(
            folder / "result.json",
            {
                "diverged": None,
                "guarantee": {},
                "identities": data.identities,
                "validation_images": len(private),
                "validation_accuracy": round(found.accuracy, 6),
                "hint": found.hint,
            },
        )
        return {}

    def load(self, bench: Bench) -> Trained:
        result = bench.artifact(self).load_json("result.json")
        return Trained(result, self, self.images, bench, lambda: self._network(bench))

    def _network(self, bench: Bench) -> GivenClassifier:
        return copy.deepcopy(self.given.network()).to(bench.device)


class GivenPriorStage(Stage[Prior]):
    """The image prior that is given; nothing is computed or stored."""

    kind, stored = "given-prior", False

    def __init__(self, cell: Cell) -> None:
        assert cell.given is not None
        assert cell.given.prior is not None
        self.given = cell.given
        prior = cell.given.prior
        inputs = {**prior.inputs, "resolution": cell.protocol.resolution}
        super().__init__(inputs, None, [], prior.modules)

    def load(self, bench: Bench) -> Prior:
        return copy.deepcopy(self.given.image_prior()).to(bench.device)
