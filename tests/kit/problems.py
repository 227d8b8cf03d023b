"""What tests run on: tiny problems for attacks at 32 pixels, and names of cards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mibench.data.images import ImageSet
from mibench.inversion.attack import Attack, Problem, TransferConfig
from mibench.inversion.identity import (
    IdentityConfig,
    IdentityLoss,
    Objective,
    PenultimateGaussian,
)
from mibench.models.access import ACCESS, WhiteBoxTarget
from mibench.models.classifiers import Classifier, predict
from mibench.models.freeze import freeze
from mibench.priors import Prior, t_acgan
from mibench.priors._conditional import ConditionalBatchNorm, ConditionalGenerator
from mibench.priors._networks import Critic, Generator
from mibench.priors.conditional_gan import ConditionalGanPrior
from mibench.priors.gan import GanPrior
from mibench.priors.inversion_gan import Discriminator, InversionGanPrior
from mibench.priors.t_acgan import TAcganPrior
from mibench.progress import SILENT, Progress
from mibench.protocols import high_resolution, papers
from mibench.streams import seeded, stream

CLASSES, RESOLUTION, LATENT = 5, 32, 16
SURROGATES = (1, 2)  # seeds
CPU = torch.device("cpu")
PAPERS = [card.name for card in (*papers.CARDS, *high_resolution.CARDS)]


@cache
def public_images(count: int = 16) -> ImageSet:
    """Blurred noise, labelled in turn with four public identities."""
    coarse = torch.rand(count, 3, 8, 8, generator=stream(0, "public"))
    fine = F.interpolate(coarse, size=RESOLUTION, mode="bilinear")
    images = (fine * 255).to(torch.uint8)
    return ImageSet(images, torch.arange(count) % 4, ("a", "b", "c", "d"))


@cache
def tiny_generator(latent: int = LATENT, seed: int = 0, *, fold: bool = True) -> Generator:
    """A frozen generator, of images with contrast."""
    with seeded(seed):
        generator = Generator(RESOLUTION, latent, 2)
        latents = torch.randn(64, latent)
        with torch.no_grad():
            for _ in range(50):
                generator.train()(latents)
            # Sigmoid of an untrained output is gray: give it contrast.
            generator.to_rgb.weight.mul_(10)
        return freeze(generator, latents, fold=fold)


@cache
def drawn_images(count: int) -> ImageSet:
    """Images of the tiny generator, as public ones: some are of each identity."""
    with torch.no_grad():
        images = tiny_generator()(torch.randn(count, LATENT, generator=stream(0, "drawn")))
    return ImageSet((images * 255).to(torch.uint8), torch.arange(count) % 4, ("a", "b", "c", "d"))


@cache
def tiny_prior(kind: str = "gan", latent: int = LATENT, seed: int = 0) -> Prior:
    """A frozen prior of random networks: a general one, KEDMI's with a bank, or of identities.

    Images of an identity are those of the general one but for small changes of its own.
    """
    generator = tiny_generator(latent, seed)
    prior: Prior
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "gan":
            prior = GanPrior(generator, Critic(RESOLUTION, 4))
        elif kind in ("conditional-gan", "t-acgan"):
            whole = tiny_generator(latent, seed, fold=False)
            conditional = ConditionalGenerator.started(whole, CLASSES)
            with torch.no_grad():
                for module in conditional.modules():
                    if isinstance(module, ConditionalBatchNorm):
                        module.gain.mul_(1 + 0.02 * torch.randn_like(module.gain))
            if kind == "conditional-gan":
                prior = ConditionalGanPrior(conditional)
            else:
                tells = t_acgan.Discriminator(RESOLUTION, CLASSES, 2)
                prior = TAcganPrior(conditional, tells)
        else:
            discriminator = Discriminator(RESOLUTION, 4, CLASSES)
            with torch.no_grad():
                images = generator(torch.randn(7, latent))
                bank = discriminator.minibatch.embed(discriminator.trunk(images))
            prior = InversionGanPrior(generator, discriminator, bank)
    return prior.eval().requires_grad_(False)


@cache
def _trained(architecture: str, seed: int, surrogate: bool, dtype: torch.dtype) -> Classifier:
    """In a precision of its own, which is the default while it is made."""
    with torch.enable_grad(), seeded(seed):
        model = Classifier(architecture, CLASSES, RESOLUTION)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(120 if surrogate else 60):
            latents = torch.randn(64, LATENT)
            with torch.no_grad():
                images = tiny_generator()(latents)
                labels = latents[:, :CLASSES].argmax(1)
                if surrogate:
                    labels = tiny_classifier()(images).argmax(1)
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


@cache
def _frozen(
    architecture: str, seed: int, surrogate: bool, fold: bool, dtype: torch.dtype
) -> Classifier:
    sample = torch.rand(2, 3, RESOLUTION, RESOLUTION, generator=stream(0, "sample"))
    return freeze(_trained(architecture, seed, surrogate, dtype), sample, fold=fold)


def tiny_classifier(
    architecture: str = "test_resnet", seed: int = 0, *, fold: bool = True
) -> Classifier:
    """A frozen classifier of ``CLASSES`` identities, trained for a second, the same in every call.

    The identities are what attacks can find: an image of the tiny prior is of identity ``k`` where
    the ``k``-th number of its latent is the largest of the first ``CLASSES``.
    """
    return _frozen(architecture, seed, False, fold, torch.get_default_dtype())


def tiny_surrogate(seed: int) -> Classifier:
    """A frozen classifier that learned the tiny classifier's labels, the same in every call."""
    return _frozen("test_resnet", seed, True, True, torch.get_default_dtype())


