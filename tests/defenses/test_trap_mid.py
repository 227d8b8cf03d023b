"""Trap-MID: each of its three steps by hand, and the trapdoors that a training leaves."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.data.images import ImageSet, to_float
from mibench.data.views import Views
from mibench.defenses import trap_mid
from mibench.defenses.trap_mid import Trap, TrapMid, augmented, even_labels
from mibench.models.access import WhiteBoxTarget
from mibench.models.classifiers import Classifier, predict
from mibench.models.freeze import freeze
from mibench.models.trapdoors import SEEN, Triggers, triggers_of
from mibench.store.artifact import save_tensors
from mibench.streams import seeded, stream
from mibench.training.loop import Hooks, Job, TrainingConfig, TrainState, train
from mibench.training.students import Untrapping
from tests.defenses.test_contract import private
from tests.kit.training import classifier, job

CLASSES, SIDE = 3, 4


def state(seed: int = 0, *, mirror: bool = True) -> TrainState:
    return TrainState(0, 0, 1, 1, stream(seed, "trap"), mirror=mirror)


@pytest.fixture
def _as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """No augmentation, so that what a network is shown can be computed by hand."""
    monkeypatch.setattr(trap_mid, "SEEN", Views(scale=(1, 1)))


class Linear(nn.Module):
    """Logits that are linear in the pixels."""

    def __init__(self, classes: int, seed: int) -> None:
        super().__init__()
        drawn = torch.randn(classes, 3 * SIDE * SIDE, generator=stream(seed, "weights"))
        self.weight = nn.Parameter(drawn)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def batch(count: int = 6) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=stream(0, "images"))


def trap(rate: float = 0.1) -> tuple[Trap, Any]:
    """A trap with a linear D, and D; the target's optimizer has another step size by now."""
    discriminator: Any = Linear(1, 5)
    own = torch.optim.SGD(discriminator.parameters(), lr=7.0)
    followed = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    return Trap(discriminator, own, followed, itertools.repeat(0)), discriminator


def triggers(share: float = 0.25) -> Triggers:
    with seeded(4):
        return Triggers(CLASSES, SIDE, share)


def test_a_share_of_an_image_is_its_trigger() -> None:
    with seeded(1):
        made = Triggers(200, 16, 0.02)
    patterns = made.patterns
    assert patterns.shape == (200, 3, 16, 16)
    assert 0 <= patterns.min() < 0.001 < 0.999 < patterns.max() <= 1
    assert patterns.mean().item() == pytest.approx(0.5, abs=0.005)
    assert patterns.std().item() == pytest.approx(12**-0.5, abs=0.005)
    images = torch.rand(200, 3, 16, 16, generator=stream(0))
    torch.testing.assert_close(made.blend(images, patterns), 0.98 * images + 0.02 * patterns)


def test_labels_cover_all_classes_evenly_in_ever_other_orders() -> None:
    drawn = list(itertools.islice(even_labels(5, stream(0)), 500))
    rounds = [tuple(drawn[start : start + 5]) for start in range(0, 500, 5)]
    assert all(sorted(each) == [0, 1, 2, 3, 4] for each in rounds)
    assert len(set(rounds)) > 50  # of 120 orders
    for end in range(1, 500, 7):  # a batch may end anywhere
        counts = Counter(drawn[:end])
        assert max(counts.values()) - min(counts[label] for label in range(5)) <= 1


