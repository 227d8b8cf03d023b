"""Networks of priors: shapes, ranges, norms, and what is written down of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mibench.errors import RequestError
from mibench.priors._networks import Critic, Generator
from mibench.priors.gan import Gan, GanPrior
from mibench.priors.inversion_gan import (
    Discriminator,
    InversionGan,
    InversionGanPrior,
    MinibatchDiscrimination,
)
from mibench.streams import stream


def images(count: int = 3, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=stream(0, "images"))


@pytest.mark.parametrize("resolution", [8, 32, 64])
@pytest.mark.parametrize("norm", ["spectral", "instance", "none"])
def test_generator_and_critic_shapes_and_range(resolution: int, norm: Any) -> None:
    torch.manual_seed(0)
    generator = Generator(resolution, 7, 2).eval()
    with torch.no_grad():
        pictures = generator(50 * torch.randn(3, 7))
        assert pictures.shape == (3, 3, resolution, resolution)
        assert pictures.min() >= 0
        assert pictures.max() <= 1
        critic = Critic(resolution, 4, norm=norm)
        assert critic(pictures).shape == (3,)
        if norm != "spectral":
            assert Discriminator(resolution, 4, 6, norm)(pictures).shape == (3, 6)


def test_critics_see_images_on_the_scale_minus_one_to_one() -> None:
    trunk = Critic(8, 4, norm="none").trunk
    with torch.no_grad():
        expected = nn.Sequential(*trunk)(images(2, 8) * 2 - 1)
        torch.testing.assert_close(trunk(images(2, 8)), expected)


@pytest.mark.parametrize("resolution", [2, 4, 7, 33, 36, 100])
def test_resolutions_that_priors_cannot_have_are_refused(resolution: int) -> None:
    for make in (Generator, Critic):
        with pytest.raises(RequestError, match=f"times a power of two, .*; {resolution} is not"):
            make(resolution)


@pytest.mark.parametrize("resolution", [10, 12, 14, 48, 224])
def test_priors_of_other_resolutions_than_powers_of_two(resolution: int) -> None:
    with torch.no_grad():
        made = Generator(resolution, latent=5, width=1)(torch.randn(2, 5))
        assert made.shape == (2, 3, resolution, resolution)
        assert Critic(resolution, width=1)(made).shape == (2,)


def test_baking_spectral_norm_keeps_the_critics_outputs() -> None:
    torch.manual_seed(0)
    critic = Critic(16, 4)
    for parameter in critic.parameters():
        parameter.data.mul_(3)
    for _ in range(20):  # power iterations
        critic(images(2, 16))
    critic.eval()
    with torch.no_grad():
        before = critic(images(3, 16))
        assert not torch.allclose(before, Critic(16, 4).eval()(images(3, 16)))
        after = critic.bake()(images(3, 16))
    torch.testing.assert_close(after, before)
    assert critic.config["norm"] == "none"
    assert set(critic.state_dict()) == set(Critic(16, 4, "none").state_dict())
    for module in critic.trunk:
        if isinstance(module, nn.Conv2d):
            value = torch.linalg.matrix_norm(module.weight.flatten(1), 2)
            assert value.item() == pytest.approx(1, abs=0.05)


def naive_closeness(own: Tensor, others: Tensor, skip_self: bool) -> Tensor:
    """Salimans et al., section 3.2, as loops."""
    result = torch.zeros(len(own), own.shape[1])
    for i in range(len(own)):
        for j in range(len(others)):
            if skip_self and i == j:
                continue
            for kernel in range(own.shape[1]):
                distance = float((own[i, kernel] - others[j, kernel]).abs().sum())
                result[i, kernel] += torch.exp(torch.tensor(-distance))
    return result


@pytest.mark.parametrize("bank_size", [None, 1, 6])
def test_minibatch_discrimination_is_the_naive_sum(bank_size: int | None) -> None:
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(8, kernels=3, kernel_size=4)
    layer.project.weight.data.mul_(5)
    features = torch.randn(5, 8)
    with torch.no_grad():
        bank = None if bank_size is None else layer.embed(torch.randn(bank_size, 8))
        result = layer(features, bank)
        own = layer.embed(features)
        expected = naive_closeness(own, own if bank is None else bank, bank is None)
    assert torch.equal(result[:, :8], features)
    torch.testing.assert_close(result[:, 8:], expected, rtol=1e-4, atol=1e-5)
    assert expected.max() > 0.05


@pytest.mark.parametrize("norm", ["spectral", "instance", "none"])
@pytest.mark.parametrize("kind", [Gan, InversionGan])
def test_a_prior_survives_being_written_down(kind: type[Gan | InversionGan], norm: Any) -> None:
    torch.manual_seed(0)
    generator = Generator(16, 7, 2)
    generator(torch.randn(20, 7))
    if kind is Gan:
        prior: Any = GanPrior(generator, Critic(16, 4, norm))
    else:
        discriminator = Discriminator(16, 4, 5, "none" if norm == "spectral" else norm)
        prior = InversionGanPrior(generator, discriminator, torch.randn(59, 64, 50))
    prior.eval()
    latents = torch.randn(3, 7)
    with torch.no_grad():
        pictures = prior.images(latents)
        scores, tensors = prior.realism(pictures), prior.tensors()
        again = kind.load({**prior.description(), "notes": {"note": 1}}, tensors)
        assert torch.equal(again.images(latents), pictures)
        torch.testing.assert_close(again.realism(pictures), scores)
    assert again.tensors().keys() == tensors.keys()
    assert not any(each.is_cuda for each in tensors.values())
