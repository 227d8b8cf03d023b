"""The target as an attack may see it, by its access."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.models.classifiers import Classifier, Outputs
from mibench.streams import RowStreams, noise_from, stream
from mibench.types import Access, Frozen

_ASKED_FOR: contextvars.ContextVar[Tensor | None] = contextvars.ContextVar("asked", default=None)


@contextlib.contextmanager
def asked_for(labels: Tensor) -> Iterator[None]:
    """Count what the target is asked inside the block as asked for these identities alone.

    What is asked outside any such block is shared by all identities, as a pool's scores are.

    Args:
        labels: ``(n,)``, the identity of each image of a question.
    """
    token = _ASKED_FOR.set(labels)
    try:
        yield
    finally:
        _ASKED_FOR.reset(token)


class TargetAccess:
    """The target as an attack may see it, counting queries (one for each image).

    The model is held by closures, not attributes: an object of a lower level offers no way up.

    Attributes:
        classes: number of identities.
        queries: images that the target was asked about so far.
        own_queries: of these, the ones that were :func:`asked_for` each identity ``(classes,)``;
            the others are shared.
        times: queries that it takes to learn of one image.
    """

    times = 1

    def __init__(self, model: Classifier) -> None:
        self.classes = model.classes
        self.queries = 0
        self.own_queries = torch.zeros(self.classes, dtype=torch.int64)

        @torch.no_grad()
        def predict(images: Tensor) -> Tensor:
            _count(self, images)
            logits: Tensor = model(images.detach())
            return logits.argmax(1)

        self._predict = predict

    def predict(self, images: Tensor, streams: RowStreams | None = None) -> Tensor:
        """Predicted labels ``(n,)`` of images in [0, 1].

        Args:
            streams: where a stochastic target's noise comes from, a row an image.
        """
        with noise_from(streams):
            return self._predict(images)


def _count(target: TargetAccess, images: Tensor) -> None:
    """Count a question; one for identities that names another number of them is refused."""
    target.queries += len(images)
    labels = _ASKED_FOR.get()
    if labels is None:
        return
    if len(labels) != len(images):
        raise ValueError(
            f"the target is asked about {len(images)} images for {len(labels)} identities: "
            "asked_for() takes one for each image"
        )
    target.own_queries = target.own_queries.to(labels.device)
    target.own_queries.index_add_(0, labels, torch.ones_like(labels))


class BlackBoxTarget(TargetAccess):
    """Access to confidence scores."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(model)

        @torch.no_grad()
        def scores(images: Tensor) -> Tensor:
            _count(self, images)
            logits: Tensor = model(images.detach())  # for forward-mode gradients
            return logits.softmax(1)

        self._scores = scores

    def scores(self, images: Tensor, streams: RowStreams | None = None) -> Tensor:
        """Softmax scores ``(n, classes)``, without gradients; arguments as in :meth:`predict`."""
        with noise_from(streams):
            return self._scores(images)


class WhiteBoxTarget(BlackBoxTarget):
    """Access to weights: outputs are differentiable in the images."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(model)
        self.model = model

    def outputs(self, images: Tensor) -> Outputs:
        """Logits and features, differentiable in ``images``."""
        _count(self, images)
        return self.model.outputs(images)


ACCESS: dict[Access, type[TargetAccess]] = {
    "white-box": WhiteBoxTarget,
    "black-box": BlackBoxTarget,
    "label-only": TargetAccess,
}


class RepeatConfig(Frozen):
    """How the same question is asked several times."""

    times: int = Field(
        32,
        ge=2,
        le=10_000,
        description="times that each question is asked",
    )
    noise: float = Field(
        0.004,
        ge=0,
        le=1,
        description="standard deviation of the Gaussian noise on each copy of an image in [0, 1] "
        "(0.004: one of 256 grey levels), which makes it another question to a target whose noise "
        "is a hash of the question; 0: the image itself each time",
    )


class RepeatedLabels(TargetAccess):
    """Access to labels by an attacker who asks each question several times.

    The defense in the answers that this undoes is noise. The noise on copy ``k`` of an image is
    that on copy ``k`` of every image, so that no answer depends on which images are asked about
    together.

    Source: Stealthy Shield Defense (Zhuang et al., ICLR 2025), appendix H, of repeated queries.

    Args:
        seed: of the noise on the copies.
    """

    def __init__(self, model: Classifier, config: RepeatConfig, seed: int) -> None:
        super().__init__(model)
        self._config, self._seed, self.times = config, seed, config.times

    def _copies(self, images: Tensor) -> Iterator[Tensor]:
        for copy in range(self._config.times):
            noise = torch.randn(images.shape[1:], generator=stream(self._seed, "repeat", copy))
            yield (images + self._config.noise * noise.to(images)).clamp(0, 1)

    def predict(self, images: Tensor, streams: RowStreams | None = None) -> Tensor:
        """The labels ``(n,)`` that most copies get; of equally many, the first copy's decides.

        Where the first copy's is none of these, it is the lowest.
        """
        votes, first = torch.zeros(len(images), self.classes, device=images.device), 0.5
        for copy in self._copies(images):
            votes += (1 + first) * F.one_hot(super().predict(copy, streams), self.classes)
            first = 0.0
        return votes.argmax(1)


class RepeatedScores(RepeatedLabels, BlackBoxTarget):
    """The same with access to scores."""

    def scores(self, images: Tensor, streams: RowStreams | None = None) -> Tensor:
        """The mean of the copies' scores ``(n, classes)``."""
        total = torch.zeros(len(images), self.classes, device=images.device)
        for copy in self._copies(images):
            total += super().scores(copy, streams)
        return total / self._config.times


def access_to(
    model: Classifier, access: Access, repeats: RepeatConfig | None = None, seed: int = 0
) -> TargetAccess:
    """The target at an access.

    Args:
        repeats: how often each question is asked, of an attacker without white-box access; None:
            once.
        seed: of the noise on repeated questions.
    """
    if repeats is None:
        return ACCESS[access](model)
    repeated = RepeatedScores if access == "black-box" else RepeatedLabels
    return repeated(model, repeats, seed)
