"""Metrics: pure functions on tensors, and what each of them means.

A metric that cannot be computed is a :class:`~mibench.record.MetricValue` without a value and with
a reason, never 0. Wrong shapes are a caller's mistake and raise ``ValueError``.
"""

from __future__ import annotations

from mibench.metrics.accuracy import (
    accuracy_both,
    attack_accuracy,
    evaluator_agreement,
    natural_accuracy,
    near_chance,
    successes,
)
from mibench.metrics.attributes import attribute_error
from mibench.metrics.catalogue import METRICS, MetricInfo
from mibench.metrics.frechet import frechet_distance, frechet_metric
from mibench.metrics.identity import (
    audited_epsilon,
    beats_lookalike,
    epsilon_lower_bound,
    excess_bits,
    identity_bits,
    leak,
    median_rank,
    p_values,
    ranks_of,
    two_choice_accuracy,
)
from mibench.metrics.inception import fid_successful, find_inception, inception_features
from mibench.metrics.intervals import (
    bootstrap_interval,
    means,
    medians,
    paired_interval,
    seeds_interval,
    subsample_interval,
)
from mibench.metrics.knn import knn_distance
from mibench.metrics.prdc import prdc

__all__ = [
    "METRICS",
    "MetricInfo",
    "accuracy_both",
    "attack_accuracy",
    "attribute_error",
    "audited_epsilon",
    "beats_lookalike",
    "bootstrap_interval",
    "epsilon_lower_bound",
    "evaluator_agreement",
    "excess_bits",
    "fid_successful",
    "find_inception",
    "frechet_distance",
    "frechet_metric",
    "identity_bits",
    "inception_features",
    "knn_distance",
    "leak",
    "means",
    "median_rank",
    "medians",
    "natural_accuracy",
    "near_chance",
    "p_values",
    "paired_interval",
    "prdc",
    "ranks_of",
    "seeds_interval",
    "subsample_interval",
    "successes",
    "two_choice_accuracy",
]
