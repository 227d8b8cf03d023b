"""FID: the Fréchet distance in Inception-v3 pool features, with torch-fidelity's network.

The network is the TensorFlow graph of 2015 that published FIDs use. It takes 8-bit images in
[0, 255], resizes them to 299 pixels as TensorFlow 1 did, and normalises to [-1, 1] itself.
Reconstructions and references must reach :func:`inception_features` at one resolution: it cannot
tell where an image has been.

Weights are never downloaded here: without them FID is missing, with the reason.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from mibench.errors import ArtifactError
from mibench.metrics.frechet import MINIMUM_SUCCESSFUL, frechet_metric
from mibench.types import MetricValue, missing

FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE_NAME}"
VARIABLE = "MIBENCH_INCEPTION"
FEATURES = 2048


def inception_place() -> Path:
    """Where Inception's weights are looked for and put.

    The file that the environment variable ``MIBENCH_INCEPTION`` names, else the place in torch's
    hub cache where torch-fidelity keeps it.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME


def find_inception(path: Path | None = None) -> Path | str:
    """The file with Inception's weights, or why there is none.

    Args:
        path: the file; None: :func:`inception_place`.

    Returns:
        The path of a file with the right checksum, or a reason to hand to
        :func:`mibench.types.missing`. A place that was named but is wrong never falls back to
        another.
    """
    place = path or inception_place()
    if not place.is_file():
        # The reason goes into records, which are published: no name of anybody's home folder.
        shown = str(place).replace(str(Path.home()), "~", 1)
        return (
            f"no Inception weights at {shown}: get {URL} and put it there, "
            f"or name the file in {VARIABLE}"
        )
    if _sha256(place) != SHA256:
        return f"{place} is not {FILE_NAME} (its sha256 is not {SHA256}): get it again from {URL}"
    return place


def inception_features(images: Tensor, path: Path, device: torch.device, batch: int = 64) -> Tensor:
    """Inception-v3 pool features of images.

    Args:
        images: ``uint8`` in [0, 255] or floating point in [0, 1], ``(n, C, H, W)``, C 3 or 1 (gray
            is repeated). Floating point is rounded to the 8 bits that the network is defined on,
            so reconstructions and stored images pass the same way.
        path: from :func:`find_inception`.
        device: where to compute.
        batch: images at a time.

    Returns:
        ``(n, 2048)`` float32 on the CPU. The row of an image with a number that is not finite is
        NaN, so that a distance made of it is missing.

    Raises:
        ArtifactError: the file is not the expected one.
        ValueError: another shape, or a finite value outside [0, 1].
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"expected images (n, 1 or 3, H, W), got {tuple(images.shape)}")
    network = _load(path, device)
    result = torch.empty(len(images), FEATURES)
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            pixels, finite = _to_bytes(images[start : start + batch].to(device))
            features = network(pixels.expand(-1, 3, -1, -1))[0]
            features[~finite] = float("nan")
            result[start : start + batch] = features.cpu()
    return result


def fid(
    fake: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor, seed: int = 0
) -> MetricValue:
    """FID of all reconstructions; features from :func:`inception_features`.

    Arguments, interval and reasons as in :func:`mibench.metrics.frechet.frechet_metric`.
    """
    return frechet_metric(fake, labels, real, real_labels, seed=seed)


def fid_successful(
    fake: Tensor,
    labels: Tensor,
    real: Tensor,
    real_labels: Tensor,
    success: Tensor,
    seed: int = 0,
) -> MetricValue:
    """FID of the reconstructions that the evaluator assigns to their identity. Never ranks.

    Args:
        success: booleans ``(identities, samples)``, :func:`mibench.metrics.accuracy.successes`.

    Other arguments as in :func:`fid`; the reference is the same, all attacked identities' images.
    Its n differs between methods, and with it the bias.

    Returns:
        The distance; missing with fewer than ``MINIMUM_SUCCESSFUL`` successful reconstructions.
    """
    count = int(success.sum())
    if count < MINIMUM_SUCCESSFUL:
        return missing(f"{count} successful reconstructions; at least {MINIMUM_SUCCESSFUL} needed")
    return frechet_metric(fake, labels, real, real_labels, keep=success, seed=seed)


def _to_bytes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images as ``uint8``, and which of them ``(n,)`` are finite (the others become black)."""
    if not images.is_floating_point():
        if images.dtype != torch.uint8:
            raise ValueError(f"images are uint8 or floating point, not {images.dtype}")
        return images, torch.ones(len(images), dtype=torch.bool, device=images.device)
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    images = torch.where(finite[:, None, None, None], images, torch.zeros_like(images))
    if float(images.min()) < -1e-4 or float(images.max()) > 1 + 1e-4:
        raise ValueError("floating point images must lie in [0, 1]")
    return (images.clamp(0, 1) * 255).round().to(torch.uint8), finite


def _load(path: Path, device: torch.device) -> torch.nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import (  # type: ignore[import-untyped,unused-ignore]
        FeatureExtractorInceptionV3,
    )

    found = find_inception(path)
    if isinstance(found, str):
        raise ArtifactError(found)
    # The extractor unpickles without restriction; the checksum above makes that safe.
    network = FeatureExtractorInceptionV3(
        "inception", [str(FEATURES)], feature_extractor_weights_path=str(path)
    )
    module: torch.nn.Module = network.to(device)
    return module


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
