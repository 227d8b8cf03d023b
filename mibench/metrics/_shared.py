"""Checks and summaries that several metrics share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mibench.metrics.intervals import bootstrap_interval, means
from mibench.record import RULES_VERSION, MetricValue, missing


def double(values: Tensor) -> Tensor:
    """``values`` detached, in float64 (on the CPU where the device has no float64)."""
    values = values.detach()
    if values.device.type == "mps":
        values = values.cpu()
    return values.to(torch.float64)


def check_reconstructions(values: Tensor, labels: Tensor) -> tuple[int, int]:
    """Check ``values (identities, samples, ...)`` against ``labels (identities,)``.

    Returns:
        The number of identities and of samples per identity.

    Raises:
        ValueError: shapes disagree, something is empty, or an identity appears twice (intervals
            over identities take them as independent).
    """
    if values.ndim < 2 or values.numel() == 0:
        raise ValueError(f"expected (identities, samples, ...), got shape {tuple(values.shape)}")
    if labels.shape != (len(values),):
        raise ValueError(f"{len(values)} identities need as many labels, got {len(labels)}")
    if len(set(labels.tolist())) != len(labels):
        raise ValueError("labels name an identity twice: one row per attacked identity")
    return values.shape[0], values.shape[1]


def check_reference(fake: Tensor, real: Tensor, real_labels: Tensor) -> None:
    """Check that ``real (n, D)`` has labels and the width of ``fake (identities, samples, D)``."""
    if fake.ndim != 3 or real.ndim != 2 or fake.shape[2] != real.shape[1]:
        raise ValueError(
            "expected fake (identities, samples, D) and real (n, D), "
            f"got {tuple(fake.shape)} and {tuple(real.shape)}"
        )
    if real_labels.shape != (len(real),):
        raise ValueError(f"{len(real)} real features need as many labels, got {len(real_labels)}")


def not_finite(what: str, *tensors: Tensor) -> str | None:
    """Why a metric cannot use ``tensors``: some of their numbers are not finite. Else None."""
    bad = sum(int((~torch.isfinite(values)).sum()) for values in tensors)
    total = sum(values.numel() for values in tensors)
    return f"{bad} of {total} numbers are not finite in {what}" if bad else None


def per_identity_metric(
    per_identity: Tensor,
    n: int,
    seed: int,
    rules: int = RULES_VERSION,
    centre: Callable[[Tensor], Tensor] = means,
) -> MetricValue:
    """The mean of ``per_identity (identities,)`` with its bootstrap interval over identities.

    Args:
        per_identity: one value per attacked identity.
        n: number of reconstructions behind them.
        seed: seeds the bootstrap.
        rules: version of the intervals' rules, see :mod:`mibench.metrics.intervals`.
        centre: what to take in the place of the mean, of ``(..., identities)``.

    Returns:
        The metric; missing when a value is not finite; without an interval for one identity.
    """
    values = double(per_identity).cpu()
    value = float(centre(values))
    if not math.isfinite(value):
        return missing(not_finite("the metric's values per identity", values) or "overflow")
    interval = (
        bootstrap_interval(values, seed, rules=rules, centre=centre) if len(values) > 1 else None
    )
    return MetricValue(
        value=value,
        n=n,
        interval=interval,
        interval_over="identities" if interval else None,
        per_identity=tuple(values.tolist()),
    )
