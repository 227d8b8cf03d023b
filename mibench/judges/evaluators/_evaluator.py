"""What the author of an evaluator implements, and what an evaluator is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from mibench.data.images import ImageSet
from mibench.errors import MibenchError, RequestError
from mibench.models.classifiers import Outputs, predict
from mibench.models.initialisation import Initialisation
from mibench.progress import SILENT, Progress
from mibench.registry import Registry
from mibench.settings import explain
from mibench.streams import seeded
from mibench.training.loop import TrainingConfig, TrainingResult
from mibench.types import Frozen

JUDGED_AT_ONCE = 128  # on CPUs, resized images of larger batches leave the cache: half as fast


class EvaluatorConfig(Frozen):
    """A network that judges reconstructions, and how it is trained."""

    kind: str = Field(
        "classifier", min_length=1, description="kind of evaluator, or path/to/file.py:Class"
    )
    architecture: str = Field("", description="timm architecture, of a kind that is made of one")
    resolution: int = Field(
        ge=8, le=1024, description="resolution that images are resized to for it, in pixels"
    )
    training: TrainingConfig = Field(
        TrainingConfig(epochs=25, learning_rate=0.05, weight_decay=5e-4),
        description="how it is trained",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="what its kind takes beside these"
    )


@dataclass(frozen=True)
class EvaluatorJob:
    """What an evaluator learns from; never a reconstruction, and no private test image.

    Attributes:
        images: pictures with their classes, on the device: the private training images, and the
            public ones after them where the protocol says so.
        start: what the network of an architecture starts from.
        rng: CPU generator of everything random.
        progress: told of each step under ``label``.
    """

    images: ImageSet
    start: Callable[[str], Initialisation]
    rng: torch.Generator
    progress: Progress
    label: str


class Evaluator(ABC):
    """Base class of evaluators; register with :func:`register_evaluator`.

    An evaluator learns the protocol's classes, or brings what it knows, and tells which of them an
    image shows. It takes images of any size, and resizes them itself.

    Class attributes:
        title: what it is, in a line.
        Options: fields of its own, which a card states as ``options``.

    Attributes:
        network: what :meth:`build` made; its tensors are what is stored.
    """

    title: ClassVar[str]
    Options: ClassVar[type[Frozen]] = Frozen

    def __init__(self, config: EvaluatorConfig, classes: int) -> None:
        self.config, self.classes = config, classes
        self.options: Any = self.Options.model_validate(config.options)
        self.network = self.build()

    @classmethod
    def networks(cls, config: EvaluatorConfig) -> tuple[str, ...]:
        """The timm architectures that it is made of, whose weights the protocol may start."""
        return ()

    @abstractmethod
    def build(self) -> nn.Module:
        """The network as it is before training, and before its stored tensors are loaded."""

    @abstractmethod
    def train(self, job: EvaluatorJob) -> TrainingResult:
        """Train the network in place; ``diverged`` of the result says why it is of no use."""

    @abstractmethod
    def outputs(self, images: Tensor) -> Outputs:
        """Logits ``(n, classes)`` and features ``(n, d)`` of a batch ``(n, 3, h, w)`` in [0, 1]."""

    @final
    def __call__(
        self, images: Tensor, progress: Progress = SILENT, label: str = "judging"
    ) -> tuple[Tensor, Tensor]:
        """Logits ``(n, classes)`` and features ``(n, d)`` of images.

        Args:
            images: ``(n, 3, h, w)``, uint8 or in [0, 1], at the protocol's resolution.
            progress: told of each batch under ``label``.

        Raises:
            MibenchError: :meth:`outputs` gives other shapes than these.
        """
        logits, features = predict(self, images, JUDGED_AT_ONCE, progress, label)
        if logits.shape != (len(images), self.classes) or features.ndim != 2:
            raise MibenchError(
                f"{type(self).__name__}.outputs() gave logits of shape {tuple(logits.shape)} and "
                f"features of shape {tuple(features.shape)}, wanted {(len(images), self.classes)} "
                "and one vector an image"
            )
        return logits, features

    def to(self, device: torch.device) -> Evaluator:
        """The same evaluator, moved."""
        self.network.to(device)
        return self

    @final
    def restore(self, tensors: dict[str, Tensor]) -> Evaluator:
        """The same evaluator with the tensors of a trained one, frozen."""
        self.network.load_state_dict(tensors)
        self.network.eval().requires_grad_(False)
        return self

    @classmethod
    def check(cls, config: EvaluatorConfig, where: str) -> None:
        """Refuse a config that this kind cannot work with.

        Args:
            where: its path: ``"protocol.evaluator"``.

        Raises:
            RequestError: naming what is wrong, and what to do.
        """
        try:
            cls.Options.model_validate(config.options)
        except ValidationError as error:
            raise RequestError(explain(error, f"{where}.options")) from error


EVALUATORS: Registry[Evaluator] = Registry(
    "evaluator", Evaluator, "mibench.judges.evaluators", "mibench.evaluators"
)
register_evaluator = EVALUATORS.register


def train_evaluator(
    kind: type[Evaluator], config: EvaluatorConfig, classes: int, job: EvaluatorJob
) -> tuple[Evaluator, TrainingResult]:
    """A new evaluator of ``classes`` classes, trained, and how its training ended.

    Raises:
        RequestError: weights that its networks start from are absent.
    """
    with seeded(job.rng):
        evaluator = kind(config, classes)
    result = evaluator.train(job)
    evaluator.network.eval()
    return evaluator, result


def restored_evaluator(tensors: dict[str, Tensor], description: dict[str, Any]) -> Evaluator:
    """The evaluator that an asset's description names, with the asset's tensors."""
    config = EvaluatorConfig.model_validate(description["judge"])
    return EVALUATORS.get(config.kind)(config, description["outputs"]).restore(tensors)
