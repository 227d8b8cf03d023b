"""How far the attributes read off a reconstruction are from the identity's true ones."""

from __future__ import annotations

from torch import Tensor

from mibench.metrics._shared import (
    check_reconstructions,
    double,
    not_finite,
    per_identity_metric,
)
from mibench.record import RULES_VERSION, MetricValue, missing


def attribute_error(
    predicted: Tensor, true: Tensor, labels: Tensor, seed: int = 0, rules: int = RULES_VERSION
) -> MetricValue:
    """Mean absolute difference of predicted and true attributes, over all reconstructions.

    Args:
        predicted: attributes that a regressor reads off ``(identities, samples, P)``, in [0, 1].
        true: the attacked identities' attributes ``(identities, P)``, in [0, 1].
        labels: attacked identities ``(identities,)`` int64.
        seed: seeds the interval.
        rules: version of the intervals' rules, see :mod:`mibench.metrics.intervals`.

    Returns:
        An error in [0, 1], in units of an attribute's range; missing when a prediction is not
        finite.

    Raises:
        ValueError: shapes disagree, an identity appears twice, or a finite value is outside [0, 1].
    """
    identities, samples = check_reconstructions(predicted, labels)
    if predicted.ndim != 3 or true.shape != (identities, predicted.shape[2]):
        raise ValueError(
            "expected predicted (identities, samples, P) and true (identities, P), "
            f"got {tuple(predicted.shape)} and {tuple(true.shape)}"
        )
    if reason := not_finite("the attributes", predicted, true):
        return missing(reason)
    for name, values in (("predicted", predicted), ("true", true)):
        if float(values.min()) < 0 or float(values.max()) > 1:
            raise ValueError(f"{name} attributes must lie in [0, 1]: clamp the regressor's output")
    read = double(predicted)
    error = (read - double(true).to(read.device)[:, None]).abs().mean(dim=(1, 2))
    return per_identity_metric(error, identities * samples, seed, rules)
