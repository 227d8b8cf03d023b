"""LOKT: by labels alone, surrogates that a target-assisted GAN teaches are attacked."""

from __future__ import annotations

from torch import Tensor

from mibench.attacks._plg import SearchConfig, descend
from mibench.inversion.attack import Attack, Problem, TransferConfig, register_attack
from mibench.types import AttackCard


@register_attack("lokt")
class Lokt(Attack["Lokt.Config"]):
    """Transfer the target's labels to surrogates, and attack these with all that they show.

    Three stages: a conditional GAN whose discriminator learns the target's hard labels of its
    images (the prior ``t-acgan``), classifiers that learn them of further images, and PLG-MI's
    search of latents on the mean of these. The third asks the target nothing.

    References:
        Nguyen et al., "Label-Only Model Inversion Attacks via Knowledge Transfer", NeurIPS 2023.
    """

    card = AttackCard(
        title="Label-Only Model Inversion Attacks via Knowledge Transfer",
        authors="Nguyen, Chandrasegaran, Abdollahzadeh, Cheung",
        year=2023,
        venue="NeurIPS",
        url="https://ngoc-nguyen-0.github.io/lokt/",
        reference_code="https://github.com/ngoc-nguyen-0/LOKT_neurips2023",
        deviations=(
            "Generated images are in [0, 1] by a sigmoid. The released generator ends in a tanh, "
            "while public images and the target's inputs are in [0, 1], and nothing clamps what it "
            "makes.",
            "The target labels the surrogates' images once, in 8 bits, and the surrogates learn "
            "these; the released code makes them anew from the same latents in each step.",
            "Surrogates end in timm's average pooling, the released ones in a linear layer on the "
            "whole last map. Their step size falls in every step; SGD's momentum is Nesterov's.",
            "Brightness and contrast of views change as in torchvision, brightness first.",
            "Small protocols start from the general prior and take the protocol's students as "
            "surrogates, from scratch.",
            "The GAN's convolutions compute in bfloat16, the released ones in float32; losses and "
            "weights are float32 in both.",
        ),
    )
    access = "label-only"
    prior = "t-acgan"

    class Config(SearchConfig, TransferConfig):
        """Options of LOKT; the defaults are those of the paper and of its released code."""

    def rows_per_identity(self, samples: int) -> int:
        """The surrogates see each latent's image as often as it has views."""
        return samples * self.config.augmentations

    def invert(self, problem: Problem) -> Tensor:
        """PLG-MI's search on the surrogates; images ``(labels, samples, 3, h, w)`` in [0, 1]."""
        return descend(problem, problem.transfer_loss(), self.config)
