"""What every registered kind of prior must keep, whoever wrote it."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from mibench.errors import MibenchError
from mibench.models.access import ACCESS
from mibench.priors import PRIORS, GanConfig, Prior, PriorConfig, PriorJob, PriorKind
from mibench.progress import SILENT
from mibench.streams import RowStreams, stream
from tests.kit.problems import CLASSES, CPU, RESOLUTION, public_images, tiny_classifier, tiny_prior

NAMES = PRIORS.names()
SMALL = GanConfig(steps=3, batch_size=8, latent=16, generator_width=2, critic_width=4)


def kind_of(name: str) -> PriorKind[Any]:
    """A kind cut to a few steps, if it has steps, on small networks."""
    cls = PRIORS.get(name)
    few = {"steps": 4, "warmup": 1, "start": True}
    fields = {name: few[name] for name in few.keys() & cls.Config.model_fields.keys()}
    return cls(cls.Config.model_validate({"gan": SMALL.model_dump(), **fields}))


def train(name: str, seed: int = 0, target: int = 0) -> Prior:
    kind, base = kind_of(name), train("gan", seed) if name != "gan" else tiny_prior()
    seen = ACCESS[kind.needs](tiny_classifier(seed=target)) if kind.needs else None
    return kind.train(PriorJob(public_images(), lambda: base, seen, stream(seed, "prior"), SILENT))


@cache
def trained(name: str) -> Prior:
    return train(name)


def latents(prior: Prior, rows: int = 5) -> Tensor:
    return prior.latents(RowStreams([stream(0, row) for row in range(rows)], CPU))


def images_of(prior: Prior, rows: Tensor) -> Tensor:
    """Images of latents; of a prior of identities, of the second one."""
    if prior.classes is None:
        return prior.images(rows)
    return prior.images(rows, torch.ones(len(rows), dtype=torch.long))


def described(config: type[BaseModel], where: str) -> None:
    for name, field in config.model_fields.items():
        assert field.description, f"{where}.{name} needs a description"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            described(field.annotation, f"{where}.{name}")


@pytest.mark.parametrize("name", NAMES)
def test_what_a_kind_says_of_itself(name: str) -> None:
    cls = PRIORS.get(name)
    assert cls.title
    assert kind_of(name).recipe()
    assert cls.needs is None or cls.needs in ACCESS
    assert issubclass(cls.Config, PriorConfig)
    described(cls.Config, name)


@pytest.mark.parametrize("name", NAMES)
def test_it_draws_images(name: str) -> None:
    prior = trained(name)
    assert not any(each.training for each in prior.modules())
    with torch.no_grad():
        images = images_of(prior, latents(prior))
        assert images.shape == (5, 3, RESOLUTION, RESOLUTION)
        assert images.min() >= 0
        assert images.max() <= 1
        assert (images[0] - images[1]).abs().max() > 0
        if PRIORS.get(name).scores_realism:
            assert prior.realism(images).shape == (5,)
        else:
            with pytest.raises(MibenchError, match="does not score how real images look"):
                prior.realism(images)


@pytest.mark.parametrize("name", NAMES)
def test_a_prior_of_identities_is_told_which(name: str) -> None:
    prior = trained(name)
    assert PRIORS.get(name).of_identities == (prior.classes is not None)
    if prior.classes is None:
        pytest.skip("it knows no labels")
    assert prior.classes == CLASSES
    with pytest.raises(MibenchError, match=f"`{name}` makes images of identities"):
        prior.images(latents(prior))


@pytest.mark.parametrize("name", NAMES)
def test_each_row_is_its_own(name: str) -> None:
    """Latents come from the row's stream; images and realism are of the row's latent alone."""
    prior = trained(name)
    together = latents(prior)
    assert together.shape == (5, prior.size)
    alone = prior.latents(RowStreams([stream(0, 2)], CPU))
    assert torch.equal(together[2:3], alone)
    streams = RowStreams([stream(0, row) for row in range(5)], CPU)
    assert prior.latents(streams, 3).shape == (5, 3, prior.size)
    with torch.no_grad():
        images = images_of(prior, together)
        torch.testing.assert_close(images[2:3], images_of(prior, alone), rtol=1e-4, atol=1e-5)
        if PRIORS.get(name).scores_realism:
            own = prior.realism(images[2:3])
            torch.testing.assert_close(prior.realism(images)[2:3], own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_loaded_as_it_was_stored(name: str) -> None:
    prior, cls = trained(name), PRIORS.get(name)
    description = prior.description()
    again = cls.load({**description, "recipe": "of an older release", "notes": {}}, prior.tensors())
    assert again.description() == description
    assert not any(each.training for each in again.modules())
    with torch.no_grad():
        images = images_of(prior, latents(prior))
        assert torch.equal(images_of(again, latents(again)), images)
        if cls.scores_realism:
            assert torch.equal(again.realism(images), prior.realism(images))


@pytest.mark.parametrize("name", NAMES)
def test_what_an_attack_gets_is_frozen(name: str) -> None:
    prior = trained(name)
    before = prior.tensors()
    frozen = prior.frozen(public_images().images[:2] / 255)
    assert not any(each.training for each in frozen.modules())
    rows = latents(frozen).requires_grad_(True)
    images = images_of(frozen, rows)
    scores = frozen.realism(images) if PRIORS.get(name).scores_realism else torch.zeros(1)
    (images.sum() + scores.sum()).backward()
    assert rows.grad is not None
    assert (rows.grad.abs().sum(1) > 0).all()
    assert not any(each.requires_grad or each.grad is not None for each in frozen.parameters())
    with torch.no_grad():
        torch.testing.assert_close(images, images_of(prior, rows), rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in prior.tensors().items())


def same(one: Prior, other: Prior) -> bool:
    pairs = zip(one.tensors().values(), other.tensors().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_and_the_target_only_where_it_is_needed(name: str) -> None:
    assert same(trained(name), train(name))
    assert not same(trained(name), train(name, seed=1))
    assert same(trained(name), train(name, target=1)) == (PRIORS.get(name).needs is None)
