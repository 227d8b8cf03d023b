"""Generators and critics of image priors, and how a trained prior is written down.

The networks are the transposed-convolution pair of GMI (Zhang et al., CVPR 2020, appendix), with
4×4 kernels in place of 5×5 (a stride of 2 divides them, which avoids checkerboards) and one last
3×3 convolution; ``width`` scales every layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from mibench.errors import RequestError

CriticNorm = Literal["spectral", "instance", "none"]


def map_sizes(resolution: int) -> tuple[int, int]:
    """Side of a prior's smallest map, 4 to 7 pixels, and how often it is doubled.

    Raises:
        RequestError: no such map leads to ``resolution``.
    """
    stages = max(0, int(math.log2(resolution / 4)))
    base = resolution >> stages
    if stages < 1 or base << stages != resolution:
        raise RequestError(
            "the image prior needs a resolution that is 4, 5, 6 or 7 times a power of two, as 32, "
            f"64, 112, 128 or 224; {resolution} is not"
        )
    return base, stages


class Generator(nn.Module):
    """Map latents to images.

    Args:
        resolution: height and width of the images, 4 to 7 times a power of two.
        latent: dimensions of the latent.
        width: channels of the last hidden layer; each earlier stage has twice as many.

    Shapes:
        ``(n, latent)`` standard normal to ``(n, 3, resolution, resolution)`` in [0, 1].
    """

    def __init__(self, resolution: int, latent: int = 100, width: int = 32) -> None:
        super().__init__()
        base, stages = map_sizes(resolution)
        self.config = {"resolution": resolution, "latent": latent, "width": width}
        self.latent = latent
        channels = width * 2**stages
        self.project = nn.ConvTranspose2d(latent, channels, base, bias=False)
        blocks: list[nn.Module] = [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        for _ in range(stages):
            blocks += [
                nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(channels // 2),
                nn.ReLU(inplace=True),
            ]
            channels //= 2
        self.blocks = nn.Sequential(*blocks)
        self.to_rgb = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        hidden = self.blocks(self.project(latents[:, :, None, None]))
        return torch.sigmoid(self.to_rgb(hidden))


class MinibatchDiscrimination(nn.Module):
    """Closeness of a sample to the others of its batch (Salimans et al., NeurIPS 2016).

    Args:
        features: input dimensions.
        kernels: output dimensions.
        kernel_size: dimensions of each kernel.
    """

    def __init__(self, features: int, kernels: int = 64, kernel_size: int = 50) -> None:
        super().__init__()
        self.kernels, self.kernel_size = kernels, kernel_size
        self.project = nn.Linear(features, kernels * kernel_size, bias=False)
        nn.init.normal_(self.project.weight, std=0.02)

    def embed(self, features: Tensor) -> Tensor:
        """``(n, features)`` to ``(n, kernels, kernel_size)``."""
        return self.project(features).view(-1, self.kernels, self.kernel_size)

    def forward(self, features: Tensor, bank: Tensor | None = None) -> Tensor:
        """Append the closeness statistics: ``(n, features)`` to ``(n, features + kernels)``.

        Args:
            features: ``(n, features)``.
            bank: embedded samples ``(m, kernels, kernel_size)`` that every row is compared with.
                None compares the rows of the batch with one another, as published; each row's
                result then depends on its batch mates.
        """
        own = self.embed(features)
        others = own if bank is None else bank
        # L1 distances kernel by kernel (kernels, n, m); no (n, m, kernels, size) tensor is made.
        distance = torch.cdist(own.transpose(0, 1), others.transpose(0, 1), p=1)
        closeness = torch.exp(-distance).sum(dim=2).T
        if bank is None:
            closeness = closeness - 1  # a row's closeness to itself
        return torch.cat([features, closeness], dim=1)


class Critic(nn.Module):
    """Score images: one realism score, or one logit a class with minibatch discrimination.

    Args:
        resolution: height and width of the images.
        width: channels of the first convolution; each later one has twice as many.
        classes: 0 for a realism score (GMI); the number of identities for KEDMI's critic.
        norm: normalisation of the convolutions; ``"spectral"`` is removed by :meth:`bake`.
    """

    def __init__(
        self, resolution: int, width: int = 64, classes: int = 0, norm: CriticNorm = "spectral"
    ) -> None:
        super().__init__()
        base, stages = map_sizes(resolution)
        self.config = {"resolution": resolution, "width": width, "classes": classes, "norm": norm}
        wrap = spectral_norm if norm == "spectral" else (lambda module: module)
        channels = width
        layers: list[nn.Module] = [wrap(nn.Conv2d(3, channels, 4, 2, 1)), nn.LeakyReLU(0.2)]
        for _ in range(stages - 1):
            layers.append(wrap(nn.Conv2d(channels, channels * 2, 4, 2, 1)))
            if norm == "instance":
                layers.append(nn.InstanceNorm2d(channels * 2, affine=True))
            layers.append(nn.LeakyReLU(0.2))
            channels *= 2
        layers += [wrap(nn.Conv2d(channels, channels, base)), nn.LeakyReLU(0.2), nn.Flatten()]
        self.trunk = nn.Sequential(*layers)
        self.minibatch = MinibatchDiscrimination(channels) if classes else None
        extra = self.minibatch.kernels if self.minibatch else 0
        self.head = wrap(nn.Linear(channels + extra, max(classes, 1)))

    def features(self, images: Tensor) -> Tensor:
        """Features before minibatch discrimination and head: ``(n, channels)``."""
        return self.trunk(images * 2 - 1)

    def score(self, features: Tensor, bank: Tensor | None = None) -> Tensor:
        """Scores of features: ``(n,)`` realism, or ``(n, classes)`` logits."""
        if self.minibatch is not None:
            return self.head(self.minibatch(features, bank))
        return self.head(features).squeeze(1)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(n, 3, h, w)`` in [0, 1] to their scores."""
        return self.score(self.features(images))

    def bake(self) -> Critic:
        """Replace spectral normalisation by the weights it stands for, in place."""
        for module in self.modules():
            if is_parametrized(module):
                remove_parametrizations(module, "weight")
        if self.config["norm"] == "spectral":
            self.config = {**self.config, "norm": "none"}
        return self


