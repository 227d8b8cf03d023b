from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax
from torch import Tensor, nn

from mibench.attacks.kedmi import FineTuning, Kedmi, critic_loss, generator_loss, realism_loss
from mibench.inversion.attack import PriorJob, Problem
from mibench.models.classifiers import Classifier
from mibench.priors._networks import Critic, Generator, Prior
from mibench.progress import SILENT
from mibench.streams import stream
from tests.kit.problems import (
    CLASSES,
    LATENT,
    RESOLUTION,
    public_images,
    reconstruct,
    tiny_classifier,
    tiny_prior,
    tiny_problem,
)


def attack(**fields: Any) -> Kedmi:
    return Kedmi(Kedmi.Config(**{"iterations": 3, "learning_rate": 0.1, **fields}))


def run(
    labels: Sequence[int] = (0, 1, 2), samples: int = 2, options: Any = None, **fields: Any
) -> Tensor:
    problem = tiny_problem(Kedmi, labels, samples, critic_classes=CLASSES, **(options or {}))
    return reconstruct(attack(**fields), problem)


def normal(name: str, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=stream(0, name))


# --- losses ---------------------------------------------------------------------------------


def test_the_realism_loss() -> None:
    logits = normal("logits", 6, 4)
    evidence = logsumexp(logits.numpy(), axis=1)
    expected = np.log1p(np.exp(evidence)) - evidence
    np.testing.assert_allclose(realism_loss(logits), expected, rtol=1e-4, atol=1e-6)
    # −log of the probability K·e^lse/(K·e^lse + 1) that the image is real
    probability = np.exp(evidence) / (np.exp(evidence) + 1)
    np.testing.assert_allclose(realism_loss(logits), -np.log(probability), rtol=1e-4, atol=1e-6)


def test_the_critics_loss() -> None:
    labelled, real = normal("labelled", 6, 4), normal("real", 6, 4)
    fake, teacher = normal("fake", 5, 4), normal("teacher", 6, 4).numpy()
    soft = softmax(teacher, axis=1)
    supervised = np.mean([-soft[i] @ log_softmax(labelled.numpy()[i]) for i in range(6)])
    on_real, on_fake = logsumexp(real.numpy(), axis=1), logsumexp(fake.numpy(), axis=1)
    unsupervised = 0.5 * (
        np.mean(np.log1p(np.exp(on_real)) - on_real) + np.mean(np.log1p(np.exp(on_fake)))
    )
    found = critic_loss(labelled, torch.tensor(soft), real, fake)
    assert found.item() == pytest.approx(supervised + unsupervised, rel=1e-5)


def test_the_generators_loss() -> None:
    fake, real, logits = normal("f", 6, 3), normal("r", 9, 3), normal("l", 6, 4)
    matching = np.mean(np.abs(fake.numpy().mean(0) - real.numpy().mean(0)))
    p = softmax(logits.numpy(), axis=1)
    entropy = sum(-(p[i] * np.log(p[i])).sum() for i in range(6))  # summed over the batch
    found = generator_loss(fake, real, logits, 0.3)
    assert found.item() == pytest.approx(matching + 0.3 * entropy, rel=1e-5)


# --- the attack -----------------------------------------------------------------------------


class LinearGenerator(nn.Module):
    latent = 3

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, latents: Tensor) -> Tensor:
        return (latents @ self.matrix)[:, :, None, None]


