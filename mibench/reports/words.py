"""What a record says, in words and rows of text: for a terminal and for pages alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from mibench.leaderboard.board import CLASSES, measure_of
from mibench.leaderboard.checks import HEADLINE, LEAST_EVALUATOR_ACCURACY, trusted_evaluator
from mibench.metrics import METRICS, near_chance, paired_interval
from mibench.metrics.catalogue import HIGHER
from mibench.progress import ABSENT, duration, size
from mibench.record import (
    CEILING,
    FLOOR_PRIOR,
    FLOOR_PUBLIC,
    IDENTITY_METRICS,
    INCOMPLETE,
    LOOKALIKE,
    MetricValue,
    Record,
    shown_rank,
)

_SHARES = (
    "attack_accuracy",
    "evaluator_agreement",
    "leak_at",
    "beats_lookalike",
    "two_choice_accuracy",
)
# References, as tables' columns and sentences call them.
COLUMNS = {
    FLOOR_PUBLIC: "look-up",
    LOOKALIKE: "look-alike",
    CEILING: "ceiling",
    FLOOR_PRIOR: "random",
}
_IN_BITS = {"chance": FLOOR_PRIOR, "look-up": FLOOR_PUBLIC, "ceiling": CEILING}
_BITS = ("identity_bits", "identity_bits_best", "excess_bits", "excess_bits_best")

Level = Literal["leaked", "public", "nothing", "classes", "unmeasured", "diverged"]


@dataclass(frozen=True)
class Verdict:
    """What leaked, for who reads nothing else.

    Attributes:
        level: ``leaked``: more than public pictures show; ``public``: no more than that, but more
            than random samples; ``nothing``: no more than these; ``classes``: nobody is shown;
            ``unmeasured``: it cannot be said; ``diverged``: there is no number.
        headline: one sentence.
        reasons: the sentences that it rests on.
    """

    level: Level
    headline: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetricRow:
    """A metric of the attack and of the references, as text; ``key`` is the metric's name."""

    key: str
    title: str
    attack: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class MetricTable:
    """The metrics that have a number somewhere.

    Attributes:
        columns: short names of the references, in the order of each row's.
        caption: what the numbers are over.
    """

    columns: tuple[str, ...]
    rows: tuple[MetricRow, ...]
    caption: str


def number(metric: str, value: float | None) -> str:
    """A metric's value as tables show it: accuracies in per cent, a dash where it is missing."""
    if value is None:
        return ABSENT
    if metric.startswith(_SHARES):
        return percent(value)
    if metric in _BITS:
        return f"{value:.2f}"
    if metric == "median_rank":
        return shown_rank(value)
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def with_interval(metric: str, entry: MetricValue) -> str:
    """A value with its 95 % interval, ``"43.0 % [38.1, 48.2]"``."""
    text = number(metric, entry.value)
    if entry.value is None or entry.interval is None:
        return text
    low, high = (number(metric, bound).removesuffix(" %") for bound in entry.interval)
    return f"{text} [{low}, {high}]"


def percent(value: float | str | None) -> str:
    """A fraction in per cent; a dash for what is no number."""
    return f"{100 * value:.1f} %" if isinstance(value, float | int) else ABSENT


def title_of(metric: str) -> str:
    """What a reader calls a metric."""
    return METRICS[metric].title if metric in METRICS else metric


def headline(record: Record) -> str:
    """Which cell a record is of, in a line."""
    return f"{record.attack.name} ({record.access}) against {attacked(record)} · {setting(record)}"


def attacked(record: Record) -> str:
    """What was attacked: an architecture under a defense, or the network that was given."""
    return record.given or f"{record.target.name} under {record.defense.name}"


def setting(record: Record) -> str:
    """Protocol and seed: ``"synthfaces-32 v2 · seed 0"``."""
    protocol = record.protocol
    preset = f" ({protocol.passed['preset']})" if "preset" in protocol.passed else ""
    return f"{protocol.name}{preset} v{protocol.version} · seed {record.seed}"


def leak_in_words(record: Record) -> list[str]:
    """What leaked as a person understands it, then in bits; nothing without embedding judges."""
    rank = record.metrics.get("median_rank")
    lookup = record.references.get(FLOOR_PUBLIC, {}).get("median_rank")
    if rank is None or rank.value is None or rank.among is None:
        return []
    bits = record.metrics["identity_bits"]
    known = {
        what: record.references.get(name, {}).get("identity_bits")
        for what, name in _IN_BITS.items()
    }
    beside = [
        f"{what} {each.value:.1f}"
        for what, each in known.items()
        if each is not None and each.value is not None
    ]
    of_lookup = f"; looking through public pictures {rank_of(lookup)}" if lookup else ""
    known_bits = f"Known of who the person is: {with_interval('identity_bits', bits)} bits"
    return [
        f"Typical rank of the person {rank_of(rank)} of {rank.among:,}{of_lookup}; chance "
        f"{chance_rank(record, rank.among)}",
        known_bits + ("; " + ", ".join(beside) if beside else ""),
    ]


