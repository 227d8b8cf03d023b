"""What priors that make images of identities share: their config, their kind, and the prior."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import Field, model_validator
from torch import Tensor

from mibench.errors import MibenchError
from mibench.priors._conditional import ConditionalGenerator, check_start
from mibench.priors._networks import Critic, map_sizes
from mibench.priors._prior import Prior, PriorConfig, PriorJob, PriorKind
from mibench.priors.gan import GanPrior
from mibench.streams import seeded


class ConditionalConfig(PriorConfig):
    """Where such a prior starts, and the sizes of networks that start from scratch."""

    start: bool = Field(
        True,
        description="start from the general prior, whose networks it then has; false: the "
        "published networks, from scratch",
    )
    latent: int = Field(128, ge=1, le=65_536, description="dimensions of the latent, from scratch")
    generator_width: int = Field(
        64, ge=1, le=1024, description="channels of the last hidden layer, from scratch"
    )
    critic_width: int = Field(
        64, ge=1, le=1024, description="channels of the first layers, from scratch"
    )

    @model_validator(mode="after")
    def _the_general_prior_has_its_sizes(self) -> ConditionalConfig:
        for name in ("latent", "generator_width", "critic_width"):
            default = type(self).model_fields[name].default
            if self.start and getattr(self, name) != default:
                raise ValueError(
                    f"{name} is of networks that are trained from scratch, and with start=true "
                    f"those of the general prior go on: leave it at {default}, or set start=false"
                )
        return self


class Discriminator(Protocol):
    """What a discriminator of such a prior can be made of: sizes, or a general prior's critic."""

    def __init__(self, resolution: int, classes: int, width: int) -> None: ...

    @classmethod
    def started(cls, critic: Critic, classes: int) -> Any: ...


C = TypeVar("C", bound=ConditionalConfig)
D = TypeVar("D", bound=Discriminator)


class ConditionalPrior(Prior):
    """A generator of images of each identity.

    Class attributes:
        kind: what its kind is called, for messages.
    """

    kind: ClassVar[str]
    classes: int

    def __init__(self, generator: ConditionalGenerator) -> None:
        super().__init__()
        self.generator, self.size, self.classes = generator, generator.latent, generator.classes

    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """G(z, y)."""
        if labels is None:
            raise MibenchError(
                f"the prior `{self.kind}` makes images of identities: an attack passes their "
                "labels, prior.images(latents, labels)"
            )
        images: Tensor = self.generator(latents, labels)
        return images


class ConditionalKind(PriorKind[C], Generic[C]):
    """A kind of such priors, which starts from the general GAN or from scratch."""

    of_identities = True

    @classmethod
    def check(cls, resolution: int) -> None:
        """Its networks double a small map."""
        map_sizes(resolution)

    def check_general(self) -> None:
        """It can start from networks of its own layers alone."""
        if self.config.start:
            check_start(self.config.gan)

    def recipe(self) -> str:
        """Where it starts."""
        start = self.config.start
        return f"{self.title}, " + (
            "fine-tuned from the general prior" if start else "trained from scratch"
        )

    def networks(
        self, job: PriorJob, classes: int, discriminator: type[D]
    ) -> tuple[ConditionalGenerator, D]:
        """G and D at the start: the general prior's for every class, or new ones."""
        config = self.config
        with seeded(job.rng):
            if not config.start:
                size = job.public.images.shape[2]
                return (
                    ConditionalGenerator(size, classes, config.latent, config.generator_width),
                    discriminator(size, classes, config.critic_width),
                )
            general = job.general().cpu()
            if not isinstance(general, GanPrior):
                raise TypeError("the general prior that this one starts from is no GAN")
            return (
                ConditionalGenerator.started(general.generator, classes),
                discriminator.started(general.critic, classes),
            )
