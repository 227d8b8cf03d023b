"""What the author of an attack implements, and what an attack is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar, final

import torch
from pydantic import Field
from torch import Tensor

from mibench.data.images import ImageSet
from mibench.errors import DivergedError
from mibench.inversion.identity import IdentityConfig, IdentityLoss
from mibench.inversion.selection import Pool, SelectionConfig, scored_pool, surest
from mibench.models.access import BlackBoxTarget, RepeatConfig, TargetAccess, WhiteBoxTarget
from mibench.models.classifiers import Classifier
from mibench.names import STANDARD, STANDARD_SET, asking_variants, variants
from mibench.priors import Prior, PriorKind
from mibench.progress import Progress, Together
from mibench.registry import Registry
from mibench.streams import RowStreams, stream
from mibench.training.students import StudentsConfig
from mibench.training.surrogates import SurrogatesConfig
from mibench.types import LATER, MEMORY, Access, AttackCard, Frozen


class AttackConfig(Frozen):
    """Fields that every attack has; an attack's own ``Config`` adds its own."""

    identity: IdentityConfig = Field(IdentityConfig(), description="the identity loss")
    augment: bool = Field(False, description="attack students together with the target (MA)")
    students: StudentsConfig = Field(StudentsConfig(), description="the students of MA")
    repeat: bool = Field(
        False,
        description="ask each question several times, against noise in the answers (`+repeat`)",
        json_schema_extra=LATER,
    )
    repeats: RepeatConfig = Field(
        RepeatConfig(), description="how `+repeat` asks", json_schema_extra=LATER
    )
    untrap: bool = Field(
        False,
        description="attack a copy of the target that ignores the triggers of its trapdoors, "
        "trained on public images as students are",
        json_schema_extra=LATER,
    )
    max_rows: int = Field(
        512,
        ge=1,
        le=1_000_000,
        description="latents optimised at once; bounds memory, not results",
        json_schema_extra=MEMORY,
    )


class LatentConfig(AttackConfig):
    """Fields of attacks that optimise latents of a prior."""

    selection: SelectionConfig = Field(
        SelectionConfig(),
        description="selection before and after the attack",
        json_schema_extra=LATER,
    )


class TransferConfig(AttackConfig):
    """Fields of attacks that attack surrogates in place of a target whose weights they don't see.

    Where an attack's ``Config`` extends this one, surrogates are trained before it runs, by the
    target's labels alone; the identity loss that it is given (:meth:`Problem.transfer_loss`) is
    theirs.
    """

    surrogates: SurrogatesConfig = Field(
        SurrogatesConfig(),
        description="the surrogates, trained on images of the prior that the target labels",
    )


@dataclass(frozen=True)
class Problem:
    """All that an attack is given. It holds no private image and no evaluator.

    Attributes:
        target: the target, restricted to the attack's access.
        prior: the attacker's image prior, frozen.
        identity_loss: the identity loss object: of the target for white-box attacks, of its
            surrogates for those that attack these (:class:`TransferConfig`), None for others.
        labels: the attacked identities ``(k,)``; in :meth:`Attack.invert` those of one chunk.
        samples: reconstructions wanted per identity.
        public: public images; their labels are public identities.
        seed: seed of the attack's streams.
        pool: latents that the target was asked about before, where the attack has any.
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
    pool: Pool | None = None

    def of(self, labels: Tensor) -> Problem:
        """The same problem for other identities, which draw the same numbers in any company."""
        return replace(self, labels=labels)

    def stream(self, label: int, purpose: object) -> torch.Generator:
        """A random generator of its own for one identity and purpose."""
        return stream(self.seed, "identity", label, purpose)

    def streams(self, purpose: object, copies: int = 1) -> RowStreams:
        """One stream for each of ``copies`` rows of each label, identity by identity."""
        labels = self.labels.tolist()
        names = [(label, f"{purpose}/{copy}") for label in labels for copy in range(copies)]
        return RowStreams([self.stream(*name) for name in names], self.device)

    def starts(self, n: int) -> Tensor:
        """Latents to start from ``(labels, n, size)``: the pool's best of an identity, or drawn."""
        if self.pool is not None:
            return self.pool.best(self.labels, n)
        drawn = self.prior.latents(self.streams("start", n))
        return drawn.view(len(self.labels), n, -1)

    def white_box(self) -> tuple[WhiteBoxTarget, IdentityLoss]:
        """The target and the identity loss of a white-box attack."""
        if not isinstance(self.target, WhiteBoxTarget) or self.identity_loss is None:
            raise TypeError(
                "this problem gives no white-box access: the attack's `access` says less; ask "
                "problem.target"
            )
        return self.target, self.identity_loss

    def transfer_loss(self) -> IdentityLoss:
        """The identity loss of an attack on surrogates: a mean over these, without the target."""
        if isinstance(self.target, WhiteBoxTarget) or self.identity_loss is None:
            raise TypeError(
                "this problem has no surrogates: they are for attacks without white-box access "
                "whose Config extends TransferConfig"
            )
        return self.identity_loss

    def black_box(self) -> BlackBoxTarget:
        """The target of an attack that may see its scores."""
        if not isinstance(self.target, BlackBoxTarget):
            raise TypeError("this problem gives labels alone: the attack's `access` says no more")
        return self.target


Config_co = TypeVar("Config_co", bound=AttackConfig, covariant=True)


