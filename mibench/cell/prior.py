"""The stages of the attacker's image prior: the general one, and the attack's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mibench.assets import load_asset
from mibench.cell.stage import Bench, Stage
from mibench.errors import DivergedError
from mibench.priors._networks import Prior
from mibench.priors.gan import train_general_gan
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
        return Prior.rebuild(description, tensors).to(bench.device)


class GeneralPrior(Stage[Prior]):
    """Train the general prior on public images."""

    kind = "general-prior"

    def __init__(self, cell: Cell, images: Images) -> None:
        self.config, self.images = cell.attack_config.prior.gan, images
        fixed = cell.protocol.prior_seed
        seed = cell.request.seed if fixed is None else fixed
        super().__init__(self.config.model_dump(mode="json"), seed, [images])

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        generator = stream(self.seed or 0, "general prior")
        public = bench.get(self.images).public
        maker, critic = train_general_gan(public, self.config, generator, bench.progress)
        recipe = f"{self.config.recipe} GAN, {self.config.steps} steps"
        _save(folder, Prior(maker, critic, recipe))
        return {"iterations": self.config.steps}

    def load(self, bench: Bench) -> Prior:
        return _load(bench.artifact(self), "general prior").to(bench.device)


class OwnPrior(Stage[Prior]):
    """Train the prior of the attack's own kind."""

    kind = "prior"

    def __init__(self, cell: Cell, images: Images, general: Stage[Prior], target: Target) -> None:
        self.cell, self.images, self.general, self.target = cell, images, general, target
        attack = cell.attack_class
        config = attack.prior_config(cell.attack_config)
        seen = cell.attack_config.model_dump(mode="json", include=set(config.__dict__))
        parents: list[Stage[Any]] = [general, images]
        if attack.target_specific_prior():
            parents.append(target)
        inputs = {"attack": cell.attack.base, **seen}
        super().__init__(inputs, cell.request.seed, parents, [attack, *cell.attack_modules])

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        from mibench.inversion.attack import PriorJob

        kind, seed = self.cell.attack_class, self.cell.request.seed
        attack = kind(kind.prior_config(self.cell.attack_config))
        generator = stream(seed, "prior", self.cell.attack.base)
        public = bench.get(self.images).public

        # A fresh copy, to train on.
        job = PriorJob(public, lambda: self.general.load(bench), generator, bench.progress)
        extra = {"target": bench.get(self.target).frozen} if kind.target_specific_prior() else {}
        # A stochastic target draws its noise from torch's own generator: seed that too.
        with seeded(stream(seed, "prior", "noise").initial_seed()):
            prior = attack.train_prior(job, **extra)
        _save(folder, prior)
        return {}

    def load(self, bench: Bench) -> Prior:
        return _load(bench.artifact(self), "prior").to(bench.device)


def _save(folder: Path, prior: Prior) -> None:
    save_tensors(folder / "prior.safetensors", prior.tensors())
    save_json(folder / "prior.json", prior.description())


def _load(artifact: Artifact, name: str) -> Prior:
    tensors = artifact.load_tensors("prior.safetensors")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise DivergedError(f"the {name}'s training diverged: its weights are not finite")
    return Prior.rebuild(artifact.load_json("prior.json"), tensors)
