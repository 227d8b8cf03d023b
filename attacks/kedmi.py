"""KEDMI: a target-specific GAN, and a Gaussian over its latents for each identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from mibench.inversion.attack import Attack, AttackConfig, PriorJob, Problem, register_attack
from mibench.models.classifiers import Classifier
from mibench.priors._networks import Critic, Generator, Prior
from mibench.priors.gan import MovingAverage, real_batch, shuffled_batches
from mibench.streams import seeded
from mibench.types import BUDGETED, AttackCard, Frozen

PUBLISHED_BATCH = 60  # identities that the released code attacks at once, and averages over


class FineTuning(Frozen):
    """Training of the target-specific GAN."""

    start: bool = Field(
        True, description="start from the general prior; false: from scratch, as published"
    )
    steps: int = Field(2000, ge=1, le=10**9, description="critic steps", json_schema_extra=BUDGETED)
    generator_every: int = Field(
        5, ge=1, le=1000, description="critic steps per generator step (n_critic)"
    )
    batch_size: int = Field(64, ge=2, le=65_536, description="images a step")
    learning_rate: float = Field(2e-4, gt=0, le=1e30, description="Adam's step, betas (0.5, 0.999)")
    entropy_weight: float = Field(
        1e-4,
        ge=0,
        le=1e30,
        description="weight of the entropy of D(G(z)), summed over the batch as in released code",
    )
    ema: float = Field(
        0.95,
        ge=0,
        lt=1,
        description="decay of the generator's moving average; 0: the last weights, as published",
    )
    critic: Literal["general", "kedmi"] = Field(
        "general",
        description="`general`: the general prior's critic with a logit for each class; `kedmi`: "
        "the published one, from scratch",
    )
    kernel_std: float = Field(
        0.02,
        gt=0,
        le=1e6,
        description="standard deviation of the minibatch discrimination's kernels at the start; at "
        "the released code's 1 its output is exactly 0, and stays so; with the many features of "
        "the critic `kedmi` it takes 0.002 to be alive",
    )
    mirror: bool = Field(
        True, description="mirror half of the images, where the data set allows it (published: not)"
    )
    fresh_batch: bool = Field(
        False,
        description="match features with images of their own, as published; false: with the second "
        "batch of the critic's step",
    )

    @model_validator(mode="after")
    def _the_published_critic_starts_from_scratch(self) -> FineTuning:
        if self.start and self.critic == "kedmi":
            raise ValueError(
                "the critic `kedmi` has other layers than the general prior's and cannot start "
                "from it: set start=false, or critic=general"
            )
        return self


def realism_loss(logits: Tensor) -> Tensor:
    """softplus(lse D) − lse D, one value a row: small where D(x) takes the image for real."""
    evidence = logits.logsumexp(1)
    return F.softplus(evidence) - evidence


def critic_loss(labelled: Tensor, soft: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """KEDMI's critic loss (Chen et al., ICCV 2021, equations 2 and 3).

    Args:
        labelled: critic logits ``(n, k)`` of pseudo-labelled public images.
        soft: the target's softmax ``(n, k)`` on them.
        real: critic logits of (other) public images. fake: of generated images.
    """
    supervised = -(soft * labelled.log_softmax(1)).sum(1).mean()
    unsupervised = realism_loss(real).mean() + F.softplus(fake.logsumexp(1)).mean()
    return supervised + 0.5 * unsupervised


def generator_loss(
    fake_features: Tensor, real_features: Tensor, fake_logits: Tensor, entropy_weight: float
) -> Tensor:
    """Feature matching, mean |E f(G(z)) − E f(x)|, plus weighted entropy summed over the batch."""
    matching = (fake_features.mean(0) - real_features.mean(0)).abs().mean()
    entropy = -(fake_logits.softmax(1) * fake_logits.log_softmax(1)).sum()
    return matching + entropy_weight * entropy


def train_specific_gan(
    maker: Generator,
    judge: Critic,
    job: PriorJob,
    target: Callable[[Tensor], Tensor],
    config: FineTuning,
) -> Generator:
    """Train generator and critic on public images pseudo-labelled by ``target``.

    Args:
        target: logits ``(n, k)`` of images in [0, 1], frozen.

    Returns:
        The generator averaged over training.
    """
    device = job.public.images.device
    betas = (0.5, 0.999)
    judges = torch.optim.Adam(judge.parameters(), config.learning_rate, betas)
    makers = torch.optim.Adam(maker.parameters(), config.learning_rate, betas)
    average = MovingAverage(maker, config.ema)
    batches = shuffled_batches(len(job.public), config.batch_size, job.generator)

    def images() -> Tensor:
        batch = real_batch(job.public, next(batches), job.generator, config.mirror)
        return batch.contiguous(memory_format=torch.channels_last)

    def generated(count: int) -> Tensor:
        return maker(torch.randn(count, maker.latent, generator=job.generator).to(device))

    # bfloat16 halves the time of the convolutions; the losses keep full precision.
    lower = torch.autocast(device.type, torch.bfloat16)
    maker.train()
    judge.train()
    for step in job.progress.steps(config.steps, "target-specific prior"):
        real, unlabelled = images(), images()
        with torch.no_grad():
            soft = target(real).softmax(1)
            with lower:
                fake = generated(len(real)).float()
        # Three passes, not one: minibatch discrimination must not mix the three kinds.
        with lower:
            found = [judge.features(batch) for batch in (real, unlabelled, fake)]
        labelled, plain, generated_scores = (judge.score(each.float()) for each in found)
        loss = critic_loss(labelled, soft, plain, generated_scores)
        judges.zero_grad(set_to_none=True)
        loss.backward()
        judges.step()
        if (step + 1) % config.generator_every == 0:
            judge.requires_grad_(False)
            matched = images() if config.fresh_batch else unlabelled
            with lower:
                fake_features = judge.features(generated(len(real))).float()
                with torch.no_grad():
                    real_features = judge.features(matched).float()
            maker_loss = generator_loss(
                fake_features, real_features, judge.score(fake_features), config.entropy_weight
            )
            makers.zero_grad(set_to_none=True)
            maker_loss.backward()
            makers.step()
            judge.requires_grad_(True)
            average.update(maker)
        job.progress.report(critic=loss.detach())
    judge.eval()
    return average.average.eval()


@register_attack("kedmi")
class Kedmi(Attack["Kedmi.Config"]):
    """Optimise a latent distribution per identity under a GAN trained with the target's help.

    References:
        Chen et al., "Knowledge-Enriched Distributional Model Inversion Attacks", ICCV 2021.
    """

    card = AttackCard(
        title="Knowledge-Enriched Distributional Model Inversion Attacks",
        authors="Chen, Kahla, Jia, Qi",
        year=2021,
        venue="ICCV",
        url="https://arxiv.org/abs/2010.04092",
        reference_code="https://github.com/SCccc21/Knowledge-Enriched-DMI",
        prior_recipe="target-specific GAN, fine-tuned from the general prior",
        deviations=(
            "By default the target-specific GAN is a brief fine-tuning of the general prior, its "
            "generator a moving average over training, on mirrored images too. The papers' "
            "protocols (`celeba-64` and others) set what is published: KEDMI's critic, from "
            "scratch, 120 passes over the public images, no averaging, no mirroring, and a batch "
            "of its own for the generator's step, where the default takes the critic's second one.",
            "The released minibatch discrimination starts with kernels so large that its output "
            "is exactly 0, and stays so: it is dead. By default ours is alive "
            "(`prior_training.kernel_std=0.02`); `kernel_std=1`, in the papers' protocols, is the "
            "released code's.",
            "Alive, it compares each image with a recorded bank of 59 generator samples, so that "
            "identities stay independent. `coupled=true` compares the images of an attack batch "
            "with one another, which is what the code is written to do in batches of 60, but what "
            "its dead kernels never did.",
            "The released target labels the public images in training mode: its BatchNorm takes "
            "each batch's own statistics, and IR152 and FaceNet64 drop features at random. Here "
            "the target that is deployed labels them, in evaluation mode.",
            "The GAN's convolutions compute in bfloat16, the released ones in float32; losses and "
            "weights are float32 in both.",
            "Released code averages the loss over its batch of 60 identities, and Adam's ε is "
            "weighed against that average; here each identity's loss is its own, and divided by 60 "
            "whatever the batch.",
            "Latents are clamped to ±1 in the loop as in the seed paper's code; the clamp was "
            "inert in KEDMI's own (`clip=null`).",
        ),
    )

    prior_fields = ("prior_training",)

    class Config(AttackConfig):
        """Options of KEDMI; of the attack, the defaults are the released code's."""

        iterations: int = Field(
            2400, ge=1, le=10**9, description="Adam's steps on μ and σ", json_schema_extra=BUDGETED
        )
        learning_rate: float = Field(0.02, gt=0, le=1e30, description="Adam's step")
        identity_weight: float = Field(
            100, ge=0, le=1e30, description="weight λ of the identity loss"
        )
        prior_weight: float = Field(1, ge=0, le=1e30, description="weight of the realism loss")
        initial_log_variance: float = Field(
            1, ge=-80, le=80, description="log σ² at the start (BiDO's copy of the code: 0)"
        )
        clip: float | None = Field(
            1, gt=0, le=1e30, description="latents are clamped to ± this; null: not at all"
        )
        coupled: bool = Field(
            False,
            description="minibatch discrimination over an attack batch of 60 identities, whose "
            "results then depend on one another; false: over a recorded bank",
        )
        prior_training: FineTuning = Field(FineTuning(), description="the target-specific GAN")

    def train_prior(self, job: PriorJob, target: Classifier) -> Prior:
        """Train the target-specific GAN on public images that the target pseudo-labels."""
        config = self.config.prior_training
        maker, judge = self._networks(job.general(), target.classes, job.generator)
        averaged = train_specific_gan(maker, judge, job, target, config)
        with torch.no_grad():
            latents = torch.randn(PUBLISHED_BATCH - 1, averaged.latent, generator=job.generator)
            bank_images = averaged(latents.to(job.public.images.device))
            assert judge.minibatch is not None
            bank = judge.minibatch.embed(judge.features(bank_images))
        return Prior(averaged, judge, self.prior_recipe(), bank)

    def prior_recipe(self) -> str:
        """The target-specific GAN, and where it starts."""
        own = self.config.prior_training
        return self.card.prior_recipe if own.start else "target-specific GAN, trained from scratch"

    def _networks(
        self, general: Prior, classes: int, generator: torch.Generator
    ) -> tuple[Generator, Critic]:
        device = next(general.generator.parameters()).device
        with seeded(generator):
            shape = general.critic.config
            config = self.config.prior_training
            if config.critic == "kedmi":
                shape = {**shape, "norm": "instance", "architecture": "kedmi"}
            judge = Critic(**{**shape, "classes": classes}, kernel_std=config.kernel_std).to(device)
            maker = general.generator
            if config.start:
                judge.trunk.load_state_dict(general.critic.trunk.state_dict())
            else:
                maker = Generator(**general.generator.config).to(device)
        layout = torch.channels_last
        return maker.to(memory_format=layout), judge.to(memory_format=layout)

    def rows_per_identity(self, samples: int) -> int:
        """One draw of its Gaussian a step."""
        return 1

    def chunk(self, samples: int) -> int:
        """Coupled, they see one another: in the published batches then, not in memory's."""
        return PUBLISHED_BATCH if self.config.coupled else super().chunk(samples)

    def invert(self, problem: Problem) -> Tensor:
        """Distributional recovery: N(μ, σ²) over latents for each identity; results are its draws.

        μ and σ minimise E[L_prior + λ·L_id] over z = μ + σ·ε, one draw ε of N(0, I) a step.
        """
        config, prior = self.config, problem.prior
        G, D = prior.generator, prior.critic
        _, L_id = problem.white_box()
        bank = None if config.coupled else prior.bank
        y, n, dims = problem.labels, problem.samples, G.latent
        λ_id, λ_prior = config.identity_weight, config.prior_weight
        # Identities, draws of each, dimensions. The logarithm keeps σ positive without a bound.
        μ = torch.zeros(len(y), 1, dims, device=problem.device, requires_grad=True)
        log_σ2 = torch.full_like(μ, config.initial_log_variance).requires_grad_(True)
        adam = torch.optim.Adam([μ, log_σ2], config.learning_rate)

        def latents(ε: Tensor) -> Tensor:
            z = (μ + torch.exp(0.5 * log_σ2) * ε).flatten(0, 1)
            return z if config.clip is None else z.clamp(-config.clip, config.clip)

        draws, noise = problem.streams("draws"), problem.streams("noise")
        for _ in problem.progress.steps(config.iterations, "kedmi"):
            x = G(latents(draws.normal(1, dims)))
            L_prior = realism_loss(D.score(D.features(x), bank))
            loss = λ_id * L_id(x, y, noise) + λ_prior * L_prior
            adam.zero_grad(set_to_none=True)
            # The published mean over 60; Adam cancels such a factor, but for its added 1e-8.
            (loss.sum() / PUBLISHED_BATCH).backward()
            adam.step()
            problem.progress.report(loss=loss.detach().mean())
        ε = problem.streams("reconstructions", n).normal(dims).unflatten(0, (len(y), n))
        with torch.no_grad():
            found: Tensor = G(latents(ε)).unflatten(0, (len(y), n))
        return found
