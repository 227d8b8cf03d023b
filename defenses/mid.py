"""MID: mutual information regularisation through a stochastic bottleneck."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.models.classifiers import Classifier
from mibench.streams import noise_like
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.training.loop import TrainState
from mibench.types import DefenseCard


class BottleneckHead(nn.Module):
    """Linear classifier of z = μ + σε, with μ and σ = softplus(s − 5) linear in the features.

    Source: MID (AAAI 2021) and its code; the bottleneck has half the features' size.

    Args:
        features: size d of the features.
        classes: number of identities.

    Shapes:
        ``(n, d)`` to logits ``(n, classes)``; the noise ε is drawn in training and at inference,
        from the source that :func:`mibench.streams.noise_from` sets.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.size = max(1, features // 2)
        self.statistics = nn.Linear(features, 2 * self.size)
        self.classify = nn.Linear(self.size, classes)

    def read(self, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the bottleneck's ``mu`` and ``sigma``, each ``(n, d // 2)``."""
        mu, raw = self.statistics(features).split(self.size, dim=1)
        sigma = F.softplus(raw - 5)
        logits = self.classify(mu + sigma * noise_like(mu))
        return logits, {"mu": mu, "sigma": sigma}

    def forward(self, features: Tensor) -> Tensor:
        return self.read(features)[0]


def kl_to_standard_normal(mu: Tensor, sigma: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) in nats, summed over dimensions: ``(n, d)`` twice to ``(n,)``."""
    # softplus underflows to 0 far below its threshold, where the logarithm must stay finite.
    log_sigma = sigma.clamp_min(torch.finfo(sigma.dtype).tiny).log()
    return 0.5 * (mu.square() + sigma.square() - 1 - 2 * log_sigma).sum(1)


@register_defense("mid")
class Mid(Defense["Mid.Config"]):
    """Cross-entropy + β·KL(N(μ, σ²) ‖ N(0, 1)), an upper bound on the information about the image.

    The features that white-box attacks read are the ones before the bottleneck.

    References:
        Wang, Zhang, Jia. "Improving Robustness to Model Inversion Attacks via Mutual Information
        Regularization". AAAI 2021.
    """

    card = DefenseCard(
        kind="architecture",
        title="Improving Robustness to Model Inversion Attacks via Mutual Information "
        "Regularization",
        authors="Tianhao Wang, Yuheng Zhang, Ruoxi Jia",
        year=2021,
        venue="AAAI",
        url="https://arxiv.org/abs/2009.05241",
        reference_code="https://github.com/AlanPeng0897/Defend_MI (BiDO/train_vib.py)",
        deviations=(
            "The bottleneck has half the size of the timm target's features; the code's VGG16 "
            "has 2,048 features and so 1,024 dimensions. The KL is summed over them, so that β "
            "does not carry over between architectures.",
            "The features of `vgg16_bn_mi` pass its BatchNorm1d before the bottleneck; the code's "
            "VGG16 has none there.",
            "The training's optimizer, schedule and augmentation are the protocol's, the same as "
            "for the undefended target.",
        ),
        adaptive_attack="improved-gmi+taa",
        adaptive_note="Attacks that optimise an identity loss average it over the bottleneck's "
        "noise (`identity.eot`); this one over views of the image, too. Those that ask for scores "
        "or labels ask once, but for +repeat.",
    )

    class Config(DefenseConfig):
        """Options of MID."""

        beta: float = Field(
            0.01,
            ge=0,
            le=1e30,
            description="weight β of the bottleneck's KL divergence, in nats; 0: the control, "
            "which keeps the noisy bottleneck",
        )

    strength = "beta"
    strengths = (0, 0.003, 0.01, 0.02, 0.05)
    stochastic = True

    def build(self, model: Classifier) -> Classifier:
        """Put the bottleneck in place of the linear head."""
        model.head = BottleneckHead(model.feature_size, model.classes)
        return model

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        """Cross-entropy + β·KL, the KL averaged over the batch."""
        outputs = model.outputs(images)
        loss = F.cross_entropy(outputs.logits, labels)
        if self.config.beta == 0:
            return loss
        kl = kl_to_standard_normal(outputs.extra["mu"], outputs.extra["sigma"])
        return loss + self.config.beta * kl.mean()