def chance_rank(record: Record, among: int) -> str:
    """The typical rank by chance, as it is shown; where ranks are nominal, as it was measured."""
    if record.nominal:
        return rank_of(record.references.get(FLOOR_PRIOR, {}).get("median_rank"))
    return record.chance_rank(among)


def verdict(record: Record) -> Verdict:
    """What leaked, for who reads one sentence.

    The 95 % intervals decide. First: whether people's best guesses are closer to them than any
    public picture, more often than random samples are; of a few such people alone, chance may be
    the reason. Then the attack's bits over random samples, for against a target that knows nobody
    even beating look-up says nothing; and over look-up, which needs no inversion.
    """
    if record.status == "diverged":
        reasons = [each.reason for each in record.metrics.values() if each.reason]
        return Verdict(
            "diverged",
            "There is no number: training or attack diverged.",
            tuple(dict.fromkeys(f"{each}." for each in reasons)),
        )
    bits = record.metrics.get("identity_bits")
    if bits is None or bits.value is None:
        return _unjudged(record, bits)
    closer = _closer(record)
    excess = record.metrics.get("excess_bits")
    compared = _beside_lookup(bits.value, excess)
    wins, random = record.metrics.get("beats_lookalike"), record.references.get(FLOOR_PRIOR, {})
    if wins is not None and wins.hits and wins.interval is not None:
        by_chance = random.get("beats_lookalike")
        if wins.interval[0] > ((by_chance.value if by_chance else None) or 0.0):
            found = sum(hit == "1" for hit in wins.hits)
            return Verdict(
                "leaked",
                f"{found:,} of {len(wins.hits):,} people leaked: their best guess is closer to "
                "them than any public picture is.",
                compared,
            )
    over_random = _over(bits, random.get("identity_bits"))
    if over_random is not None and over_random[1] <= 0:
        return Verdict(
            "nothing",
            "This attack found nothing of who the people are.",
            (
                "Its reconstructions say no more of them than random samples of the attacker's "
                f"image prior: the difference is {_signed(*over_random)}.",
                *closer,
            ),
        )
    if excess is None or excess.value is None or excess.interval is None:
        return Verdict(
            "unmeasured", "Whether more leaked than public pictures show cannot be said.", compared
        )
    if excess.interval[0] > 0:
        headline = "More leaked than looking through public pictures shows."
        return Verdict("leaked", headline, (*compared, *closer))
    headline = "No more leaked than looking through public pictures shows."
    return Verdict("public", headline, (*compared, *closer))


def _beside_lookup(bits: float, excess: MetricValue | None) -> tuple[str, ...]:
    """How far the reconstructions lead, beside the public images that the target takes for them."""
    # Rounded to what a reader can hold in mind: one in 57, and one in 1,800.
    people = float(f"{2 ** min(bits, 60.0):.2g}")
    one = f"The reconstructions narrow the people down to about one in {people:,.0f}"
    if excess is None or excess.value is None or excess.interval is None:
        reason = (excess.reason if excess else "") or "there are too few people for an interval"
        return (f"{one}. What looking through public pictures shows is not known: {reason}.",)
    low, high = excess.interval
    if low == high == 0:
        return (f"{one}, just as the public pictures do that the classifier takes for them.",)
    how = "further than" if low > 0 else "less far than" if high < 0 else "no further than"
    return (
        f"{one}, {how} the public pictures that the classifier takes for them: the difference is "
        f"{_signed(excess.value, low, high)}.",
    )


def _unjudged(record: Record, bits: MetricValue | None) -> Verdict:
    top1 = record.metrics.get(HEADLINE)
    seen = []
    if top1 is not None and top1.value is not None:
        beside = ", ".join(
            f"{COLUMNS[name]} {percent(found.value)}"
            for name in COLUMNS
            if (found := record.references.get(name, {}).get(HEADLINE)) and found.value is not None
        )
        what = f"in {with_interval(HEADLINE, top1)} of the reconstructions"
        seen = [what + (f" ({beside})" if beside else "")]
    if measure_of(record) is CLASSES:
        return Verdict(
            "classes",
            "Nobody is shown: these classes are no people, and no leak is claimed.",
            tuple(f"The evaluator sees the attacked class {each}." for each in seen),
        )
    reason = (bits.reason if bits else None) or "the record has no identity metrics"
    return Verdict(
        "unmeasured",
        "Whether a person leaked was not measured.",
        (
            f"Nobody ranked the people among strangers: {reason}.",
            *(
                f"The evaluator, which knows nobody but the attacked people, sees the right one "
                f"{each}: it takes strangers who look alike for them, too."
                for each in seen
            ),
        ),
    )


