"""RLB-MI: the bandit's reward and policy by hand, its networks, and that it learns."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from mibench.attacks import rlb_mi
from mibench.attacks.rlb_mi import Network, RlbMi, policy, reward, temperature_loss
from mibench.inversion.attack import Problem
from mibench.models.access import BlackBoxTarget
from mibench.priors import Prior
from mibench.streams import RowStreams, stream
from tests.kit.problems import CPU, public_images, reconstruct, tiny_problem


def test_the_reward_by_hand() -> None:
    scores = torch.tensor([[0.2, 0.7, 0.1], [0.2, 0.7, 0.1], [0.5, 0.0, 0.5]])
    found = reward(scores, torch.tensor([1, 0, 1]))
    assert found[:, 0].tolist() == pytest.approx([0.7, 0.2, 0.0])
    assert float(found[0, 1]) == pytest.approx(4 * math.log(0.7) + 8 * math.log(0.5), rel=1e-5)
    # A margin below nothing counts as 1e-7.
    assert float(found[1, 1]) == pytest.approx(4 * math.log(0.2) + 8 * math.log(1e-7), rel=1e-5)
    assert found[2, 1].isfinite()


def test_the_policy_is_a_squashed_gaussian() -> None:
    moments = torch.randn(4, 5, 6, generator=stream(0, "moments"))
    noise = torch.randn(4, 5, 3, generator=stream(0, "noise"))
    actions, log_π = policy(moments, noise)
    μ, log_σ = moments.double().chunk(2, -1)
    torch.testing.assert_close(actions.double(), torch.tanh(μ + log_σ.exp() * noise))
    squashed = TransformedDistribution(Normal(μ, log_σ.exp()), [TanhTransform(cache_size=1)])
    wanted = Independent(squashed, 1).log_prob(torch.tanh(μ + log_σ.exp() * noise))
    torch.testing.assert_close(log_π.double(), wanted, atol=1e-4, rtol=1e-4)
    _, far = policy(torch.full((1, 2), 40.0), torch.ones(1, 1))
    assert far.isfinite().all()


def test_the_temperature_rises_where_the_entropy_is_too_low() -> None:
    """Wanted is an entropy of −2: the first agent's is −3.5, the second's 1."""
    log_τ = torch.zeros(2, requires_grad=True)
    log_π = torch.tensor([[3.0, 4.0], [-1.0, -1.0]])
    loss = temperature_loss(log_τ, log_π, entropy=-2)
    (gradient,) = torch.autograd.grad(loss.sum(), log_τ)
    assert gradient.tolist() == [-1.5, 3.0]


def test_networks_are_side_by_side() -> None:
    """Each is a chain of linear layers with ReLU, begun as torch begins them from its stream."""

    def made(rows: tuple[int, ...]) -> Network:
        return Network(RowStreams([stream(0, row) for row in rows], CPU), (3, 50, 40, 2))

    values = torch.randn(2, 7, 3)
    both, second = made((0, 1)), made((1,))
    outputs = both(values)
    torch.testing.assert_close(outputs[1:], second(values[1:]))
    w1, b1, w2, b2, w3, b3 = (each[0].detach() for each in both.parameters)
    hidden = ((values[0] @ w1 + b1).relu() @ w2 + b2).relu()
    torch.testing.assert_close(outputs[0].detach(), hidden @ w3 + b3)
    for layer, weight, bias in ((nn.Linear(3, 50), w1, b1), (nn.Linear(50, 40), w2, b2)):
        bound = 1 / layer.in_features**0.5
        assert float(weight.abs().max()) == pytest.approx(bound, rel=0.15)
        assert float(bias.abs().max()) == pytest.approx(bound, rel=0.15)
        assert weight.T.shape == layer.weight.shape
    (loss,) = torch.autograd.grad(outputs[0].sum(), [both.parameters[0]])
    assert loss[1].abs().max() == 0


class Pixels(Prior):
    """Images that hold their latent."""

    size = 4

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        self.seen.append(latents)
        x = torch.full((len(latents), 3, 4, 4), 0.5)
        x[:, 0, 0] += latents / 4
        return x

    def description(self) -> dict[str, Any]:
        return {}


class Towards(nn.Module):
    """Scores of three identities: the first is the surer, the nearer latents are to a place."""

    classes = 3
    place = torch.tensor([0.6, -0.6, 0.3, 0.0])

    def forward(self, images: Tensor) -> Tensor:
        z = (images[:, 0, 0] - 0.5) * 4
        own = 2 - 2 * (z - self.place).square().sum(1)
        return torch.stack([own, torch.zeros_like(own), -own], 1)


def made(samples: int = 1, labels: tuple[int, ...] = (0,), **fields: Any) -> tuple[Any, ...]:
    prior, target = Pixels(), BlackBoxTarget(Towards())  # type: ignore[arg-type]
    public = replace(public_images(), images=torch.zeros(16, 3, 4, 4, dtype=torch.uint8))
    given: Problem = replace(
        tiny_problem(RlbMi, labels, samples), prior=prior, target=target, public=public
    )
    images = reconstruct(RlbMi(RlbMi.Config(**fields)), given)
    return (images[:, :, 0, 0] - 0.5) * 4, given, torch.cat(prior.seen)


# Ten actions a step, and as many updates after it.
LEARNS: dict[str, Any] = {
    "samples": 10,
    "queries": 600,
    "hidden": 32,
    "batch_size": 64,
    "learning_rate": 1e-2,
}


def gain(seen: Tensor) -> float:
    """How much nearer to the place an agent's last tenth of actions is than its first."""
    away = (seen[:600] - Towards.place).norm(dim=1)
    return float(away[:60].mean() - away[-60:].mean())


