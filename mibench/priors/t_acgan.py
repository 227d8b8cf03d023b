"""LOKT's target-assisted ACGAN (T-ACGAN): a conditional GAN that learns the target's labels."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.priors._conditional import (
    ConditionalArchitecture,
    ConditionalGenerator,
    conditional_trunk,
    started_trunk,
)
from mibench.priors._networks import Critic, bake
from mibench.priors._of_identities import ConditionalConfig, ConditionalKind, ConditionalPrior
from mibench.priors._prior import PriorJob, register_prior
from mibench.priors.gan import MovingAverage, real_batch, shuffled_batches
from mibench.types import BUDGETED


class Discriminator(nn.Module):
    """A trunk with two heads, which have no spectral norm: real or not, and the identities.

    Args:
        resolution: height and width of the images.
        classes: the target's.
        width: channels of the trunk's first layers.
        architecture: of the trunk, see :func:`conditional_trunk`.
    """

    def __init__(
        self,
        resolution: int,
        classes: int,
        width: int = 64,
        architecture: ConditionalArchitecture = "plg",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "resolution": resolution,
            "classes": classes,
            "width": width,
            "architecture": architecture,
        }
        self.trunk = conditional_trunk(resolution, width, architecture)
        self.real = nn.Linear(self.trunk.size, 1)
        self.identity = nn.Linear(self.trunk.size, classes)

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Of the trunk's features: the logit of being real ``(n,)``, identities' ``(n, classes)``.

        Apart from the trunk, which computes in bfloat16 where these may not.
        """
        return self.real(features).squeeze(1), self.identity(features)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both heads' logits of images ``(n, 3, h, w)`` in [0, 1]."""
        return self.heads(self.trunk(images))

    @classmethod
    def started(cls, critic: Critic, classes: int) -> Discriminator:
        """One that begins as a general prior's critic, and knows no identities yet.

        Raises:
            ValueError: the critic is of another architecture than ``dcgan``.
        """
        trunk = started_trunk(critic)
        made = cls(critic.config["resolution"], classes, critic.config["width"], "dcgan")
        made.trunk = trunk
        made.real.load_state_dict(critic.head.state_dict())
        return made


def discriminator_loss(
    real: Tensor, fake: Tensor, told: Tensor, answered: Tensor, weight: float
) -> Tensor:
    """L_D = BCE(real, 1) + BCE(fake, 0) + α·CE(C(G(z, y)), T(G(z, y))) (LOKT, section 3).

    Args:
        real: D's logits ``(n,)`` of public images. fake: of generated images ``(m,)``.
        told: D's logits ``(m, classes)`` of the generated images' identities.
        answered: the target's labels of them ``(m,)``.
        weight: α; at 0 the labels have no say.
    """
    return (
        F.softplus(-real).mean()
        + F.softplus(fake).mean()
        + weight * F.cross_entropy(told, answered)
    )


def generator_loss(fake: Tensor, told: Tensor, wanted: Tensor, weight: float) -> Tensor:
    """L_G = BCE(fake, 1) + α·CE(C(G(z, y)), y); arguments as of :func:`discriminator_loss`.

    Args:
        wanted: the identities y ``(m,)`` that were asked of the generator.
    """
    return F.softplus(-fake).mean() + weight * F.cross_entropy(told, wanted)


class TAcganPrior(ConditionalPrior):
    """A class-conditional generator with its discriminator, which tells identities, too."""

    kind = "t-acgan"

    def __init__(self, generator: ConditionalGenerator, discriminator: Discriminator) -> None:
        super().__init__(generator)
        bake(discriminator)
        self.discriminator = discriminator

    def realism(self, images: Tensor) -> Tensor:
        """The logit of D that an image is real."""
        logits: Tensor = self.discriminator(images)[0]
        return logits

    def logits(self, images: Tensor) -> Tensor:
        """D's logits of the identities, which it learned from the target's labels."""
        logits: Tensor = self.discriminator(images)[1]
        return logits

    def description(self) -> dict[str, Any]:
        """The arguments of both networks."""
        return {"generator": self.generator.config, "discriminator": self.discriminator.config}


