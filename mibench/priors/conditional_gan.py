"""PLG-MI's conditional GAN: trained on public images that the target takes for each identity."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from mibench.data.images import ImageSet, to_float
from mibench.data.views import Jitter, Views
from mibench.models.access import WhiteBoxTarget
from mibench.models.freeze import freeze
from mibench.models.margin import margin
from mibench.priors._conditional import (
    ConditionalGenerator,
    ProjectionDiscriminator,
)
from mibench.priors._of_identities import ConditionalConfig, ConditionalKind, ConditionalPrior
from mibench.priors._prior import PriorJob, register_prior
from mibench.priors.gan import MovingAverage, hinge_loss, real_batch, shuffled_batches
from mibench.streams import RowStreams
from mibench.types import BUDGETED

# The views that the target sees of generated images, in training and in the attack.
CROP = Views(scale=(0.8, 1.0), mirror=True, degrees=5, turns=0.5)
JITTER = 0.2  # of brightness and contrast
JITTERED = 0.5  # share of the views that are jittered in training; in the attack all are
ROWS = 512  # images in one question to the target


def augmented(images: Tensor, streams: RowStreams, jittered: float, mirror: bool) -> Tensor:
    """One random view of each image: a crop, mirrored, turned, and jittered in colour.

    Args:
        images: ``(n, 3, h, w)`` in [0, 1].
        jittered: share of the views whose brightness and contrast change.
        mirror: False where a mirrored image is none of its class, as with digits.
    """
    return Jitter(JITTER, jittered)(CROP(images, streams, mirror), streams)


def pseudo_labels(confidences: Tensor, n: int) -> Tensor:
    """The images of each class that the target is surest of, ``(classes, n)``, best first.

    An image may be of several classes, and no class is empty, whether or not it is any image's
    likeliest. Of equal confidences the image that comes first is taken.

    Args:
        confidences: of images in classes ``(images, classes)``, or anything that grows with them.
        n: images of a class, all where there are fewer.
    """
    order = confidences.argsort(dim=0, descending=True, stable=True)
    return order[:n].T.contiguous()


class ConditionalGanPrior(ConditionalPrior):
    """A generator of images of each identity; its discriminator is not kept."""

    kind = "conditional-gan"

    def frozen(self, sample: Tensor) -> ConditionalGanPrior:
        """A copy for attacks; BatchNorm that each class has its own of cannot be folded."""
        return ConditionalGanPrior(freeze(self.generator, sample, fold=False)).eval()

    def description(self) -> dict[str, Any]:
        """The generator's arguments."""
        return {"generator": self.generator.config}


