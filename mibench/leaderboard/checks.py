"""Whether a record's numbers fit together, and whether it was made under today's protocol."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mibench.types import INCOMPLETE, MetricValue, Record, protocol_digest

LEAST_EVALUATOR_ACCURACY = 0.9
HEADLINE = "attack_accuracy_top1"

_TOLERANCE = 1e-6
_COUNTED = ("attack_accuracy_top1", "attack_accuracy_top5", "attack_accuracy_both")
_HITS = (*_COUNTED, "evaluator_agreement")
_FRACTIONS = (*_HITS, "precision", "recall", "coverage", "attribute_error")
_SETS = ("fid", "fid_successful", "fd_evaluator")  # set metrics have no values per identity
# Every hit of the first is a hit of the second.
_WITHIN = (
    ("attack_accuracy_top1", "attack_accuracy_top5"),
    ("attack_accuracy_both", "attack_accuracy_top1"),
    ("attack_accuracy_both", "evaluator_agreement"),
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")


def short_name(name: str) -> str:
    """A method's name; of one that was given as ``path/to/file.py:Class``, the class alone."""
    prefix = "improved-" if name.startswith("improved-") else ""
    return prefix + name.removeprefix(prefix).rpartition(":")[2]


def overrides(record: Record) -> dict[str, Any]:
    """Everything that was passed through ``--set``."""
    parts = (record.protocol, record.target, record.defense, record.attack)
    return {path: value for part in parts for path, value in part.passed.items()}


def faults(record: Record) -> list[str]:
    """Why a record cannot be true as it stands; empty for a sound one. Needs the record alone."""
    found = [*_names(record), *_protocol(record), *_utility(record)]
    if record.status == "diverged":
        numbers = [key for key, metric in record.metrics.items() if metric.value is not None]
        found += [f"the cell diverged, but {key} has a number" for key in numbers]
        return found
    groups = {"metrics": record.metrics, **record.references}
    for group, metrics in groups.items():
        where = "" if group == "metrics" else f"{group}: "
        if metrics.get(HEADLINE) is None or metrics[HEADLINE].value is None:
            found.append(f"{where}{HEADLINE} has no number, and the cell is complete")
        for key, metric in metrics.items():
            found += [f"{where}{key}: {reason}" for reason in _metric(key, metric)]
        found += [where + reason for reason in _together(metrics)]
    identities = _identities(record)
    for key, metric in record.metrics.items():
        if metric.hits and {len(row) for row in metric.hits} != {_samples(record)}:
            found.append(f"{key}: hits hold another number of samples than the protocol's")
        if metric.per_identity and identities and len(metric.per_identity) != identities:
            found.append(
                f"{key}: {len(metric.per_identity)} values per identity, the protocol attacks "
                f"{identities}"
            )
    return found


def foreign(record: Record) -> list[str]:
    """Why a record's numbers do not compare with today's protocol of its name."""
    from mibench.protocols import PROTOCOLS  # brings in torch

    name = record.protocol.name
    card = PROTOCOLS.get(name)
    if card is None:
        return [f"the protocol {name!r} is none of the boards': {', '.join(PROTOCOLS)}"]
    if "budget" in record.protocol.passed:
        return [
            f"made with {record.protocol.passed['budget']} of the protocol's budget, which is "
            "for trying out: run it without --budget"
        ]
    if record.protocol.resolved.get("digest") != card.digest:
        return [
            f"made under another version of {name}, or with its settings changed: the protocol's "
            f"digest is {card.digest[:12]}, the record's "
            f"{str(record.protocol.resolved.get('digest'))[:12]}"
        ]
    if INCOMPLETE in record.artifacts:
        return [
            "made from a data set that lacks pictures: prepare it without --incomplete (what can "
            "be had of FaceScrub differs from person to person: such records do not compare)"
        ]
    base = short_name(record.attack.name).removeprefix("improved-").partition("+")[0]
    defaults = {**card.attacks.get(base, {}), **card.defenses.get(record.defense.name, {})}
    return [
        f"made with other settings than the protocol's: {path} is {setting(record, path)!r}, "
        f"the protocol says {value!r}"
        for path, value in defaults.items()
        if path not in overrides(record) and setting(record, path) != value
    ]


