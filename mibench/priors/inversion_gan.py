"""KEDMI's inversion-specific GAN: trained on public images that the target pseudo-labels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.models.access import BlackBoxTarget
from mibench.models.freeze import freeze
from mibench.priors._networks import (
    Architecture,
    Generator,
    Norm,
    Trunk,
    check_published,
    halving,
    make_trunk,
    map_sizes,
)
from mibench.priors._prior import Prior, PriorConfig, PriorJob, PriorKind, register_prior
from mibench.priors.gan import GanPrior, MovingAverage, real_batch, shuffled_batches
from mibench.streams import seeded
from mibench.types import BUDGETED

BANK = 59  # the other images of the released code's attack batches, which hold 60 identities


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
        embedded: Tensor = self.project(features)
        return embedded.view(-1, self.kernels, self.kernel_size)

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


class Discriminator(nn.Module):
    """A logit for each of the target's classes; the evidence for all is that an image is real.

    Args:
        resolution: height and width of the images.
        width: channels of the first convolution.
        classes: the target's.
        norm: normalisation of the convolutions, ``instance`` in the published networks.
        architecture: of the convolutions: a general critic's, or the published ``kedmi``.
        kernel_std: of :class:`MinibatchDiscrimination`.
    """

    def __init__(
        self,
        resolution: int,
        width: int,
        classes: int,
        norm: Literal["instance", "none"] = "none",
        architecture: Architecture | Literal["kedmi"] = "dcgan",
        kernel_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "resolution": resolution,
            "width": width,
            "classes": classes,
            "norm": norm,
            "architecture": architecture,
        }
        self.trunk = (
            _published_trunk(resolution, width, norm)
            if architecture == "kedmi"
            else make_trunk(resolution, width, norm, architecture)
        )
        self.minibatch = MinibatchDiscrimination(self.trunk.size, std=kernel_std)
        self.head = nn.Linear(self.trunk.size + self.minibatch.kernels, classes)

    def score(self, features: Tensor, bank: Tensor | None = None) -> Tensor:
        """Logits ``(n, classes)`` of the trunk's features; ``bank`` as minibatch discrimination's.

        Apart from the trunk, which computes in bfloat16 where this may not.
        """
        logits: Tensor = self.head(self.minibatch(features, bank))
        return logits

    def forward(self, images: Tensor, bank: Tensor | None = None) -> Tensor:
        """Logits ``(n, classes)`` of images ``(n, 3, h, w)`` in [0, 1]."""
        return self.score(self.trunk(images), bank)


def _published_trunk(resolution: int, width: int, norm: Norm) -> Trunk:
    """Three 5×5 convolutions, then 3×3 ones without more channels.

    With 32 pixels there are the three alone, as in BiDO's copy for MNIST and CIFAR-10.
    """
    check_published(norm)
    base, stages = map_sizes(resolution)
    layers: list[nn.Module] = []
    channels = 3
    for stage in range(stages):
        wider = width * 2 ** min(stage, 2)
        layers += halving(channels, wider, 5 if stage < 3 else 3)
        channels = wider
    return Trunk(layers, channels * base**2, signed=False)


def log_real(logits: Tensor) -> Tensor:
    """log of the probability that an image is real, lse D − softplus(lse D), a value a row."""
    evidence = logits.logsumexp(1)
    return evidence - F.softplus(evidence)


def discriminator_loss(labelled: Tensor, soft: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """L_D = L_sup + L_unsup / 2 (paper, equations 2 and 3; the half is the released code's).

    Args:
        labelled: D's logits ``(n, k)`` of pseudo-labelled public images.
        soft: the target's softmax ``(n, k)`` on them.
        real: D's logits of (other) public images. fake: of generated images.
    """
    supervised = -(soft * labelled.log_softmax(1)).sum(1).mean()
    unsupervised = (-log_real(real)).mean() + F.softplus(fake.logsumexp(1)).mean()
    return supervised + 0.5 * unsupervised


def generator_loss(
    fake_features: Tensor, real_features: Tensor, fake_logits: Tensor, entropy_weight: float
) -> Tensor:
    """Feature matching, mean |E f(G(z)) − E f(x)|, plus weighted entropy summed over the batch."""
    matching = (fake_features.mean(0) - real_features.mean(0)).abs().mean()
    entropy = -(fake_logits.softmax(1) * fake_logits.log_softmax(1)).sum()
    return matching + entropy_weight * entropy


class InversionGanPrior(Prior):
    """A generator with KEDMI's discriminator; the realism is the log of P(real).

    Args:
        bank: embedded generator samples ``(m, kernels, kernel_size)`` that minibatch discrimination
            compares each image with, so that images are independent; None: with one another.
    """

    bank: Tensor | None

    def __init__(
        self, generator: Generator, discriminator: Discriminator, bank: Tensor | None
    ) -> None:
        super().__init__()
        self.generator, self.discriminator, self.size = generator, discriminator, generator.latent
        self.register_buffer("bank", bank)

    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """G(z); one GAN for all identities knows no labels."""
        images: Tensor = self.generator(latents)
        return images

    def realism(self, images: Tensor) -> Tensor:
        """log P(real | x)."""
        return log_real(self.discriminator(images, self.bank))

    def coupled(self) -> InversionGanPrior:
        """The same networks without a bank: an image's realism depends on its batch mates."""
        return InversionGanPrior(self.generator, self.discriminator, None).train(self.training)

    def frozen(self, sample: Tensor) -> InversionGanPrior:
        """A copy for attacks, with BatchNorm folded."""
        latents = torch.zeros(2, self.size, device=sample.device)
        networks = freeze(self.generator, latents), freeze(self.discriminator, sample)
        return InversionGanPrior(*networks, self.bank).eval()

    def description(self) -> dict[str, Any]:
        """The arguments of both networks."""
        return {"generator": self.generator.config, "discriminator": self.discriminator.config}


@register_prior("inversion-gan")
class InversionGan(PriorKind["InversionGan.Config"]):
    """A semi-supervised GAN that distils the target's soft labels into its discriminator.

    References:
        Chen et al., "Knowledge-Enriched Distributional Model Inversion Attacks", ICCV 2021.
    """

    needs = "black-box"  # of the target it is the confidence scores that are distilled
    title = "target-specific GAN"
    scores_realism = True
    stream = "kedmi"  # whose part it was before priors had kinds: numbers stay what they were

    class Config(PriorConfig):
        """Training of KEDMI's GAN."""

        start: bool = Field(
            True, description="start from the general prior; false: from scratch, as published"
        )
        steps: int = Field(
            2000, ge=1, le=10**9, description="critic steps", json_schema_extra=BUDGETED
        )
        generator_every: int = Field(
            5, ge=1, le=1000, description="critic steps per generator step (n_critic)"
        )
        batch_size: int = Field(64, ge=2, le=65_536, description="images a step")
        learning_rate: float = Field(
            2e-4, gt=0, le=1e30, description="Adam's step, betas (0.5, 0.999)"
        )
        entropy_weight: float = Field(
            1e-4,
            ge=0,
            le=1e30,
            description="weight of the entropy of D(G(z)), summed over the batch as in the "
            "released code",
        )
        ema: float = Field(
            0.95,
            ge=0,
            lt=1,
            description="decay of the generator's moving average; 0: the last weights, as "
            "published",
        )
        critic: Literal["general", "kedmi"] = Field(
            "general",
            description="`general`: the general prior's critic with a logit for each class; "
            "`kedmi`: the published one, from scratch",
        )
        kernel_std: float = Field(
            0.02,
            gt=0,
            le=1e6,
            description="standard deviation of the minibatch discrimination's kernels at the "
            "start; at the released code's 1 its output is exactly 0, and stays so; with the many "
            "features of the critic `kedmi` it takes 0.002 to be alive",
        )
        mirror: bool = Field(
            True,
            description="mirror half of the images, where the data set allows it (published: no)",
        )
        fresh_batch: bool = Field(
            False,
            description="match features with images of their own, as published; false: with the "
            "second batch of the critic's step",
        )

        @model_validator(mode="after")
        def _the_published_critic_starts_from_scratch(self) -> InversionGan.Config:
            if self.start and self.critic == "kedmi":
                raise ValueError(
                    "the critic `kedmi` has other layers than the general prior's and cannot start "
                    "from it: set start=false, or critic=general"
                )
            return self

    def recipe(self) -> str:
        """Where it starts."""
        start = self.config.start
        return f"{self.title}, " + (
            "fine-tuned from the general prior" if start else "trained from scratch"
        )

    def train(self, job: PriorJob) -> InversionGanPrior:
        """Train G and D (paper, section 3.1); of G a moving average is kept."""
        config, rng, target = self.config, job.rng, job.target
        if not isinstance(target, BlackBoxTarget):
            raise TypeError("this prior is trained with the target's confidence scores")
        G, D = self._networks(job, target.classes)
        device, layout = job.public.images.device, torch.channels_last
        G, D = G.to(device).to(memory_format=layout), D.to(device).to(memory_format=layout)
        optimizer_G, optimizer_D = (
            torch.optim.Adam(each.parameters(), config.learning_rate, (0.5, 0.999))
            for each in (G, D)
        )
        average = MovingAverage(G, config.ema)
        batches = shuffled_batches(len(job.public), config.batch_size, rng)

        def x() -> Tensor:
            batch = real_batch(job.public, next(batches), rng, config.mirror)
            return batch.contiguous(memory_format=layout)

        def z(count: int) -> Tensor:
            return torch.randn(count, G.latent, generator=rng).to(device)

        # bfloat16 halves the time of the convolutions; the losses keep full precision.
        lower = torch.autocast(device.type, torch.bfloat16)
        G.train()
        D.train()
        for step in job.progress.steps(config.steps, "target-specific prior"):
            labelled, unlabelled = x(), x()
            soft = target.scores(labelled)
            with torch.no_grad(), lower:
                fake = G(z(len(labelled))).float()
            # Three passes, not one: minibatch discrimination must not mix the three kinds.
            with lower:
                features = [D.trunk(batch) for batch in (labelled, unlabelled, fake)]
            on_labelled, on_real, on_fake = (D.score(each.float()) for each in features)
            loss_D = discriminator_loss(on_labelled, soft, on_real, on_fake)
            optimizer_D.zero_grad(set_to_none=True)
            loss_D.backward()
            optimizer_D.step()
            if (step + 1) % config.generator_every == 0:
                D.requires_grad_(False)
                matched = x() if config.fresh_batch else unlabelled
                with lower:
                    of_fake = D.trunk(G(z(len(labelled)))).float()
                    with torch.no_grad():
                        of_real = D.trunk(matched).float()
                loss_G = generator_loss(of_fake, of_real, D.score(of_fake), config.entropy_weight)
                optimizer_G.zero_grad(set_to_none=True)
                loss_G.backward()
                optimizer_G.step()
                D.requires_grad_(True)
                average.update(G)
            job.progress.report(critic=loss_D.detach())
        prior = InversionGanPrior(average.average, D, None).eval()
        with torch.no_grad():
            prior.bank = D.minibatch.embed(D.trunk(prior.images(z(BANK))))
        return prior

    def _networks(self, job: PriorJob, classes: int) -> tuple[Generator, Discriminator]:
        """G and D at the start: the general prior's with a new head, or both new."""
        general = job.general()
        if not isinstance(general, GanPrior):
            raise TypeError("the general prior that this one starts from is no GAN")
        with seeded(job.rng):
            shape = {**general.critic.config, "classes": classes}
            if self.config.critic == "kedmi":
                shape |= {"norm": "instance", "architecture": "kedmi"}
            D = Discriminator(**shape, kernel_std=self.config.kernel_std)
            if not self.config.start:
                return Generator(**general.generator.config), D
        D.trunk.load_state_dict(general.critic.trunk.state_dict())
        return general.generator, D

    @classmethod
    def load(cls, description: dict[str, Any], tensors: dict[str, Tensor]) -> InversionGanPrior:
        """The prior of both networks' arguments, with its bank."""
        prior = InversionGanPrior(
            Generator(**description["generator"]),
            Discriminator(**description["discriminator"]),
            tensors["bank"],
        )
        prior.load_state_dict(tensors)
        return prior.eval()