def _closer(record: Record) -> list[str]:
    """Of how many people the best guess is closer than any public picture."""
    wins = record.metrics.get("beats_lookalike")
    if wins is None or not wins.hits:
        return []
    found, people = sum(hit == "1" for hit in wins.hits), len(wins.hits)
    who = f"{found:,} of {people:,}" if found else f"none of the {people:,}"
    return [f"For {who} people the best guess is closer to the person than any public picture is."]


def _over(one: MetricValue, other: MetricValue | None) -> tuple[float, float, float] | None:
    """Mean difference of two metrics over the same identities with its 95 % interval."""
    mine, theirs = one.per_identity, other.per_identity if other else None
    if not mine or not theirs or len(mine) != len(theirs) or len(mine) < 2:
        return None
    apart = [a - b for a, b in zip(mine, theirs, strict=True)]
    return paired_interval(torch.tensor(apart, dtype=torch.float64))


def _signed(value: float, low: float, high: float) -> str:
    return f"{value:+.2f} bits [{low:.2f}, {high:.2f}]".replace("-", "−")


def missing_reasons(record: Record) -> list[str]:
    """One line for each reason why numbers are missing, naming them."""
    titles: dict[str, list[str]] = {}
    for column, values in {"": record.metrics, **record.references}.items():
        for metric, entry in values.items():
            own = record.metrics.get(metric)
            known = column and own is not None and own.reason == entry.reason
            if entry.value is None and entry.reason and not known:
                name = title_of(metric) + (f" ({COLUMNS.get(column, column)})" if column else "")
                titles.setdefault(entry.reason, []).append(name)
    return [f"{ABSENT} {', '.join(names)}: {reason}" for reason, names in titles.items()]


def warnings(record: Record) -> list[str]:
    """What makes a cell's numbers say little: a target near chance, a share of the budget."""
    found = []
    budget = record.protocol.passed.get("budget")
    names = ("validation_accuracy", "validation_images", "chance_accuracy")
    known = [each for n in names if isinstance(each := record.utility.get(n), float | int)]
    if len(known) == len(names) and near_chance(known[0], int(known[1]), known[2]):
        found.append(
            f"The target is hardly better than guessing: it is right on {percent(known[0])} of "
            f"{known[1]:,.0f} validation images, guessing on {percent(known[2])}. Attacks on it "
            f"say little: train it longer ({'a larger --budget, ' if budget is not None else ''}"
            "target.epochs, target.learning_rate), or under a weaker defense."
        )
    if budget is not None:
        judged = record.metrics[HEADLINE]
        over = ""
        if judged.n and judged.per_identity:
            over = f" and {judged.n:,} reconstructions of {len(judged.per_identity):,} identities"
        found.append(
            f"Made with --budget {budget}: a share of all epochs and steps{over}, for trying out. "
            "The numbers compare with no others"
            + (", and boards refuse this record." if record.given is None else ".")
        )
    hint = record.target.resolved.get("hint")
    if record.given is not None and isinstance(hint, str):
        found.append(f"Was the network given as it was trained? {hint[:1].upper()}{hint[1:]}.")
    return found


def notes(record: Record) -> list[str]:
    """What a reader of these numbers must know."""
    found = []
    accuracy = record.utility.get("evaluator_accuracy")
    if isinstance(accuracy, float | int) and not trusted_evaluator(record):
        found.append(
            f"The evaluator is right on {100 * accuracy:.1f} % of the private test images, less "
            f"than {100 * LEAST_EVALUATOR_ACCURACY:.0f} %: "
            + (
                "on leaderboards this cell is shown but not ranked."
                if record.given is None
                else "accuracies of the attack say little. Ranks and bits do not depend on it."
            )
        )
    found += _templates(record)
    rank = record.metrics.get("median_rank")
    if record.nominal and rank is not None and rank.value is not None:
        found.append(
            f"Ranks and bits are nominal: the decoys are {record.nominal}, no draw from the same "
            "people as the private ones. What chance gives here is measured: random samples."
        )
    if INCOMPLETE in record.artifacts:
        found.append(
            "The data set was prepared with --incomplete and lacks pictures: the split is not the "
            "protocol's, and boards refuse this record."
        )
    if record.people:
        found.append(
            "Reconstructions of photographs stay in the run folder and in the store, which are "
            "yours alone: those of real people must not be published."
        )
    return found


