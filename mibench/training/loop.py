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

from mibench.data.images import ImageSet, to_float
from mibench.errors import RequestError
from mibench.models.classifiers import Classifier
from mibench.progress import Progress
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
class TrainState:
    """Where training stands, as a defense's loss sees it; counts start at 0."""

    epoch: int
    step: int
    epochs: int | float
    steps: int

    @property
    def fraction(self) -> float:
        """Share of all steps that are done, in [0, 1)."""
        return self.step / self.steps


@dataclass(frozen=True)
class TrainingResult:
    """How training ended; ``diverged`` says why when the loss left the numbers."""

    steps: int
    loss: float
    diverged: str | None


class TrainingHooks:
    """What a defense may change of the shared loop; every hook has a sensible default.

    Attributes:
        mirror: whether the training images may be mirrored; the loop sets it.
    """

    mirror: bool = True

    def check(self, labels: Tensor, config: TrainingConfig) -> None:
        """Refuse training images or settings that these hooks cannot work with.

        Called before anything is trained; ``pretrain`` of a defense included.

        Args:
            labels: of the training images, ``(n,)`` on the CPU.
            config: how they are trained on.

        Raises:
            RequestError: naming what is wrong, and what to do.
        """

    def prepare(self, model: Classifier) -> Classifier:
        """Wrap or replace layers before training. Returns the module that will be deployed."""
        return model

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change a training batch ``(n, 3, h, w)`` in [0, 1]."""
        return shift_and_mirror(images, generator, self.mirror)

    def sampler(
        self, labels: Tensor, batch_size: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Index batches of one epoch over training images with ``labels`` (CPU).

        No batch holds one image, which would break BatchNorm; so an odd number of images in
        batches of two makes one batch of three.
        """
        order = torch.randperm(len(labels), generator=generator)
        yield from torch.tensor_split(order, self.steps_per_epoch(labels, batch_size))

    def steps_per_epoch(self, labels: Tensor, batch_size: int) -> int:
        """How many batches :meth:`sampler` yields."""
        return max(1, min(math.ceil(len(labels) / batch_size), len(labels) // 2))

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        """Scalar loss of a batch."""
        return F.cross_entropy(model(images), labels)

    def backward(
        self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState
    ) -> Tensor:
        """Compute the gradients of a batch, which the optimizer steps on. Returns its loss."""
        loss = self.loss(model, images, labels, state)
        loss.backward()
        return loss.detach()

    def optimizer(self, model: Classifier, config: TrainingConfig) -> torch.optim.Optimizer:
        """The optimizer of the model's trainable parameters."""
        return make_optimizer(model, config)

    def engage(
        self,
        model: Classifier,
        optimizer: torch.optim.Optimizer,
        labels: Tensor,
        config: TrainingConfig,
        generator: torch.Generator,
    ) -> tuple[Classifier, torch.optim.Optimizer]:
        """Last change before the loop starts (a privacy engine); returns what the loop trains."""
        return model, optimizer

    def release(self, model: Classifier) -> Classifier:
        """Undo :meth:`engage` after the loop; returns the module to deploy."""
        return model


def make_optimizer(model: torch.nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer that ``config`` names, over the parameters that require gradients."""
    parameters = [p for p in model.parameters() if p.requires_grad]
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


def shift_and_mirror(images: Tensor, generator: torch.Generator, mirror: bool = True) -> Tensor:
    """Mirror half of the images and shift each by up to 1/16 of its side, edges repeated.

    Args:
        mirror: False where a mirrored image is none of its class, as with digits.
    """
    count, _, height, width = images.shape
    reach = max(1, height // 16)
    device = images.device
    mirrored = (torch.rand(count, generator=generator) < 0.5) & mirror
    offset = torch.randint(-reach, reach + 1, (2, count), generator=generator)
    rows = (torch.arange(height)[None] + offset[0, :, None]).clamp(0, height - 1)
    columns = (torch.arange(width)[None] + offset[1, :, None]).clamp(0, width - 1)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    item = torch.arange(count, device=device)[:, None, None]
    picked = images.permute(0, 2, 3, 1)[
        item, rows.to(device)[:, :, None], columns.to(device)[:, None]
    ]
    return picked.permute(0, 3, 1, 2)  # channels last in memory


def _schedule(config: TrainingConfig, steps: int, step: int) -> float:
    rising = max(1, round(config.warmup * steps))
    if step < rising:
        return (step + 1) / rising
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def train_classifier(
    model: Classifier,
    data: ImageSet,
    config: TrainingConfig,
    generator: torch.Generator,
    progress: Progress,
    hooks: TrainingHooks | None = None,
    label: str = "target",
) -> tuple[Classifier, TrainingResult]:
    """Train a classifier on private (or, for a student, public) images.

    Args:
        model: the classifier, already through ``hooks.prepare``.
        data: training images, on the device to train on.
        config: budget and optimizer.
        generator: CPU generator of batches, augmentation and the model's own noise.
        progress: told of each step under ``label``.
        hooks: a defense; None trains plainly.

    Returns:
        The trained model in evaluation mode, and how training ended. A loss that is not finite
        ends training at once with ``diverged`` set; weights that are not finite at the end set it.

    Raises:
        RequestError: there are fewer than two images, or ``hooks`` cannot work with them.
    """
    hooks = hooks or TrainingHooks()
    hooks.mirror = data.mirror
    device = data.images.device
    labels = data.labels.cpu()
    if len(labels) < 2:
        raise RequestError(f"{label}: training takes at least two images, and there is one or none")
    hooks.check(labels, config)
    per_epoch = hooks.steps_per_epoch(labels, config.batch_size)
    state = TrainState(0, 0, config.epochs, config.steps(per_epoch))
    model = model.to(device).to(memory_format=torch.channels_last).train()
    loss_value, diverged = math.nan, None
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        optimizer = hooks.optimizer(model, config)
        trained, optimizer = hooks.engage(model, optimizer, labels, config, generator)
        base = [group["lr"] for group in optimizer.param_groups]
        progress.begin(state.steps, label)
        for state.epoch in range(math.ceil(config.epochs)):
            left = state.steps - state.step
            for index in islice(hooks.sampler(labels, config.batch_size, generator), left):
                factor = _schedule(config, state.steps, state.step)
                for group, rate in zip(optimizer.param_groups, base, strict=True):
                    group["lr"] = rate * factor
                index = index.to(device)
                images = to_float(data.images[index])
                if config.augment:
                    images = hooks.augment(images, generator)
                images = images.contiguous(memory_format=torch.channels_last)
                optimizer.zero_grad(set_to_none=True)
                loss = hooks.backward(trained, images, data.labels[index], state)
                optimizer.step()
                state.step += 1
                loss_value = loss.item()
                if not math.isfinite(loss_value):
                    diverged = f"the loss is {loss_value} at step {state.step} of {state.steps}"
                    break
                progress.report(loss=loss_value)
                progress.advance(1)
            if diverged:
                break
        progress.end()
        deployed = hooks.release(trained)
    if diverged is None and not all(
        torch.isfinite(w).all() for w in deployed.state_dict().values()
    ):
        diverged = f"weights are not finite after step {state.step} of {state.steps}"
    return deployed.eval(), TrainingResult(state.step, loss_value, diverged)
