"""Precision, recall, density and coverage: fidelity and diversity, identity by identity."""

from __future__ import annotations

import torch
from torch import Tensor

from mibench.metrics._shared import (
    check_reconstructions,
    check_reference,
    not_finite,
    per_identity_metric,
)
from mibench.metrics.knn import squared_distances
from mibench.record import RULES_VERSION, MetricValue, missing

PRDC_KEYS = ("precision", "recall", "density", "coverage")


def prdc(
    fake: Tensor,
    labels: Tensor,
    real: Tensor,
    real_labels: Tensor,
    k: int = 3,
    seed: int = 0,
    rules: int = RULES_VERSION,
) -> dict[str, MetricValue]:
    """Precision, recall, density and coverage within each identity, averaged over identities.

    With R real and F fake images of an identity, and the radius of an image its distance to its
    k-th nearest other image of the same set:

    - precision: share of fakes within the radius of at least one real;
    - recall: share of reals within the radius of at least one fake;
    - density: (fake, real) pairs with the fake within the real's radius, over k F (may exceed 1);
    - coverage: share of reals that have a fake within their radius.

    "Within" includes the boundary (Kynkäänniemi, equation 1; Naeem's code excludes it, which
    differs on ties only).

    Args:
        fake: features of the reconstructions ``(identities, samples, D)``.
        labels: attacked identities ``(identities,)`` int64.
        real: features of private training images ``(n, D)``; those of other identities are ignored.
        real_labels: their identities ``(n,)`` int64.
        k: neighbours of a radius; the protocols use 3.
        seed: seeds the intervals.
        rules: version of the intervals' rules, see :mod:`mibench.metrics.intervals`.

    Returns:
        The keys ``PRDC_KEYS``; n = identities x samples for each. A radius needs k + 1 images: all
        four are missing when an attacked identity has fewer reals, recall when there are fewer
        samples per identity; all are missing when a feature is not finite.

    Raises:
        ValueError: shapes disagree, k < 1, or an identity is attacked twice.

    Source: Kynkäänniemi et al., Improved Precision and Recall Metric (NeurIPS 2019), equations 1
    and 2; Naeem et al., Reliable Fidelity and Diversity Metrics (ICML 2020), equations 4 to 6.
    """
    identities, samples = check_reconstructions(fake, labels)
    check_reference(fake, real, real_labels)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if reason := not_finite("the features", fake, real):
        return dict.fromkeys(PRDC_KEYS, missing(reason))
    per_identity: dict[str, list[Tensor]] = {key: [] for key in PRDC_KEYS}
    for features, label in zip(fake, labels.to(real_labels.device), strict=True):
        own = real[real_labels == label]
        if len(own) <= k:
            reason = f"identity {int(label)} has {len(own)} training images; k = {k} needs {k + 1}"
            return dict.fromkeys(PRDC_KEYS, missing(reason))
        across = squared_distances(features, own)
        within = across <= _radii(own, k)[None]
        per_identity["precision"].append(_mean(within.any(dim=1)))
        per_identity["density"].append(_mean(within.sum(dim=1)) / k)
        per_identity["coverage"].append(_mean(within.any(dim=0)))
        if samples > k:
            reached = across <= _radii(features, k)[:, None]
            per_identity["recall"].append(_mean(reached.any(dim=0)))
    n = identities * samples
    return {
        key: per_identity_metric(torch.stack(values), n, seed, rules)
        if values
        else missing(f"{samples} reconstructions an identity; recall at k = {k} needs {k + 1}")
        for key, values in per_identity.items()
    }


def _radii(features: Tensor, k: int) -> Tensor:
    """Squared distance ``(n,)`` of each row of ``(n, D)`` to its k-th nearest other row."""
    distances = squared_distances(features, features)
    distances.fill_diagonal_(float("inf"))
    return distances.kthvalue(k, dim=1).values


def _mean(values: Tensor) -> Tensor:
    return values.cpu().to(torch.float64).mean()  # Apple's GPUs have no float64
