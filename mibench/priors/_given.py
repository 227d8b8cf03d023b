"""An image prior that somebody else trained: any module from latents to images."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from mibench.errors import RequestError
from mibench.models.given import built
from mibench.models.resize import resize
from mibench.priors._prior import Prior, PriorConfig, PriorJob, PriorKind
from mibench.streams import stream
from mibench.types import GivenPrior

_LATENTS = 16  # that a look at it takes
_SLACK = 0.05  # by which pixels may leave [0, 1]; they are cut off there
_LEAST_SPREAD = 0.01  # standard deviation of all pixels, below which nothing is to be seen
_SAME = 1e-3  # by so much a pixel may differ with the other latents of a batch


class GivenImages(Prior):
    """The module, with its images cut off at 0 and 1 and resized to what the target takes."""

    def __init__(self, module: nn.Module, latent: int, resolution: int) -> None:
        super().__init__()
        self.module, self.size, self.resolution = module, latent, resolution

    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """See :class:`mibench.priors.Prior`; it knows no labels."""
        made: Tensor = self.module(latents)
        return resize(made, self.resolution).clamp(0, 1)

    def description(self) -> NoReturn:
        """It is no artifact: it lies where its author has it."""
        raise NotImplementedError


class Given(PriorKind[PriorConfig]):
    """The kind of priors that are given, and not trained."""

    title = "given"

    def train(self, job: PriorJob) -> NoReturn:
        """Nobody trains it."""
        raise NotImplementedError

    @classmethod
    def load(cls, description: dict[str, Any], tensors: dict[str, Tensor]) -> NoReturn:
        """No artifact holds it (:func:`load_given_prior`)."""
        raise NotImplementedError


@torch.no_grad()
def load_given_prior(given: GivenPrior, resolution: int) -> Prior:
    """The prior that is meant, on the CPU, after a look at some of its images.

    Args:
        resolution: height and width of the images that the target takes.

    Raises:
        RequestError: it cannot be built or loaded, or makes no images in [0, 1]; the message says
            what to do.
    """
    module, name = built(given.model, given.weights), given.model
    latent = given.latent or getattr(module, "latent", None)
    if not isinstance(latent, int):
        raise RequestError(
            f"{name}: how many dimensions has a latent? Say it by --prior-latent, or give the "
            "module an attribute `latent`"
        )
    latents = torch.randn(_LATENTS, latent, generator=stream(0, "given prior"))
    try:
        images = module(latents)
    except Exception as error:
        raise RequestError(
            f"{name} fails on latents of shape {tuple(latents.shape)}: {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}. Is --prior-latent the number that it was trained "
            "with?"
        ) from error
    if (
        not isinstance(images, Tensor)
        or images.ndim != 4
        or images.shape[:2] != (_LATENTS, 3)
        or not images.is_floating_point()
    ):
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise RequestError(
            f"{name} makes {found} of {_LATENTS} latents: wanted are images ({_LATENTS}, 3, h, w) "
            "of floating point numbers in [0, 1]"
        )
    _check_range(name, images)
    if (images - images[:1]).abs().max() < _SAME:
        raise RequestError(f"{name} makes the same image of every latent")
    alone = torch.cat([module(latent[None]) for latent in latents])
    if (images - alone).abs().max() > _SAME:
        raise RequestError(
            f"{name} makes another image of a latent when others are in its batch, or each time: "
            "noise or BatchNorm in train mode. Call module.eval() and fix its noise"
        )
    return GivenImages(module, latent, resolution).eval()


def _check_range(name: str, images: Tensor) -> None:
    if not images.isfinite().all():
        raise RequestError(f"{name} makes values that are not finite: are its weights whole?")
    low, high, spread = float(images.min()), float(images.max()), float(images.std())
    found = f"{name} makes values from {low:.3g} to {high:.3g}, and images are in [0, 1]: "
    if high > 2:
        raise RequestError(found + "divide by 255, if these are grey levels")
    if low < -_SLACK:
        raise RequestError(found + "return (images + 1) / 2, if these are in [-1, 1]")
    if high > 1 + _SLACK:
        raise RequestError(found + "return images.clamp(0, 1), or what undoes its normalisation")
    if spread < _LEAST_SPREAD:
        raise RequestError(found + "these all but show nothing; are they divided by 255 twice?")
