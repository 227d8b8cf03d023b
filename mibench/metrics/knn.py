"""Distance of reconstructions to the private training images of their identity."""

from __future__ import annotations

import torch
from torch import Tensor

from mibench.metrics._shared import (
    check_reconstructions,
    check_reference,
    double,
    not_finite,
    per_identity_metric,
)
from mibench.record import RULES_VERSION, MetricValue, missing


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared L2 distances ``(n, m)`` between rows of ``a (n, D)`` and ``b (m, D)``, float64."""
    a, b = double(a), double(b)
    # Differences lose digits to the rows' common offset when they are expanded: take it out first.
    centre = b.mean(dim=0)
    a, b = a - centre, b - centre
    products = a @ b.T
    return ((a * a).sum(dim=1)[:, None] + (b * b).sum(dim=1)[None] - 2 * products).clamp_min(0)


def knn_distance(
    fake: Tensor,
    labels: Tensor,
    real: Tensor,
    real_labels: Tensor,
    seed: int = 0,
    rules: int = RULES_VERSION,
) -> MetricValue:
    """Squared L2 to the nearest private *training* feature of the same identity.

    The mean over all reconstructions. Comparable only with the same evaluator. Identities are
    handled one at a time, which bounds memory by one identity's images.

    Args:
        fake: evaluator features of the reconstructions ``(identities, samples, D)``.
        labels: attacked identities ``(identities,)`` int64.
        real: evaluator features of the private training images ``(n, D)``, any identities.
        real_labels: their identities ``(n,)`` int64.
        seed: seeds the interval.
        rules: version of the intervals' rules, see :mod:`mibench.metrics.intervals`.

    Returns:
        A squared distance in evaluator features; missing when a feature is not finite or an
        attacked identity has no training image.

    Raises:
        ValueError: shapes disagree, or an identity is attacked twice.

    Source: Zhang et al., The Secret Revealer (CVPR 2020), section 4.3, "KNN Dist"; squared as in
    the released code.
    """
    identities, samples = check_reconstructions(fake, labels)
    check_reference(fake, real, real_labels)
    if reason := not_finite("evaluator features", fake, real):
        return missing(reason)
    absent = labels.cpu()[~torch.isin(labels.cpu(), real_labels.cpu())].tolist()
    if absent:
        return missing(f"no private training image of identities {absent[:5]} ({len(absent)})")
    nearest = [
        squared_distances(features, real[real_labels == label]).min(dim=1).values.mean()
        for features, label in zip(fake, labels.to(real_labels.device), strict=True)
    ]
    return per_identity_metric(torch.stack(nearest), identities * samples, seed, rules)
