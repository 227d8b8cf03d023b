"""Magnitude pruning: most weights are zero, and hold nothing of the training images."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mibench.models.classifiers import Classifier
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.training.loop import Job
from mibench.types import DefenseCard

START, END = 0.25, 0.75
"""Shares of the training's steps after which pruning starts, and is complete."""
EXPONENT = 3
"""Of the sparsity's rise, as published: fast at first, slower the fewer weights are left."""


def prunable(model: Classifier) -> list[Tensor]:
    """The weights of the backbone's convolutions and linear layers, each once.

    Neither the last layer, nor biases, normalisations, embeddings and tokens, which are few.
    """
    assert isinstance(model.backbone, nn.Module)
    layers = [m for m in model.backbone.modules() if isinstance(m, (_ConvNd, nn.Linear))]
    return list(dict.fromkeys(layer.weight for layer in layers))


def smallest(weights: list[Tensor], sparsity: float) -> list[Tensor]:
    """Masks of the weights that are smallest in magnitude among all, a share ``sparsity`` of them.

    Returns:
        For each weight a mask of its shape, True where it is to be pruned: exactly
        ``round(sparsity · all)`` in sum.
    """
    magnitudes = torch.cat([each.detach().abs().flatten() for each in weights])
    pruned = torch.zeros_like(magnitudes, dtype=torch.bool)
    count = round(sparsity * len(magnitudes))
    pruned[magnitudes.topk(count, largest=False).indices] = True
    parts = pruned.split([each.numel() for each in weights])
    return [part.view(each.shape) for part, each in zip(parts, weights, strict=True)]


class Pruner:
    """Prunes the weights of one training, after each of its optimizer's steps.

    Args:
        weights: what is pruned, in place.
        sparsity: share of them that is zero in the end.
        steps: steps of the training.
        updates: times that the sparsity rises, between :data:`START` and :data:`END`.
    """

    def __init__(self, weights: list[Tensor], sparsity: float, steps: int, updates: int) -> None:
        self.weights, self.sparsity, self.steps, self.updates = weights, sparsity, steps, updates
        self.step, self.level = 0, 0
        self.masks: list[Tensor] = []

    def level_after(self, step: int) -> int:
        """How often the sparsity has risen after so many steps, at most ``updates`` times."""
        # Quarters of whole numbers are exact in floating point, and so is what is divided here.
        risen = (step - START * self.steps) * self.updates // ((END - START) * self.steps)
        return max(0, min(self.updates, int(risen)))

    def sparsity_at(self, level: int) -> float:
        """s·(1 − (1 − level/updates)³), which is 0 at first and s in the end."""
        return self.sparsity * (1 - (1 - level / self.updates) ** EXPONENT)

    @torch.no_grad()
    def __call__(self, *_: Any) -> None:
        """Set what is pruned to zero again; where the sparsity has risen, choose more.

        After every step, since gradients, momentum and decay go on moving it. Zero again, it is
        among the smallest, so that what was pruned once stays so.
        """
        self.step += 1
        self.apply()
        level = self.level_after(self.step)
        if level > self.level:
            self.level = level
            self.masks = smallest(self.weights, self.sparsity_at(level))
            self.apply()

    def apply(self) -> None:
        """Set what is pruned to zero; nothing is while there are no masks yet."""
        for weight, mask in zip(self.weights, self.masks, strict=False):
            weight.masked_fill_(mask, 0)


@register_defense("pruning")
class Pruning(Defense["Pruning.Config"]):
    """Global magnitude pruning in the course of training, which goes on with what is left.

    For a quarter of the training's steps no weight is pruned; up to three quarters the sparsity
    rises as 1 − (1 − t)³; in the last quarter it is reached, and what is left is fine-tuned.

    References:
        Han, Pool, Tran, Dally. "Learning both Weights and Connections for Efficient Neural
        Networks". NeurIPS 2015.
        Zhu and Gupta. "To prune, or not to prune: exploring the efficacy of pruning for model
        compression". arXiv 2017: the gradual schedule.
    """

    card = DefenseCard(
        kind="training",
        title="Learning both Weights and Connections for Efficient Neural Networks",
        authors="Song Han, Jeff Pool, John Tran, William J. Dally",
        year=2015,
        venue="NeurIPS",
        url="https://arxiv.org/abs/1506.02626",
        deviations=(
            "The paper is about the size of networks; as a defense pruning is a baseline of this "
            "benchmark's.",
            "The sparsity rises within one training as Zhu and Gupta's (arXiv 1710.01878), so that "
            "the budget is that of every target; the paper trains, prunes and retrains.",
            "One threshold for the whole backbone, where the paper has one for each layer, a "
            "multiple of its weights' deviation: `sparsity` alone says how much is pruned. A layer "
            "may lose all of its weights.",
            "Weights of convolutions and linear layers are pruned, except those of the last layer, "
            "which has a row for each identity; biases and normalisations are kept, as are "
            "embeddings and tokens.",
            "Of networks that standardise their weights in use (NFNets) the stored weights are "
            "pruned: where a filter's mean is not zero, what acts in the place of one is not "
            "either.",
        ),
        adaptive_note="None is needed: the target is an ordinary network, which every attack is "
        "made for.",
        undefended_control=True,
    )

    class Config(DefenseConfig):
        """Options of pruning."""

        sparsity: float = Field(
            0.8,
            ge=0,
            lt=1,
            description="share of the backbone's weights that are zero in the end; 0: the control",
        )
        updates: int = Field(
            20,
            ge=1,
            le=1_000_000,
            description="times that it is chosen anew what is pruned, as the sparsity rises",
        )

    strength = "sparsity"
    strengths = (0, 0.5, 0.8, 0.9, 0.95, 0.98)

    def optimizer(self, job: Job) -> torch.optim.Optimizer:
        """The usual optimizer, which prunes after each of its steps; not in the control."""
        usual = super().optimizer(job)
        if self.config.sparsity > 0:
            steps = job.config.steps(self.steps_per_epoch(job))
            weights = prunable(job.model)
            # The pruner is the optimizer's, which ends with the training: nothing of it is left in
            # the model or here, for another training by the same defense.
            usual.register_step_post_hook(
                Pruner(weights, self.config.sparsity, steps, self.config.updates)
            )
        return usual
