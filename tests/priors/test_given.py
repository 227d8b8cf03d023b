"""Priors of others': what they must make, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mibench.errors import RequestError
from mibench.priors._given import load_given_prior
from mibench.streams import stream
from mibench.types import GivenPrior
from tests.kit.audits import PRIOR

LATENTS = torch.randn(3, 6, generator=stream(0, "latents"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prior.py"
    path.write_text(PRIOR)
    return path


def test_its_images_have_the_targets_size(file: Path) -> None:
    prior = load_given_prior(GivenPrior(model=f"{file}:build"), 32)
    assert prior.size == 6
    latents = LATENTS.clone().requires_grad_(True)
    images = prior.frozen(torch.rand(1, 3, 32, 32)).images(latents)
    assert images.shape == (3, 3, 32, 32)
    assert 0 <= images.detach().min() < images.detach().max() <= 1
    images.sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    assert not any(each.requires_grad for each in prior.parameters())
    small = load_given_prior(GivenPrior(model=f"{file}:build"), 8)
    torch.testing.assert_close(small.images(LATENTS), small.module(LATENTS))  # type: ignore[operator]


def test_weights_are_loaded(file: Path, tmp_path: Path) -> None:
    state = {"colours.weight": torch.zeros(192, 6), "colours.bias": torch.linspace(-2, 2, 192)}
    state["colours.weight"][:, 0] = 1
    save_file(state, tmp_path / "w.safetensors")
    given = GivenPrior(model=f"{file}:Blobs", weights=str(tmp_path / "w.safetensors"), latent=6)
    images = load_given_prior(given, 8).images(LATENTS)
    expected = (LATENTS[:, :1] + state["colours.bias"]).sigmoid().unflatten(1, (3, 8, 8))
    torch.testing.assert_close(images, expected)
    save_file({"colours.bias": torch.zeros(192)}, tmp_path / "w.safetensors")
    with pytest.raises(RequestError, match="does not fit the model"):
        load_given_prior(given, 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Signed", r"values from -0\.8 to 0\.796, .*return \(images \+ 1\) / 2"),
        ("Bytes", "divide by 255"),
        ("Dark", "divided by 255 twice"),
        ("Nan", "not finite"),
        ("Same", "the same image of every latent"),
        ("Grey", r"makes \(16, 1, 8, 8\) of 16 latents: wanted are images \(16, 3, h, w\)"),
        ("Noisy", "when others are in its batch"),
        ("nothing", "no function 'nothing'"),
    ],
)
def test_what_is_no_prior(file: Path, name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load_given_prior(GivenPrior(model=f"{file}:{name}"), 32)


def test_latents_of_another_size(file: Path) -> None:
    with pytest.raises(RequestError, match=r"fails on latents of shape \(16, 7\).*--prior-latent"):
        load_given_prior(GivenPrior(model=f"{file}:build", latent=7), 32)
    file.write_text(PRIOR.replace("    latent = 6\n", ""))
    with pytest.raises(RequestError, match="how many dimensions has a latent"):
        load_given_prior(GivenPrior(model=f"{file}:build"), 32)
