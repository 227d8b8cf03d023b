"""RLB-MI: a reinforcement-learning agent for each identity, in the setting that was released."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.inversion.allowance import Allowance
from mibench.inversion.attack import Attack, AttackConfig, Problem, register_attack
from mibench.streams import RowStreams
from mibench.types import BUDGETED, AttackCard

LEAST = torch.finfo(torch.float32).tiny  # of a score whose logarithm is taken
LEAST_MARGIN = 1e-7
LOG_SIGMA = (-20.0, 2.0)  # bounds of the policy's log σ, as in soft actor–critic


@register_attack("rlb-mi")
class RlbMi(Attack["RlbMi.Config"]):
    """Soft actor–critic whose action is a latent, and whose reward the target's scores of it.

    An episode is one step, so that no state follows from an action: a contextual bandit.

    References:
        Han et al., "Reinforcement Learning-Based Black-Box Model Inversion Attacks", CVPR 2023.
        Haarnoja et al., "Soft Actor-Critic: Off-Policy Maximum Entropy Deep Reinforcement Learning
        with a Stochastic Actor", ICML 2018.
    """

    card = AttackCard(
        title="Reinforcement Learning-Based Black-Box Model Inversion Attacks",
        authors="Han, Choi, Lee, Kim",
        year=2023,
        venue="CVPR",
        url="https://arxiv.org/abs/2304.04625",
        reference_code="https://github.com/HanGyojin/RLB-MI",
        deviations=(
            "It is written as the bandit that the released setting is: with its α of 0 and "
            "episodes of one step the next state is the action, which ends the episode. So the "
            "critics regress the reward itself, without discount and target networks, and the "
            "reward is 4·log p_y + 8·log max(1e-7, margin), for both of the published 2·log p_y "
            "are of one image.",
            "An image is asked about once. The released code asks about the action's image twice "
            "in an episode, and about a test sample after it; here the answer is the best of the "
            "images that the agent learns from.",
            "One agent an identity acts for all of its reconstructions: in each step it draws a "
            "state and an action for each, and each keeps the image of its own with the highest "
            "p_y; then it is updated as many times.",
            "The actor ascends the lower one of both critics, as in soft actor–critic, in the "
            "released code the first. They start as torch's linear layers do, there with smaller "
            "weights in the last layer.",
            "Noise of an action is one number a coordinate, and log-probabilities are summed over "
            "coordinates, as in soft actor–critic; in the released code the noise is one number "
            "for all of them, and the log-probabilities are averaged. The temperature starts at "
            "0.01 therefore (`temperature`).",
            "Latents of an action are within ±1, as published, whatever the prior draws.",
        ),
    )
    access = "black-box"
    optimises_identity = False

    class Config(AttackConfig):
        """Options of RLB-MI; the defaults are those of the released code."""

        queries: int = Field(
            40_000,
            ge=1,
            le=10**12,
            description="images that the target is asked about for an identity, at most, all its "
            "reconstructions together",
            json_schema_extra=BUDGETED,
        )
        hidden: int = Field(
            256, ge=1, le=65_536, description="units in both hidden layers of actor and critics"
        )
        learning_rate: float = Field(
            5e-4, gt=0, le=1e30, description="Adam's step, of actor, critics and temperature"
        )
        batch_size: int = Field(
            256,
            ge=1,
            le=65_536,
            description="actions of an update; there is one for each image asked about",
        )
        buffer: int = Field(
            1_000_000, ge=1, le=10**9, description="actions that are remembered of an identity"
        )
        temperature: float = Field(
            0.01, gt=0, le=1e30, description="weight of the entropy at the start"
        )

    def rows_per_identity(self, samples: int) -> int:
        """The actions of an update, or of a step."""
        return max(self.config.batch_size, samples)

    def invert(self, problem: Problem) -> Tensor:
        """An agent an identity, all of a chunk side by side.

        Of a batch of actions the critics minimise the mean of (Q₁ − r)² + (Q₂ − r)², the actor
        that of τ·log π(a|s) − min(Q₁, Q₂)(s, a), a drawn anew; the temperature τ falls while the
        entropy is over −d, and rises below it.
        """
        config, k, d, n = self.config, len(problem.labels), problem.prior.size, problem.samples
        weights, width = problem.streams("weights"), config.hidden
        actor = Network(weights, (d, width, width, 2 * d))
        Q1, Q2 = (Network(weights, (2 * d, width, width, 1)) for _ in range(2))
        log_τ = torch.full((k,), math.log(config.temperature), device=problem.device)
        log_τ.requires_grad_(True)
        of_actor, of_critics = actor.parameters, [*Q1.parameters, *Q2.parameters]
        adam_π, adam_Q, adam_τ = (
            torch.optim.Adam(each, config.learning_rate) for each in (of_actor, of_critics, [log_τ])
        )

        def values(pairs: Tensor) -> Tensor:
            return torch.cat([Q1(pairs), Q2(pairs)], 2)

        def answer(images: Tensor, labels: Tensor, streams: RowStreams) -> Tensor:
            return reward(problem.black_box().scores(images, streams), labels)

        allowance, agents = Allowance(problem, config.queries, 1), torch.arange(k)
        agents = agents.to(problem.device)
        acts, learns = problem.streams("actions"), problem.streams("updates")
        queries = config.queries // problem.target.times
        size, told = min(max(config.buffer, n), queries), 0
        memory = torch.zeros(k, size, 2 * d + 1, device=problem.device)  # s, a and r
        best = torch.zeros(k, n, d, device=problem.device)
        sure = torch.full((k, n), -torch.inf, device=problem.device)
        for step in problem.progress.steps(-(-queries // n), "rlb-mi"):
            with torch.no_grad():
                s = acts.normal(n, d)
                a, _ = policy(actor(s), acts.normal(n, d))
                p, r = allowance.ask(agents, a, answer, otherwise=-torch.inf).unbind(2)
                best = torch.where((p > sure)[..., None] | (step == 0), a, best)
                sure = torch.maximum(sure, p)
                asked = min(n, queries - told)
                at = torch.arange(told, told + asked, device=problem.device) % size
                memory[:, at] = torch.cat([s, a, r[..., None]], 2)[:, :asked]
                told += asked
            problem.progress.report(confidence=sure.mean())
            for _ in range(asked if told >= config.batch_size else 0):  # one an image, as published
                chosen = (learns.uniform(config.batch_size) * min(told, size)).long()
                drawn = memory[agents[:, None], chosen]
                s, r = drawn[..., :d], drawn[..., -1:]
                # Losses are means over an agent's batch, summed over agents, which share nothing.
                loss_Q = (values(drawn[..., :-1]) - r).square().sum(2).mean(1)
                follow(adam_Q, loss_Q.sum(), of_critics)
                a, log_π = policy(actor(s), learns.normal(config.batch_size, d))
                worth = values(torch.cat([s, a], 2)).amin(2)
                loss_π = log_τ.detach().exp()[:, None] * log_π - worth
                follow(adam_π, loss_π.mean(1).sum(), of_actor)
                follow(adam_τ, temperature_loss(log_τ, log_π.detach(), -d).sum(), [log_τ])
        with torch.no_grad():
            y = problem.labels.repeat_interleave(n)
            found: Tensor = problem.prior.images(best.flatten(0, 1), y).unflatten(0, (k, n))
        return found


def reward(scores: Tensor, labels: Tensor) -> Tensor:
    """p_y, and the reward 4·log p_y + 8·log max(1e-7, p_y − max_{k≠y} p_k): ``(n, 2)``.

    Args:
        scores: the target's ``(n, classes)``.
    """
    p = scores.gather(1, labels[:, None]).squeeze(1)
    margin = p - scores.scatter(1, labels[:, None], -1).amax(1)
    r = 4 * p.clamp_min(LEAST).log() + 8 * margin.clamp_min(LEAST_MARGIN).log()
    return torch.stack([p, r], 1)


def policy(moments: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions a = tanh(μ + σ·ε) and log π(a) = Σ_i log N(u_i; μ_i, σ_i) − log(1 − tanh²(u_i)).

    Args:
        moments: μ and log σ ``(…, 2d)``.
        noise: ε ``(…, d)``, standard normal.

    Returns:
        ``(…, d)`` in [−1, 1], and ``(…)``.

    Source: Soft Actor-Critic (Haarnoja et al., ICML 2018), appendix C.
    """
    μ, log_σ = moments.chunk(2, dim=-1)
    log_σ = log_σ.clamp(*LOG_SIGMA)
    u = μ + log_σ.exp() * noise
    log_N = -noise.square() / 2 - log_σ - math.log(2 * math.pi) / 2
    return u.tanh(), (log_N - 2 * (math.log(2) - u - F.softplus(-2 * u))).sum(-1)


