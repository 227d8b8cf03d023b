"""A record as tables for a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mibench.cli.show.progress import duration, size
from mibench.cli.show.tables import ABSENT, pairs, right, table
from mibench.leaderboard.checks import LEAST_EVALUATOR_ACCURACY, trusted_evaluator
from mibench.metrics import METRICS, near_chance
from mibench.metrics.catalogue import HIGHER
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
# References, as the table's columns and the sentence call them.
_COLUMNS = {
    FLOOR_PUBLIC: "look-up",
    LOOKALIKE: "look-alike",
    CEILING: "ceiling",
    FLOOR_PRIOR: "random",
}
_IN_BITS = {"chance": FLOOR_PRIOR, "look-up": FLOOR_PUBLIC, "ceiling": CEILING}
_BITS = ("identity_bits", "identity_bits_best", "excess_bits", "excess_bits_best")
_FILES = {
    "record.json": "numbers, configuration, hashes",
    "reconstructions*.safetensors": "all reconstructions",
    "reconstructions.png": "a picture of them, for looking",
}


def show_record(record: Record, console: Console, folder: Path, store: Path) -> None:
    """Print metrics, utility, costs and where everything is.

    Args:
        folder: the run folder.
        store: the folder of cached stages.
    """
    console.print(Text(_headline(record), style="bold"))
    if record.status == "diverged":
        console.print("Training or attack diverged: there is no number.", style="red")
    for line in leak_in_words(record):
        console.print(Text(line, style="bold"))
    console.print(_metrics(record))
    for line in missing_reasons(record):
        console.print(Text(line, style="dim"))
    console.print(_utility(record))
    for note in [*warnings(record), *notes(record)]:
        console.print(Text(note, style="yellow"))
    console.print(_costs(record))
    places = [("run folder", str(folder))]
    for pattern, what in _FILES.items():
        places += [(f"  {path.name}", what) for path in sorted(folder.glob(pattern))]
    console.print(pairs([*places, ("store", str(store))], title="Where everything is"))


def number(metric: str, value: float | None) -> str:
    """A metric's value as tables show it: accuracies in per cent, a dash where it is missing."""
    if value is None:
        return ABSENT
    if metric.startswith(_SHARES):
        return _percent(value)
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
    chance = record.chance_rank(rank.among)
    if record.nominal:  # as it was measured
        chance = _rank(record.references.get(FLOOR_PRIOR, {}).get("median_rank"))
    of_lookup = f"; looking through public pictures {_rank(lookup)}" if lookup else ""
    known_bits = f"Known of who the person is: {with_interval('identity_bits', bits)} bits"
    return [
        f"Typical rank of the person {_rank(rank)} of {rank.among:,}{of_lookup}; chance {chance}",
        known_bits + ("; " + ", ".join(beside) if beside else ""),
    ]


def missing_reasons(record: Record) -> list[str]:
    """One line for each reason why numbers are missing, naming them."""
    titles: dict[str, list[str]] = {}
    for column, values in {"": record.metrics, **record.references}.items():
        for metric, entry in values.items():
            own = record.metrics.get(metric)
            known = column and own is not None and own.reason == entry.reason
            if entry.value is None and entry.reason and not known:
                name = _title(metric) + (f" ({_COLUMNS.get(column, column)})" if column else "")
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
            f"The target is hardly better than guessing: it is right on {_percent(known[0])} of "
            f"{known[1]:,.0f} validation images, guessing on {_percent(known[2])}. Attacks on it "
            f"say little: train it longer ({'a larger --budget, ' if budget is not None else ''}"
            "target.epochs, target.learning_rate), or under a weaker defense."
        )
    if budget is not None:
        judged = record.metrics["attack_accuracy_top1"]
        over = ""
        if judged.n and judged.per_identity:
            over = f" and {judged.n:,} reconstructions of {len(judged.per_identity):,} identities"
        found.append(
            f"Made with --budget {budget}: a share of all epochs and steps{over}, for trying out. "
            "The numbers compare with no others, and boards refuse this record."
        )
    return found


