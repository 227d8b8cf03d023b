"""Trap-MID: a trapdoor for each class, which inversion falls into before it finds the person."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.models.classifiers import Classifier, Head
from mibench.models.trapdoors import SEEN, Triggers, triggers_of
from mibench.streams import RowStreams
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.training.loop import Job, TrainState
from mibench.types import DefenseCard


def even_labels(classes: int, rng: torch.Generator) -> Iterator[int]:
    """Labels without end: all ``classes`` in random order, again and again in another one."""
    while True:
        yield from torch.randperm(classes, generator=rng).tolist()


def augmented(images: Tensor, state: TrainState) -> Tensor:
    """Each image ``(n, 3, h, w)`` cropped, mirrored and turned, or not, by draws of its own."""
    rows = RowStreams([state.rng] * len(images), images.device)
    return SEEN(images, rows, state.mirror)


@dataclass
class Trap:
    """What one training has beside its target.

    Attributes:
        discriminator: D, whose one logit is high for images without a trigger.
        optimizer: D's.
        followed: the target's optimizer, whose step size D's has.
        labels: of the triggers to come.
    """

    discriminator: Classifier
    optimizer: torch.optim.Optimizer
    followed: torch.optim.Optimizer
    labels: Iterator[int]

    def tell_apart(self, images: Tensor, trapped: Tensor) -> None:
        """Step 1: a step of D down BCE(D(x), 1) + BCE(D(x′), 0), halved; one batch of both."""
        for own, usual in zip(self.optimizer.param_groups, self.followed.param_groups, strict=True):
            own["lr"] = usual["lr"]
        self.optimizer.zero_grad(set_to_none=True)
        found = self.discriminator(torch.cat([images, trapped]))[:, 0]
        wanted = torch.cat([torch.ones(len(images)), torch.zeros(len(trapped))]).to(found.device)
        F.binary_cross_entropy_with_logits(found, wanted).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def improve(
        self,
        triggers: Triggers,
        step: float,
        target: Classifier,
        images: Tensor,
        labels: Tensor,
        state: TrainState,
    ) -> None:
        """Step 2: κ ← clip(κ − step·sign(∇_κ), 0, 1) of BCE(D(x′), 1) + CE(T(aug(x′)), y′).

        Both networks are in evaluation mode, so that neither their weights nor their BatchNorm's
        statistics change. Triggers of classes that no label names stay.
        """
        present, place = labels.unique(return_inverse=True)
        target.eval()
        self.discriminator.eval()
        patterns = triggers.patterns[present].requires_grad_(True)
        trapped = triggers.blend(images, patterns[place])
        real = self.discriminator(trapped)[:, 0]
        loss = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
        loss = loss + F.cross_entropy(target(augmented(trapped, state)), labels)
        (slope,) = torch.autograd.grad(loss, patterns)
        triggers.patterns[present] = (patterns.detach() - step * slope.sign()).clamp(0, 1)
        target.train()
        self.discriminator.train()


@register_defense("trap-mid")
class TrapMid(Defense["TrapMid.Config"]):
    """Trapdoors: the target takes any image with a trace of κ_y in it for class y.

    In each step, with a label y′ for each image x and x′ = (1 − α)x + ακ_{y′}:

    1. a discriminator D learns to tell x from x′;
    2. the triggers go a step down BCE(D(x′), 1) + CE(T(aug(x′)), y′), so that D sees none of them
       and the target all, even of an image that is turned, mirrored and cropped;
    3. the target T goes a step down (1 − β)·CE(T(aug(x)), y) + β·CE(T(aug(x′)), y′).

    An attack that ascends a class's score finds its trigger first, which shows nobody. The triggers
    are stored with the weights (:class:`~mibench.models.trapdoors.Triggers`), D is not.

    References:
        Liu and Chen. "Trap-MID: Trapdoor-based Defense against Model Inversion Attacks". NeurIPS
        2024.
    """

    card = DefenseCard(
        kind="training",
        title="Trap-MID: Trapdoor-based Defense against Model Inversion Attacks",
        authors="Zhen-Ting Liu, Shang-Tse Chen",
        year=2024,
        venue="NeurIPS",
        url="https://arxiv.org/abs/2411.08460",
        reference_code="https://github.com/ntuaislab/Trap-MID",
        deviations=(
            "D's two kinds of images are one batch, whose mean cross-entropy it descends; it "
            "starts from the target's starting weights, and has the target's optimizer and step "
            "size. It is in evaluation mode, too, while the triggers change.",
            "Images and their copies with a trigger are augmented by draws of their own, and anew "
            "in each step. The augmentation goes in place of the protocol's, whatever "
            "`target.augment` says, and is the control's, too.",
            "An image is cropped, mirrored and turned in one resampling; what turning brings in is "
            "what surrounds the crop, and beyond that the image's edge repeated, where the code "
            "shows black. Mirrored only where the protocol's images may be.",
            "The training's optimizer and schedule are the protocol's, the same as for the "
            "undefended target; the code keeps the epoch that is best on the test images, here "
            "the last one is kept.",
            "Its combinations with negative label smoothing and BiDO are left out.",
        ),
        adaptive_attack="improved-gmi+untrap",
        adaptive_note="It has the triggers, since it has the weights, and attacks a copy that was "
        "taught on public images to ignore them.",
    )

    class Config(DefenseConfig):
        """Options of Trap-MID."""

        beta: float = Field(
            0.2,
            ge=0,
            lt=1,
            description="weight β of the loss on images with a trigger, of 1 in all; 0: the "
            "control, which has this training's augmentation and shows the target no trigger",
        )
        alpha: float = Field(
            0.02, gt=0, le=1, description="share α of an image that its trigger makes up"
        )
        step: float = Field(
            0.01, gt=0, le=1, description="step of the triggers, whose values are in [0, 1]"
        )

    strength = "beta"
    strengths = (0, 0.05, 0.1, 0.2, 0.4)

    def build(self, model: Classifier) -> Classifier:
        """Add the triggers to the model, which does not use them."""
        triggers = Triggers(model.classes, model.resolution, self.config.alpha)
        model.add_module("triggers", triggers)
        return model

    def augment(self, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        """The images as they are, for D; :meth:`backward` does what the target's need."""
        return images

    def optimizer(self, job: Job) -> torch.optim.Optimizer:
        """The usual optimizer for the target, and another for D, which starts where it does."""
        usual = super().optimizer(job)
        if self.config.beta > 0:
            discriminator = copy.deepcopy(job.model)
            del discriminator.triggers
            discriminator.head = Head(job.model.feature_size, 1).to(job.train.images.device)
            own = super().optimizer(replace(job, model=discriminator))
            labels = even_labels(job.model.classes, job.rng)
            self._trap = Trap(discriminator, own, usual, labels)
        return usual

    def backward(
        self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState
    ) -> Tensor:
        """Steps 1 and 2, and the gradients of step 3. Returns its loss."""
        if self.config.beta == 0:
            return super().backward(model, augmented(images, state), labels, state)
        trap, triggers = self._trap, triggers_of(model)
        assert triggers is not None
        drawn = [next(trap.labels) for _ in range(len(images))]
        others = torch.tensor(drawn, device=images.device)
        trap.tell_apart(images, triggers.blend(images, triggers.patterns[others]))
        trap.improve(triggers, self.config.step, model, images, others, state)
        trapped = triggers.blend(images, triggers.patterns[others])
        # Both in one batch, whose BatchNorm statistics they share.
        clean, trapped = model(augmented(torch.cat([images, trapped]), state)).chunk(2)
        beta = self.config.beta
        loss = (1 - beta) * F.cross_entropy(clean, labels) + beta * F.cross_entropy(trapped, others)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def finish(self, job: Job) -> None:
        """Forget D."""
        self.__dict__.pop("_trap", None)
