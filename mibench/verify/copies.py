"""Whether reconstructions are copies of images: a picture that was handed in, not found.

A private test picture filed as a reconstruction passes every recomputation of metrics, which reward
it. What tells the two apart is that no attack comes as near to a picture as its copy does.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from mibench.data.images import Dataset, to_float
from mibench.progress import SILENT, Progress

LEAST = 0.97
"""Correlation from which on an image is a copy, unless distinct pictures of a set are as near.

Measured on synthfaces-32 (docs/threat-model.md): the nearest of kedmi's 500 reconstructions has
.94; of 200 copies all that were mirrored or brightened have more, 99 % of those saved as JPEG 90.
"""

_SAMPLE = 400  # known images behind the usual distance between distinct ones
_QUANTILE = 0.995  # of these: photographs of one scene are in some sets twice
_THUMBNAIL = 10  # pixels, for finding candidates
_CANDIDATES = 8
_SHIFT = 2  # pixels that a copy may be moved by
_NUMBERS = 2**23  # held at once


def copies(
    images: Tensor, data: Dataset, progress: Progress = SILENT, public: bool = True
) -> list[str]:
    """Name the reconstructions that are copies of private or public images; empty for none.

    A copy has a correlation with an image, over all pixels and channels, of at least ``LEAST``, and
    more than all but two of 400 images of the data set have with their nearest other: digits look
    alike. Brightness, contrast, mirroring and a shift by two pixels make no difference, and a
    little noise, compression or blur none that matters.

    Args:
        images: reconstructions ``(identities, samples, 3, h, w)`` in [0, 1].
        data: the protocol's images.
        progress: told of each chunk.
        public: whether copies of public images count: they are what look-up answers with.
    """
    parts = {name: getattr(data, name) for name in ("train", "val", "test", "public")}
    known = torch.cat([part.images for part in parts.values()])
    where = [(name, i) for name, part in parts.items() for i in range(len(part))]
    some = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:_SAMPLE]
    some = some.to(known.device)
    usual, _ = nearest(to_float(known[some]), known, progress, apart=some)
    threshold = max(LEAST, float(usual.double().quantile(_QUANTILE)))
    found, which = nearest(images.flatten(0, 1), known, progress)
    result = []
    for row in (found > threshold).nonzero()[:, 0].tolist():
        part, position = where[int(which[row])]
        if part == "public" and not public:
            continue
        identity, sample = divmod(row, images.shape[1])
        result.append(
            f"identity {identity}, sample {sample} is {part} image {position} "
            f"(correlation {float(found[row]):.4f}, {threshold:.4f} is allowed)"
        )
    return result


def nearest(
    images: Tensor, known: Tensor, progress: Progress = SILENT, apart: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The highest correlation of each image with a known one, shifted and mirrored, and with which.

    Candidates are found by thumbnails, which a shift hardly changes.

    Args:
        images: ``(n, 3, h, w)`` in [0, 1].
        known: ``(m, 3, h, w)``, uint8.
        progress: told of each chunk.
        apart: for each image the position of the known one that does not count ``(n,)``.

    Returns:
        Correlations in [-1, 1] and positions in ``known``, each ``(n,)``.
    """
    own = torch.stack([_thumbnails(each) for each in (images, images.flip(-1))])
    scores = torch.cat(
        [(own @ _thumbnails(to_float(part)).T).amax(0) for part in known.split(4096)], dim=1
    )
    if apart is not None:
        scores[torch.arange(len(images), device=scores.device), apart] = -2
    chosen = scores.topk(min(_CANDIDATES, len(known)), dim=1).indices
    rows = max(1, _NUMBERS // (_CANDIDATES * images[0].numel()))
    parts = list(zip(images.split(rows), chosen.split(rows), strict=True))
    values = [
        _aligned(parts[i][0], to_float(known[parts[i][1]]))
        for i in progress.steps(len(parts), "looking for copies")
    ]
    best = torch.cat(values).max(dim=1)
    return best.values, chosen.gather(1, best.indices[:, None])[:, 0]


def _aligned(images: Tensor, candidates: Tensor) -> Tensor:
    """Correlations ``(n, candidates)`` of images ``(n, 3, h, w)``, the best of all alignments."""
    height, width = (size - 2 * _SHIFT for size in images.shape[-2:])
    inner = images[..., _SHIFT : _SHIFT + height, _SHIFT : _SHIFT + width]
    both = torch.stack([_normal(inner), _normal(inner.flip(-1))])  # (2, n, pixels)
    best = images.new_full(candidates.shape[:2], -1)
    for y, x in itertools.product(range(2 * _SHIFT + 1), repeat=2):
        window = _normal(candidates[..., y : y + height, x : x + width], 2)
        best = torch.maximum(best, torch.einsum("bnp,ncp->bnc", both, window).amax(0))
    return best


def _thumbnails(images: Tensor) -> Tensor:
    return _normal(F.interpolate(images, size=_THUMBNAIL, mode="area"))


def _normal(images: Tensor, dims: int = 1) -> Tensor:
    """Flattened after ``dims`` dimensions, without brightness and contrast: of mean 0, length 1."""
    flat = images.flatten(dims)
    centred = flat - flat.mean(dim=-1, keepdim=True)
    return centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-6)