def notes(record: Record) -> list[str]:
    """What a reader of these numbers must know."""
    found = []
    accuracy = record.utility.get("evaluator_accuracy")
    if isinstance(accuracy, float | int) and not trusted_evaluator(record):
        found.append(
            f"The evaluator is right on {100 * accuracy:.1f} % of the private test images, less "
            f"than {100 * LEAST_EVALUATOR_ACCURACY:.0f} %: on leaderboards this cell is shown but "
            "not ranked."
        )
    if record.nominal:
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


def _headline(record: Record) -> str:
    protocol = record.protocol
    preset = f" ({protocol.passed['preset']})" if "preset" in protocol.passed else ""
    return (
        f"{record.attack.name} ({record.access}) against {record.target.name} under "
        f"{record.defense.name} · {protocol.name}{preset} v{protocol.version} · seed {record.seed}"
    )


def _title(metric: str) -> str:
    return METRICS[metric].title if metric in METRICS else metric


def _metrics(record: Record) -> Table:
    counts = {entry.n for entry in record.metrics.values() if entry.n}
    over = sorted({m.interval_over for m in record.metrics.values() if m.interval_over})
    caption = "↑ / ↓: higher / lower leaks more"
    if counts:
        caption += f"; of {max(counts):,} reconstructions, where no n is said"
    if over:
        caption += f"; 95 % intervals over {' or '.join(over)}"
    references = sorted(record.references, key=lambda name: [*_COLUMNS, name].index(name))
    rows = []
    first = [name for name in IDENTITY_METRICS if name in record.metrics]
    for metric in (*first, *(name for name in record.metrics if name not in first)):
        entry, title = record.metrics[metric], _title(metric)
        if metric in METRICS:
            title += " ↑" if METRICS[metric].direction == HIGHER else " ↓"
        bounds = [record.references[name].get(metric) for name in references]
        if not any(each and each.value is not None for each in (entry, *bounds)):
            continue  # the lines below the table say why
        if entry.n and entry.n != max(counts):
            title += f" (n = {entry.n:,})"
        values = (number(metric, None if bound is None else bound.value) for bound in bounds)
        rows.append((title, with_interval(metric, entry), *values))
    columns = map(
        right, ("attack [95 % interval]", *(Text(_COLUMNS.get(name, name)) for name in references))
    )
    return table(rows, "metric", *columns, title="What leaked", caption=caption)


def _rank(entry: MetricValue | None) -> str:
    return ABSENT if entry is None or entry.value is None else shown_rank(entry.value)


def _utility(record: Record) -> Table:
    values = record.utility
    rows = [
        ("validation accuracy (private images)", _percent(values.get("validation_accuracy"))),
        ("natural accuracy (private test images)", _percent(values.get("natural_accuracy"))),
        ("evaluator accuracy (private test images)", _percent(values.get("evaluator_accuracy"))),
    ]
    if (second := values.get("second_evaluator_accuracy")) is not None:
        rows.append(("second evaluator accuracy (private test images)", _percent(second)))
    guarantee = "none"
    if (epsilon := values.get("epsilon")) is not None:
        delta, unit = values.get("delta"), values.get("privacy_unit")
        guarantee = f"ε = {epsilon:.3g}" if isinstance(epsilon, float | int) else f"ε = {epsilon}"
        guarantee += f", δ = {delta:.2g}" if isinstance(delta, float | int) else ""
        guarantee += f", for each {unit}" if unit else ""
    return pairs([*rows, ("formal guarantee", guarantee)], title="Utility")


def _costs(record: Record) -> Table:
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
    columns = map(right, ("time", "iterations", "queries", "peak memory"))
    return table(rows, "stage", *columns, title="Cost")


def _percent(value: float | str | None) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, float | int) else ABSENT


def _count(value: int | None) -> str:
    return ABSENT if value is None else f"{value:,}"
