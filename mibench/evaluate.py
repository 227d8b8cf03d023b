"""Everything that a record says about reconstructions, and the floors and the ceiling beside it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from mibench import metrics
from mibench.assets import load_asset
from mibench.data.images import ImageSet
from mibench.models.classifiers import predict
from mibench.models.evaluators import judge
from mibench.stages import Stages, pinned_judge
from mibench.streams import stream
from mibench.types import (
    CEILING,
    FLOOR_PRIOR,
    FLOOR_PUBLIC,
    RULES_VERSION,
    MetricValue,
    missing,
)


class Evaluation:
    """Judges a cell's images with the protocol's evaluators.

    Both sides of every comparison, reconstructions and private images, pass through the same
    pipeline: floating point at the protocol's resolution, then the evaluator's antialiased resize.

    Args:
        stages: the cell.
        rules: version of the metrics' rules; a claim is checked by its own.
    """

    def __init__(self, stages: Stages, rules: int = RULES_VERSION) -> None:
        self.stages, self.data, self.rules = stages, stages.data, rules
        self.labels = stages.labels
        self.evaluator, self.second = stages.evaluator("evaluator"), stages.evaluator("second")

    @functools.cached_property
    def real(self) -> ImageSet:
        """Private training images of the attacked identities."""
        return self.data.train.select(torch.isin(self.data.train.labels, self.labels))

    @functools.cached_property
    def real_features(self) -> Tensor:
        """Evaluator features of the private training images."""
        return judge(self.evaluator, self.real.images)[1]

    @functools.cached_property
    def inception(self) -> Tensor | str:
        """Inception features of the private training images, or why there are none."""
        weights = metrics.find_inception()
        if isinstance(weights, str):
            return weights
        return metrics.inception_features(self.real.images, weights, self.stages.device)

    def accuracies(self) -> dict[str, float]:
        """Accuracy on private test images: of the target (``natural_accuracy``) and evaluators."""
        test = self.data.test
        logits, _ = predict(self.stages.target, test.images)
        result = {"natural_accuracy": metrics.natural_accuracy(logits, test.labels)}
        for key, model in (
            ("evaluator_accuracy", self.evaluator),
            ("second_evaluator_accuracy", self.second),
        ):
            result[key] = metrics.natural_accuracy(judge(model, test.images)[0], test.labels)
        return result

    def __call__(self, images: Tensor) -> dict[str, MetricValue]:
        """All metrics of images ``(identities, samples, 3, h, w)`` in [0, 1]."""
        identities, samples = images.shape[:2]
        flat = images.flatten(0, 1)
        shape = (identities, samples, -1)
        scores, features = (each.view(shape) for each in judge(self.evaluator, flat))
        second = judge(self.second, flat)[0].view(shape)
        labels, real = self.labels, (self.real_features, self.real.labels)
        result = {
            "attack_accuracy_top1": metrics.attack_accuracy(scores, labels, 1),
            "attack_accuracy_top5": metrics.attack_accuracy(scores, labels, 5),
            "attack_accuracy_both": metrics.accuracy_both(scores, second, labels),
            "evaluator_agreement": metrics.evaluator_agreement(scores, second, labels),
            "knn_distance": metrics.knn_distance(features, labels, *real),
            "fd_evaluator": metrics.fd_evaluator(features, labels, *real),
            **metrics.prdc(features, labels, *real),
            **self._inception_distances(images, metrics.successes(scores, labels)),
            "attribute_error": self._attribute_error(flat, (identities, samples)),
        }
        return {name: result[name] for name in metrics.METRICS}

    def confidence(self, images: Tensor) -> Tensor:
        """The evaluator's confidence in the attacked identity ``(identities, samples)``."""
        scores = judge(self.evaluator, images.flatten(0, 1))[0].softmax(1)
        rows = self.labels.repeat_interleave(images.shape[1])
        return scores.gather(1, rows[:, None]).view(images.shape[:2])

    def _inception_distances(self, images: Tensor, success: Tensor) -> dict[str, MetricValue]:
        weights, real = metrics.find_inception(), self.inception
        if isinstance(weights, str) or isinstance(real, str):
            reason = str(real)
            return {"fid": missing(reason), "fid_successful": missing(reason)}
        fake = metrics.inception_features(images.flatten(0, 1), weights, self.stages.device)
        fake = fake.view(*images.shape[:2], -1)
        labels, known = self.labels.cpu(), self.real.labels.cpu()
        return {
            "fid": metrics.fid(fake, labels, real, known),
            "fid_successful": metrics.fid_successful(fake, labels, real, known, success.cpu()),
        }

    def _attribute_error(self, images: Tensor, shape: tuple[int, int]) -> MetricValue:
        assets, truth = self.stages.cell.protocol.assets, self.data.attributes
        if truth is None or "attributes" not in assets:
            return missing("only protocols with rendered faces know the true attributes")
        regressor = pinned_judge(*load_asset(assets["attributes"])).to(self.stages.device)
        predicted = judge(regressor, images)[0].sigmoid().view(*shape, -1)
        return metrics.attribute_error(predicted, truth[self.labels], self.labels)

    def references(self, target: bool = True) -> dict[str, Tensor]:
        """Images that bound every attack: two floors and the ceiling.

        Args:
            target: whether the target is at hand; without it there is no floor of public images.
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
            public = self.data.public
            scores = predict(self.stages.frozen_target, public.images)[0].softmax(1)
            best = scores[:, self.labels].topk(min(samples, len(public)), dim=0).indices.T
            images[FLOOR_PUBLIC] = public.images[best].float() / 255
        test = self.data.test
        private = [test.images[test.labels == label][:samples] for label in self.labels]
        fewest = min(len(each) for each in private)
        images[CEILING] = torch.stack([each[:fewest] for each in private]).float() / 255
        return images


def absent(reason: str) -> dict[str, MetricValue]:
    """Every metric as missing for one reason."""
    return {name: missing(reason) for name in metrics.METRICS}


def dump(values: dict[str, MetricValue]) -> dict[str, Any]:
    """Metric values as JSON."""
    return {name: value.model_dump(mode="json") for name, value in values.items()}


def load(values: dict[str, Any]) -> dict[str, MetricValue]:
    """Metric values from JSON."""
    return {name: MetricValue.model_validate(value) for name, value in values.items()}
