"""Judges that are classifiers, as the papers' evaluators."""

from __future__ import annotations

from torch import Tensor

from mibench.errors import RequestError
from mibench.judges.evaluators import Evaluator, EvaluatorConfig, EvaluatorJob, register_evaluator
from mibench.models.classifiers import Classifier, Outputs
from mibench.models.initialisation import initialise
from mibench.models.resize import resize
from mibench.training.loop import Job, TrainingResult, train


class ResizingClassifier(Classifier):
    """A classifier of images of any size, which it resizes itself, antialiased.

    However it is trained and whatever it judges, it sees its own resolution.

    Shapes:
        ``(n, 3, any height, any width)`` in [0, 1] to logits ``(n, classes)``.
    """

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1], resized, on the scale that the architecture expects."""
        return super().normalise(resize(images, self.resolution))


@register_evaluator("classifier")
class ClassifierEvaluator(Evaluator):
    """A timm architecture, trained on the images like a target without a defense."""

    title = "A classifier of another architecture than the target's"
    network: ResizingClassifier

    @classmethod
    def networks(cls, config: EvaluatorConfig) -> tuple[str, ...]:
        """Its one architecture."""
        return (config.architecture,)

    @classmethod
    def check(cls, config: EvaluatorConfig, where: str) -> None:
        """Refuse it without an architecture."""
        super().check(config, where)
        if not config.architecture:
            raise RequestError(
                f"{where}.architecture: an evaluator of kind {config.kind!r} is made of one: "
                "name it (`mibench list targets`)"
            )

    def build(self) -> ResizingClassifier:
        """The architecture, with random weights."""
        return ResizingClassifier(self.config.architecture, self.classes, self.config.resolution)

    def train(self, job: EvaluatorJob) -> TrainingResult:
        """Start it from what the protocol says, and train it in the shared loop."""
        network = initialise(self.network, job.start(self.config.architecture))
        work = Job(
            network,
            job.images,
            None,
            None,
            self.config.training,
            job.rng,
            job.progress,
            job.label,
        )
        return train(work)

    def outputs(self, images: Tensor) -> Outputs:
        """The classifier's."""
        return self.network.outputs(images)
