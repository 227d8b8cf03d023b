"""LOKT's T-ACGAN: its losses, whom it asks how often, and that it learns what it is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from mibench.data.images import ImageSet
from mibench.models.access import TargetAccess
from mibench.models.classifiers import Classifier
from mibench.priors import GanConfig, PriorJob
from mibench.priors._networks import Critic, Generator
from mibench.priors.gan import GanPrior
from mibench.priors.t_acgan import (
    Discriminator,
    TAcgan,
    TAcganPrior,
    discriminator_loss,
    generator_loss,
)
from mibench.progress import SILENT
from mibench.streams import seeded, stream
from tests.kit.problems import CLASSES, public_images


def test_the_discriminators_loss_by_hand() -> None:
    """σ(0) = 1/2, σ(ln 3) = 3/4; of two classes with logits 0 and ln 3 the first has 1/4."""
    ln = torch.tensor([2.0, 3.0, 4.0]).log()
    real = torch.stack([torch.tensor(0.0), ln[1]])  # −log 1/2, −log 3/4
    fake = torch.stack([torch.tensor(0.0), ln[1]])  # −log 1/2, −log 1/4
    told = torch.stack([torch.stack([torch.tensor(0.0), ln[1]])] * 2)
    answered = torch.tensor([0, 1])  # −log 1/4, −log 3/4
    bce = (ln[0] + (ln[2] - ln[1])) / 2 + (ln[0] + ln[2]) / 2
    ce = (ln[2] + (ln[2] - ln[1])) / 2
    for weight in (0.0, 1.5):
        found = discriminator_loss(real, fake, told, answered, weight)
        torch.testing.assert_close(found, bce + weight * ce)


def test_the_generators_loss_by_hand() -> None:
    ln = torch.tensor([2.0, 3.0, 4.0]).log()
    fake = torch.stack([torch.tensor(0.0), ln[1]])  # it fools at 1/2 and at 3/4
    told = torch.stack([torch.stack([torch.tensor(0.0), ln[1]])] * 2)
    bce = (ln[0] + (ln[2] - ln[1])) / 2
    for weight in (0.0, 1.5):
        found = generator_loss(fake, told, torch.tensor([0, 0]), weight)
        torch.testing.assert_close(found, bce + weight * ln[2])


class Asked(TargetAccess):
    """Keeps the images that it is asked about, and says of each whether it is light."""

    def __init__(self) -> None:
        super().__init__(Classifier("test_resnet", CLASSES, 32))
        self.seen: list[Tensor] = []

        def predict(images: Tensor) -> Tensor:
            self.queries += len(images)
            self.seen.append(images)
            return (images.mean((1, 2, 3)) > 0.5).long()

        self._predict = predict


def general() -> GanPrior:
    with seeded(0):
        return GanPrior(Generator(32, 16, 2), Critic(32, 4)).eval()


def train(public: ImageSet | None = None, **fields: Any) -> tuple[TAcganPrior, Asked]:
    settings = {"start": True, "warmup": 2, "steps": 3, "batch_size": 8, **fields}
    config = TAcgan.Config(gan=GanConfig(latent=16), **settings)
    target = Asked()
    job = PriorJob(public or public_images(), general, target, stream(0, "prior"), SILENT)
    return TAcgan(config).train(job), target


def test_the_target_is_asked_about_each_fake_that_the_discriminator_sees_after_the_warmup() -> None:
    _, target = train(warmup=2, steps=3, critic_steps=4, batch_size=8)
    assert target.queries == 3 * 4 * 8
    assert all(each.shape == (8, 3, 32, 32) for each in target.seen)
    assert not any(each.requires_grad for each in target.seen)
    assert min(each.min() for each in target.seen) >= 0
    assert max(each.max() for each in target.seen) <= 1
    _, target = train(warmup=0, steps=1, critic_steps=1, batch_size=64)
    assert target.queries == len(public_images()), "no batch is larger than the public images"


def test_without_the_losses_of_identities_the_target_has_no_say() -> None:
    """The warm-up alone is the same prior, whatever the labels would have been."""
    first, _ = train(warmup=3, steps=1, identity_weight=0.0)
    other, _ = train(warmup=1, steps=3, identity_weight=0.0)
    for one, two in zip(first.tensors().values(), other.tensors().values(), strict=True):
        assert torch.equal(one, two)
    told, _ = train(warmup=1, steps=3, identity_weight=1.5)
    assert not torch.equal(
        told.tensors()["discriminator.identity.weight"],
        other.tensors()["discriminator.identity.weight"],
    )


def test_its_head_learns_the_targets_labels_and_the_generator_what_the_head_says() -> None:
    """Of two labels that the target gives by a rule of its own."""
    prior, target = train(warmup=0, steps=90, batch_size=16, learning_rate=2e-3)
    z = torch.randn(200, prior.size, generator=stream(0, "z"))
    with torch.no_grad():
        y = torch.arange(200) % 2
        images = prior.images(z, y)
        answered = target.predict(images)
        assert (prior.logits(images).argmax(1) == answered).float().mean() > 0.9
        assert (answered == y).float().mean() > 0.8


def test_it_starts_as_the_general_prior_without_identities() -> None:
    prior = general()
    critic = Discriminator.started(prior.critic, CLASSES).eval()
    images = public_images().images / 255
    with torch.no_grad():
        torch.testing.assert_close(critic(images)[0], prior.realism(images), rtol=1e-3, atol=1e-3)


def test_its_heads_have_no_spectral_norm_and_what_is_kept_has_none_at_all() -> None:
    with seeded(0):
        critic = Discriminator(32, CLASSES, 2)
    assert any(is_parametrized(each) for each in critic.trunk.modules())
    assert not is_parametrized(critic.real)
    assert not is_parametrized(critic.identity)
    prior, _ = train(start=False, latent=8, generator_width=2, critic_width=2)
    assert not any(is_parametrized(each) for each in prior.modules())
    assert prior.generator.config["architecture"] == "plg"
    assert prior.size == 8


@pytest.mark.parametrize("start", [True, False])
def test_its_recipe_says_where_it_starts(start: bool) -> None:
    recipe = TAcgan(TAcgan.Config(start=start)).recipe()
    assert recipe.endswith("from the general prior" if start else "from scratch")
