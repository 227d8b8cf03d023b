"""TL-DMI: what is frozen, what moves, and who is seen when."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from mibench.data.images import ImageSet
from mibench.defenses.tl_dmi import TlDmi, first_modules
from mibench.errors import RequestError
from mibench.models.classifiers import Classifier, predict
from mibench.settings import scaled
from mibench.streams import stream
from mibench.training.loop import Job, TrainingConfig, train
from tests.kit import training

State = dict[str, Tensor]
FAMILIES = (
    "test_resnet",
    "test_efficientnet",
    "test_byobnet",
    "test_convnext",
    "test_vit",
    "test_nfnet",
    "test_mambaout",
    "vgg16_bn_mi",
)


def people(labels: Tensor, name: str, names: int | None = None) -> ImageSet:
    """Images whose colour tells the identity."""
    rng = stream(0, name)
    count = names or int(labels.max()) + 1
    colours = torch.rand(count, 3, 1, 1, generator=rng)[labels]
    images = (colours + 0.1 * torch.randn(len(labels), 3, 32, 32, generator=rng)).clamp(0, 1)
    return ImageSet((255 * images).byte(), labels, tuple(map(str, range(count))))


def private() -> ImageSet:
    return people(torch.arange(24) % 4, "private")


def public() -> ImageSet:
    """Six identities; their labels leave gaps, as where some have no image left."""
    return people(2 * (torch.arange(36) % 6) + 1, "public", 20)


class Watched(TlDmi):
    """Keeps the network as it was after pre-training."""

    after: State

    def pretrain(self, job: Job) -> None:
        super().pretrain(job)
        self.after = {k: v.clone() for k, v in job.model.state_dict().items()}


def trained(
    architecture: str = "test_resnet",
    own: ImageSet | None = None,
    others: ImageSet | None = None,
    **settings: Any,
) -> tuple[Watched, Classifier]:
    defense = Watched(TlDmi.Config(**{"pretrain_epochs": 2, **settings}))
    model = training.classifier(architecture)
    config = TrainingConfig(epochs=3, batch_size=12, learning_rate=0.01)
    own, others = own or private(), others or public()
    given = training.job(own, config, model, stream(1), public=others)
    assert train(given, defense).diverged is None
    assert given.model is model
    return defense, model


# What test_resnet holds of the first 8 of its 15 convolutions: the stem's three, two of the first
# block, two of the second and that of its projection; each with its normalisation.
HALF = {
    *(f"conv1.{place}" for place in (0, 1, 3, 4, 6)),
    "bn1",
    *(f"layer{k}.0.{name}" for k in (1, 2) for name in ("conv1", "bn1", "conv2", "bn2")),
    *(f"layer2.0.downsample.{place}" for place in (1, 2)),
}


def owners(names: set[str]) -> set[str]:
    return {name.rpartition(".")[0].removeprefix("backbone.") for name in names}


def moved(before: State, after: State, names: set[str]) -> set[str]:
    """Which of the tensors are not what they were, to the last bit."""
    return {name for name in names if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_the_first_layers_are_a_share_in_their_order(share: float) -> None:
    backbone: Any = training.classifier().backbone
    layers = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    kept = list(first_modules(backbone, share))
    assert [m for m in kept if isinstance(m, nn.Conv2d)] == layers[: round(share * len(layers))]
    assert (backbone.bn1 in kept) == (share > 0)  # it follows the first convolution
    assert len(list(first_modules(backbone, 1e-9))) < len(kept) or share <= 0.25


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("batchnorm", ["frozen", "adapting"])
def test_frozen_layers_stay_bit_for_bit_and_the_others_move(
    architecture: str, batchnorm: str
) -> None:
    defense, model = trained(architecture, frozen=0.5, batchnorm=batchnorm)
    state, parameters = model.state_dict(), dict(model.named_parameters())
    held = {name for name, p in parameters.items() if not p.requires_grad} - {"backbone.bn.bias"}
    free = {name for name, p in parameters.items() if p.requires_grad}
    assert held
    assert not any(name.startswith("head") for name in held)
    assert not moved(defense.after, state, held)
    # An attention's bias of keys has no effect; else every free tensor moves.
    still = free - moved(defense.after, state, free)
    assert len(still) <= 0.1 * len(free), still
    statistics = {name for name in state if "running_" in name or "num_batches" in name}
    frozen = {name for name in statistics if name.rpartition(".")[0] in _parents(held)}
    changed = moved(defense.after, state, statistics)
    assert changed == (statistics - frozen if batchnorm == "frozen" else statistics)
    assert bool(frozen) == any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def _parents(names: set[str]) -> set[str]:
    return {name.rpartition(".")[0] for name in names}


def test_frozen_weights_are_those_of_the_first_layers_by_name() -> None:
    _, model = trained(frozen=0.5)
    assert owners({name for name, p in model.named_parameters() if not p.requires_grad}) == HALF


def test_the_control_is_pre_trained_and_nothing_is_frozen() -> None:
    defense, model = trained(frozen=0)
    assert all(p.requires_grad for p in model.parameters())
    parameters = {name for name, _ in model.named_parameters()}
    assert moved(defense.after, model.state_dict(), parameters) == parameters
    fresh = training.classifier().state_dict()
    assert not torch.equal(
        defense.after["backbone.conv1.0.weight"], fresh["backbone.conv1.0.weight"]
    )
    assert torch.equal(defense.after["head.weight"], fresh["head.weight"])  # for the private ones


def test_everything_can_be_frozen_but_the_head() -> None:
    _, model = trained(frozen=1)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "head.weight",
        "head.bias",
    }


def test_pre_training_sees_public_images_and_no_private_one() -> None:
    """What it makes depends on the public ones, and on the private ones neither way."""
    data = private()
    defense, _ = trained()
    relabelled = ImageSet(data.images, data.labels.flip(0), data.names)
    repainted = ImageSet(255 - data.images, data.labels, data.names)
    for other in (relabelled, repainted):
        again, _ = trained(own=other)
        assert all(torch.equal(value, again.after[name]) for name, value in defense.after.items())
    known = public()
    others = ImageSet(known.images, known.labels.roll(1), known.names)
    again, _ = trained(others=others)
    assert not torch.equal(
        defense.after["backbone.conv1.0.weight"], again.after["backbone.conv1.0.weight"]
    )


def test_pre_training_learns_the_public_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the shared loop, with a head for those alone that have images."""
    found: dict[str, Any] = {}

    def watched(job: Job) -> Any:
        result = train(job)
        logits = predict(job.model, job.train.images)[0]
        found["accuracy"] = (logits.argmax(1) == job.train.labels).float().mean().item()
        found["classes"], found["label"] = logits.shape[1], job.label
        found["steps"], found["names"] = result.steps, job.train.names
        return result

    monkeypatch.setattr("mibench.defenses.tl_dmi.train", watched)
    trained(pretrain_epochs=25)
    assert found["classes"] == 6
    assert found["names"] == ("1", "3", "5", "7", "9", "11")
    assert found["label"] == "pre-training"
    assert found["steps"] == 25 * 3
    assert found["accuracy"] > 0.9


