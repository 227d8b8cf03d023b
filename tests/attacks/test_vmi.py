from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from mibench.attacks import vmi
from mibench.attacks.vmi import FlowPosterior, GaussianPosterior, Vmi
from mibench.errors import RequestError
from mibench.inversion.attack import ATTACKS
from mibench.inversion.identity import IdentityConfig, IdentityLoss, Objective
from mibench.progress import Progress
from mibench.streams import RowStreams
from tests.kit.problems import (
    CLASSES,
    LATENT,
    RESOLUTION,
    reconstruct,
    tiny_classifier,
    tiny_problem,
)

CPU = torch.device("cpu")
TINY: dict[str, dict[str, Any]] = {
    "gaussian": {"family": "gaussian", "learning_rate": 0.05},
    "flow": {"family": "flow", "flow_depth": 2, "flow_levels": 2, "flow_width": 6},
}
FAMILIES = pytest.mark.parametrize("family", list(TINY))


def attack(start: str, **fields: Any) -> Vmi:
    few = {"iterations": 3, "samples_per_step": 2, "optimizer": "adam", "learning_rate": 0.02}
    return Vmi(Vmi.Config(**{**few, **TINY[start], **fields}))


def run(
    start: str, labels: Sequence[int] = (0, 1, 2), seed: int = 0, samples: int = 2, **fields: Any
) -> Tensor:
    problem = tiny_problem(Vmi, labels, samples, seed=seed)
    return reconstruct(attack(start, **fields), problem)


class Recorder(Progress):
    def __init__(self) -> None:
        self.total, self.done, self.ended = 0, 0, 0
        self.reports: list[dict[str, float]] = []

    def begin(self, total: int, label: str) -> None:
        self.total += total

    def advance(self, steps: int) -> None:
        self.done += steps

    def report(self, **values: float | torch.Tensor) -> None:
        self.reports.append({name: float(value) for name, value in values.items()})

    def end(self) -> None:
        self.ended += 1


def random_gaussian(identities: int, dims: int) -> GaussianPosterior:
    posterior = GaussianPosterior(identities, dims, CPU).double()
    generator = torch.Generator().manual_seed(1)
    posterior.mean.data.normal_(generator=generator)
    posterior.factor.data.normal_(generator=generator)
    return posterior


def test_it_is_registered() -> None:
    assert ATTACKS.get("vmi") is Vmi
    assert Vmi.card.deviations
    for name, field in Vmi.Config.model_fields.items():
        assert field.description, name


def test_the_defaults_are_the_released_runs() -> None:
    config = Vmi.Config()
    assert (config.family, config.flow_levels, config.flow_depth) == ("flow", 3, 10)
    assert (config.optimizer, config.momentum, config.learning_rate) == ("sgd", 0.9, 1e-4)
    assert (config.identity_weight, config.kl_weight) == (1.0, 1e-3)


def test_gaussian_kl_and_draws_match_torchs_distributions() -> None:
    posterior = random_gaussian(3, 4)
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(3, 5, 4, dtype=torch.float64, generator=generator)
    latents, kl = posterior(noise)
    normal = torch.distributions.MultivariateNormal(
        torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    )
    for identity in range(3):
        factor = posterior.factor[identity].detach().tril(-1)
        factor += posterior.factor[identity].diagonal().exp().diag()
        mean = posterior.mean[identity, 0].detach()
        q = torch.distributions.MultivariateNormal(mean, scale_tril=factor)
        expected = torch.distributions.kl_divergence(q, normal)
        torch.testing.assert_close(kl[identity].detach(), expected)
        for draw in range(5):
            one = mean + factor @ noise[identity, draw]
            torch.testing.assert_close(latents[identity, draw].detach(), one)


def test_a_gaussian_starts_as_the_prior() -> None:
    noise = torch.randn(2, 3, 5)
    latents, kl = GaussianPosterior(2, 5, CPU)(noise)
    assert torch.equal(latents, noise)
    assert torch.equal(kl, torch.zeros(2))