@dataclass
class Prior:
    """An attacker's image prior.

    Attributes:
        generator: the generator, its weights averaged over training.
        critic: the critic it was trained with.
        bank: embedded generator samples ``(m, kernels, kernel_size)`` that stand for the batch in
            minibatch discrimination; None where the critic has none.
        recipe: how it was made, as boards show it.
    """

    generator: Generator
    critic: Critic
    recipe: str
    bank: Tensor | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the prior under a flat name, ready for safetensors."""
        tensors = {f"generator.{k}": v for k, v in self.generator.state_dict().items()}
        tensors |= {f"critic.{k}": v for k, v in self.critic.bake().state_dict().items()}
        if self.bank is not None:
            tensors["bank"] = self.bank
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def description(self) -> dict[str, Any]:
        """What :meth:`rebuild` needs beside the tensors (JSON)."""
        return {
            "generator": self.generator.config,
            "critic": self.critic.config,
            "recipe": self.recipe,
            "notes": self.notes,
        }

    @classmethod
    def rebuild(cls, description: dict[str, Any], tensors: dict[str, Tensor]) -> Prior:
        """The prior that :meth:`description` and :meth:`tensors` describe."""
        generator = Generator(**description["generator"])
        critic = Critic(**description["critic"])
        generator.load_state_dict(_under(tensors, "generator."))
        critic.load_state_dict(_under(tensors, "critic."))
        bank = tensors.get("bank")
        return cls(generator, critic, description["recipe"], bank, description["notes"])

    def to(self, device: torch.device) -> Prior:
        """Move the networks to ``device``, in place."""
        self.generator.to(device)
        self.critic.to(device)
        self.bank = None if self.bank is None else self.bank.to(device)
        return self


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
