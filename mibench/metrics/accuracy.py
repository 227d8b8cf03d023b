"""Accuracies from an evaluator's logits: does it name the attacked identity?"""

from __future__ import annotations

import torch
from scipy.special import betaincinv
from torch import Tensor

from mibench.metrics._shared import check_reconstructions, not_finite, per_identity_metric
from mibench.record import RULES_VERSION, MetricValue, missing

_LEAST_KAPPA = 0.1


def in_top(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether each label is among the ``k`` highest logits.

    A label counts when fewer than ``k`` *other* classes score at least as high, so a tie is not a
    hit: a classifier that gives every class the same score names nobody.

    Args:
        logits: ``(..., K)``, finite.
        labels: ``(...)`` int64 in [0, K).
        k: at least 1.

    Returns:
        Booleans ``(...)``.

    Raises:
        ValueError: shapes disagree, or a label is outside [0, K).
    """
    classes = logits.shape[-1]
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"labels {tuple(labels.shape)} for logits {tuple(logits.shape)}")
    if bool((labels < 0).any()) or bool((labels >= classes).any()):
        raise ValueError(f"labels must lie in [0, {classes})")
    own = logits.gather(-1, labels.to(logits.device)[..., None])
    # The label's own class is always >= itself, hence "at most k" and not "fewer than k".
    return (logits >= own).sum(dim=-1) <= k


def successes(logits: Tensor, labels: Tensor) -> Tensor:
    """Which reconstructions the evaluator assigns to their identity (top-1).

    Args:
        logits: ``(identities, samples, K)``, finite.
        labels: ``(identities,)`` int64.

    Returns:
        Booleans ``(identities, samples)``.
    """
    identities, samples = check_reconstructions(logits, labels)
    return in_top(logits, labels[:, None].expand(identities, samples), 1)


def attack_accuracy(
    logits: Tensor, labels: Tensor, k: int, seed: int = 0, rules: int = RULES_VERSION
) -> MetricValue:
    """Share of all reconstructions whose identity is in the evaluator's top ``k``.

    Args:
        logits: evaluator's, ``(identities, samples, K)``.
        labels: attacked identities ``(identities,)`` int64, as indices into K.
        k: 1 or 5 in records.
        seed: seeds the interval.
        rules: version of the intervals' rules, see :mod:`mibench.metrics.intervals`.

    Returns:
        A fraction in [0, 1]; missing when a logit is not finite, or when ``k >= K``, where every
        classifier scores 1.

    Raises:
        ValueError: shapes disagree, a label is out of range or appears twice.

    Source: Zhang et al., The Secret Revealer (CVPR 2020), section 4.3.
    """
    identities, samples = check_reconstructions(logits, labels)
    if k >= logits.shape[-1]:
        return missing(f"top-{k} among {logits.shape[-1]} classes is always 1")
    if reason := not_finite("the evaluator's logits", logits):
        return missing(reason)
    hits = in_top(logits, labels[:, None].expand(identities, samples), k)
    return _share(hits, seed, rules)


def accuracy_both(
    logits: Tensor, other_logits: Tensor, labels: Tensor, seed: int = 0, rules: int = RULES_VERSION
) -> MetricValue:
    """Share of all reconstructions that *both* evaluators assign to the attacked identity (top-1).

    Args:
        logits: first evaluator's, ``(identities, samples, K)``.
        other_logits: second evaluator's, the same shape and class order.
        labels: attacked identities ``(identities,)`` int64.
        seed: seeds the interval.
        rules: version of the intervals' rules, see :mod:`mibench.metrics.intervals`.

    Returns:
        A fraction in [0, 1]; missing when a logit is not finite.

    Raises:
        ValueError: shapes disagree, a label is out of range or appears twice.
    """
    _check_pair(logits, other_logits)
    check_reconstructions(logits, labels)
    if reason := not_finite("the evaluators' logits", logits, other_logits):
        return missing(reason)
    return _share(successes(logits, labels) & successes(other_logits, labels), seed, rules)


def evaluator_agreement(
    logits: Tensor, other_logits: Tensor, labels: Tensor, seed: int = 0, rules: int = RULES_VERSION
) -> MetricValue:
    """Share of all reconstructions for which two evaluators name the same class, right or wrong.

    Args and errors as in :func:`accuracy_both`.

    Returns:
        A fraction in [0, 1]; missing when a logit is not finite.
    """
    _check_pair(logits, other_logits)
    check_reconstructions(logits, labels)
    if reason := not_finite("the evaluators' logits", logits, other_logits):
        return missing(reason)
    return _share(logits.argmax(dim=-1) == other_logits.argmax(dim=-1), seed, rules)


def natural_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images that a classifier assigns to their label (top-1).

    Args:
        logits: ``(n, K)``.
        labels: ``(n,)`` int64.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: shapes disagree, no image, a label out of range, or a logit that is not finite.
    """
    if logits.ndim != 2 or len(logits) == 0:
        raise ValueError(f"expected logits (n, K), got {tuple(logits.shape)}")
    if reason := not_finite("the classifier's logits", logits):
        raise ValueError(reason)
    return float(in_top(logits, labels, 1).cpu().to(torch.float64).mean())


def near_chance(accuracy: float, images: int, chance: float) -> bool:
    """Whether a classifier is hardly better than guessing, as far as its test can tell.

    It is when the lower end of the exact 95 % interval of its accuracy (Clopper and Pearson), on
    the scale that is 0 at chance and 1 at perfection (Cohen's κ), lies below 0.1: either it has
    learned next to nothing, or the images are too few to show that it has.

    Args:
        accuracy: share of the images that it is right on, in [0, 1].
        images: how many images that is over.
        chance: accuracy of guessing, 1 / classes, below 1.

    Source: Clopper and Pearson, The Use of Confidence or Fiducial Limits (Biometrika 1934).
    """
    right = round(accuracy * images)
    lower = float(betaincinv(right, images - right + 1, 0.025)) if right else 0.0
    return (lower - chance) / (1 - chance) < _LEAST_KAPPA


def _share(hits: Tensor, seed: int, rules: int) -> MetricValue:
    shares = hits.cpu().to(torch.float64).mean(dim=1)
    metric = per_identity_metric(shares, hits.numel(), seed, rules)
    rows = tuple("".join("01"[hit] for hit in row) for row in hits.tolist())
    return metric.model_copy(update={"hits": rows})


def _check_pair(logits: Tensor, other_logits: Tensor) -> None:
    if logits.shape != other_logits.shape:
        raise ValueError(
            "two evaluators need logits of one shape and class order, "
            f"got {tuple(logits.shape)} and {tuple(other_logits.shape)}"
        )
