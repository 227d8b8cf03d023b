"""PLG-MI's second stage against its steps computed by hand: Adam on the sum over views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mibench.attacks.plg_mi import PlgMi
from mibench.cell.request import Request
from mibench.cell.resolve import resolve
from mibench.data.views import Views
from mibench.inversion.attack import Problem
from mibench.inversion.identity import IdentityLoss
from mibench.priors import Prior, conditional_gan
from mibench.streams import RowStreams, stream
from tests.kit.problems import CLASSES, reconstruct, tiny_problem

Array = NDArray[np.float64]
SIZE, LATENTS, LABELS, SAMPLES = 4, 3, (2, 0), 2
PIXELS = 3 * SIZE * SIZE


def numbers(name: str, *shape: int) -> Array:
    drawn: Array = torch.randn(*shape, generator=stream(0, "plg", name)).double().numpy()
    return drawn


# A picture is .5 + .02·(A z + b_y): so near to gray that nothing is clipped.
MATRIX, OF_CLASS = numbers("A", LATENTS, PIXELS), numbers("b", CLASSES, PIXELS)
CENTRES = 0.5 + 0.1 * numbers("c", CLASSES, PIXELS)


class LinearPrior(Prior):
    """Pictures of a class that are linear in three latents."""

    size, classes = LATENTS, CLASSES

    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        own = torch.tensor(OF_CLASS).float()[labels]
        return (0.5 + 0.02 * (latents @ torch.tensor(MATRIX).float() + own)).view(-1, 3, SIZE, SIZE)

    def description(self) -> dict[str, Any]:
        return {}


class Squares(IdentityLoss):
    """½‖x − c_y‖², whose gradient is x − c_y."""

    def __init__(self) -> None:
        pass

    def __call__(self, images: Tensor, labels: Tensor, streams: RowStreams) -> Tensor:
        return (images.flatten(1) - torch.tensor(CENTRES).float()[labels]).square().sum(1) / 2


def linear_problem() -> Problem:
    made = tiny_problem(PlgMi, LABELS, SAMPLES)
    return replace(made, prior=LinearPrior(), identity_loss=Squares())


def jittered(x: Array, draws: Array) -> tuple[Array, Array]:
    """A picture ``(3, pixels)`` jittered with p = 1, and the linear map that does it."""
    _, brightness, contrast = draws
    b, c = 1 + 0.2 * (2 * brightness - 1), 1 + 0.2 * (2 * contrast - 1)
    flat = SIZE * SIZE
    gray = np.kron(np.array([[0.299, 0.587, 0.114]]), np.full((1, flat), 1 / flat))
    whole = b * (c * np.eye(PIXELS) + (1 - c) * np.ones((PIXELS, 1)) @ gray)
    return whole @ x, whole


@pytest.mark.parametrize("augmentations", [2, 3])
def test_steps_of_adam_on_the_sum_over_views(
    augmentations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditional_gan, "CROP", Views(scale=(1, 1)))  # the image itself
    config = PlgMi.Config(iterations=3, augmentations=augmentations)
    given = linear_problem()
    found = PlgMi(config).invert(given).double().numpy()
    starts = given.starts(SAMPLES).double().numpy()
    for row, label in enumerate(LABELS):
        for copy in range(SAMPLES):
            z, m, v = starts[row, copy], np.zeros(LATENTS), np.zeros(LATENTS)
            draws = given.stream(label, f"views/{copy}")
            for step in range(1, 4):
                x, gradient = 0.5 + 0.02 * (z @ MATRIX + OF_CLASS[label]), np.zeros(LATENTS)
                for _ in range(augmentations):
                    torch.empty(6).uniform_(generator=draws)  # of the crop
                    colours = torch.empty(3).uniform_(generator=draws).double().numpy()
                    view, change = jittered(x, colours)
                    assert 0 < view.min() < view.max() < 1
                    gradient = gradient + 0.02 * MATRIX @ change.T @ (view - CENTRES[label])
                m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
                z = z - 0.1 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            wanted = 0.5 + 0.02 * (z @ MATRIX + OF_CLASS[label])
            np.testing.assert_allclose(found[row, copy].ravel(), wanted, atol=2e-5)


def test_the_target_sees_two_views_a_step_and_latents_are_not_clamped() -> None:
    attack, given = PlgMi(PlgMi.Config(iterations=5, learning_rate=3)), tiny_problem(PlgMi)
    far: list[Tensor] = []
    images = given.prior.images

    def watched(latents: Tensor, labels: Tensor | None = None) -> Tensor:
        far.append(latents.detach().clone())
        return images(latents, labels)

    given.prior.images = watched  # type: ignore[method-assign]
    try:
        reconstruct(attack, given)
    finally:
        del given.prior.images
    assert given.target.queries == 3 * 2 * 5 * 2
    assert far[0].std() == pytest.approx(1, abs=0.3), "standard normal at the start"
    assert far[-1].abs().max() > 6


def test_chunks_count_the_views() -> None:
    assert PlgMi(PlgMi.Config(max_rows=40)).chunk(5) == 4
    assert PlgMi(PlgMi.Config(max_rows=40, augmentations=4)).chunk(5) == 2


def test_an_identity_gets_images_of_its_own_class() -> None:
    given = tiny_problem(PlgMi, labels=(3, 1), samples=2)
    attack = PlgMi(PlgMi.Config(iterations=1, learning_rate=1e-8))
    found = reconstruct(attack, given)
    with torch.no_grad():
        z = given.starts(2).flatten(0, 1)
        own = given.prior.images(z, torch.tensor([3, 3, 1, 1])).view_as(found)
        other = given.prior.images(z, torch.tensor([1, 1, 3, 3])).view_as(found)
    torch.testing.assert_close(found, own, atol=1e-5, rtol=1e-4)
    assert (found - other).abs().max() > 1e-3


def test_the_name_decides_between_the_margin_and_the_improved_objective() -> None:
    for name, objective in (("plg-mi", "max-margin"), ("plg-mi+ma", "max-margin")):
        cell = resolve(Request(protocol="synthfaces-32", attack=name))
        assert cell.attack_config.identity.objective == objective
        assert cell.prior_name == "conditional-gan"
    improved = resolve(Request(protocol="synthfaces-32", attack="improved-plg-mi"))
    assert improved.attack_config.identity.objective == "logit"


def test_the_defaults_are_the_released_codes() -> None:
    config = PlgMi.Config()
    assert (config.iterations, config.learning_rate, config.augmentations) == (600, 0.1, 2)
    assert config.identity.objective == "max-margin"
    assert config.selection.pool is config.selection.candidates is None
