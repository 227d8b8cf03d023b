"""The stages of the attacker's image prior: the general one, and the attack's own."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from mibench.assets import load_asset
from mibench.cell.stage import Bench, Stage
from mibench.errors import DivergedError
from mibench.models.access import ACCESS
from mibench.priors import Prior, PriorJob, PriorKind
from mibench.priors.gan import Gan, no_general
from mibench.settings import counted
from mibench.store.artifact import Artifact, save_json, save_tensors
from mibench.streams import seeded, stream

if TYPE_CHECKING:
    from mibench.cell.images import Images
    from mibench.cell.resolve import Cell
    from mibench.cell.target import Target


class PinnedPrior(Stage[Prior]):
    """The general prior that the protocol pins, identified by its checksum."""

    kind, stored = "pinned", False

    def __init__(self, cell: Cell) -> None:
        self.asset = cell.protocol.assets["prior"]
        super().__init__({"sha256": self.asset.sha256}, None, [])

    def load(self, bench: Bench) -> Prior:
        tensors, description = load_asset(self.asset)
        return Gan.load(description, tensors).to(bench.device)


class GeneralPrior(Stage[Prior]):
    """Train the general prior on public images."""

    kind = "general-prior"

    def __init__(self, cell: Cell, images: Images) -> None:
        self.config, self.images = cell.prior_config, images
        fixed = cell.protocol.prior_seed
        seed = cell.request.seed if fixed is None else fixed
        super().__init__(counted(self.config.gan), seed, [images])

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        public, rng = bench.get(self.images).public, stream(self.seed or 0, "general prior")
        job = PriorJob(public, no_general, None, rng, bench.progress)
        _save(folder, Gan(self.config).train(job))
        return {"iterations": self.config.gan.steps}

    def load(self, bench: Bench) -> Prior:
        return _load(Gan, bench.artifact(self), "general prior").to(bench.device)


class OwnPrior(Stage[Prior]):
    """Train a prior of another kind; its key holds the target where its training sees it."""

    kind = "prior"

    def __init__(self, cell: Cell, images: Images, general: Stage[Prior], target: Target) -> None:
        self.cell, self.images, self.general, self.target = cell, images, general, target
        parents: list[Stage[Any]] = [general, images, *([target] if cell.prior_kind.needs else [])]
        inputs = {"kind": cell.prior_name, "config": counted(cell.prior_config)}
        methods: list[type | ModuleType] = [cell.prior_kind, *cell.prior_modules]
        super().__init__(inputs, cell.request.seed, parents, methods)

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        kind, seed = self.cell.prior_kind, self.cell.request.seed
        rng = stream(seed, "prior", kind.stream or self.cell.prior_name)
        target = ACCESS[kind.needs](bench.get(self.target).frozen) if kind.needs else None
        public = bench.get(self.images).public
        # The general prior is a copy, to train on.
        job = PriorJob(public, lambda: self.general.load(bench), target, rng, bench.progress)
        # A stochastic target draws its noise from torch's own generator: seed that too.
        with seeded(stream(seed, "prior", "noise").initial_seed()):
            prior = kind(self.cell.prior_config).train(job)
        _save(folder, prior)
        return {"queries": target.queries} if target is not None else {}

    def load(self, bench: Bench) -> Prior:
        return _load(self.cell.prior_kind, bench.artifact(self), "prior").to(bench.device)


def _save(folder: Path, prior: Prior) -> None:
    save_tensors(folder / "prior.safetensors", prior.tensors())
    save_json(folder / "prior.json", prior.description())


def _load(kind: type[PriorKind[Any]], artifact: Artifact, name: str) -> Prior:
    tensors = artifact.load_tensors("prior.safetensors")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise DivergedError(f"the {name}'s training diverged: its weights are not finite")
    return kind.load(artifact.load_json("prior.json"), tensors)
