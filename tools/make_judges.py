"""Make the embedding judges of the synthfaces protocols, their decoys and the attribute regressor.

    python tools/make_judges.py train regnet edgenext regnet-mild attributes  # 30 minutes each
    python tools/make_judges.py decoys regnet edgenext regnet-mild            # 25 minutes each

Each network is trained on an endless stream of rendered identities: every step draws new ones, a
few images each, that are degraded as reconstructions may be (colour, resampling, blur, noise); the
judges' images further, so that small changes of many pixels, as attacks make, move them little. It
learns to tell which images of a batch show the same person, each image against the templates of
the batch without itself, and to say the person's attributes. Decoys are other identities, drawn as
private ones are. Weights and templates go to mibench/assets; the SHA-256 printed at the end belong
into the protocol cards (mibench/protocols/synthfaces.py). The weights' file holds what
tools/judge_acceptance.py found, too, once it has run.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from make_assets import ASSETS, RESOLUTION, write
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.assets import Asset, load_asset
from mibench.data.images import to_float
from mibench.data.synthfaces import (
    ATTRIBUTES,
    FAMILY,
    render,
    render_identities,
    sample_identities,
    sample_nuisances,
)
from mibench.judges import quantised, template
from mibench.judges.embedding import EmbeddingJudge
from mibench.judges.evaluators import EvaluatorConfig
from mibench.judges.evaluators.classifier import ResizingClassifier
from mibench.streams import seeded, stream

SEED = 2026


class Recipe(NamedTuple):
    """How a judge is made: the name of its stream, its architecture, and whether it is stressed."""

    letter: str
    architecture: str
    stressed: bool


JUDGES = {
    "regnet": Recipe("a", "regnetx_002", True),
    "edgenext": Recipe("b", "edgenext_xx_small", True),
    "regnet-mild": Recipe("a", "regnetx_002", False),
}
REGRESSOR = EvaluatorConfig(architecture="mobilenetv2_050", resolution=64)
SEEN = 64  # pixels that a network resizes images to
DIMENSIONS = 64
IDENTITIES, IMAGES, STEPS, RATE = 64, 4, 2400, 3e-3  # of a batch; of the training
DECOYS, TEMPLATE_IMAGES = 100_000, 9


@dataclass(frozen=True)
class Batch:
    """Images ``(IDENTITIES · IMAGES, 3, h, w)`` in [0, 1], and their people's attributes."""

    images: Tensor
    attributes: Tensor


def drawn(rng: torch.Generator) -> Batch:
    """New identities, degraded images of each."""
    attributes = sample_identities(IDENTITIES, rng)
    every, parts = attributes.repeat_interleave(IMAGES, 0), []
    for some in every.split(32):
        nuisances = sample_nuisances(len(some), rng)
        noise = torch.randn(len(some), 3, RESOLUTION, RESOLUTION, generator=rng)
        parts.append(render(some, nuisances, RESOLUTION, noise))
    return Batch(degraded(to_float(torch.cat(parts)), rng), attributes)


def degraded(images: Tensor, rng: torch.Generator) -> Tensor:
    """Colour, resampling, blur and noise, each of two images in five."""
    n = len(images)

    def some() -> Tensor:
        return (torch.rand(n, 1, 1, 1, generator=rng) < 0.4).float()

    mask = some()
    gain = 1 + (torch.rand(n, 3, 1, 1, generator=rng) - 0.5) * 0.3
    offset = (torch.rand(n, 3, 1, 1, generator=rng) - 0.5) * 0.1
    images = images + mask * (images * gain + offset - images)
    size, mask = int(torch.randint(12, 29, (1,), generator=rng)), some()
    small = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    back = F.interpolate(small, size=(RESOLUTION, RESOLUTION), mode="bilinear")
    images = images + mask * (back - images)
    sigma, mask = 0.3 + 0.9 * float(torch.rand(1, generator=rng)), some()
    line = torch.exp(-(torch.arange(-3, 4.0) ** 2) / (2 * sigma**2))
    line = line / line.sum()
    kernel = (line[:, None] * line).expand(3, 1, -1, -1)
    padded = F.pad(images, (3, 3, 3, 3), mode="reflect")
    images = images + mask * (F.conv2d(padded, kernel, groups=3) - images)
    mask = some() * torch.rand(n, 1, 1, 1, generator=rng) * 0.1
    return (images + mask * torch.randn(images.shape, generator=rng)).clamp(0, 1)


def stressed(images: Tensor, rng: torch.Generator) -> Tensor:
    """Further than reconstructions go: colour, even and uneven, and noise, each of two in three.

    Without it a push of public images to a class by projected gradient steps within 8/255 lends
    them .7 bits: so small a change of colour or shade must weigh little.
    """
    n, size = len(images), images.shape[-1]

    def some() -> Tensor:
        return (torch.rand(n, 1, 1, 1, generator=rng) < 0.67).float()

    mask = some()
    gain = (torch.rand(n, 3, 1, 1, generator=rng) - 0.5) * 0.6
    offset = (torch.rand(n, 3, 1, 1, generator=rng) - 0.5) * 0.25
    images = images + mask * (images * gain + offset)
    mask = some() * torch.rand(n, 1, 1, 1, generator=rng) * 0.08
    coarse = torch.randn(n, 3, 6, 6, generator=rng)
    images = images + mask * F.interpolate(coarse, size=(size, size), mode="bicubic")
    mask = some() * torch.rand(n, 1, 1, 1, generator=rng) * 0.25
    return (images + mask * torch.randn(images.shape, generator=rng)).clamp(0, 1)


