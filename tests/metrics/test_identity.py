"""The identity metrics against hand-computed values, independent code, and simulated nulls."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from mibench.judges import dequantised, quantised, ranks
from mibench.metrics import (
    audited_epsilon,
    beats_lookalike,
    epsilon_lower_bound,
    excess_bits,
    identity_bits,
    leak,
    median_rank,
    p_values,
    two_choice_accuracy,
)
from mibench.metrics.intervals import bootstrap_interval, medians

LABELS = torch.arange(3)
P = torch.tensor([[0.5, 0.25], [0.001, 0.01], [1.0, 0.002]], dtype=torch.float64)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(made, dim=-1)


def test_the_larger_p_counts() -> None:
    given = torch.tensor([[[1, 5]], [[3, 2]]])
    assert p_values(given, 9).tolist() == [[0.3, 0.5]]


@pytest.mark.parametrize("rank", [0, 11])
def test_impossible_ranks(rank: int) -> None:
    with pytest.raises(ValueError, match="1 to 10"):
        p_values(torch.full((1, 1, 1), rank), 9)


def test_bits_by_hand() -> None:
    metric = identity_bits(P, LABELS)
    expected = [1.5, (math.log2(1000) + math.log2(100)) / 2, math.log2(500) / 2]
    assert metric.per_identity == pytest.approx(expected)
    assert metric.value == pytest.approx(sum(expected) / 3)
    assert metric.interval == bootstrap_interval(torch.tensor(expected, dtype=torch.float64), 0)
    assert metric.n == 6


def test_the_median_rank_is_of_identities_and_of_their_samples() -> None:
    given = torch.tensor([[[7, 100, 1], [3, 3, 90], [100, 99, 98], [50, 20, 10]]])
    p = p_values(given, 99)
    metric = median_rank(p, torch.arange(4), 99)
    assert metric.per_identity == (7, 3, 99, 20)
    assert metric.value == np.median(given[0].median(1).values.numpy()) == 13.5
    assert (metric.n, metric.among) == (12, 100)
    assert metric.ranks == tuple(map(tuple, given[0].tolist()))
    rng, medians = np.random.default_rng(0), []
    for _ in range(20_000):
        medians.append(np.median(rng.choice([7, 3, 99, 20], 4)))
    low, high = metric.interval or (0, 0)
    assert low == min(medians)  # of four identities the tails are beyond every resample
    assert high == max(medians)


def test_the_interval_of_a_median_is_that_of_resampled_medians() -> None:
    """Against scipy's bootstrap, whose tails are not expanded, of many identities."""
    values = torch.randn(400, generator=torch.Generator().manual_seed(3)).double().exp()
    ours = bootstrap_interval(values, 0, centre=medians)
    theirs = stats.bootstrap(
        (values.numpy(),), np.median, n_resamples=5000, method="percentile", rng=0
    ).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.05)


def test_leak_counts_ranks_exactly() -> None:
    """With N = 9,999, p = 100 / 10,000 is within α = .01, though it is no number of binary."""
    n = 9999
    p = p_values(torch.tensor([[[100, 101], [1, 5000]]]), n)
    metric = leak(p, torch.arange(2), Fraction(1, 100), n)
    assert metric.hits == ("10", "10")
    assert metric.value == 0.5


def test_leak_needs_ten_expected_matches() -> None:
    p = torch.full((2, 1), 0.5, dtype=torch.float64)
    assert leak(p, torch.arange(2), Fraction(1, 1000), 10_000).value == 0
    absent = leak(p, torch.arange(2), Fraction(1, 1000), 9_999)
    assert absent.value is None
    assert "10,000 are needed" in str(absent.reason)


def test_excess_is_paired_by_identity() -> None:
    lookup = torch.tensor([[0.5], [0.5], [0.5]], dtype=torch.float64)
    metric = excess_bits(P, lookup, LABELS)
    bits = identity_bits(P, LABELS).per_identity or ()
    assert metric.per_identity == pytest.approx([each - 1 for each in bits])
    assert excess_bits(P, P, LABELS).value == 0


def test_a_win_is_one_for_both_judges() -> None:
    guess = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.1, 0.5]])
    lookalike = torch.tensor([[0.4, 0.4, 0.4], [0.4, 0.4, 0.5]])
    assert beats_lookalike(guess, lookalike, LABELS).hits == ("1", "0", "0")  # the last is a tie


def test_a_tie_between_two_is_wrong() -> None:
    metric = two_choice_accuracy(torch.tensor([0.5, 0.2, 0.9]), torch.full((3,), 0.5), LABELS)
    assert metric.hits == ("0", "0", "1")


def test_ranks_agree_with_brute_force() -> None:
    images, decoys = unit(50, 16), unit(2000, 16, seed=1)
    own = unit(50, 16, seed=2)
    own[7] = decoys[11]  # a decoy that looks exactly like the person counts against it
    found = ranks(images, own, decoys)
    for image, mine, rank in zip(images.numpy(), own.numpy(), found.tolist(), strict=True):
        alike = [float(image @ decoy) >= float(image @ mine) for decoy in decoys.numpy()]
        assert rank == 1 + sum(alike)


