"""A record as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mibench.cli.show.progress import duration, size
from mibench.leaderboard.checks import LEAST_EVALUATOR_ACCURACY
from mibench.metrics import METRICS, near_chance
from mibench.metrics.catalogue import HIGHER
from mibench.record import INCOMPLETE, MetricValue, Record

_ABSENT = "—"
_FILES = {
    "record.json": "numbers, configuration, hashes",
    "reconstructions.safetensors": "all reconstructions",
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
    console.print(_metrics(record))
    for line in missing_reasons(record):
        console.print(Text(line, style="dim"))
    console.print(_utility(record))
    for note in [*warnings(record), *notes(record)]:
        console.print(Text(note, style="yellow"))
    console.print(_costs(record))
    console.print(_places(folder, store))


def number(metric: str, value: float) -> str:
    """A metric's value as tables show it: accuracies in per cent."""
    if metric.startswith("attack_accuracy") or metric == "evaluator_agreement":
        return f"{100 * value:.1f} %"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def with_interval(metric: str, entry: MetricValue) -> str:
    """A value with its 95 % interval, ``"43.0 % [38.1, 48.2]"``; a dash when it is missing."""
    if entry.value is None:
        return _ABSENT
    text = number(metric, entry.value)
    if entry.interval is None:
        return text
    low, high = (number(metric, bound).removesuffix(" %") for bound in entry.interval)
    return f"{text} [{low}, {high}]"


def missing_reasons(record: Record) -> list[str]:
    """One line for each reason why numbers are missing, naming them."""
    titles: dict[str, list[str]] = {}
    for column, values in {"": record.metrics, **record.references}.items():
        for metric, entry in values.items():
            own = record.metrics.get(metric)
            known = column and own is not None and own.reason == entry.reason
            if entry.value is None and entry.reason and not known:
                name = _title(metric) + (f" ({column})" if column else "")
                titles.setdefault(entry.reason, []).append(name)
    return [f"{_ABSENT} {', '.join(names)}: {reason}" for reason, names in titles.items()]


def warnings(record: Record) -> list[str]:
    """What makes a cell's numbers say little: a target near chance, a share of the budget."""
    found = []
    names = ("validation_accuracy", "validation_images", "chance_accuracy")
    known = [each for n in names if isinstance(each := record.utility.get(n), float | int)]
    if len(known) == len(names) and near_chance(known[0], int(known[1]), known[2]):
        found.append(
            f"The target is hardly better than guessing: it is right on {_percent(known[0])} of "
            f"{known[1]:,.0f} validation images, guessing on {_percent(known[2])}. Attacks on it "
            "say little: train it longer (target.epochs, target.learning_rate), or under a weaker "
            "defense."
        )
    if (budget := record.protocol.passed.get("budget")) is not None:
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
    if isinstance(accuracy, float) and accuracy < LEAST_EVALUATOR_ACCURACY:
        found.append(
            f"The evaluator is right on {100 * accuracy:.1f} % of the private test images, less "
            f"than {100 * LEAST_EVALUATOR_ACCURACY:.0f} %: on leaderboards this cell is shown but "
            "not ranked."
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
    over = sorted({m.interval_over for m in record.metrics.values() if m.interval_over})
    caption = "↑ / ↓: higher / lower leaks more"
    if over:
        caption += f"; 95 % intervals over {' or '.join(over)}"
    table = Table(
        title="What leaked", caption=caption, title_justify="left", caption_justify="left"
    )
    table.add_column("metric")
    table.add_column("value [95 % interval]", justify="right")
    table.add_column("n", justify="right")
    for name in record.references:
        table.add_column(Text(name), justify="right")
    for metric, entry in record.metrics.items():
        arrow = ""
        if metric in METRICS:
            arrow = " ↑" if METRICS[metric].direction == HIGHER else " ↓"
        cells = [_title(metric) + arrow, with_interval(metric, entry)]
        cells.append(_ABSENT if entry.n is None else f"{entry.n:,}")
        for values in record.references.values():
            bound = values[metric].value if metric in values else None
            cells.append(_ABSENT if bound is None else number(metric, bound))
        table.add_row(*map(Text, cells))
    return table


def _utility(record: Record) -> Table:
    values = record.utility
    rows = [
        ("validation accuracy (private images)", _percent(values.get("validation_accuracy"))),
        ("natural accuracy (private test images)", _percent(values.get("natural_accuracy"))),
        ("evaluator accuracy (private test images)", _percent(values.get("evaluator_accuracy"))),
    ]
    if (second := values.get("second_evaluator_accuracy")) is not None:
        rows.append(("second evaluator accuracy (private test images)", _percent(second)))
    if (epsilon := values.get("epsilon")) is None:
        rows.append(("formal guarantee", "none"))
    else:
        delta = values.get("delta")
        text = f"ε = {epsilon:.3g}" if isinstance(epsilon, float | int) else f"ε = {epsilon}"
        text += f", δ = {delta:.2g}" if isinstance(delta, float | int) else ""
        unit = values.get("privacy_unit")
        rows.append(("formal guarantee", text + (f", for each {unit}" if unit else "")))
    return _pairs("Utility", rows)


def _percent(value: float | str | None) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, float | int) else _ABSENT


def _costs(record: Record) -> Table:
    table = Table(title="Cost", title_justify="left")
    table.add_column("stage")
    for column in ("time", "iterations", "queries", "peak memory"):
        table.add_column(column, justify="right")
    for cost in record.costs:
        took = duration(cost.seconds)
        memory = cost.peak_memory_bytes
        table.add_row(
            Text(cost.stage),
            f"cached ({took} then)" if cost.cached else took,
            _count(cost.iterations),
            _count(cost.queries),
            _ABSENT if memory is None else size(memory),
        )
    return table


def _count(value: int | None) -> str:
    return _ABSENT if value is None else f"{value:,}"


def _places(folder: Path, store: Path) -> Table:
    rows = [("run folder", str(folder))]
    rows += [(f"  {name}", meaning) for name, meaning in _FILES.items() if (folder / name).exists()]
    rows.append(("store", str(store)))
    return _pairs("Where everything is", rows)


def _pairs(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table
