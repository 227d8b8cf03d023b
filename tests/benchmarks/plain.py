"""Attack loops the way the published scripts write them, to measure the package's loops against.

Contiguous layout, weights that require gradients, restarts one after another, and images that go
through 8-bit PIL pictures one by one before evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.models.classifiers import Classifier
from mibench.priors._networks import Critic, Generator
from mibench.priors.inversion_gan import Discriminator


def identity_loss(models: Sequence[nn.Module], images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, the mean over models and over the batch."""
    return sum(F.cross_entropy(model(images), labels) for model in models) / len(models)


def kedmi_steps(
    generator: Generator,
    discriminator: Discriminator,
    models: Sequence[Classifier],
    labels: Tensor,
    steps: int,
) -> Tensor:
    """KEDMI's loop over (μ, log σ²); returns images of the last step."""
    mean = torch.zeros(len(labels), generator.latent, requires_grad=True)
    log_variance = torch.ones(len(labels), generator.latent, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_variance], 0.02)
    for _ in range(steps):
        latents = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        images = generator(latents.clamp(-1, 1))
        evidence = discriminator(images).logsumexp(1)
        prior = F.softplus(evidence).mean() - evidence.mean()
        loss = prior + 100 * identity_loss(models, images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return images.detach()


def gmi_attack(
    generator: Generator,
    critic: Critic,
    models: Sequence[Classifier],
    labels: Tensor,
    steps: int,
    restarts: int,
) -> Tensor:
    """GMI's loop, one restart after another: ``(labels, restarts, 3, h, w)``."""
    results = []
    for _ in range(restarts):
        latents = torch.randn(len(labels), generator.latent)
        velocity = torch.zeros_like(latents)
        for _ in range(steps):
            latents.requires_grad_(True)
            images = generator(latents)
            loss = -critic(images).mean() + 100 * identity_loss(models, images, labels)
            loss.backward()
            before, gradient = velocity.clone(), latents.grad
            assert gradient is not None
            velocity = 0.9 * velocity - 0.02 * gradient
            latents = (latents.detach() - 0.9 * before + 1.9 * velocity).clamp(-1, 1)
        with torch.no_grad():
            results.append(generator(latents))
    return torch.stack(results, dim=1)


def pil_resize(images: Tensor, resolution: int) -> Tensor:
    """Each image through an 8-bit PIL picture, as the published evaluation does."""
    resized = []
    for image in images:
        pixels = (image.permute(1, 2, 0).clamp(0, 1).numpy() * 255).astype(np.uint8)
        picture = Image.fromarray(pixels).resize(
            (resolution, resolution), Image.Resampling.BILINEAR
        )
        resized.append(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255)
    return torch.stack(resized)
