"""The identity loss: which objective is optimised, and over which models.

It is an object of its own so that every attack that optimises an identity loss has its improved
variants for free: ``+lom`` swaps the objective, ``+ma`` adds students to the models attacked
(Nguyen et al., "Re-thinking Model Inversion Attacks Against Deep Neural Networks", CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.errors import RequestError
from mibench.models.classifiers import Classifier, Outputs
from mibench.streams import RowStreams, noise_from
from mibench.types import Frozen

Objective = Literal["cross-entropy", "logit"]


class IdentityConfig(Frozen):
    """The identity loss of an attack."""

    objective: Objective = Field(
        "cross-entropy",
        description="`cross-entropy` (baseline) or `logit` (the improved objective, LOM)",
    )
    regularizer: float = Field(
        1.0, ge=0, le=1e30, description="weight λ of LOM's feature regulariser (paper: 1)"
    )
    feature_target: Literal["sampled", "mean"] = Field(
        "sampled",
        description="LOM's p_reg: `sampled` anew each step (paper), or the `mean` (released code)",
    )
    eot: int = Field(
        4,
        ge=1,
        le=10_000,
        description="passes over a stochastic target whose losses are averaged; a deterministic "
        "target takes one",
    )


@dataclass(frozen=True)
class PenultimateGaussian:
    """N(μ_pen, σ_pen), which LOM draws p_reg from: the target's features on public images.

    Attributes:
        mean: μ_pen ``(d,)``. std: σ_pen ``(d,)``.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, features: Tensor) -> PenultimateGaussian:
        """The Gaussian of features ``(n, d)``; the paper takes about 5,000 public images.

        Raises:
            RequestError: there are fewer than two, which have no standard deviation.
        """
        if len(features) < 2:
            raise RequestError(
                f"LOM's feature statistics take at least two public images, not {len(features)}"
            )
        return cls(features.mean(0), features.std(0))


class IdentityLoss:
    """How far images are from the attacked identities, one value an image.

    Args:
        target: outputs of the target for images in [0, 1].
        students: the models of model augmentation; empty without it.
        config: objective, regulariser and expectation over the target's noise.
        penultimate: the target's features, needed by the objective ``logit``.
        stochastic: whether the target draws noise at inference.
    """

    def __init__(
        self,
        target: Callable[[Tensor], Outputs],
        students: Sequence[Classifier],
        config: IdentityConfig,
        penultimate: PenultimateGaussian | None = None,
        stochastic: bool = False,
    ) -> None:
        if config.objective == "logit" and penultimate is None:
            raise ValueError("the objective `logit` needs the target's feature statistics")
        self.target, self.students = target, tuple(students)
        self.config, self.penultimate = config, penultimate
        self.passes = config.eot if stochastic else 1

    def __call__(self, images: Tensor, labels: Tensor, streams: RowStreams) -> Tensor:
        """Loss ``(n,)`` of images ``(n, 3, h, w)`` in [0, 1]; the caller sums it.

        The baseline is −log softmax_k, ``logit`` −logit_k + λ·‖f − p_reg‖² (seed paper, equation
        3). With students the first term is a mean over all models (equation 6, equal weights).
        Noise comes from ``streams``, a row an image.
        """
        terms = distance = torch.zeros(len(images), device=images.device)
        with noise_from(streams):
            for _ in range(self.passes):
                out = self.target(images)
                terms = terms + self._term(out.logits, labels) / self.passes
                if self.config.objective == "logit" and self.penultimate is not None:
                    p_reg = self.penultimate.mean
                    if self.config.feature_target == "sampled":
                        p_reg = p_reg + self.penultimate.std * streams.normal(len(p_reg))
                    # Released code takes the mean over dimensions where the paper writes a norm.
                    square = (out.features - p_reg).square().mean(1)
                    distance = distance + square / self.passes
        for student in self.students:
            terms = terms + self._term(student(images), labels)
        # Released code adds the regulariser whole, for it is read off the target alone.
        return terms / (1 + len(self.students)) + self.config.regularizer * distance

    def _term(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.objective == "cross-entropy":
            return F.cross_entropy(logits, labels, reduction="none")
        return -logits.gather(1, labels[:, None]).squeeze(1)
