"""The schema of records: what a cell came to, and everything that a leaderboard knows of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, Strict, model_validator

from mibench.types import Access, Frozen, digest

SCHEMA_VERSION: Literal[3] = 3
# Of the metrics' rules; records of schema 1 were made by version 1, and since 3 a record says how
# much its reconstructions tell of a person.
RULES_VERSION = 3
# False-match rates α of the leaks; one is told where chance gives so many matches or more, αN.
LEAKS = {f"leak_at_{alpha}": Fraction(alpha) for alpha in ("1e-2", "1e-3", "1e-4")}
LEAST_MATCHES = 10
IDENTITY_METRICS = (
    "identity_bits",
    "identity_bits_best",
    "median_rank",
    *LEAKS,
    "excess_bits",
    "excess_bits_best",
    "beats_lookalike",
    "two_choice_accuracy",
    "epsilon_lower_bound",
)
# Why there is no ceiling where decoys' templates are of as many images as a person has for testing.
NO_OTHERS = "a test image is scored against others of its identity, and one has too few"
# The protocol of audits, and what a network and its defense are called in them: nobody here knows
# how it was trained.
AUDIT, GIVEN = "audit", "given"
# The artifact that a record names when the data set lacks pictures.
INCOMPLETE = "incomplete images"
# Beside a record: what a report shows that is neither in it nor among the reconstructions.
GALLERY = "gallery.safetensors"
# Who the decoys are, by the card's `data.decoys`, where they are no draw from the people whom the
# private ones were drawn from: ranks among them are nominal.
NOMINAL = {
    "rare": "people with few pictures",
    "unlisted": "people whom no published list shows",
    "public": "a half of the public people",
}
_LARGEST = 1e15  # of a strength that a curve can show
# Images beside the reconstructions, which bound every attack.
FLOOR_PRIOR = "floor: random prior samples"
FLOOR_PUBLIC = "floor: public images that the target scores highest"
CEILING = "ceiling: private test images"
# Of each judge its own, so that it is no set of images: it has bits and leaks alone.
LOOKALIKE = "look-alike: the public image most like the identity"
REFERENCES = {  # in a word
    FLOOR_PRIOR: "floor",
    FLOOR_PUBLIC: "floor",
    LOOKALIKE: "look-alike",
    CEILING: "ceiling",
}

# A validator before the model's own turns JSON into Python's lists, which strict tuples refuse.
_List = Strict(False)
Interval = Annotated[tuple[float, float], _List]


def shown_rank(value: float) -> str:
    """``"50,001"``; a half is rounded up, against the attacker."""
    return f"{math.floor(value + 0.5):,}"


def ordinal(rank: int) -> str:
    """``"1st"``, ``"2nd"``, ``"11th"``, ``"1,600th"``."""
    teen = rank % 100 in (11, 12, 13)
    return f"{rank:,}" + ("th" if teen else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th"))


def protocol_digest(card: Mapping[str, Any]) -> str:
    """SHA-256 of a protocol card as JSON.

    Methods' settings, which each record states itself, notes and what boards show are left out; so
    are fields of later releases that say nothing, for cards to keep the digest they had before.
    """
    apart = {"digest", "attacks", "defenses", "priors", "notes", "board", "acceptance"}
    later: dict[str, Any] = {
        "initialisation": {},
        "prior_seed": None,
        "judges_know_public": False,
        "split": None,
        "gan.architecture": "dcgan",
        "gan.schedule": "linear",
        "gan.mirror": True,
        "evaluator.kind": "classifier",
        "evaluator.options": {},
        "second.kind": "classifier",
        "second.options": {},
        "judges": [],
        "data.coins": False,
        "data.decoys": None,
        "data.decoy_images": 1,
        "data.image_column": None,
        "data.label_column": None,
    }

    def told(values: Mapping[str, Any], parents: str = "") -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name, value in values.items():
            path = parents + name
            if path in later and value == later[path]:
                continue
            if path == "judges":  # wherever their files lie
                kept[name] = [
                    {k: v["sha256"] if isinstance(v, Mapping) else v for k, v in each.items()}
                    for each in value
                ]
                continue
            parted = isinstance(value, Mapping) and any(
                each.startswith(path + ".") for each in later
            )
            kept[name] = told(value, path + ".") if parted else value
        return kept

    return digest(told({name: value for name, value in card.items() if name not in apart}))


class _Strict(Frozen):
    """A model whose numbers are numbers and whose texts are texts."""

    model_config = ConfigDict(strict=True)


class MetricValue(_Strict):
    """A number with what it was computed over.

    Attributes:
        value: the metric, or None when it could not be computed (then ``reason`` says why).
        n: how many images it was computed over.
        interval: 95 % interval.
        interval_over: what the interval resamples (``"identities"``, ``"identity subsamples"``).
        per_identity: one value per attacked identity where the metric has them.
        hits: for accuracies, a text of 0s and 1s per identity, a character a sample.
        ranks: of the median rank, those of each identity's samples.
        among: of ranks, how many people they are among: the decoys and the identity.
    """

    value: float | None
    n: int | None = None
    interval: Interval | None = None
    interval_over: str | None = None
    per_identity: Annotated[tuple[float, ...], _List] | None = None
    hits: Annotated[tuple[str, ...], _List] | None = None
    ranks: Annotated[tuple[Annotated[tuple[int, ...], _List], ...], _List] | None = None
    among: int | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _absent_has_a_reason(self) -> MetricValue:
        if self.value is None and not self.reason:
            raise ValueError("a metric without a value needs a reason")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError("a metric that is not finite is null with a reason")
        return self


def missing(reason: str) -> MetricValue:
    """The value of a metric that could not be computed."""
    return MetricValue(value=None, reason=reason)


class Part(_Strict):
    """One of a cell's parts: its name, what was passed, and what that resolved to.

    Attributes:
        source: SHA-256 of the normalised source, with the modules that it reaches by import, of a
            method that is not one of mibench's own files; of a protocol, of a card and of judges
            that are not; None for mibench's own.
    """

    name: str
    version: int | None = None
    source: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    passed: dict[str, Any]
    resolved: dict[str, Any]


class PriorPart(_Strict):
    """The attacker's image prior.

    Attributes:
        kind: registered name of its kind: ``"gan"``, ``"inversion-gan"``.
        source: as a :class:`Part`'s, of a kind that is not one of mibench's own files.
        recipe: how it was trained, in words, as tables show it.
        pinned: whether the protocol pins the general prior, which all its cells then share.
        passed: settings ``prior.…``; ``prior.kind`` where another kind than the attack's was asked
            for.
    """

    kind: str
    source: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    recipe: str
    pinned: bool
    passed: dict[str, Any]
    resolved: dict[str, Any]


class BoardCard(Frozen):
    """What the board of a protocol shows; a card holds it, outside its digest.

    The worst case is over a fixed list of attacks, one list an access. An attack of a lower access
    may stand in the list of a higher one, as look-up does: who has the weights can look up, too.
    """

    headline: str = Field(description="the attack of curves and ranks")
    worst_case: tuple[str, ...] = Field(
        description="the fixed list of attacks of the worst case, with white-box access"
    )
    black_box: tuple[str, ...] = Field((), description="the same with black-box access")
    label_only: tuple[str, ...] = Field((), description="the same with label-only access")
    list_version: int = Field(
        1, ge=1, le=10**6, description="version of these lists, which a changed list counts up"
    )
    interval: Literal["identities", "seeds"] = Field(
        "identities",
        description="what the intervals of differences are over: the seeds where a protocol has "
        "but a handful of classes",
    )

    def attacks(self, access: Access) -> tuple[str, ...]:
        """The list of an access; empty where the card has none."""
        lists = {"black-box": self.black_box, "label-only": self.label_only}
        return lists.get(access, self.worst_case)

    def standard(self, access: Access | None = None, *, output: bool = False) -> tuple[str, ...]:
        """The standard set of attacks: the list of an access or, of None, all lists, each once.

        Args:
            access: which list.
            output: whether the defense changes the answers only; then there is no white-box list,
                for whoever has the weights takes such a filter off.
        """
        wanted = get_args(Access) if access is None else (access,)
        lists = [self.attacks(each) for each in wanted if not (output and each == "white-box")]
        return tuple(dict.fromkeys(name for own in lists for name in own))


class Strength(_Strict):
    """How strong a defense was set.

    Attributes:
        path: its main knob: ``"defense.scale"``, or ``"target.epochs"`` for early stopping.
        value: the resolved setting, or what training came to, as noise for a given ε; None where
            it is no number, as of a training that diverged.
        control: whether the defense's own knob is at 0: its code without its protection.
    """

    path: str = Field(pattern=r"^(defense|target)\.[A-Za-z0-9_.-]+$")
    value: float | None
    control: bool


def strength(
    path: str, parts: Mapping[str, Mapping[str, Any]], utility: Mapping[str, Any]
) -> Strength:
    """The strength at a main knob.

    Args:
        path: as ``"defense.scale"``.
        parts: resolved settings of ``defense`` and ``target``.
        utility: a record's, where a knob that was found in training is reported.
    """
    part, _, field = path.partition(".")
    value: Any = parts.get(part)
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    value = utility.get(field) if value is None else value
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    number = float(value) if plain and abs(value) <= _LARGEST else None  # no NaN, no infinity
    return Strength(path=path, value=number, control=part == "defense" and number == 0)


class Environment(_Strict):
    """Where a record or a stage was made, and with what.

    Attributes:
        processor: the instructions that torch computes with on it, and its model: what else the
            last digits of a number on a CPU depend on. None in records of earlier releases.
    """

    mibench: str
    commit: str | None
    dirty: bool | None
    python: str
    torch: str
    timm: str
    opacus: str
    device: str
    threads: int
    platform: str
    processor: str | None = None


class StageCost(_Strict):
    """What a stage cost when it was computed (``cached``: in an earlier run).

    Attributes:
        queries: images that the target was asked about, for all identities together.
        own_queries: of these, the ones that were asked for each attacked identity, in the order of
            their labels; the others were asked once for all of them. None in records of earlier
            releases, and of stages that attack no identity.
        maker: where and with what it was computed then; None in records of earlier releases.
    """

    stage: str
    key: str
    cached: bool
    seconds: float = Field(ge=0)
    iterations: int | None = Field(None, ge=0)
    queries: int | None = Field(None, ge=0)
    own_queries: Annotated[tuple[Annotated[int, Field(ge=0)], ...], _List] | None = None
    peak_memory_bytes: int | None = Field(None, ge=0)
    maker: Environment | None = None

    @model_validator(mode="after")
    def _own_queries_are_queries(self) -> StageCost:
        if self.own_queries is not None and sum(self.own_queries) > (self.queries or 0):
            raise ValueError("own_queries: more than the queries that they are among")
        return self


class Record(_Strict):
    """The result of one cell; accuracies are fractions in [0, 1].

    Records of schema 1 and 2 are read as if they were of schema 3 (:func:`upgraded`).

    Attributes:
        rules: version of the metrics' rules, by which the numbers are checked.
        strength: of the defense; None where it has no main knob.
        people: whether the reconstructions show people, and are not to be published.
        environment: what made the last stage, whoever prints it later; dirty if any stage's was.
    """

    schema_version: Literal[3] = SCHEMA_VERSION
    rules: int = Field(ge=1, le=RULES_VERSION)
    status: Literal["complete", "diverged"]
    protocol: Part
    target: Part
    defense: Part
    attack: Part
    prior: PriorPart
    strength: Strength | None
    seed: int = Field(ge=0, lt=2**63)
    access: Access
    people: bool
    utility: dict[str, float | str | None]
    metrics: dict[str, MetricValue]
    references: dict[str, dict[str, MetricValue]]
    costs: Annotated[tuple[StageCost, ...], _List]
    artifacts: dict[str, str]
    environment: Environment
    command: str
    created: str

    @model_validator(mode="before")
    @classmethod
    def _of_any_schema(cls, data: Any) -> Any:
        known = isinstance(data, dict) and type(data.get("schema_version")) is int
        return upgraded(data) if known and data["schema_version"] in (1, 2) else data

    @property
    def nominal(self) -> str | None:
        """Who the decoys are, where that makes ranks nominal (:data:`NOMINAL`); None elsewhere."""
        decoys = self.protocol.resolved["data"].get("decoys")
        return NOMINAL.get(decoys) if isinstance(decoys, str) else None

    @property
    def given(self) -> str | None:
        """What the audited network is called; None where the target was trained for the record."""
        if self.protocol.name != AUDIT:
            return None
        name = self.target.resolved.get("model")
        return name if isinstance(name, str) and name else GIVEN

    def chance_rank(self, among: int) -> str:
        """The typical rank by chance among so many people, as it is shown."""
        # Of several judges the largest rank counts, which is further down by chance.
        several = len(self.protocol.resolved.get("judges") or ()) > 1
        return shown_rank((among + 1) / 2) + " or more" * several

    def results(self) -> dict[str, Any]:
        """What an equal run must reproduce: all but cost, time, place and command."""
        volatile = {"costs", "environment", "command", "created"}
        return self.model_dump(mode="json", exclude=volatile)


# Main knobs, which records of schema 1 and 2 do not name.
_KNOBS = {
    "none": "target.epochs",
    "mid": "defense.beta",
    "bido": "defense.scale",
    "dp-sgd": "defense.noise_multiplier",
}
_PINNED = " (general prior pinned by the protocol)"


def upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """A record of schema 1 or 2 as one of schema 3; what is no record stays none.

    The prior's settings were the attack's, its pin was a phrase in its recipe, and neither a
    defense's main knob nor whether people are shown was said.

    Raises:
        ValueError: it says that it was verified, or, of schema 1, where its methods come from.
    """
    data = {"rules": 1, **data} if data["schema_version"] == 1 else {**data}
    if data.pop("verified_by", None) is not None:
        raise ValueError(
            "verified_by: a record cannot say that it was verified; `mibench leaderboard verify` "
            "notes it beside the records"
        )
    try:
        protocol, defense, attack = data["protocol"], data["defense"], data["attack"]
        if data["schema_version"] == 1 and (defense.get("source") or attack.get("source")):
            raise ValueError("a record of schema 1 has no source")
        of_prior = {k: v for k, v in attack["resolved"].items() if k in ("prior", "prior_training")}
        own, passed = prior_apart(attack["passed"])
        data["attack"] = {
            **attack,
            "passed": own,
            "resolved": {k: v for k, v in attack["resolved"].items() if k not in of_prior},
        }
        data["prior"] = {
            "kind": "inversion-gan" if "prior_training" in of_prior else "gan",
            "recipe": data["prior"].removesuffix(_PINNED),
            "pinned": data["prior"].endswith(_PINNED),
            "passed": passed,
            "resolved": {**of_prior.get("prior", {}), **of_prior.get("prior_training", {})},
        }
        card = {**protocol["resolved"]}
        divided = {name: prior_apart(settings) for name, settings in card["attacks"].items()}
        card["attacks"] = {name: own for name, (own, _) in divided.items() if own}
        prior = next((each for _, each in divided.values() if each), None)
        card["priors"] = {"inversion-gan": prior} if prior else {}
        data["protocol"] = {**protocol, "resolved": card}
        knob = None if defense.get("source") else _KNOBS.get(defense["name"])
        parts = {name: data[name]["resolved"] for name in ("defense", "target")}
        data["strength"] = knob and strength(knob, parts, data["utility"]).model_dump()
        things = card["data"].get("dataset") in ("mnist", "cifar10")
        nobody = things or "private_name" in card["data"]
    except (AttributeError, KeyError, TypeError):
        return data  # which is no record: the schema names what is wrong
    return {**data, "people": not nobody, "schema_version": SCHEMA_VERSION}


def prior_apart(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of an attack, and those among them that are its prior's now, by their new paths."""
    own, prior = {}, {}
    for path, value in settings.items():
        part, _, field = path.removeprefix("attack.").partition(".")
        if part not in ("prior", "prior_training"):
            own[path] = value
        elif field:
            prior[f"prior.{field}"] = value
        else:  # set as a whole
            prior |= {f"prior.{name}": each for name, each in value.items()}
    return own, prior
