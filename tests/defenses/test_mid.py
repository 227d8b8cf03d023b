"""MID: its bottleneck, its noise and its loss; and the undefended baseline."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from mibench.data.images import ImageSet
from mibench.defenses.mid import BottleneckHead, Mid, kl_to_standard_normal
from mibench.defenses.none import NoDefense
from mibench.models.access import BlackBoxTarget
from mibench.models.classifiers import Classifier
from mibench.streams import RowStreams, noise_from, seeded, stream
from mibench.training.defense import DEFENSES, Defense, DefenseConfig
from mibench.training.loop import Hooks, TrainingConfig, TrainState, train
from tests.kit import training

STATE = TrainState(0, 0, 1, 1, stream(0))


def classifier(defense: Defense[Any], architecture: str = "test_resnet") -> Classifier:
    with seeded(3):
        return defense.built(Classifier(architecture, 6, 32))


def batch(count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 3, 32, 32, generator=generator), torch.arange(count) % 6


def trained_weights(defense: Defense[Any], hooks: Hooks | None = None) -> Tensor:
    """All weights after three steps of the shared loop."""
    images, labels = batch()
    data = ImageSet((images * 255).byte(), labels, tuple("abcdef"))
    config = TrainingConfig(epochs=3, batch_size=12, learning_rate=0.05)
    model = classifier(defense)
    result = train(training.job(data, config, model, stream(1)), hooks or defense)
    assert result.steps == 3
    assert result.diverged is None
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def streams(*names: object) -> RowStreams:
    return RowStreams([stream(0, name) for name in names], torch.device("cpu"))


def test_kl_by_hand_and_against_torch() -> None:
    # Per dimension (μ² + σ² − 1)/2 − ln σ: (1 + 1 − 1)/2 = ½, and (0 + 4 − 1)/2 − ln 2.
    by_hand = kl_to_standard_normal(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 2.0]]))
    assert by_hand.item() == pytest.approx(2 - math.log(2), rel=1e-6)
    mu, sigma = torch.randn(5, 7), torch.rand(5, 7) + 0.01
    expected = kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mu, sigma), expected)


def test_kl_and_its_gradient_stay_finite_where_sigma_underflows() -> None:
    raw = torch.tensor([[-300.0, 0.0]], requires_grad=True)
    kl = kl_to_standard_normal(torch.zeros(1, 2), F.softplus(raw - 5)).sum()
    kl.backward()
    assert torch.isfinite(kl)
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


def test_head_computes_the_formula() -> None:
    head = BottleneckHead(9, 3)
    features = torch.randn(4, 9)
    with noise_from(streams("a", "b", "c", "d")):
        logits, extra = head.read(features)
    noise = torch.stack([torch.randn(4, generator=stream(0, name)) for name in "abcd"])
    statistics = features @ head.statistics.weight.T + head.statistics.bias
    mu, sigma = statistics[:, :4], torch.log1p(torch.exp(statistics[:, 4:] - 5))
    expected = (mu + sigma * noise) @ head.classify.weight.T + head.classify.bias
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(extra, {"mu": mu, "sigma": sigma})


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet"])
def test_model_is_noisy_at_inference_and_features_are_not(architecture: str) -> None:
    defense = Mid(Mid.Config())
    model = classifier(defense, architecture).eval()
    images, _ = batch(4)
    first, second = model.outputs(images), model.outputs(images)
    assert model.stochastic
    assert not torch.equal(first.logits, second.logits)
    assert torch.equal(first.features, second.features)
    assert first.features.shape == (4, model.feature_size)
    assert first.extra["mu"].shape == (4, model.feature_size // 2)


def test_noise_is_each_rows_own() -> None:
    defense = Mid(Mid.Config())
    model = classifier(defense).eval()
    images, _ = batch(3)
    with noise_from(streams("a", "b", "c")):
        together = model(images)
    with noise_from(streams("c", "a")):
        apart = model(images[[2, 0]])
    torch.testing.assert_close(together[[2, 0]], apart)
    with noise_from(streams("a", "a", "a")):
        other = model(images)
    torch.testing.assert_close(other[0], together[0])
    assert (other[1:] - together[1:]).abs().amax(1).min() > 1e-6


def test_black_box_answers_repeat_with_their_streams() -> None:
    defense = Mid(Mid.Config(beta=1e-2))
    target = BlackBoxTarget(classifier(defense).eval())
    images = batch(3)[0]
    scores = target.scores(images, streams("a", "b", "c"))
    assert torch.equal(scores, target.scores(images, streams("a", "b", "c")))
    assert not torch.allclose(scores, target.scores(images, streams("d", "e", "f")))
    torch.testing.assert_close(scores[1:2], target.scores(images[1:2], streams("b")))
    labels = target.predict(images, streams("a", "b", "c"))
    assert torch.equal(labels, scores.argmax(1))
    assert not torch.equal(target.scores(images), target.scores(images))  # nobody asked
    assert target.queries == 6 * 3 + 1


def test_loss_adds_beta_times_the_mean_kl() -> None:
    images, labels = batch()
    losses = {}
    model = classifier(Mid(Mid.Config())).eval()
    for beta in (0.0, 0.5):
        with noise_from(streams(*range(12))):
            losses[beta] = Mid(Mid.Config(beta=beta)).loss(model, images, labels, STATE)
    with noise_from(streams(*range(12))):
        outputs = model.outputs(images)
    kl = kl_divergence(Normal(outputs.extra["mu"], outputs.extra["sigma"]), Normal(0.0, 1.0))
    torch.testing.assert_close(losses[0.0], F.cross_entropy(outputs.logits, labels))
    torch.testing.assert_close(losses[0.5] - losses[0.0], 0.5 * kl.sum(1).mean())


def test_the_control_trains_the_same_head_without_the_kl() -> None:
    control = trained_weights(Mid(Mid.Config(beta=0)))
    assert torch.equal(control, trained_weights(Mid(Mid.Config()), hooks=Hooks()))


def test_beta_changes_what_is_trained() -> None:
    weights = [trained_weights(Mid(Mid.Config(beta=beta))) for beta in Mid.strengths]
    assert all(not torch.allclose(weights[0], other) for other in weights[1:])


def test_every_parameter_gets_a_gradient() -> None:
    defense = Mid(Mid.Config())
    model = classifier(defense)
    defense.loss(model, *batch(), STATE).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.head.parameters())


def test_kl_alone_drives_the_bottleneck_to_the_prior() -> None:
    head = BottleneckHead(4, 2)
    features, optimizer = torch.randn(16, 4), torch.optim.Adam(head.parameters(), 0.1)
    for _ in range(200):
        _, extra = head.read(features)
        optimizer.zero_grad()
        kl_to_standard_normal(extra["mu"], extra["sigma"]).mean().backward()
        optimizer.step()
    _, extra = head.read(features)
    assert extra["mu"].abs().max() < 0.05
    assert (extra["sigma"] - 1).abs().max() < 0.05


@pytest.mark.parametrize("beta", [-0.1, math.nan, math.inf])
def test_impossible_strengths_are_refused(beta: float) -> None:
    with pytest.raises(ValidationError, match="beta"):
        Mid.Config(beta=beta)


def test_the_deployed_model_can_be_copied_and_restored() -> None:
    defense = Mid(Mid.Config())
    model = classifier(defense).eval()
    restored = defense.built(Classifier("test_resnet", 6, 32)).eval()
    restored.load_state_dict(model.state_dict())
    images, _ = batch(2)
    for other in (restored, copy.deepcopy(model)):
        with noise_from(streams("a", "b")):
            expected = model(images)
        with noise_from(streams("a", "b")):
            torch.testing.assert_close(other(images), expected)


def test_registered_with_a_control() -> None:
    assert DEFENSES.get("mid") is Mid
    assert DEFENSES.get("none") is NoDefense
    assert Mid.strengths[0] == 0
    assert Mid.strength in Mid.Config.model_fields


def test_none_is_the_plain_loop() -> None:
    assert not NoDefense.stochastic
    none = NoDefense(DefenseConfig())
    assert torch.equal(trained_weights(none), trained_weights(none, hooks=Hooks()))
