"""A network is asked about the people, and what was said wrongly of it is found out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mibench.data.images import ImageSet
from mibench.data.rendered import render_dataset
from mibench.errors import RequestError
from mibench.models.acquainted import Acquaintance, acquainted
from mibench.models.given import GivenClassifier
from mibench.types import GivenModel
from tests.kit.audits import DATA, PEOPLE, SIZE, trained

HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def net_and_images() -> tuple[nn.Module, ImageSet]:
    data = render_dataset(DATA, SIZE)
    return trained(data.train)[0], data.train


class Turned(nn.Module):
    """What has learned pictures with the channels the other way round, or calls people others."""

    def __init__(self, net: nn.Module, order: list[int] | None = None, flip: bool = False) -> None:
        super().__init__()
        self.net, self.order, self.flip = net, order, flip

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images.flip(1) if self.flip else images)
        return logits if self.order is None else logits[:, self.order]


class Colour(nn.Module):
    """Tells four colours apart: by the channel that is brightest, or none."""

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3))
        return torch.cat([means, means.new_full((len(means), 1), 0.4)], dim=1)


def asked(net: nn.Module, images: ImageSet, **fields: Any) -> Acquaintance:
    said = {"mean": HALF, "std": HALF} | fields
    given = GivenModel(model="mine.py:build", size=SIZE, **said)
    model = GivenClassifier(net, given, PEOPLE, given.mean or HALF, given.std or HALF)
    return acquainted(model, images)


def test_who_is_known(net_and_images: tuple[nn.Module, ImageSet]) -> None:
    net, images = net_and_images
    found = asked(net, images)
    assert found.accuracy > 0.95
    assert found.hint is None


def test_another_order_of_classes(net_and_images: tuple[nn.Module, ImageSet]) -> None:
    """Logit 0 is that of the person whom it took for class 1, and so on."""
    net, images = net_and_images
    names = [*images.names]
    with pytest.raises(RequestError) as raised:
        asked(Turned(net, [1, 2, 3, 0]), images)
    text = str(raised.value)
    assert "tells them apart but calls them otherwise" in text
    for found, label in enumerate([1, 2, 3, 0]):
        assert f"its class {found} is {names[label]!r}" in text
    assert "--classes" in text


@pytest.mark.parametrize(
    ("said", "option"),
    [
        ({"mean": (100, 100, 100), "std": HALF}, "--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5"),
        ({"mean": (90, -90, 0), "std": (1e-3, 1, 1)}, "--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5"),
    ],
)
def test_another_normalisation(
    net_and_images: tuple[nn.Module, ImageSet], said: dict[str, Any], option: str
) -> None:
    with pytest.raises(RequestError) as raised:
        asked(*net_and_images, **said)
    assert "does not know these people" in str(raised.value)
    assert option in str(raised.value)
    assert "it is right on" in str(raised.value)


def colours(*channels: int) -> ImageSet:
    """Pictures in which one channel is bright, of people of these numbers; of the last, none is."""
    images = torch.randint(0, 60, (40, 3, SIZE, SIZE), dtype=torch.uint8)
    labels = torch.arange(40) % PEOPLE
    for image, label in zip(images, labels.tolist(), strict=True):
        if channels[label] < 3:
            image[channels[label]] += 150
    return ImageSet(images, labels, ("a", "b", "c", "d"))


def test_another_order_of_channels() -> None:
    """A red person is taken for a blue one: half of the people are known, and a hint is given."""
    net = GivenClassifier(
        Colour(), GivenModel(model="m.py:f", size=SIZE), PEOPLE, (0, 0, 0), (1, 1, 1)
    )
    assert acquainted(net, colours(0, 1, 2, 3)).accuracy == 1.0
    found = acquainted(net, colours(2, 1, 0, 3))
    assert found.accuracy == 0.5
    assert found.hint is not None
    assert found.hint.startswith("with --channels bgr or")
    assert "it is right on 100.0% of 40 of them, as it was said on 50.0%" in found.hint
    turned = net.expecting("bgr", (0, 0, 0), (1, 1, 1))
    assert acquainted(turned, colours(2, 1, 0, 3)) == Acquaintance(1.0)


def test_who_is_a_stranger_in_every_way(net_and_images: tuple[nn.Module, ImageSet]) -> None:
    _, images = net_and_images
    torch.manual_seed(0)
    noise = replace(images, images=torch.randint(0, 256, images.images.shape, dtype=torch.uint8))
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, PEOPLE))
    with pytest.raises(RequestError, match=r"do no better\. Are these the weights"):
        asked(net, noise)


def test_what_is_not_finite(net_and_images: tuple[nn.Module, ImageSet]) -> None:
    net, images = net_and_images

    class Fragile(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            bright = values.mean((1, 2, 3), keepdim=True)[:, 0, 0]
            made: Tensor = net(values)
            return made + torch.log(bright - bright.min())

    with pytest.raises(RequestError, match="not finite for some private images"):
        asked(Fragile(), images)
