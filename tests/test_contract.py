"""What every registered attack must keep, whoever wrote it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import BaseModel

from mibench.inversion.attack import ATTACKS, Attack
from mibench.types import AttackCard
from tests.kit.problems import CLASSES, tiny_problem

ATTACK_NAMES = ATTACKS.names()


def described(config: type[BaseModel], where: str) -> None:
    """Every field of a configuration says what it means, nested ones too."""
    for name, field in config.model_fields.items():
        assert field.description, f"{where}.{name} needs a description"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            described(field.annotation, f"{where}.{name}")


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
