"""Surrogates: their loss, and that they learn the labels that they are given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mibench.data.images import ImageSet
from mibench.data.views import Jitter, Views
from mibench.progress import SILENT
from mibench.streams import RowStreams, stream
from mibench.training import surrogates
from mibench.training.loop import TrainingConfig, TrainState
from mibench.training.surrogates import Imitation, SurrogatesConfig, imitate
from tests.kit.training import classifier
from tests.training.test_training import Linear


def state(mirror: bool = True) -> TrainState:
    return TrainState(0, 0, 1, 1, stream(0, "state"), mirror=mirror)


def test_the_loss_is_the_mean_over_images_and_their_views(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []

    def upside_down(images: Tensor, streams: RowStreams, mirror: bool) -> Tensor:
        assert mirror
        drawn.append(streams.uniform(1))
        return images.flip(2)

    monkeypatch.setattr(surrogates, "CROP", upside_down)
    monkeypatch.setattr(surrogates, "JITTER", lambda images, streams: images / 2)
    model = Linear().train()
    images = torch.rand(6, 3, 8, 8, generator=stream(0, "images"))
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    found, again = (Imitation().loss(model, images, labels, state()) for _ in range(2))
    log_p = torch.cat([model(images), model(images.flip(2) / 2)]).log_softmax(1)
    expected = -log_p[torch.arange(12), labels.repeat(2)].mean()
    torch.testing.assert_close(found, expected)
    assert not torch.isclose(found, F.cross_entropy(model(images), labels))
    assert torch.equal(found, again)
    assert torch.equal(*drawn), "views are drawn from the training's own generator"
    assert len(drawn[0].unique()) == 6, "each image has a view of its own"


def test_views_are_the_published_ones() -> None:
    """A crop of 80 to 100 %, mirrored and turned by up to 5°; half of them have other colours."""
    assert Views(scale=(0.8, 1.0), mirror=True, degrees=5, turns=0.5) == surrogates.CROP
    assert Jitter(0.2, share=0.5) == surrogates.JITTER
    images = torch.zeros(64, 3, 8, 8)
    images[..., :4] = 0.5  # its left half
    seen: list[Tensor] = []

    class Seeing(Linear):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().forward(images)

    labels = torch.zeros(64, dtype=torch.long)
    for mirror in (True, False):
        Imitation().loss(Seeing(), images, labels, state(mirror))
    left = [each[..., :2].mean((1, 2, 3)) > each[..., -2:].mean((1, 2, 3)) for each in seen]
    assert left[0].all()
    assert 0.2 < left[1].float().mean() < 0.8, "mirrored"
    assert left[3].all(), "not so of digits"


def test_a_surrogate_learns_labels_and_says_how_many() -> None:
    """Light images are of class 1, whatever they show."""
    labels = torch.arange(60) % 2
    noise = torch.randint(0, 60, (60, 3, 32, 32), generator=stream(0, "noise"))
    labelled = ImageSet((noise + 150 * labels.view(-1, 1, 1, 1)).byte(), labels, ("a", "b"))
    config = TrainingConfig(epochs=5, batch_size=16, learning_rate=0.05, warmup=0)
    model = classifier(classes=2)
    trained, result, agreement = imitate(model, labelled, config, stream(0, "rng"), SILENT)
    assert trained is model
    assert (agreement, result.diverged) == (1.0, None)
    assert result.steps == 5 * 4
    wrong = ImageSet(labelled.images, 1 - labels, ("a", "b"))
    still = config.model_copy(update={"learning_rate": 1e-12})
    assert imitate(model, wrong, still, stream(0, "rng"), SILENT)[2] == 0


@pytest.mark.parametrize("start", ["imagenet", "scratch"])
def test_imagenet_networks_see_images_as_they_are(start: str) -> None:
    how = SurrogatesConfig(start=start).initialisation  # type: ignore[arg-type]
    assert how.source == start
    assert (how.mean, how.std) == (((0, 0, 0), (1, 1, 1)) if start == "imagenet" else (None, None))
