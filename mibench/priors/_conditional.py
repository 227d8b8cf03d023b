"""Class-conditional generators and discriminators, which several kinds of priors are made of.

Architectures have names. ``plg`` is the published one of residual blocks (PLG-MI, Yuan et al., AAAI
2023, as in Miyato and Koyama, "cGANs with Projection Discriminator", ICLR 2018): its discriminator
sees images in [0, 1], and widths double from block to block, so that ``width`` 64 is the published
1024 at 64 pixels. ``dcgan`` is the general prior's (:mod:`mibench.priors._networks`), from whose
weights it can start.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from mibench.errors import RequestError
from mibench.priors._networks import Critic, Generator, Trunk, make_trunk, map_sizes
from mibench.priors._prior import GanConfig

ConditionalArchitecture = Literal["plg", "dcgan"]

# Enough for the largest singular values of a trained critic's layers, which lie close together.
POWER_ITERATIONS = 200


class ConditionalBatchNorm(nn.Module):
    """BatchNorm with a gain and a bias of each class (Dumoulin et al., ICLR 2017).

    Args:
        channels: of the maps ``(n, channels, h, w)``.
        classes: how many there are.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Parameter(torch.ones(classes, channels))
        self.bias = nn.Parameter(torch.zeros(classes, channels))

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Maps ``(n, channels, h, w)`` of classes ``(n,)``."""
        gain, bias = self.gain[labels], self.bias[labels]
        if self.training:
            maps = self.norm(maps)
        else:  # both affine maps are one
            mean, variance = self.norm.running_mean, self.norm.running_var
            assert mean is not None
            assert variance is not None
            gain = gain * (variance + self.norm.eps).rsqrt()
            bias = bias - mean * gain
        gain, bias = (each[:, :, None, None].to(maps.dtype) for each in (gain, bias))
        return torch.addcmul(bias, maps, gain)

    def start_from(self, norm: nn.BatchNorm2d) -> None:
        """Take over statistics, and for each class the gain and the bias, of an ordinary one."""
        buffers = {name: value for name, value in norm.named_buffers()}
        self.norm.load_state_dict(buffers)
        with torch.no_grad():
            self.gain.copy_(norm.weight.expand_as(self.gain))
            self.bias.copy_(norm.bias.expand_as(self.bias))


class ResidualUp(nn.Module):
    """A block that doubles the map: twice conditional BatchNorm, ReLU, 3×3, beside a 1×1."""

    def __init__(self, channels: int, out: int, classes: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (ConditionalBatchNorm(each, classes) for each in (channels, out))
        self.conv1, self.conv2 = _conv(channels, out), _conv(out, out)
        self.shortcut = _conv(channels, out, 1)

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        """``(n, channels, h, w)`` of classes ``(n,)`` to ``(n, out, 2h, 2w)``."""
        hidden: Tensor = self.conv1(_doubled(F.relu(self.norm1(maps, labels))))
        hidden = self.conv2(F.relu(self.norm2(hidden, labels)))
        # A 1×1 convolution and a bilinear enlargement commute: this way round it is four times
        # cheaper than the published one, and the same.
        return hidden + _doubled(self.shortcut(maps))


class ConditionalGenerator(nn.Module):
    """Map latents to images of a class.

    Args:
        resolution: height and width of the images, 4 to 7 times a power of two.
        classes: how many there are.
        latent: dimensions of the latent.
        width: channels of the last hidden layer; each earlier stage has twice as many.
        architecture: ``plg``, the published one, or ``dcgan``, the general prior's.

    Shapes:
        ``(n, latent)`` standard normal and labels ``(n,)`` to ``(n, 3, resolution, resolution)`` in
        [0, 1], by a sigmoid.
    """

    def __init__(
        self,
        resolution: int,
        classes: int,
        latent: int = 128,
        width: int = 64,
        architecture: ConditionalArchitecture = "plg",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "resolution": resolution,
            "classes": classes,
            "latent": latent,
            "width": width,
            "architecture": architecture,
        }
        self.latent, self.classes = latent, classes
        if architecture == "dcgan":
            general = Generator(resolution, latent, width)
            self.project = nn.Sequential(nn.Unflatten(1, (latent, 1, 1)), general.project)
            self.blocks = nn.ModuleList(
                ConditionalBatchNorm(each.num_features, classes)
                if isinstance(each, nn.BatchNorm2d)
                else each
                for each in general.blocks
            )
            self.to_rgb = general.to_rgb
            return
        base, stages = map_sizes(resolution)
        channels = width * 2**stages
        linear = nn.Linear(latent, channels * base**2)
        self.project = nn.Sequential(linear, nn.Unflatten(1, (channels, base, base)))
        widths = [width * 2**stage for stage in range(stages, -1, -1)]
        self.blocks = nn.ModuleList(
            ResidualUp(wide, narrow, classes) for wide, narrow in pairwise(widths)
        )
        self.to_rgb = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, 3, 1)
        )

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        hidden = self.project(latents)
        for block in self.blocks:
            conditional = isinstance(block, ConditionalBatchNorm | ResidualUp)
            hidden = block(hidden, labels) if conditional else block(hidden)
        return torch.sigmoid(self.to_rgb(hidden))

    @classmethod
    def started(cls, general: Generator, classes: int) -> ConditionalGenerator:
        """One that makes the images of a general prior's generator, whatever the class.

        Raises:
            ValueError: that is of another architecture than ``dcgan``.
        """
        _check_general(general)
        shape = {name: general.config[name] for name in ("resolution", "latent", "width")}
        made = cls(**shape, classes=classes, architecture="dcgan")
        made.project[1].load_state_dict(general.project.state_dict())
        made.to_rgb.load_state_dict(general.to_rgb.state_dict())
        for own, block in zip(made.blocks, general.blocks, strict=True):
            if isinstance(own, ConditionalBatchNorm):
                assert isinstance(block, nn.BatchNorm2d)
                own.start_from(block)
            else:
                own.load_state_dict(block.state_dict())
        return made


class ResidualDown(nn.Module):
    """A block of the published discriminator that halves the map: ReLU, 3×3, twice, beside a 1×1.

    Args:
        first: it sees the images, which ReLU comes not before, and widens them at once.
    """

    def __init__(self, channels: int, out: int, first: bool = False) -> None:
        super().__init__()
        self.first = first
        hidden = out if first else channels
        self.conv1 = spectral_norm(_conv(channels, hidden))
        self.conv2 = spectral_norm(_conv(hidden, out))
        self.shortcut = spectral_norm(_conv(channels, out, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """``(n, channels, h, w)`` to ``(n, out, h // 2, w // 2)``."""
        hidden = self.conv2(F.relu(self.conv1(maps if self.first else F.relu(maps))))
        # A 1×1 convolution and the average commute, too.
        narrow: Tensor = self.shortcut(F.avg_pool2d(maps, 2))
        return narrow + F.avg_pool2d(hidden, 2)


class SumPool(nn.Module):
    """``(n, channels, h, w)`` to sums ``(n, channels)``."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.sum((2, 3))


def conditional_trunk(
    resolution: int, width: int, architecture: ConditionalArchitecture = "plg"
) -> Trunk:
    """What a discriminator computes before its heads, with spectral norm in every layer.

    Args:
        resolution: height and width of the images.
        width: channels of the first block (published: 64); each later one has twice as many.
        architecture: ``plg``, the published one, or ``dcgan``, the general critic's.

    Returns:
        images ``(n, 3, h, w)`` in [0, 1] to features ``(n, size)``.
    """
    if architecture == "dcgan":
        return make_trunk(resolution, width, "spectral", "dcgan")
    _, stages = map_sizes(resolution)
    blocks: list[nn.Module] = [ResidualDown(3, width, first=True)]
    for stage in range(stages):
        blocks.append(ResidualDown(width * 2**stage, width * 2 ** (stage + 1)))
    return Trunk([*blocks, nn.ReLU(), SumPool()], width * 2**stages, signed=False)


def started_trunk(critic: Critic) -> Trunk:
    """A trunk ``dcgan`` with the weights of a general prior's critic, whose spectral norm is baked.

    Its spectral norm finds singular values of about 1 and so leaves the features as they were.

    Raises:
        ValueError: that is of another architecture or norm.
    """
    _check_general(critic)
    trunk = conditional_trunk(critic.config["resolution"], critic.config["width"], "dcgan")
    for own, layer in zip(trunk, critic.trunk, strict=True):
        _take_over(own, layer)
    return trunk


class ProjectionHead(nn.Module):
    """How real features look as ones of a class: w·f + b + v_y·f (Miyato and Koyama, equation 4).

    Args:
        size: features.
        classes: how many there are.
        normed: whether the v_y, too, have spectral norm, as published, and start random. Without,
            they start at 0, and the head as one that knows no classes; at 0 there is no norm.
    """

    def __init__(self, size: int, classes: int, normed: bool = True) -> None:
        super().__init__()
        linear, embedding = nn.Linear(size, 1), nn.Embedding(classes, size)
        nn.init.xavier_uniform_(linear.weight)
        if normed:
            nn.init.xavier_uniform_(embedding.weight)
        else:
            nn.init.zeros_(embedding.weight)
        self.linear = spectral_norm(linear)
        self.embedding = spectral_norm(embedding) if normed else embedding

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features ``(n, size)`` and labels ``(n,)`` to scores ``(n,)``."""
        projected: Tensor = self.embedding(labels) * features
        scores: Tensor = self.linear(features).squeeze(1) + projected.sum(1)
        return scores


class ProjectionDiscriminator(nn.Module):
    """D(x, y): a trunk with a projection head; arguments as of :func:`conditional_trunk`."""

    def __init__(
        self,
        resolution: int,
        classes: int,
        width: int = 64,
        architecture: ConditionalArchitecture = "plg",
    ) -> None:
        super().__init__()
        self.trunk = conditional_trunk(resolution, width, architecture)
        self.head = ProjectionHead(self.trunk.size, classes, normed=architecture == "plg")

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images ``(n, 3, h, w)`` in [0, 1] and labels ``(n,)`` to scores ``(n,)``.

        The head computes in its weights' precision, also where convolutions do not.
        """
        features = self.trunk(images)
        with torch.autocast(images.device.type, enabled=False):
            scores: Tensor = self.head(features.to(self.head.linear.bias.dtype), labels)
        return scores

    @classmethod
    def started(cls, critic: Critic, classes: int) -> ProjectionDiscriminator:
        """One that scores as a general prior's critic, whatever the class.

        Raises:
            ValueError: that is of another architecture than ``dcgan``.
        """
        trunk = started_trunk(critic)
        made = cls(critic.config["resolution"], classes, critic.config["width"], "dcgan")
        made.trunk = trunk
        _take_over(made.head.linear, critic.head)
        return made


def _conv(channels: int, out: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution of a residual block, or of its shortcut where the kernel is 1."""
    conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight, math.sqrt(2) if kernel > 1 else 1)
    return conv