class OfIdentities(Prior):
    """The tiny prior of identities, which writes down whose images it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.made, self.asked = tiny_prior("conditional-gan"), set[int]()
        self.size, self.classes = self.made.size, self.made.classes

    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        self.asked |= set(labels.tolist())
        return self.made.images(latents, labels)

    def description(self) -> dict[str, Any]:
        return {}


def tiny_problem(
    attack: type[Attack[Any]],
    labels: Sequence[int] = (0, 1, 2),
    samples: int = 2,
    *,
    objective: Objective = "cross-entropy",
    views: Literal["none", "taa", "paa"] = "none",
    identity: IdentityConfig | None = None,
    students: int = 0,
    latent: int = LATENT,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Problem:
    """A problem for ``attack``, with the access and the kind of prior that it declares.

    The networks are the same in every call, and not to be changed; queries count from 0.

    Args:
        labels: attacked identities, below ``CLASSES``.
        samples: reconstructions per identity.
        objective, views: of the identity loss, unless ``identity`` is given whole.
        students: how many students are attacked together with the target. An attack on surrogates
            gets those of the seeds ``SURROGATES``.
        seed: seed of the attack's streams; the networks do not depend on it.
    """
    model = tiny_classifier(fold=attack.folds)
    target = ACCESS[attack.access](model)
    loss = None
    if isinstance(target, WhiteBoxTarget):
        config = identity or IdentityConfig(objective=objective, views=views, view_count=2)
        features = predict(model, public_images().images / 255)[1]  # in the default precision
        loss = IdentityLoss(
            target.outputs,
            [tiny_classifier(seed=1 + number) for number in range(students)],
            config,
            PenultimateGaussian.of(features) if config.objective == "logit" else None,
        )
    elif issubclass(attack.Config, TransferConfig):
        first, *others = map(tiny_surrogate, SURROGATES)
        loss = IdentityLoss(first.outputs, others, attack.Config().identity)
    return Problem(
        target=target,
        prior=tiny_prior(str(attack.prior), latent),
        identity_loss=loss,
        labels=torch.tensor(labels),
        samples=samples,
        public=public_images(),
        seed=seed,
        device=CPU,
        progress=progress,
    )


def reconstruct(attack: Attack[Any], problem: Problem) -> Tensor:
    """All that an attack yields, as one tensor ``(identities, samples, 3, h, w)``."""
    return torch.cat(list(attack(problem)))