@register_prior("t-acgan")
class TAcgan(ConditionalKind["TAcgan.Config"]):
    """A conditional GAN whose discriminator imitates the target's hard labels of its images.

    References:
        Nguyen et al., "Label-Only Model Inversion Attacks via Knowledge Transfer", NeurIPS 2023.
    """

    needs = "label-only"
    title = "T-ACGAN"
    scores_realism = True
    tells_identities = True

    class Config(ConditionalConfig):
        """Training of LOKT's T-ACGAN; the defaults are the released code's for CelebA."""

        start: bool = Field(
            False,
            description="start from the general prior, with its networks; false: from scratch, as "
            "published",
        )
        warmup: int = Field(
            1000,
            ge=0,
            le=10**9,
            description="generator steps before the target is asked, without a loss of identities "
            "(LOKT: CelebA 1,000, FFHQ 2,000, FaceScrub 3,000, PubFig 6,000)",
            json_schema_extra=BUDGETED,
        )
        steps: int = Field(
            19_000,
            ge=1,
            le=10**9,
            description="generator steps after these",
            json_schema_extra=BUDGETED,
        )
        critic_steps: int = Field(
            5, ge=1, le=1000, description="discriminator steps per generator step"
        )
        batch_size: int = Field(128, ge=2, le=65_536, description="images a step")
        learning_rate: float = Field(2e-4, gt=0, le=1e30, description="Adam's step, betas (0, 0.9)")
        identity_weight: float = Field(
            1.5, ge=0, le=1e30, description="weight α of the losses of identities"
        )
        ema: float = Field(
            0,
            ge=0,
            lt=1,
            description="decay of the generator's moving average; 0: the last weights, as "
            "published",
        )
        mirror: bool = Field(
            False,
            description="mirror half of the images, where the data set allows it (published: no)",
        )

    def train(self, job: PriorJob) -> TAcganPrior:
        """Train G and D by turns; the target labels each image that D's steps see, but its own."""
        config, rng, target = self.config, job.rng, job.target
        if target is None:
            raise TypeError("this prior is trained with the target's labels")
        G, D = self.networks(job, target.classes, Discriminator)
        device, layout = job.public.images.device, torch.channels_last
        G, D = G.to(device).to(memory_format=layout), D.to(device).to(memory_format=layout)
        optimizer_G, optimizer_D = (
            torch.optim.Adam(each.parameters(), config.learning_rate, (0.0, 0.9)) for each in (G, D)
        )
        average = MovingAverage(G, config.ema)
        batches = shuffled_batches(len(job.public), config.batch_size, rng)

        def drawn(count: int) -> tuple[Tensor, Tensor]:
            """z and y of so many images."""
            z = torch.randn(count, G.latent, generator=rng)
            y = torch.randint(target.classes, (count,), generator=rng)
            return z.to(device), y.to(device)

        # bfloat16 halves the time of the convolutions; the heads and losses keep full precision.
        lower = torch.autocast(device.type, torch.bfloat16)
        G.train()
        D.train()
        for step in job.progress.steps(config.warmup + config.steps, "T-ACGAN"):
            asking = step >= config.warmup
            α = config.identity_weight if asking else 0.0
            for _ in range(config.critic_steps):
                x = real_batch(job.public, next(batches), rng, config.mirror)
                z, y = drawn(len(x))
                with lower:
                    with torch.no_grad():
                        fake = G(z, y).float()
                    on_real, on_fake = D.trunk(torch.cat([x, fake])).float().chunk(2)
                # Before, labels have no say: any would do.
                answered = target.predict(fake) if asking else y
                loss_D = discriminator_loss(D.heads(on_real)[0], *D.heads(on_fake), answered, α)
                optimizer_D.zero_grad(set_to_none=True)
                loss_D.backward()
                optimizer_D.step()
            D.requires_grad_(False)
            z, y = drawn(config.batch_size)
            with lower:
                features = D.trunk(G(z, y)).float()
            loss_G = generator_loss(*D.heads(features), y, α)
            optimizer_G.zero_grad(set_to_none=True)
            loss_G.backward()
            optimizer_G.step()
            D.requires_grad_(True)
            average.update(G)
            job.progress.report(critic=loss_D.detach(), generator=loss_G.detach())
        return TAcganPrior(average.average, D).eval()

    @classmethod
    def load(cls, description: dict[str, Any], tensors: dict[str, Tensor]) -> TAcganPrior:
        """The prior of both networks' arguments."""
        prior = TAcganPrior(
            ConditionalGenerator(**description["generator"]),
            Discriminator(**description["discriminator"]),
        )
        prior.load_state_dict(tensors)
        return prior.eval()
