"""The stages that measure: what judges say of reconstructions, of the floors and of the ceiling."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mibench import metrics
from mibench.assets import load_asset
from mibench.cell.judges import Enrolled, Enrolment, Identification
from mibench.cell.reconstructions import PART_BYTES, Reconstructions
from mibench.cell.stage import Bench, Stage
from mibench.data.images import ImageSet, to_float
from mibench.errors import DivergedError, MibenchError
from mibench.judges.evaluators import Evaluator, restored_evaluator
from mibench.metrics.inception import SHA256
from mibench.models.classifiers import predict
from mibench.record import (
    CEILING,
    FLOOR_PRIOR,
    FLOOR_PUBLIC,
    IDENTITY_METRICS,
    LOOKALIKE,
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

SAMPLES = "samples.safetensors"  # what a picture shows of each

_LEAST_IMAGES = 100  # of a share of the test and public images


class Evaluation:
    """Judges a cell's images with the protocol's evaluators.

    Both sides of every comparison, reconstructions and private images, pass through the same
    pipeline: floating point at the protocol's resolution, then the evaluator's antialiased resize.

    Args:
        stage: what of the cell is judged by.
        rules: version of the metrics' rules, see :mod:`mibench.metrics.intervals`; a claim is
            checked by its own.
        target: whether the target is at hand, which look-up and the best guess are chosen by.

    Whatever needs an evaluator raises EvaluatorDivergedError where its training left the numbers.
    """

    def __init__(
        self, stage: References, bench: Bench, rules: int = RULES_VERSION, target: bool = True
    ) -> None:
        self.stage, self.bench, self.rules, self.target = stage, bench, rules, target
        self.data, self.progress = bench.get(stage.images), bench.progress
        self.labels = torch.arange(stage.inputs["attacked"], device=bench.device)
        self.test, share = self.data.test, stage.inputs["judged"]["test"]
        if share < len(self.test):
            self.test = self.test.select(_some(self.test, share))

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """The first evaluator."""
        return self.bench.get(self.stage.evaluator)

    @functools.cached_property
    def second(self) -> Evaluator:
        """The second evaluator, of another family."""
        return self.bench.get(self.stage.second)

    @functools.cached_property
    def lookup(self) -> Tensor:
        """For each identity, the public images that the target scores highest, best first.

        Positions ``(k, samples)``, of fewer public images fewer.
        """
        rows = _some(self.data.public, self.stage.inputs["judged"]["public"])
        scores = predict(
            self.bench.get(self.stage.target).frozen,
            self.data.public.images[rows],
            progress=self.progress,
            label="target on public images",
        )[0].softmax(1)
        samples = min(self.stage.cell.protocol.samples, len(rows))
        return rows[scores[:, self.labels].topk(samples, dim=0).indices.T]

    @functools.cached_property
    def judges(self) -> list[Enrolled]:
        """The protocol's embedding judges."""
        return [self.bench.get(each) for each in self.stage.enrolments]

    @functools.cached_property
    def identification(self) -> Identification | None:
        """What the embedding judges say, where the protocol pins some."""
        if not self.judges:
            return None
        lookup = self.lookup if self.target else None
        return Identification(self.judges, self.labels, lookup, self.rules)

    @functools.cached_property
    def real(self) -> ImageSet:
        """Private training images of the attacked identities."""
        return self.data.train.select(torch.isin(self.data.train.labels, self.labels))

    @functools.cached_property
    def real_features(self) -> Tensor:
        """Evaluator features of the private training images."""
        return self.evaluator(self.real.images, self.progress, "private images")[1]

    @functools.cached_property
    def regressor(self) -> Evaluator | None:
        """The regressor of attributes, where the protocol pins one."""
        asset = self.stage.cell.protocol.assets.get("attributes")
        return (
            None if asset is None else restored_evaluator(*load_asset(asset)).to(self.bench.device)
        )

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
    ) -> tuple[dict[str, MetricValue], dict[str, Tensor]]:
        """All metrics of images, and what every network says of them, for :meth:`samples`.

        Args:
            images: what is judged, ``(identities, samples, 3, h, w)`` in [0, 1], in parts.
            what: what progress calls it; the ceiling's images are private test images.
        """
        parts = [self._read(part, what) for part in images]
        seen = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        scores, features, second = (seen[name] for name in ("scores", "features", "second"))
        labels, real, rules = self.labels, (self.real_features, self.real.labels), self.rules
        success = metrics.successes(scores, labels)
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
            lambda: self._inception_distances(seen.get("inception"), success),
            lambda: {"attribute_error": self._attribute_error(seen.get("attributes"))},
            lambda: self._identity(seen, what == REFERENCES[CEILING]),
        )
        result: dict[str, MetricValue] = {}
        for index in self.progress.steps(len(groups), f"{what}: metrics"):
            result |= groups[index]()
        return {name: result[name] for name in metrics.METRICS}, seen

    def samples(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a picture shows of each sample.

        The evaluator's ``confidence (identities, samples)``, and :meth:`Identification.of_samples`
        where the protocol pins embedding judges.
        """
        scores = seen["scores"]
        own = self.labels.repeat_interleave(scores.shape[1])
        confidence = scores.flatten(0, 1).softmax(1).gather(1, own[:, None])
        found = {"confidence": confidence.view(scores.shape[:2])}
        if self.identification is not None:
            found |= self.identification.of_samples(*self._told(seen))
        return found

    def _read(self, images: Tensor, what: str) -> dict[str, Tensor]:
        """What every network says of a part of the images, with ``(identities, samples)`` first."""
        flat, found = images.flatten(0, 1), {}
        found["scores"], found["features"] = self.evaluator(
            flat, self.progress, f"{what}: evaluator"
        )
        found["second"] = self.second(flat, self.progress, f"{what}: second evaluator")[0]
        if isinstance(self.inception, Tensor):
            inception = self._inception_features(flat, what)
            assert isinstance(inception, Tensor)  # the weights that the private images had
            found["inception"] = inception
        if self.data.attributes is not None and self.regressor is not None:
            logits = self.regressor(flat, self.progress, f"{what}: attributes")[0]
            found["attributes"] = logits.sigmoid()
        for judge, stage in zip(self.judges, self.stage.enrolments, strict=True):
            found[stage.name] = judge.judge(flat, self.progress, f"{what}: {stage.detail} judge")
        if self.judges and self.target:
            target = self.bench.get(self.stage.target).frozen
            label = f"{what}: target"
            found["target"] = predict(target, flat, progress=self.progress, label=label)[0]
        return {name: each.unflatten(0, images.shape[:2]) for name, each in found.items()}

    def _inception_features(self, images: Tensor, what: str) -> Tensor | str:
        weights = self.inception_weights
        if isinstance(weights, str):
            return weights
        return metrics.inception_features(
            images, weights, self.bench.device, progress=self.progress, label=f"{what}: Inception"
        )

    def _inception_distances(self, fake: Tensor | None, success: Tensor) -> dict[str, MetricValue]:
        if isinstance(self.inception, str) or fake is None:
            reason = missing(str(self.inception))
            return {"fid": reason, "fid_successful": reason}
        real, rules = (self.inception, self.real.labels.cpu()), self.rules
        labels = self.labels.cpu()
        return {
            "fid": metrics.frechet_metric(fake, labels, *real, rules=rules),
            "fid_successful": metrics.fid_successful(
                fake, labels, *real, success.cpu(), rules=rules
            ),
        }

    def _identity(self, seen: dict[str, Tensor], test_images: bool) -> dict[str, MetricValue]:
        if self.identification is None:
            return dict.fromkeys(IDENTITY_METRICS, missing(self.stage.no_judge))
        return self.identification(*self._told(seen), test_images)

    def _told(self, seen: dict[str, Tensor]) -> tuple[list[Tensor], Tensor | None]:
        """The judges' embeddings, and the target's scores of each sample where it is at hand."""
        scores = None
        if "target" in seen:
            every = seen["target"].double().log_softmax(2)  # softmax would be 1 for several
            rows = torch.arange(len(every), device=every.device)
            scores = every[rows, :, self.labels]
        return [seen[stage.name] for stage in self.stage.enrolments], scores

    def guesses(self, images: Tensor) -> dict[str, Tensor]:
        """:meth:`Identification.of_each_guess` of images ``(identities, samples, 3, h, w)``."""
        if self.identification is None:
            return {}
        flat, shape = images.flatten(0, 1), images.shape[:2]
        made = [judge.judge(flat, self.progress, "guesses") for judge in self.judges]
        return self.identification.of_each_guess([each.unflatten(0, shape) for each in made])

    def _attribute_error(self, read: Tensor | None) -> MetricValue:
        truth, labels = self.data.attributes, self.labels
        if truth is None:
            return missing("only protocols with rendered faces know the true attributes")
        if read is None:
            return missing("the protocol pins no network that reads attributes off images")
        return metrics.attribute_error(read, truth[labels], labels, rules=self.rules)

    def references(self) -> dict[str, Iterator[Tensor]]:
        """Images that bound every attack, in parts: two floors and the ceiling.

        Without the target at hand there is no floor of public images, which is look-up's.

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
        if self.target:
            best, public = self.lookup, self.data.public.images
            images[FLOOR_PUBLIC] = (to_float(public[best[part]]) for part in parts)
        test = self.data.test
        own = [(test.labels == label).nonzero()[:samples, 0] for label in labels]
        # Those that a judge scores against others; people who are not attacked may have fewer.
        fewest = min(*map(len, own), *(each.test.shape[1] for each in self.judges))
        private = torch.stack([rows[:fewest] for rows in own])
        images[CEILING] = (to_float(test.images[private[part]]) for part in parts)
        return images

    @functools.cached_property
    def of_references(self) -> dict[str, dict[str, MetricValue]]:
        """All metrics of :meth:`references`, of which those without the target are a seed's."""
        return {
            name: self(images, REFERENCES[name])[0] for name, images in self.references().items()
        }


def _some(images: ImageSet, count: int) -> Tensor:
    """Positions of so many of some images, evenly chosen."""
    chosen = torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()
    return chosen.to(images.images.device)


class References(Stage[dict[str, Any]]):
    """Judge the floors and the ceiling: they depend on the target, not on the attack."""

    kind = "references"

    def __init__(
        self,
        cell: Cell,
        images: Images,
        target: Target,
        evaluator: Stage[Evaluator],
        second: Stage[Evaluator],
        general: Stage[Prior],
        enrolments: Sequence[Enrolment],
        no_judge: str,
    ) -> None:
        self.cell, self.images, self.target = cell, images, target
        self.evaluator, self.second, self.general = evaluator, second, general
        self.enrolments, self.no_judge = tuple(enrolments), no_judge
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
        parents: list[Stage[Any]] = [target, evaluator, second, general, images, *enrolments]
        super().__init__(inputs, cell.request.seed, parents)

    def evaluation(self, bench: Bench) -> Evaluation:
        """The judging of this cell, whose networks and features are kept for all images."""
        return bench.once((self.key, "evaluation"), lambda: Evaluation(self, bench))

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        evaluation = self.evaluation(bench)
        values = {name: dump(found) for name, found in evaluation.of_references.items()}
        if evaluation.identification is not None:
            # From what excess is counted from, to the last digit, whatever noise a target has.
            values[FLOOR_PUBLIC] |= dump(evaluation.identification.of_lookup())
            values[LOOKALIKE] = dump(evaluation.identification.of_lookalikes())
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
            evaluation = self.references.evaluation(bench)
            values, seen = evaluation(shards)
            save_tensors(folder / SAMPLES, evaluation.samples(seen))
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
