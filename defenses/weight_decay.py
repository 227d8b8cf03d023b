"""Weight decay: small weights, which remember less."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field

from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.training.loop import Job
from mibench.types import DefenseCard


@register_defense("weight-decay")
class WeightDecay(Defense["WeightDecay.Config"]):
    """The target's training with more L2 weight decay than the protocol gives every target.

    A baseline, as early stopping is one: what a defense must beat that only makes its target fit
    less well.

    References:
        Krogh and Hertz. "A Simple Weight Decay Can Improve Generalization". NeurIPS 1991.
    """

    card = DefenseCard(
        kind="training",
        title="A Simple Weight Decay Can Improve Generalization",
        authors="Anders Krogh, John A. Hertz",
        year=1991,
        venue="NeurIPS",
        url="https://papers.nips.cc/paper/1991/hash/8eefcfdf5990e441f0fb6f3fad709e21-Abstract.html",
        deviations=(
            "The paper is about generalisation; as a defense it is a baseline of this benchmark's.",
            "It is added to `target.weight_decay` and, as that, also shrinks biases and the "
            "factors and shifts of normalisations; with `target.optimizer=adamw` it is decoupled "
            "from the gradient (Loshchilov and Hutter, ICLR 2019).",
        ),
        adaptive_note="None is needed: the target is an ordinary network, which every attack is "
        "made for.",
        undefended_control=True,
    )

    class Config(DefenseConfig):
        """Options of weight decay."""

        decay: float = Field(
            0.02,
            ge=0,
            le=1e30,
            description="weight decay on top of `target.weight_decay`; 0: the control",
        )

    strength = "decay"
    strengths = (0, 0.005, 0.01, 0.02, 0.03, 0.05)

    def optimizer(self, job: Job) -> torch.optim.Optimizer:
        """The usual optimizer, with the sum of both decays."""
        decay = job.config.weight_decay + self.config.decay
        more = job.config.model_copy(update={"weight_decay": decay})
        return super().optimizer(replace(job, config=more))