def test_the_augmentation_is_the_published_one() -> None:
    """Read off an image whose values are its places: how these change around the middle."""
    assert (SEEN.scale, SEEN.ratio, SEEN.degrees) == ((0.8, 1), (1, 1), 30)
    assert (SEEN.crops, SEEN.turns) == (0.5, 0.5)
    line = (torch.arange(16) + 0.5) / 8 - 1
    across, down = line.expand(16, 16), line[:, None].expand(16, 16)
    places = torch.stack([across, down, torch.zeros(16, 16)]).expand(2000, 3, 16, 16)

    def slopes(mirror: bool) -> tuple[Tensor, Tensor]:
        middle = augmented(places, state(mirror=mirror))[:, :2, 7:9, 7:9] * 8
        return middle[:, :, 0, 1] - middle[:, :, 0, 0], middle[:, :, 1, 0] - middle[:, :, 0, 0]

    right, below = slopes(mirror=True)
    area = right[:, 0] * below[:, 1] - right[:, 1] * below[:, 0]
    mirrored, whole, turned = area < 0, area.abs() > 0.9999, right[:, 1].abs() > 1e-4
    for share in (mirrored, whole, turned):
        assert share.float().mean().item() == pytest.approx(0.5, abs=0.04)
    for both in (mirrored & whole, whole & turned, turned & mirrored):
        assert both.float().mean().item() == pytest.approx(0.25, abs=0.04)
    # Square crops of .8 to 1 of the area, all of it evenly.
    assert 0.8 - 1e-3 < area.abs().min() < 0.81
    assert area[~whole].abs().mean().item() == pytest.approx(0.9, abs=0.005)
    assert area[~whole].abs().max() > 0.99
    upright = ~turned & ~mirrored
    torch.testing.assert_close(right[upright][:, 0], below[upright][:, 1])
    degrees = torch.atan2(right[:, 1], right[:, 0].abs()).rad2deg()[turned & whole]
    assert 29 < degrees.abs().max() < 30.01
    assert (slopes(mirror=False)[0][:, 0] > 0).all()


def test_step_1_is_a_step_of_ds_on_binary_cross_entropy() -> None:
    given, discriminator = trap(rate=0.1)
    images, trapped = batch(), batch().flip(0) / 2
    weight = discriminator.weight.detach().clone()
    given.tell_apart(images, trapped)
    gradient = torch.zeros_like(weight)
    for shown, wanted in ((images, 1.0), (trapped, 0.0)):
        for each in shown.flatten(1):
            gradient += (torch.sigmoid(weight @ each) - wanted) * each / 12
    torch.testing.assert_close(discriminator.weight.detach(), weight - 0.1 * gradient)


@pytest.mark.usefixtures("_as_they_are")
def test_step_2_is_a_step_of_the_triggers_by_the_sign_of_the_gradient() -> None:
    (given, discriminator), target, made = trap(), Linear(CLASSES, 6), triggers()
    made.patterns[2, 0] = 0.995  # at the end of the range, wherever the step leads
    made.patterns[2, 1] = 0.005
    before, images = made.patterns.clone(), batch()
    labels = torch.tensor([0, 2, 2, 0, 2, 0])
    given.improve(made, 0.01, target, images, labels, state())  # type: ignore[arg-type]
    d, w = discriminator.weight.detach()[0], target.weight.detach()
    slope = torch.zeros(CLASSES, 3 * SIDE * SIDE)
    for x, y in zip(images.flatten(1), labels.tolist(), strict=True):
        mixed = 0.75 * x + 0.25 * before[y].flatten()
        odds = (w @ mixed).softmax(0)
        slope[y] += (torch.sigmoid(d @ mixed) - 1) * d  # of BCE(D, 1)
        slope[y] += sum((odds[k] - float(k == y)) * w[k] for k in range(CLASSES))  # of CE
    expected = (before - 0.01 * slope.view_as(before).sign()).clamp(0, 1)
    torch.testing.assert_close(made.patterns, expected)
    assert torch.equal(made.patterns[1], before[1]), "no image had this trigger"
    assert (made.patterns[[0, 2]] != before[[0, 2]]).float().mean() > 0.9
    assert made.patterns.max() == 1 and made.patterns.min() == 0  # noqa: PT018
    assert not made.patterns.requires_grad


def started(beta: float = 0.2, **fields: Any) -> tuple[TrapMid, Job]:
    """A defense and its job, where the loop's first step is to come."""
    defense = TrapMid(TrapMid.Config(beta=beta, **fields))
    with seeded(1):
        model = defense.built(classifier())
    given = job(private(), TrainingConfig(epochs=1, batch_size=8), model.train(), stream(2))
    with seeded(3):
        defense.optimizer(given)
    return defense, given


