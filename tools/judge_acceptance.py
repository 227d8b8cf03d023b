"""Accept the embedding judges of a protocol, or refuse them: six tests.

    python tools/judge_acceptance.py synthfaces-32-dev [--store DIR] [--write]

It trains the protocol's undefended target of seed 0 and runs one attack, if the store does not hold
them. With ``--write`` what it finds, and why the judges are refused if they are, goes to
mibench/assets, where the protocol's card names it and `mibench info` prints it. The exit code is 1
if a judge fails; no protocol with refused judges is frozen.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_assets import ASSETS, PlainProgress
from PIL import Image
from scipy import stats
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from mibench.cell.graph import Graph
from mibench.cell.judges import Enrolled
from mibench.cell.request import Request
from mibench.cell.resolve import check, resolve
from mibench.cell.run import divide
from mibench.cell.stage import Bench
from mibench.data.images import to_float
from mibench.data.synthfaces import render_identities, sample_apart
from mibench.judges import dequantised, quantised, ranks, template
from mibench.models.classifiers import Classifier
from mibench.store.store import Store, default_root
from mibench.streams import stream

RATES = (1e-2, 1e-3, 1e-4)
FRESH = 1000  # identities that nobody trained on, and that are no decoys
PUSHED = 4000  # of them, whose images are pushed to a class: with 1,000, 1.4 % pass for 1 %
IMAGES = 9  # behind a template
LEAST_ACCEPTED = 0.95  # of private test images at 1e-3
MOST_GAIN = 0.5  # bits that a push to the class may lend look-up's images
LEAST_P = 1e-3  # of the Kolmogorov–Smirnov tests


class Judged:
    """A protocol's judges with a target, and people that they have not seen."""

    def __init__(self, protocol: str, attack: str, store: Path) -> None:
        cell = check(resolve(Request(protocol=protocol, attack=attack, defense="none")))
        self.bench = Bench(Store(store), torch.device("cpu"), PlainProgress())
        self.graph = Graph(cell, divide(cell, self.bench.progress))
        self.evaluation = self.graph.references.evaluation(self.bench)
        self.judges: list[Enrolled] = self.evaluation.judges
        self.labels = self.evaluation.labels
        self.decoys = len(self.judges[0].decoys)
        self.target: Classifier = self.bench.get(self.graph.target).frozen
        rng = stream(2026, "acceptance", protocol)
        attributes = sample_apart(FRESH, 1, rng)[:, 0]
        resolution = cell.protocol.resolution
        pictures = render_identities(attributes, IMAGES, resolution, rng)
        pictures = pictures.unflatten(0, (FRESH, -1))
        rng = stream(2026, "acceptance", protocol, "pushed")
        people = sample_apart(PUSHED, 1, rng)[:, 0]
        self.strangers = to_float(render_identities(people, 1, resolution, rng))
        self.fresh = []
        for judge in self.judges:
            made = judge.judge(pictures.flatten(0, 1)).unflatten(0, (FRESH, -1))
            self.fresh.append(dequantised(quantised(template(made))))

    def p(self, images: Tensor, templates: list[Tensor]) -> Tensor:
        """p of images ``(n, 3, h, w)`` by each judge for people ``(n, d)``: ``(judges, n)``."""
        found = [
            ranks(judge.judge(images), own, judge.decoys)
            for judge, own in zip(self.judges, templates, strict=True)
        ]
        return torch.stack(found).double() / (self.decoys + 1)

    def own(self, labels: Tensor) -> list[Tensor]:
        """Templates of private identities."""
        return [judge.own[labels] for judge in self.judges]


def bits(p: Tensor) -> float:
    """Mean of log₂(1/p) of the larger p."""
    return float(-p.amax(0).log2().mean())