def _templates(record: Record) -> list[str]:
    """What the private images of an audit say, by whether the network was trained on them."""
    if record.given is None:
        return []
    trained_on = record.protocol.resolved["data"].get("trained_on")
    if trained_on is False:
        return ["The private images were held out: ranks are of the people, not of these pictures."]
    if trained_on is True:
        return [
            "The network was trained on the private images: ranks measure how well it remembers "
            "these pictures, too, and accuracy is that on what it has seen."
        ]
    return [
        "Whether the network was trained on the private images was not said (--trained-on, "
        "--held-out). If it was, ranks measure how well it remembers these pictures, too."
    ]


def metric_table(record: Record) -> MetricTable:
    """The attack's metrics beside the references', those of who a person is first."""
    counts = {entry.n for entry in record.metrics.values() if entry.n}
    over = sorted({m.interval_over for m in record.metrics.values() if m.interval_over})
    caption = "↑ / ↓: higher / lower leaks more"
    if counts:
        caption += f"; of {max(counts):,} reconstructions, where no n is said"
    if over:
        caption += f"; 95 % intervals over {' or '.join(over)}"
    references = sorted(record.references, key=lambda name: [*COLUMNS, name].index(name))
    rows = []
    for metric in in_order(record.metrics):
        entry = record.metrics[metric]
        bounds = [record.references[name].get(metric) for name in references]
        if not any(each and each.value is not None for each in (entry, *bounds)):
            continue  # the lines below the table say why
        title = with_direction(metric)
        if entry.n and entry.n != max(counts):
            title += f" (n = {entry.n:,})"
        values = (number(metric, None if bound is None else bound.value) for bound in bounds)
        rows.append(MetricRow(metric, title, with_interval(metric, entry), tuple(values)))
    columns = tuple(COLUMNS.get(name, name) for name in references)
    return MetricTable(columns, tuple(rows), caption)


def in_order(metrics: Iterable[str]) -> list[str]:
    """Names of metrics, those first that say who a person is."""
    metrics = list(metrics)
    first = [name for name in IDENTITY_METRICS if name in metrics]
    return first + [name for name in metrics if name not in first]


def with_direction(metric: str) -> str:
    """A metric's title with an arrow: up where higher leaks more."""
    if metric not in METRICS:
        return metric
    return f"{METRICS[metric].title} {'↑' if METRICS[metric].direction == HIGHER else '↓'}"


def utility(record: Record) -> list[tuple[str, str]]:
    """Accuracies and the formal guarantee, by name."""
    values = record.utility
    first = "validation accuracy (private images)"
    if record.given is not None:
        first = "accuracy (all private images)"
    rows = [
        (first, percent(values.get("validation_accuracy"))),
        ("natural accuracy (private test images)", percent(values.get("natural_accuracy"))),
        ("evaluator accuracy (private test images)", percent(values.get("evaluator_accuracy"))),
    ]
    if (second := values.get("second_evaluator_accuracy")) is not None:
        rows.append(("second evaluator accuracy (private test images)", percent(second)))
    if record.given is not None:  # nobody here knows how it was trained
        return rows
    guarantee = "none"
    if (epsilon := values.get("epsilon")) is not None:
        delta, unit = values.get("delta"), values.get("privacy_unit")
        guarantee = f"ε = {epsilon:.3g}" if isinstance(epsilon, float | int) else f"ε = {epsilon}"
        guarantee += f", δ = {delta:.2g}" if isinstance(delta, float | int) else ""
        guarantee += f", for each {unit}" if unit else ""
    return [*rows, ("formal guarantee", guarantee)]


def costs(record: Record) -> list[tuple[str, str, str, str, str]]:
    """For each stage: its name, time, iterations, queries and peak memory."""
    rows = []
    for cost in record.costs:
        took, memory = duration(cost.seconds), cost.peak_memory_bytes
        rows.append(
            (
                cost.stage,
                f"cached ({took} then)" if cost.cached else took,
                _count(cost.iterations),
                _count(cost.queries),
                ABSENT if memory is None else size(memory),
            )
        )
    return rows


def rank_of(entry: MetricValue | None) -> str:
    """A rank as it is shown; a dash where it is missing."""
    return ABSENT if entry is None or entry.value is None else shown_rank(entry.value)


def _count(value: int | None) -> str:
    return ABSENT if value is None else f"{value:,}"
