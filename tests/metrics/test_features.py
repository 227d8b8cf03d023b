"""KNN distance and precision, recall, density, coverage against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import (  # type: ignore[import-untyped,unused-ignore]
    NearestNeighbors,
)

from mibench.metrics import knn_distance, prdc


def scene(
    identities: int = 6, samples: int = 5, width: int = 8, reals: int = 9, offset: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of reconstructions and of shuffled reals, of more identities than are attacked."""
    generator = torch.Generator().manual_seed(7)
    everyone = identities + 3
    centres = torch.randn(everyone, width, generator=generator) * 0.7
    real_labels = torch.randperm(everyone * reals, generator=generator) % everyone
    real = centres[real_labels] + torch.randn(len(real_labels), width, generator=generator)
    labels = torch.randperm(everyone, generator=generator)[:identities]
    fake = centres[labels][:, None] + 0.9 * torch.randn(
        identities, samples, width, generator=generator
    )
    return fake.double() + offset, labels, real.double() + offset, real_labels


def test_knn_by_hand() -> None:
    fake = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 1.0], [2.0, 2.0]]])
    real = torch.tensor([[0.0, 1.0], [0.0, 0.0], [5.0, 5.0], [1.0, 2.0]])
    result = knn_distance(fake, torch.tensor([3, 1]), real, torch.tensor([3, 1, 3, 1]))
    # Identity 3: 1 and min(18, 5) = 5; identity 1: min(2, 1) = 1 and min(8, 1) = 1.
    assert result.per_identity == pytest.approx((3.0, 1.0))
    assert result.value == pytest.approx(2.0)
    assert result.n == 4


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_knn_equals_sklearn(offset: float) -> None:
    fake, labels, real, real_labels = scene(offset=offset)
    expected = []
    for features, label in zip(fake, labels, strict=True):
        index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(
            real[real_labels == label].double() - offset
        )
        distances, _ = index.kneighbors(features.double() - offset)
        expected.append((distances**2).mean())
    result = knn_distance(fake, labels, real, real_labels)
    assert result.per_identity == pytest.approx(tuple(expected), rel=1e-9)
    assert result.n == 30


def test_knn_failures_are_missing() -> None:
    fake, labels, real, real_labels = scene()
    keep = real_labels != labels[2]
    absent = knn_distance(fake, labels, real[keep], real_labels[keep])
    assert absent.value is None
    assert str([int(labels[2])]) in str(absent.reason)
    real[0, 0] = float("inf")
    assert knn_distance(fake, labels, real, real_labels).value is None
    with pytest.raises(ValueError, match="expected fake"):
        knn_distance(fake, labels, real[:, :4], real_labels)


def naive_prdc(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """The definitions, one pair at a time."""

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(((a - b) ** 2).sum()))

    def radius(images: np.ndarray, i: int) -> float:
        others = [distance(images[i], images[j]) for j in range(len(images)) if j != i]
        return sorted(others)[k - 1]

    r = [radius(real, i) for i in range(len(real))]
    f = [radius(fake, j) for j in range(len(fake))]
    precision = density = recall = coverage = 0.0
    for image in fake:
        hits = sum(distance(image, real[i]) <= r[i] for i in range(len(real)))
        precision += hits > 0
        density += hits / k
    for i, image in enumerate(real):
        recall += any(distance(image, fake[j]) <= f[j] for j in range(len(fake)))
        coverage += min(distance(image, other) for other in fake) <= r[i]
    return {
        "precision": precision / len(fake),
        "density": density / len(fake),
        "recall": recall / len(real),
        "coverage": coverage / len(real),
    }


@pytest.mark.parametrize("k", [1, 3])
def test_prdc_equals_naive_loops(k: int) -> None:
    fake, labels, real, real_labels = scene()
    results = prdc(fake, labels, real, real_labels, k=k)
    for position, label in enumerate(labels):
        expected = naive_prdc(
            real[real_labels == label].double().numpy(), fake[position].double().numpy(), k
        )
        for key, value in expected.items():
            per_identity = results[key].per_identity
            assert per_identity is not None
            assert per_identity[position] == pytest.approx(value)
    for key, result in results.items():
        assert result.n == 30
        assert result.value is not None
        # Otherwise the scene could not tell one definition from another.
        assert result.value > 0, key
        assert len(set(result.per_identity or ())) > 1, key


def test_prdc_of_copies_and_of_strangers() -> None:
    _, _, real, real_labels = scene(reals=8)
    labels = torch.tensor([0, 1])
    copies = torch.stack([real[real_labels == label] for label in labels])
    same = prdc(copies, labels, real, real_labels)
    assert [same[key].value for key in ("precision", "recall", "coverage")] == [1, 1, 1]
    far = prdc(copies + 100, labels, real, real_labels)
    assert [result.value for result in far.values()] == [0, 0, 0, 0]


def test_prdc_needs_enough_images() -> None:
    fake, labels, real, real_labels = scene()
    few = prdc(fake[:, :3], labels, real, real_labels)
    assert few["recall"].value is None
    assert "3 reconstructions" in str(few["recall"].reason)
    assert few["precision"].value is not None
    keep = torch.ones(len(real), dtype=torch.bool)
    keep[(real_labels == labels[1]).nonzero()[3:, 0]] = False
    short = prdc(fake, labels, real[keep], real_labels[keep])
    for result in short.values():
        assert result.value is None
        assert f"identity {int(labels[1])} has 3 training images" in str(result.reason)
    fake[0, 0, 0] = float("nan")
    assert all(result.value is None for result in prdc(fake, labels, real, real_labels).values())
