"""What an author implements: the base classes of attacks and defenses, and what they are given."""

from __future__ import annotations

import contextlib
import inspect
import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from mibench.data.images import ImageSet
from mibench.errors import DivergedError, MibenchError, RequestError
from mibench.gan_training import GanConfig
from mibench.identity import IdentityConfig, IdentityLoss
from mibench.models.classifiers import Classifier, Outputs
from mibench.models.gan import Prior
from mibench.progress import Progress
from mibench.registry import Registry
from mibench.streams import RowStreams, noise_from, stream
from mibench.training import TrainingConfig, TrainingHooks
from mibench.types import Access, AttackCard, DefenseCard, Frozen


class StudentsConfig(Frozen):
    """Model augmentation: students distilled from the target on public images."""

    architectures: tuple[str, ...] = Field(
        ("efficientnet_b0", "efficientnet_b1", "efficientnet_b2"),
        min_length=1,
        max_length=100,
        description="timm architectures, other than the target's (seed paper: EfficientNets)",
    )
    training: TrainingConfig = Field(
        TrainingConfig(epochs=20, learning_rate=0.02),
        description="how each student is trained (KL to the target's outputs at temperature 1)",
    )


class PriorConfig(Frozen):
    """The general image prior."""

    source: Literal["protocol", "scratch"] = Field(
        "protocol",
        description="`protocol`: the pinned prior where the protocol has one; `scratch`: train it",
    )
    gan: GanConfig = Field(GanConfig(), description="how it is trained when it is trained")


class AttackConfig(Frozen):
    """Fields that every attack has; an attack's own ``Config`` adds its own."""

    identity: IdentityConfig = Field(IdentityConfig(), description="the identity loss")
    augment: bool = Field(False, description="attack students together with the target (MA)")
    students: StudentsConfig = Field(StudentsConfig(), description="the students of MA")
    prior: PriorConfig = Field(PriorConfig(), description="the general image prior")
    max_rows: int = Field(
        512,
        ge=1,
        le=1_000_000,
        description="latents optimised at once; bounds memory, not results",
    )


class DefenseConfig(Frozen):
    """Base of every defense's ``Config``."""


class TargetAccess:
    """The target as an attack may see it, counting queries (one for each image).

    The model is held by closures, not attributes: an object of a lower level offers no way up.

    Attributes:
        classes: number of identities.
        queries: images that the target was asked about so far.
    """

    def __init__(self, model: Classifier) -> None:
        self.classes = model.classes
        self.queries = 0

        @torch.no_grad()
        def predict(images: Tensor) -> Tensor:
            self.queries += len(images)
            return model(images).argmax(1)

        self._predict = predict

    def predict(self, images: Tensor, streams: RowStreams | None = None) -> Tensor:
        """Predicted labels ``(n,)`` of images in [0, 1].

        Args:
            streams: where a stochastic target's noise comes from, a row an image.
        """
        with noise_from(streams):
            return self._predict(images)


class BlackBoxTarget(TargetAccess):
    """Access to confidence scores."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(model)

        @torch.no_grad()
        def scores(images: Tensor) -> Tensor:
            self.queries += len(images)
            return model(images).softmax(1)

        self._scores = scores

    def scores(self, images: Tensor, streams: RowStreams | None = None) -> Tensor:
        """Softmax scores ``(n, classes)``, without gradients; arguments as in :meth:`predict`."""
        with noise_from(streams):
            return self._scores(images)


class WhiteBoxTarget(BlackBoxTarget):
    """Access to weights: outputs are differentiable in the images."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(model)
        self.model = model

    def outputs(self, images: Tensor) -> Outputs:
        """Logits and features, differentiable in ``images``."""
        self.queries += len(images)
        return self.model.outputs(images)


ACCESS: dict[Access, type[TargetAccess]] = {
    "white-box": WhiteBoxTarget,
    "black-box": BlackBoxTarget,
    "label-only": TargetAccess,
}


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


