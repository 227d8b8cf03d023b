"""The one training loop of every classifier: targets under any defense, evaluators and students."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from mibench.data.images import ImageSet, picked, to_float
from mibench.errors import MibenchError, RequestError
from mibench.models.classifiers import Classifier
from mibench.progress import Progress
from mibench.streams import seeded
from mibench.types import BUDGETED, Frozen


class TrainingConfig(Frozen):
    """How a classifier is trained."""

    epochs: int | float = Field(
        50,
        gt=0,
        le=1_000_000,
        description="passes over the training images; a fraction ends within one",
        json_schema_extra=BUDGETED,
    )
    batch_size: int = Field(64, ge=2, le=1_000_000, description="images a step")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="optimizer")
    learning_rate: float = Field(0.01, gt=0, le=1e30, description="step size at the start")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's (Nesterov) momentum")
    weight_decay: float = Field(1e-4, ge=0, le=1e30, description="L2 weight decay")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="how the step size falls over training"
    )
    warmup: float = Field(
        0.05, ge=0, lt=1, description="share of the steps over which the step size rises"
    )
    augment: bool = Field(
        True,
        description="random shifts by up to 1/16 of a side, and mirroring where allowed",
    )

    @field_validator("epochs")
    @classmethod
    def _plain(cls, value: float) -> float:
        """Whole numbers as such: 2.0 epochs are 2, in keys too."""
        if not math.isfinite(value):
            raise ValueError("a number of epochs is finite")
        return int(value) if value == int(value) else value

    def steps(self, per_epoch: int) -> int:
        """Steps of the whole training, at least 1."""
        # Rounded first: 0.07 · 100 is a little more than 7 in floating point.
        return max(1, math.ceil(round(self.epochs * per_epoch, 6)))


@dataclass
class Job:
    """One training: what is trained on what, and how. Hooks may replace ``model``.

    Attributes:
        model: the classifier; after :func:`train` it is trained, in evaluation mode.
        train: training images, on the device to train on.
        val: private images that are not trained on; None where there are none.
        public: public images, of other identities; None where there are none.
        config: budget and optimizer.
        rng: CPU generator of all that is random in the training.
        progress: told of each step under ``label``.
    """

    model: Classifier
    train: ImageSet
    val: ImageSet | None
    public: ImageSet | None
    config: TrainingConfig
    rng: torch.Generator
    progress: Progress
    label: str = "target"


@dataclass
class TrainState:
    """Where training stands, as hooks on a batch see it; counts start at 0.

    Attributes:
        rng: the job's generator.
        augment: whether the standard augmentation is wanted (``target.augment``).
        mirror: whether the training images may be mirrored.
    """

    epoch: int
    step: int
    epochs: int | float
    steps: int
    rng: torch.Generator
    augment: bool = True
    mirror: bool = True


@dataclass(frozen=True)
class TrainingResult:
    """How training ended; ``diverged`` says why when the loss left the numbers."""

    steps: int
    loss: float
    diverged: str | None


class Hooks:
    """What may be changed of the shared training, in the order in which it asks."""

    def check(self, job: Job) -> None:
        """Refuse training images or settings that these hooks cannot work with.

        Called before anything is trained.

        Raises:
            RequestError: naming what is wrong, and what to do.
        """

    def pretrain(self, job: Job) -> None:
        """Prepare ``job.model`` before the loop, as by training it on ``job.public``."""

    def optimizer(self, job: Job) -> torch.optim.Optimizer:
        """The optimizer that the job names, over the parameters that require gradients."""
        config = job.config
        parameters = [p for p in job.model.parameters() if p.requires_grad]
        if config.optimizer == "sgd":
            return torch.optim.SGD(
                parameters,
                config.learning_rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                nesterov=config.momentum > 0,
            )
        kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        return kind(parameters, config.learning_rate, weight_decay=config.weight_decay)

    def steps_per_epoch(self, job: Job) -> int:
        """How many batches :meth:`sampler` yields."""
        images = len(job.train)
        return max(1, min(math.ceil(images / job.config.batch_size), images // 2))

    def sampler(self, job: Job) -> Iterator[Tensor]:
        """Batches of one epoch: positions in ``job.train``, on the CPU.

        No batch holds one image, which would break BatchNorm; so an odd number of images in
        batches of two makes one batch of three.
        """
        order = torch.randperm(len(job.train), generator=job.rng)
        yield from torch.tensor_split(order, self.steps_per_epoch(job))

    def augment(self, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        """Change a training batch ``(n, 3, h, w)`` in [0, 1].

        ``target.augment=false`` silences the standard augmentation, which is here, and nothing
        that a defense adds to it or puts in its place.
        """
        return shift_and_mirror(images, state.rng, state.mirror) if state.augment else images

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        """Scalar loss of a batch."""
        return F.cross_entropy(model(images), labels)

    def backward(
        self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState
    ) -> Tensor:
        """Compute the gradients of a batch, which the optimizer steps on. Returns its loss."""
        loss = self.loss(model, images, labels, state)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def finish(self, job: Job) -> None:
        """Fit what is fitted after the loop; the model is in evaluation mode.

        On ``job.val``, say, whose accuracy is then one on images that something was fitted to. Not
        called where training diverged.
        """


def shift_and_mirror(images: Tensor, generator: torch.Generator, mirror: bool = True) -> Tensor:
    """Mirror half of the images and shift each by up to 1/16 of its side, edges repeated.

    Args:
        mirror: False where a mirrored image is none of its class, as with digits.
    """
    count, _, height, width = images.shape
    reach = max(1, height // 16)
    mirrored = (torch.rand(count, generator=generator) < 0.5) & mirror
    offset = torch.randint(-reach, reach + 1, (2, count), generator=generator)
    rows = (torch.arange(height)[None] + offset[0, :, None]).clamp(0, height - 1)
    columns = (torch.arange(width)[None] + offset[1, :, None]).clamp(0, width - 1)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    return picked(images, rows, columns)


def _schedule(config: TrainingConfig, steps: int, step: int) -> float:
    rising = max(1, round(config.warmup * steps))
    if step < rising:
        return (step + 1) / rising
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def train(job: Job, hooks: Hooks | None = None) -> TrainingResult:
    """Train ``job.model``; hooks are a defense's, or None to train plainly.

    A loss that is not finite ends training at once with ``diverged`` set, without ``finish``;
    weights that are not finite at the end set it too.

    Raises:
        RequestError: there are fewer than two images, or the hooks cannot work with them.
    """
    hooks = hooks or Hooks()
    config, device = job.config, job.train.images.device
    if len(job.train) < 2:
        raise RequestError(
            f"{job.label}: training takes at least two images, and there is one or none"
        )
    hooks.check(job)
    with seeded(job.rng):
        job.model.to(device)
        hooks.pretrain(job)
        job.model.to(device).to(memory_format=torch.channels_last).train()
        optimizer = hooks.optimizer(job)
        data = job.train
        base = [group["lr"] for group in optimizer.param_groups]
        steps = config.steps(hooks.steps_per_epoch(job))
        state = TrainState(0, 0, config.epochs, steps, job.rng, config.augment, data.mirror)
        loss, diverged = math.nan, None

        def batches() -> Iterator[Tensor]:
            for state.epoch in range(math.ceil(config.epochs)):
                yield from hooks.sampler(job)

        job.progress.begin(steps, job.label)
        for batch in islice(batches(), steps):
            factor = _schedule(config, steps, state.step)
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * factor
            index = batch.to(device)
            labels = data.labels[index]
            images = hooks.augment(to_float(data.images[index]), labels, state)
            images = images.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            found = hooks.backward(job.model, images, labels, state)
            if not isinstance(found, Tensor):
                raise MibenchError(
                    f"{type(hooks).__name__}.backward() returned {found!r}: it returns the "
                    "batch's loss, a scalar tensor"
                )
            optimizer.step()
            state.step += 1
            loss = found.item()  # only now, since it waits for the device
            if not math.isfinite(loss):
                diverged = f"the loss is {loss} at step {state.step} of {steps}"
                break
            job.progress.report(loss=loss)
            job.progress.advance(1)
        job.progress.end()
        job.model.eval()
        if diverged is None and _finite(job.model):
            hooks.finish(job)
            job.model.eval()
    if diverged is None and not _finite(job.model):
        diverged = f"weights are not finite after step {state.step} of {steps}"
    return TrainingResult(state.step, loss, diverged)


def _finite(model: torch.nn.Module) -> bool:
    return all(bool(torch.isfinite(weights).all()) for weights in model.state_dict().values())