@pytest.mark.parametrize(("label", "way"), [(0, 1), (2, -1)])
def test_the_agent_learns_where_its_identity_is(label: int, way: int) -> None:
    """Its last actions are nearer to the place than its first ones, or further for identity 2."""
    _, given, seen = made(labels=(label,), **LEARNS)
    assert seen[:600].abs().max() <= 1
    assert way * gain(seen) > 0.3
    assert given.target.queries == 600


@pytest.mark.parametrize(("samples", "queries"), [(1, 40), (10, 40), (7, 40)])
def test_there_is_an_update_for_each_image_asked_about(
    samples: int, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as there are enough for a batch, whatever the number of reconstructions."""
    updates: list[int] = []

    def counted(optimizer: Any, loss: Tensor, parameters: list[Tensor]) -> None:
        updates.append(len(parameters))

    monkeypatch.setattr(rlb_mi, "follow", counted)
    made(samples=samples, queries=queries, hidden=4, batch_size=20)
    steps = [min(samples, queries - k) for k in range(0, queries, samples)]
    learned = [n for k, n in enumerate(steps) if sum(steps[: k + 1]) >= 20]
    assert updates.count(12) == updates.count(6) == updates.count(1) == sum(learned)


def test_an_agent_that_cannot_move_does_not() -> None:
    assert abs(gain(made(**{**LEARNS, "learning_rate": 1e-30})[2])) < 0.15


def test_each_reconstruction_is_the_surest_image_of_its_own() -> None:
    found, given, seen = made(samples=3, queries=50, hidden=4)
    asked, every = seen[:50], Towards()
    scores = every(Pixels().images(asked)).softmax(1)[:, 0]
    for lane in range(3):
        own = torch.arange(lane, 50, 3)  # one action of each in each step, the last step cut off
        best = asked[own[scores[own].argmax()]]
        torch.testing.assert_close(found[0, lane], best, atol=1e-5, rtol=0)
    assert given.target.own_queries.tolist() == [50, 0, 0]


def test_fewer_questions_than_reconstructions() -> None:
    found, given, _ = made(samples=4, queries=2, hidden=4)
    assert given.target.queries == 2
    assert found.abs().max() <= 1
    assert len(found[0].unique(dim=0)) == 4


def test_a_full_memory_forgets_the_oldest() -> None:
    """Until it is full nothing differs; then the agent learns from its latest actions alone."""
    whole, bounded = (made(buffer=buffer, **LEARNS)[2] for buffer in (600, 300))
    assert torch.equal(made(buffer=10**9, **LEARNS)[2], whole)
    assert torch.equal(whole[:310], bounded[:310])
    assert not torch.equal(whole[320:600], bounded[320:600])
    assert gain(bounded) > 0.3


def test_the_temperature_weighs_the_entropy() -> None:
    """At a high one the policy stays wide, whatever it would gain."""
    spread = {}
    for temperature in (0.01, 1e4):
        seen = made(temperature=temperature, **LEARNS)[2]
        spread[temperature] = float(seen[500:600].std(0).mean())
    assert spread[1e4] > 1.3 * spread[0.01]