class Attack(ABC, Generic[Config_co]):
    """Base class of attacks; register with :func:`register_attack`.

    An attack implements :meth:`invert`; calling it attacks chunk by chunk. With options of its own
    it is a ``class Mine(Attack["Mine.Config"])`` that holds a ``class Config(AttackConfig)``.

    Class attributes:
        card: provenance; access: what it may see of the target; Config: its options.
        optimises_identity: whether it minimises the identity loss, and so has, where that is the
            target's own, the variants ``+lom``, ``+ma``, ``improved-``, ``+taa``, ``+paa`` and
            ``+untrap``. One that asks the target without white-box access has ``+repeat``.
        prior: the kind of image prior that it takes unless asked otherwise: a registered name, or
            a class of the attack's own file.
        searches: whether it answers with public images, instead of making some.
        folds: whether BatchNorm may be folded into the layers before it, which makes the target
            faster and hides its running statistics.
        needs_realism: whether it asks the prior how real images look.
    """

    card: ClassVar[AttackCard]
    access: ClassVar[Access] = "white-box"
    optimises_identity: ClassVar[bool] = True
    prior: ClassVar[str | type[PriorKind[Any]]] = "gan"
    searches: ClassVar[bool] = False
    folds: ClassVar[bool] = True
    needs_realism: ClassVar[bool] = False
    Config: ClassVar[type[AttackConfig]] = AttackConfig

    def __init__(self, config: Config_co) -> None:
        self.config = config

    @classmethod
    def varied(cls) -> bool:
        """Whether it has variants: the target's identity loss takes white-box access."""
        return cls.optimises_identity and cls.access == "white-box"

    @classmethod
    def variants(cls, name: str) -> list[str]:
        """The names of all its variants, where it is called ``name``, which comes first."""
        if cls.asks():
            return asking_variants(name)
        return variants(name) if cls.varied() else [name]

    @classmethod
    def asks(cls) -> bool:
        """Whether it only asks the target, and does so itself: surrogates ask before it runs."""
        return cls.access != "white-box" and not cls.optimises_identity

    @classmethod
    def check(cls, model: Classifier) -> None:
        """Refuse, before any work, a deployed target that it has no way to attack.

        Args:
            model: its structure, untrained.

        Raises:
            RequestError: says why, and what it needs.
        """

    @classmethod
    def check_prior(cls, config: Config_co, kind: type[PriorKind[Any]]) -> None:  # type: ignore[misc]
        """Refuse, before any work, options that a kind of prior does not go with.

        Raises:
            RequestError: says why, and what to set.
        """

    @abstractmethod
    def invert(self, problem: Problem) -> Tensor:
        """Reconstruct the identities of one chunk: ``(labels, samples, 3, h, w)`` in [0, 1].

        Draw from ``problem.streams`` alone and sum losses over rows, so that what becomes of an
        identity does not depend on the others of its chunk.
        """

    def pool(self, problem: Problem) -> Pool | None:
        """Latents that the target is asked about before :meth:`invert`; None: there are none.

        Here they are those of the initial selection.
        """
        if not isinstance(self.config, LatentConfig) or self.config.selection.pool is None:
            return None
        return scored_pool(
            problem.black_box(),
            problem.prior,
            problem.labels,
            max(self.config.selection.pool, problem.samples),
            seed=problem.seed,
            mirror=problem.public.mirror,
            device=problem.device,
            progress=problem.progress,
        )

    def rows_per_identity(self, samples: int) -> int:
        """Latents that :meth:`invert` works on at once for one identity."""
        return samples

    def chunk(self, samples: int) -> int:
        """Identities that :meth:`invert` is given at once: as many as ``max_rows`` has room for."""
        rows = self.rows_per_identity(samples) * self.config.identity.views_a_step
        return max(1, self.config.max_rows // rows)

    @final
    def __call__(self, problem: Problem) -> Iterator[Tensor]:
        """Run :meth:`invert` chunk by chunk, and check and yield what it returns.

        Yields:
            ``(identities, samples, 3, h, w)`` in [0, 1], in the order of ``problem.labels``.

        Raises:
            ValueError: the shape is wrong, or a value is outside [0, 1].
            DivergedError: a value is not finite.
        """
        selection = SelectionConfig()
        if isinstance(self.config, LatentConfig):
            selection = self.config.selection
        wanted_samples = problem.samples
        problem = replace(problem, samples=selection.made(wanted_samples))
        problem = replace(problem, pool=self.pool(problem))
        chunks = problem.labels.split(self.chunk(problem.samples))
        with Together(problem.progress, len(chunks)) as progress:
            problem = replace(problem, progress=progress)
            for labels in chunks:
                images = self.invert(problem.of(labels))
                wanted = (len(labels), problem.samples, *problem.public.images.shape[1:])
                if tuple(images.shape) != wanted:
                    raise ValueError(
                        f"invert() returned shape {tuple(images.shape)}, wanted {wanted}"
                    )
                finite = images.isfinite().flatten(1).all(1)
                if not finite.all():  # the first one, which no size of chunks changes
                    lost = int(labels[~finite][0])
                    raise DivergedError(f"reconstructions of identity {lost} are not finite")
                if images.min() < 0 or images.max() > 1:
                    raise ValueError("invert() returned values outside [0, 1]")
                if problem.samples > wanted_samples:
                    images = surest(
                        problem.black_box(),
                        images,
                        labels,
                        wanted_samples,
                        crops=selection.crops,
                        mirror=problem.public.mirror,
                        streams=problem.of(labels).streams,
                    )
                yield images


ATTACKS: Registry[Attack[AttackConfig]] = Registry(
    "attack",
    Attack,
    "mibench.attacks",
    "mibench.attacks",
    reserved={STANDARD: STANDARD_SET},
)
register_attack = ATTACKS.register
