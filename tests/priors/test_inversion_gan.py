"""KEDMI's GAN: its losses, its training, and what its bank is for."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax
from torch import Tensor, nn

from mibench.models.access import WhiteBoxTarget
from mibench.models.classifiers import Classifier
from mibench.priors import PriorConfig, PriorJob
from mibench.priors._networks import Critic, Generator
from mibench.priors.gan import GanPrior
from mibench.priors.inversion_gan import (
    InversionGan,
    InversionGanPrior,
    discriminator_loss,
    generator_loss,
    log_real,
)
from mibench.progress import SILENT
from mibench.streams import stream
from tests.kit.problems import CLASSES, LATENT, RESOLUTION, public_images, tiny_classifier


def normal(name: str, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=stream(0, name))


# --- losses ---------------------------------------------------------------------------------


def test_the_realism() -> None:
    logits = normal("logits", 6, 4)
    evidence = logsumexp(logits.numpy(), axis=1)
    expected = evidence - np.log1p(np.exp(evidence))
    np.testing.assert_allclose(log_real(logits), expected, rtol=1e-4, atol=1e-6)
    # The log of the probability K·e^lse/(K·e^lse + 1) that the image is real
    probability = np.exp(evidence) / (np.exp(evidence) + 1)
    np.testing.assert_allclose(log_real(logits), np.log(probability), rtol=1e-4, atol=1e-6)


def test_the_discriminators_loss() -> None:
    labelled, real = normal("labelled", 6, 4), normal("real", 6, 4)
    fake, teacher = normal("fake", 5, 4), normal("teacher", 6, 4).numpy()
    soft = softmax(teacher, axis=1)
    supervised = np.mean([-soft[i] @ log_softmax(labelled.numpy()[i]) for i in range(6)])
    on_real, on_fake = logsumexp(real.numpy(), axis=1), logsumexp(fake.numpy(), axis=1)
    unsupervised = 0.5 * (
        np.mean(np.log1p(np.exp(on_real)) - on_real) + np.mean(np.log1p(np.exp(on_fake)))
    )
    found = discriminator_loss(labelled, torch.tensor(soft), real, fake)
    assert found.item() == pytest.approx(supervised + unsupervised, rel=1e-5)


def test_the_generators_loss() -> None:
    fake, real, logits = normal("f", 6, 3), normal("r", 9, 3), normal("l", 6, 4)
    matching = np.mean(np.abs(fake.numpy().mean(0) - real.numpy().mean(0)))
    p = softmax(logits.numpy(), axis=1)
    entropy = sum(-(p[i] * np.log(p[i])).sum() for i in range(6))  # summed over the batch
    found = generator_loss(fake, real, logits, 0.3)
    assert found.item() == pytest.approx(matching + 0.3 * entropy, rel=1e-5)


# --- training -------------------------------------------------------------------------------

TRAINED = {"steps": 4, "generator_every": 2, "batch_size": 8, "learning_rate": 1e-3}


def general(norm: Any = "spectral") -> GanPrior:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        critic = Critic(RESOLUTION, 4, norm=norm)
        return GanPrior(Generator(RESOLUTION, LATENT, 2), critic).eval()


def specific(
    target: Classifier | None = None, base: GanPrior | None = None, seed: int = 0, **fields: Any
) -> InversionGanPrior:
    start, seen = base or general(), WhiteBoxTarget(target or tiny_classifier())
    job = PriorJob(public_images(), lambda: start, seen, stream(seed, "prior"), SILENT)
    return InversionGan(InversionGan.Config(**{**TRAINED, **fields})).train(job)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([each.detach().clone().reshape(-1) for each in module.parameters()])


def test_the_prior_depends_on_the_target_and_the_seed_alone() -> None:
    first = specific()
    assert torch.equal(weights(first), weights(specific()))
    other = specific(tiny_classifier(seed=1))
    assert (weights(first.discriminator) - weights(other.discriminator)).abs().max() > 1e-4
    assert (weights(first.generator) - weights(other.generator)).abs().max() > 1e-6
    assert not torch.equal(weights(first), weights(specific(seed=1)))


@pytest.mark.parametrize("norm", ["spectral", "instance"])
def test_fine_tuning_starts_from_the_general_prior(norm: Any) -> None:
    """``instance`` is the critic of the recipe ``wgan-gp``."""
    still = specific(base=general(norm), learning_rate=1e-12)
    torch.testing.assert_close(weights(still.generator), weights(general(norm).generator))
    start = general(norm).critic.trunk.state_dict()
    torch.testing.assert_close(dict(still.discriminator.trunk.state_dict()), dict(start))


def test_training_from_scratch_does_not() -> None:
    scratch = specific(start=False, learning_rate=1e-12)
    assert not torch.allclose(weights(scratch.generator), weights(general().generator), atol=1e-3)
    trunk, start = scratch.discriminator.trunk[0], general().critic.trunk[0]
    assert not torch.allclose(trunk.weight, start.weight, atol=1e-3)
    assert scratch.generator.config == general().generator.config


def test_the_recipe_says_where_it_starts() -> None:
    usual, scratch = InversionGan.Config(), InversionGan.Config(start=False)
    fine_tuned = "target-specific GAN, fine-tuned from the general prior"
    assert InversionGan(usual).recipe() == fine_tuned
    assert InversionGan(scratch).recipe() == "target-specific GAN, trained from scratch"


TRAININGS = [
    {"start": False},
    {"steps": 6},
    {"generator_every": 4},
    {"batch_size": 4},
    {"learning_rate": 2e-3},
    {"entropy_weight": 0.1},
    {"ema": 0.01},
    {"critic": "kedmi", "start": False},
    {"kernel_std": 1},
    {"mirror": False},
    {"fresh_batch": True},
]


@pytest.mark.parametrize("change", TRAININGS, ids=str)
def test_every_training_field_changes_the_prior(change: dict[str, Any]) -> None:
    base = {k: v for k, v in change.items() if "critic" in change and k != "critic"}
    before, after = weights(specific(**base)), weights(specific(**change))
    assert before.shape != after.shape or (before - after).abs().max() > 1e-6


def test_every_own_field_is_in_the_list_above() -> None:
    own = InversionGan.Config.model_fields.keys() - PriorConfig.model_fields.keys()
    assert {next(iter(change)) for change in TRAININGS} == own


def test_the_generator_is_the_moving_average() -> None:
    base = general()
    before = weights(base.generator).clone()
    prior = specific(base=base, generator_every=4)  # one step of the generator
    raw = weights(base.generator)  # what was trained, in place
    assert (raw - before).abs().max() > 1e-4
    # The decay of the first step is 1/11.
    torch.testing.assert_close(weights(prior.generator), before + (raw - before) * 10 / 11)
    assert not prior.generator.training


def test_a_bank_of_59_generator_samples_is_recorded_and_survives() -> None:
    prior = specific()
    assert prior.bank is not None
    assert prior.bank.shape == (59, 64, 50)
    assert (prior.bank[0] - prior.bank[1]).abs().max() > 0
    again = InversionGan.load(prior.description(), prior.tensors())
    with torch.no_grad():
        latents = normal("latents", 2, LATENT)
        images = again.images(latents)
        torch.testing.assert_close(images, prior.images(latents))
        torch.testing.assert_close(again.realism(images), prior.realism(images))
        assert torch.equal(again.bank, prior.bank)
    assert prior.discriminator.config["classes"] == CLASSES


def test_realism_is_a_pictures_own_unless_it_is_coupled() -> None:
    prior = specific()
    with torch.no_grad():
        images = prior.images(normal("latents", 3, LATENT))
        alone, together = prior.realism(images[:1]), prior.realism(images)[:1]
        torch.testing.assert_close(alone, together)
        coupled = prior.coupled()
        logits = prior.discriminator(images)
        torch.testing.assert_close(coupled.realism(images), log_real(logits))
        assert (coupled.realism(images[:1]) - coupled.realism(images)[:1]).abs() > 1e-4
    assert prior.bank is not None, "the prior itself is left as it was"


def test_scores_are_what_it_needs_of_the_target() -> None:
    job = PriorJob(public_images(), general, None, stream(0, "prior"), SILENT)
    with pytest.raises(TypeError, match="confidence scores"):
        InversionGan(InversionGan.Config()).train(job)


def test_the_bank_is_of_the_averaged_generator() -> None:
    """The bank's rows are embeddings of images that the returned generator draws."""
    prior = specific(learning_rate=1e-12, ema=0.5)
    generator = stream(0, "prior")
    discriminator = copy.deepcopy(prior.discriminator)
    _ = torch.randint(2**31, (1,), generator=generator)
    # 4 critic steps and 2 generator steps of 8 images, as the training draws them.
    order = _draws_of_training(generator, steps=4, every=2, size=8)
    with torch.no_grad():
        images = prior.generator(torch.randn(59, LATENT, generator=order))
        expected = discriminator.minibatch.embed(discriminator.trunk(images))
    assert prior.bank is not None
    torch.testing.assert_close(prior.bank, expected, rtol=1e-3, atol=1e-5)


def _draws_of_training(
    generator: torch.Generator, steps: int, every: int, size: int
) -> torch.Generator:
    taken, count = 0, len(public_images())
    for step in range(steps):
        for _ in range(2):  # labelled and unlabelled batch
            if taken % (count // size) == 0:
                torch.randperm(count, generator=generator)
            taken += 1
            torch.rand(size, generator=generator)
        torch.randn(size, LATENT, generator=generator)
        if (step + 1) % every == 0:
            torch.randn(size, LATENT, generator=generator)
    return generator


def test_no_target_weight_gets_gradients_in_training() -> None:
    target = tiny_classifier()
    specific(target)
    assert all(p.grad is None for p in target.parameters())
