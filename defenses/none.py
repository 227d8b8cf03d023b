"""No defense: the undefended target, trained with the same budget as every other."""

from __future__ import annotations

from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.types import DefenseCard


@register_defense("none")
class NoDefense(Defense[DefenseConfig]):
    """The shared training loop as it is.

    Its privacy–utility curve is early stopping, the trivial defense that every other must beat, and
    that is the target's own field ``epochs``.

    References:
        Fredrikson, Jha, Ristenpart. "Model Inversion Attacks that Exploit Confidence Information
        and Basic Countermeasures". CCS 2015.
    """

    card = DefenseCard(
        title="No defense",
        authors="–",
        year=2015,
        venue="baseline",
        url="https://doi.org/10.1145/2810103.2813677",
        deviations=(
            "The link is the attack that started the field (Fredrikson et al., CCS 2015).",
            "Its strength is early stopping: sweep `target.epochs`.",
        ),
        adaptive_note="None is needed: every attack is made for the undefended target.",
    )

    @classmethod
    def knob(cls) -> str:
        """Early stopping."""
        return "target.epochs"
