"""The stages that measure: what judges say of reconstructions, of the floors and of the ceiling."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mibench import metrics
from mibench.assets import load_asset
from mibench.cell.reconstructions import PART_BYTES, Reconstructions
from mibench.cell.stage import Bench, Stage
from mibench.data.images import ImageSet, to_float
from mibench.errors import DivergedError, MibenchError
from mibench.judges import Judge, restored_judge
from mibench.metrics.inception import SHA256
from mibench.models.classifiers import predict
from mibench.record import (
    CEILING,
    FLOOR_PRIOR,
    FLOOR_PUBLIC,
    REFERENCES,
    RULES_VERSION,
    MetricValue,
    missing,
)
from mibench.settings import share_of
from mibench.store.artifact import Artifact, Manifest, save_json, save_tensors
from mibench.streams import stream

if TYPE_CHECKING:
    from mibench.cell.images import Images
    from mibench.cell.resolve import Cell
    from mibench.cell.target import Target
    from mibench.priors import Prior

_LEAST_IMAGES = 100  # of a share of the test and public images


class Evaluation:
    """Judges a cell's images with the protocol's evaluators.

    Both sides of every comparison, reconstructions and private images, pass through the same
    pipeline: floating point at the protocol's resolution, then the evaluator's antialiased resize.

    Args:
        stage: what of the cell is judged by.
        rules: version of the metrics' rules, see :mod:`mibench.metrics.intervals`; a claim is
            checked by its own.

    Raises:
        JudgeDivergedError: an evaluator's training left the numbers.
    """

    def __init__(self, stage: References, bench: Bench, rules: int = RULES_VERSION) -> None:
        self.stage, self.bench, self.rules = stage, bench, rules
        self.data, self.progress = bench.get(stage.images), bench.progress
        self.labels = torch.arange(stage.inputs["attacked"], device=bench.device)
        self.evaluator, self.second = bench.get(stage.evaluator), bench.get(stage.second)
        self.test, self.public = (
            _some(getattr(self.data, part), count) for part, count in stage.inputs["judged"].items()
        )

    @functools.cached_property
    def real(self) -> ImageSet:
        """Private training images of the attacked identities."""
        return self.data.train.select(torch.isin(self.data.train.labels, self.labels))

    @functools.cached_property
    def real_features(self) -> Tensor:
        """Evaluator features of the private training images."""
        return self.evaluator(self.real.images, self.progress, "private images")[1]

    @functools.cached_property
    def regressor(self) -> Judge | None:
        """The regressor of attributes, where the protocol pins one."""
        asset = self.stage.cell.protocol.assets.get("attributes")
        return None if asset is None else restored_judge(*load_asset(asset)).to(self.bench.device)

    @functools.cached_property
    def inception_weights(self) -> Path | str:
        """The file with Inception's weights, or why there is none."""
        return metrics.find_inception()

    @functools.cached_property
    def inception(self) -> Tensor | str:
        """Inception features of the private training images, or why there are none."""
        return self._inception_features(self.real.images, "private images")

    def accuracies(self) -> dict[str, float]:
        """Accuracy on private test images: of the target (``natural_accuracy``) and evaluators.

        Raises:
            MibenchError: a network's outputs are not finite; the message names it.
        """
        test, progress = self.test, self.progress
        target = self.bench.get(self.stage.target).model
        label = "target on test images"
        outputs = {
            "natural_accuracy": predict(target, test.images, progress=progress, label=label)[0],
            "evaluator_accuracy": self.evaluator(test.images, progress, "evaluator on test images")[
                0
            ],
            "second_evaluator_accuracy": self.second(
                test.images, progress, "second evaluator on test images"
            )[0],
        }
        for name, logits in outputs.items():
            if not torch.isfinite(logits).all():
                raise MibenchError(
                    f"{name.replace('_', ' ')}: the network's outputs on the private test images "
                    "are not finite, though its training ended; lower its learning rate"
                )
        return {
            name: metrics.natural_accuracy(logits, test.labels) for name, logits in outputs.items()
        }

    def __call__(
        self, images: Iterable[Tensor], what: str = "reconstructions"
    ) -> tuple[dict[str, MetricValue], Tensor]:
        """All metrics of images, and the evaluator's confidence ``(identities, samples)``.

        Args:
            images: what is judged, ``(identities, samples, 3, h, w)`` in [0, 1], in parts.
            what: what progress calls it.
        """
        parts = [self._read(part, what) for part in images]
        scores, features, second = (torch.cat([part[i] for part in parts]) for i in range(3))
        labels, real, rules = self.labels, (self.real_features, self.real.labels), self.rules
        success = metrics.successes(scores, labels)
        inception = [part[3] for part in parts]
        attributes = [part[4] for part in parts]
        groups: tuple[Callable[[], dict[str, MetricValue]], ...] = (
            lambda: {
                "attack_accuracy_top1": metrics.attack_accuracy(scores, labels, 1, rules=rules),
                "attack_accuracy_top5": metrics.attack_accuracy(scores, labels, 5, rules=rules),
                "attack_accuracy_both": metrics.accuracy_both(scores, second, labels, rules=rules),
                "evaluator_agreement": metrics.evaluator_agreement(
                    scores, second, labels, rules=rules
                ),
                "knn_distance": metrics.knn_distance(features, labels, *real, rules=rules),
            },
            lambda: {"fd_evaluator": metrics.frechet_metric(features, labels, *real, rules=rules)},
            lambda: metrics.prdc(features, labels, *real, rules=rules),
            lambda: self._inception_distances(inception, success),
            lambda: {"attribute_error": self._attribute_error(attributes)},
        )
        result: dict[str, MetricValue] = {}
        for index in self.progress.steps(len(groups), f"{what}: metrics"):
            result |= groups[index]()
        own = labels.repeat_interleave(scores.shape[1])
        confidence = scores.flatten(0, 1).softmax(1).gather(1, own[:, None])
        return {name: result[name] for name in metrics.METRICS}, confidence.view(scores.shape[:2])

    def _read(self, images: Tensor, what: str) -> tuple[Any, ...]:
        """What every network says of a part of the images, with ``(identities, samples)`` first."""
        shape, flat = (*images.shape[:2], -1), images.flatten(0, 1)
        judged = self.evaluator(flat, self.progress, f"{what}: evaluator")
        second = self.second(flat, self.progress, f"{what}: second evaluator")[0]
        scores, features = (each.view(shape) for each in judged)
        inception = self.inception
        if not isinstance(inception, str):
            inception = self._inception_features(flat, what)
        attributes = None
        if self.data.attributes is not None and self.regressor is not None:
            logits = self.regressor(flat, self.progress, f"{what}: attributes")[0]
            attributes = logits.sigmoid().view(shape)
        if isinstance(inception, Tensor):
            inception = inception.view(shape)
        return scores, features, second.view(shape), inception, attributes

    def _inception_features(self, images: Tensor, what: str) -> Tensor | str:
        weights = self.inception_weights
        if isinstance(weights, str):
            return weights
        return metrics.inception_features(
            images, weights, self.bench.device, progress=self.progress, label=f"{what}: Inception"
        )

    def _inception_distances(
        self, parts: list[Tensor | str], success: Tensor
    ) -> dict[str, MetricValue]:
        if isinstance(self.inception, str):
            reason = self.inception
            return {"fid": missing(reason), "fid_successful": missing(reason)}
        fake = torch.cat([part for part in parts if isinstance(part, Tensor)])
        real, rules = (self.inception, self.real.labels.cpu()), self.rules
        labels = self.labels.cpu()
        return {
            "fid": metrics.frechet_metric(fake, labels, *real, rules=rules),
            "fid_successful": metrics.fid_successful(
                fake, labels, *real, success.cpu(), rules=rules
            ),
        }

    def _attribute_error(self, parts: list[Tensor | None]) -> MetricValue:
        truth = self.data.attributes
        if truth is None:
            return missing("only protocols with rendered faces know the true attributes")
        read = [part for part in parts if part is not None]
        if not read:
            return missing("the protocol pins no network that reads attributes off images")
        labels = self.labels
        return metrics.attribute_error(torch.cat(read), truth[labels], labels, rules=self.rules)

    def references(self, target: bool = True) -> dict[str, Iterator[Tensor]]:
        """Images that bound every attack, in parts: two floors and the ceiling.

        Args:
            target: whether the target is at hand; without it there is no floor of public images.

        Raises:
            DivergedError: the general prior's training left the numbers.
        """
        stage, bench, labels = self.stage, self.bench, self.labels
        samples = stage.cell.protocol.samples
        # Of so many identities at once, as reconstructions are: some hold more than memory.
        parts = torch.arange(len(labels)).split(
            max(1, PART_BYTES // (4 * samples * self.data.test.images[0].numel()))
        )
        prior = bench.get(stage.general)
        generator = stream(stage.cell.request.seed, "floor")
        latents = torch.randn(len(labels) * samples, prior.size, generator=generator)
        latents = latents.unflatten(0, (len(labels), samples))

        def random() -> Iterator[Tensor]:
            for part in parts:
                with torch.no_grad():
                    drawn = prior.images(latents[part].flatten(0, 1).to(bench.device))
                yield drawn.unflatten(0, (len(part), samples))

        images = {FLOOR_PRIOR: random()}
        if target:
            public = self.public
            scores = predict(
                bench.get(stage.target).frozen,
                public.images,
                progress=self.progress,
                label="target on public images",
            )[0].softmax(1)
            best = scores[:, labels].topk(min(samples, len(public)), dim=0).indices.T
            images[FLOOR_PUBLIC] = (to_float(public.images[best[part]]) for part in parts)
        test = self.data.test
        own = [(test.labels == label).nonzero()[:samples, 0] for label in labels]
        fewest = min(map(len, own))
        private = torch.stack([rows[:fewest] for rows in own])
        images[CEILING] = (to_float(test.images[private[part]]) for part in parts)
        return images


def _some(images: ImageSet, count: int) -> ImageSet:
    """So many of some images, evenly chosen."""
    if count == len(images):
        return images
    chosen = torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()
    return images.select(chosen.to(images.images.device))


class References(Stage[dict[str, Any]]):
    """Judge the floors and the ceiling: they depend on the target, not on the attack."""

    kind = "references"

    def __init__(
        self,
        cell: Cell,
        images: Images,
        target: Target,
        evaluator: Stage[Judge],
        second: Stage[Judge],
        general: Stage[Prior],
    ) -> None:
        self.cell, self.images, self.target = cell, images, target
        self.evaluator, self.second, self.general = evaluator, second, general
        protocol = cell.protocol
        fields = {"name", "version", "samples", "chance_kappa"}
        inputs = protocol.model_dump(mode="json", include=fields)
        inputs["attacked"] = images.attacked(cell)
        # A share of the budget is one of the test images, and of the public images that the second
        # floor chooses from, too.
        counts, budget = images.divided.counts, cell.request.budget
        inputs["judged"] = {
            part: share_of(getattr(counts, part), budget, _LEAST_IMAGES)
            for part in ("test", "public")
        }
        inputs["pinned"] = {role: asset.sha256 for role, asset in protocol.assets.items()}
        # FID is missing where they are absent or others.
        inputs["inception"] = SHA256 if isinstance(metrics.find_inception(), Path) else None
        parents: list[Stage[Any]] = [target, evaluator, second, general, images]
        super().__init__(inputs, cell.request.seed, parents)

    def evaluation(self, bench: Bench) -> Evaluation:
        """The judging of this cell, whose networks and features are kept for all images."""
        return bench.once((self.key, "evaluation"), lambda: Evaluation(self, bench))

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        evaluation = self.evaluation(bench)
        values = {
            name: dump(evaluation(images, REFERENCES[name])[0])
            for name, images in evaluation.references().items()
        }
        utility = evaluation.accuracies()
        save_json(folder / "references.json", {"references": values, "utility": utility})
        return {}

    def load(self, bench: Bench) -> dict[str, Any]:
        artifact = bench.artifact(self)
        values: dict[str, Any] = artifact.load_json("references.json")
        return values


class Metrics(Stage[Artifact]):
    """Judge the reconstructions; keeps what a record needs of the earlier stages, too.

    These may be removed from the store.
    """

    kind = "metrics"

    def __init__(self, references: References, reconstructions: Reconstructions) -> None:
        self.references, self.reconstructions = references, reconstructions
        parents = [*references.parents, reconstructions, references]
        super().__init__(references.inputs, references.seed, parents)

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        target = bench.get(self.references.target)
        bounds: dict[str, Any] = {"references": {}, "utility": {}}
        reason = None
        if target.diverged:
            reason = f"the target diverged: {target.diverged}"
        else:
            try:
                shards = bench.get(self.reconstructions)
            except DivergedError as error:
                reason = f"the attack diverged: {error}"
            try:
                bounds = bench.get(self.references)
            except DivergedError:  # without a general prior there is no floor
                if reason is None:
                    raise
        if reason is None:
            values, confidence = self.references.evaluation(bench)(shards)
            save_tensors(folder / "confidence.safetensors", {"confidence": confidence})
            files = {name: shards.artifact.manifest.files[name].sha256 for name in shards.files}
        else:
            values, files = dict.fromkeys(metrics.METRICS, missing(reason)), {}
        save_json(folder / "metrics.json", {"metrics": dump(values), **bounds})
        summary: dict[str, Any] = {"status": "complete" if reason is None else "diverged"}
        summary |= {"target": target.result, "reconstructions": files, "costs": self._costs(bench)}
        save_json(folder / "summary.json", summary)
        return {}

    def _costs(self, bench: Bench) -> dict[str, Any]:
        costs = {}
        for stage in self.lineage()[:-1]:
            manifest = bench.store.manifest(stage.kind, stage.key) if stage.stored else None
            if manifest is not None:
                costs[stage.name] = cost_of(manifest)
        return costs

    def load(self, bench: Bench) -> Artifact:
        return bench.artifact(self)


def cost_of(manifest: Manifest) -> dict[str, Any]:
    """What a record says of a stage: its key, its cost, and who made it."""
    assert manifest.maker is not None  # keys hold the code, so whoever made it knew of makers
    maker = manifest.maker.model_dump(mode="json")
    return {"key": manifest.key, "maker": maker, **manifest.cost}


def dump(values: dict[str, MetricValue]) -> dict[str, Any]:
    """Metric values as JSON."""
    return {name: value.model_dump(mode="json") for name, value in values.items()}