def warnings(record: Record) -> list[str]:
    """What a reader of a filed record should know; no reason to refuse it."""
    found = []
    if not trusted_evaluator(record):
        accuracy = record.utility.get("evaluator_accuracy")
        shown = f"{100 * accuracy:.1f} %" if isinstance(accuracy, float | int) else "unknown"
        found.append(
            f"the evaluator's accuracy is {shown}, less than "
            f"{100 * LEAST_EVALUATOR_ACCURACY:.0f} %: shown, not ranked"
        )
    if record.environment.dirty:
        found.append("made from a checkout with uncommitted changes")
    return found


def trusted_evaluator(record: Record) -> bool:
    """Whether the evaluator is right on 90 % of the private test images or more."""
    accuracy = record.utility.get("evaluator_accuracy")
    return isinstance(accuracy, float | int) and accuracy >= LEAST_EVALUATOR_ACCURACY


def setting(record: Record, path: str) -> Any:
    """The resolved value of a path as ``defense.scale``; None where there is no such field."""
    part, *fields = path.split(".")
    value: Any = getattr(record, part).resolved
    for field in fields:
        value = value.get(field) if isinstance(value, Mapping) else None
    return value


def _names(record: Record) -> Iterator[str]:
    for part in ("protocol", "target", "defense", "attack"):
        name = short_name(getattr(record, part).name)
        if not _NAME.fullmatch(name):
            yield f"{part}.name {name!r} is no name: letters, digits and +._- only"
    if record.seed < 0:
        yield f"seed {record.seed} is negative"
    for path, value in overrides(record).items():
        resolved = setting(record, path) if _is_setting(path) else None
        # A text may have been turned into a number or a truth value, a table been completed.
        if resolved is None or isinstance(value, str | dict | list):
            continue
        if resolved != value:
            yield f"passed and resolved settings disagree: {path} is {value!r} and {resolved!r}"


def _is_setting(path: str) -> bool:
    return path.split(".")[0] in ("protocol", "target", "defense", "attack")


def _protocol(record: Record) -> Iterator[str]:
    resolved = record.protocol.resolved
    if protocol_digest(resolved) != resolved.get("digest"):
        yield "the protocol's settings do not give its digest"
    if resolved.get("name") != record.protocol.name:
        yield f"the protocol is {record.protocol.name!r} and {resolved.get('name')!r}"
    if resolved.get("version") != record.protocol.version:
        yield f"the version is {record.protocol.version} and {resolved.get('version')}"


def _utility(record: Record) -> Iterator[str]:
    for key in ("natural_accuracy", "evaluator_accuracy"):
        value = record.utility.get(key)
        if isinstance(value, float | int) and not 0 <= value <= 1:
            yield f"{key} {value} is not in [0, 1]"
        elif not isinstance(value, float | int) and record.status == "complete":
            yield f"{key} has no number, and the cell is complete"
    epsilon = record.utility.get("epsilon")
    if epsilon is not None and not (isinstance(epsilon, float | int) and epsilon >= 0):
        yield f"epsilon {epsilon!r} is no guarantee"
    if epsilon is not None and not record.utility.get("privacy_unit"):
        yield "epsilon is given without its privacy unit"


def _identities(record: Record) -> int | None:
    """Number of attacked identities that the protocol's card states; None if the data do."""
    data, attacked = record.protocol.resolved.get("data"), record.protocol.resolved.get("attacked")
    there = data.get("identities") if isinstance(data, Mapping) else None
    if there is None:
        return None
    return min(attacked or there, there)


def _samples(record: Record) -> int:
    return int(record.protocol.resolved.get("samples", 0))