@dataclass(frozen=True)
class PriorJob:
    """What an attack is given to train a prior of its own kind.

    Attributes:
        public: public images on the device.
        general: builds or loads the protocol's general prior, to start from.
        generator: CPU generator of everything random in the training.
    """

    public: ImageSet
    general: Callable[[], Prior]
    generator: torch.Generator
    progress: Progress


class Attack(ABC):
    """Base class of attacks; register with :func:`register_attack`.

    Class attributes:
        card: provenance; access: what it may see of the target; Config: its options.
        optimises_identity: whether it minimises the identity loss, and so has the variants
            ``+lom``, ``+ma`` and ``improved-``.
        prior_fields: the fields of ``Config`` that :meth:`train_prior` may read, and that its
            prior's key holds; None: all that the attack's own ``Config`` adds.
    """

    card: ClassVar[AttackCard]
    access: ClassVar[Access] = "white-box"
    optimises_identity: ClassVar[bool] = True
    prior_fields: ClassVar[tuple[str, ...] | None] = None
    Config: ClassVar[type[AttackConfig]] = AttackConfig

    def __init__(self, config: Any) -> None:
        self.config = config

    def train_prior(self, job: PriorJob) -> Prior:
        """The image prior of the attack; here the protocol's general prior.

        An attack that overrides this with a second argument ``target`` gets the frozen target,
        and its prior's key then depends on the target. ``self.config`` holds the fields of
        :attr:`prior_fields` alone; reading another one is an error.
        """
        return job.general()

    def prior_recipe(self) -> str:
        """The generative model that this configuration uses, as records name it."""
        return self.card.prior_recipe

    @abstractmethod
    def invert(self, problem: Problem) -> Tensor:
        """Reconstruct: ``(labels, samples, 3, h, w)`` in [0, 1]."""

    @classmethod
    def own_prior(cls) -> bool:
        """Whether the attack trains a prior of its own kind."""
        return cls.train_prior is not Attack.train_prior

    @classmethod
    def prior_config(cls, config: AttackConfig) -> AttackConfig:
        """What :meth:`train_prior` sees of a config: what its prior's key holds.

        Attacks and variants that differ in other fields share a prior, so those are not there to
        be read.

        Raises:
            RequestError: ``prior_fields`` names a field that the config has not.
        """
        kind = type(config)
        names = cls.prior_fields
        if names is None:
            names = tuple(
                name for name in kind.model_fields if name not in AttackConfig.model_fields
            )
        for name in names:
            if name not in kind.model_fields:
                raise RequestError(f"{cls.__name__}.prior_fields: the config has no field {name!r}")

        class Seen(kind):  # type: ignore[valid-type, misc]
            def __getattr__(self, name: str) -> Any:
                if name in kind.model_fields:
                    raise MibenchError(
                        f"{cls.__name__}.train_prior() reads config.{name}, which the key of its "
                        f"prior does not hold: add {name!r} to {cls.__name__}.prior_fields"
                    )
                return super().__getattr__(name)

        seen: AttackConfig = Seen.model_construct(**{name: getattr(config, name) for name in names})
        for name in set(kind.model_fields) - set(names):  # defaults that were filled in
            del seen.__dict__[name]
        return seen

    @classmethod
    def target_specific_prior(cls) -> bool:
        """Whether the prior depends on the target (see :meth:`train_prior`)."""
        return "target" in inspect.signature(cls.train_prior).parameters

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


