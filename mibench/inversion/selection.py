"""Which latents an attack starts from, and which of its reconstructions it keeps.

Both use the target alone and go before and after any attack that optimises latents; both change
published numbers a lot, so they are part of the attack's settings (Plug & Play Attacks, Struppek et
al., ICML 2022, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.data.views import Views
from mibench.models.access import BlackBoxTarget, TargetAccess, asked_for
from mibench.priors import Prior
from mibench.progress import Progress
from mibench.streams import RowStreams, stream
from mibench.types import BUDGETED, Frozen

ROWS = 512  # images in one question to the target; no answer depends on it
# Of the final selection (released code of Plug & Play Attacks).
CROPS = Views(scale=(0.5, 0.9), ratio=(0.8, 1.2), mirror=True)


class SelectionConfig(Frozen):
    """Selection before and after an attack that optimises latents."""

    pool: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="initial selection: the target scores so many latents once, and each identity "
        "starts from those that are most its own, which a prior of identities draws anew for each; "
        "null: from latents as they are drawn",
        json_schema_extra=BUDGETED,
    )
    candidates: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="final selection: so many reconstructions are made of each identity, and those "
        "kept that the target is surest of over random crops; null: as many as are wanted",
        json_schema_extra=BUDGETED,
    )
    crops: int = Field(
        100, ge=1, le=100_000, description="random crops that a final selection's scores are over"
    )

    def made(self, wanted: int) -> int:
        """Reconstructions that are made of an identity of which so many are wanted."""
        return max(self.candidates or 0, wanted)


@dataclass(frozen=True)
class Pool:
    """Latents that the target was asked about before the attack.

    Attributes:
        latents: ``(size, d)``.
        scores: the target's for their images ``(size, classes)``; of one that gives labels alone, 1
            for the label and 0 for the others. Of a prior that makes images of identities they are
            each identity's own for its own images.
        own: images that the target was asked about for each identity alone: none, but of a prior
            that makes images of identities.
    """

    latents: Tensor
    scores: Tensor
    own: int = 0

    def best(self, labels: Tensor, n: int) -> Tensor:
        """The ``n`` latents that score highest for each identity ``(labels, n, d)``, best first."""
        return self.ranked(labels, n)[0]

    def ranked(self, labels: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """The latents of :meth:`best`, and the identity's scores of them ``(labels, n)``."""
        scores, order = self.scores[:, labels].topk(n, dim=0)
        return self.latents[order.T], scores.T


@torch.no_grad()
def scored_pool(
    target: TargetAccess,
    prior: Prior,
    labels: Tensor,
    size: int,
    *,
    seed: int,
    mirror: bool,
    box: Callable[[Tensor], Tensor] = lambda latents: latents,
    device: torch.device,
    progress: Progress,
) -> Pool:
    """Draw latents, which depend on the seed alone and so are the same for every target.

    Their images, and the queries, are shared by all identities; but where the prior makes images of
    identities, the target is asked about each one's own, for it alone.

    Args:
        labels: the attacked identities ``(k,)``.
        size: how many.
        mirror: whether a score is the mean over an image and its mirror image.
        box: brings latents ``(n, d)`` to where the attack keeps its own.
    """

    def asked(x: Tensor, streams: RowStreams) -> Tensor:
        if isinstance(target, BlackBoxTarget):
            return target.scores(x, streams)
        return F.one_hot(target.predict(x, streams), target.classes).float()

    def scored(x: Tensor, rows: list[int], *of: int) -> Tensor:
        noise = RowStreams([stream(seed, "pool", row, "noise", *of) for row in rows], device)
        seen = asked(x, noise)
        return (seen + asked(x.flip(3), noise)) / 2 if mirror else seen

    latents, scores = [], []
    parts = list(torch.arange(size).split(ROWS))
    for part in progress.steps(len(parts), "initial selection"):
        rows = parts[part].tolist()
        z = box(prior.latents(RowStreams([stream(seed, "pool", row) for row in rows], device)))
        if prior.classes is None:
            seen = scored(prior.images(z), rows)
        else:
            seen = torch.full((len(rows), target.classes), -torch.inf, device=device)
            for y in labels:
                of = y.expand(len(rows))
                with asked_for(of):
                    seen[:, y] = scored(prior.images(z, of), rows, int(y))[:, y]
        latents.append(z)
        scores.append(seen)
    own = 0 if prior.classes is None else size * (2 if mirror else 1)
    return Pool(torch.cat(latents), torch.cat(scores), own)


@torch.no_grad()
def surest(
    target: BlackBoxTarget,
    images: Tensor,
    labels: Tensor,
    keep: int,
    *,
    crops: int,
    mirror: bool,
    streams: Callable[[str, int], RowStreams],
) -> Tensor:
    """The images of each identity that the target is surest of, best first.

    Sure is a high mean score of the identity over random crops, where one that merely fools the
    target at one place falls back.

    Args:
        images: ``(labels, candidates, 3, h, w)`` in [0, 1].
        keep: how many of the candidates.
        streams: the problem's, of a purpose and of so many rows an identity.

    Returns:
        ``(labels, keep, 3, h, w)``.
    """
    identities, candidates = images.shape[:2]
    drawn = streams("final selection", candidates)
    sure = []
    for rows in torch.arange(identities * candidates).split(ROWS):
        own = drawn.of(rows)
        x = images.flatten(0, 1)[rows.to(images.device)]
        y = labels[rows.to(labels.device) // candidates]
        seen = torch.zeros(len(rows), device=images.device)
        for _ in range(crops):
            with asked_for(y):
                scores = target.scores(CROPS(x, own, mirror), own)
            seen = seen + scores.gather(1, y[:, None]).squeeze(1) / crops
        sure.append(seen)
    best = torch.cat(sure).view(identities, candidates).topk(keep, dim=1).indices
    return images[torch.arange(identities, device=images.device)[:, None], best]
