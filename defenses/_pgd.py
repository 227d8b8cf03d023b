"""Projected gradient: the L∞ perturbations that adversarial and anti-adversarial training share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def ascended(
    objective: Callable[[Tensor], Tensor],
    images: Tensor,
    epsilon: float,
    step: float,
    iterations: int,
    rng: torch.Generator,
) -> Tensor:
    """Images within ``epsilon`` of ``images`` whose ``objective`` is as high as PGD gets it.

    Starts uniformly within the ball, follows the sign of the gradient, and projects onto the ball
    and onto [0, 1] after the start and after each step. Only the images get a gradient: what the
    parameters have in ``.grad`` stays.

    Source: Madry et al., ICLR 2018.

    Args:
        objective: of images; a scalar in which every image has its own summand.
        images: ``(n, 3, h, w)`` in [0, 1].
        epsilon: radius of the ball in L∞, on the scale of [0, 1].
        step: length of a step, on that scale.
        iterations: how many steps.
        rng: CPU generator of the start.

    Returns:
        ``(n, 3, h, w)`` in [0, 1], without a gradient.
    """
    images = images.detach()
    low, high = (images - epsilon).clamp_min(0), (images + epsilon).clamp_max(1)
    start = torch.rand(images.shape, generator=rng).to(images.device)
    found = (images + epsilon * (2 * start - 1)).clamp(low, high)
    for _ in range(iterations):
        found.requires_grad_(True)
        (slope,) = torch.autograd.grad(objective(found), found)
        found = (found.detach() + step * slope.sign()).clamp(low, high)
    return found.detach()


@contextlib.contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """A block in which BatchNorm in training mode leaves its running statistics as they are."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
