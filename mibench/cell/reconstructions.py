"""The stage of the attack: its reconstructions of the attacked identities, in shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mibench.cell.stage import Bench, Stage
from mibench.data.images import to_float
from mibench.errors import DivergedError
from mibench.inversion.attack import Problem, TransferConfig
from mibench.inversion.identity import IdentityLoss, PenultimateGaussian
from mibench.models.access import TargetAccess, WhiteBoxTarget, access_to
from mibench.models.classifiers import Classifier, predict
from mibench.priors import Prior
from mibench.settings import counted
from mibench.store.artifact import Artifact, save_json, save_tensors
from mibench.streams import stream

if TYPE_CHECKING:
    from mibench.cell.images import Images
    from mibench.cell.resolve import Cell
    from mibench.cell.students import Student
    from mibench.cell.surrogates import Surrogate
    from mibench.cell.target import Target

RECONSTRUCTIONS = "reconstructions"  # first word of the shards' names
_STATISTICS_IMAGES = 5000  # public images behind LOM's feature statistics (seed paper)
PART_BYTES = 2**28  # of images that are held at once; a file of them has no more


@dataclass(frozen=True)
class Shards:
    """Reconstructions ``(identities, samples, 3, h, w)`` in [0, 1], a part of the identities each.

    They are read one shard at a time.
    """

    artifact: Artifact
    device: torch.device

    @property
    def files(self) -> list[str]:
        """Names of the artifact's files, in the order of the identities."""
        return sorted(n for n in self.artifact.manifest.files if n.startswith(RECONSTRUCTIONS))

    def __iter__(self) -> Iterator[Tensor]:
        for name in self.files:
            yield self.artifact.load_tensors(name)["images"].to(self.device)


class Reconstructions(Stage[Shards]):
    """Run the attack on the target; a diverged attack is a result, too."""

    kind = "reconstructions"

    def __init__(
        self,
        cell: Cell,
        images: Images,
        target: Target,
        prior: Stage[Prior],
        students: Sequence[Student],
        surrogates: Sequence[Surrogate],
    ) -> None:
        self.cell, self.images, self.target = cell, images, target
        self.prior, self.students, self.surrogates = prior, tuple(students), tuple(surrogates)
        config = counted(cell.attack_config)
        del config["students"]  # those that it uses are parents
        if not cell.attack.repeat:
            del config["repeats"]
        inputs = {
            "attack": cell.attack.full,
            "config": config,
            "attacked": images.attacked(cell),
            "samples": cell.protocol.samples,
        }
        super().__init__(
            inputs,
            cell.request.seed,
            [target, prior, *students, *surrogates, images],
            [cell.attack_class, *cell.attack_modules],
        )

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        try:
            cost, diverged = self._invert(folder, bench), None
        except DivergedError as error:
            cost, diverged = {}, str(error)
            for shard in folder.glob(f"{RECONSTRUCTIONS}*"):
                shard.unlink()
        save_json(folder / "result.json", {"diverged": diverged})
        return cost

    def _invert(self, folder: Path, bench: Bench) -> dict[str, Any]:
        data = bench.get(self.images)
        attack = self.cell.attack_class(self.cell.attack_config)
        trained = bench.get(self.target)
        config = self.cell.attack_config
        target = access_to(
            trained.frozen if attack.folds else trained.unfolded,
            attack.access,
            config.repeats if config.repeat else None,
            self.cell.request.seed,
        )
        prior = bench.get(self.prior).frozen(to_float(data.public.images[:2]))
        problem = Problem(
            target=target,
            prior=prior,
            identity_loss=self._identity_loss(target, prior, bench),
            labels=torch.arange(self.inputs["attacked"], device=bench.device),
            samples=self.cell.protocol.samples,
            public=data.public,
            seed=self.cell.request.seed,
            device=bench.device,
            progress=bench.progress,
        )
        _save(folder, attack(problem), problem.labels)
        return {
            "queries": target.queries,
            "own_queries": target.own_queries.cpu()[problem.labels.cpu()].tolist(),
            "iterations": getattr(attack.config, "iterations", None),
        }

    def _identity_loss(
        self, target: TargetAccess, prior: Prior, bench: Bench
    ) -> IdentityLoss | None:
        if not isinstance(target, WhiteBoxTarget):
            return self._transfer_loss(prior, bench)
        config, penultimate = self.cell.attack_config.identity, None
        model, public = bench.get(self.target).frozen, bench.get(self.images).public
        if config.objective == "logit":
            generator = stream(self.cell.request.seed, "feature statistics")
            chosen = torch.randperm(len(public), generator=generator)
            images = public.images[chosen[:_STATISTICS_IMAGES].to(bench.device)]
            features = predict(model, images, progress=bench.progress, label="feature statistics")[
                1
            ]
            penultimate = PenultimateGaussian.of(features)
            target.queries += len(images)
        students: list[Classifier] = [bench.get(student) for student in self.students]
        return IdentityLoss(
            target.outputs, students, config, penultimate, model.stochastic, public.mirror
        )

    def _transfer_loss(self, prior: Prior, bench: Bench) -> IdentityLoss | None:
        """The identity loss of the surrogates, if there are any; of the target it holds nothing."""
        config = self.cell.attack_config
        if not isinstance(config, TransferConfig):
            return None
        first, *others = [bench.get(each) for each in self.surrogates]
        rest: list[Callable[[Tensor], Tensor]] = [*others]
        if config.surrogates.prior_head:
            rest.append(prior.logits)
        mirror = bench.get(self.images).public.mirror
        return IdentityLoss(first.outputs, rest, config.identity, mirror=mirror)

    def load(self, bench: Bench) -> Shards:
        artifact = bench.artifact(self)
        diverged = artifact.load_json("result.json")["diverged"]
        if diverged is not None:
            raise DivergedError(diverged)
        return Shards(artifact, bench.device)


def _save(folder: Path, chunks: Iterator[Tensor], labels: Tensor) -> None:
    """Write chunks of reconstructions as they come, so that no more than a shard is in memory."""
    pending: list[Tensor] = []
    done = shards = 0

    def write() -> None:
        nonlocal done, shards
        images = torch.cat([chunk.cpu() for chunk in pending])
        pending.clear()
        tensors = {"images": images, "labels": labels[done : done + len(images)]}
        save_tensors(folder / f"{RECONSTRUCTIONS}.{shards:05d}.safetensors", tensors)
        done, shards = done + len(images), shards + 1

    for chunk in chunks:
        pending.append(chunk)
        if sum(each.nbytes for each in pending) >= PART_BYTES:
            write()
    if pending:
        write()
    if shards == 1:  # the usual case has the usual name
        only = folder / f"{RECONSTRUCTIONS}.00000.safetensors"
        only.rename(folder / f"{RECONSTRUCTIONS}.safetensors")