def same_person(embeddings: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of each image's identity among the batch's templates, its own without itself.

    Source: Wan et al., Generalized End-to-End Loss for Speaker Verification, ICASSP 2018, eq. 5-9.
    """
    shown = F.normalize(embeddings, dim=1).unflatten(0, (IDENTITIES, IMAGES))
    total = shown.sum(1)
    others = F.normalize(total[:, None] - shown, dim=2)
    cosines = torch.einsum("pkd,qd->pkq", shown, F.normalize(total, dim=1))
    own = torch.eye(IDENTITIES, dtype=torch.bool)[:, None].expand_as(cosines)
    cosines = torch.where(own, (shown * others).sum(2)[..., None], cosines)
    people = torch.arange(IDENTITIES).repeat_interleave(IMAGES)
    return F.cross_entropy(scale * cosines.flatten(0, 1), people)


def train(name: str) -> None:
    """Train a judge or the regressor, and write its asset."""
    judge = name in JUDGES
    letter, architecture, stress = JUDGES.get(name, Recipe(name, REGRESSOR.architecture, False))
    rng = stream(SEED, "judge", letter)
    with seeded(rng):
        network = ResizingClassifier(architecture, DIMENSIONS if judge else len(ATTRIBUTES), SEEN)
        reader: nn.Module = nn.Linear(DIMENSIONS, len(ATTRIBUTES)) if judge else nn.Identity()
    network = network.to(memory_format=torch.channels_last).train()
    log_scale = nn.Parameter(torch.tensor(math.log(16.0)))
    weights = [*network.parameters(), *reader.parameters()]
    groups = [{"params": weights}, {"params": [log_scale], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.02)
    start = time.monotonic()
    for step in range(STEPS):
        share = min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        for group in optimizer.param_groups:
            group["lr"] = RATE * share
        batch = drawn(rng)
        images = stressed(batch.images, rng) if stress else batch.images
        with seeded(step):
            made = network(images.contiguous(memory_format=torch.channels_last))
            wanted = batch.attributes.repeat_interleave(IMAGES, 0)
            told = F.mse_loss(reader(made).sigmoid(), wanted)
            known = same_person(made, log_scale.exp().clamp(max=64)) if judge else 0 * told
            optimizer.zero_grad()
            (known + 20 * told).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, 5.0)
            optimizer.step()
        if step % 100 == 0 or step == STEPS - 1:
            seconds = time.monotonic() - start
            print(f"{name} {step} {seconds:.0f}s {float(known):.3f} {float(told):.4f}", flush=True)
    network.eval()
    if judge:
        said = {"architecture": architecture, "dimensions": DIMENSIONS, "resolution": SEEN}
        write(f"judge-{name}-{RESOLUTION}", network.state_dict(), said)
    else:
        rng = stream(SEED, "regressor", "test")
        people = sample_identities(500, rng)
        images = to_float(render_identities(people, 4, RESOLUTION, rng))
        with torch.no_grad():
            read = torch.cat([network(each) for each in images.split(128)]).sigmoid()
        error = (read - people.repeat_interleave(4, 0)).abs().mean().item()
        note = {"mean_absolute_error_on_new_identities": round(error, 4)}
        print(note)
        said = {"judge": REGRESSOR.model_dump(mode="json"), "outputs": len(ATTRIBUTES), **note}
        write(f"{name}-stream-{RESOLUTION}", network.state_dict(), said)


def make_decoys(name: str) -> None:
    """Render the decoys, whom every judge has in common, and write a judge's templates of them."""
    path = ASSETS / f"judge-{name}-{RESOLUTION}.safetensors.xz"
    sha256 = hashlib.sha256(lzma.decompress(path.read_bytes())).hexdigest()
    judge = EmbeddingJudge(*load_asset(Asset(file=path.name, sha256=sha256)))
    templates = []
    for family in range(DECOYS // FAMILY):
        rng = stream(SEED, "decoys", family)
        people = sample_identities(FAMILY, rng)
        images = render_identities(people, TEMPLATE_IMAGES, RESOLUTION, rng)
        templates.append(quantised(template(judge(images).unflatten(0, (FAMILY, -1)))))
        if family % 50 == 0:
            print(f"{name} decoys {family * FAMILY}", flush=True)
    said = {"network": sha256, "images": TEMPLATE_IMAGES}
    write(f"decoys-{name}-{RESOLUTION}", {"templates": torch.cat(templates)}, said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "decoys"])
    parser.add_argument("names", nargs="+", choices=[*JUDGES, "attributes"])
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's default")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for name in arguments.names:
        (train if arguments.what == "train" else make_decoys)(name)


if __name__ == "__main__":
    main()