def _doubled(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


def check_start(gan: GanConfig) -> None:
    """Refuse, before any work, a general prior of other layers than these can start from.

    Raises:
        RequestError: says what to set.
    """
    if gan.architecture != "dcgan" or gan.recipe != "hinge":
        raise RequestError(
            "a class-conditional prior starts from a general one of the architecture `dcgan` and "
            f"the recipe `hinge`, and this one is `{gan.architecture}` and `{gan.recipe}`: set "
            "prior.start=false"
        )


def _check_general(network: Generator | Critic) -> None:
    config = network.config
    if config["architecture"] != "dcgan" or config.get("norm", "none") != "none":
        raise ValueError(
            "class-conditional networks start from the general prior's of the architecture "
            f"`dcgan`, not from {config}"
        )


def _take_over(layer: nn.Module, source: nn.Module) -> None:
    """Copy a layer's weights into one with spectral norm, whose singular vectors are found anew."""
    if not isinstance(source, nn.Conv2d | nn.Linear):
        return  # it has no weights
    with torch.no_grad():
        layer.weight = source.weight.detach()
        assert source.bias is not None
        layer.bias = nn.Parameter(source.bias.detach().clone())
        for _ in range(POWER_ITERATIONS):
            _ = layer.weight  # in training mode, a step of the power method
