from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mibench.attacks.gmi import Gmi
from mibench.inversion.attack import Attack, Problem
from mibench.priors import Prior
from tests.kit.cells import bench, graph
from tests.kit.problems import (
    LATENT,
    RESOLUTION,
    reconstruct,
    tiny_classifier,
    tiny_prior,
    tiny_problem,
)


def attack(**fields: Any) -> Gmi:
    return Gmi(Gmi.Config(**{"iterations": 4, "learning_rate": 1.0, **fields}))


def run(
    labels: Sequence[int] = (0, 1, 2), samples: int = 2, options: Any = None, **fields: Any
) -> Tensor:
    return reconstruct(attack(**fields), tiny_problem(Gmi, labels, samples, **(options or {})))


def test_the_defaults_are_the_released_codes() -> None:
    config = Gmi.Config()
    assert (config.iterations, config.learning_rate, config.momentum) == (2400, 0.02, 0.9)
    assert (config.identity_weight, config.prior_weight, config.clip) == (100, 1, 1)
    assert config.reference_batch == 60


class LinearPrior(Prior):
    """Pictures of one pixel, linear in three latents, and a realism that is linear in them."""

    size = 3

    def __init__(self, matrix: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.matrix, self.weight = matrix, weight

    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return (latents @ self.matrix)[:, :, None, None]

    def realism(self, images: Tensor) -> Tensor:
        return images[:, :, 0, 0] @ self.weight

    def description(self) -> dict[str, Any]:
        return {}


def linear_problem(labels: Sequence[int], samples: int) -> tuple[Problem, Any, Any, Any]:
    """A problem whose gradients are known: identity loss ½‖x − c_k‖², critic w·x."""
    rng = np.random.default_rng(1)
    matrix, centres, weight = rng.normal(size=(3, 3)), rng.normal(size=(5, 3)), rng.normal(size=3)

    def identity(images: Tensor, rows: Tensor, noise: object) -> Tensor:
        return 0.5 * (images[:, :, 0, 0] - torch.tensor(centres).float()[rows]).square().sum(1)

    prior = LinearPrior(torch.tensor(matrix).float(), torch.tensor(weight).float())
    problem = dataclasses.replace(
        tiny_problem(Gmi, labels, samples),
        prior=prior,
        identity_loss=identity,  # type: ignore[arg-type]
    )
    return problem, matrix, centres, weight


@pytest.mark.parametrize("labels", [(0, 1, 2), (1,)])
@pytest.mark.parametrize("momentum", [0.9, 0.7, 0.0])
def test_the_whole_attack_against_a_loop_in_numpy(labels: tuple[int, ...], momentum: float) -> None:
    """The released code's Nesterov steps, as for the published batch of 60 with any number."""
    problem, matrix, centres, weight = linear_problem(labels, 4)
    fields = {"iterations": 25, "identity_weight": 3.0, "prior_weight": 2.0, "clip": 0.8}
    fields["momentum"] = momentum
    images = attack(learning_rate=0.9, **fields).invert(problem)
    clamped = 0
    for row, label in enumerate(labels):
        for restart in range(4):
            z = torch.randn(3, generator=problem.stream(label, f"start/{restart}")).double().numpy()
            v = np.zeros(3)
            for _ in range(25):
                gradient = matrix @ (3 * (z @ matrix - centres[label]) - 2 * weight)
                v_previous = v
                v = momentum * v - 0.9 / 60 * gradient
                z = z + (-momentum * v_previous + (1 + momentum) * v)
                clamped += int((np.abs(z) > 0.8).sum())
                z = np.clip(z, -0.8, 0.8)
            found = images[row, restart, :, 0, 0]
            np.testing.assert_allclose(found, z @ matrix, rtol=1e-3, atol=1e-4)
    assert clamped > 0


def test_results_are_images_of_the_asked_shape() -> None:
    images = run([4, 1], samples=3)
    assert images.shape == (2, 3, 3, RESOLUTION, RESOLUTION)
    assert images.min() >= 0
    assert images.max() <= 1


def test_identities_and_restarts_start_at_latents_of_their_own() -> None:
    images = run([0, 1], samples=3, iterations=1, learning_rate=1e-12, clip=100).flatten(0, 1)
    for first in range(6):
        for second in range(first):
            assert (images[first] - images[second]).abs().mean() > 0.05
    expected = tiny_problem(Gmi).stream(1, "start/2")
    with torch.no_grad():
        start = tiny_prior().images(torch.randn(1, LATENT, generator=expected))
    torch.testing.assert_close(images[5:6], start, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("options", [{}, {"objective": "logit", "students": 1}], ids=str)
def test_an_identity_does_not_depend_on_its_batch_mates(options: dict[str, Any]) -> None:
    together = run([0, 1, 2], options=options)
    torch.testing.assert_close(together[1:2], run([1], options=options), rtol=0, atol=1e-9)
    for rows in (1, 4):
        chunked = run([0, 1, 2], options=options, max_rows=rows)
        torch.testing.assert_close(together, chunked, rtol=0, atol=1e-9)


def test_the_seed_alone_decides() -> None:
    first = run(options={"objective": "logit"})
    assert torch.equal(first, run(options={"objective": "logit"}))
    assert not torch.allclose(first, run(options={"objective": "logit", "seed": 1}), atol=0.05)


CHANGES = [
    {"iterations": 5},
    {"learning_rate": 2.0},
    {"reference_batch": 30},
    {"momentum": 0.5},
    {"identity_weight": 10},
    {"prior_weight": 100},
    {"clip": 0.5},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_field_changes_the_result(change: dict[str, Any]) -> None:
    assert (run([0]) - run([0], **change)).abs().max() > 1e-4


def test_every_own_field_is_in_the_list_above() -> None:
    assert {name for change in CHANGES for name in change} == set(Gmi.Config.__annotations__)
    assert all(field.description for field in Gmi.Config.model_fields.values())


def test_students_and_objective_reach_the_loss() -> None:
    plain = run([0])
    for options in ({"students": 1}, {"objective": "logit"}):
        assert (run([0], options=options) - plain).abs().max() > 1e-4


def test_queries_are_one_for_each_image() -> None:
    problem = tiny_problem(Gmi, [0, 1], 3)
    reconstruct(attack(iterations=4), problem)
    assert problem.target.queries == 4 * 2 * 3


def test_no_network_gets_gradients_even_if_it_is_not_frozen() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        problem = tiny_problem(Gmi, [0])
        networks = [problem.prior, tiny_classifier()]
        try:
            for network in networks:
                network.requires_grad_(True)
            reconstruct(attack(iterations=2), problem)
            assert all(p.grad is None for network in networks for p in network.parameters())
        finally:
            for network in networks:
                network.requires_grad_(False)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", ["improved-gmi", "improved-kedmi"])
def test_what_the_pipeline_hands_to_an_attack_is_frozen(
    name: str, tiny_store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Problem] = []
    call = Attack.__call__

    def spy(self: Attack[Any], problem: Problem) -> Iterator[Tensor]:
        seen.append(problem)
        return call(self, problem)

    monkeypatch.setattr(Attack, "__call__", spy)
    graph(protocol="tiny", attack=name).reconstructions.compute(tmp_path, bench(tiny_store))
    (problem,) = seen
    target, loss = problem.white_box()
    assert len(loss.students) == 1
    for network in (target.model, *loss.students, problem.prior):
        assert not network.training
        assert all(not p.requires_grad and p.grad is None for p in network.parameters())
    norms = nn.modules.batchnorm._BatchNorm
    assert not any(isinstance(m, norms) for m in problem.prior.modules())
