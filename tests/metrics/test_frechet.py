"""Fréchet distances against closed forms, scipy and torch-fidelity; Inception's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg  # type: ignore[import-untyped,unused-ignore]
import torch
from torch_fidelity.feature_extractor_inceptionv3 import (  # type: ignore[import-untyped,unused-ignore]
    FeatureExtractorInceptionV3,
)
from torch_fidelity.metric_fid import (  # type: ignore[import-untyped,unused-ignore]
    fid_features_to_statistics,
    fid_statistics_to_metric,
)

from mibench.errors import ArtifactError, MibenchError
from mibench.files import sha256
from mibench.metrics import (
    fid_successful,
    find_inception,
    frechet_distance,
    frechet_metric,
    inception,
    inception_features,
)

CPU = torch.device("cpu")


def features(n: int, width: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(n, width, generator=generator, dtype=torch.float64) @ mix + shift


def scipy_frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    x, y = a.numpy(), b.numpy()
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second)
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(shift @ shift + np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


def test_closed_form_in_one_dimension() -> None:
    a = torch.tensor([[0.0], [2.0]])  # mean 1, variance 2
    b = torch.tensor([[0.0], [4.0], [8.0], [4.0]])  # mean 4, variance 32 / 3
    expected = 9 + (2**0.5 - (32 / 3) ** 0.5) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "m"), [(200, 300), (12, 200), (12, 9)], ids=["full", "one", "both"])
def test_equals_scipy_and_torch_fidelity(n: int, m: int) -> None:
    """Of full rank, and with fewer images than the 16 features on one side or on both."""
    a, b = features(n, 16, 1), features(m, 16, 2, shift=0.5)
    value = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(value, rel=1e-9)
    assert value == pytest.approx(scipy_frechet(a, b), rel=1e-5)
    reference = fid_statistics_to_metric(
        fid_features_to_statistics(a), fid_features_to_statistics(b), verbose=False
    )
    assert value == pytest.approx(reference["frechet_inception_distance"], rel=1e-5)


def test_equal_sets_are_at_distance_zero_even_with_a_singular_covariance() -> None:
    a = features(8, 40, 3)
    scale = float(a.square().sum())
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10 * scale)
    shifted = frechet_distance(a, a + 2)
    assert shifted == pytest.approx(4 * 40, rel=1e-9)


def test_too_few_or_broken_features_are_errors() -> None:
    good = features(5, 3, 0)
    with pytest.raises(MibenchError, match="at least 2"):
        frechet_distance(good, good[:1])
    with pytest.raises(MibenchError, match="at least 2"):
        frechet_distance(good[:0], good)
    with pytest.raises(MibenchError, match="not finite"):
        frechet_distance(good, good / 0)
    with pytest.raises(MibenchError, match="not finite"):
        frechet_distance(good, good * float("nan"))
    with pytest.raises(ValueError, match="widths"):
        frechet_distance(good, good[:, :2])


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(15, 6, generator=generator)
    real_labels = torch.arange(15).repeat(20)
    real = centres[real_labels] + 0.3 * torch.randn(300, 6, generator=generator)
    labels = torch.arange(12)
    noise = torch.randn(12, 5, 6, generator=generator)
    return centres[:12, None] + 0.5 * noise, labels, real, real_labels


def test_fd_evaluator_uses_the_attacked_identities_only() -> None:
    fake, labels, real, real_labels = scene()
    result = frechet_metric(fake, labels, real, real_labels)
    expected = scipy_frechet(fake.reshape(60, 6).double(), real[real_labels < 12].double())
    assert result.value == pytest.approx(expected, rel=1e-6)
    assert result.n == 60
    assert result.per_identity is None
    assert result.interval_over == "identity subsamples"
    assert result.interval is not None
    assert result.interval[0] < expected < result.interval[1]
    assert frechet_metric(fake, labels, real, real_labels) == result


def test_interval_resamples_reconstructions_and_references_together() -> None:
    """Identical sets are at distance 0 in every subsample, so the interval has no width."""
    _, labels, real, real_labels = scene()
    own = torch.stack([real[real_labels == label] for label in labels])
    result = frechet_metric(own, labels, real, real_labels)
    assert result.interval == pytest.approx((0, 0), abs=1e-9)
    assert result.interval is not None
    assert result.interval[0] >= 0  # a distance is not negative


def test_fid_successful() -> None:
    fake, labels, real, real_labels = scene()
    success = torch.zeros(12, 5, dtype=torch.bool)
    success[:, 1:3] = True
    result = fid_successful(fake, labels, real, real_labels, success)
    expected = scipy_frechet(fake[:, 1:3].reshape(24, 6).double(), real[real_labels < 12].double())
    assert result.value == pytest.approx(expected, rel=1e-6)
    assert result.n == 24
    success[1:] = False
    none = fid_successful(fake, labels, real, real_labels, success)
    assert none.value is None
    assert "2 successful" in str(none.reason)


def test_a_value_without_an_interval() -> None:
    fake, labels, real, real_labels = scene()
    assert frechet_metric(fake[:3], labels[:3], real, real_labels).interval is None
    keep = torch.zeros(12, 5, dtype=torch.bool)
    keep[0, :2] = True  # every subsample without identity 0 is empty
    sparse = frechet_metric(fake, labels, real, real_labels, keep=keep)
    assert sparse.value is not None
    assert sparse.n == 2
    assert sparse.interval is None
    assert sparse.interval_over is None


def test_failure_is_missing_and_never_zero() -> None:
    fake, labels, real, real_labels = scene()
    elsewhere = frechet_metric(fake, labels + 100, real, real_labels)
    assert elsewhere.value is None
    assert "0 features" in str(elsewhere.reason)
    fake[3, 2, 1] = float("nan")
    broken = frechet_metric(fake, labels, real, real_labels)
    assert broken.value is None
    assert "not finite" in str(broken.reason)


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with an untrained Inception's tensors."""
    with pytest.MonkeyPatch.context() as patch:
        # Without weights the extractor would download them.
        patch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url",
            lambda *args, **kwargs: {},
        )
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


