"""SSD: stealthy shield, answers as close to a typical one of some class as a budget lets them."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mibench.defenses._answers import (
    LEAST,
    as_logits,
    require_validation,
    scores_of,
    unfiltered,
)
from mibench.models.classifiers import Classifier
from mibench.streams import noise_like, stream
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.training.loop import Job
from mibench.types import DefenseCard

GRID = 0.01
"""Logits are rounded to multiples of this before they are hashed."""


def entropy(f: Tensor) -> Tensor:
    """H(f) = −Σ f log f in nats ``(n,)`` of distributions ``(n, classes)``."""
    return -torch.xlogy(f, f).sum(1)


def nearest(f: Tensor, q: Tensor, budget: Tensor) -> Tensor:
    """argmin over p of KL(p‖q), where p is a distribution and ‖p − f‖₁ ≤ budget.

    If q itself is in reach it is the answer. Else p = clip(f, w_A·q, w_B·q): what is less likely
    than w_A times what q says is raised to that, what is more likely than w_B times that is
    lowered, and the mass of either is half the budget, which two water levels w_A < 1 < w_B solve.

    Source: SSD (Zhuang et al., ICLR 2025), the water-filling of section 4; O(K log K) for K
    classes.

    Args:
        f, q: distributions ``(n, classes)``; q is positive.
        budget: ``(n,)``, at least 0.

    Returns:
        ``(n, classes)``.
    """
    half = budget[:, None] / 2
    ratio, order = (f / q).sort(1)
    level_a = _level(ratio, f.gather(1, order), q.gather(1, order), half)
    ratio, order = ratio.flip(1), order.flip(1)
    level_b = -_level(-ratio, -f.gather(1, order), q.gather(1, order), half)
    within = (f - q).abs().sum(1) <= budget
    return torch.where(within[:, None], q, f.clamp(level_a * q, level_b * q))


def _level(ratio: Tensor, f: Tensor, q: Tensor, mass: Tensor) -> Tensor:
    """The w ``(n, 1)`` at which Σ (w·q − f)₊ is ``mass`` ``(n, 1)``; f/q ascend along each row.

    The sum grows with w, and is linear between one ratio and the next: below w are those that the
    sum at their own ratio leaves some of the mass to.
    """
    lower_f, lower_q = f.cumsum(1), q.cumsum(1)
    below = (ratio * lower_q - lower_f <= mass).sum(1, keepdim=True).clamp_min(1) - 1
    return (mass + lower_f.gather(1, below)) / lower_q.gather(1, below)


class Shield(nn.Module):
    """The filter: draws a class and moves the answer towards what is typical of it.

    Args:
        classes: number K of identities.
        epsilon: budget in units of the answer's entropy; 0 leaves answers as they are.
        temperature: of the draw.
        hashed: whether the draw is a function of the answer, instead of fresh noise.

    Attributes:
        typical: the mean scores of each class on validation images ``(K, K)``, positive.

    Shapes:
        Logits ``(n, K)`` to logits ``(n, K)``; fresh noise is drawn from the source that
        :func:`mibench.streams.noise_from` sets.
    """

    def __init__(self, classes: int, epsilon: float, temperature: float, hashed: bool) -> None:
        super().__init__()
        self.epsilon, self.temperature, self.hashed = epsilon, temperature, hashed
        self.typical: Tensor
        self.register_buffer("typical", torch.full((classes, classes), 1 / classes))

    def fit(self, logits: Tensor, labels: Tensor) -> None:
        """Take the mean scores of each class from logits ``(n, K)`` of images of ``labels``."""
        for label in range(len(self.typical)):
            mean = scores_of(logits[labels == label]).mean(0).clamp_min(LEAST)
            self.typical[label] = mean / mean.sum()

    def forward(self, logits: Tensor) -> Tensor:
        if self.epsilon == 0:
            return logits
        f = scores_of(logits)
        drawn = self.draw(f, self._uniform(logits).to(f))
        return as_logits(nearest(f, self._q(drawn), self.epsilon * entropy(f)), logits)

    def draw(self, f: Tensor, uniform: Tensor) -> Tensor:
        """Classes ``(n,)`` by softmax(f / T), f the scores, from numbers ``(n, 1)`` in [0, 1)."""
        sums = (f / self.temperature).softmax(1).cumsum(1)
        return (sums / sums[:, -1:] <= uniform).sum(1).clamp_max(f.shape[1] - 1)

    def _q(self, drawn: Tensor) -> Tensor:
        q = self.typical[drawn].double()
        return q / q.sum(1, keepdim=True)

    def _uniform(self, logits: Tensor) -> Tensor:
        """Numbers ``(n, 1)`` in [0, 1): of the answers themselves, or fresh ones."""
        if not self.hashed:
            return (1 + torch.erf(noise_like(logits[:, :1]) / math.sqrt(2))) / 2
        values, labels = logits.detach().max(1)
        keys = zip(labels.tolist(), (values / GRID).round().tolist(), strict=True)
        drawn = [torch.rand((), generator=stream(0, "ssd", *key)).item() for key in keys]
        return torch.tensor(drawn, dtype=torch.float64)[:, None]


@register_defense("ssd")
class StealthyShield(Defense["StealthyShield.Config"]):
    """An answer f becomes argmin KL(p‖q_y) over p with ‖p − f‖₁ ≤ ε·H(f), y drawn by the answer.

    q_y is the mean answer of class y on validation images, so that of an image no more than its
    class is told, as far as the budget goes; unsure answers have more of it. The label can change.
    Only the answers change: whoever has the weights sees the target as it is.

    References:
        Zhuang, Yu, Qiu, Fang, Chen, Xia. "Stealthy Shield Defense: A Conditional Mutual
        Information-Based Approach against Black-Box Model Inversion Attacks". ICLR 2025.
    """

    card = DefenseCard(
        kind="output",
        title="Stealthy Shield Defense: A Conditional Mutual Information-Based Approach against "
        "Black-Box Model Inversion Attacks",
        authors="Tianqu Zhuang, Hongyao Yu, Yixiang Qiu, Hao Fang, Bin Chen, Shu-Tao Xia",
        year=2025,
        venue="ICLR",
        url="https://openreview.net/forum?id=p0DjhjPXl3",
        reference_code="https://github.com/ZhuangQu/Stealthy-Shield-Defense",
        deviations=(
            "The paper's counter to repeated questions seeds the draw by a hash of the image. A "
            "filter sees answers alone, so it is a hash of the label and of its logit in steps of "
            "0.01 here, which is the same for the same image in any batch but for one in "
            "thousands; the code's own fresh draws are `defense.noise=fresh`.",
            "What is typical of a class is at least 1e-12 of each other one, so that the "
            "divergence is finite; so are the logarithms of answers.",
            "What is typical of a class is fitted on answers to validation images, whose accuracy "
            "also stands for that of images that were not trained on: test images are for testing "
            "alone.",
        ),
        adaptive_attack="mirror-blackbox+repeat",
        adaptive_note="It asks each question several times, with noise that the hash does not "
        "withstand, and averages what the draws add.",
    )

    class Config(DefenseConfig):
        """Options of SSD."""

        epsilon: float = Field(
            0.5,
            ge=0,
            le=1e6,
            description="budget ε of ‖p − f‖₁ in units of the answer's entropy in nats; 0: the "
            "control, which changes nothing",
        )
        temperature: float = Field(
            0.1,
            gt=0,
            le=1e6,
            description="temperature T of the draw of y, from softmax(f/T) of the scores f",
        )
        noise: Literal["hashed", "fresh"] = Field(
            "hashed",
            description="what y is drawn with: `hashed`, a function of the answer, so that the "
            "same question has the same one; `fresh`, anew for each question",
        )

    strength = "epsilon"
    strengths = (0, 0.35, 0.5, 0.8, 1.5)

    def __init__(self, config: StealthyShield.Config) -> None:
        super().__init__(config)
        self.stochastic = config.noise == "fresh"

    def build(self, model: Classifier) -> Classifier:
        """Put the shield behind the last layer."""
        config = self.config
        model.output = Shield(
            model.classes, config.epsilon, config.temperature, config.noise == "hashed"
        )
        return model

    def check(self, job: Job) -> None:
        """Refuse too few validation images to know every class by."""
        require_validation(job, "ssd")

    def finish(self, job: Job) -> None:
        """Find what is typical of each class on validation images."""
        shield, val = job.model.output, require_validation(job, "ssd")
        assert isinstance(shield, Shield)
        shield.fit(unfiltered(job, val), val.labels)