def _metric(key: str, metric: MetricValue) -> Iterator[str]:
    value = metric.value
    if value is None:
        if metric.per_identity or metric.hits:
            yield "it has values per identity and no number"
        return
    if value < 0 or (key in _FRACTIONS and value > 1):
        yield f"{value} is not in {'[0, 1]' if key in _FRACTIONS else '[0, ∞)'}"
    if metric.per_identity is None:
        if key not in _SETS:
            yield "values per identity are missing"
    else:
        mean = math.fsum(metric.per_identity) / max(len(metric.per_identity), 1)
        if not _close(mean, value):
            yield f"the value is {value:.6g}, its values per identity average to {mean:.6g}"
        yield from _hits(key, metric)
    yield from _interval(key, metric)


def _hits(key: str, metric: MetricValue) -> Iterator[str]:
    rows, values = metric.hits, metric.per_identity or ()
    if rows is None:
        if key in _HITS:
            yield "hits are missing"
        return
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or 0 in lengths or set("".join(rows)) - {"0", "1"}:
        yield "hits are no rows of 0s and 1s of one length"
        return
    if len(rows) != len(values):
        yield f"there are hits of {len(rows)} identities and values of {len(values)}"
        return
    wrong = [
        i for i, row in enumerate(rows) if not _close(row.count("1") / len(row), float(values[i]))
    ]
    if wrong:
        row = rows[wrong[0]]
        yield (
            f"identity {wrong[0]}: hits {row} average to {row.count('1') / len(row):.6g}, "
            f"its value is {values[wrong[0]]:.6g} ({len(wrong)} identities disagree)"
        )
    if metric.n != len(rows) * len(rows[0]):
        yield f"n is {metric.n}, hits hold {len(rows)} × {len(rows[0])} samples"


def _interval(key: str, metric: MetricValue) -> Iterator[str]:
    """An interval brackets its value, and is about as wide as the values' standard error says."""
    value, values, interval = metric.value or 0.0, metric.per_identity or (), metric.interval
    if interval is None:
        if len(values) > 1:
            yield "its interval is missing"
        return
    low, high = interval
    slack = _TOLERANCE * max(1, abs(value))
    if not low - slack <= value <= high + slack:
        yield f"its interval [{low:.6g}, {high:.6g}] does not hold its value {value:.6g}"
    if key in _FRACTIONS and (low < -slack or high > 1 + slack):
        yield f"its interval [{low:.6g}, {high:.6g}] leaves [0, 1]"
    if len(values) > 1:
        mean = math.fsum(values) / len(values)
        error = math.sqrt(math.fsum((each - mean) ** 2 for each in values)) / len(values)
        # A percentile bootstrap of few or skewed values is narrower than the normal interval.
        least, most = 0.4 * 3.92 * error - slack, 2.5 * 3.92 * error + slack
        if not least <= high - low <= most:
            yield (
                f"its interval is {high - low:.3g} wide, values per identity suggest "
                f"{3.92 * error:.3g}"
            )


def _together(metrics: Mapping[str, MetricValue]) -> Iterator[str]:
    """What must hold between metrics of the same images."""
    there = {key: metric for key, metric in metrics.items() if metric.value is not None}
    counts = {key: len(m.per_identity) for key, m in there.items() if m.per_identity is not None}
    if len(set(counts.values())) > 1:
        yield f"metrics are over different numbers of identities: {counts}"
        return
    headline = there.get(HEADLINE)
    rows = headline.hits if headline else None
    for key, metric in there.items():
        expected = headline.n if headline else None
        if key == "fid_successful" and rows is not None:
            expected = sum(row.count("1") for row in rows)
        if expected is not None and metric.n != expected:
            yield f"{key}: n is {metric.n} instead of {expected}"
    for inner, outer in _WITHIN:
        some = there[inner].hits if inner in there else None
        more = there[outer].hits if outer in there else None
        if some and more and not _all_within(some, more):
            yield f"a hit of {inner} is no hit of {outer}"


def _all_within(some: tuple[str, ...], more: tuple[str, ...]) -> bool:
    pairs = zip("".join(some), "".join(more), strict=False)
    return all(a <= b for a, b in pairs)


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= _TOLERANCE * max(1.0, abs(a), abs(b))
