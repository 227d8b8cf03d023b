"""The identity loss: which objective is optimised, and over which models.

It is an object of its own so that every attack that optimises an identity loss has its variants
for free: ``+lom`` swaps the objective, ``+ma`` adds students to the models attacked (Nguyen et al.,
"Re-thinking Model Inversion Attacks Against Deep Neural Networks", CVPR 2023), ``+taa`` and
``+paa`` average the loss over views or noisy copies of the image (AlignMI, NeurIPS 2025, arXiv
2509.20177).
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
from mibench.inversion.views import TRANSFORMED
from mibench.models.access import asked_for
from mibench.models.classifiers import Outputs
from mibench.models.margin import margin
from mibench.streams import RowStreams, noise_from
from mibench.types import LATER, Frozen

Objective = Literal["cross-entropy", "logit", "max-margin", "top-k-margin", "poincare"]


class IdentityConfig(Frozen):
    """The identity loss of an attack."""

    objective: Objective = Field(
        "cross-entropy",
        description="`cross-entropy` (baseline); `logit` (the improved objective, chosen by the "
        "name `+lom`); `max-margin` (PLG-MI), `top-k-margin` (Diff-MI); `poincare` (PPA)",
    )
    top_k: int = Field(
        20,
        ge=0,
        le=10**9,
        description="logits of other identities that `top-k-margin` averages, all where there are "
        "fewer",
        json_schema_extra=LATER,
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
    views: Literal["none", "taa", "paa"] = Field(
        "none",
        description="what the loss is averaged over: `taa`, random crops, mirrored and turned; "
        "`paa`, noisy copies; `none`, the image as it is",
        json_schema_extra=LATER,
    )
    view_count: int = Field(
        8,
        ge=1,
        le=10_000,
        description="views K of `taa` and `paa` in a step (AlignMI: 50, and that 20 do)",
        json_schema_extra=LATER,
    )
    view_noise: float = Field(
        0.05,
        ge=0,
        le=1e30,
        description="standard deviation σ of `paa`'s noise, of images in [0, 1] (AlignMI: 0.05; "
        "0.005 for GMI at 64×64)",
        json_schema_extra=LATER,
    )

    @property
    def views_a_step(self) -> int:
        """Images that the models see for each reconstruction in a step."""
        return 1 if self.views == "none" else self.view_count


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
        target: outputs of the target, or of a surrogate in its place, for images in [0, 1].
        students: logits of the models of model augmentation, or of further surrogates; may be
            empty.
        config: objective, regulariser and expectation over the target's noise.
        penultimate: the target's features, needed by the objective ``logit``.
        stochastic: whether the target draws noise at inference.
        mirror: whether views may be mirrored; not so of digits.
    """

    def __init__(
        self,
        target: Callable[[Tensor], Outputs],
        students: Sequence[Callable[[Tensor], Tensor]],
        config: IdentityConfig,
        penultimate: PenultimateGaussian | None = None,
        stochastic: bool = False,
        mirror: bool = True,
    ) -> None:
        if config.objective == "logit" and penultimate is None:
            raise ValueError("the objective `logit` needs the target's feature statistics")
        self.target, self.students = target, tuple(students)
        self.config, self.penultimate = config, penultimate
        self.passes = config.eot if stochastic else 1
        self.mirror = mirror

    def __call__(
        self, images: Tensor, labels: Tensor, streams: RowStreams, whose: Tensor | None = None
    ) -> Tensor:
        """Loss ``(n,)`` of images ``(n, 3, h, w)`` in [0, 1]; the caller sums it.

        With views, the mean over K of them: E[L(view(x))], drawn anew each time (AlignMI). What is
        random comes from ``streams``, a row an image.

        Args:
            whose: the identity ``(n,)`` that each image is asked about for, where that is another
                than its label.
        """
        total = torch.zeros(len(images), device=images.device)
        with asked_for(labels if whose is None else whose):
            for _ in range(self.config.views_a_step):
                total = total + self._of(self._view(images, streams), labels, streams)
        return total / self.config.views_a_step

    def _view(self, images: Tensor, streams: RowStreams) -> Tensor:
        if self.config.views == "taa":
            return TRANSFORMED(images, streams, self.mirror)
        if self.config.views == "paa":
            return images + self.config.view_noise * streams.normal(*images.shape[1:])
        return images

    def _of(self, images: Tensor, labels: Tensor, streams: RowStreams) -> Tensor:
        """The loss of the images as they are.

        The baseline is −log softmax_k, ``logit`` −logit_k + λ·‖f − p_reg‖² (seed paper, equation
        3). With students the first term is a mean over all models (equation 6, equal weights).
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
        objective = self.config.objective
        if objective == "cross-entropy":
            return F.cross_entropy(logits, labels, reduction="none")
        if objective == "poincare":
            return poincare(logits, labels)
        most = min(self.config.top_k, logits.shape[1] - 1)
        k = {"logit": 0, "max-margin": 1, "top-k-margin": most}[objective]
        if k == 0:
            return -logits.gather(1, labels[:, None]).squeeze(1)
        return margin(logits, labels, k)


def poincare(logits: Tensor, labels: Tensor) -> Tensor:
    """Distance ``(n,)`` in the Poincaré ball from u = ℓ/‖ℓ‖₁ to (almost) the one-hot vector of y.

    d(u, v) = arccosh(1 + 2‖u − v‖²/((1 − ‖u‖²)(1 − ‖v‖²))), of logits ``(n, classes)``. A scaling
    of the logits changes nothing, a constant that is added to them does.

    Source: Plug & Play Attacks (Struppek et al., ICML 2022), section 3.3 and released code.
    """
    u = F.normalize(logits, p=1, dim=1)
    v = (F.one_hot(labels, logits.shape[1]) - 1e-4).clamp(0, 1).to(u.dtype)
    apart = (u - v).square().sum(1)
    # ‖u‖ is 1 where one logit alone is not 0.
    room = (1 - u.square().sum(1)).clamp_min(1e-6) * (1 - v.square().sum(1))
    return torch.acosh(1 + 2 * apart / room)