def test_without_pre_training_the_layers_are_frozen_as_they_start() -> None:
    defense, model = trained(pretrain_epochs=0)
    fresh = training.classifier().state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in defense.after.items())
    assert torch.equal(
        model.state_dict()["backbone.conv1.0.weight"], fresh["backbone.conv1.0.weight"]
    )
    # No public images are needed then.
    work = training.job(private(), TrainingConfig(epochs=1), training.classifier())
    assert train(work, TlDmi(TlDmi.Config(pretrain_epochs=0))).diverged is None


def test_a_budget_scales_pre_training_and_keeps_it_off() -> None:
    assert scaled(TlDmi.Config(pretrain_epochs=40), 0.1).pretrain_epochs == 4
    assert scaled(TlDmi.Config(pretrain_epochs=0), 0.1).pretrain_epochs == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "there are no public images"),
        (torch.full((9,), 3), "there is one"),
        (torch.arange(30), "30 of the 30 have one image"),
        (torch.tensor([0, 0, 0, 1, 1, 2, 3, 4]), "3 of the 5 have one image"),
    ],
    ids=["none", "one", "pictures of strangers", "most"],
)
def test_public_images_without_identities_are_refused_before_training(
    labels: Tensor | None, message: str
) -> None:
    others = None if labels is None else people(labels, "public")
    model = training.classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    work = training.job(private(), TrainingConfig(epochs=1), model, public=others)
    with pytest.raises(RequestError, match=f"{message}.*pretrain_epochs=0"):
        train(work, TlDmi(TlDmi.Config()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_half_of_the_identities_may_have_one_image() -> None:
    work = training.job(
        private(),
        TrainingConfig(epochs=1),
        training.classifier(),
        public=people(torch.tensor([0, 0, 1, 1, 2, 3]), "public"),
    )
    TlDmi(TlDmi.Config()).check(work)


@pytest.mark.parametrize(
    ("field", "value"), [("frozen", 1.1), ("pretrain_epochs", -1), ("batchnorm", "eval")]
)
def test_impossible_values_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        TlDmi.Config(**{field: value})
