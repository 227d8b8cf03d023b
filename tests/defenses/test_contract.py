"""What every registered defense must keep, whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

import mibench
from mibench.data.images import ImageSet, to_float
from mibench.inversion.attack import ATTACKS
from mibench.models.classifiers import Classifier, predict
from mibench.names import AttackName
from mibench.protocols import PROTOCOLS, Protocol
from mibench.streams import RowStreams, noise_from, seeded, stream
from mibench.training.defense import DEFENSES, Defense
from mibench.training.loop import TrainingConfig, train
from mibench.types import DefenseCard
from tests.kit.cells import bench, graph
from tests.kit.training import job

NAMES = DEFENSES.names()
CPU = torch.device("cpu")
# Settings of a defense that fits something for long after the training, which no contract needs.
QUICK: dict[str, dict[str, Any]] = {"purifier": {"steps": 20}}


def described(config: type[BaseModel], where: str) -> None:
    """Every field of a configuration says what it means, nested ones too."""
    for name, field in config.model_fields.items():
        assert field.description, f"{where}.{name} needs a description"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            described(field.annotation, f"{where}.{name}")


def private(count: int = 32, classes: int = 4) -> ImageSet:
    """Small private data: each identity a colour, with noise."""
    generator = stream(0, "private")
    labels = torch.arange(count) % classes
    colours = torch.rand(classes, 3, 1, 1, generator=generator)[labels]
    images = (colours + 0.1 * torch.randn(count, 3, 32, 32, generator=generator)).clamp(0, 1)
    return ImageSet((images * 255).to(torch.uint8), labels, tuple("abcdefgh"[:classes]))


def trained(name: str, seed: int = 0, **settings: Any) -> tuple[Defense[Any], Classifier]:
    """A defense's target after two epochs."""
    cls = DEFENSES.get(name)
    defense = cls(cls.Config(**{**QUICK.get(name, {}), **settings}))
    with seeded(seed):
        model = defense.built(Classifier("test_resnet", 4, 32))
    fields = {"epochs": 2, "batch_size": 16, **cls.training}
    config = TrainingConfig(**{**fields, "epochs": 2, "batch_size": 16})
    given = job(
        private(), config, model, stream(seed, "contract"), val=private(8), public=private()
    )
    assert train(given, defense).diverged is None
    return defense, given.model


@pytest.mark.parametrize("name", NAMES)
def test_defense_card_and_config(name: str) -> None:
    cls = DEFENSES.get(name)
    assert isinstance(cls.card, DefenseCard)
    assert cls.card.kind is not None or name == "none"
    assert cls.card.adaptive_attack or cls.card.adaptive_note
    if cls.card.adaptive_attack:
        attack = AttackName.parse(cls.card.adaptive_attack)
        assert attack.base in ATTACKS.names()
    described(cls.Config, name)
    if cls.strength is not None:
        assert cls.strength in cls.Config.model_fields
        assert cls.strengths[0] == 0, "the control comes first"
        assert len(cls.strengths) >= 4
        for strength in cls.strengths:
            cls.Config(**{cls.strength: strength})


@pytest.mark.parametrize("name", [n for n in NAMES if DEFENSES.get(n).card.undefended_control])
def test_an_undefended_control_is_what_none_trains(name: str) -> None:
    """From the same random numbers, to the last bit; and no card gives it a training of its own."""
    cls = DEFENSES.get(name)
    assert cls.strength is not None
    assert not cls.training
    _, control = trained(name, **{cls.strength: 0})
    _, plain = trained("none")
    weights, its = plain.state_dict(), control.state_dict()
    assert list(weights) == list(its)
    assert all(torch.equal(weights[key], its[key]) for key in weights)
    for protocol in PROTOCOLS.values():
        own = protocol.defenses.get(name, {})
        assert not [path for path in own if path.startswith("target.")], protocol.name


@pytest.mark.parametrize("name", NAMES)
def test_defense_trains_and_deploys(name: str) -> None:
    defense, model = trained(name)
    data = private()
    logits, features = predict(model, data.images)
    assert logits.shape == (32, 4)
    assert torch.isfinite(logits).all()
    assert features.shape == (32, model.feature_size)
    assert not model.training
    assert model.stochastic == defense.stochastic
    guarantee = defense.guarantee()
    assert bool(guarantee) == (defense.card.privacy_unit is not None)
    if guarantee:
        assert 0 < guarantee["epsilon"] < float("inf")
        assert 0 < guarantee["delta"] < 1