def accept(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(inception, "SHA256", sha256(path))


def test_inception_features_equal_the_extractor(
    random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(monkeypatch, random_weights)
    assert find_inception(random_weights) == random_weights
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (3, 3, 16, 16), generator=generator, dtype=torch.uint8)
    network = FeatureExtractorInceptionV3(
        "reference", ["2048"], feature_extractor_weights_path=str(random_weights)
    )
    expected = network(images)[0]
    # Untrained features are small: a tolerance must still tell images apart.
    apart = float((expected[0] - expected[1]).abs().max())
    assert apart > 0
    found = inception_features(images, random_weights, CPU, batch=2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3 * apart)
    as_float = inception_features(images / 255, random_weights, CPU)
    torch.testing.assert_close(as_float, expected, rtol=1e-4, atol=1e-3 * apart)


def test_weights_are_loaded_once(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(monkeypatch, random_weights)
    inception._load.cache_clear()
    for _ in range(3):
        inception_features(torch.zeros(1, 3, 8, 8), random_weights, CPU)
    assert inception._load.cache_info().misses == 1


def test_floats_round_to_the_nearest_byte() -> None:
    levels = torch.tensor([0.0, 100.4, 100.6, 254.6, 255.0]).reshape(5, 1, 1, 1) / 255
    pixels, finite = inception._to_bytes(levels)
    assert pixels.dtype == torch.uint8
    assert pixels.flatten().tolist() == [0, 100, 101, 255, 255]
    assert finite.all()


def test_inception_gray_and_broken_images(
    random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(monkeypatch, random_weights)
    gray = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    gray[1, 0, 3, 3] = float("nan")
    found = inception_features(gray, random_weights, CPU)
    assert found.shape == (2, 2048)
    assert torch.isfinite(found[0]).all()
    assert torch.isnan(found[1]).all()
    colour = inception_features(gray[:1].expand(1, 3, 8, 8), random_weights, CPU)
    torch.testing.assert_close(found[:1], colour)
    for wrong in (gray[:1] * 255, gray[:1] * 2 - 1):
        with pytest.raises(ValueError, match="must lie in"):
            inception_features(wrong, random_weights, CPU)


def test_absent_weights_give_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("MIBENCH_INCEPTION", raising=False)
    reason = find_inception()
    assert isinstance(reason, str)
    assert str(tmp_path / "hub" / "checkpoints" / inception.FILE_NAME) in reason
    assert inception.URL in reason
    assert "MIBENCH_INCEPTION" in reason


def test_weights_are_found_by_variable_then_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "hub" / "checkpoints" / inception.FILE_NAME
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"weights")
    accept(monkeypatch, cached)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("MIBENCH_INCEPTION", raising=False)
    assert find_inception() == cached
    other = tmp_path / "other.pth"
    other.write_bytes(b"weights")
    monkeypatch.setenv("MIBENCH_INCEPTION", str(other))
    assert find_inception() == other
    other.write_bytes(b"others")
    reason = find_inception()
    assert isinstance(reason, str)
    assert "sha256" in reason
    with pytest.raises(ArtifactError, match="sha256"):
        inception_features(torch.zeros(1, 3, 8, 8), other, CPU)