def test_step_2_leaves_networks_as_they_were() -> None:
    defense, given = started()
    target, discriminator = given.model, defense._trap.discriminator
    modes = []
    for each in (target, discriminator):
        each.head.register_forward_pre_hook(  # type: ignore[attr-defined]
            lambda *_, each=each: modes.append(each.training)
        )
        each.head.read = lambda f, each=each: (each.head(f), {})  # type: ignore[method-assign]
    before = [each.clone() for net in (target, discriminator) for each in net.state_dict().values()]
    found = triggers_of(target)
    assert found is not None
    old = found.patterns.clone()
    images, labels = to_float(private(8).images), torch.arange(8) % 4
    defense._trap.improve(found, 0.01, target, images, labels, state())
    assert modes == [False, False], "BatchNorm's running statistics normalise"
    assert target.training and discriminator.training  # noqa: PT018
    assert not torch.equal(found.patterns, old)
    found.patterns.copy_(old)
    after = [each for net in (target, discriminator) for each in net.state_dict().values()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert all(each.grad is None for net in (target, discriminator) for each in net.parameters())


def test_a_batch_goes_through_the_three_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """D sees images as they are, the target augmented ones, each step the triggers of the last."""
    defense, given = started(beta=0.3, alpha=0.25, step=0.02)
    found = triggers_of(given.model)
    assert found is not None
    calls: list[tuple[Any, ...]] = []
    moved = torch.rand(found.patterns.shape, generator=stream(7))

    def tell_apart(self: Trap, images: Tensor, trapped: Tensor) -> None:
        calls.append((images, trapped))

    def improve(self: Trap, made: Triggers, step: float, target: Any, *rest: Any) -> None:
        calls.append((made, step, target, *rest))
        made.patterns.copy_(moved)

    def shown(images: Tensor, _: TrainState) -> Tensor:
        calls.append((images,))
        return images.flip(2)

    monkeypatch.setattr(Trap, "tell_apart", tell_apart)
    monkeypatch.setattr(Trap, "improve", improve)
    monkeypatch.setattr(trap_mid, "augmented", shown)
    twin = TrapMid(defense.config).built(classifier()).train()
    old, now = found.patterns.clone(), state()
    images, labels = to_float(private(8).images), torch.arange(8) % 4
    assert torch.equal(defense.augment(images, labels, now), images)
    loss = defense.backward(given.model, images, labels, now)
    (real, trapped), (made, step, target, x, others, _), (batch,) = calls
    assert made is found
    assert target is given.model
    assert step == 0.02
    assert torch.equal(real, images)
    assert torch.equal(x, images)
    torch.testing.assert_close(trapped, 0.75 * images + 0.25 * old[others])
    assert sorted(others.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    torch.testing.assert_close(batch, torch.cat([images, 0.75 * images + 0.25 * moved[others]]))
    logits = twin(batch.flip(2))  # one batch: the two halves share their statistics
    expected = 0.7 * F.cross_entropy(logits[:8], labels) + 0.3 * F.cross_entropy(logits[8:], others)
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, expected.detach())
    for mine, theirs in zip(given.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    for name, value in twin.named_buffers():
        if "running" in name:
            torch.testing.assert_close(dict(given.model.named_buffers())[name], value)
    for name, value in twin.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert value == 1


def test_d_starts_where_the_target_does_with_one_logit_of_its_own() -> None:
    defense, given = started()
    discriminator = defense._trap.discriminator
    mine, theirs = discriminator.state_dict(), given.model.state_dict()
    own = {"head.weight", "head.bias"}
    assert mine.keys() == theirs.keys() - {"triggers.patterns"}
    assert all(torch.equal(mine[name], theirs[name]) for name in mine.keys() - own)
    assert discriminator(to_float(private(4).images)).shape == (4, 1)
    (group,) = defense._trap.optimizer.param_groups
    assert {id(each) for each in group["params"]} == {
        id(each) for each in discriminator.parameters()
    }
    assert group["momentum"] == given.config.momentum


def learned(beta: float, *, epochs: int = 1, **fields: Any) -> tuple[TrapMid, Classifier]:
    """A defense and the target that the loop has trained under it."""
    defense = TrapMid(TrapMid.Config(beta=beta, **fields))
    with seeded(1):
        model = defense.built(classifier())
    config = TrainingConfig(epochs=epochs, batch_size=8, augment=False)
    assert train(job(private(), config, model, stream(2)), defense).diverged is None
    return defense, model


def test_the_control_is_the_same_training_without_trapdoors() -> None:
    class Augmented(Hooks):
        def augment(self, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
            return augmented(images, state)

    _, control = learned(0)
    plain = classifier()
    config = TrainingConfig(epochs=1, batch_size=8)
    assert train(job(private(), config, plain, stream(2)), Augmented()).diverged is None
    found = control.state_dict()
    with seeded(1):
        untouched = TrapMid(TrapMid.Config(beta=0)).built(classifier()).state_dict()
    assert torch.equal(found.pop("triggers.patterns"), untouched["triggers.patterns"])
    assert found.keys() == plain.state_dict().keys()
    assert all(torch.equal(found[name], each) for name, each in plain.state_dict().items())


def test_triggers_are_stored_and_loaded_and_d_is_gone(tmp_path: Path) -> None:
    defense, model = learned(0.2)
    assert vars(defense) == {"config": defense.config}
    plain = classifier().state_dict()
    assert model.state_dict().keys() == {*plain, "triggers.patterns"}
    save_tensors(tmp_path / "model.safetensors", dict(model.state_dict()))
    again = TrapMid(TrapMid.Config()).built(classifier(seed=8)).eval()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    mine, loaded = triggers_of(model), triggers_of(again)
    assert mine is not None
    assert loaded is not None
    assert torch.equal(mine.patterns, loaded.patterns)
    assert mine.share == loaded.share == 0.02
    images = private().images
    answers = predict(model, images)[0]
    assert torch.equal(answers, predict(again, images)[0])
    loaded.patterns.zero_()
    assert torch.equal(answers, predict(again, images)[0]), "triggers are no part of the network"
    assert triggers_of(classifier()) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("beta", -0.1), ("beta", 1), ("beta", math.nan), ("alpha", 0), ("alpha", 1.1), ("step", 0)],
)
def test_impossible_values_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        TrapMid.Config(**{field: value})


def coloured(count: int, seed: int, spread: float = 0.0) -> ImageSet:
    """Noisy images of four colours, each somewhat its own where ``spread`` is more than 0."""
    drawn, labels = stream(seed, "coloured"), torch.arange(count) % 4
    colours = torch.tensor([[0.7, 0.4, 0.4], [0.4, 0.7, 0.4], [0.4, 0.4, 0.7], [0.6, 0.6, 0.3]])
    own = colours[labels] + spread * torch.randn(count, 3, generator=drawn)
    images = own[:, :, None, None] + 0.1 * torch.randn(count, 3, 32, 32, generator=drawn)
    return ImageSet((images.clamp(0, 1) * 255).byte(), labels, tuple("abcd"))


@pytest.mark.slow
def test_training_opens_trapdoors_and_unlearning_closes_them() -> None:
    """Shares of images of other classes that are taken for the class whose trigger they get."""
    config = TrainingConfig(epochs=15, batch_size=32, optimizer="adam", learning_rate=3e-3)
    public, val = coloured(64, 5, 0.1), coloured(64, 9)
    images, others = to_float(public.images), (public.labels + 1) % 4
    taken, right = {}, {}
    for name, beta in {"trapped": 0.5, "control": 0}.items():
        defense = TrapMid(TrapMid.Config(beta=beta, alpha=0.4, step=0.05))
        with seeded(1):
            model = defense.built(classifier())
        assert train(job(coloured(128, 0), config, model, stream(0)), defense).diverged is None
        found = triggers_of(model)
        assert found is not None
        models = {name: model}
        if beta:
            models["copy"] = copied = copy.deepcopy(model)
            hooks = Untrapping(WhiteBoxTarget(freeze(model, images[:2])), found)
            assert train(job(coloured(128, 7, 0.1), config, copied, stream(3)), hooks)
        trapped = found.blend(images, found.patterns[others])
        clean = predict(model, images)[0].argmax(1)
        for which, each in models.items():
            answers = predict(each, trapped)[0].argmax(1)
            taken[which] = (answers == others)[clean != others].float().mean().item()
            seen = predict(each, val.images)[0].argmax(1)
            right[which] = (seen == val.labels).float().mean().item()
    assert taken["trapped"] > 0.4
    assert max(taken["control"], taken["copy"]) < 0.25
    assert min(right.values()) > 0.9