@pytest.mark.parametrize("name", NAMES)
def test_defense_is_rebuilt_from_its_tensors(name: str) -> None:
    """What the store keeps, built() on a fresh model and the tensors, is the deployed model."""
    defense, model = trained(name)
    cls = type(defense)
    again = cls(defense.config).built(Classifier("test_resnet", 4, 32)).eval()
    again.load_state_dict(model.state_dict())
    assert again.stochastic == model.stochastic
    images = to_float(private().images[:6])
    for each in (model, again):
        assert not any(m._forward_hooks or m._backward_hooks for m in each.modules())
    results = []
    for each in (model, again):
        with noise_from(RowStreams([stream(0, i) for i in range(6)], CPU)):
            results.append(each(images))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", NAMES)
def test_defense_can_be_attacked(name: str) -> None:
    """Outputs are differentiable in the images, and noise is a row's own.

    Whoever would follow gradients takes a filter of answers off: it needs none.
    """
    defense, model = trained(name)
    images = to_float(private().images[:4]).requires_grad_(True)

    def run(rows: list[int]) -> Tensor:
        with noise_from(RowStreams([stream(0, i) for i in rows], CPU)):
            return model(images[rows])

    together, alone = run([0, 1, 2, 3]), run([2])
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-5)
    if defense.filters():
        return
    together.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_defense_is_deterministic_in_its_seed(name: str) -> None:
    (_, one), (_, same), (_, other) = trained(name), trained(name), trained(name, seed=1)
    states = [
        torch.cat([v.flatten().float() for v in m.state_dict().values()])
        for m in (one, same, other)
    ]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("name", [n for n in NAMES if DEFENSES.get(n).strength])
def test_the_control_switches_the_defense_off(name: str) -> None:
    strength = DEFENSES.get(name).strength
    assert strength is not None
    (control_defense, control), (_, default) = trained(name, **{strength: 0}), trained(name)
    assert not control_defense.guarantee(), "a control protects nothing"
    images = private().images
    (logits, features), (others, theirs) = (predict(each, images) for each in (control, default))
    filters = control_defense.filters()
    assert torch.equal(features, theirs) == filters, "a filter changes answers alone"
    assert not torch.equal(logits, others)
    if filters:
        assert torch.equal(logits, control.head.read(features)[0]), "a control that is none"


FITTED = """
import torch
from torch import nn

from mibench.models.classifiers import predict
from mibench.training.defense import Defense
from mibench.types import DefenseCard


class Standardised(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.register_buffer("mean", torch.zeros(classes))
        self.register_buffer("deviation", torch.ones(classes))

    def forward(self, logits):
        return (logits - self.mean) / self.deviation


class Equal(Defense):
    card = DefenseCard(
        title="Every class is answered equally often and surely",
        authors="nobody",
        year=2024,
        venue="tests",
        url="https://example.org",
        adaptive_note="none needed",
    )

    def build(self, model):
        model.output = Standardised(model.classes)
        return model

    def finish(self, job):
        logits = predict(job.model, job.val.images)[0]
        job.model.output.mean.copy_(logits.mean(0))
        job.model.output.deviation.copy_(logits.std(0))
"""


def test_what_finish_fits_is_stored_and_attacked(tiny: Protocol, tmp_path: Path) -> None:
    """A defense of one file, whose output filter is fitted on the validation images."""
    path = tmp_path / "equal.py"
    path.write_text(FITTED)
    request: dict[str, Any] = {"protocol": "tiny", "attack": "gmi", "defense": f"{path}:Equal"}
    places = {"store": tmp_path / "store", "device": "cpu"}
    first = mibench.run(**request, **places, out=tmp_path / "first")
    again = mibench.run(**request, **places, out=tmp_path / "again")
    assert all(cost.cached for cost in again.costs)
    assert first.metrics == again.metrics
    made, place = graph(**request), bench(places["store"])
    trained, images = place.get(made.target), place.get(made.images).val.images
    target = trained.model
    logits, features = predict(target, images)
    assert not place.computed
    torch.testing.assert_close(logits.mean(0), torch.zeros(5), rtol=0, atol=1e-4)
    torch.testing.assert_close(logits.std(0), torch.ones(5), rtol=0, atol=1e-4)
    assert (target.head(features).std(0) - 1).abs().min() > 0.1  # and not by chance
    attacked = predict(trained.frozen, images)[0]
    torch.testing.assert_close(attacked, logits, rtol=1e-3, atol=1e-3)
