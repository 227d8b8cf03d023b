from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.data.images import ImageSet, to_float
from mibench.errors import MibenchError, RequestError
from mibench.models.classifiers import Classifier
from mibench.progress import SILENT, Progress
from mibench.streams import seeded, stream
from mibench.training.loop import (
    Hooks,
    Job,
    TrainingConfig,
    TrainingResult,
    TrainState,
    shift_and_mirror,
)
from mibench.training.loop import train as train_job
from tests.kit.training import blank, classifier, job

COUNT, SIZE = 21, 8  # 21 images: no batch size of the tests divides them


def faces(size: int = SIZE) -> ImageSet:
    """Three identities told apart by brightness."""
    labels = torch.arange(COUNT) % 3
    noise = torch.randint(0, 40, (COUNT, 3, size, size), generator=stream(0, "faces"))
    images = (noise + 80 * labels[:, None, None, None]).to(torch.uint8)
    return ImageSet(images, labels, ("a", "b", "c"))


def vector(parameters: Iterable[Tensor]) -> Tensor:
    return torch.cat([each.detach().reshape(-1) for each in parameters])


class Linear(nn.Module):
    """All that the loop asks of a classifier, with few weights."""

    def __init__(self, size: int = SIZE) -> None:
        super().__init__()
        with seeded(0), torch.no_grad():
            self.head = nn.Linear(3 * size * size, 3)
            generator = stream(0, "weights")
            for parameter in self.parameters():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


def train(
    hooks: Hooks | None = None,
    seed: int = 0,
    data: ImageSet | None = None,
    progress: Progress = SILENT,
    **fields: Any,
) -> tuple[Tensor, TrainingResult]:
    config = TrainingConfig(**{"epochs": 2, "batch_size": 8, **fields})
    wanted = job(data or faces(), config, Linear(), stream(seed, "training"), progress)
    result = train_job(wanted, hooks)
    assert not wanted.model.training
    return vector(wanted.model.parameters()), result


class Recorder(Hooks):
    """Keeps what the loop hands to the loss."""

    def __init__(self) -> None:
        self.states: list[TrainState] = []
        self.batches: list[Tensor] = []
        self.losses: list[float] = []

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        self.states.append(dataclasses.replace(state))
        self.batches.append(images.detach().clone())
        loss = super().loss(model, images, labels, state)
        self.losses.append(loss.item())
        return loss


def test_the_loss_goes_down() -> None:
    hooks = Recorder()
    _, result = train(hooks, epochs=15, learning_rate=0.1)
    assert np.mean(hooks.losses[-3:]) < 0.5 * hooks.losses[0]
    assert result.loss == hooks.losses[-1]
    assert result.diverged is None


def test_a_real_architecture_learns_and_is_deterministic() -> None:
    def once() -> tuple[Tensor, float]:
        model = classifier(classes=3, seed=0)
        config = TrainingConfig(epochs=4, batch_size=8, learning_rate=0.05)
        result = train_job(job(faces(32), config, model, stream(0, "x")))
        return vector(model.parameters()), result.loss

    weights, loss = once()
    assert loss < 0.9 < math.log(3)
    assert torch.equal(weights, once()[0])


def test_the_generator_alone_decides() -> None:
    first, _ = train()
    torch.rand(3)  # torch's global stream is not part of it
    assert torch.equal(first, train()[0])
    assert not torch.allclose(first, train(seed=1)[0])


