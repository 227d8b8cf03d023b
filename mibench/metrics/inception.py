"""FID: the Fréchet distance in Inception-v3 pool features, with torch-fidelity's network.

The network is the TensorFlow graph of 2015 that published FIDs use. It takes 8-bit images in
[0, 255], resizes them to 299 pixels as TensorFlow 1 did, and normalises to [-1, 1] itself.
Reconstructions and references must reach :func:`inception_features` at one resolution: it cannot
tell where an image has been.

Weights are downloaded when asked for (`mibench data fetch inception`), never by a run: without them
FID is missing, with the reason.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import io
import math
import os
import urllib.request
from pathlib import Path

import torch
from torch import Tensor

from mibench.errors import ArtifactError, MibenchError, RequestError
from mibench.files import sha256, user_path, write_atomic
from mibench.metrics.frechet import MINIMUM_SUCCESSFUL, frechet_metric
from mibench.progress import SILENT, Progress
from mibench.record import RULES_VERSION, MetricValue, missing

FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE_NAME}"
VARIABLE = "MIBENCH_INCEPTION"
COMMAND = "mibench data fetch inception"
FEATURES = 2048

_MEBIBYTE = 2**20
_MOST_BYTES = 256 * _MEBIBYTE  # of an answer; the file has 91 MiB
_SECONDS = 30.0  # without a byte, after which a download is given up


def inception_place() -> Path:
    """Where Inception's weights are looked for and put.

    The file that the environment variable ``MIBENCH_INCEPTION`` names, else the place in torch's
    hub cache where torch-fidelity keeps it.

    Raises:
        RequestError: the variable holds no usable path.
    """
    if named := os.environ.get(VARIABLE):
        return user_path(named, VARIABLE)
    return Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME


def find_inception(path: Path | None = None) -> Path | str:
    """The file with Inception's weights, or why there is none.

    Args:
        path: the file; None: :func:`inception_place`.

    Returns:
        The path of a file with the right checksum, or a reason to hand to
        :func:`mibench.record.missing`. A place that was named but is wrong never falls back to
        another.
    """
    try:
        place = path or inception_place()
        if not place.is_file():
            return (
                f"no Inception weights at {_shown(place)}: run `{COMMAND}`, or get {URL} and put "
                f"it there, or name the file in {VARIABLE}"
            )
        return place if _digest(place, *_version(place)) == SHA256 else _wrong(place)
    except RequestError as error:
        return str(error)
    except OSError as error:
        return f"the Inception weights at {_shown(place)} cannot be read: {error.strerror}"


def _version(place: Path) -> tuple[int, int]:
    """What changes with a file's content."""
    status = place.stat()
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4)
def _digest(place: Path, _mtime_ns: int, _size: int) -> str:
    return sha256(place)


def fetch_inception(progress: Progress = SILENT) -> Path:
    """Download Inception's weights to :func:`inception_place`, unless they are there.

    The download stays in memory until its checksum was found right and is then written whole, so
    whatever stops it, nothing of it is left.

    Args:
        progress: told of every MiB.

    Returns:
        Where the weights are.

    Raises:
        RequestError: ``MIBENCH_INCEPTION`` names another file, which is not overwritten.
        MibenchError: there is no network, or what came is not the published file; the message says
            how to place the file by hand.
    """
    place = inception_place()
    if isinstance(find_inception(), Path):
        return place
    if place.exists() and place.name != FILE_NAME:
        raise RequestError(
            f"{VARIABLE} names {place}, which is there and is not {FILE_NAME}: name another place, "
            "or remove it first"
        )
    by_hand = (
        f"Elsewhere, get it with a browser (its sha256 is {SHA256}), and put it at {place} or name "
        f"the file in {VARIABLE}"
    )
    try:
        with urllib.request.urlopen(URL, timeout=_SECONDS) as answer:
            length = int(answer.headers.get("Content-Length") or 0)
            data = bytearray()
            progress.begin(math.ceil(length / _MEBIBYTE), "MiB")
            try:
                while len(data) <= _MOST_BYTES and (block := answer.read(_MEBIBYTE)):
                    data += block
                    progress.advance(1)
            finally:
                progress.end()
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise MibenchError(f"cannot download {URL}: {reason}. {by_hand}") from error
    if (found := hashlib.sha256(data).hexdigest()) != SHA256:
        raise MibenchError(
            f"{URL} gave {len(data):,} bytes that are not {FILE_NAME} (sha256 {found[:12]}…): "
            f"nothing of it was kept. Try again. {by_hand}"
        )
    write_atomic(place, bytes(data))
    return place


