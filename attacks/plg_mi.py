"""PLG-MI: a conditional GAN on pseudo-labelled images, and max-margin steps on views."""

from __future__ import annotations

from torch import Tensor

from mibench.attacks._plg import SearchConfig, descend
from mibench.inversion.attack import Attack, LatentConfig, Problem, register_attack
from mibench.types import AttackCard


@register_attack("plg-mi")
class PlgMi(Attack["PlgMi.Config"]):
    """Optimise latents of a generator of each identity, which the target helped to train.

    References:
        Yuan et al., "Pseudo Label-Guided Model Inversion Attack via Conditional Generative
        Adversarial Network", AAAI 2023.
    """

    card = AttackCard(
        title="Pseudo Label-Guided Model Inversion Attack via Conditional Generative Adversarial "
        "Network",
        authors="Yuan, Chen, Zhang, Zhang, Yu, Zhang",
        year=2023,
        venue="AAAI",
        url="https://arxiv.org/abs/2302.09814",
        reference_code="https://github.com/LetheSec/PLG-MI-Attack",
        deviations=(
            "By default the GAN is a fine-tuning of the general prior, whose BatchNorm gets a gain "
            "and a bias for each identity, and whose critic gets a projection that starts at 0, "
            "without spectral norm, which 0 has none of; real images are mirrored, too, and of the "
            "generator a moving average is kept. The papers' protocols (`celeba-64` and others) "
            "set what is published: its own networks, from scratch, 30,000 steps, no mirroring, no "
            "averaging.",
            "The generator ends in a sigmoid, so that its images, the target's input and real "
            "images are all in [0, 1]. The released one ends in tanh beside real images in "
            "[0, 1], and nothing clips what it makes.",
            "What a turned view brings in is the image's edge repeated; crop and turn are one "
            "bilinear sampling. Jitter is of brightness, then of contrast, and clipped to [0, 1].",
            "The target labels public images in evaluation mode, from their logits' "
            "log-probabilities: probabilities that are rounded to 1 would tie.",
            "Each reconstruction has random streams of its own. The released code seeds each batch "
            "of 60 identities alike, so that all batches start from the same latents.",
            "Public images are cropped alike for the selection and for the training; the released "
            "code crops FaceScrub for the selection alone.",
            "The GAN's convolutions compute in bfloat16, the released ones in float32; losses and "
            "weights are float32 in both.",
        ),
    )

    prior = "conditional-gan"

    class Config(SearchConfig, LatentConfig):
        """Options of PLG-MI's second stage; the defaults are the released code's."""

    def rows_per_identity(self, samples: int) -> int:
        """All views of a step are in memory."""
        return samples * self.config.augmentations

    def invert(self, problem: Problem) -> Tensor:
        """Images ``(labels, samples, 3, h, w)`` in [0, 1] that the target's own loss leads to."""
        return descend(problem, problem.white_box()[1], self.config)
