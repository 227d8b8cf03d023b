from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from torch import Tensor
from torch.nn import functional as F

from mibench.attacks.kedmi import Kedmi
from mibench.errors import RequestError
from mibench.inversion.attack import Problem
from mibench.priors import Prior
from tests.kit.problems import (
    LATENT,
    RESOLUTION,
    reconstruct,
    tiny_prior,
    tiny_problem,
)


def attack(**fields: Any) -> Kedmi:
    return Kedmi(Kedmi.Config(**{"iterations": 3, "learning_rate": 0.1, **fields}))


def run(
    labels: Sequence[int] = (0, 1, 2), samples: int = 2, options: Any = None, **fields: Any
) -> Tensor:
    problem = tiny_problem(Kedmi, labels, samples, **(options or {}))
    return reconstruct(attack(**fields), problem)


class LinearPrior(Prior):
    """Pictures of one pixel, linear in three latents, with logits that are linear in them."""

    size = 3

    def __init__(self, matrix: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.matrix, self.weight = matrix, weight

    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return (latents @ self.matrix)[:, :, None, None]

    def realism(self, images: Tensor) -> Tensor:
        evidence = (images[:, :, 0, 0] @ self.weight).logsumexp(1)
        return evidence - F.softplus(evidence)

    def description(self) -> dict[str, Any]:
        return {}


def linear_problem(labels: Sequence[int], samples: int) -> tuple[Problem, Any, Any, Any]:
    """A problem with known gradients: identity loss ½‖x − c_k‖²."""
    rng = np.random.default_rng(1)
    matrix, centres, weight = rng.normal(size=(3, 3)), rng.normal(size=(5, 3)), rng.normal(size=3)
    weights = np.stack([weight, -weight, 2 * weight], axis=1)

    def identity(images: Tensor, rows: Tensor, noise: object) -> Tensor:
        return 0.5 * (images[:, :, 0, 0] - torch.tensor(centres).float()[rows]).square().sum(1)

    problem = dataclasses.replace(
        tiny_problem(Kedmi, labels, samples),
        prior=LinearPrior(torch.tensor(matrix).float(), torch.tensor(weights).float()),
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

    prior = LinearPrior(matrix, weight)
    problem = dataclasses.replace(
        tiny_problem(Kedmi, labels, 1),
        prior=prior,
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
        return prior.images(latents if clip is None else latents.clamp(-clip, clip))

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


def test_only_minibatch_discrimination_can_be_coupled() -> None:
    problem, *_ = linear_problem((0, 1), 1)
    with pytest.raises(RequestError, match=r"attack\.coupled .* LinearPrior has none of"):
        attack(coupled=True).invert(problem)


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
        expected = tiny_prior().images(np.exp(value / 2) * noise)
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
    assert {name for change in CHANGES for name in change} == set(Kedmi.Config.__annotations__)
    assert all(field.description for field in Kedmi.Config.model_fields.values())


def test_students_and_objective_reach_the_loss() -> None:
    plain = run([0])
    for options in ({"students": 1}, {"objective": "logit"}):
        assert (run([0], options=options) - plain).abs().max() > 1e-4


def test_frozen_networks_get_no_gradients() -> None:
    problem = tiny_problem(Kedmi, [0], students=1)
    target, loss = problem.white_box()
    reconstruct(attack(), problem)
    for network in (target.model, *loss.students, problem.prior):
        assert all(p.grad is None for p in network.parameters())