def test_flow_starts_close_to_the_prior() -> None:
    problem = tiny_problem(Vmi, [0, 1])
    posterior = attack("flow").posterior(problem)
    noise = torch.randn(2, 4000, LATENT, generator=torch.Generator().manual_seed(0))
    latents, kl = posterior(noise)
    # Fitting 100 draws leaves a mean and a log deviation off by about 0.1 and 0.07 a dimension,
    # a KL of (0.1² / 2 + 0.07²) · 16 = 0.16 nats.
    assert (kl > 0.02).all()
    assert (kl < 0.5).all()
    moments = torch.stack([latents.mean(1), latents.std(1) - 1])
    assert moments.abs().max() < 0.45


def test_the_flows_kl_is_exact_in_expectation() -> None:
    """A flow of actnorms alone is a diagonal Gaussian, whose KL is known."""
    problem = tiny_problem(Vmi, [0, 1])
    posterior = attack("flow", flow_levels=1, flow_depth=1).posterior(problem)
    assert isinstance(posterior, FlowPosterior)
    step = posterior.flow.levels[0][0]
    generator = torch.Generator().manual_seed(0)
    step.actnorm.shift.data.normal_(generator=generator)
    step.actnorm.log_scale.data.normal_(generator=generator).mul_(0.3)
    noise = torch.randn(2, 20_000, LATENT, generator=generator)
    mean, log_std = -step.actnorm.shift, -step.actnorm.log_scale
    expected = ((mean.square() + (2 * log_std).exp() - 1) / 2 - log_std).sum((1, 2))
    torch.testing.assert_close(posterior(noise)[1], expected, rtol=0.01, atol=0)


@FAMILIES
def test_results_are_images_of_the_asked_shape(family: str) -> None:
    images = run(family, labels=[4, 1], samples=3)
    assert images.shape == (2, 3, 3, RESOLUTION, RESOLUTION)
    assert images.min() >= 0
    assert images.max() <= 1
    assert not torch.allclose(images[:, 0], images[:, 1], atol=0.05)


@pytest.mark.usefixtures("double_precision")
@FAMILIES
def test_an_identity_does_not_depend_on_its_batch_mates(family: str) -> None:
    together = run(family, [0, 1, 2])
    alone = run(family, [1])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-9)
    chunked = run(family, [0, 1, 2], max_rows=2)
    torch.testing.assert_close(together, chunked, rtol=0, atol=1e-9)


@FAMILIES
def test_the_seed_alone_decides(family: str) -> None:
    first = run(family)
    assert torch.equal(first, run(family))
    assert not torch.allclose(first, run(family, seed=1), atol=0.05)


@FAMILIES
def test_identities_have_streams_of_their_own(family: str) -> None:
    # Steps this small leave q at the prior, so that only the noise tells two identities apart.
    images = run(family, [0, 1], iterations=1, learning_rate=1e-12)
    assert (images[0] - images[1]).abs().mean() > 0.05