def pushed(model: Classifier, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    """Images moved to a class by projected gradient steps: L2 .5, or L∞ 8/255.

    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.
    """
    parts = []
    for x, y in zip(images.split(100), labels.split(100), strict=True):
        moved = x.clone()
        for _ in range(40):
            moved.requires_grad_(True)
            (step,) = torch.autograd.grad(F.cross_entropy(model(moved), y, reduction="sum"), moved)
            with torch.no_grad():
                if norm == "L2":
                    step = step / step.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
                    change = moved - 0.1 * step - x
                    size = change.flatten(1).norm(dim=1).clamp(min=1e-12)
                    change = change * (0.5 / size).clamp(max=1)[:, None, None, None]
                else:
                    change = (moved - 2 / 255 * step.sign() - x).clamp(-8 / 255, 8 / 255)
                moved = (x + change).clamp(0, 1)
        parts.append(moved)
    return torch.cat(parts)


def jpeg(images: Tensor) -> Tensor:
    """Through JPEG of quality 75."""
    found = []
    for image in (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=75)
        found.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return to_float(torch.stack(found))


def blurred(images: Tensor) -> Tensor:
    """With a Gaussian of one pixel."""
    line = torch.exp(-(torch.arange(-3, 4.0) ** 2) / 2)
    kernel = (line[:, None] * line / line.sum() ** 2).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(images, (3, 3, 3, 3), mode="reflect"), kernel, groups=3)


