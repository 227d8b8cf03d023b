"""The general GAN: its losses, what its training shares with other GANs', and every field."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mibench.data.images import ImageSet
from mibench.priors import GanConfig, PriorConfig, PriorJob
from mibench.priors.gan import (
    Gan,
    GanPrior,
    MovingAverage,
    critic_loss,
    gradient_penalty,
    real_batch,
    shuffled_batches,
)
from mibench.progress import SILENT
from mibench.streams import stream

COUNT, SIZE = 21, 8  # 21 images: no batch size of the tests divides them


def faces() -> ImageSet:
    """Three identities told apart by brightness."""
    labels = torch.arange(COUNT) % 3
    noise = torch.randint(0, 40, (COUNT, 3, SIZE, SIZE), generator=stream(0, "faces"))
    images = (noise + 80 * labels[:, None, None, None]).to(torch.uint8)
    return ImageSet(images, labels, ("a", "b", "c"))


def batches(name: str, count: int = 6) -> Tensor:
    return torch.rand(count, 3, 4, 4, generator=stream(0, name))


def test_the_gradient_penalty_of_a_linear_critic() -> None:
    weight = torch.randn(48, generator=stream(0, "weight"))
    found = gradient_penalty(
        lambda images: images.flatten(1) @ weight, batches("real"), batches("fake"), torch.rand(6)
    )
    assert found.item() == pytest.approx((np.linalg.norm(weight.numpy()) - 1) ** 2, rel=1e-5)


def test_the_gradient_penalty_is_taken_between_real_and_fake() -> None:
    """For the critic ½‖x‖² the gradient is x̂ itself."""
    real, fake, mix = batches("real"), batches("fake"), torch.tensor([0, 1, 0.5, 0.2, 0.9, 0.7])
    found = gradient_penalty(lambda x: 0.5 * x.square().sum((1, 2, 3)), real, fake, mix)
    m = mix.numpy()[:, None]
    between = m * real.flatten(1).numpy() + (1 - m) * fake.flatten(1).numpy()
    expected = np.mean((np.linalg.norm(between, axis=1) - 1) ** 2)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_penalty_trains_the_critic() -> None:
    weight = torch.randn(48, generator=stream(0, "weight")).requires_grad_(True)
    penalty = gradient_penalty(
        lambda x: x.flatten(1) @ weight, batches("real"), batches("fake"), torch.rand(6)
    )
    (gradient,) = torch.autograd.grad(penalty, weight)
    norm = weight.detach().norm()
    torch.testing.assert_close(gradient, 2 * (norm - 1) * weight.detach() / norm)


@pytest.mark.parametrize("recipe", ["hinge", "wgan-gp"])
def test_the_critics_losses(recipe: Any) -> None:
    weight = 0.5 * torch.randn(48, generator=stream(0, "weight"))
    critic: Any = lambda images: images.flatten(1) @ weight  # noqa: E731
    real, fake = batches("real"), batches("fake")
    on_real, on_fake = (
        each.flatten(1).numpy().astype(float) @ weight.numpy() for each in (real, fake)
    )
    if recipe == "hinge":
        expected = np.maximum(0, 1 - on_real).mean() + np.maximum(0, 1 + on_fake).mean()
    else:
        penalty = (np.linalg.norm(weight.numpy()) - 1) ** 2
        expected = on_fake.mean() - on_real.mean() + 10 * penalty
    found = critic_loss(recipe, critic, real, fake, torch.rand(6))
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_the_moving_average() -> None:
    module = nn.BatchNorm1d(3)
    average = MovingAverage(module, decay=0.3)
    expected = module.weight.detach().numpy().copy()
    for step in range(1, 9):
        with torch.no_grad():
            module.weight.add_(step)
            module.running_mean.add_(step)  # type: ignore[union-attr]
        average.update(module)
        decay = min(0.3, step / (step + 10))
        expected = decay * expected + (1 - decay) * module.weight.detach().numpy()
        np.testing.assert_allclose(average.average.weight, expected, rtol=1e-5)
        assert torch.equal(average.average.running_mean, module.running_mean)
    assert not average.average.weight.requires_grad


def test_shuffled_batches_visit_every_image_of_an_epoch_once() -> None:
    taken = shuffled_batches(10, 3, stream(0, "batches"))
    for _ in range(3):
        epoch = torch.cat([next(taken) for _ in range(3)])
        assert len(set(epoch.tolist())) == 9
    assert len(next(shuffled_batches(4, 9, stream(0, "few")))) == 4


def test_flips_mirror_about_half_of_the_images() -> None:
    images = batches("flip", 1).repeat(100, 1, 1, 1)
    whole = ImageSet((images * 255).byte(), torch.zeros(100, dtype=torch.long), ("a",))
    images, index = whole.images / 255, torch.arange(100)
    still = real_batch(dataclasses.replace(whole, mirror=False), index, stream(0, "flips"))
    assert torch.equal(still, images)
    flipped = real_batch(whole, index, stream(0, "flips"))
    mirrored = [torch.equal(one, images[0].flip(2)) for one in flipped]
    same = [torch.equal(one, images[0]) for one in flipped]
    assert sum(mirrored) + sum(same) == 100
    assert 30 < sum(mirrored) < 70


GAN: dict[str, Any] = {
    "steps": 4,
    "batch_size": 6,
    "latent": 5,
    "generator_width": 2,
    "critic_width": 2,
    "learning_rate": 1e-3,
}


def trained(public: ImageSet, seed: int = 0, **fields: Any) -> GanPrior:
    config = PriorConfig(gan=GanConfig(**{**GAN, **fields}))
    job = PriorJob(public, lambda: pytest.fail("it is"), None, stream(seed, "gan"), SILENT)
    return Gan(config).train(job)


def weights(seed: int = 0, **fields: Any) -> Tensor:
    prior = trained(faces(), seed, **fields)
    assert not any(each.training for each in prior.modules())
    hinge = fields.get("recipe", "hinge") == "hinge"
    assert prior.critic.config["norm"] == ("none" if hinge else "instance")
    with torch.no_grad():
        pictures = prior.images(torch.randn(3, prior.size))
        assert torch.isfinite(prior.realism(pictures)).all()
    assert pictures.shape == (3, 3, SIZE, SIZE)
    return torch.cat([each.detach().reshape(-1) for each in prior.parameters()])


@pytest.mark.parametrize("recipe", ["hinge", "wgan-gp"])
def test_both_recipes_train_and_the_seed_alone_decides(recipe: str) -> None:
    first = weights(recipe=recipe)
    assert torch.isfinite(first).all()
    torch.rand(3)
    assert torch.equal(first, weights(recipe=recipe))
    assert not torch.allclose(first, weights(seed=1, recipe=recipe))


GAN_CHANGES: list[dict[str, Any]] = [
    {"recipe": "wgan-gp"},
    {"steps": 5},
    {"batch_size": 4},
    {"critic_steps": 2},
    {"learning_rate": 2e-3},
    {"beta1": 0.1},
    {"ema": 0.1},
    {"architecture": "gmi", "recipe": "wgan-gp"},
    {"schedule": "constant"},
    {"mirror": False},
    {"latent": 6},
    {"generator_width": 3},
    {"critic_width": 3},
]


@pytest.mark.parametrize("change", GAN_CHANGES, ids=str)
def test_every_gan_field_changes_the_result(change: dict[str, Any]) -> None:
    before, after = weights(), weights(**change)
    assert before.shape != after.shape or (before - after).abs().max() > 1e-6


def test_every_gan_field_is_in_the_list_above() -> None:
    assert {name for change in GAN_CHANGES for name in change} == set(GanConfig.model_fields)


def test_a_gan_learns_the_brightness_of_its_images() -> None:
    """Dark images: a generator that learned nothing draws gray ones."""
    images = torch.randint(0, 40, (32, 3, SIZE, SIZE), generator=stream(0, "d")).to(torch.uint8)
    dark = ImageSet(images, torch.zeros(32, dtype=torch.long), ("dark",))
    prior = trained(dark, steps=150, batch_size=16, critic_width=4, ema=0.5)
    with torch.no_grad():
        assert prior.images(torch.randn(64, 5)).mean() < 0.35
