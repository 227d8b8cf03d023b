"""Templates of identities, and the rank of one identity among decoys.

A reconstruction ``r`` of identity ``y`` is scored against everybody's template t by the cosine
``s(r, t) = <φ(r), t>``. Its rank is ``ρ = 1 + #{decoys d: s(r, t_d) >= s(r, t_y)}``. If ``r`` knows
nothing of ``y``, then ``y`` and the N decoys are exchangeable given ``r``, and ``p = ρ / (N + 1)``
has ``P(p <= α) <= α`` whatever ``r`` shows: a face that resembles everybody resembles the decoys,
too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_STEPS = 127  # of int8 on each side of zero
ROUNDING = 1e-6  # of a cosine, by which a tie may look like none
_SCORES_AT_ONCE = 2**24  # 64 MB of them


def template(embeddings: Tensor) -> Tensor:
    """Normalised mean of an identity's embeddings: ``(..., g, d)`` to ``(..., d)``."""
    return F.normalize(embeddings.mean(dim=-2), dim=-1)


def leave_one_out(embeddings: Tensor) -> Tensor:
    """For each image, the template of its identity's others: ``(..., g, d)`` to ``(..., g, d)``.

    Raises:
        ValueError: there is one image an identity, which has no others.
    """
    if embeddings.shape[-2] < 2:
        raise ValueError("a template without the image itself needs another image")
    return F.normalize(embeddings.sum(dim=-2, keepdim=True) - embeddings, dim=-1)


def quantised(templates: Tensor) -> Tensor:
    """Templates ``(..., d)`` as int8, each scaled to its own largest component."""
    largest = templates.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12)
    return (templates / largest * _STEPS).round().to(torch.int8)


def dequantised(templates: Tensor) -> Tensor:
    """Unit vectors ``(..., d)`` of int8 templates."""
    return F.normalize(templates.float(), dim=-1)


@dataclass(frozen=True)
class Gallery:
    """Whom a judge compares with: decoys, and as many images an identity as theirs were made of.

    Attributes:
        decoys: int8 templates ``(N, d)`` of identities that nobody trained on.
        images: images behind each template, g.
    """

    decoys: Tensor
    images: int

    def __len__(self) -> int:
        return len(self.decoys)

    def enrolled(self, embeddings: Tensor) -> Tensor:
        """Unit templates ``(k, d)`` of identities, rounded as the decoys' are.

        Args:
            embeddings: ``(k, m, d)``, m at least g images an identity; the first g count.

        Raises:
            ValueError: there are fewer: templates of unlike sizes do not compare.
        """
        if embeddings.shape[1] < self.images:
            raise ValueError(
                f"{embeddings.shape[1]} images an identity; decoys are of {self.images}"
            )
        return dequantised(quantised(template(embeddings[:, : self.images])))

    def held_out(self, embeddings: Tensor) -> Tensor:
        """For each image of identities ``(k, m, d)``, the template of the first g others.

        Raises:
            ValueError: m is less than g + 1.
        """
        first, rest = embeddings[:, : self.images + 1], embeddings[:, self.images + 1 :]
        if first.shape[1] <= self.images:
            raise ValueError(
                f"{first.shape[1]} images an identity; decoys are of {self.images}, so that each "
                f"image needs {self.images} others"
            )
        own = template(first[:, :-1])[:, None].expand_as(rest)
        return dequantised(quantised(torch.cat([leave_one_out(first), own], dim=1)))


def ranks(embeddings: Tensor, own: Tensor, decoys: Tensor) -> Tensor:
    """Rank of each image's identity among the decoys, 1 the most alike; ties count against it.

    Args:
        embeddings: ``(n, d)``.
        own: unit templates ``(n, d)`` of the identity that each image is judged for.
        decoys: unit templates ``(N, d)``.

    Returns:
        int64 ``(n,)``, from 1 to N + 1. An embedding that is not finite has the last rank.
    """
    found = []
    at_once = max(1, _SCORES_AT_ONCE // max(1, len(decoys)))
    for images, mine in zip(embeddings.split(at_once), own.split(at_once), strict=True):
        score = (images * mine).sum(dim=1, keepdim=True)
        further = images @ decoys.T < score - ROUNDING  # false for NaN, which is last
        found.append(1 + (~further).sum(dim=1))
    return torch.cat(found)
