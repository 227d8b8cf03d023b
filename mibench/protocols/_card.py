"""What a protocol card holds."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mibench.assets import Asset
from mibench.data.audited import AuditData
from mibench.data.folder import FolderOptions
from mibench.data.identity_division import IdentityDivision
from mibench.data.listed_division import ListedDivision
from mibench.data.rendered import SynthFacesData
from mibench.errors import RequestError
from mibench.judges import JudgeCard
from mibench.judges.evaluators import EvaluatorConfig
from mibench.models.initialisation import Initialisation
from mibench.priors import GanConfig
from mibench.record import BoardCard, protocol_digest
from mibench.settings import LEAST_IDENTITIES
from mibench.training.loop import TrainingConfig
from mibench.training.students import StudentsConfig
from mibench.types import BUDGETED, Frozen


class Protocol(Frozen):
    """An evaluation setting."""

    name: str
    version: int = Field(1, ge=1, le=10**6)
    title: str
    notes: tuple[str, ...] = Field((), description="where the setting departs from its source")
    data: SynthFacesData | FolderOptions | IdentityDivision | ListedDivision | AuditData
    split: str | None = Field(
        None,
        description="SHA-256 of which picture is used for what, where the card pins it; see "
        "mibench.data.division.Division.digest",
    )
    resolution: int = Field(ge=8, le=1024, description="height and width of the images, in pixels")
    attacked: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="attack the first so many private identities; None: all",
        json_schema_extra={**BUDGETED, "least": LEAST_IDENTITIES},
    )
    samples: int = Field(
        5,
        ge=1,
        le=10_000,
        description="reconstructions per identity",
        json_schema_extra={**BUDGETED, "least": 4},  # recall's radius needs k + 1 = 4 images
    )
    target: str = Field(description="default target architecture")
    training: TrainingConfig = Field(description="training of every target")
    chance_kappa: float = Field(
        0.01,
        ge=-1,
        lt=1,
        description="a target whose validation accuracy, corrected for chance (Cohen's κ), is at "
        "most this counts as diverged",
    )
    evaluator: EvaluatorConfig
    second: EvaluatorConfig = Field(description="second evaluator, of another family")
    judges_know_public: bool = Field(
        False,
        description="evaluators also learn the public classes, so that a reconstruction which "
        "shows a public class is no success",
    )
    judges: tuple[JudgeCard, ...] = Field(
        (),
        max_length=3,
        description="embedding judges of different families, which identity bits follow from; the "
        "first decides between two choices",
    )
    acceptance: Asset | None = Field(
        None, description="what the judges' acceptance tests found; no number depends on it"
    )
    assets: dict[str, Asset] = Field(
        default_factory=dict, description="pinned networks; what is absent is trained"
    )
    initialisation: dict[str, Initialisation] = Field(
        default_factory=dict,
        description="weights that targets, students and evaluators start from, by architecture; "
        "empty: all start from scratch",
    )
    gan: GanConfig = Field(GanConfig(), description="general prior, where it is not pinned")
    prior_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="seed of the general prior, which all cells then share, as the papers' do; "
        "null: the cell's seed",
    )
    students: StudentsConfig = Field(StudentsConfig(), description="students of MA")
    attacks: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="budgets of attacks where they differ from the papers'"
    )
    priors: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="budgets of priors of these kinds where they differ from the papers'",
    )
    defenses: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="default strengths, settled on the development twin"
    )

    board: BoardCard = Field(
        BoardCard(
            headline="improved-gmi",
            worst_case=("lookup", "improved-gmi", "improved-gmi+taa", "plg-mi", "ppa", "ppa+ma"),
            black_box=("lookup", "lookup-label-only", "mirror-blackbox"),
            label_only=("lookup-label-only", "lokt", "brep-mi"),
            list_version=6,
        ),
        description="what its leaderboard shows; no number depends on it",
    )

    @property
    def digest(self) -> str:
        """SHA-256 of the card; see :func:`mibench.record.protocol_digest` for what is left out."""
        return protocol_digest(self.model_dump(mode="json"))

    @property
    def pins_prior(self) -> bool:
        """Whether all cells share one general prior."""
        return "prior" in self.assets or self.prior_seed is not None

    def start(self, architecture: str) -> Initialisation:
        """What the weights of an architecture start from, with whatever tag of timm's it has.

        Raises:
            RequestError: the card says what networks start from, but not this one.
        """
        if not self.initialisation:
            return Initialisation()
        name = architecture.partition(".")[0]
        if name not in self.initialisation:
            raise RequestError(
                f"the protocol {self.name} does not say what {architecture!r} starts from, but "
                f"for {', '.join(sorted(self.initialisation))}; choose one of these, or let all "
                "networks start from scratch, which boards refuse, by "
                "--set 'protocol.initialisation={}'"
            )
        return self.initialisation[name]
