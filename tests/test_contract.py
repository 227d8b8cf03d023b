"""What every registered attack and defense must keep, whoever wrote it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import BaseModel

from mibench.data.images import ImageSet
from mibench.inversion.attack import ATTACKS, Attack
from mibench.models.classifiers import Classifier, predict
from mibench.progress import SILENT
from mibench.streams import RowStreams, noise_from, stream
from mibench.training.defense import DEFENSES, Defense
from mibench.training.loop import TrainingConfig, train_classifier
from mibench.types import AttackCard, DefenseCard
from tests.kit.problems import CLASSES, tiny_problem

DEFENSE_NAMES = DEFENSES.names()
ATTACK_NAMES = ATTACKS.names()


def described(config: type[BaseModel], where: str) -> None:
    """Every field of a configuration says what it means, nested ones too."""
    for name, field in config.model_fields.items():
        assert field.description, f"{where}.{name} needs a description"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            described(field.annotation, f"{where}.{name}")


# --- defenses -------------------------------------------------------------------------------------


def private(count: int = 32, classes: int = 4) -> ImageSet:
    """Small private data: each identity a colour, with noise."""
    generator = stream(0, "private")
    labels = torch.arange(count) % classes
    colours = torch.rand(classes, 3, 1, 1, generator=generator)[labels]
    images = (colours + 0.1 * torch.randn(count, 3, 32, 32, generator=generator)).clamp(0, 1)
    return ImageSet((images * 255).to(torch.uint8), labels, tuple("abcdefgh"[:classes]))


def trained(name: str, seed: int = 0, **settings: Any) -> tuple[Defense, Classifier]:
    """A defense's target after two epochs."""
    cls = DEFENSES.get(name)
    defense = cls(cls.Config(**settings))
    torch.manual_seed(seed)
    model = defense.prepare(Classifier("test_resnet", 4, 32))
    fields = {"epochs": 2, "batch_size": 16, **cls.training}
    config = TrainingConfig(**{**fields, "epochs": 2, "batch_size": 16})
    generator = stream(seed, "contract")
    model, result = train_classifier(model, private(), config, generator, SILENT, defense)
    assert result.diverged is None
    return defense, defense.deploy(model)


@pytest.mark.parametrize("name", DEFENSE_NAMES)
def test_defense_card_and_config(name: str) -> None:
    cls = DEFENSES.get(name)
    assert isinstance(cls.card, DefenseCard)
    assert cls.card.adaptive_attack
    described(cls.Config, name)
    if cls.strength is not None:
        assert cls.strength in cls.Config.model_fields
        assert cls.strengths[0] == 0, "the control comes first"
        assert len(cls.strengths) >= 4
        for strength in cls.strengths:
            cls.Config(**{cls.strength: strength})


@pytest.mark.parametrize("name", DEFENSE_NAMES)
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


@pytest.mark.parametrize("name", DEFENSE_NAMES)
def test_defense_is_rebuilt_from_its_tensors(name: str) -> None:
    """What the store keeps, prepare() on a fresh model and the tensors, is the deployed model."""
    defense, model = trained(name)
    cls = type(defense)
    fresh = cls(defense.config)
    again = fresh.prepare(Classifier("test_resnet", 4, 32))
    again.load_state_dict(model.state_dict())
    again = fresh.deploy(again).eval()
    images = private().images[:6].float() / 255
    for each in (model, again):
        assert not any(m._forward_hooks or m._backward_hooks for m in each.modules())
    results = []
    for each in (model, again):
        with noise_from(RowStreams([stream(0, i) for i in range(6)], torch.device("cpu"))):
            results.append(each(images))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", DEFENSE_NAMES)
def test_defense_can_be_attacked(name: str) -> None:
    """Outputs are differentiable in the images, and noise is a row's own."""
    _, model = trained(name)
    images = (private().images[:4].float() / 255).requires_grad_(True)

    def run(rows: list[int]) -> torch.Tensor:
        with noise_from(RowStreams([stream(0, i) for i in rows], torch.device("cpu"))):
            return model(images[rows])

    together, alone = run([0, 1, 2, 3]), run([2])
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-5)
    together.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("name", DEFENSE_NAMES)
def test_defense_is_deterministic_in_its_seed(name: str) -> None:
    (_, one), (_, same), (_, other) = trained(name), trained(name), trained(name, seed=1)
    states = [
        torch.cat([v.flatten().float() for v in m.state_dict().values()])
        for m in (one, same, other)
    ]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("name", [n for n in DEFENSE_NAMES if DEFENSES.get(n).strength])
def test_the_control_switches_the_defense_off(name: str) -> None:
    strength = DEFENSES.get(name).strength
    assert strength is not None
    (control_defense, control), (_, default) = trained(name, **{strength: 0}), trained(name)
    assert not control_defense.guarantee(), "a control protects nothing"
    images = private().images
    assert not torch.equal(predict(control, images)[1], predict(default, images)[1])


# --- attacks --------------------------------------------------------------------------------------


def short(cls: type[Attack]) -> Attack:
    """An attack cut to a few steps, if it has steps."""
    fields = cls.Config.model_fields
    return cls(cls.Config(**({"iterations": 3} if "iterations" in fields else {})))


def problem(cls: type[Attack], **options: Any) -> Any:
    """A tiny problem; an attack with a prior of its own kind gets a critic with classes."""
    return tiny_problem(cls, critic_classes=CLASSES if cls.own_prior() else 0, **options)


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_attack_card_and_config(name: str) -> None:
    cls = ATTACKS.get(name)
    assert isinstance(cls.card, AttackCard)
    assert cls.card.prior_recipe
    described(cls.Config, name)


@pytest.mark.parametrize("name", ATTACK_NAMES)
@pytest.mark.parametrize("objective", ["cross-entropy", "logit"])
@pytest.mark.parametrize("students", [0, 1])
def test_attack_returns_images(name: str, objective: str, students: int) -> None:
    cls = ATTACKS.get(name)
    images = short(cls)(problem(cls, objective=objective, students=students))
    assert images.shape == (3, 2, 3, 32, 32)
    assert 0 <= images.min() <= images.max() <= 1
    assert not images.requires_grad


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_identities_are_independent(name: str) -> None:
    cls = ATTACKS.get(name)
    together = short(cls)(problem(cls, labels=(0, 1, 2)))
    alone = short(cls)(problem(cls, labels=(1,)))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_identities_start_apart_and_seeds_matter(name: str) -> None:
    cls = ATTACKS.get(name)
    first, same, other = (short(cls)(problem(cls, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0, 0], first[0, 1])


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_only_latents_get_gradients(name: str) -> None:
    cls = ATTACKS.get(name)
    given = problem(cls, students=1)
    short(cls)(given)
    target, loss = given.white_box()
    networks = [target.model, *loss.students, given.prior.generator, given.prior.critic]
    for network in networks:
        for parameter in network.parameters():
            assert parameter.grad is None
            assert not parameter.requires_grad
    assert target.queries >= 3 * 3, "queries are counted"
