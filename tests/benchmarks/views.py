"""Time an attack's step with views averaged against the plain step: K of them cost about K steps.

    python -m tests.benchmarks.views [--views taa] [--count 8] [--rounds 5]

Improved GMI on the sizes of synthfaces-32, networks with random weights. Both sides alternate, so
that a drift of the machine's speed hits both.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from mibench.data.images import ImageSet
from mibench.inversion.attack import ATTACKS, Attack, AttackConfig, Problem
from mibench.inversion.identity import IdentityConfig, IdentityLoss, PenultimateGaussian
from mibench.models.access import WhiteBoxTarget
from mibench.models.classifiers import Classifier
from mibench.models.freeze import freeze
from mibench.priors._networks import Critic, Generator
from mibench.priors.gan import GanPrior
from mibench.progress import SILENT
from mibench.protocols import PROTOCOLS

SPARE = 0.5  # plain steps that drawing the views themselves may cost


def step_problem(attack: Attack[AttackConfig], identities: int) -> Problem:
    """The problem of ``attack``, with the protocol's networks, at random weights."""
    card = PROTOCOLS["synthfaces-32"]
    size, classes = card.resolution, 100
    sample = torch.rand(2, 3, size, size)
    torch.manual_seed(0)
    names = (card.target, *card.students.architectures)
    target, *students = (freeze(Classifier(each, classes, size).eval(), sample) for each in names)
    generator = Generator(size, card.gan.latent, card.gan.generator_width).eval()
    prior = GanPrior(generator, Critic(size, card.gan.critic_width).bake().eval()).frozen(sample)
    access = WhiteBoxTarget(target)
    gaussian = PenultimateGaussian(
        torch.zeros(target.feature_size), torch.ones(target.feature_size)
    )
    loss = IdentityLoss(access.outputs, students, attack.config.identity, gaussian)
    public = ImageSet(
        torch.zeros(1, 3, size, size, dtype=torch.uint8), torch.zeros(1).long(), ("a",)
    )
    labels = torch.arange(identities)
    cpu = torch.device("cpu")
    return Problem(access, prior, loss, labels, card.samples, public, 0, cpu, SILENT)


def seconds(method: type[Attack[AttackConfig]], identity: IdentityConfig, n: int, k: int) -> float:
    """Wall seconds of an attack of so many steps ``n`` on ``k`` identities."""
    attack = method(method.Config.model_validate({"identity": identity, "iterations": n}))
    problem = step_problem(attack, k)
    start = time.perf_counter()
    list(attack(problem))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--views", choices=("taa", "paa"), default="taa")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--identities", type=int, default=24)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of an attack")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(options)}")
    method = ATTACKS.get("gmi")

    def step(**views: object) -> float:
        """Seconds of a step, less what an attack does once."""
        identity = IdentityConfig.model_validate({"objective": "logit", **views})
        whole = seconds(method, identity, 1 + options.steps, options.identities)
        return (whole - seconds(method, identity, 1, options.identities)) / options.steps

    def averaged() -> float:
        return step(views=options.views, view_count=options.count)

    step(), averaged()
    pairs = [(step(), averaged()) for _ in range(options.rounds)]
    ratios = [varied / plain for plain, varied in pairs]
    middle, goal = statistics.median(ratios), options.count + SPARE
    plain, varied = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    print(
        f"improved-gmi, {options.identities} identities: a step takes {plain * 1e3:.0f} ms, with "
        f"+{options.views} of {options.count} views {varied * 1e3:.0f} ms, {middle:.2f} times as "
        f"long ({min(ratios):.2f}–{max(ratios):.2f}), goal {goal:g}: "
        f"{'met' if middle <= goal else 'NOT MET'}"
    )


if __name__ == "__main__":
    main()
