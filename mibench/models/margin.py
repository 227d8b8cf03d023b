"""By how much a classifier prefers other classes to the one that is asked for."""

from __future__ import annotations

import torch
from torch import Tensor


def margin(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """The mean of the k largest ℓ_j, j ≠ y, minus ℓ_y: ``(n,)`` of logits ``(n, classes)``.

    With one it is the max-margin loss max_{j≠y} ℓ_j − ℓ_y of PLG-MI (AAAI 2023), with more that of
    Diff-MI.
    """
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.topk(k, dim=1).values.mean(1) - own
