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


class FeatureStatistics:
    """Mean and covariance of features that arrive in batches, in float64; empty at first.

    Source: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances (1979).
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None

    def update(self, features: Tensor) -> FeatureStatistics:
        """Add ``features (batch, D)``; returns itself.

        Raises:
            ValueError: another shape, or another D than before.
        """
        if features.ndim != 2:
            raise ValueError(f"expected features (batch, D), got {tuple(features.shape)}")
        if len(features):
            values = double(features)
            mean = values.mean(dim=0)
            centred = values - mean
            self._add(len(values), mean, centred.T @ centred)
        return self

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Add everything that ``other`` has seen; returns itself.

        Raises:
            ValueError: ``other`` has another D.
        """
        if other._mean is not None and other._scatter is not None:
            self._add(other.n, other._mean, other._scatter)
        return self

    @property
    def mean(self) -> Tensor:
        """Mean ``(D,)``, float64.

        Raises:
            MibenchError: no feature was added.
        """
        if self._mean is None:
            raise MibenchError("no features: a mean needs at least 1 image")
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """Covariance ``(D, D)``, float64, with divisor n - 1.

        Raises:
            MibenchError: fewer than two features were added.
        """
        if self._scatter is None or self.n < 2:
            raise MibenchError(f"{self.n} features: a covariance needs at least 2 images")
        return self._scatter / (self.n - 1)

    def _add(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if self._mean is None or self._scatter is None:
            self.n, self._mean, self._scatter = n, mean, scatter
            return
        if mean.shape != self._mean.shape:
            raise ValueError(f"features of width {len(mean)} after width {len(self._mean)}")
        total = self.n + n
        shift = mean - self._mean
        self._scatter = self._scatter + scatter + torch.outer(shift, shift) * (self.n * n / total)
        self._mean = self._mean + shift * (n / total)
        self.n = total


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Fréchet distance of two sets by their statistics; at least 0.

    Raises:
        MibenchError: a set has fewer than two features, or a number is not finite.
        ValueError: the sets differ in width.
    """
    return _distance(_moments_of_statistics(a), _moments_of_statistics(b))


def frechet_from_features(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of two sets ``(n, D)`` and ``(m, D)``; at least 0.

    The same number as :func:`frechet_distance`, and faster where a set has fewer images than
    features: its centred features are the covariance's factor as they are.

    Raises:
        MibenchError: a set has fewer than two features, or a number is not finite.
        ValueError: the sets differ in width.
    """
    return _distance(_moments_of_features(a), _moments_of_features(b))


@dataclass(frozen=True)
class _Moments:
    """Mean ``(D,)`` and factor ``(rows, D)`` of a covariance ``factorᵀ factor``."""

    mean: Tensor
    factor: Tensor


def _moments_of_statistics(statistics: FeatureStatistics) -> _Moments:
    covariance = statistics.covariance
    if not torch.isfinite(covariance).all():
        raise MibenchError("the features' covariance is not finite")
    values, vectors = torch.linalg.eigh(covariance)
    # Eigenvalues within rounding of 0 (of either sign) are 0: their roots would not be negligible.
    rounding = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    values = torch.where(values > rounding, values, torch.zeros_like(values))
    return _Moments(statistics.mean, values.sqrt()[:, None] * vectors.T)


def _moments_of_features(features: Tensor) -> _Moments:
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


def _distance(a: _Moments, b: _Moments) -> float:
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
        return frechet_from_features(fake[rows][kept[rows]].to(real.device), reference)

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


def fd_evaluator(
    fake: Tensor,
    labels: Tensor,
    real: Tensor,
    real_labels: Tensor,
    seed: int = 0,
    rules: int = RULES_VERSION,
) -> MetricValue:
    """Fréchet distance in the evaluator's penultimate features; see :func:`frechet_metric`."""
    return frechet_metric(fake, labels, real, real_labels, seed=seed, rules=rules)
