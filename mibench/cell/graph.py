"""The stages of one cell, and which of them are to be computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mibench.cell.evaluators import PinnedEvaluator, Role, TrainedEvaluator
from mibench.cell.given_target import GivenPriorStage, GivenTarget
from mibench.cell.images import Images
from mibench.cell.judges import NO_JUDGE, NOBODY, Enrolment
from mibench.cell.measures import Metrics, References
from mibench.cell.picture import Picture
from mibench.cell.prior import GeneralPrior, OwnPrior, PinnedPrior
from mibench.cell.reconstructions import Reconstructions
from mibench.cell.resolve import Cell
from mibench.cell.stage import Stage
from mibench.cell.students import Student
from mibench.cell.surrogates import LabelledImages, Surrogate
from mibench.cell.target import Target
from mibench.cell.untrapped import Untrapped
from mibench.data.divided import Divided
from mibench.inversion.attack import TransferConfig
from mibench.judges.evaluators import Evaluator
from mibench.priors import Prior
from mibench.priors.gan import Gan


class Graph:
    """A cell's stages, each with those that it reads.

    Args:
        cell: the resolved cell.
        divided: its images, each of which has its use.
    """

    def __init__(self, cell: Cell, divided: Divided) -> None:
        self.cell = cell
        config, protocol = cell.attack_config, cell.protocol
        self.images = Images(divided)
        given = cell.given is not None
        self.target = GivenTarget(cell, self.images) if given else Target(cell, self.images)
        attacked = Untrapped(cell, self.images, self.target) if config.untrap else self.target
        self.evaluator, self.second = self._evaluator("evaluator"), self._evaluator("second")
        pinned = cell.prior_config.source == "protocol" and "prior" in protocol.assets
        self.general: Stage[Prior] = (
            PinnedPrior(cell) if pinned else GeneralPrior(cell, self.images)
        )
        if cell.given_prior is not None:
            self.general = GivenPriorStage(cell)
        self.prior: Stage[Prior] = self.general
        if cell.prior_kind is not Gan and cell.given_prior is None:
            self.prior = OwnPrior(cell, self.images, self.general, attacked)
        architectures = config.students.architectures if config.augment else ()
        self.students = [Student(cell, self.images, attacked, a) for a in architectures]
        self.surrogates: list[Surrogate] = []
        if isinstance(config, TransferConfig):
            own = config.surrogates
            labelled = LabelledImages(cell, self.images, self.target, self.prior, own)
            self.surrogates = [
                Surrogate(cell, self.images, labelled, own, each) for each in own.architectures
            ]
        self.reconstructions = Reconstructions(
            cell, self.images, attacked, self.prior, self.students, self.surrogates
        )
        judges = range(len(protocol.judges))
        no_judge = NOBODY if given and not divided.counts.decoys else NO_JUDGE
        # Of several the worst counts, so that fewer would say more.
        for kind in cell.judges:
            if absent := kind.absent():
                judges, no_judge = range(0), f"no judge: {absent}"
        self.references = References(
            cell,
            self.images,
            self.target,
            self.evaluator,
            self.second,
            self.general,
            [Enrolment(cell, self.images, number) for number in judges],
            no_judge,
        )
        self.metrics = Metrics(self.references, self.reconstructions)
        self.picture = Picture(cell, self.metrics)

    def _evaluator(self, role: Role) -> Stage[Evaluator]:
        pinned = role in self.cell.protocol.assets
        return (
            PinnedEvaluator(self.cell, role)
            if pinned
            else TrainedEvaluator(self.cell, self.images, role)
        )

    @property
    def stages(self) -> dict[str, Stage[Any]]:
        """The stages that are stored, by name; parents come first, and the picture last.

        The target comes before the rest: if it diverges, nothing else is needed. Then the
        evaluators, without which an attack cannot be judged.
        """
        order = (self.target, self.evaluator, self.second, self.picture)
        stages = [stage for each in order for stage in each.lineage()]
        return {stage.name: stage for stage in stages if stage.stored}

    def needed(self, present: Callable[[Stage[Any]], bool]) -> list[Stage[Any]]:
        """The stages to compute for the last one, and those that they read; parents come first.

        Args:
            present: whether the store holds a stage's artifact.
        """
        absent: set[str] = set()
        pending: list[Stage[Any]] = [self.picture, self.metrics]
        while pending:
            stage = pending.pop()
            if stage.stored and stage.name not in absent and not present(stage):
                absent.add(stage.name)
                pending += stage.parents
        read = {parent.name for name in absent for parent in self.stages[name].parents}
        wanted = absent | read | {self.picture.name, self.metrics.name}
        return [stage for name, stage in self.stages.items() if name in wanted]