@pytest.mark.parametrize("seed", range(20))
def test_a_tie_counts_against_the_identity_however_it_is_rounded(seed: int) -> None:
    images, decoys = unit(30, 64, seed=seed), unit(300, 64, seed=100 + seed)
    assert (ranks(images, decoys[:30], decoys) >= 2).all()
    same = decoys[:1].expand(300, -1)  # a judge for whom all people are one
    assert (ranks(images, same[:30], same) == 301).all()


def test_an_embedding_that_is_not_finite_has_the_last_rank() -> None:
    images = unit(2, 8)
    images[0, 3] = math.nan
    assert ranks(images, images.clone(), unit(20, 8, seed=1)).tolist() == [21, 1]


def test_quantised_templates_keep_their_direction() -> None:
    made = unit(100, 64)
    assert ((dequantised(quantised(made)) * made).sum(1) > 0.9998).all()


@pytest.mark.parametrize("shown", ["anything", "one face for all", "a decoy", "everybody's mean"])
def test_knowing_nothing_gives_uniform_p(shown: str) -> None:
    """Whatever an image shows: if nobody told it who is meant, p is uniform, 1.44 bits."""
    people, decoys = unit(4000, 32, seed=3), unit(3000, 32, seed=4)
    images = {
        "anything": unit(4000, 32, seed=5),
        "one face for all": unit(1, 32, seed=5).expand(4000, -1),
        "a decoy": decoys[torch.arange(4000) % 3000],
        "everybody's mean": (people.mean(0) + decoys.mean(0)).expand(4000, -1),
    }[shown]
    p = p_values(ranks(images, people, decoys)[None, :, None], 3000)
    assert stats.kstest(p[:, 0].numpy(), "uniform").pvalue > 1e-3
    bits = identity_bits(p, torch.arange(4000))
    assert bits.value == pytest.approx(1 / math.log(2), abs=0.1)
    matches = leak(p, torch.arange(4000), Fraction(1, 100), 3000).value
    assert matches is not None
    assert matches < stats.binom(4000, 0.01).ppf(0.999) / 4000


@pytest.mark.parametrize("agreement", [0.0, 0.7, 1.0])
def test_two_judges_keep_the_bound(agreement: float) -> None:
    """P(p <= α) <= α of the larger p; between .72 bits (unlike judges) and 1.44 (one judge)."""
    people, decoys = unit(4000, 32, seed=6), unit(3000, 32, seed=7)
    images, others = unit(4000, 32, seed=8), unit(4000, 32, seed=9)
    second = torch.nn.functional.normalize(agreement * images + (1 - agreement) * others, dim=1)
    found = torch.stack([ranks(each, people, decoys) for each in (images, second)])
    p = p_values(found[..., None], 3000)
    for alpha in (0.01, 0.05, 0.2, 0.5):
        assert (p <= alpha).double().mean() <= stats.binom(4000, alpha).ppf(0.9999) / 4000
    bits = identity_bits(p, torch.arange(4000)).value
    assert bits is not None
    assert 0.5 / math.log(2) - 0.05 < bits < 1 / math.log(2) + 0.08
    if agreement == 1:
        assert bits == pytest.approx(1 / math.log(2), abs=0.08)


@pytest.mark.parametrize(("right", "bound"), [(60, 0.05), (75, 0.70), (90, 1.63), (99, 3.02)])
def test_bounds_of_a_hundred(right: int, bound: float) -> None:
    assert epsilon_lower_bound(right, 100) == pytest.approx(bound, abs=0.02)


def test_the_ends_of_the_bound() -> None:
    assert epsilon_lower_bound(100, 100) == pytest.approx(3.49, abs=0.005)
    assert epsilon_lower_bound(1000, 1000) == pytest.approx(5.81, abs=0.01)
    assert epsilon_lower_bound(0, 100) == epsilon_lower_bound(58, 100) == 0
    with pytest.raises(ValueError, match="101 right guesses of 100"):
        epsilon_lower_bound(101, 100)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_the_bound_holds_for_mechanisms_of_known_epsilon(epsilon: float) -> None:
    """Randomised response answers each coin rightly with e^ε / (1 + e^ε), the most ε-DP allows."""
    rng = np.random.default_rng(0)
    right = rng.binomial(100, math.exp(epsilon) / (1 + math.exp(epsilon)), size=4000)
    above = np.mean([epsilon_lower_bound(int(each), 100) > epsilon for each in right])
    assert above <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_the_bound_holds_for_a_noisy_sum(epsilon: float) -> None:
    """Each coin's own release with Laplace noise, and the nearest guess: ε-DP, near its limit."""
    rng, runs, coins, above = np.random.default_rng(1), 1500, 100, 0
    for _ in range(runs):
        fell = rng.integers(0, 2, coins)
        told = fell + rng.laplace(scale=1 / epsilon, size=coins)
        above += epsilon_lower_bound(int(((told > 0.5) == fell).sum()), coins) > epsilon
    assert above / runs <= 0.05


def test_the_audit_is_of_the_two_choice_accuracy() -> None:
    labels = torch.arange(100)
    own = torch.ones(100)
    own[:10] = -1
    metric = audited_epsilon(two_choice_accuracy(own, torch.zeros(100), labels))
    assert metric.value == epsilon_lower_bound(90, 100)
    assert metric.n == 100
