"""What the author of a defense implements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar, final

from mibench.errors import MibenchError
from mibench.models.classifiers import Classifier
from mibench.registry import Registry
from mibench.training.loop import Hooks, TrainingConfig
from mibench.types import DefenseCard, Frozen


class DefenseConfig(Frozen):
    """Base of every defense's ``Config``."""


C = TypeVar("C", bound=DefenseConfig)


class Defense(Hooks, Generic[C]):
    """Base class of defenses; register with :func:`register_defense`.

    A defense changes the shared training through hooks: :meth:`build`, those of
    :class:`~mibench.training.loop.Hooks`, and :meth:`guarantee`. It writes no loop of its own.

    Class attributes:
        card: provenance; Config: its options.
        strength: the field of ``Config`` that is its main knob.
        strengths: values of that field for privacy–utility curves, 0 (the control) first.
        stochastic: whether the deployed model draws noise at inference; where options decide it,
            ``__init__`` sets it.
        training: fields of the target's training that the defense's source prescribes.
    """

    card: ClassVar[DefenseCard]
    Config: ClassVar[type[DefenseConfig]] = DefenseConfig
    strength: ClassVar[str | None] = None
    strengths: ClassVar[tuple[float, ...]] = ()
    stochastic: bool = False
    training: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: C) -> None:
        self.config = config

    def build(self, model: Classifier) -> Classifier:
        """Wrap or replace layers, ``model.head`` and ``model.output`` among them.

        Called before training and again before what was trained is loaded, so all that is learned
        or fitted later has its place here, as a parameter or a buffer.
        """
        return model

    @classmethod
    def knob(cls) -> str | None:
        """Path of its main knob, ``"defense.scale"``; None where it has none."""
        return cls.strength and f"defense.{cls.strength}"

    @classmethod
    def filters(cls) -> bool:
        """Whether it changes answers alone, as its card says; the base class has no card."""
        return hasattr(cls, "card") and cls.card.filters

    @final
    def built(self, model: Classifier) -> Classifier:
        """The module that is trained or loaded, deployed and attacked."""
        model = self.build(model)
        model.stochastic = self.stochastic
        return model

    def guarantee(self) -> dict[str, float]:
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


def claimed(defense: Defense[Any]) -> dict[str, float]:
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


DEFENSES: Registry[Defense[Any]] = Registry(
    "defense", Defense, "mibench.defenses", "mibench.defenses"
)
register_defense = DEFENSES.register
