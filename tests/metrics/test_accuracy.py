"""Accuracies, attribute error, resize and the catalogue."""

from __future__ import annotations

import math

import pytest
import torch

from mibench.metrics import (
    METRICS,
    accuracy_both,
    attack_accuracy,
    attribute_error,
    evaluator_agreement,
    natural_accuracy,
    successes,
)
from mibench.models.resize import resize
from mibench.record import IDENTITY_METRICS

LABELS = torch.tensor([2, 0])


def logits_of(winners: list[list[int]], classes: int = 4) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(winners), classes).float()


FIRST = logits_of([[2, 2, 1], [0, 3, 3]])
SECOND = logits_of([[2, 1, 1], [0, 0, 3]])


def test_attack_accuracy_by_hand() -> None:
    result = attack_accuracy(FIRST, LABELS, 1)
    assert result.value == pytest.approx(0.5)
    assert result.per_identity == pytest.approx((2 / 3, 1 / 3))
    assert result.n == 6
    assert result.interval_over == "identities"
    assert result.interval is not None
    assert result.interval == pytest.approx((1 / 3, 2 / 3))
    assert result.hits == ("110", "100")
    assert successes(FIRST, LABELS).tolist() == [[True, True, False], [True, False, False]]


def test_top_k_equals_torch_topk_without_ties() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(30, 7, 40), torch.randperm(40)[:30]
    for k in (1, 5, 17):
        expected = (logits.topk(k).indices == labels[:, None, None]).any(-1).double().mean()
        assert attack_accuracy(logits, labels, k).value == pytest.approx(float(expected))
    assert attack_accuracy(logits, labels, 1).n == 210


def test_a_constant_classifier_names_nobody() -> None:
    assert attack_accuracy(torch.zeros(2, 3, 4), LABELS, 1).value == 0
    assert attack_accuracy(torch.zeros(2, 3, 4), LABELS, 3).value == 0


def test_two_evaluators_by_hand() -> None:
    both = accuracy_both(FIRST, SECOND, LABELS)
    assert both.per_identity == pytest.approx((1 / 3, 1 / 3))
    assert both.hits == ("100", "100")
    assert both.n == 6
    agreement = evaluator_agreement(FIRST, SECOND, LABELS)
    assert agreement.per_identity == pytest.approx((2 / 3, 2 / 3))
    assert agreement.n == 6


def test_natural_accuracy_by_hand() -> None:
    assert natural_accuracy(logits_of([[2, 1, 0]])[0], torch.tensor([2, 1, 3])) == pytest.approx(
        2 / 3
    )
    with pytest.raises(ValueError, match="not finite"):
        natural_accuracy(torch.full((2, 3), float("nan")), torch.tensor([0, 1]))


def test_failures_are_missing_with_a_reason_and_never_zero() -> None:
    broken = FIRST.clone()
    broken[1, 2, 3] = float("nan")
    for result in (
        attack_accuracy(broken, LABELS, 1),
        accuracy_both(FIRST, broken, LABELS),
        evaluator_agreement(broken, FIRST, LABELS),
    ):
        assert result.value is None
        assert "1 of" in str(result.reason)
    trivial = attack_accuracy(FIRST, LABELS, 4)
    assert trivial.value is None
    assert "always 1" in str(trivial.reason)


def test_one_identity_has_no_interval() -> None:
    result = attack_accuracy(FIRST[:1], LABELS[:1], 1)
    assert result.value == pytest.approx(2 / 3)
    assert result.interval is None
    assert result.interval_over is None


@pytest.mark.parametrize(
    "labels", [[2], [2, 2], [2, 4], [-1, 0]], ids=["count", "twice", "high", "low"]
)
def test_wrong_labels_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="label"):
        attack_accuracy(FIRST, torch.tensor(labels), 1)


def test_attribute_error_by_hand() -> None:
    true = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    predicted = torch.tensor([[[0.5, 1.0], [0.0, 0.0]], [[0.5, 0.5], [1.0, 0.5]]])
    result = attribute_error(predicted, true, torch.tensor([4, 9]))
    # Identity 4: (0.25 + 0.5) / 2; identity 9: (0 + 0.25) / 2.
    assert result.per_identity == pytest.approx((0.375, 0.125))
    assert result.value == pytest.approx(0.25)
    assert result.n == 4
    with pytest.raises(ValueError, match="predicted attributes"):
        attribute_error(predicted + 0.01, true, torch.tensor([4, 9]))
    assert attribute_error(predicted / 0, true, torch.tensor([4, 9])).value is None


def test_resize_is_antialiased_and_keeps_the_range() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64)
    assert resize(images, 64) is images
    small = resize(images, 8)
    assert small.shape == (2, 3, 8, 8)
    # Plain bilinear reads 4 of 64 pixels, with a spread of 0.14 for this noise; the
    # antialiased triangle averages the neighbourhood.
    assert float(small.std()) < 0.08
    stripes = torch.zeros(1, 1, 8, 8)
    stripes[..., ::2] = 1
    for side in (3, 20, 32):
        out = resize(stripes, side)
        assert float(out.min()) >= -1e-6
        assert float(out.max()) <= 1 + 1e-6
    with pytest.raises(ValueError, match="floating point"):
        resize(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 4)


def test_the_catalogue_describes_every_record_key() -> None:
    assert set(METRICS) == {
        *IDENTITY_METRICS,
        "attack_accuracy_top1",
        "attack_accuracy_top5",
        "knn_distance",
        "fid",
        "fid_successful",
        "fd_evaluator",
        "attack_accuracy_both",
        "precision",
        "recall",
        "density",
        "coverage",
        "evaluator_agreement",
        "attribute_error",
    }
    lower = {key for key, info in METRICS.items() if info.direction == "lower leaks more"}
    distances = {"knn_distance", "fid", "fid_successful", "fd_evaluator"}
    assert lower == {*distances, "attribute_error", "median_rank"}


def test_per_identity_values_average_to_the_value() -> None:
    torch.manual_seed(1)
    result = attack_accuracy(torch.randn(9, 4, 12), torch.arange(9), 5)
    assert result.per_identity is not None
    assert result.value == pytest.approx(math.fsum(result.per_identity) / 9)
