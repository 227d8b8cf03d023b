"""The general prior: a GAN trained on public images, whatever the target is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Generic, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.data.images import ImageSet, to_float
from mibench.errors import MibenchError
from mibench.models.freeze import freeze
from mibench.priors._networks import Critic, Generator, Norm, map_sizes
from mibench.priors._prior import (
    Prior,
    PriorConfig,
    PriorJob,
    PriorKind,
    register_prior,
)
from mibench.streams import seeded

Network = TypeVar("Network", bound=nn.Module)


def no_general() -> NoReturn:
    """What stands for the general prior where that itself is trained."""
    raise MibenchError("the general prior is what is being trained: there is none to start from")


class GanPrior(Prior):
    """A generator with the critic that it was trained with; the realism is the critic's score."""

    def __init__(self, generator: Generator, critic: Critic) -> None:
        super().__init__()
        self.generator, self.critic, self.size = generator, critic.bake(), generator.latent

    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """G(z); one GAN for all identities knows no labels."""
        images: Tensor = self.generator(latents)
        return images

    def realism(self, images: Tensor) -> Tensor:
        """D(x)."""
        scores: Tensor = self.critic(images)
        return scores

    def frozen(self, sample: Tensor) -> GanPrior:
        """A copy for attacks, with BatchNorm folded."""
        latents = torch.zeros(2, self.size, device=sample.device)
        return GanPrior(freeze(self.generator, latents), freeze(self.critic, sample)).eval()

    def description(self) -> dict[str, Any]:
        """The arguments of both networks."""
        return {"generator": self.generator.config, "critic": self.critic.config}


@register_prior("gan")
class Gan(PriorKind[PriorConfig]):
    """GAN with hinge loss and spectral norm, or with GMI's WGAN-GP.

    References:
        Zhang et al., "The Secret Revealer: Generative Model-Inversion Attacks Against Deep Neural
        Networks", CVPR 2020.
    """

    title = "general GAN"
    scores_realism = True

    @classmethod
    def check(cls, resolution: int) -> None:
        """Its networks double a small map."""
        map_sizes(resolution)

    def train(self, job: PriorJob) -> GanPrior:
        """Train G, of which a moving average is kept, against the critic D."""
        config, rng, device = self.config.gan, job.rng, job.public.images.device
        resolution = job.public.images.shape[2]
        hinge = config.recipe == "hinge"
        with seeded(rng):
            G = Generator(resolution, config.latent, config.generator_width, config.architecture)
            norm: Norm = "spectral" if hinge else "instance"
            D = Critic(resolution, config.critic_width, norm, config.architecture)
            for module in G.modules():
                own = config.architecture == "dcgan"  # the published ones keep PyTorch's start
                if own and isinstance(module, nn.ConvTranspose2d | nn.Conv2d):
                    nn.init.normal_(module.weight, std=0.02)
        layout = torch.channels_last
        G, D = G.to(device).to(memory_format=layout), D.to(device).to(memory_format=layout)
        betas = (config.beta1, 0.999)
        optimizer_G = torch.optim.Adam(G.parameters(), config.learning_rate, betas)
        optimizer_D = torch.optim.Adam(D.parameters(), config.learning_rate, betas)
        average = MovingAverage(G, config.ema)
        batches = shuffled_batches(len(job.public), config.batch_size, rng)

        def z(count: int) -> Tensor:
            return torch.randn(count, config.latent, generator=rng).to(device)

        def share(step: int) -> float:
            constant = config.schedule == "constant"
            return 1.0 if constant else min(1.0, 3 * (1 - step / config.steps))

        schedules = [
            torch.optim.lr_scheduler.LambdaLR(each, share) for each in (optimizer_G, optimizer_D)
        ]
        # bfloat16 halves the time of the convolutions; the gradient penalty needs full precision.
        lower = torch.autocast(device.type, torch.bfloat16, enabled=hinge)
        for _ in job.progress.steps(config.steps, "prior"):
            for _ in range(config.critic_steps):
                x = real_batch(job.public, next(batches), rng, config.mirror)
                x = x.contiguous(memory_format=layout)
                mix = torch.rand(len(x), generator=rng).to(device)
                with lower:
                    with torch.no_grad():
                        fake = G(z(len(x))).float()
                    loss_D = critic_loss(config.recipe, D, x, fake, mix)
                optimizer_D.zero_grad(set_to_none=True)
                loss_D.backward()
                optimizer_D.step()
            D.requires_grad_(False)
            with lower:
                loss_G = -D(G(z(config.batch_size))).float().mean()
            optimizer_G.zero_grad(set_to_none=True)
            loss_G.backward()
            optimizer_G.step()
            D.requires_grad_(True)
            average.update(G)
            for schedule in schedules:
                schedule.step()
            job.progress.report(critic=loss_D.detach(), generator=loss_G.detach())
        return GanPrior(average.average, D).eval()  # spectral norm is baked as it trains

    @classmethod
    def load(cls, description: dict[str, Any], tensors: dict[str, Tensor]) -> GanPrior:
        """The prior of both networks' arguments, and of whatever else a pinned asset tells."""
        of_critic = {k: v for k, v in description["critic"].items() if k != "classes"}
        prior = GanPrior(Generator(**description["generator"]), Critic(**of_critic))
        prior.load_state_dict(tensors)
        return prior.eval()


def critic_loss(
    recipe: str, D: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor
) -> Tensor:
    """Loss of the critic on real and generated images; ``mix`` as in :func:`gradient_penalty`."""
    on_real, on_fake = D(torch.cat([real, fake])).float().chunk(2)
    if recipe == "hinge":
        return hinge_loss(on_real, on_fake)
    return on_fake.mean() - on_real.mean() + 10 * gradient_penalty(D, real, fake, mix)


def hinge_loss(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """E[relu(1 − D(x))] + E[relu(1 + D(G(z)))] of scores ``(n,)``."""
    return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()


def gradient_penalty(
    D: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor
) -> Tensor:
    """WGAN-GP's penalty, mean of (‖∇D(x̂)‖ − 1)² (Gulrajani et al., NeurIPS 2017, equation 3).

    Args:
        mix: ``(n,)`` in [0, 1], where between real and fake each x̂ lies.
    """
    part = mix[:, None, None, None]
    between = (part * real + (1 - part) * fake).requires_grad_(True)
    (gradient,) = torch.autograd.grad(D(between).sum(), between, create_graph=True)
    penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1) ** 2
    return penalty.mean()


class MovingAverage(Generic[Network]):
    """Exponential moving average of a generator's weights; buffers are copied."""

    def __init__(self, module: Network, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.average = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards ``module``; early steps weigh more: the start is forgotten."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        pairs = zip(self.average.parameters(), module.parameters(), strict=True)
        for mean, value in pairs:
            mean.lerp_(value, 1 - decay)
        for kept, current in zip(self.average.buffers(), module.buffers(), strict=True):
            kept.copy_(current)


def shuffled_batches(count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Index batches of ``size`` without end, each epoch in a new order, the rest of it dropped.

    Dropping the last, smaller batch of an epoch is safe here: every epoch is shuffled anew.
    """
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=rng)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def real_batch(
    public: ImageSet, index: Tensor, rng: torch.Generator, mirror: bool = True
) -> Tensor:
    """The images at ``index`` in [0, 1].

    Args:
        mirror: mirror half of them, where the data set allows it.
    """
    images = to_float(public.images[index.to(public.images.device)])
    if not (public.mirror and mirror):
        return images
    flip = torch.rand(len(images), generator=rng).to(images.device) < 0.5
    return torch.where(flip[:, None, None, None], images.flip(3), images)
