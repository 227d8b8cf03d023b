"""What the author of an attack implements, and what an attack is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mibench.data.images import ImageSet
from mibench.errors import DivergedError
from mibench.inversion.identity import IdentityConfig, IdentityLoss
from mibench.models.access import TargetAccess, WhiteBoxTarget
from mibench.priors import Prior, PriorKind
from mibench.progress import Progress
from mibench.registry import Registry
from mibench.streams import RowStreams, stream
from mibench.training.students import StudentsConfig
from mibench.types import Access, AttackCard, Frozen


class AttackConfig(Frozen):
    """Fields that every attack has; an attack's own ``Config`` adds its own."""

    identity: IdentityConfig = Field(IdentityConfig(), description="the identity loss")
    augment: bool = Field(False, description="attack students together with the target (MA)")
    students: StudentsConfig = Field(StudentsConfig(), description="the students of MA")
    max_rows: int = Field(
        512,
        ge=1,
        le=1_000_000,
        description="latents optimised at once; bounds memory, not results",
    )


@dataclass(frozen=True)
class Problem:
    """All that an attack is given. It holds no private image and no evaluator.

    Attributes:
        target: the target, restricted to the attack's access.
        prior: the attacker's image prior, frozen.
        identity_loss: the identity loss object (None for attacks without white-box access).
        labels: the attacked identities ``(k,)``.
        samples: reconstructions wanted per identity.
        public: public images; their labels are public identities.
        seed: seed of the attack's streams.
    """

    target: TargetAccess
    prior: Prior
    identity_loss: IdentityLoss | None
    labels: Tensor
    samples: int
    public: ImageSet
    seed: int
    device: torch.device
    progress: Progress

    def stream(self, label: int, purpose: object) -> torch.Generator:
        """A random generator of its own for one identity and purpose."""
        return stream(self.seed, "identity", label, purpose)

    def streams(self, labels: Tensor, purpose: object, copies: int = 1) -> RowStreams:
        """One stream for each of ``copies`` rows of each label, identity by identity."""
        generators = [
            self.stream(label, f"{purpose}/{copy}")
            for label in labels.tolist()
            for copy in range(copies)
        ]
        return RowStreams(generators, self.device)

    def chunks(self, rows_per_identity: int, max_rows: int) -> Iterator[Tensor]:
        """The labels in chunks of at most ``max_rows`` rows, at least one identity each."""
        yield from self.labels.split(max(1, max_rows // rows_per_identity))

    def white_box(self) -> tuple[WhiteBoxTarget, IdentityLoss]:
        """The target and the identity loss of a white-box attack."""
        if not isinstance(self.target, WhiteBoxTarget) or self.identity_loss is None:
            raise TypeError("this problem gives no white-box access")
        return self.target, self.identity_loss


class Attack(ABC):
    """Base class of attacks; register with :func:`register_attack`.

    Class attributes:
        card: provenance; access: what it may see of the target; Config: its options.
        optimises_identity: whether it minimises the identity loss, and so has the variants
            ``+lom``, ``+ma`` and ``improved-``.
        prior: the kind of image prior that it takes unless asked otherwise: a registered name, or
            a class of the attack's own file.
    """

    card: ClassVar[AttackCard]
    access: ClassVar[Access] = "white-box"
    optimises_identity: ClassVar[bool] = True
    prior: ClassVar[str | type[PriorKind[Any]]] = "gan"
    Config: ClassVar[type[AttackConfig]] = AttackConfig

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def invert(self, problem: Problem) -> Tensor:
        """Reconstruct: ``(labels, samples, 3, h, w)`` in [0, 1]."""

    def __call__(self, problem: Problem) -> Tensor:
        """Run :meth:`invert` and check what it returns.

        Raises:
            ValueError: the shape is wrong, or a value is outside [0, 1].
            DivergedError: a value is not finite.
        """
        images = self.invert(problem)
        expected = (len(problem.labels), problem.samples, *problem.public.images.shape[1:])
        if tuple(images.shape) != expected:
            raise ValueError(f"invert() returned shape {tuple(images.shape)}, wanted {expected}")
        if not torch.isfinite(images).all():
            lost = (~torch.isfinite(images)).flatten(1).any(1).sum()
            raise DivergedError(
                f"reconstructions of {lost} of {len(images)} identities are not finite"
            )
        if images.min() < 0 or images.max() > 1:
            raise ValueError("invert() returned values outside [0, 1]")
        return images


ATTACKS: Registry[Attack] = Registry("attack", Attack, "mibench.attacks", "mibench.attacks")
register_attack = ATTACKS.register
