"""What an attacker's image prior is, what its author implements, and what that is given."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mibench.data.images import ImageSet
from mibench.errors import MibenchError
from mibench.models.access import TargetAccess
from mibench.priors._networks import Architecture
from mibench.progress import Progress
from mibench.registry import Registry
from mibench.streams import RowStreams
from mibench.types import BUDGETED, Access, Frozen


class Prior(nn.Module, ABC):
    """A generative model of images. What it has learned are its parameters and buffers.

    Attributes:
        size: dimensions of a latent.
        classes: identities that it makes images of on demand; None: it knows no labels.
    """

    size: int
    classes: int | None = None

    def latents(self, streams: RowStreams, n: int | None = None) -> Tensor:
        """Latents as the prior draws them: ``(rows, size)``, or ``(rows, n, size)``.

        Here they are standard normal. Each row comes from a stream of its own.
        """
        return streams.normal(self.size) if n is None else streams.normal(n, self.size)

    @abstractmethod
    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images ``(n, 3, h, w)`` in [0, 1] of latents ``(n, size)``, differentiable in these.

        Args:
            latents: each gives its own image, whatever else is in the batch.
            labels: the identities ``(n,)`` that are wanted, for priors that know any.

        Raises:
            MibenchError: it makes images of identities alone, and is told of none.
        """

    def realism(self, images: Tensor) -> Tensor:
        """How real images ``(n, 3, h, w)`` look: a score ``(n,)``, higher where they do more.

        Raises:
            MibenchError: the prior scores no images.
        """
        raise MibenchError(
            f"the prior {type(self).__name__} does not score how real images look, which this "
            "attack asks for: choose another one with --prior"
        )

    def logits(self, images: Tensor) -> Tensor:
        """Which of the target's identities images ``(n, 3, h, w)`` show, ``(n, classes)``.

        As a network of the prior's own tells them, such as its discriminator.

        Raises:
            MibenchError: the prior tells no identities apart.
        """
        raise MibenchError(
            f"the prior {type(self).__name__} tells no identities apart, which this attack asks "
            "for: choose another one with --prior"
        )

    def frozen(self, sample: Tensor) -> Prior:
        """A copy for attacks: in evaluation mode, where only inputs get gradients.

        Args:
            sample: some images ``(n, 3, h, w)`` in [0, 1], to trace networks with.
        """
        return copy.deepcopy(self).eval().requires_grad_(False)

    def tensors(self) -> dict[str, Tensor]:
        """All that was learned, as it is stored."""
        state = self.state_dict().items()
        return {name: value.detach().cpu().contiguous() for name, value in state}

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What :meth:`PriorKind.load` needs beside the tensors (JSON)."""


class GanConfig(Frozen):
    """How the general prior is trained, a GAN on public images."""

    recipe: Literal["hinge", "wgan-gp"] = Field(
        "hinge",
        description="`hinge`: hinge loss with spectral norm; `wgan-gp`: GMI's, gradient penalty 10",
    )
    architecture: Architecture = Field(
        "dcgan",
        description="`dcgan`: this suite's networks; `gmi`: the published ones, for `wgan-gp`",
    )
    steps: int = Field(
        9900, ge=1, le=10**9, description="generator steps", json_schema_extra=BUDGETED
    )
    batch_size: int = Field(64, ge=2, le=65_536, description="images a step")
    critic_steps: int = Field(
        1, ge=1, le=1000, description="critic steps per generator step (GMI: 5)"
    )
    learning_rate: float = Field(2e-4, gt=0, le=1e30, description="Adam's step, for both networks")
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam's first decay rate")
    schedule: Literal["linear", "constant"] = Field(
        "linear",
        description="the step size: `linear` falls over the last third of the steps; `constant`, "
        "as GMI's",
    )
    mirror: bool = Field(
        True, description="mirror half of the images, where the data set allows it (GMI: not)"
    )
    ema: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="decay of the generator's moving average; 0: the last weights (GMI)",
    )
    latent: int = Field(100, ge=1, le=65_536, description="dimensions of the latent")
    generator_width: int = Field(32, ge=1, le=1024, description="channels of the last hidden layer")
    critic_width: int = Field(64, ge=1, le=1024, description="channels of the first convolution")

    @model_validator(mode="after")
    def _the_published_networks_have_their_recipe(self) -> GanConfig:
        if self.architecture != "dcgan" and self.recipe != "wgan-gp":
            raise ValueError(
                f"the architecture `{self.architecture}` is trained by the recipe `wgan-gp`, not "
                f"`{self.recipe}`: set one of the two, `dcgan` goes with both recipes"
            )
        return self


class PriorConfig(Frozen):
    """Fields that every kind has, of the general prior; a kind's own ``Config`` adds its own."""

    source: Literal["protocol", "scratch"] = Field(
        "protocol",
        description="the general prior: `protocol`, the pinned one where the protocol has one; "
        "`scratch`: train it",
    )
    gan: GanConfig = Field(GanConfig(), description="how it is trained when it is trained")


C = TypeVar("C", bound=PriorConfig)


@dataclass(frozen=True)
class PriorJob:
    """What the training of a prior is given.

    Attributes:
        public: public images on the device to train on; no private image is there.
        general: makes a copy of the protocol's general prior, to start from.
        target: the target, frozen, as far as the kind's ``needs`` go; None where it has none.
        rng: CPU generator of everything random in the training.
    """

    public: ImageSet
    general: Callable[[], Prior]
    target: TargetAccess | None
    rng: torch.Generator
    progress: Progress


class PriorKind(ABC, Generic[C]):
    """How priors of one kind are trained and loaded; register with :func:`register_prior`.

    Class attributes:
        Config: its options, all of which are in the key of a trained prior.
        needs: what its training may see of the target, on which the prior then depends; None for
            one that public images alone decide. No attack takes a prior that sees more than itself.
        title: what records and tables call it.
        stream: name of its random stream; None: the kind's own name.
        scores_realism: whether its priors have :meth:`Prior.realism`.
        tells_identities: whether its priors have :meth:`Prior.logits`.
        of_identities: whether its priors make images of identities (:attr:`Prior.classes`).
    """

    Config: ClassVar[type[PriorConfig]] = PriorConfig
    needs: ClassVar[Access | None] = None
    title: ClassVar[str]
    stream: ClassVar[str | None] = None
    scores_realism: ClassVar[bool] = False
    tells_identities: ClassVar[bool] = False
    of_identities: ClassVar[bool] = False

    def __init__(self, config: C) -> None:
        self.config = config

    @classmethod
    def check(cls, resolution: int) -> None:
        """Refuse, before any work, a height and width of images that it makes none of.

        Raises:
            RequestError: says which it makes.
        """

    def check_general(self) -> None:
        """Refuse, before any work, settings of the general prior that it cannot start from.

        Raises:
            RequestError: says which, and what to set.
        """

    def recipe(self) -> str:
        """How this configuration makes its prior, as records name it."""
        return self.title

    @abstractmethod
    def train(self, job: PriorJob) -> Prior:
        """A prior, in evaluation mode."""

    @classmethod
    @abstractmethod
    def load(cls, description: dict[str, Any], tensors: dict[str, Tensor]) -> Prior:
        """The prior that :meth:`Prior.description` and :meth:`Prior.tensors` describe."""


PRIORS: Registry[PriorKind[Any]] = Registry("prior", PriorKind, "mibench.priors", "mibench.priors")
register_prior = PRIORS.register
