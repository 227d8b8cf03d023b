"""LOKT's search: steps of Adam on the mean of its surrogates, and nothing asked of the target."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mibench.attacks.lokt import Lokt
from mibench.data.views import Views
from mibench.inversion.attack import Problem
from mibench.inversion.identity import IdentityConfig, IdentityLoss
from mibench.models.classifiers import Outputs
from mibench.priors import Prior, conditional_gan
from tests.kit.problems import reconstruct, tiny_problem

CLASSES = 3


class Shades(Prior):
    """Images of one grey each: σ(z + y) for a latent z and a label y."""

    size, classes = 1, CLASSES

    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        shade = (latents + labels[:, None]).sigmoid()[:, :, None, None]
        return shade.expand(-1, 3, 32, 32)

    def description(self) -> dict[str, object]:
        return {}


def grey(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))[:, None]


def first(images: Tensor) -> Outputs:
    """Logits 0, x and 2x."""
    return Outputs(grey(images) * torch.tensor([0.0, 1.0, 2.0]), grey(images))


def second(images: Tensor) -> Tensor:
    """Logits x, −x and 0."""
    return grey(images) * torch.tensor([1.0, -1.0, 0.0])


def problem(labels: tuple[int, ...] = (0, 1, 2), samples: int = 1) -> Problem:
    loss = IdentityLoss(first, [second], IdentityConfig(objective="max-margin"))
    made = tiny_problem(Lokt, labels=labels, samples=samples)
    return replace(made, prior=Shades(), identity_loss=loss)


@pytest.fixture(autouse=True)
def _the_image_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional_gan, "CROP", Views(scale=(1, 1)))
    monkeypatch.setattr(conditional_gan, "JITTER", 0.0)


@pytest.mark.parametrize("augmentations", [1, 2])
def test_steps_are_adams_on_the_margins_of_the_surrogates_mean(augmentations: int) -> None:
    """By hand: of the first, margins are 2x, x and −x; of the second −x, 2x and x: x, 3x, 0."""
    given = problem()
    attack = Lokt(Lokt.Config(iterations=2, learning_rate=0.5, augmentations=augmentations))
    found = reconstruct(attack, given)[:, 0, 0, 0, 0]
    y = torch.arange(3.0)
    z, m, v = given.starts(1).flatten(), torch.zeros(3), torch.zeros(3)
    for step in (1, 2):
        x = (z + y).sigmoid()
        slope = augmentations * torch.tensor([1.0, 3.0, 0.0]) / 2 * x * (1 - x)
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        z = z - 0.5 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    torch.testing.assert_close(found, (z + y).sigmoid(), rtol=1e-4, atol=1e-5)


def test_it_asks_the_target_nothing() -> None:
    given = problem(samples=2)
    reconstruct(Lokt(Lokt.Config(iterations=3)), given)
    assert given.target.queries == 0


def test_latents_go_where_they_want_to() -> None:
    """The released code's clamp is commented out: nothing keeps them near 0."""
    given = problem(labels=(1,))
    found = reconstruct(Lokt(Lokt.Config(iterations=60, learning_rate=1.0)), given)
    assert found.max() < 1e-3  # z + 1 < −6


def test_its_views_are_in_memory_at_once() -> None:
    attack = Lokt(Lokt.Config(max_rows=20))
    assert attack.rows_per_identity(5) == 10
    assert attack.chunk(5) == 2
