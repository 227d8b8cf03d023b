"""The loops that train image priors; the losses of a particular prior are passed in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.data.images import ImageSet, to_float
from mibench.priors._networks import Critic, Generator, GeneratorName
from mibench.progress import Progress
from mibench.streams import seeded
from mibench.types import BUDGETED, Frozen

Recipe = Literal["hinge", "wgan-gp"]


class GanConfig(Frozen):
    """How a general prior is trained."""

    recipe: Recipe = Field(
        "hinge",
        description="`hinge`: hinge loss with spectral norm; `wgan-gp`: GMI's, gradient penalty 10",
    )
    architecture: GeneratorName = Field(
        "dcgan",
        description="`dcgan`: this suite's networks; `gmi`: the published ones, for `wgan-gp`",
    )
    steps: int = Field(
        9900, ge=1, le=10**9, description="generator steps", json_schema_extra=BUDGETED
    )
    batch_size: int = Field(64, ge=2, le=65_536, description="images a step")
    critic_steps: int = Field(
        1, ge=1, le=1000, description="critic steps per generator step (GMI: 5)"
    )
    learning_rate: float = Field(2e-4, gt=0, le=1e30, description="Adam's step, for both networks")
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam's first decay rate")
    schedule: Literal["linear", "constant"] = Field(
        "linear",
        description="the step size: `linear` falls over the last third of the steps; `constant`, "
        "as GMI's",
    )
    mirror: bool = Field(
        True, description="mirror half of the images, where the data set allows it (GMI: not)"
    )
    ema: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="decay of the generator's moving average; 0: the last weights (GMI)",
    )
    latent: int = Field(100, ge=1, le=65_536, description="dimensions of the latent")
    generator_width: int = Field(32, ge=1, le=1024, description="channels of the last hidden layer")
    critic_width: int = Field(64, ge=1, le=1024, description="channels of the first convolution")

    @model_validator(mode="after")
    def _the_published_networks_have_their_recipe(self) -> GanConfig:
        if self.architecture != "dcgan" and self.recipe != "wgan-gp":
            raise ValueError(
                f"the architecture `{self.architecture}` is trained by the recipe `wgan-gp`, not "
                f"`{self.recipe}`: set one of the two, `dcgan` goes with both recipes"
            )
        return self


class MovingAverage:
    """Exponential moving average of a generator's weights; buffers are copied."""

    def __init__(self, module: Generator, decay: float) -> None:
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


def shuffled_batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Index batches of ``size`` without end, each epoch in a new order, the rest of it dropped.

    Dropping the last, smaller batch of an epoch is safe here: every epoch is shuffled anew.
    """
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def real_batch(
    public: ImageSet, index: Tensor, generator: torch.Generator, mirror: bool = True
) -> Tensor:
    """The images at ``index`` in [0, 1].

    Args:
        mirror: mirror half of them, where the data set allows it.
    """
    images = to_float(public.images[index.to(public.images.device)])
    if not (public.mirror and mirror):
        return images
    flip = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor
) -> Tensor:
    """WGAN-GP's penalty, mean of (‖∇D(x̂)‖ − 1)² (Gulrajani et al., NeurIPS 2017, equation 3).

    Args:
        mix: ``(n,)`` in [0, 1], where between real and fake each x̂ lies.
    """
    part = mix[:, None, None, None]
    between = (part * real + (1 - part) * fake).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()


def critic_loss(recipe: Recipe, critic: Critic, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Loss of the critic on real and generated images; ``mix`` as in :func:`gradient_penalty`."""
    on_real, on_fake = critic(torch.cat([real, fake])).float().chunk(2)
    if recipe == "hinge":
        return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
    return on_fake.mean() - on_real.mean() + 10 * gradient_penalty(critic, real, fake, mix)


def train_general_gan(
    public: ImageSet,
    config: GanConfig,
    generator: torch.Generator,
    progress: Progress,
    checkpoint: Callable[[int, Generator, Critic], None] | None = None,
) -> tuple[Generator, Critic]:
    """Train a general prior on public images.

    Args:
        public: images ``(n, 3, h, h)`` on the device to train on.
        config: networks, recipe and budget.
        generator: CPU generator for initial weights, batches and latents.
        progress: told of each step.
        checkpoint: called with (step, averaged generator, critic) every 1,000 steps.

    Returns:
        The averaged generator, and the critic with its spectral norm baked in.
    """
    images, device = public.images, public.images.device
    with seeded(generator):
        maker = Generator(
            images.shape[2], config.latent, config.generator_width, config.architecture
        )
        norm: Literal["spectral", "instance"] = (
            "spectral" if config.recipe == "hinge" else "instance"
        )
        judge = Critic(
            images.shape[2], config.critic_width, norm=norm, architecture=config.architecture
        )
        for module in maker.modules():
            own = config.architecture == "dcgan"  # the published ones keep PyTorch's start
            if own and isinstance(module, nn.ConvTranspose2d | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
    layout = torch.channels_last
    maker = maker.to(device).to(memory_format=layout)
    judge = judge.to(device).to(memory_format=layout)
    betas = (config.beta1, 0.999)
    makers = torch.optim.Adam(maker.parameters(), config.learning_rate, betas)
    judges = torch.optim.Adam(judge.parameters(), config.learning_rate, betas)
    average = MovingAverage(maker, config.ema)
    batches = shuffled_batches(len(images), config.batch_size, generator)

    def latents(count: int) -> Tensor:
        return torch.randn(count, config.latent, generator=generator).to(device)

    def share(step: int) -> float:
        constant = config.schedule == "constant"
        return 1.0 if constant else min(1.0, 3 * (1 - step / config.steps))

    schedules = [torch.optim.lr_scheduler.LambdaLR(o, share) for o in (makers, judges)]
    # bfloat16 halves the time of the convolutions; the gradient penalty needs full precision.
    lower = torch.autocast(device.type, torch.bfloat16, enabled=config.recipe == "hinge")
    for step in progress.steps(config.steps, "prior"):
        for _ in range(config.critic_steps):
            real = real_batch(public, next(batches), generator, config.mirror)
            real = real.contiguous(memory_format=layout)
            mix = torch.rand(len(real), generator=generator).to(device)
            with lower:
                with torch.no_grad():
                    fake = maker(latents(len(real))).float()
                loss = critic_loss(config.recipe, judge, real, fake, mix)
            judges.zero_grad(set_to_none=True)
            loss.backward()
            judges.step()
        judge.requires_grad_(False)
        with lower:
            maker_loss = -judge(maker(latents(config.batch_size))).float().mean()
        makers.zero_grad(set_to_none=True)
        maker_loss.backward()
        makers.step()
        judge.requires_grad_(True)
        average.update(maker)
        for schedule in schedules:
            schedule.step()
        progress.report(critic=loss.detach(), generator=maker_loss.detach())
        if checkpoint is not None and (step + 1) % 1000 == 0:
            checkpoint(step + 1, average.average, judge)
    return average.average.eval(), judge.bake().eval()
