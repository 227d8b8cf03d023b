"""The target as an attack may see it, by its access."""

from __future__ import annotations

import torch
from torch import Tensor

from mibench.models.classifiers import Classifier, Outputs
from mibench.streams import RowStreams, noise_from
from mibench.types import Access


class TargetAccess:
    """The target as an attack may see it, counting queries (one for each image).

    The model is held by closures, not attributes: an object of a lower level offers no way up.

    Attributes:
        classes: number of identities.
        queries: images that the target was asked about so far.
    """

    def __init__(self, model: Classifier) -> None:
        self.classes = model.classes
        self.queries = 0

        @torch.no_grad()
        def predict(images: Tensor) -> Tensor:
            self.queries += len(images)
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


class BlackBoxTarget(TargetAccess):
    """Access to confidence scores."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(model)

        @torch.no_grad()
        def scores(images: Tensor) -> Tensor:
            self.queries += len(images)
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
        self.queries += len(images)
        return self.model.outputs(images)


ACCESS: dict[Access, type[TargetAccess]] = {
    "white-box": WhiteBoxTarget,
    "black-box": BlackBoxTarget,
    "label-only": TargetAccess,
}
