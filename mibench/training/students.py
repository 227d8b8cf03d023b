"""Models that attackers train on public images to answer as the target does.

Students of model augmentation: Nguyen et al., CVPR 2023, section 3.2, KL(teacher ‖ student) at
temperature 1. Copies that ignore the target's trapdoors are this suite's.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mibench.data.images import ImageSet
from mibench.models.access import WhiteBoxTarget
from mibench.models.classifiers import Classifier, predict
from mibench.models.trapdoors import SEEN, Triggers
from mibench.progress import Progress
from mibench.streams import RowStreams
from mibench.training.loop import Hooks, Job, TrainingConfig, TrainingResult, TrainState, train
from mibench.types import Frozen


class StudentsConfig(Frozen):
    """Model augmentation: students distilled from the target on public images."""

    architectures: tuple[str, ...] = Field(
        ("efficientnet_b0", "efficientnet_b1", "efficientnet_b2"),
        min_length=1,
        max_length=100,
        description="timm architectures, other than the target's (seed paper: EfficientNets)",
    )
    training: TrainingConfig = Field(
        TrainingConfig(epochs=20, learning_rate=0.02),
        description="how each student is trained (KL to the target's outputs at temperature 1)",
    )


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student), the mean over a batch of logits ``(n, k)``."""
    return F.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
    )


class Distillation(Hooks):
    """Training against a teacher's outputs; labels are not used."""

    def __init__(self, teacher: WhiteBoxTarget) -> None:
        self.teacher = teacher

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        with torch.no_grad():
            teacher = self.teacher.outputs(images).logits
        return distillation_loss(model(images), teacher)


class Untrapping(Distillation):
    """Training against a teacher's outputs, which an image keeps when it gets a trigger.

    A copy of a trapped target unlearns its trapdoors so, and nothing else that it knows of its
    classes. Each image is shown twice, as it is and with the trigger of a random class, which is
    turned, cropped and mirrored as in the target's training; the two halves weigh the same.

    Args:
        teacher: the trapped target.
        triggers: its triggers.
    """

    def __init__(self, teacher: WhiteBoxTarget, triggers: Triggers) -> None:
        super().__init__(teacher)
        self.triggers = triggers

    def loss(self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        patterns = self.triggers.patterns
        drawn = torch.randint(len(patterns), (len(images),), generator=state.rng)
        rows = RowStreams([state.rng] * len(images), images.device)
        trapped = self.triggers.blend(
            images, SEEN(patterns[drawn.to(images.device)], rows, state.mirror)
        )
        with torch.no_grad():
            teacher = self.teacher.outputs(images).logits
        return distillation_loss(model(torch.cat([images, trapped])), teacher.repeat(2, 1))


def distill(
    teacher: WhiteBoxTarget,
    student: Classifier,
    public: ImageSet,
    config: TrainingConfig,
    rng: torch.Generator,
    progress: Progress,
) -> tuple[Classifier, TrainingResult, float]:
    """Train a student; also returns the share of 2,000 public images on which it agrees.

    The teacher is asked about each batch, and at the end about these, and counts all.
    """
    label = f"student {student.architecture}"
    job = Job(student, public, None, None, config, rng, progress, label)
    result = train(job, Distillation(teacher))
    images = public.images[:2000]
    same = predict(student, images)[0].argmax(1) == predict(teacher, images)[0].argmax(1)
    return student, result, round(float(same.float().mean()), 4)
