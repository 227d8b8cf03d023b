"""95 % intervals over identities, or over seeds.

Reconstructions of one identity are not independent of each other, so intervals over identities
resample these, never single images. Intervals over seeds are for protocols with a handful of fixed
classes, where nothing is to be said of other classes, and the seeds vary most.

The rules have versions (``Record.rules``), and intervals of version 1 stay computable. They were
too narrow where few values stand behind a standard deviation: of 100 intervals from 20 subsamples
92 to 94 held the truth, of percentile intervals over five identities 78 to 84. Version 2 takes
Student's quantiles in both.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from scipy.special import ndtr, stdtrit
from torch import Tensor

from mibench.record import RULES_VERSION, Interval
from mibench.streams import stream

_TAILS = (0.025, 0.975)
_NORMAL_QUANTILE = 1.959963984540054


def means(values: Tensor) -> Tensor:
    """Of ``(..., identities)``, over the identities."""
    return values.mean(dim=-1)


def medians(values: Tensor) -> Tensor:
    """Of ``(..., identities)``, over the identities; of an even number, midway between two."""
    return values.quantile(0.5, dim=-1)


def bootstrap_interval(
    per_identity: Any,
    seed: int,
    resamples: int = 2000,
    rules: int = RULES_VERSION,
    centre: Callable[[Tensor], Tensor] = means,
) -> Interval:
    """95 % expanded percentile bootstrap interval of the mean over identities.

    Resampled means spread less than the mean does: their variance is that of the sample, divisor n
    instead of n - 1, and it is itself an estimate. So the tails cut off are not .025 but
    Φ(-√(n / (n - 1)) t), with t Student's .975 quantile of n - 1 degrees of freedom: .023 of 100
    identities, .001 of five. The interval never leaves the range of the values, so with five
    identities it holds the truth in at most 94 %, with two in 50 % of all cases.

    Args:
        per_identity: one value per identity, ``(identities,)``: a tensor, array or sequence.
        seed: equal seeds give equal intervals.
        resamples: number of bootstrap samples.
        rules: 1 cuts off .025 whatever the number of identities.
        centre: what to take in the place of the mean: :func:`medians`.

    Returns:
        Lower and upper end, both between the least and the greatest value.

    Raises:
        ValueError: fewer than two identities, or a value that is not finite.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; the expansion
    is Hesterberg's, What Teachers Should Know About the Bootstrap (The American Statistician 2015).
    """
    values = torch.as_tensor(per_identity).detach().cpu().to(torch.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs (identities >= 2,), got {tuple(values.shape)}")
    if not torch.isfinite(values).all():
        raise ValueError("an interval needs finite values")
    n = len(values)
    centres = centre(values[_resampled(seed, n, resamples)])
    tail = _TAILS[0]
    if rules > 1:
        tail = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, tail)))
    tails = torch.tensor((tail, 1 - tail), dtype=torch.float64)
    low, high = torch.quantile(centres, tails).tolist()
    return low, high


@functools.lru_cache(maxsize=4)  # checking a board's records draws the same ones again and again
def _resampled(seed: int, n: int, resamples: int) -> Tensor:
    """Positions of the identities in each resample ``(resamples, n)``."""
    return torch.randint(n, (resamples, n), generator=stream(seed, "bootstrap", n, resamples))


def paired_interval(
    difference: Any, seed: int = 0, resamples: int = 2000
) -> tuple[float, float, float]:
    """Mean difference of two methods with its 95 % paired bootstrap interval over identities.

    Pairing is in the input: each entry is method A minus method B on the same identity (and seed).
    Seeds are averaged first, so the interval is over identities and conditional on the seeds.

    Args:
        difference: ``(identities,)`` or ``(seeds, identities)``.
        seed: equal seeds give equal intervals.
        resamples: number of bootstrap samples.

    Returns:
        ``(mean, low, high)`` in the unit of the difference.

    Raises:
        ValueError: another shape, fewer than two identities, or a value that is not finite.
    """
    values = torch.as_tensor(difference).detach().cpu().to(torch.float64)
    if values.ndim not in (1, 2):
        raise ValueError(
            f"expected (identities,) or (seeds, identities), got {tuple(values.shape)}"
        )
    if values.ndim == 2:
        values = values.mean(dim=0)
    low, high = bootstrap_interval(values, seed, resamples)
    return float(values.mean()), low, high


def seeds_interval(difference: Any) -> tuple[float, float, float]:
    """Mean difference of two methods with its 95 % paired t interval over seeds.

    Identities are averaged first, so the interval is over independent seeds and conditional on the
    identities.

    Args:
        difference: ``(seeds, identities)``, method A minus method B of the same seed and identity.

    Returns:
        ``(mean, low, high)`` in the unit of the difference.

    Raises:
        ValueError: another shape, fewer than two seeds, or a value that is not finite.

    Source: Student, The Probable Error of a Mean (Biometrika 1908).
    """
    values = torch.as_tensor(difference).detach().cpu().to(torch.float64)
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"expected (seeds >= 2, identities), got {tuple(values.shape)}")
    if not torch.isfinite(values).all():
        raise ValueError("an interval needs finite values")
    of_seeds = values.mean(dim=1)
    mean = float(of_seeds.mean())
    quantile = float(stdtrit(len(of_seeds) - 1, _TAILS[1]))
    half = quantile * float(of_seeds.std()) / math.sqrt(len(of_seeds))
    return mean, mean - half, mean + half


def subsample_interval(
    statistic: Callable[[Tensor], float],
    identities: int,
    value: float,
    *,
    fraction: float = 0.5,
    rounds: int = 20,
    seed: int = 0,
    rules: int = RULES_VERSION,
) -> Interval:
    """95 % interval of a set metric, from subsamples of identities without replacement.

    A bootstrap repeats identities, and repeated images shrink a covariance; subsamples do not. With
    ``m = round(fraction * identities)`` identities a round, ``t_1 .. t_rounds`` the statistic on
    each and ``s`` their standard deviation (divisor ``rounds - 1``), the interval is
    ``value ± t * s * sqrt(m / (identities - m))``: the delete-d jackknife, d = identities - m.
    The factor is sqrt(m / n) for the smaller sample, over sqrt(1 - m / n) because the subsamples
    come without replacement from n; it is 1 for half of the identities.

    ``t`` is Student's .975 quantile. ``s`` is estimated twice over, from a few rounds and from a
    few identities, and the relative variances of the two estimates, 2 / (rounds - 1) and
    2 / (identities - 1), add up. So its degrees of freedom are (Satterthwaite)
    1 / (1 / (rounds - 1) + 1 / (identities - 1)), about 16 for 20 rounds and 100 identities.

    The spread is measured around the rounds' own mean, not around ``value``: a Fréchet distance
    is biased upwards by an amount that grows as the sample shrinks, so the rounds lie above
    ``value``, and centring on it would count that bias as spread. The interval is therefore about
    the metric *at this number of images*: it does not cover the distance of infinite samples.

    Args:
        statistic: takes sorted positions ``(m,)`` int64 among the identities, returns the metric.
        identities: number of identities (at least 4).
        value: the metric over all identities, the interval's centre.
        fraction: share of identities in a subsample, between 0 and 1.
        rounds: number of subsamples (at least 2).
        seed: equal seeds give equal intervals.
        rules: 1 takes the normal quantile, 1.96, in the place of Student's.

    Raises:
        ValueError: too few identities or rounds, or a round's metric is not finite.

    Source: Shao and Wu, A General Theory for Jackknife Variance Estimation (Annals of Statistics
    1989), delete-d jackknife; Politis and Romano (Annals of Statistics 1994) for subsampling;
    Satterthwaite, An Approximate Distribution of Estimates of Variance Components (Biometrics
    1946).
    """
    size = round(fraction * identities)
    if identities < 4 or not 2 <= size < identities or rounds < 2:
        raise ValueError(
            f"cannot subsample {size} of {identities} identities in {rounds} rounds: "
            "at least 4 identities and 2 rounds are needed"
        )
    generator = stream(seed, "subsample", identities, size)
    drawn = [
        torch.randperm(identities, generator=generator)[:size].sort().values for _ in range(rounds)
    ]
    results = torch.tensor([statistic(chosen) for chosen in drawn], dtype=torch.float64)
    spread = float(results.std())
    if not math.isfinite(spread):
        raise ValueError("the metric of a subsample is not finite")
    quantile = _NORMAL_QUANTILE
    if rules > 1:
        freedom = 1 / (1 / (rounds - 1) + 1 / (identities - 1))
        quantile = float(stdtrit(freedom, _TAILS[1]))
    half = quantile * spread * math.sqrt(size / (identities - size))
    return value - half, value + half