def _shown(place: Path) -> str:
    """A path without the user's home folder: reasons go into records, which are published."""
    return str(place).replace(str(Path.home()), "~", 1)


def _wrong(place: Path) -> str:
    return (
        f"{_shown(place)} is not {FILE_NAME} (its sha256 is not {SHA256}): remove it and run "
        f"`{COMMAND}`, or get {URL}"
    )


def inception_features(
    images: Tensor,
    path: Path,
    device: torch.device,
    batch: int = 64,
    progress: Progress = SILENT,
    label: str = "Inception",
) -> Tensor:
    """Inception-v3 pool features of images.

    Args:
        images: ``uint8`` in [0, 255] or floating point in [0, 1], ``(n, C, H, W)``, C 3 or 1 (gray
            is repeated). Floating point is rounded to the 8 bits that the network is defined on,
            so reconstructions and stored images pass the same way.
        path: from :func:`find_inception`.
        device: where to compute.
        batch: images at a time.
        progress: told of each batch under ``label``.

    Returns:
        ``(n, 2048)`` float32 on the CPU. The row of an image with a number that is not finite is
        NaN, so that a distance made of it is missing.

    Raises:
        ArtifactError: the file is not the expected one.
        ValueError: another shape, or a finite value outside [0, 1].
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"expected images (n, 1 or 3, H, W), got {tuple(images.shape)}")
    if not path.is_file():
        raise ArtifactError(_wrong(path))
    network = _load(path, *_version(path), torch.device(device))
    result = torch.empty(len(images), FEATURES)
    with torch.inference_mode():
        for index in progress.steps(math.ceil(len(images) / batch), label):
            start = index * batch
            pixels, finite = _to_bytes(images[start : start + batch].to(device))
            features = network(pixels.expand(-1, 3, -1, -1))[0]
            features[~finite] = float("nan")
            result[start : start + batch] = features.cpu()
    return result


def fid_successful(
    fake: Tensor,
    labels: Tensor,
    real: Tensor,
    real_labels: Tensor,
    success: Tensor,
    seed: int = 0,
    rules: int = RULES_VERSION,
) -> MetricValue:
    """FID of the reconstructions that the evaluator assigns to their identity. Never ranks.

    Args:
        success: booleans ``(identities, samples)``, :func:`mibench.metrics.accuracy.successes`.

    Other arguments as in :func:`~mibench.metrics.frechet_metric`; the reference is the same, all
    attacked identities' images. Its n differs between methods, and with it the bias.

    Returns:
        The distance; missing with fewer than ``MINIMUM_SUCCESSFUL`` successful reconstructions.
    """
    count = int(success.sum())
    if count < MINIMUM_SUCCESSFUL:
        return missing(f"{count} successful reconstructions; at least {MINIMUM_SUCCESSFUL} needed")
    return frechet_metric(fake, labels, real, real_labels, keep=success, seed=seed, rules=rules)


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


@functools.lru_cache(maxsize=1)  # a cell judges five sets of images with it
def _load(path: Path, _mtime_ns: int, _size: int, device: torch.device) -> torch.nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import (  # type: ignore[import-untyped,unused-ignore]
        FeatureExtractorInceptionV3,
    )

    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ArtifactError(_wrong(path))
    # The extractor unpickles without restriction. The bytes that it is given are those that were
    # hashed, not a file that could change in between, so only the published weights get there.
    network = FeatureExtractorInceptionV3(
        "inception", [str(FEATURES)], feature_extractor_weights_path=io.BytesIO(data)
    )
    module: torch.nn.Module = network.to(device)
    return module
