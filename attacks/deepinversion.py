"""DeepInversion: pixels whose BatchNorm statistics are those of the training images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.data.images import picked
from mibench.errors import RequestError
from mibench.inversion.attack import Attack, AttackConfig, Problem, register_attack
from mibench.models.classifiers import Classifier
from mibench.types import BUDGETED, AttackCard

Norm = nn.modules.batchnorm._BatchNorm


@register_attack("deepinversion")
class DeepInversion(Attack["DeepInversion.Config"]):
    """Optimise pixels for the identity, smoothness, and BatchNorm's running statistics.

    References:
        Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR
        2020, equations 2 to 4.
    """

    card = AttackCard(
        title="Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion",
        authors="Yin, Molchanov, Alvarez, Li, Mallya, Hoiem, Jha, Kautz",
        year=2020,
        venue="CVPR",
        url="https://arxiv.org/abs/1912.08795",
        reference_code="https://github.com/NVlabs/DeepInversion",
        deviations=(
            "Statistics of a batch tie its images to one another. So that identities stay "
            "independent, each has a batch of its own: its reconstructions, and beside them "
            "images of identities drawn at random, as all are in the released scripts; these are "
            "thrown away.",
            "Every BatchNorm counts, also one of vectors, which the CIFAR-10 script's network has "
            "none of.",
            "Total variation is of the image, not of its rolled view, at whose seam opposite edges "
            "meet.",
            "Images are clipped after each step and mirrored at random, as in the ImageNet script; "
            "the CIFAR-10 script does neither.",
            "The ImageNet script's first steps at half the size are `coarse_iterations`: pixels of "
            "that size, enlarged for the target, which not every architecture can see smaller; "
            "there the target sees full-size pixels shrunk.",
            "The step size does not fall, as in the CIFAR-10 script; the ImageNet script's does.",
            "It has no prior; the one that its record names is of the references beside it.",
        ),
    )

    folds = False

    class Config(AttackConfig):
        """Options of DeepInversion; the defaults are those of the released CIFAR-10 script."""

        iterations: int = Field(
            2000, ge=1, le=10**9, description="Adam's steps", json_schema_extra=BUDGETED
        )
        coarse_iterations: int = Field(
            0,
            ge=0,
            le=10**9,
            description="steps before them at half the height and width (ImageNet: 2,000, then "
            "1,000)",
            json_schema_extra={**BUDGETED, "least": 0},
        )
        learning_rate: float = Field(0.1, gt=0, le=1e30, description="Adam's step (ImageNet: 0.2)")
        beta1: float = Field(0.9, ge=0, lt=1, description="Adam's first decay rate (ImageNet: 0.5)")
        beta2: float = Field(
            0.999, ge=0, lt=1, description="Adam's second decay rate (ImageNet: 0.9)"
        )
        statistics_weight: float = Field(
            100, ge=0, le=1e30, description="weight of BatchNorm's statistics (ImageNet: 0.05)"
        )
        first_weight: float = Field(
            1, ge=0, le=1e30, description="factor of the first BatchNorm (ImageNet: 10)"
        )
        total_variation: float = Field(
            2.5e-5, ge=0, le=1e30, description="weight of total variation (ImageNet: 1e-4)"
        )
        l2: float = Field(
            0, ge=0, le=1e30, description="weight of the image's norm (ImageNet: 1e-5)"
        )
        jitter: int = Field(
            2,
            ge=0,
            le=1024,
            description="pixels by which images are rolled each step, half as many at half the "
            "size (ImageNet: 30)",
        )
        batch: int = Field(
            64,
            ge=2,
            le=65_536,
            description="images that are optimised together for an identity, its reconstructions "
            "among them (CIFAR-10: 256, ImageNet: 64)",
        )

    @classmethod
    def check(cls, model: Classifier) -> None:
        """Refuse a target without running statistics.

        Raises:
            RequestError: there is no BatchNorm with running statistics in it.
        """
        if not norms(model):
            raise RequestError(
                f"deepinversion reads BatchNorm's running statistics, and {model.architecture} as "
                "it is deployed under this defense has none: choose another attack, or an "
                "architecture with BatchNorm (DP-SGD replaces it)"
            )

    def rows_per_identity(self, samples: int) -> int:
        """The images of its batch."""
        return max(self.config.batch, samples)

    def invert(self, problem: Problem) -> Tensor:
        """min L_id + α_tv·R_TV + α_l2·R_l2 + α_f·R_feature over the pixels of each batch.

        L_id and R_l2 are means over the batch, R_TV is a norm of all of it, and R_feature compares
        its statistics. Pixels are on the network's own scale, as in the released code, and clipped
        to what images can have there.
        """
        config, k, n = self.config, len(problem.labels), problem.samples
        B = self.rows_per_identity(n)
        target, L_id = problem.white_box()
        model, size = target.model, problem.public.images.shape[2]
        layers = norms(model)
        least, most = (
            model.normalise(torch.zeros_like(model.mean)),
            model.normalise(torch.ones_like(model.mean)),
        )
        y = (problem.streams("labels").uniform(B) * model.classes).long()
        y[:, :n] = problem.labels[:, None]
        y, whose = y.flatten(), problem.labels.repeat_interleave(B)
        starts, moves = problem.streams("start", B), problem.streams("jitter", B)
        noise = problem.streams("noise", B)
        coarse, betas = config.coarse_iterations, (config.beta1, config.beta2)
        side = size // 2 if coarse else size
        x = starts.normal(3, side, side)
        adam = torch.optim.Adam([x.requires_grad_(True)], config.learning_rate, betas)
        for step in problem.progress.steps(coarse + config.iterations, "deepinversion"):
            if coarse and step == coarse:
                x = F.interpolate(x.detach(), size=size).requires_grad_(True)
                adam = torch.optim.Adam([x], config.learning_rate, betas)
            small = step < coarse
            reach = config.jitter // 2 if small else config.jitter
            seen = rolled(x, moves.uniform(3), reach, problem.public.mirror)
            if small:
                seen = F.interpolate(seen, size=size, mode="bilinear")
            with recorded(layers) as moments:
                loss = L_id(seen * model.std + model.mean, y, noise, whose).view(k, B).mean(1)
            R_feature = statistics_distance(moments, B, config.first_weight)
            R_TV = total_variation(x.unflatten(0, (k, B)))
            R_l2 = x.flatten(1).norm(dim=1).view(k, B).mean(1)
            loss = loss + config.statistics_weight * R_feature
            loss = loss + config.total_variation * R_TV + config.l2 * R_l2
            adam.zero_grad(set_to_none=True)
            loss.sum().backward()
            adam.step()
            with torch.no_grad():
                x.clamp_(least, most)
            problem.progress.report(loss=loss.detach().mean())
        images: Tensor = (x.detach() * model.std + model.mean).clamp(0, 1).unflatten(0, (k, B))
        return images[:, :n]


@dataclass(frozen=True)
class Moments:
    """What went into a layer once: means and mean squares of each image ``(n, channels)``."""

    layer: Norm
    mean: Tensor
    square: Tensor


def norms(model: nn.Module) -> list[Norm]:
    """The layers of a network that have running statistics of the training images."""
    found = [module for module in model.modules() if isinstance(module, Norm)]
    return [each for each in found if each.running_mean is not None]


@contextlib.contextmanager
def recorded(layers: list[Norm]) -> Iterator[list[Moments]]:
    """Collect what goes into each layer, in the order in which the layers are run."""
    seen: list[Moments] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(2) if inputs[0].ndim > 2 else inputs[0].unsqueeze(2)
        assert isinstance(module, Norm)
        seen.append(Moments(module, x.mean(2), x.square().mean(2)))

    hooks = [each.register_forward_pre_hook(note) for each in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def statistics_distance(moments: list[Moments], size: int, first_weight: float) -> Tensor:
    """R_feature = Σ_l ‖μ_l − E[μ_l]‖₂ + ‖σ²_l − E[σ²_l]‖₂ of each batch.

    Args:
        moments: of images, one batch after another, and of one pass of the network after another.
        size: images of a batch.
        first_weight: factor of the layer that comes first.

    Returns:
        ``(batches,)``, the mean over passes.
    """
    total = torch.zeros(len(moments[0].mean) // size, device=moments[0].mean.device)
    passes = 0
    for each in moments:
        layer = each.layer
        μ = each.mean.unflatten(0, (-1, size)).mean(1)
        σ2 = each.square.unflatten(0, (-1, size)).mean(1) - μ.square()
        assert layer.running_mean is not None
        assert layer.running_var is not None
        apart = (μ - layer.running_mean).norm(dim=1) + (σ2 - layer.running_var).norm(dim=1)
        first = layer is moments[0].layer
        total, passes = total + (first_weight if first else 1) * apart, passes + first
    return total / passes


def total_variation(batches: Tensor) -> Tensor:
    """Norms of neighbours' differences, down, across and along both diagonals, in all of a batch.

    Args:
        batches: ``(k, n, 3, h, w)``.

    Returns:
        ``(k,)``.
    """
    down, across = batches.diff(dim=3), batches.diff(dim=4)
    falling = batches[..., 1:, 1:] - batches[..., :-1, :-1]
    rising = batches[..., 1:, :-1] - batches[..., :-1, 1:]
    return sum(
        (each.flatten(1).norm(dim=1) for each in (down, across, falling, rising)),
        start=torch.zeros(len(batches), device=batches.device),
    )


def rolled(images: Tensor, draws: Tensor, reach: int, mirror: bool) -> Tensor:
    """Images rolled by up to ``reach`` pixels each way, half of them mirrored.

    Args:
        draws: ``(n, 3)`` in [0, 1), a row an image.
        mirror: False where a mirrored image is none of its class.
    """
    _, _, height, width = images.shape
    down, across = ((2 * reach + 1) * draws[:, :2].T).floor().long() - reach
    rows = (torch.arange(height, device=images.device) - down[:, None]) % height
    columns = (torch.arange(width, device=images.device) - across[:, None]) % width
    flipped = (draws[:, 2] < 0.5) & mirror
    columns = torch.where(flipped[:, None], width - 1 - columns, columns)
    return picked(images, rows, columns)
