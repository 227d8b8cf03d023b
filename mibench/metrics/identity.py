"""How much reconstructions say of who a person is: bits, leaks and an audited bound.

Everything follows from p-values, ``p = ρ / (N + 1)`` with ρ the rank of the attacked identity among
N decoys (:func:`mibench.judges.ranks`). Of a reconstruction that knows nothing of the identity,
``P(p <= α) <= α``, whatever it shows; of several judges the largest p counts, which keeps that.

Sources: the p-value is conformal (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random
World, 2005); accepts at a fixed false-match rate are those of ISO/IEC 19795-1; the audit is that of
Steinke, Nasr and Jagielski (Privacy Auditing with One Training Run, NeurIPS 2023) for δ = 0.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from scipy.special import betaincinv
from torch import Tensor

from mibench.metrics._shared import check_reconstructions, per_identity_metric
from mibench.metrics.intervals import medians
from mibench.record import LEAST_MATCHES, RULES_VERSION, MetricValue, missing

_CONFIDENCE = 0.95


def p_values(ranks: Tensor, decoys: int) -> Tensor:
    """The largest of the judges' p-values, in (0, 1].

    Args:
        ranks: ``(judges, identities, samples)``, from 1 to N + 1.
        decoys: N.

    Returns:
        float64 ``(identities, samples)``.

    Raises:
        ValueError: a rank that none of N decoys gives, or another shape.
    """
    if ranks.ndim != 3 or ranks.numel() == 0:
        raise ValueError(f"expected (judges, identities, samples), got {tuple(ranks.shape)}")
    if ranks.min() < 1 or ranks.max() > decoys + 1:
        raise ValueError(f"ranks among {decoys} decoys are 1 to {decoys + 1}")
    return ranks.cpu().to(torch.float64).amax(dim=0) / (decoys + 1)


def ranks_of(p: Tensor, decoys: int) -> Tensor:
    """The ranks ρ that :func:`p_values` were made of, int64: p is ρ / (N + 1), rounded."""
    return (p.to(torch.float64) * (decoys + 1)).round().long()


def identity_bits(p: Tensor, labels: Tensor, *, rules: int = RULES_VERSION) -> MetricValue:
    """Mean of log₂(1/p) over identities and samples.

    Knowing nothing gives E[log₂(1/U)] = 1.44 for one judge, and 1.44 / k to 1.44 for the largest
    of k p-values; the most that N decoys can show is log₂(N + 1).

    Args:
        p: ``(identities, samples)``, of :func:`p_values`.
        labels: the attacked identities ``(identities,)``.
        rules: version of the intervals' rules.
    """
    check_reconstructions(p, labels)
    return per_identity_metric(_bits(p).mean(dim=1), p.numel(), 0, rules)


def leak(
    p: Tensor, labels: Tensor, alpha: Fraction, decoys: int, *, rules: int = RULES_VERSION
) -> MetricValue:
    """Share of reconstructions with p <= α: true accepts at the false-match rate α.

    Args:
        p: ``(identities, samples)``.
        labels: the attacked identities ``(identities,)``.
        alpha: the false-match rate.
        decoys: N; with αN < 10 the metric is missing.
        rules: version of the intervals' rules.
    """
    check_reconstructions(p, labels)
    if alpha * decoys < LEAST_MATCHES:
        return missing(
            f"{decoys:,} decoys are too few for a false-match rate of {float(alpha):g}: "
            f"{math.ceil(LEAST_MATCHES / alpha):,} are needed"
        )
    hits = ranks_of(p, decoys) <= math.floor(alpha * (decoys + 1))
    metric = per_identity_metric(hits.double().mean(dim=1), hits.numel(), 0, rules)
    rows = tuple("".join("01"[hit] for hit in row) for row in hits.tolist())
    return metric.model_copy(update={"hits": rows})


def median_rank(
    p: Tensor, labels: Tensor, decoys: int, *, rules: int = RULES_VERSION
) -> MetricValue:
    """Median over identities of the median rank of their samples among N + 1 people.

    Of one judge's ranks, knowing nothing gives (N + 2) / 2; of the largest of k, up to N / 2^(1/k).

    Args:
        p: ``(identities, samples)``.
        labels: the attacked identities ``(identities,)``.
        decoys: N.
        rules: version of the intervals' rules.
    """
    check_reconstructions(p, labels)
    ranks = ranks_of(p, decoys)
    found = per_identity_metric(medians(ranks.double()), p.numel(), 0, rules, medians)
    rows = tuple(map(tuple, ranks.tolist()))
    return found.model_copy(update={"ranks": rows, "among": decoys + 1})


def excess_bits(
    p: Tensor, lookup: Tensor, labels: Tensor, *, rules: int = RULES_VERSION
) -> MetricValue:
    """Identity bits minus look-up's against the same target, identity by identity.

    Look-up answers with the public images that the target scores highest. A comparison with it is
    none with knowing nothing, and none between defenses: a bad target weakens look-up, too.

    Args:
        p: ``(identities, samples)``.
        lookup: look-up's, ``(identities, its samples)``.
        labels: the attacked identities ``(identities,)``.
        rules: version of the intervals' rules.
    """
    check_reconstructions(p, labels)
    check_reconstructions(lookup, labels)
    difference = _bits(p).mean(dim=1) - _bits(lookup).mean(dim=1)
    return per_identity_metric(difference, p.numel(), 0, rules)


def beats_lookalike(
    scores: Tensor, lookalike: Tensor, labels: Tensor, *, rules: int = RULES_VERSION
) -> MetricValue:
    """Share of identities whose best guess is closer than the look-alike, for every judge.

    The look-alike is the public image most like the identity, found with the private data: no
    search of the public images does better. A tie is no win.

    Args:
        scores: ``(judges, identities)``, the best guess with the identity's template.
        lookalike: ``(judges, identities)``, the same of each judge's own look-alike.
        labels: the attacked identities ``(identities,)``.
        rules: version of the intervals' rules.

    Raises:
        ValueError: shapes disagree.
    """
    if scores.shape != lookalike.shape or scores.ndim != 2:
        raise ValueError(
            "expected (judges, identities) twice, got "
            f"{tuple(scores.shape)} and {tuple(lookalike.shape)}"
        )
    return _shares((scores > lookalike).all(dim=0), labels, rules)


def two_choice_accuracy(
    own: Tensor, other: Tensor, labels: Tensor, *, rules: int = RULES_VERSION
) -> MetricValue:
    """How often the best guess is closer to the identity than to the one that a coin passed by.

    Args:
        own: scores ``(identities,)`` of the best guess with the identity's template.
        other: the same with the template of the identity that the coin could as well have made the
            private one; a tie is wrong.
        labels: the attacked identities ``(identities,)``.
        rules: version of the intervals' rules.
    """
    if own.shape != other.shape or own.ndim != 1:
        raise ValueError(
            f"expected (identities,) twice, got {tuple(own.shape)} and {tuple(other.shape)}"
        )
    return _shares(own > other, labels, rules)


def epsilon_lower_bound(right: int, identities: int) -> float:
    """The least ε of pure identity-level differential privacy that two-choice guesses allow.

    Let a private identity be one of two, (a, b), by a fair coin, and let the training be ε-DP when
    one identity's images are replaced by another's. Given the trained model and all other coins,
    the odds of this coin are then at most e^ε : 1, so that any guess of it, made from the model, is
    right with probability at most e^ε / (1 + e^ε). Taken one coin after the other, the number of
    right guesses among K is stochastically dominated by Binomial(K, e^ε / (1 + e^ε)). With p_L the
    one-sided 95 % lower limit of Clopper and Pearson, p_L exceeds e^ε / (1 + e^ε) in at most 5 % of
    runs, and so does ``ln(p_L / (1 - p_L))`` exceed ε.

    It is a bound on pure ε (δ = 0), with an identity as the unit: never to be compared by
    arithmetic with DP-SGD's (ε, δ), whose unit is an image. It cannot exceed what K right guesses
    of K give: 3.49 for 100.

    Args:
        right: right guesses.
        identities: K, guesses in all.

    Returns:
        The bound, 0 where p_L is at most ½.

    Raises:
        ValueError: more right guesses than guesses, or none at all.
    """
    if not 0 <= right <= identities or identities < 1:
        raise ValueError(f"{right} right guesses of {identities}")
    if right == 0:
        return 0.0
    lower = float(betaincinv(right, identities - right + 1, 1 - _CONFIDENCE))
    return math.log(lower / (1 - lower)) if lower > 0.5 else 0.0


def audited_epsilon(two_choice: MetricValue) -> MetricValue:
    """:func:`epsilon_lower_bound` as a metric, of :func:`two_choice_accuracy`."""
    if two_choice.value is None:
        return missing(two_choice.reason or "")
    guesses = len(two_choice.per_identity or ())
    right = round(two_choice.value * guesses)
    return MetricValue(value=epsilon_lower_bound(right, guesses), n=guesses)


def _bits(p: Tensor) -> Tensor:
    return -p.to(torch.float64).log2()


def _shares(wins: Tensor, labels: Tensor, rules: int) -> MetricValue:
    wins = wins.cpu()[:, None]
    check_reconstructions(wins, labels.cpu())
    metric = per_identity_metric(wins.double().mean(dim=1), wins.numel(), 0, rules)
    return metric.model_copy(update={"hits": tuple("01"[win] for win in wins[:, 0].tolist())})
