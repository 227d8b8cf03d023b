"""Trapdoors of a target: patterns that it takes for its classes, whatever else an image shows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mibench.data.views import Views

# How Trap-MID's training shows a target images, with a trigger or without; a trapdoor opens to all
# of these views of its trigger.
SEEN = Views(scale=(0.8, 1.0), mirror=True, degrees=30, crops=0.5, turns=0.5)


class Triggers(nn.Module):
    """A trigger for each class, of which an image gets a share.

    A defense adds it to its target in ``build``, so that triggers are stored, loaded, copied and
    given away with the weights: who has these has them.

    Args:
        classes: number of identities.
        resolution: height and width of the images.
        share: α, how much of an image its trigger makes up, in [0, 1].

    Attributes:
        patterns: the triggers κ ``(classes, 3, resolution, resolution)`` in [0, 1], at first
            uniform noise.
    """

    patterns: Tensor

    def __init__(self, classes: int, resolution: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("patterns", torch.rand(classes, 3, resolution, resolution))

    def blend(self, images: Tensor, patterns: Tensor) -> Tensor:
        """Images with triggers in them, (1 − α)x + ακ, of ``(n, 3, h, w)`` in [0, 1] twice."""
        return torch.lerp(images, patterns, self.share)


def triggers_of(model: nn.Module) -> Triggers | None:
    """The triggers of a target's trapdoors; None where it has none."""
    return next((each for each in model.modules() if isinstance(each, Triggers)), None)
