"""Generators and critics of GANs, which several kinds of priors are made of.

Architectures have names. ``dcgan``, this suite's own, has 4×4 kernels (a stride of 2 divides them,
which avoids checkerboards), and its critic sees images on the scale [−1, 1]. ``gmi`` is the
published one, layer by layer (Zhang et al., CVPR 2020), with 5×5 kernels, a critic that sees images
in [0, 1], and PyTorch's initial weights. ``width`` scales every layer.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from mibench.errors import RequestError

Architecture = Literal["dcgan", "gmi"]
Norm = Literal["spectral", "instance", "none"]


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
        architecture: ``dcgan``, or ``gmi`` for the published one (KEDMI's is the same).

    Shapes:
        ``(n, latent)`` standard normal to ``(n, 3, resolution, resolution)`` in [0, 1].
    """

    def __init__(
        self,
        resolution: int,
        latent: int = 100,
        width: int = 32,
        architecture: Architecture = "dcgan",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "resolution": resolution,
            "latent": latent,
            "width": width,
            "architecture": architecture,
        }
        self.latent = latent
        layers = {"dcgan": _dcgan_layers, "gmi": _gmi_layers}[architecture]
        self.project, self.blocks, self.to_rgb = layers(*map_sizes(resolution), latent, width)

    def forward(self, latents: Tensor) -> Tensor:
        maps = isinstance(self.project, nn.ConvTranspose2d)
        hidden = self.project(latents[:, :, None, None] if maps else latents)
        return torch.sigmoid(self.to_rgb(self.blocks(hidden)))


Layers = tuple[nn.Module, nn.Sequential, nn.Module]


def _dcgan_layers(base: int, stages: int, latent: int, width: int) -> Layers:
    """First layer, hidden ones and last one of this suite's generator."""
    channels = width * 2**stages
    project = nn.ConvTranspose2d(latent, channels, base, bias=False)
    blocks: list[nn.Module] = [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    for _ in range(stages):
        up = nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False)
        blocks += [up, nn.BatchNorm2d(channels // 2), nn.ReLU(inplace=True)]
        channels //= 2
    return project, nn.Sequential(*blocks), nn.Conv2d(channels, 3, 3, padding=1)


def _gmi_layers(base: int, stages: int, latent: int, width: int) -> Layers:
    """Those of the published one: linear, then 5×5 transposed convolutions, the last to colours."""
    channels = width * 2 ** (stages - 1)
    size = channels * base**2
    project = nn.Linear(latent, size, bias=False)
    blocks: list[nn.Module] = [
        nn.BatchNorm1d(size),
        nn.ReLU(inplace=True),
        nn.Unflatten(1, (channels, base, base)),
    ]
    for _ in range(stages - 1):
        up = nn.ConvTranspose2d(channels, channels // 2, 5, 2, 2, output_padding=1, bias=False)
        blocks += [up, nn.BatchNorm2d(channels // 2), nn.ReLU(inplace=True)]
        channels //= 2
    to_rgb = nn.ConvTranspose2d(channels, 3, 5, 2, 2, output_padding=1)
    return project, nn.Sequential(*blocks), to_rgb


class Critic(nn.Module):
    """Score how real images look.

    Args:
        resolution: height and width of the images.
        width: channels of the first convolution; each later one has twice as many.
        norm: normalisation of the convolutions; ``spectral`` is removed by :meth:`bake`.
        architecture: ``dcgan``, or the published ``gmi``, whose norm is ``instance``.
    """

    def __init__(
        self,
        resolution: int,
        width: int = 64,
        norm: Norm = "spectral",
        architecture: Architecture = "dcgan",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "resolution": resolution,
            "width": width,
            "norm": norm,
            "architecture": architecture,
        }
        self.trunk = make_trunk(resolution, width, norm, architecture)
        self.head = _wrapped(nn.Linear(self.trunk.size, 1), norm)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(n, 3, h, w)`` in [0, 1] to scores ``(n,)``."""
        scores: Tensor = self.head(self.trunk(images))
        return scores.squeeze(1)

    def bake(self) -> Critic:
        """Replace spectral normalisation by the weights it stands for, in place."""
        bake(self)
        if self.config["norm"] == "spectral":
            self.config = {**self.config, "norm": "none"}
        return self


def bake(network: nn.Module) -> None:
    """Replace spectral normalisation by the weights it stands for, in place."""
    for module in network.modules():
        if is_parametrized(module):
            remove_parametrizations(module, "weight")


class Trunk(nn.Sequential):
    """The convolutions of a critic: images ``(n, 3, h, w)`` in [0, 1] to features ``(n, size)``.

    Args:
        layers: what computes the features, but for the last step, which flattens them.
        size: how many there are.
        signed: whether the layers see images on the scale [−1, 1].
    """

    def __init__(self, layers: list[nn.Module], size: int, signed: bool) -> None:
        super().__init__(*layers, nn.Flatten())
        self.size, self.signed = size, signed

    def forward(self, images: Tensor) -> Tensor:
        hidden = images * 2 - 1 if self.signed else images
        for layer in self:
            hidden = layer(hidden)
        return hidden


def make_trunk(resolution: int, width: int, norm: Norm, architecture: Architecture) -> Trunk:
    """The convolutions of a critic; arguments as of :class:`Critic`."""
    base, stages = map_sizes(resolution)
    if architecture == "dcgan":
        layers, channels = [_wrapped(nn.Conv2d(3, width, 4, 2, 1), norm), nn.LeakyReLU(0.2)], width
        for _ in range(stages - 1):
            layers.append(_wrapped(nn.Conv2d(channels, channels * 2, 4, 2, 1), norm))
            if norm == "instance":
                layers.append(nn.InstanceNorm2d(channels * 2, affine=True))
            layers.append(nn.LeakyReLU(0.2))
            channels *= 2
        layers += [_wrapped(nn.Conv2d(channels, channels, base), norm), nn.LeakyReLU(0.2)]
        return Trunk(layers, channels, signed=True)
    # The first convolution has no norm; the last of the paper, of the whole map, is the head.
    check_published(norm)
    layers = [nn.Conv2d(3, width, 5, 2, 2), nn.LeakyReLU(0.2)]
    for stage in range(stages - 1):
        layers += halving(width * 2**stage, width * 2 ** (stage + 1), 5)
    return Trunk(layers, width * 2 ** (stages - 1) * base**2, signed=False)


def halving(channels: int, out: int, kernel: int) -> list[nn.Module]:
    """A convolution of the published critics, which halves the map, with its norm."""
    halved = nn.Conv2d(channels, out, kernel, 2, kernel // 2)
    return [halved, nn.InstanceNorm2d(out, affine=True), nn.LeakyReLU(0.2)]


def check_published(norm: Norm) -> None:
    """Refuse another normalisation than that of the published critics."""
    if norm != "instance":
        raise ValueError(f"the published critics have instance normalisation, not {norm!r}")


def _wrapped(layer: nn.Module, norm: Norm) -> nn.Module:
    return spectral_norm(layer) if norm == "spectral" else layer
