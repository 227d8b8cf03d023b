"""Make the pinned networks of the synthfaces-32 protocols (about two hours on two cores).

    python tools/make_assets.py [prior] [synthfaces-32] [synthfaces-32-dev]

Each file is written to mibench/assets as half-precision safetensors; the SHA-256 printed at the end
belongs into the protocol cards (mibench/protocols/synthfaces.py). Training is deterministic in the
seeds of the data specification on one machine; the committed files are what the protocols pin.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mibench.data.images import ImageSet
from mibench.data.rendered import render_dataset, render_public
from mibench.judges.evaluators import EvaluatorConfig, EvaluatorJob, train_evaluator
from mibench.judges.evaluators.classifier import ClassifierEvaluator
from mibench.models.initialisation import Initialisation
from mibench.priors import PriorConfig, PriorJob
from mibench.priors.gan import Gan, no_general
from mibench.progress import Progress
from mibench.protocols.synthfaces import (
    DEV_DATA,
    EVALUATOR,
    SECOND_EVALUATOR,
    SYNTHFACES_DATA,
)
from mibench.streams import stream

ASSETS = Path(__file__).resolve().parent.parent / "mibench" / "assets"
RESOLUTION = 32


class PlainProgress(Progress):
    """A line every hundred steps."""

    def begin(self, total: int, label: str) -> None:
        self.total, self.label, self.done, self.start = total, label, 0, time.monotonic()
        self.values: dict[str, float] = {}

    def report(self, **values: float) -> None:
        self.values = values

    def advance(self, steps: int) -> None:
        self.done += steps
        if self.done % 100 == 0:
            seconds = time.monotonic() - self.start
            print(f"{self.label} {self.done}/{self.total} {seconds:.0f}s {self.values}", flush=True)


def write(name: str, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write one asset in half precision, packed where it is a judge's, and print its checksum."""
    path = ASSETS / f"{name}.safetensors"
    half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    half = {k: v.cpu().contiguous() for k, v in half.items()}
    save_file(half, path, {"description": json.dumps(description, sort_keys=True)})
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if name.startswith(("judge-", "decoys-")):
        path.unlink()
        path = path.with_suffix(".safetensors.xz")
        path.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    print(f"{path.name} {path.stat().st_size / 1e6:.1f} MB sha256 {digest}", flush=True)


def job(images: ImageSet, generator: torch.Generator, label: str) -> EvaluatorJob:
    return EvaluatorJob(images, lambda _: Initialisation(), generator, PlainProgress(), label)


def make_prior() -> None:
    public = render_public(SYNTHFACES_DATA, RESOLUTION)
    rng = stream(SYNTHFACES_DATA.seed, SYNTHFACES_DATA.public_name, "prior")
    config = PriorConfig()

    prior = Gan(config).train(PriorJob(public, no_general, None, rng, PlainProgress()))
    note = {"recipe": f"pinned: {config.gan.recipe} GAN, {config.gan.steps} steps"}
    write("prior-32", prior.tensors(), {**prior.description(), **note})


def make_evaluator(
    name: str, config: EvaluatorConfig, protocol: str, train: ImageSet, test: ImageSet
) -> None:
    work = job(train, stream(2026, protocol, name), name)
    judge, _ = train_evaluator(ClassifierEvaluator, config, len(train.names), work)
    accuracy = (judge(test.images)[0].argmax(1) == test.labels).float().mean().item()
    note = {"private_test_accuracy": round(accuracy, 4)}
    print(name, note)
    description = {"judge": config.model_dump(mode="json"), "outputs": len(train.names), **note}
    write(f"{name}-{protocol}", judge.network.state_dict(), description)


def make_evaluators(protocol: str) -> None:
    data = SYNTHFACES_DATA if protocol == "synthfaces-32" else DEV_DATA
    images = render_dataset(data.model_copy(update={"public_identities": 1}), RESOLUTION)
    make_evaluator("evaluator", EVALUATOR, protocol, images.train, images.test)
    make_evaluator("second", SECOND_EVALUATOR, protocol, images.train, images.test)


def main() -> None:
    everything = ["synthfaces-32", "synthfaces-32-dev", "prior"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assets", nargs="*", choices=[*everything, []], default=everything)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's default")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for asset in arguments.assets:
        if asset == "prior":
            make_prior()
        else:
            make_evaluators(asset)


if __name__ == "__main__":
    main()
