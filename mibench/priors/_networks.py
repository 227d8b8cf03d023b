"""Generators and critics of image priors, and how a trained prior is written down.

Architectures have names. ``dcgan``, this suite's own, has 4×4 kernels (a stride of 2 divides them,
which avoids checkerboards), and its critic sees images on the scale [−1, 1]. ``gmi`` and ``kedmi``
are the published networks, layer by layer: GMI's generator and critic (Zhang et al., CVPR 2020) and
KEDMI's critic (Chen et al., ICCV 2021), with 5×5 kernels, critics that see images in [0, 1], and
PyTorch's initial weights. ``width`` scales every layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from mibench.errors import RequestError

CriticNorm = Literal["spectral", "instance", "none"]
GeneratorName = Literal["dcgan", "gmi"]
CriticName = Literal["dcgan", "gmi", "kedmi"]


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
        architecture: GeneratorName = "dcgan",
    ) -> None:
        super().__init__()
        self.config = {
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


class MinibatchDiscrimination(nn.Module):
    """Closeness of a sample to the others of its batch (Salimans et al., NeurIPS 2016).

    Args:
        features: input dimensions.
        kernels: output dimensions.
        kernel_size: dimensions of each kernel.
        std: standard deviation of the kernels at the start. At the released code's 1 distances are
            so large that their exponentials are exactly 0, and with them the gradients.
    """

    def __init__(
        self, features: int, kernels: int = 64, kernel_size: int = 50, std: float = 0.02
    ) -> None:
        super().__init__()
        self.kernels, self.kernel_size = kernels, kernel_size
        self.project = nn.Linear(features, kernels * kernel_size, bias=False)
        nn.init.normal_(self.project.weight, std=std)

    def embed(self, features: Tensor) -> Tensor:
        """``(n, features)`` to ``(n, kernels, kernel_size)``."""
        return self.project(features).view(-1, self.kernels, self.kernel_size)

    def forward(self, features: Tensor, bank: Tensor | None = None) -> Tensor:
        """Append the closeness statistics: ``(n, features)`` to ``(n, features + kernels)``.

        Args:
            features: ``(n, features)``.
            bank: embedded samples ``(m, kernels, kernel_size)`` that every row is compared with.
                None compares the rows of the batch with one another, as the released code is
                written; each row's result then depends on its batch mates.
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
        architecture: ``dcgan``, or the published ``gmi`` and ``kedmi``, whose norm is ``instance``.
        kernel_std: of :class:`MinibatchDiscrimination`.
    """

    def __init__(
        self,
        resolution: int,
        width: int = 64,
        classes: int = 0,
        norm: CriticNorm = "spectral",
        architecture: CriticName = "dcgan",
        kernel_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.config = {
            "resolution": resolution,
            "width": width,
            "classes": classes,
            "norm": norm,
            "architecture": architecture,
        }
        self.signed = architecture == "dcgan"
        if not self.signed and norm != "instance":
            raise ValueError(f"the published critics have instance normalisation, not {norm!r}")
        trunk = {"dcgan": _dcgan_trunk, "gmi": _gmi_trunk, "kedmi": _kedmi_trunk}[architecture]
        self.trunk, features = trunk(*map_sizes(resolution), width, norm)
        self.minibatch = MinibatchDiscrimination(features, std=kernel_std) if classes else None
        extra = self.minibatch.kernels if self.minibatch else 0
        self.head = _wrapper(norm)(nn.Linear(features + extra, max(classes, 1)))

    def features(self, images: Tensor) -> Tensor:
        """Features before minibatch discrimination and head: ``(n, features)``."""
        return self.trunk(images * 2 - 1 if self.signed else images)

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


def _wrapper(norm: CriticNorm) -> Callable[[nn.Module], nn.Module]:
    return spectral_norm if norm == "spectral" else (lambda module: module)


Trunk = tuple[nn.Sequential, int]  # convolutions, and how many features they end in


def _dcgan_trunk(base: int, stages: int, width: int, norm: CriticNorm) -> Trunk:
    """This suite's convolutions."""
    wrap, channels = _wrapper(norm), width
    layers: list[nn.Module] = [wrap(nn.Conv2d(3, channels, 4, 2, 1)), nn.LeakyReLU(0.2)]
    for _ in range(stages - 1):
        layers.append(wrap(nn.Conv2d(channels, channels * 2, 4, 2, 1)))
        if norm == "instance":
            layers.append(nn.InstanceNorm2d(channels * 2, affine=True))
        layers.append(nn.LeakyReLU(0.2))
        channels *= 2
    layers += [wrap(nn.Conv2d(channels, channels, base)), nn.LeakyReLU(0.2), nn.Flatten()]
    return nn.Sequential(*layers), channels


def _gmi_trunk(base: int, stages: int, width: int, _: CriticNorm) -> Trunk:
    """GMI's: 5×5 convolutions, the first without norm. Its last, of the whole map, is the head."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 5, 2, 2), nn.LeakyReLU(0.2)]
    for stage in range(stages - 1):
        layers += _normed(width * 2**stage, width * 2 ** (stage + 1), 5)
    return nn.Sequential(*layers, nn.Flatten()), width * 2 ** (stages - 1) * base**2


def _kedmi_trunk(base: int, stages: int, width: int, _: CriticNorm) -> Trunk:
    """KEDMI's: three 5×5 convolutions, then 3×3 ones without more channels; flattened features.

    With 32 pixels there are the three alone, as in BiDO's copy for MNIST and CIFAR-10.
    """
    layers, channels = [], 3
    for stage in range(stages):
        wider = width * 2 ** min(stage, 2)
        layers += _normed(channels, wider, 5 if stage < 3 else 3)
        channels = wider
    return nn.Sequential(*layers, nn.Flatten()), channels * base**2


def _normed(channels: int, out: int, kernel: int) -> list[nn.Module]:
    halved = nn.Conv2d(channels, out, kernel, 2, kernel // 2)
    return [halved, nn.InstanceNorm2d(out, affine=True), nn.LeakyReLU(0.2)]


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