@register_prior("conditional-gan")
class ConditionalGan(ConditionalKind["ConditionalGan.Config"]):
    """A GAN of images given the identity, whose labels and a part of whose loss are the target's.

    References:
        Yuan et al., "Pseudo Label-Guided Model Inversion Attack via Conditional Generative
        Adversarial Network", AAAI 2023.
    """

    needs = "white-box"
    title = "class-conditional GAN"

    class Config(ConditionalConfig):
        """Training of PLG-MI's GAN."""

        top_n: int = Field(
            30, ge=1, le=10**6, description="public images of each identity, the target's surest"
        )
        steps: int = Field(
            2000,
            ge=1,
            le=10**9,
            description="generator steps (published: 30,000)",
            json_schema_extra=BUDGETED,
        )
        critic_steps: int = Field(
            5, ge=1, le=1000, description="discriminator steps per generator step"
        )
        batch_size: int = Field(64, ge=2, le=65_536, description="images a step")
        learning_rate: float = Field(
            2e-4, gt=0, le=1e30, description="Adam's step, for both networks"
        )
        beta1: float = Field(0.0, ge=0, lt=1, description="Adam's first decay rate")
        beta2: float = Field(0.9, ge=0, lt=1, description="Adam's second decay rate")
        identity_weight: float = Field(
            0.2,
            ge=0,
            le=1e30,
            description="weight α of the target's max-margin loss on a view of generated images",
        )
        noise: float = Field(
            1 / 256,
            ge=0,
            le=1,
            description="real images get uniform noise from 0 to this, between two gray levels",
        )
        mirror: bool = Field(
            True,
            description="mirror half of the real images, where the data set allows it (published: "
            "no)",
        )
        ema: float = Field(
            0.99,
            ge=0,
            lt=1,
            description="decay of the generator's moving average; 0: the last weights, as "
            "published",
        )

    def train(self, job: PriorJob) -> ConditionalGanPrior:
        """Train G and D on pseudo-labelled images (paper, section 3); of G an average is kept."""
        config, rng, target, public = self.config, job.rng, job.target, job.public
        if not isinstance(target, WhiteBoxTarget):
            raise TypeError("this prior is trained with white-box access to the target")
        G, D = self.networks(job, target.classes, ProjectionDiscriminator)
        device, layout = public.images.device, torch.channels_last
        G, D = G.to(device).to(memory_format=layout), D.to(device).to(memory_format=layout)
        optimizer_G, optimizer_D = (
            torch.optim.Adam(each.parameters(), config.learning_rate, (config.beta1, config.beta2))
            for each in (G, D)
        )
        average = MovingAverage(G, config.ema)
        chosen = pseudo_labels(confidences(target, public), config.top_n)
        pairs = shuffled_batches(chosen.numel(), config.batch_size, rng)

        def real() -> tuple[Tensor, Tensor]:
            """A batch of images with noise, and their pseudo-labels."""
            index = next(pairs)
            x = real_batch(public, chosen.flatten()[index], rng, config.mirror)
            x = x + config.noise * torch.rand(x.shape, generator=rng).to(device)
            return x.contiguous(memory_format=layout), (index // chosen.shape[1]).to(device)

        def drawn(count: int) -> tuple[Tensor, Tensor]:
            """Latents and labels to generate images of."""
            z = torch.randn(count, G.latent, generator=rng)
            return z.to(device), torch.randint(G.classes, (count,), generator=rng).to(device)

        # bfloat16 halves the time of the convolutions; heads and losses keep full precision.
        lower = torch.autocast(device.type, torch.bfloat16)
        G.train()
        D.train()
        for _ in job.progress.steps(config.steps, "conditional prior"):
            for _ in range(config.critic_steps):
                x, y = real()
                z, y_fake = drawn(len(x))
                with lower:
                    with torch.no_grad():
                        fake = G(z, y_fake).float()
                    scores = D(torch.cat([x, fake]), torch.cat([y, y_fake]))
                loss_D = hinge_loss(*scores.chunk(2))
                optimizer_D.zero_grad(set_to_none=True)
                loss_D.backward()
                optimizer_D.step()
            D.requires_grad_(False)
            z, y = drawn(config.batch_size)
            with lower:
                x = G(z, y).float()
                realism = D(x, y).mean()
            rows = RowStreams([rng] * len(x), device)
            seen = target.outputs(augmented(x, rows, JITTERED, public.mirror))
            L_inv = margin(seen.logits, y).mean()
            loss_G = -realism + config.identity_weight * L_inv
            optimizer_G.zero_grad(set_to_none=True)
            loss_G.backward()
            optimizer_G.step()
            D.requires_grad_(True)
            average.update(G)
            job.progress.report(critic=loss_D.detach(), margin=L_inv.detach())
        return ConditionalGanPrior(average.average).eval()

    @classmethod
    def load(cls, description: dict[str, Any], tensors: dict[str, Tensor]) -> ConditionalGanPrior:
        """The prior of the generator's arguments."""
        prior = ConditionalGanPrior(ConditionalGenerator(**description["generator"]))
        prior.load_state_dict(tensors)
        return prior.eval()


@torch.no_grad()
def confidences(target: WhiteBoxTarget, public: ImageSet) -> Tensor:
    """log p of every class for every public image ``(images, classes)``.

    Probabilities themselves are equal for many images, 1 or 0, where their logarithms are not.
    """
    return torch.cat(
        [
            target.outputs(to_float(images)).logits.log_softmax(1)
            for images in public.images.split(ROWS)
        ]
    )
