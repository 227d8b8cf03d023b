"""Time the attacks' loops against plain ones: same networks, same iterations, one process.

    python -m tests.benchmarks.attack [--resolution 64] [--identities 60] [--rounds 5]

Both sides alternate, so that a drift of the machine's speed hits both; the ratio plain / mibench is
taken pair by pair and printed as median (minimum–maximum).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mibench.data.images import ImageSet
from mibench.inversion.attack import ATTACKS, Attack, Problem
from mibench.inversion.identity import IdentityLoss
from mibench.judges.evaluators import JUDGED_AT_ONCE
from mibench.models.access import WhiteBoxTarget
from mibench.models.classifiers import Classifier
from mibench.models.freeze import freeze
from mibench.models.resize import resize
from mibench.priors import Prior
from mibench.priors._networks import Critic, Generator
from mibench.priors.gan import GanPrior
from mibench.priors.inversion_gan import Discriminator, InversionGanPrior
from mibench.progress import SILENT
from mibench.training.students import StudentsConfig
from tests.benchmarks import plain

RESTARTS = 5


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    name: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int, goal: float
) -> None:
    """Alternate both sides and print the ratio of their times."""
    ours()
    theirs()
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(rounds)]
    ratios = [slow / fast for slow, fast in pairs]
    middle = statistics.median(ratios)
    print(
        f"{name:34s} plain {statistics.median(p[0] for p in pairs):8.3f} s   mibench "
        f"{statistics.median(p[1] for p in pairs):8.3f} s   ratio {middle:5.2f} "
        f"({min(ratios):.2f}–{max(ratios):.2f})   goal {goal:g}  "
        f"{'met' if middle >= goal else 'NOT MET'}",
        flush=True,
    )


class Networks:
    """The same networks for both sides: as trained, and as the package freezes them."""

    def __init__(
        self, target: str, students: tuple[str, ...], resolution: int, classes: int, published: bool
    ) -> None:
        torch.manual_seed(0)
        models = [Classifier(each, classes, resolution) for each in (target, *students)]
        self.models = [model.eval() for model in models]
        if published:
            self.generator = Generator(resolution, 100, 64, "gmi").eval()
            self.critic = Critic(resolution, 64, "instance", "gmi").eval()
            self.discriminator = Discriminator(resolution, 64, classes, "instance", "kedmi").eval()
        else:
            self.generator = Generator(resolution, 100, 64).eval()
            self.critic = Critic(resolution, 64).bake().eval()
            self.discriminator = Discriminator(resolution, 64, classes).eval()
        sample = torch.rand(2, 3, resolution, resolution)
        self.frozen = [freeze(model, sample) for model in self.models]
        self.prior = GanPrior(self.generator, self.critic).frozen(sample)
        features = self.discriminator.trunk(torch.rand(59, 3, resolution, resolution))
        bank = self.discriminator.minibatch.embed(features).detach()
        inversion = InversionGanPrior(self.generator, self.discriminator, bank)
        self.inversion_prior = inversion.frozen(sample)


def problem(networks: Networks, attack: Attack[Any], labels: Tensor, prior: Prior) -> Problem:
    """The attack problem of the frozen networks."""
    target = WhiteBoxTarget(networks.frozen[0])
    resolution = networks.frozen[0].resolution
    public = ImageSet(
        torch.zeros(1, 3, resolution, resolution, dtype=torch.uint8), torch.zeros(1).long(), ("a",)
    )
    loss = IdentityLoss(target.outputs, networks.frozen[1:], attack.config.identity)
    return Problem(target, prior, loss, labels, RESTARTS, public, 0, torch.device("cpu"), SILENT)


def resized(images: Tensor) -> None:
    """Resize images batch by batch, as judges do."""
    for batch in images.split(JUDGED_AT_ONCE):
        resize(batch, 112)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="vgg16_bn")
    parser.add_argument("--students", default=",".join(StudentsConfig().architectures))
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--identities", type=int, default=60)
    parser.add_argument("--steps", type=int, default=2, help="iterations of a timed KEDMI loop")
    parser.add_argument("--gmi-steps", type=int, default=3, help="iterations of a timed GMI attack")
    parser.add_argument("--gmi-identities", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--published", action="store_true", help="GMI's and KEDMI's own networks")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(options)}")
    students = tuple(options.students.split(",")) if options.students else ()
    networks = Networks(options.target, students, options.resolution, 100, options.published)
    labels = torch.arange(options.identities)

    kedmi_class = ATTACKS.get("kedmi")
    kedmi = kedmi_class(kedmi_class.Config(iterations=options.steps))
    kedmi_problem = problem(networks, kedmi, labels, networks.inversion_prior)
    compare(
        f"KEDMI, {options.steps} steps of {options.identities}",
        lambda: list(kedmi(kedmi_problem)),
        lambda: plain.kedmi_steps(
            networks.generator, networks.discriminator, networks.models, labels, options.steps
        ),
        options.rounds,
        2,
    )

    few = torch.arange(options.gmi_identities)
    gmi_class = ATTACKS.get("gmi")
    gmi = gmi_class(gmi_class.Config(iterations=options.gmi_steps))
    gmi_problem = problem(networks, gmi, few, networks.prior)
    compare(
        f"GMI, {RESTARTS} restarts of {options.gmi_identities}",
        lambda: [resized(images.flatten(0, 1)) for images in gmi(gmi_problem)],
        lambda: plain.pil_resize(
            plain.gmi_attack(
                networks.generator,
                networks.critic,
                networks.models,
                few,
                options.gmi_steps,
                RESTARTS,
            ).flatten(0, 1),
            112,
        ),
        options.rounds,
        3,
    )

    images = torch.rand(1500, 3, options.resolution, options.resolution)
    with TemporaryDirectory() as folder:

        def through_files() -> Tensor:
            """Write PNGs, read them back, resize each with PIL: the published evaluation's path."""
            for index, image in enumerate(images):
                pixels = (image.permute(1, 2, 0).numpy() * 255).astype("uint8")
                Image.fromarray(pixels).save(Path(folder) / f"{index}.png")
            loaded = [Image.open(Path(folder) / f"{i}.png") for i in range(len(images))]
            arrays = [torch.from_numpy(np.asarray(picture).copy()) for picture in loaded]
            return plain.pil_resize(torch.stack(arrays).permute(0, 3, 1, 2).float() / 255, 112)

        compare(
            "evaluation's resizing and I/O, 1500",
            lambda: resized(images),
            through_files,
            options.rounds,
            10,
        )


if __name__ == "__main__":
    main()