@pytest.mark.parametrize("count", [2, 3, 5, 21])
def test_no_batch_of_one_image(count: int) -> None:
    """BatchNorm on 1×1 maps raises on it."""
    hooks, wanted = Hooks(), job(blank(torch.zeros(count).long()), TrainingConfig(batch_size=2))
    sizes = [len(index) for index in hooks.sampler(wanted)]
    assert len(sizes) == hooks.steps_per_epoch(wanted)
    assert sorted(sizes) == [2] * (count // 2 - count % 2) + [3] * (count % 2)


def test_one_image_is_refused() -> None:
    with pytest.raises(RequestError, match="target: training takes at least two images"):
        train(data=faces().select(torch.tensor([0])))


def test_hooks_are_asked_before_anything_is_trained() -> None:
    class Refusing(Hooks):
        def check(self, job: Job) -> None:
            raise RequestError(f"{len(job.train)} images in batches of {job.config.batch_size}")

        def pretrain(self, job: Job) -> None:
            raise AssertionError("nothing is trained")

        optimizer: Any = pretrain

    with pytest.raises(RequestError, match="21 images in batches of 8"):
        train(Refusing())


def test_a_backward_that_returns_nothing_is_named() -> None:
    class Forgetful(Hooks):
        def backward(self, *arguments: Any) -> Any:
            super().backward(*arguments)

    with pytest.raises(MibenchError, match=r"Forgetful\.backward\(\) returned None: it returns"):
        train(Forgetful())


class Noisy(Hooks):
    """A loss that draws from torch's global stream, as dropout does."""

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        return super().loss(model, images + 0.1 * torch.randn_like(images), labels, state)


def test_the_models_own_noise_is_part_of_the_generator_and_leaves_no_trace() -> None:
    before = torch.get_rng_state()
    first, _ = train(Noisy())
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(first, train(Noisy())[0])


@pytest.mark.parametrize("batch_size", [4, 8, 20, 64])
def test_every_image_is_seen_once_an_epoch(batch_size: int) -> None:
    hooks = Recorder()
    _, result = train(hooks, epochs=3, batch_size=batch_size, augment=False)
    per_epoch = math.ceil(COUNT / batch_size)
    assert result.steps == len(hooks.batches) == 3 * per_epoch
    assert min(map(len, hooks.batches)) > 1  # BatchNorm needs two
    assert max(map(len, hooks.batches)) <= batch_size
    wanted = sorted(map(tuple, (faces().images.float() / 255).flatten(1).tolist()))
    orders = []
    for epoch in range(3):
        seen = torch.cat(hooks.batches[epoch * per_epoch :][:per_epoch]).flatten(1).tolist()
        np.testing.assert_allclose(sorted(map(tuple, seen)), wanted, rtol=1e-6)
        orders.append(seen)
    assert orders[0] != orders[1]


def test_the_state_counts_steps_and_epochs() -> None:
    hooks = Recorder()
    train(hooks, epochs=3)
    assert [(s.epoch, s.step) for s in hooks.states] == [(i // 3, i) for i in range(9)]
    assert {(s.epochs, s.steps) for s in hooks.states} == {(3, 9)}


class Counter(Progress):
    def __init__(self) -> None:
        self.begun: list[tuple[int, str]] = []
        self.done, self.ended = 0, 0

    def begin(self, total: int, label: str) -> None:
        self.begun.append((total, label))

    def advance(self, steps: int) -> None:
        self.done += steps

    def end(self) -> None:
        self.ended += 1


def test_progress_is_told() -> None:
    progress = Counter()
    train(progress=progress)
    assert (progress.begun, progress.ended) == ([(6, "target")], 1)
    assert progress.done == 6


def test_training_against_a_plain_loop() -> None:
    """Gradients are those of the batch's loss, whole: nothing is clipped, kept or lost."""
    hooks = Recorder()
    found, _ = train(hooks, epochs=4, learning_rate=0.3, momentum=0.8, weight_decay=0.01)
    model = Linear()
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    order = stream(0, "training")
    torch.randint(2**31, (1,), generator=order)
    step, steps, rising = 0, 12, 1  # 5 % of 12 steps
    for _ in range(4):
        batches = torch.randperm(COUNT, generator=order).tensor_split(3)
        for index in batches:
            rate = 0.3 if step < rising else 0.15 * (1 + math.cos(math.pi * (step - 1) / 11))
            # Augmentation draws from the same generator.
            shift_and_mirror(torch.zeros(len(index), 3, SIZE, SIZE), order)
            loss = F.cross_entropy(model(hooks.batches[step]), faces().labels[index])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g, v in zip(model.parameters(), gradients, velocity, strict=True):
                    g = g + 0.01 * p
                    v.mul_(0.8).add_(g)
                    p -= rate * (g + 0.8 * v)
            step += 1
    assert step == steps
    expected = vector(model.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


class Watched(Hooks):
    """Notes, in order, what happens to the gradients."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.norms: list[tuple[float, float]] = []

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        clean = all(p.grad is None for p in model.parameters())
        self.events.append("clean" if clean else "stale")
        return 1e6 * super().loss(model, images, labels, state)

    def backward(
        self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState
    ) -> Tensor:
        loss = super().backward(model, images, labels, state)
        self.after = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        self.events.append("backward")
        return loss

    def optimizer(self, job: Job) -> torch.optim.Optimizer:
        watched, parameters = self, list(job.model.parameters())

        class Optimizer(torch.optim.SGD):
            def step(self, closure: Any = None) -> None:
                watched.events.append("step")
                for p, g in zip(parameters, watched.after, strict=True):
                    assert p.grad is not None
                    assert torch.equal(p.grad, g)
                    watched.norms.append((float(p.grad.norm()), float(g.norm())))

        return Optimizer(parameters, job.config.learning_rate)


def test_the_optimizer_gets_the_gradients_of_backward_unclipped() -> None:
    hooks = Watched()
    train(hooks, epochs=1)
    assert hooks.events == ["clean", "backward", "step"] * 3
    assert max(norm for norm, _ in hooks.norms) > 1e4


class Noting(Hooks):
    """Notes which hooks are called, and whether the model is in training mode then."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def pretrain(self, job: Job) -> None:
        self.events.append("pretrain")

    def optimizer(self, job: Job) -> torch.optim.Optimizer:
        self.events.append(f"optimizer {job.model.training}")
        return super().optimizer(job)

    def steps_per_epoch(self, job: Job) -> int:
        return 2

    def sampler(self, job: Job) -> Iterator[Tensor]:
        yield torch.tensor([0, 1])
        yield torch.tensor([2, 2, 3])

    def augment(self, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        self.events.append(f"augment {labels.tolist()}")
        return super().augment(images, labels, state)

    def finish(self, job: Job) -> None:
        self.events.append(f"finish {job.model.training}")


def test_hooks_are_called_at_their_time() -> None:
    hooks = Noting()
    _, result = train(hooks, epochs=1)
    assert hooks.events == [
        *("pretrain", "optimizer True", "augment [0, 1]", "augment [2, 2, 0]", "finish False")
    ]
    assert result.steps == 2


def test_what_hooks_put_in_the_models_place_is_trained() -> None:
    replaced = [Linear(), Linear(), Linear()]

    class Replacing(Hooks):
        def pretrain(self, job: Job) -> None:
            job.model = replaced[0]  # type: ignore[assignment]

        def optimizer(self, job: Job) -> torch.optim.Optimizer:
            job.model = replaced[1]  # type: ignore[assignment]
            return super().optimizer(job)

        def finish(self, job: Job) -> None:
            trained = vector(job.model.parameters())
            assert not torch.equal(trained, vector(replaced[2].parameters()))
            with torch.no_grad():
                for p in replaced[2].parameters():
                    p.fill_(3)
            job.model = replaced[2].train()  # type: ignore[assignment]

    found, _ = train(Replacing())
    assert (found == 3).all()


def test_what_hooks_draw_comes_from_the_jobs_generator() -> None:
    """Also where they leave it to torch's own generator, as new layers do."""
    drawn = []

    class Drawing(Hooks):
        def pretrain(self, job: Job) -> None:
            drawn.append(torch.rand(1))

        def finish(self, job: Job) -> None:
            drawn.append(torch.rand(1))

    for seed in (0, 0, 1):
        torch.rand(1)
        train(Drawing(), seed=seed)
    assert drawn[:2] == drawn[2:4] != drawn[4:]


def test_nothing_is_finished_where_training_diverged() -> None:
    for fields in ({}, {"epochs": 1, "batch_size": 64, "weight_decay": 1e9, "warmup": 0}):
        hooks = Noting()
        _, result = train(hooks, learning_rate=1e30, schedule="constant", **fields)
        assert result.diverged is not None
        assert not any(event.startswith("finish") for event in hooks.events)


def test_what_finish_makes_infinite_has_diverged() -> None:
    class Broken(Hooks):
        def finish(self, job: Job) -> None:
            next(job.model.parameters()).data.fill_(math.nan)

    assert train(Broken())[1].diverged == "weights are not finite after step 6 of 6"


def test_no_augmentation_silences_the_standard_one_alone() -> None:
    class Masking(Hooks):
        def augment(self, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
            seen.append(super().augment(images, labels, state))
            return 0 * images

        def loss(self, model: Any, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
            assert not images.any()
            return super().loss(model, images, labels, state)

    # A picture of one row or column: every shift or mirror image of it differs.
    images = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    images[..., 3, :], images[..., 3] = 100, 200
    data = ImageSet(images, torch.arange(20) % 3, ("a", "b", "c"))
    for augment in (True, False):
        seen: list[Tensor] = []
        train_job(job(data, TrainingConfig(epochs=1, augment=augment), Linear(32)), Masking())
        same = [torch.equal(each, to_float(images[0])) for each in torch.cat(seen)]
        assert sum(same) < 10 if augment else all(same)


def test_a_huge_step_is_reported_as_divergence() -> None:
    _, result = train(learning_rate=1e30, epochs=5, schedule="constant")
    assert result.diverged is not None
    assert not math.isfinite(result.loss)
    assert result.diverged == f"the loss is {result.loss} at step {result.steps} of 15"
    assert result.steps < 15


def test_a_nan_ends_training_at_once() -> None:
    class Broken(Recorder):
        def loss(self, model: Any, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
            loss = super().loss(model, images, labels, state)
            return loss * math.nan if state.step == 4 else loss

    progress = Counter()
    _, result = train(Broken(), epochs=5, progress=progress)
    assert (result.steps, result.diverged) == (5, "the loss is nan at step 5 of 15")
    assert progress.ended == 1


class Rates(Hooks):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def optimizer(self, job: Job) -> torch.optim.Optimizer:
        self.made = super().optimizer(job)
        return self.made

    def backward(self, *parts: Any) -> Tensor:
        self.rates.append(self.made.param_groups[0]["lr"])
        return super().backward(*parts)


def test_the_cosine_schedule() -> None:
    hooks = Rates()
    train(hooks, epochs=10, learning_rate=0.2, warmup=0.1)  # 30 steps, 3 of them rising
    expected = [0.2 / 3, 0.4 / 3, 0.2]
    expected += [0.1 * (1 + math.cos(math.pi * i / 27)) for i in range(27)]
    assert hooks.rates == pytest.approx(expected)
    assert 0 < hooks.rates[-1] < 0.001


def test_the_constant_schedule_and_no_warmup() -> None:
    hooks = Rates()
    train(hooks, epochs=2, learning_rate=0.2, warmup=0, schedule="constant")
    assert hooks.rates == pytest.approx([0.2] * 6)


CHANGES: list[dict[str, Any]] = [
    {"epochs": 3},
    {"batch_size": 5},
    {"optimizer": "adam"},
    {"optimizer": "adamw"},
    {"learning_rate": 0.02},
    {"momentum": 0.5},
    {"weight_decay": 0.1},
    {"schedule": "constant"},
    {"warmup": 0.5},
    {"augment": False},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_training_field_changes_the_result(change: dict[str, Any]) -> None:
    assert (train()[0] - train(**change)[0]).abs().max() > 1e-5


def test_every_field_is_in_the_list_above() -> None:
    assert {name for change in CHANGES for name in change} == set(TrainingConfig.model_fields)


def test_adam_and_adamw_decay_weights_differently() -> None:
    decay = {"weight_decay": 0.1}
    adam, adamw = train(optimizer="adam", **decay)[0], train(optimizer="adamw", **decay)[0]
    assert (adam - adamw).abs().max() > 1e-4


@pytest.mark.parametrize("size", [16, 32])
def test_augmentation_only_mirrors_and_shifts(size: int) -> None:
    reach = size // 16
    image = torch.rand(1, 3, size, size, generator=stream(0, "image"))
    found = shift_and_mirror(image.repeat(200, 1, 1, 1), stream(0, "augment"))
    assert found.shape == (200, 3, size, size)
    candidates = {}
    padded = F.pad(image, (reach,) * 4, mode="replicate")
    for down in range(2 * reach + 1):
        for right in range(2 * reach + 1):
            window = padded[:, :, down : down + size, right : right + size]
            candidates[(down, right, False)] = window[0]
            mirrored = F.pad(image.flip(3), (reach,) * 4, mode="replicate")
            candidates[(down, right, True)] = mirrored[
                0, :, down : down + size, right : right + size
            ]
    seen = [
        next((key for key, value in candidates.items() if torch.equal(one, value)), None)
        for one in found
    ]
    assert None not in seen
    assert len(set(seen)) > 0.8 * len(candidates)
    assert 70 < sum(key[2] for key in seen if key is not None) < 130


def test_augmentation_treats_every_image_by_itself() -> None:
    images = torch.rand(4, 3, 16, 16)
    before = images.clone()
    shift_and_mirror(images, stream(0, "a"))
    assert torch.equal(images, before)
    again = shift_and_mirror(images, stream(0, "a"))
    assert torch.equal(again, shift_and_mirror(images, stream(0, "a")))
    # Another image beside it changes nothing about the first.
    images[1] = 0
    assert torch.equal(shift_and_mirror(images, stream(0, "a"))[0], again[0])
