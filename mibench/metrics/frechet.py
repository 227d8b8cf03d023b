"""Fréchet distances between sets of features.

Every distance is ``|m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)`` (Dowson and Landau 1982;
Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017, equation 6). The last
trace is the sum of the singular values of ``F1 F2ᵀ`` for any factors ``FᵀF = S``: nothing is
inverted and no root of a non-symmetric matrix is taken, so covariances of few images (rank below
the dimension) are as exact as others.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mibench.errors import MibenchError
from mibench.metrics._shared import check_reconstructions, check_reference, double, not_finite
from mibench.metrics.intervals import subsample_interval
from mibench.record import RULES_VERSION, Interval, MetricValue, missing

MINIMUM_SUCCESSFUL = 10
"""Fewest successful reconstructions for a distance: below, a covariance is mostly noise."""


@dataclass(frozen=True)
class _Moments:
    """Mean ``(D,)`` and factor ``(rows, D)`` of a covariance ``factorᵀ factor``."""

    mean: Tensor
    factor: Tensor


def _moments(features: Tensor) -> _Moments:
    if len(features) < 2:
        raise MibenchError(f"{len(features)} features: a covariance needs at least 2 images")
    if reason := not_finite("the features", features):
        raise MibenchError(reason)
    values = double(features)
    mean = values.mean(dim=0)
    factor = (values - mean) / math.sqrt(len(values) - 1)
    if factor.shape[0] > factor.shape[1]:
        factor = torch.linalg.qr(factor, mode="r").R
    return _Moments(mean, factor)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Fréchet distance of two sets of features ``(n, D)`` and ``(m, D)``; at least 0.

    Raises:
        MibenchError: a set has fewer than two features, or a number is not finite.
        ValueError: the sets differ in width.
    """
    a, b = _moments(first), _moments(second)
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of widths {len(a.mean)} and {len(b.mean)}")
    try:
        root = torch.linalg.svdvals(a.factor @ b.factor.T).sum()
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined,unused-ignore]
        raise MibenchError(f"the singular values did not converge: {error}") from error
    shift = (a.mean - b.mean).square().sum()
    value = float(shift + a.factor.square().sum() + b.factor.square().sum() - 2 * root)
    if not math.isfinite(value):
        raise MibenchError("the Fréchet distance is not finite")
    # Never negative in exact arithmetic (|F1 F2ᵀ|_* <= |F1| |F2|): what is below 0 is rounding.
    return max(value, 0.0)


def frechet_metric(
    fake: Tensor,
    labels: Tensor,
    real: Tensor,
    real_labels: Tensor,
    *,
    keep: Tensor | None = None,
    seed: int = 0,
    rounds: int = 20,
    rules: int = RULES_VERSION,
) -> MetricValue:
    """Fréchet distance of reconstructions to the private training images of the same identities.

    FID is that of Inception's features, ``fd_evaluator`` that of the evaluator's penultimate ones.

    The interval comes from :func:`mibench.metrics.intervals.subsample_interval`: a round takes half
    of the identities, reconstructions and references alike. The distance is biased upwards, the
    more so the fewer the images: compare only at equal n.

    Args:
        fake: features of the reconstructions ``(identities, samples, D)``.
        labels: attacked identities ``(identities,)`` int64.
        real: features of private training images ``(n, D)``; those of other identities are ignored.
        real_labels: their identities ``(n,)`` int64.
        keep: booleans ``(identities, samples)``: use these reconstructions only; the reference
            stays that of all attacked identities.
        seed: seeds the interval.
        rounds: subsamples behind the interval.
        rules: version of the intervals' rules, see :mod:`mibench.metrics.intervals`.

    Returns:
        The distance with n = reconstructions used, or missing when it cannot be computed. Without
        an interval for fewer than four identities, or when a subsample is too small.

    Raises:
        ValueError: shapes disagree, or an identity is attacked twice.
    """
    identities, samples = check_reconstructions(fake, labels)
    check_reference(fake, real, real_labels)
    device = fake.device
    kept = (torch.ones(identities, samples, dtype=torch.bool) if keep is None else keep).to(device)
    if kept.shape != (identities, samples):
        raise ValueError(f"keep {tuple(kept.shape)} for {identities} x {samples} reconstructions")
    labels, real_labels = labels.to(real.device), real_labels.to(real.device)

    def distance(chosen: Tensor) -> float:
        rows = chosen.to(device)
        reference = real[torch.isin(real_labels, labels[chosen.to(real.device)])]
        return frechet_distance(fake[rows][kept[rows]].to(real.device), reference)

    try:
        value = distance(torch.arange(identities))
    except MibenchError as error:
        return missing(str(error))
    interval: Interval | None = None
    if identities >= 4:
        # A round may hold too few kept reconstructions: the value stands, without an interval.
        with contextlib.suppress(MibenchError):
            low, high = subsample_interval(
                distance, identities, value, rounds=rounds, seed=seed, rules=rules
            )
            interval = max(low, 0.0), high
    return MetricValue(
        value=value,
        n=int(kept.sum()),
        interval=interval,
        interval_over="identity subsamples" if interval else None,
    )