class Defense(TrainingHooks):
    """Base class of defenses; register with :func:`register_defense`.

    A defense changes the shared training loop through the hooks of
    :class:`~mibench.training.TrainingHooks` and never writes a loop of its own.

    Class attributes:
        card: provenance; Config: its options.
        strength: the field of ``Config`` that is its main knob.
        strengths: values of that field for privacy–utility curves, 0 (the control) first.
        stochastic: whether the deployed model draws noise at inference.
        training: fields of the target's training that the defense's source prescribes.
    """

    card: ClassVar[DefenseCard]
    Config: ClassVar[type[DefenseConfig]] = DefenseConfig
    strength: ClassVar[str | None] = None
    strengths: ClassVar[tuple[float, ...]] = ()
    stochastic: ClassVar[bool] = False
    training: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: Any) -> None:
        self.config = config

    def pretrain(
        self, model: Classifier, public: ImageSet, generator: torch.Generator, progress: Progress
    ) -> Classifier:
        """Prepare weights on public images before the loop; nothing by default."""
        return model

    def postprocess(self, logits: Tensor) -> Tensor:
        """The deployed model's output, given its logits ``(n, classes)``."""
        return logits

    def guarantee(self) -> dict[str, float | str]:
        """Formal guarantee of the trained model: ``epsilon``, ``delta``; empty without one.

        The main knob may stand beside them where it was found in training, as noise for a given ε.
        Records take it through :func:`claimed`; its unit is the card's ``privacy_unit``.
        """
        return {}

    def audit(
        self,
        claimed: Mapping[str, float],
        images: int | None,
        training: TrainingConfig,
        *,
        complete: bool = True,
    ) -> list[str]:
        """Why a claimed guarantee is not what such a training comes to; empty where it is.

        Args:
            claimed: the numbers that :meth:`guarantee` returned, as a record states them.
            images: private training images, where the protocol's card states how many.
            training: the training's settings.
            complete: whether the training came to its end.
        """
        return ["the defense gives no guarantee"] if claimed else []

    def deploy(self, model: Classifier) -> Classifier:
        """The module that is deployed and attacked: the trained one with its output hook."""
        model.stochastic = self.stochastic
        if type(self).postprocess is not Defense.postprocess:
            model.output_filter = self.postprocess
        return model


@contextlib.contextmanager
def contained(*methods: type[Attack] | type[Defense]) -> Iterator[None]:
    """A method that ends the program (``sys.exit()``) fails, instead of ending mibench unheard.

    Ctrl-C and ordinary exceptions pass.

    Args:
        methods: whose hooks run inside the block.

    Raises:
        MibenchError: anything else was raised; it names the method and the hook.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        files = {inspect.getfile(cls): cls.__name__ for cls in methods}
        hook = next((each for each in frames if each.filename in files), frames[-1])
        where = f"{files.get(hook.filename, hook.filename)}: {hook.name}()"
        raise MibenchError(
            f"{where} raised {type(error).__name__} ({frames[-1].filename}, line "
            f"{frames[-1].lineno}), which would have ended mibench without a word: raise an "
            "Exception that says what is wrong"
        ) from error


def claimed(defense: Defense) -> dict[str, float]:
    """A defense's guarantee as it may stand in a record.

    Raises:
        MibenchError: it is no guarantee, or holds more than one.
    """
    given = defense.guarantee()
    numbers = {
        name: float(value)
        for name, value in given.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
    epsilon, delta = numbers.get("epsilon", math.nan), numbers.get("delta", 0.5)
    if not given or (
        numbers.keys() == given.keys() <= {"epsilon", "delta", defense.strength}
        and epsilon >= 0
        and 0 < delta < 1
        and defense.card.privacy_unit is not None
    ):
        return numbers
    raise MibenchError(
        f"{type(defense).__name__}.guarantee() returned {given!r}: it is empty, or finite numbers "
        "`epsilon`, at least 0, and `delta`, between 0 and 1, beside nothing but the defense's "
        "main knob; and the card names its `privacy_unit`"
    )


ATTACKS: Registry[Attack] = Registry("attack", Attack, "mibench.attacks", "mibench.attacks")
DEFENSES: Registry[Defense] = Registry("defense", Defense, "mibench.defenses", "mibench.defenses")
register_attack = ATTACKS.register
register_defense = DEFENSES.register