class LinearCritic:
    """Logits linear in the picture; it records which bank it was given."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.banks = weight, []

    def features(self, images: Tensor) -> Tensor:
        return images[:, :, 0, 0]

    def score(self, features: Tensor, bank: Tensor | None = None) -> Tensor:
        self.banks.append(bank)
        return features @ self.weight


def linear_problem(labels: Sequence[int], samples: int) -> tuple[Problem, Any, Any, Any]:
    """A problem with known gradients: identity loss ½‖x − c_k‖²."""
    rng = np.random.default_rng(1)
    matrix, centres, weight = rng.normal(size=(3, 3)), rng.normal(size=(5, 3)), rng.normal(size=3)
    weights = np.stack([weight, -weight, 2 * weight], axis=1)

    def identity(images: Tensor, rows: Tensor, noise: object) -> Tensor:
        return 0.5 * (images[:, :, 0, 0] - torch.tensor(centres).float()[rows]).square().sum(1)

    critic: Any = LinearCritic(torch.tensor(weights).float())
    generator: Any = LinearGenerator(torch.tensor(matrix).float())
    problem = dataclasses.replace(
        tiny_problem(Kedmi, labels, samples),
        prior=Prior(generator, critic, "linear", torch.zeros(59, 1, 1)),
        identity_loss=identity,  # type: ignore[arg-type]
    )
    return problem, matrix, centres, weights


@pytest.mark.parametrize("labels", [(0, 1, 2), (2,)])
@pytest.mark.parametrize("clip", [1.0, None])
def test_the_whole_attack_against_a_loop_in_numpy(
    labels: tuple[int, ...], clip: float | None
) -> None:
    problem, matrix, centres, weights = linear_problem(labels, 2)
    images = attack(
        iterations=20, identity_weight=3, prior_weight=2, initial_log_variance=-0.5, clip=clip
    ).invert(problem)
    for row, label in enumerate(labels):
        draws = problem.stream(label, "draws/0")
        parameters = np.concatenate([np.zeros(3), np.full(3, -0.5)])  # μ, log σ²
        first, second = np.zeros(6), np.zeros(6)
        for step in range(1, 21):
            noise = torch.randn(3, generator=draws).double().numpy()
            mean, log_variance = parameters[:3], parameters[3:]
            raw = mean + np.exp(log_variance / 2) * noise
            z = raw if clip is None else np.clip(raw, -clip, clip)
            image = z @ matrix
            logits = image @ weights
            evidence = logsumexp(logits)
            d_evidence = 1 / (1 + np.exp(-evidence)) - 1
            d_image = 3 * (image - centres[label]) + 2 * d_evidence * (weights @ softmax(logits))
            d_z = (matrix @ d_image) * (z == raw)
            gradient = np.concatenate([d_z, d_z * noise * 0.5 * np.exp(log_variance / 2)]) / 60
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            direction = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            parameters = parameters - 0.1 * direction
        for copy_ in range(2):
            noise = torch.randn(3, generator=problem.stream(label, f"reconstructions/{copy_}"))
            z = parameters[:3] + np.exp(parameters[3:] / 2) * noise.double().numpy()
            z = z if clip is None else np.clip(z, -clip, clip)
            np.testing.assert_allclose(images[row, copy_, :, 0, 0], z @ matrix, 1e-2, 1e-3)


@pytest.mark.parametrize("labels", [range(60), (7, 31)])
@pytest.mark.parametrize("clip", [1.0, None])
def test_adam_weighs_its_epsilon_as_in_the_published_loop(
    labels: Sequence[int], clip: float | None
) -> None:
    """The released code's loop: a mean over 60 identities, whatever number we attack at once.

    The losses are so small that Adam's ε, 1e-8, is of the order of their gradients: a sum in the
    place of the mean takes several times as long steps.
    """
    rng = np.random.default_rng(1)
    matrix = torch.tensor(rng.normal(size=(3, 3))).float()
    weight = torch.tensor(rng.normal(size=(3, 4))).float()
    centres = torch.tensor(rng.normal(size=(60, 3))).float()

    def identity(images: Tensor, rows: Tensor, noise: object = None) -> Tensor:
        return (images[:, :, 0, 0] - centres[rows]).square().sum(1)

    generator, critic = LinearGenerator(matrix), LinearCritic(weight)
    problem = dataclasses.replace(
        tiny_problem(Kedmi, labels, 1),
        prior=Prior(generator, critic, "linear", torch.zeros(59, 1, 1)),  # type: ignore[arg-type]
        identity_loss=identity,  # type: ignore[arg-type]
    )
    small = {"identity_weight": 1e-7, "prior_weight": 1e-7, "clip": clip}
    found = attack(iterations=20, initial_log_variance=0, **small).invert(problem)

    everyone = torch.arange(60)
    draws = problem.of(everyone).streams("draws")
    mean = torch.zeros(60, 3, requires_grad=True)
    log_variance = torch.zeros(60, 3, requires_grad=True)
    solver = torch.optim.Adam([mean, log_variance], 0.1)

    def images(noise: Tensor) -> Tensor:
        latents = torch.exp(0.5 * log_variance) * noise + mean
        return generator(latents if clip is None else latents.clamp(-clip, clip))

    for _ in range(20):
        fake = images(draws.normal(3))
        evidence = torch.logsumexp(fake[:, :, 0, 0] @ weight, 1)
        realism = torch.nn.functional.softplus(evidence).mean() - evidence.mean()
        solver.zero_grad()
        (1e-7 * realism + 1e-7 * identity(fake, everyone).mean()).backward()
        solver.step()
    with torch.no_grad():
        expected = images(problem.of(everyone).streams("reconstructions").normal(3))
    torch.testing.assert_close(found[:, 0], expected[torch.tensor(labels)], rtol=1e-3, atol=1e-4)
    assert 0.05 < mean.abs().median() < 1  # 20 steps of 0.1, which ε has shortened


@pytest.mark.parametrize("coupled", [False, True])
def test_the_bank_is_used_unless_the_batch_is_coupled(coupled: bool) -> None:
    problem, *_ = linear_problem((0, 1), 1)
    attack(iterations=2, coupled=coupled).invert(problem)
    critic: Any = problem.prior.critic
    wanted = None if coupled else problem.prior.bank
    assert len(critic.banks) == 2
    assert all(bank is wanted for bank in critic.banks)


def test_results_are_images_of_the_asked_shape() -> None:
    images = run([4, 1], samples=3)
    assert images.shape == (2, 3, 3, RESOLUTION, RESOLUTION)
    assert images.min() >= 0
    assert images.max() <= 1


def test_identities_and_draws_have_streams_of_their_own() -> None:
    images = run([0, 1], samples=3, iterations=1, learning_rate=1e-12, clip=None).flatten(0, 1)
    for first in range(6):
        for second in range(first):
            assert (images[first] - images[second]).abs().mean() > 0.05


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_initial_log_variance(value: float) -> None:
    images = run([3], 2, iterations=1, learning_rate=1e-12, clip=None, initial_log_variance=value)
    noise = tiny_problem(Kedmi, [3]).streams("reconstructions", 2).normal(LATENT)
    with torch.no_grad():
        expected = tiny_prior().generator(np.exp(value / 2) * noise)
    torch.testing.assert_close(images[0], expected, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("options", [{}, {"objective": "logit", "students": 1}], ids=str)
def test_an_identity_does_not_depend_on_its_batch_mates(options: dict[str, Any]) -> None:
    together = run([0, 1, 2], options=options)
    torch.testing.assert_close(together[1:2], run([1], options=options), rtol=0, atol=1e-9)
    chunked = run([0, 1, 2], options=options, max_rows=2)
    torch.testing.assert_close(together, chunked, rtol=0, atol=1e-9)


def test_coupling_makes_identities_depend_on_one_another() -> None:
    fields = {"coupled": True, "prior_weight": 1000.0, "identity_weight": 0.0}
    together, alone = run([0, 1, 2], **fields), run([1], **fields)
    assert (together[1:2] - alone).abs().max() > 1e-3
    fields["coupled"] = False
    together, alone = run([0, 1, 2], **fields), run([1], **fields)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=5e-4)


def test_the_seed_alone_decides() -> None:
    first = run(options={"objective": "logit"})
    assert torch.equal(first, run(options={"objective": "logit"}))
    assert not torch.allclose(first, run(options={"objective": "logit", "seed": 1}), atol=0.05)


CHANGES = [
    {"iterations": 4},
    {"learning_rate": 0.2},
    {"identity_weight": 0.01},
    {"prior_weight": 1e5},
    {"initial_log_variance": 0},
    {"clip": None},
    {"clip": 0.5},
    {"coupled": True, "prior_weight": 100},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_field_changes_the_result(change: dict[str, Any]) -> None:
    base = {k: v for k, v in change.items() if "coupled" in change and k != "coupled"}
    assert (run([0, 1], **base) - run([0, 1], **change)).abs().max() > 1e-4


def test_every_own_field_is_in_a_list_of_changes() -> None:
    tested = {name for change in CHANGES for name in change} | {"prior_training"}
    assert tested == set(Kedmi.Config.__annotations__)
    assert {next(iter(change)) for change in TRAININGS} == set(FineTuning.model_fields)
    fields = {**Kedmi.Config.model_fields, **FineTuning.model_fields}
    assert all(field.description for field in fields.values())


def test_students_and_objective_reach_the_loss() -> None:
    plain = run([0])
    for options in ({"students": 1}, {"objective": "logit"}):
        assert (run([0], options=options) - plain).abs().max() > 1e-4


def test_frozen_networks_get_no_gradients() -> None:
    problem = tiny_problem(Kedmi, [0], students=1, critic_classes=CLASSES)
    target, loss = problem.white_box()
    reconstruct(attack(), problem)
    for network in (target.model, *loss.students, problem.prior.generator, problem.prior.critic):
        assert all(p.grad is None for p in network.parameters())


# --- the target-specific prior --------------------------------------------------------------

TRAINED = {"steps": 4, "generator_every": 2, "batch_size": 8, "learning_rate": 1e-3}


def general(norm: Any = "spectral") -> Prior:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        critic = Critic(RESOLUTION, 4, norm=norm).bake()
        return Prior(Generator(RESOLUTION, LATENT, 2).eval(), critic.eval(), "general")


def specific(
    target: Classifier | None = None, base: Prior | None = None, seed: int = 0, **fields: Any
) -> Prior:
    start = base or general()
    job = PriorJob(public_images(), lambda: start, stream(seed, "prior"), SILENT)
    config = Kedmi.Config(prior_training=FineTuning(**{**TRAINED, **fields}))
    return Kedmi(config).train_prior(job, target or tiny_classifier())


def weights(module: nn.Module) -> Tensor:
    return torch.cat([each.detach().clone().reshape(-1) for each in module.parameters()])


def everything(prior: Prior) -> Tensor:
    return torch.cat([weights(prior.generator), weights(prior.critic)])


def test_the_prior_declares_that_it_depends_on_the_target() -> None:
    assert Kedmi.own_prior()
    assert Kedmi.target_specific_prior()


def test_the_prior_depends_on_the_target_and_the_seed_alone() -> None:
    first = specific()
    assert torch.equal(everything(first), everything(specific()))
    other = specific(tiny_classifier(seed=1))
    assert (weights(first.critic) - weights(other.critic)).abs().max() > 1e-4
    assert (weights(first.generator) - weights(other.generator)).abs().max() > 1e-6
    assert not torch.equal(everything(first), everything(specific(seed=1)))


@pytest.mark.parametrize("norm", ["spectral", "instance"])
def test_fine_tuning_starts_from_the_general_prior(norm: Any) -> None:
    """``instance`` is the critic of the recipe ``wgan-gp``."""
    still = specific(base=general(norm), learning_rate=1e-12)
    torch.testing.assert_close(weights(still.generator), weights(general(norm).generator))
    start = general(norm).critic.trunk.state_dict()
    torch.testing.assert_close(dict(still.critic.trunk.state_dict()), dict(start))
    assert still.recipe == "target-specific GAN, fine-tuned from the general prior"


def test_training_from_scratch_does_not() -> None:
    scratch = specific(start=False, learning_rate=1e-12)
    assert not torch.allclose(weights(scratch.generator), weights(general().generator), atol=1e-3)
    trunk, start = (each.critic.trunk[0].weight for each in (scratch, general()))
    assert not torch.allclose(trunk, start, atol=1e-3)
    assert scratch.recipe == "target-specific GAN, trained from scratch"
    assert scratch.generator.config == general().generator.config


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
    before, after = everything(specific(**base)), everything(specific(**change))
    assert before.shape != after.shape or (before - after).abs().max() > 1e-6


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
    again = Prior.rebuild(prior.description(), prior.tensors())
    assert again.bank is not None
    assert torch.equal(again.bank, prior.bank)
    again.generator.eval()
    with torch.no_grad():
        latents = normal("latents", 2, LATENT)
        images = again.generator(latents)
        torch.testing.assert_close(images, prior.generator(latents))
        torch.testing.assert_close(
            again.critic.score(again.critic.features(images), again.bank),
            prior.critic.score(prior.critic.features(images), prior.bank),
        )
    assert prior.critic.config["classes"] == CLASSES


def test_the_bank_is_of_the_averaged_generator() -> None:
    """The bank's rows are embeddings of images that the returned generator draws."""
    prior = specific(learning_rate=1e-12, ema=0.5)
    generator = stream(0, "prior")
    judge = copy.deepcopy(prior.critic)
    assert judge.minibatch is not None
    _ = torch.randint(2**31, (1,), generator=generator)
    # 4 critic steps and 2 generator steps of 8 images, as the training draws them.
    order = _draws_of_training(generator, steps=4, every=2, size=8)
    with torch.no_grad():
        images = prior.generator(torch.randn(59, LATENT, generator=order))
        expected = judge.minibatch.embed(judge.features(images))
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