def halved(images: Tensor) -> Tensor:
    """At half size and back."""
    size = images.shape[-1]
    small = F.interpolate(images, size=size // 2, mode="bilinear", antialias=True)
    return F.interpolate(small, size=size, mode="bilinear")


PURIFIED: dict[str, Callable[[Tensor], Tensor]] = {
    "JPEG 75": jpeg,
    "blur of one pixel": blurred,
    "half size and back": halved,
}


def accepted(given: Judged) -> tuple[dict[str, Any], list[str]]:
    """What the six tests find, and why the judges are refused, if they are."""
    found: dict[str, Any] = {"decoys": given.decoys}
    refused: list[str] = []

    # 1. Private test images are accepted.
    test = []
    for judge in given.judges:
        shown, others = judge.test[given.labels], judge.held_out[given.labels]
        test.append(ranks(shown.flatten(0, 1), others.flatten(0, 1), judge.decoys))
    p = torch.stack(test).double() / (given.decoys + 1)
    accepts = {f"{rate:g}": round(float((p.amax(0) <= rate).double().mean()), 4) for rate in RATES}
    each = [[round(float((one <= rate).double().mean()), 4) for rate in RATES] for one in p]
    found["true accepts of private test images"] = {"both": accepts, "each judge": each}
    found["bits of private test images"] = round(bits(p), 2)
    if accepts["0.001"] < LEAST_ACCEPTED:
        refused.append(f"{accepts['0.001']:.1%} of private test images are accepted at 1e-3")

    # 2. Other people's images that are pushed to a class stay other people's.
    labels = torch.arange(PUSHED) % len(given.labels)
    starts = {"L2 .5": "L2", "L∞ 8/255": "L∞"}
    negatives: dict[str, Any] = {}
    for name, norm in starts.items():
        moved = pushed(given.target, given.strangers, labels, norm)
        with torch.no_grad():
            fooled = float((given.target(moved).argmax(1) == labels).double().mean())
        p = given.p(moved, given.own(labels))
        rows = {}
        for rate in RATES:
            matches = int((p.amax(0) <= rate).sum())
            lower = float(betaincinv(matches, PUSHED - matches + 1, 0.05)) if matches else 0.0
            rows[f"{rate:g}"] = matches / PUSHED
            if lower > rate:
                refused.append(
                    f"{matches} of {PUSHED} strangers pushed by {name} match at {rate:g}"
                )
        negatives[name] = {"named by the target": round(fooled, 4), "match": rows}
    found["adversarial negatives"] = {"strangers": PUSHED, **negatives}
    lookup = given.evaluation.lookup
    images = to_float(given.evaluation.data.public.images[lookup].flatten(0, 1))
    people = given.labels.repeat_interleave(lookup.shape[1])
    before = bits(given.p(images, given.own(people)))
    gains = {}
    for name, norm in starts.items():
        after = bits(given.p(pushed(given.target, images, people, norm), given.own(people)))
        gains[name] = round(after - before, 3)
        if after - before > MOST_GAIN:
            refused.append(f"look-up's images gain {after - before:.2f} bits by {name}")
    found["look-up"] = {"bits": round(before, 2), "gained by a push": gains}

    # 3. Judged for people whom nobody trained on, reconstructions say nothing.
    made = torch.cat(list(given.bench.get(given.graph.reconstructions)))
    firsts = made[:, 0].repeat(-(-FRESH // len(made)), 1, 1, 1)[:FRESH]
    found["null"] = uniform("reconstructions", given.p(firsts, given.fresh), refused)

    others = [judge.own[given.labels].roll(1, 0) for judge in given.judges]
    p = given.p(made[:, 0], others)
    found["null"]["of the next private identity"] = {"bits": round(bits(p), 3)}

    # 4. Neither do images of nobody.
    shape = given.strangers.shape[1:]
    nobody = {
        "black": torch.zeros(shape),
        "grey": torch.full(shape, 0.5),
        "mean face": given.strangers.mean(0),
    }
    found["nobody"] = {
        name: uniform(name, given.p(image.expand(FRESH, -1, -1, -1), given.fresh), refused)
        for name, image in nobody.items()
    }

    # 5. What purification takes from reconstructions.
    flat, people = made.flatten(0, 1), given.labels.repeat_interleave(made.shape[1])
    plain = given.p(flat, given.own(people))
    after = {
        name: round(bits(given.p(clean(flat), given.own(people))), 2)
        for name, clean in PURIFIED.items()
    }
    attack = given.graph.cell.attack.full
    found["purification"] = {"attack": attack, "bits": round(bits(plain), 2), "after": after}

    # 6. How far the judges agree.
    found["rank correlation"] = {
        f"{a + 1} and {b + 1}": round(float(stats.spearmanr(plain[a], plain[b]).statistic), 3)
        for a, b in itertools.combinations(range(len(plain)), 2)
    }
    return found, refused


def uniform(what: str, p: Tensor, refused: list[str]) -> dict[str, Any]:
    """Whether each judge's p is uniform and the larger one bounded: ``(judges, n)``."""
    tests = [float(stats.kstest(one.numpy(), "uniform").pvalue) for one in p]
    matches = {f"{a:g}": float((p.amax(0) <= a).double().mean()) for a in (0.5, 0.1, 0.01)}
    if min(tests) < LEAST_P:
        refused.append(f"p of {what} is not uniform (Kolmogorov–Smirnov p {min(tests):.2g})")
    for rate, share in matches.items():
        if share * FRESH > stats.binom(FRESH, float(rate)).ppf(0.999):
            refused.append(f"{share:.1%} of {what} match at {rate}")
    return {
        "Kolmogorov–Smirnov p": [round(each, 4) for each in tests],
        "match": matches,
        "bits of each judge": [round(float(-one.log2().mean()), 3) for one in p],
        "bits": round(bits(p), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("protocol")
    parser.add_argument("--attack", default="gmi", help="whose reconstructions are looked at")
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    given = Judged(arguments.protocol, arguments.attack, arguments.store or default_root())
    found, refused = accepted(given)
    cards = given.graph.cell.protocol.judges
    found["refused"] = refused
    found["judges"] = [[each.network.sha256, each.decoys.sha256] for each in cards]
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    print(text)
    if arguments.write:
        path = ASSETS / f"acceptance-{arguments.protocol}.json"
        path.write_text(text)
        print(f"{path.name} sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    for reason in refused:
        print(f"refused: {reason}", file=sys.stderr)
    sys.exit(bool(refused))


if __name__ == "__main__":
    main()