def test_training_draws_are_each_identitys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a loss that knows no label, Gaussians differ by the noise that they were drawn with."""

    class Brightness(IdentityLoss):
        def __call__(self, images: Tensor, labels: Tensor, streams: RowStreams) -> Tensor:
            return images.mean((1, 2, 3))

    problem = tiny_problem(Vmi, [0, 1])
    target, _ = problem.white_box()
    loss = Brightness(target.outputs, [], IdentityConfig())
    posterior = GaussianPosterior(2, LATENT, CPU)
    monkeypatch.setattr(vmi, "GaussianPosterior", lambda *_: posterior)
    reconstruct(attack("gaussian"), replace(problem, identity_loss=loss))
    assert (posterior.factor[0] - posterior.factor[1]).abs().max() > 1e-3


@pytest.mark.parametrize("objective", ["cross-entropy", "logit"])
@FAMILIES
def test_the_identity_loss_falls(family: str, objective: Objective) -> None:
    labels = [0, 2]
    losses = []
    for iterations in (1, 40):
        problem = tiny_problem(Vmi, labels, 32, objective=objective)
        method = attack(family, iterations=iterations, samples_per_step=16)
        images = reconstruct(method, problem).flatten(0, 1)
        rows = torch.tensor(labels).repeat_interleave(32)
        loss = problem.identity_loss
        assert loss is not None
        with torch.no_grad():
            values = loss(images, rows, problem.streams("test", 32))
        losses.append(values.view(2, 32).mean(1))
    assert (losses[1] < losses[0] - 0.2).all(), losses


def test_each_identity_is_drawn_to_its_own_label() -> None:
    images = run("flow", range(CLASSES), samples=16, iterations=50, samples_per_step=4)
    logits = tiny_classifier()(images.flatten(0, 1)).detach()
    scores = logits.softmax(1).view(CLASSES, 16, CLASSES).mean(1)
    # Column k: images of identity k score higher as k than images of the others do.
    others = (scores.sum(0) - scores.diagonal()) / (CLASSES - 1)
    assert (scores.diagonal() > others).all(), scores


@FAMILIES
def test_a_heavy_kl_keeps_q_at_the_prior(family: str) -> None:
    free, tied = Recorder(), Recorder()
    for recorder, weight in ((free, 0.0), (tied, 10.0)):
        problem = tiny_problem(Vmi, [0, 1], progress=recorder)
        reconstruct(attack(family, kl_weight=weight, iterations=41), problem)
    assert free.reports[-1]["kl"] > 4 * max(tied.reports[-1]["kl"], 0.1)


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("gaussian", {"family": "flow", "flow_depth": 1, "flow_levels": 1}),
    ("gaussian", {"iterations": 4}),
    ("gaussian", {"samples_per_step": 3}),
    ("gaussian", {"optimizer": "sgd"}),
    ("gaussian", {"learning_rate": 0.1}),
    ("gaussian", {"momentum": 0.5}),
    ("gaussian", {"momentum": 0.5, "optimizer": "sgd"}),
    ("gaussian", {"identity_weight": 0.0}),
    ("gaussian", {"kl_weight": 1.0}),
    ("flow", {"kl_weight": 1.0}),
    ("flow", {"flow_depth": 3}),
    ("flow", {"flow_levels": 3}),
    ("flow", {"flow_width": 7}),
]


@pytest.mark.parametrize(("family", "change"), CHANGES, ids=str)
def test_every_field_changes_the_result(family: str, change: dict[str, Any]) -> None:
    base = {"optimizer": change["optimizer"]} if len(change) == 2 and "momentum" in change else {}
    before, after = run(family, [0], **base), run(family, [0], **change)
    assert (before - after).abs().max() > 1e-4


def test_every_own_field_is_in_the_list_above() -> None:
    own = set(Vmi.Config.__annotations__) - {"model_config"}
    assert own == {name for _, change in CHANGES for name in change}


def test_students_and_objective_reach_the_loss() -> None:
    plain = run("gaussian", [0])
    for options in ({"students": 1}, {"objective": "logit"}):
        problem = tiny_problem(Vmi, [0], **options)  # type: ignore[arg-type]
        assert (reconstruct(attack("gaussian"), problem) - plain).abs().max() > 1e-4


def test_progress_and_queries_are_counted() -> None:
    recorder = Recorder()
    problem = tiny_problem(Vmi, [0, 1, 2], progress=recorder)
    reconstruct(attack("gaussian", samples_per_step=4, max_rows=8), problem)
    assert (recorder.total, recorder.done, recorder.ended) == (6, 6, 1)  # 2 chunks of 3 steps
    assert problem.target.queries == 3 * 3 * 4
    assert {"loss", "kl"} <= recorder.reports[0].keys()


def test_the_reported_loss_is_the_weighted_sum() -> None:
    """One step: the loss at q = p is λ_a times the mean cross-entropy of prior images."""
    recorder = Recorder()
    problem = tiny_problem(Vmi, [0, 3], progress=recorder)
    reconstruct(attack("gaussian", iterations=1, identity_weight=2.0), problem)
    noise = problem.streams("vmi/draws").normal(2, LATENT)
    with torch.no_grad():
        logits = tiny_classifier()(problem.prior.images(noise.flatten(0, 1)))
    expected = 2 * F.cross_entropy(logits, torch.tensor([0, 0, 3, 3])).item()
    assert recorder.reports[0]["loss"] == pytest.approx(expected, rel=1e-4)


def test_flow_fields_are_refused_with_the_gaussian() -> None:
    with pytest.raises(ValidationError, match="flow_width does nothing with the family"):
        Vmi.Config(family="gaussian", flow_width=50)


def test_too_many_levels_for_the_latent_are_refused() -> None:
    with pytest.raises(RequestError, match="ask for at most 4 levels"):
        run("flow", flow_levels=5)
