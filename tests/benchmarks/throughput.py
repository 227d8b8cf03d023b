"""Training throughput against the same model on one resident random batch.

    python -m tests.benchmarks.throughput [--target resnet18] [--resolution 64]

Data never starves the device when the ratio is at least 0.9: the loop's share of indexing,
augmentation and conversion is what is left.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from mibench.data.images import ImageSet
from mibench.models.classifiers import Classifier
from mibench.progress import SILENT
from mibench.training.loop import Hooks, Job, TrainingConfig, train

GOAL = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="resnet18")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    size = (options.images, 3, options.resolution, options.resolution)
    data = ImageSet(
        torch.randint(0, 256, size, dtype=torch.uint8),
        torch.arange(options.images) % 10,
        ("a",) * 10,
    ).to(device)
    config = TrainingConfig(epochs=1)
    model = Classifier(options.target, 10, options.resolution)
    job = Job(model, data, None, None, config, torch.Generator(), SILENT)

    def ours() -> float:
        start = time.perf_counter()
        train(job)
        return time.perf_counter() - start

    def resident() -> float:
        model.to(device=device, memory_format=torch.channels_last).train()
        batch = torch.rand(config.batch_size, *size[1:], device=device)
        batch = batch.contiguous(memory_format=torch.channels_last)
        labels = data.labels[: config.batch_size]
        optimizer = Hooks().optimizer(job)
        start = time.perf_counter()
        for _ in range(options.images // config.batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(batch), labels)
            loss.backward()
            optimizer.step()
            loss.item()
        return time.perf_counter() - start

    ours(), resident()
    ratios = [resident() / ours() for _ in range(options.rounds)]
    middle = statistics.median(ratios)
    print(
        f"{options.target} at {options.resolution}: training runs at {middle:.1%} "
        f"({min(ratios):.1%}–{max(ratios):.1%}) of a resident batch's rate, goal {GOAL:.0%}: "
        f"{'met' if middle >= GOAL else 'NOT MET'}"
    )


if __name__ == "__main__":
    main()
