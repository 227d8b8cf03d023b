"""Whether a network of others' knows the people whose pictures are given, and if not, why not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mibench.data.images import ImageSet
from mibench.errors import RequestError
from mibench.metrics.accuracy import near_chance
from mibench.models.classifiers import predict
from mibench.models.given import GivenClassifier
from mibench.progress import SILENT, Progress
from mibench.types import Triple

_CERTAIN = 0.9  # accuracy from which on nothing else is tried
_TRIED_ON = 512  # images that other inputs are tried on
_BETTER = 0.1  # accuracy by which another input must be better to be worth a word
_KNOWN = 0.5  # share of images from which on a network tells people apart, in whatever order
_TOLD, _WAYS = 5, 2  # classes and other inputs that a message lists
# Scales that networks are usually trained on, beside the one that was said.
_SCALES: tuple[tuple[Triple, Triple], ...] = (
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ((0.0, 0.0, 0.0), (0.003922, 0.003922, 0.003922)),
)


@dataclass(frozen=True)
class Acquaintance:
    """How well a network knows the people.

    Attributes:
        accuracy: share of the images that it is right on.
        hint: what to change, where another input is far better than what was said; else None.
    """

    accuracy: float
    hint: str | None = None


@dataclass(frozen=True)
class _Input:
    """What a network may expect, with how it does so.

    Attributes:
        said: as options; empty: as it was said.
        predicted: the classes of some images.
        right: the share that it is right on. sorted: the share if each class were given the name
            that fits it best.
    """

    said: str
    predicted: Tensor
    right: float
    sorted: float


def acquainted(
    model: GivenClassifier, images: ImageSet, progress: Progress = SILENT
) -> Acquaintance:
    """Ask a network about the private images, and where it fails, in other ways too.

    Tried are the other order of the channels, and the usual scales: [0, 1], ImageNet's, [−1, 1] and
    [0, 255]; and whether it tells the people apart under other names.

    Args:
        model: the network.
        images: all private images.

    Raises:
        RequestError: it is at chance on them; says what would do better, or what else may be wrong.
    """
    logits, _ = predict(model, images.images, progress=progress, label="private images")
    if not logits.isfinite().all():
        raise RequestError(
            f"{model.architecture} answers values that are not finite for some private images: are "
            "--mean and --std those that it was trained with?"
        )
    accuracy = float((logits.argmax(1) == images.labels).double().mean())
    if accuracy >= _CERTAIN:
        return Acquaintance(accuracy)
    tried = list(_tried(model, images, progress))
    best, said = max(tried, key=lambda each: each.right), tried[0]
    apart = max(tried, key=lambda each: each.sorted)
    some = min(len(images), _TRIED_ON)
    chance = 1 / len(images.names)
    better = None
    if best.right - said.right >= _BETTER and not near_chance(best.right, some, chance):
        ways = " or ".join([e.said for e in tried if e.right == best.right][:_WAYS])
        better = (
            f"with {ways} it is right on {best.right:.1%} of {some:,} of them, as it was said "
            f"on {said.right:.1%}"
        )
    if not near_chance(accuracy, len(images), chance):
        return Acquaintance(accuracy, better)
    problem = (
        f"{model.architecture} is right on {accuracy:.1%} of the {len(images):,} private images, "
        f"guessing on {chance:.1%}: it does not know these people, and attacks on it would say "
        "nothing. "
    )
    enough = some >= 3 * len(images.names)  # of fewer, some order always fits by chance
    if enough and apart.sorted >= max(_KNOWN, best.right + _BETTER):
        given = f", with {apart.said}," if apart.said else ""
        problem += (
            f"It tells them apart{given} but calls them otherwise: {_order(apart, images)}. List "
            "their names in the order that it was trained with by --classes FILE"
        )
    elif better is not None:
        problem += f"But {better}: say so"
    else:
        problem += (
            "Other orders of channels and scales do no better. Are these the weights that were "
            "trained (a checkpoint of another run, a head that started anew), these the people in "
            "the order of its classes (--classes), and the pictures cropped and aligned as its "
            "training's were?"
        )
    raise RequestError(problem)


def _tried(model: GivenClassifier, images: ImageSet, progress: Progress) -> Iterator[_Input]:
    """What the network makes of some images, as it was said first."""
    count = min(len(images), _TRIED_ON)
    rows = torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()
    some = images.select(rows.to(images.images.device))
    stated = (tuple(model.mean.flatten().tolist()), tuple(model.std.flatten().tolist()))
    scales = [stated, *(each for each in _SCALES if not _alike(each, stated))]
    orders = [model.channels, "bgr" if model.channels == "rgb" else "rgb"]
    ways = [(channels, *scale) for channels in orders for scale in scales]
    for index in progress.steps(len(ways), "other inputs"):
        channels, mean, std = ways[index]
        said = [] if channels == model.channels else [f"--channels {channels}"]
        if (mean, std) != stated:
            said.append(f"--mean {_numbers(mean)} --std {_numbers(std)}")
        other = model.expecting(channels, mean, std)
        predicted = predict(other, some.images)[0].argmax(1)
        yield _Input(
            " ".join(said),
            predicted,
            float((predicted == some.labels).double().mean()),
            _matched(predicted, some.labels, len(images.names))[1],
        )


def _alike(one: tuple[Sequence[float], ...], other: tuple[Sequence[float], ...]) -> bool:
    pairs = zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True)
    return all(abs(a - b) <= 1e-4 for a, b in pairs)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _matched(predicted: Tensor, labels: Tensor, classes: int) -> tuple[dict[int, int], float]:
    """The label that fits each predicted class best, one each, and the share that is then right."""
    counts = torch.bincount((predicted * classes + labels).cpu(), minlength=classes**2)
    match: dict[int, int] = {}
    right = 0
    for place in counts.argsort(descending=True, stable=True).tolist():
        count, (found, label) = int(counts[place]), divmod(place, classes)
        if count == 0:
            break
        if found not in match and label not in match.values():
            match[found] = label
            right += count
    return match, right / max(1, len(labels))


def _order(best: _Input, images: ImageSet) -> str:
    """``"class 0 is Bob, class 1 Anna, …"``, of those that have another name."""
    count = len(best.predicted)
    rows = torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()
    labels = images.labels[rows.to(images.labels.device)]
    match, _ = _matched(best.predicted, labels, len(images.names))
    wrong = [(found, label) for found, label in sorted(match.items()) if found != label]
    told = [f"its class {found} is {images.names[label]!r}" for found, label in wrong[:_TOLD]]
    return ", ".join(told) + (", …" if len(wrong) > _TOLD else "")