def temperature_loss(log_τ: Tensor, log_π: Tensor, entropy: float) -> Tensor:
    """−log τ·mean(log π + H̄) ``(k,)``: the temperature rises where the entropy is below H̄.

    Args:
        log_τ: of each agent ``(k,)``.
        log_π: of a batch of its actions ``(k, n)``; their mean is minus the entropy.
        entropy: H̄, what it is to be.

    Source: Soft Actor-Critic Algorithms and Applications (Haarnoja et al., 2018), equation 18, with
    log τ in the place of τ, as its code has it.
    """
    return -log_τ * (log_π + entropy).mean(1)


def follow(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: list[Tensor]) -> None:
    """A step of the optimizer down the loss's gradient at these parameters alone."""
    gradients = torch.autograd.grad(loss, parameters)
    for each, gradient in zip(parameters, gradients, strict=True):
        each.grad = gradient
    optimizer.step()


class Network:
    """Perceptrons of one shape, one for each identity, that share nothing.

    Args:
        streams: a stream for each identity, for its initial weights.
        sizes: units of each layer, the inputs first.
    """

    def __init__(self, streams: RowStreams, sizes: tuple[int, ...]) -> None:
        self.parameters: list[Tensor] = []
        for inputs, outputs in pairwise(sizes):  # as torch's own linear layers start
            for rows in (inputs, 1):
                drawn = (2 * streams.uniform(rows, outputs) - 1) / inputs**0.5
                self.parameters.append(drawn.requires_grad_(True))

    def __call__(self, values: Tensor) -> Tensor:
        """Outputs ``(identities, n, outputs)``, with ReLU between the layers."""
        *hidden, (weight, bias) = zip(self.parameters[::2], self.parameters[1::2], strict=True)
        for w, b in hidden:
            values = torch.baddbmm(b, values, w).relu()
        return torch.baddbmm(bias, values, weight)
