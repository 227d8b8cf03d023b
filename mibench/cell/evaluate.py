"""Everything that a record says about reconstructions, and the floors and the ceiling beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mibench import metrics
from mibench.assets import load_asset
from mibench.cell.stages import Stages
from mibench.data.images import ImageSet
from mibench.errors import MibenchError
from mibench.judges import Judge, restored_judge
from mibench.models.classifiers import predict
from mibench.record import CEILING, FLOOR_PRIOR, FLOOR_PUBLIC, RULES_VERSION, MetricValue, missing
from mibench.settings import share_of
from mibench.streams import stream


class Evaluation:
    """Judges a cell's images with the protocol's evaluators.

    Both sides of every comparison, reconstructions and private images, pass through the same
    pipeline: floating point at the protocol's resolution, then the evaluator's antialiased resize.

    Args:
        stages: the cell's. A share of its budget is a share of the test images, and of the public
            images that the second floor chooses from, too.
        rules: version of the metrics' rules, see :mod:`mibench.metrics.intervals`; a claim is
            checked by its own.

    Raises:
        JudgeDivergedError: an evaluator's training left the numbers.
    """

    def __init__(self, stages: Stages, rules: int = RULES_VERSION) -> None:
        self.stages, self.data, self.rules = stages, stages.data, rules
        self.labels, self.progress = stages.labels, stages.progress
        self.evaluator, self.second = stages.evaluator("evaluator"), stages.evaluator("second")
        budget = stages.cell.spec.budget
        self.test, self.public = _some(self.data.test, budget), _some(self.data.public, budget)

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
        asset = self.stages.cell.protocol.assets.get("attributes")
        return None if asset is None else restored_judge(*load_asset(asset)).to(self.stages.device)

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
        outputs = {
            "natural_accuracy": predict(
                self.stages.target, test.images, progress=progress, label="target on test images"
            )[0],
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

    def __call__(self, images: Tensor, what: str = "reconstructions") -> dict[str, MetricValue]:
        """All metrics of images ``(identities, samples, 3, h, w)`` in [0, 1].

        Args:
            images: what is judged.
            what: what progress calls it.
        """
        identities, samples = images.shape[:2]
        flat = images.flatten(0, 1)
        shape = (identities, samples, -1)
        judged = self.evaluator(flat, self.progress, f"{what}: evaluator")
        scores, features = (each.view(shape) for each in judged)
        second = self.second(flat, self.progress, f"{what}: second evaluator")[0].view(shape)
        labels, real, rules = self.labels, (self.real_features, self.real.labels), self.rules
        parts: tuple[Callable[[], dict[str, MetricValue]], ...] = (
            lambda: {
                "attack_accuracy_top1": metrics.attack_accuracy(scores, labels, 1, rules=rules),
                "attack_accuracy_top5": metrics.attack_accuracy(scores, labels, 5, rules=rules),
                "attack_accuracy_both": metrics.accuracy_both(scores, second, labels, rules=rules),
                "evaluator_agreement": metrics.evaluator_agreement(
                    scores, second, labels, rules=rules
                ),
                "knn_distance": metrics.knn_distance(features, labels, *real, rules=rules),
            },
            lambda: {"fd_evaluator": metrics.fd_evaluator(features, labels, *real, rules=rules)},
            lambda: metrics.prdc(features, labels, *real, rules=rules),
            lambda: self._inception_distances(images, metrics.successes(scores, labels), what),
            lambda: {"attribute_error": self._attribute_error(flat, (identities, samples), what)},
        )
        result: dict[str, MetricValue] = {}
        for index in self.progress.steps(len(parts), f"{what}: metrics"):
            result |= parts[index]()
        return {name: result[name] for name in metrics.METRICS}

    def confidence(self, images: Tensor) -> Tensor:
        """The evaluator's confidence in the attacked identity ``(identities, samples)``."""
        flat = images.flatten(0, 1)
        scores = self.evaluator(flat, self.progress, "picture: evaluator")[0].softmax(1)
        rows = self.labels.repeat_interleave(images.shape[1])
        return scores.gather(1, rows[:, None]).view(images.shape[:2])

    def _inception_features(self, images: Tensor, what: str) -> Tensor | str:
        weights = self.inception_weights
        if isinstance(weights, str):
            return weights
        return metrics.inception_features(
            images, weights, self.stages.device, progress=self.progress, label=f"{what}: Inception"
        )

    def _inception_distances(
        self, images: Tensor, success: Tensor, what: str
    ) -> dict[str, MetricValue]:
        real = self.inception
        fake = (
            real if isinstance(real, str) else self._inception_features(images.flatten(0, 1), what)
        )
        if isinstance(fake, str) or isinstance(real, str):
            reason = str(real)
            return {"fid": missing(reason), "fid_successful": missing(reason)}
        fake = fake.view(*images.shape[:2], -1)
        labels, known, rules = self.labels.cpu(), self.real.labels.cpu(), self.rules
        return {
            "fid": metrics.fid(fake, labels, real, known, rules=rules),
            "fid_successful": metrics.fid_successful(
                fake, labels, real, known, success.cpu(), rules=rules
            ),
        }

    def _attribute_error(self, images: Tensor, shape: tuple[int, int], what: str) -> MetricValue:
        truth = self.data.attributes
        if truth is None or self.regressor is None:
            return missing("only protocols with rendered faces know the true attributes")
        logits = self.regressor(images, self.progress, f"{what}: attributes")[0]
        predicted, labels = logits.sigmoid().view(*shape, -1), self.labels
        return metrics.attribute_error(predicted, truth[labels], labels, rules=self.rules)

    def references(self, target: bool = True) -> dict[str, Tensor]:
        """Images that bound every attack: two floors and the ceiling.

        Args:
            target: whether the target is at hand; without it there is no floor of public images.

        Raises:
            DivergedError: the general prior's training left the numbers.
        """
        samples = self.stages.cell.protocol.samples
        prior = self.stages.general_prior()
        generator = stream(self.stages.seed, "floor")
        with torch.no_grad():
            latents = torch.randn(
                len(self.labels) * samples, prior.generator.latent, generator=generator
            )
            random = prior.generator.eval()(latents.to(self.stages.device))
        images = {FLOOR_PRIOR: random.unflatten(0, (len(self.labels), samples))}
        if target:
            public = self.public
            scores = predict(
                self.stages.frozen_target,
                public.images,
                progress=self.progress,
                label="target on public images",
            )[0].softmax(1)
            best = scores[:, self.labels].topk(min(samples, len(public)), dim=0).indices.T
            images[FLOOR_PUBLIC] = public.images[best].float() / 255
        test = self.data.test
        private = [test.images[test.labels == label][:samples] for label in self.labels]
        fewest = min(len(each) for each in private)
        images[CEILING] = torch.stack([each[:fewest] for each in private]).float() / 255
        return images


def _some(images: ImageSet, budget: float) -> ImageSet:
    """A share of some images, evenly chosen: a hundred at least, or all there are."""
    count = share_of(len(images), budget, least=100)
    if count == len(images):
        return images
    chosen = torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()
    return images.select(chosen.to(images.images.device))


def absent(reason: str) -> dict[str, MetricValue]:
    """Every metric as missing for one reason."""
    return {name: missing(reason) for name in metrics.METRICS}


def dump(values: dict[str, MetricValue]) -> dict[str, Any]:
    """Metric values as JSON."""
    return {name: value.model_dump(mode="json") for name, value in values.items()}


def load(values: dict[str, Any]) -> dict[str, MetricValue]:
    """Metric values from JSON."""
    return {name: MetricValue.model_validate(value) for name, value in values.items()}
