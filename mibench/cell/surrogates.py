"""The stages of transfer attacks: surrogates that learn the target's labels of a prior's images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mibench.cell.resolve import surrogate_weights
from mibench.cell.stage import Bench, Stage
from mibench.cell.students import Imitator
from mibench.cell.target import Target, defined
from mibench.data.images import ImageSet
from mibench.models.access import TargetAccess
from mibench.models.initialisation import initialise
from mibench.priors import Prior
from mibench.settings import counted
from mibench.store.artifact import save_tensors
from mibench.streams import RowStreams, seeded, stream
from mibench.training.surrogates import SurrogatesConfig, imitate

if TYPE_CHECKING:
    from mibench.cell.images import Images
    from mibench.cell.resolve import Cell

_BATCH = 512  # images that are made and labelled at once; no result depends on it


class LabelledImages(Stage[ImageSet]):
    """Have the target label images of the attack's prior, equally many of each class.

    Only labels are stored: images are made anew from latents, which the seed decides. They are of 8
    bits, as an image is that is sent to a deployed target.
    """

    kind = "labelled-images"

    def __init__(
        self,
        cell: Cell,
        images: Images,
        target: Target,
        prior: Stage[Prior],
        surrogates: SurrogatesConfig,
    ) -> None:
        self.cell, self.images, self.target, self.prior = cell, images, target, prior
        self.images_per_class = surrogates.images_per_class
        inputs = {"images_per_class": self.images_per_class}
        super().__init__(inputs, cell.request.seed, [target, prior, images])

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        target = TargetAccess(bench.get(self.target).frozen)
        # A stochastic target draws its noise from torch's own generator.
        with seeded(stream(self.cell.request.seed, "labelled images", "noise").initial_seed()):
            labels = [target.predict(batch / 255) for batch in self._made(bench)]
        save_tensors(folder / "labels.safetensors", {"labels": torch.cat(labels)})
        return {"queries": target.queries}

    def load(self, bench: Bench) -> ImageSet:
        labels = bench.artifact(self).load_tensors("labels.safetensors")["labels"]
        data = bench.get(self.images)
        names = tuple(map(str, range(data.identities)))
        images = torch.cat(self._made(bench))
        return ImageSet(images, labels.to(bench.device), names, data.public.mirror)

    def _made(self, bench: Bench) -> list[torch.Tensor]:
        """The images ``(n, 3, h, w)``, ``uint8``, of one class after the other, in batches."""
        prior, device = bench.get(self.prior), bench.device
        classes, count = bench.get(self.images).identities, self.images_per_class
        seed = self.cell.request.seed
        streams = RowStreams(
            [stream(seed, "labelled images", label) for label in range(classes)], device
        )
        latents = prior.latents(streams, count).flatten(0, 1).split(_BATCH)
        wanted = torch.arange(classes, device=device).repeat_interleave(count).split(_BATCH)
        made = []
        for index in bench.progress.steps(len(latents), "images of the prior"):
            with torch.no_grad():
                images = prior.images(latents[index], wanted[index])
            made.append((images * 255).round().to(torch.uint8))
        return made


class Surrogate(Imitator):
    """Train one surrogate on the labelled images."""

    kind = "surrogate"

    def __init__(
        self,
        cell: Cell,
        images: Images,
        labelled: LabelledImages,
        surrogates: SurrogatesConfig,
        architecture: str,
    ) -> None:
        self.cell, self.images, self.labelled = cell, images, labelled
        self.architecture, self.surrogates = architecture, surrogates
        inputs = {
            "architecture": architecture,
            "training": counted(surrogates.training),
            "initialisation": surrogates.initialisation.identity(
                cell.weights[surrogate_weights(architecture)]
            ),
        }
        super().__init__(
            inputs, cell.request.seed, [labelled, images], defined(architecture), architecture
        )

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        generator = stream(self.cell.request.seed, "surrogate", self.architecture)
        model, result, agreement = imitate(
            initialise(self.empty(bench, generator), self.surrogates.initialisation),
            bench.get(self.labelled),
            self.surrogates.training,
            generator,
            bench.progress,
        )
        self.save(folder, model, result, agreement)
        return {"iterations": result.steps}
