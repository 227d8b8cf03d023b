"""Whether a record's numbers fit together, which needs the record alone."""

from __future__ import annotations

import functools
import itertools
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from mibench.leaderboard.names import name_faults, overrides, reconstructions
from mibench.record import (
    CEILING,
    FLOOR_PUBLIC,
    IDENTITY_METRICS,
    INCOMPLETE,
    LEAKS,
    LEAST_MATCHES,
    LOOKALIKE,
    NO_OTHERS,
    REFERENCES,
    MetricValue,
    Record,
    protocol_digest,
    strength,
)

LEAST_EVALUATOR_ACCURACY = 0.9
HEADLINE = "attack_accuracy_top1"

_TOLERANCE = 1e-8
_MOST_TEST_IMAGES = 10**5  # no card's data set has more private test images
_EXACT = 1e-12  # error of a share in double precision, with room
_ROUNDED = 0.5e-6 + 2**-24  # of one in single precision, below 1, that six digits are kept of
_COUNTED = ("attack_accuracy_top1", "attack_accuracy_top5", "attack_accuracy_both")
_CHOICES = ("beats_lookalike", "two_choice_accuracy")  # one hit an identity
_HITS = (*_COUNTED, "evaluator_agreement", *LEAKS, *_CHOICES)
_SIGNED = ("excess_bits", "excess_bits_best")  # differences
_BEST = ("identity_bits_best", "excess_bits_best", *_CHOICES, "epsilon_lower_bound")  # of one guess
_FRACTIONS = (*_HITS, "precision", "recall", "coverage", "attribute_error")
_SETS = ("fid", "fid_successful", "fd_evaluator")  # set metrics have no values per identity
_OF_COINS = ("two_choice_accuracy", "epsilon_lower_bound")
_OF_LOOKALIKES = ("identity_bits", "median_rank", *LEAKS)
_MEDIANS = ("median_rank",)
# Every hit of the first is a hit of the second.
_WITHIN = (
    ("attack_accuracy_top1", "attack_accuracy_top5"),
    ("attack_accuracy_both", "attack_accuracy_top1"),
    ("attack_accuracy_both", "evaluator_agreement"),
    *itertools.pairwise(reversed(LEAKS)),
)
_ACCURACIES = (
    "natural_accuracy",
    "evaluator_accuracy",
    "second_evaluator_accuracy",
    "validation_accuracy",
)
_COUNTS = ("validation_images", "chance_accuracy")  # what the accuracies are beside
_MOST_IDENTITIES = 20_000  # of a card that states no number
_REQUIRED = ("target", "prior", "reconstructions", "metrics")
_ARTIFACTS = {*_REQUIRED, "split", "images", INCOMPLETE}
_ASSET = re.compile(r"asset [a-z]{1,20}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def faults(record: Record) -> list[str]:
    """Why a record cannot be true as it stands; empty for a sound one. Needs the record alone."""
    # What cannot even be read as a protocol's settings gives the other checks nothing to stand on.
    if found := [*name_faults(record), *protocol_faults(record)]:
        return found
    # Before anything is computed from the values, of which a record may bring any number.
    if found := list(_sizes(record)):
        return found
    found = [*_strength(record), *_artifacts(record), *_passed(record), *_utility(record)]
    found += _references(record)
    if record.status == "diverged":
        if HEADLINE not in record.metrics:
            found.append(f"{HEADLINE} is missing")
        return found + _metrics(record.metrics, record.rules, complete=False, numbers=False)
    found += _metrics(record.metrics, record.rules)
    for key, metric in record.metrics.items():
        samples = 1 if key in _CHOICES else record.protocol.resolved["samples"]
        for what, rows in (("hits", metric.hits), ("ranks", metric.ranks)):
            if rows and {len(row) for row in rows} != {samples}:
                found.append(f"{key}: {what} hold another number of samples than the protocol's")
    return found + list(_people(record))


def _people(record: Record) -> Iterator[str]:
    """All ranks of a record are among the same people, and its leaks are told where they can be."""
    groups = {"": record.metrics, **record.references}
    ranked = {where: m["median_rank"].among for where, m in groups.items() if "median_rank" in m}
    among = {where: people for where, people in ranked.items() if people is not None}
    if len(numbers := set(among.values())) > 1:
        yield f"median_rank: ranks are among {', '.join(map(str, sorted(numbers)))} people at once"
    for where, people in among.items():
        for key, alpha in LEAKS.items():
            told, expected = groups[where].get(key), alpha * (people - 1)
            if expected >= LEAST_MATCHES and (told is None or told.value is None):
                yield f"{where}: {key} is missing, and {people} people are enough".lstrip(": ")


def _sizes(record: Record) -> Iterator[str]:
    """Numbers of identities that are not the protocol's, or, where it states none, absurd."""
    card = record.protocol.resolved
    identities = card["data"].get("identities")
    if identities is not None:
        identities = min(card.get("attacked") or identities, identities)
    for where, metrics in (("", record.metrics), *record.references.items()):
        for key, metric in metrics.items():
            each_has = (metric.per_identity, metric.hits, metric.ranks)
            for count in {len(each) for each in each_has if each}:
                if count > _MOST_IDENTITIES or (identities and count != identities):
                    yield (
                        f"{where}: {key}".removeprefix(": ")
                        + f": {count} values per identity, the protocol attacks "
                        + str(identities or f"at most {_MOST_IDENTITIES}")
                    )


def _strength(record: Record) -> Iterator[str]:
    """The strength is the one that the settings say."""
    if (said := record.strength) is None:
        return
    parts = {"defense": record.defense.resolved, "target": record.target.resolved}
    found = strength(said.path, parts, record.utility)
    if said != found:
        yield f"strength is {said.value} at {said.path}, the settings say {found.value}"
    elif found.value is None and record.status == "complete":
        yield f"the main knob of {record.defense.name} is {said.path}, and it has no number there"


def _artifacts(record: Record) -> Iterator[str]:
    """What a record names by checksum: known names, and checksums."""
    for name, value in record.artifacts.items():
        if name not in {*_ARTIFACTS, *reconstructions(record)} and not _ASSET.fullmatch(name):
            yield f"artifacts: {name[:60]!r} is none of a record's"
        elif not _SHA256.fullmatch(value):
            yield f"artifacts: {name!r} is {value[:70]!r}, which is no SHA-256"


def incomplete(record: Record) -> Iterator[str]:
    """What a record of today's rules has and this one lacks; earlier ones may lack some."""
    from mibench.metrics import METRICS  # brings in torch

    if record.rules < 2 or record.status != "complete":
        return
    judged = record.protocol.resolved.get("judges")
    names = [name for name in REFERENCES if judged or name != LOOKALIKE]
    groups = {"": record.metrics, **{name: record.references.get(name) for name in names}}
    later = IDENTITY_METRICS if record.rules < 3 and not judged else ()
    for where, metrics in groups.items():
        wanted = _OF_LOOKALIKES if where == LOOKALIKE else METRICS.keys() - set(later)
        if metrics is None:
            yield f"the reference {where!r} is missing"
        elif lacking := [key for key in METRICS if key in wanted and key not in metrics]:
            yield f"{where}: {', '.join(lacking)} missing".removeprefix(": ")
        elif judged and (
            null := [key for key in _told(record, where) if metrics[key].value is None]
        ):
            yield f"{where}: {', '.join(null)} without a number".removeprefix(": ")
    lacking = [name for name in _REQUIRED if name not in record.artifacts]
    if lacking or not reconstructions(record):
        lacking += [] if reconstructions(record) else ["reconstructions.safetensors"]
        yield f"artifacts: {', '.join(lacking)} missing"


def _told(record: Record, where: str) -> Iterator[str]:
    """The identity metrics that a protocol with judges always has."""
    data = record.protocol.resolved["data"]
    coins = data.get("coins")
    if where == CEILING and data.get("decoys"):
        bits = record.references[CEILING].get("identity_bits")
        if bits is not None and bits.reason == NO_OTHERS:
            return
    for key in _OF_LOOKALIKES if where == LOOKALIKE else IDENTITY_METRICS:
        if key not in LEAKS and (coins or key not in _OF_COINS):
            yield key


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
    value: Any = getattr(record, part).resolved if fields else None  # `budget` is of no part
    for field in fields:
        value = value.get(field) if isinstance(value, Mapping) else None
    return value


def _passed(record: Record) -> Iterator[str]:
    for path, value in overrides(record).items():
        resolved = setting(record, path)
        # A text may have been turned into a number or a truth value, a table been completed.
        if resolved is None or isinstance(value, str | dict | list):
            continue
        if resolved != value:
            yield f"passed and resolved settings disagree: {path} is {value!r} and {resolved!r}"


def protocol_faults(record: Record) -> Iterator[str]:
    """Whether the protocol's settings can be read, and are what it is called by."""
    resolved = record.protocol.resolved
    if protocol_digest(resolved) != resolved.get("digest"):
        yield "the protocol's settings do not give its digest"
    if resolved.get("name") != record.protocol.name:
        yield f"the protocol is {record.protocol.name!r} and {resolved.get('name')!r}"
    if resolved.get("version") != record.protocol.version:
        yield f"the version is {record.protocol.version} and {resolved.get('version')}"
    data = resolved.get("data")
    if not isinstance(data, Mapping):
        yield "protocol.data says nothing of the images"
        return
    counts = {"samples": resolved.get("samples"), "attacked": resolved.get("attacked")}
    counts |= {f"data.{key}": data.get(key) for key in ("identities", "train", "val", "test")}
    for key, count in counts.items():
        stated = count is not None or key == "samples"  # of data sets, a card states but that
        if stated and (type(count) is not int or count < 1):
            yield f"protocol.{key} is {count!r}, which is no count"


def guarantee_keys(record: Record) -> tuple[str, ...]:
    """The numbers of a guarantee; the defense's main knob may be one, found in training."""
    part, _, knob = (record.strength.path if record.strength else "").partition(".")
    return ("epsilon", "delta", *([knob] if part == "defense" else []))


def _utility(record: Record) -> Iterator[str]:
    utility, guarantee = record.utility, guarantee_keys(record)
    for key in utility.keys() - {*_ACCURACIES, *_COUNTS, *guarantee, "privacy_unit"}:
        yield f"utility: {key!r} is none of mibench's"
    for key in _ACCURACIES:
        value = utility.get(key)
        if isinstance(value, float | int):
            if not 0 <= value <= 1:
                yield f"{key} {value} is not in [0, 1]"
        elif value is not None:
            yield f"{key} {value!r} is no number"
        elif record.status == "complete" and key in ("natural_accuracy", "evaluator_accuracy"):
            yield f"{key} has no number, and the cell is complete"
    for key in guarantee:
        value = utility.get(key)
        if value is not None and not (isinstance(value, float | int) and value >= 0):
            yield f"{key} {value!r} is no guarantee"
    epsilon, delta, unit = (utility.get(k) for k in ("epsilon", "delta", "privacy_unit"))
    if epsilon is not None and not unit:
        yield "epsilon is given without its privacy unit"
    if (epsilon is None) != (delta is None) or (epsilon is None and unit is not None):
        yield "epsilon, delta and privacy_unit are one guarantee: all of them, or none"


def no_shares(record: Record) -> Iterator[str]:
    """Accuracies that are no counts of images over their number, which some cards state."""
    found = {key: record.utility.get(key) for key in _ACCURACIES}
    shares = {key: float(v) for key, v in found.items() if isinstance(v, float | int)}
    stated = record.protocol.resolved["data"]
    identities = stated.get("identities") or 0
    validated = shares.pop("validation_accuracy", None)
    n = identities * (stated.get("val") or 0)
    images, chance = (record.utility.get(key) for key in _COUNTS)
    if images is not None:
        if not (isinstance(images, float | int) and images >= 1 and images in (n, int(images))):
            yield f"validation_images {images!r} is no number of images"
            return
        if n and images != n:
            yield f"validation_images is {images}, the protocol has {n}"
        n = int(images)
    if chance is not None:
        classes = round(1 / chance) if isinstance(chance, float) and 1e-6 < chance <= 1 else 0
        if classes < 2 or chance != 1 / classes or classes != (identities or classes):
            yield f"chance_accuracy {chance!r} is not that of {identities or 'a number of'} classes"
    if n and validated is not None and not _is_count(validated, n, _ROUNDED):
        yield f"validation_accuracy {validated} is no share of {n} images"
    n = identities * (stated.get("test") or 0)
    if n:
        wrong = [key for key, value in shares.items() if not _is_count(value, n)]
    else:  # all three are over the same images, however many these are
        parts = {k: Fraction(v).limit_denominator(_MOST_TEST_IMAGES) for k, v in shares.items()}
        n = math.lcm(*(part.denominator for part in parts.values()))
        wrong = [k for k, part in parts.items() if not _is_count(shares[k], part.denominator)]
        if n > _MOST_TEST_IMAGES and not wrong:
            yield f"{', '.join(shares)} are no shares of one number of images"
    for key in wrong:
        yield f"{key} {shares[key]} is no share of {n} test images"


def _is_count(share: float, n: int, error: float = _EXACT) -> bool:
    return abs(share - round(share * n) / n) <= error


def _references(record: Record) -> Iterator[str]:
    for name, metrics in record.references.items():
        if name not in REFERENCES:
            yield f"{name[:60]!r} is no reference: {', '.join(REFERENCES)}"
            return
        whole = record.status == "complete" and name != LOOKALIKE
        yield from (f"{name}: {reason}" for reason in _metrics(metrics, record.rules, whole))
    yield from _excess(record)


def _excess(record: Record) -> Iterator[str]:
    """What is said of bits beyond look-up's is the difference of both."""
    lookup = record.references.get(FLOOR_PUBLIC, {})
    for excess, bits in zip(_SIGNED, IDENTITY_METRICS, strict=False):
        own, floor, said = record.metrics.get(bits), lookup.get(bits), record.metrics.get(excess)
        three = [each.per_identity for each in (own, floor, said) if each and each.per_identity]
        if len(three) == 3 and not all(_close(a - b, c) for a, b, c in zip(*three, strict=False)):
            yield f"{excess} is not {bits} minus those of the reference {FLOOR_PUBLIC!r}"


def _metrics(
    metrics: Mapping[str, MetricValue], rules: int, complete: bool = True, numbers: bool = True
) -> list[str]:
    from mibench.metrics import METRICS  # brings in torch

    if unknown := [key for key in metrics if key not in METRICS]:
        return [f"{unknown[0][:60]!r} is no metric: {', '.join(METRICS)}"]
    found = []
    if complete and (metrics.get(HEADLINE) is None or metrics[HEADLINE].value is None):
        found.append(f"{HEADLINE} has no number, and the cell is complete")
    for key, metric in metrics.items():
        found += [f"{key}: {reason}" for reason in _metric(key, metric, rules)]
        if metric.value is not None and not numbers:
            found.append(f"the cell diverged, but {key} has a number")
    return found + list(_together(metrics))


def _metric(key: str, metric: MetricValue, rules: int) -> Iterator[str]:
    value = metric.value
    if value is None:
        rest = (metric.per_identity, metric.hits, metric.interval, metric.ranks)
        if any(rest) or metric.n is not None or metric.among is not None:
            yield "it has values per identity, ranks, an interval or an n, and no number"
        return
    if metric.reason is not None:
        yield "it has a number, and a reason why it has none"
    if key in _SETS and (metric.per_identity is not None or metric.hits is not None):
        yield "a set metric has no values per identity"
        return
    if key not in _HITS and metric.hits is not None:
        yield "it counts no hits"
        return
    if any((key in _MEDIANS) != (each is not None) for each in (metric.among, metric.ranks)):
        yield "ranks are among a number of people, and nothing else is"
        return
    if key == "epsilon_lower_bound":
        if metric.per_identity is not None or metric.interval is not None:
            yield "a bound has no values per identity, and no interval"
        return
    if (value < 0 and key not in _SIGNED) or (key in _FRACTIONS and value > 1):
        yield f"{value} is not in {'[0, 1]' if key in _FRACTIONS else '[0, ∞)'}"
    if metric.per_identity is None:
        if key not in _SETS:
            yield "values per identity are missing"
    else:
        values = metric.per_identity or (0.0,)
        what = "have the median" if key in _MEDIANS else "average to"
        centre = statistics.median(values) if key in _MEDIANS else math.fsum(values) / len(values)
        if not _close(centre, value):
            yield f"the value is {value:.6g}, its values per identity {what} {centre:.6g}"
        yield from _hits(key, metric)
    yield from _interval(key, metric, rules)


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
    means = [row.count("1") / len(row) for row in rows]
    wrong = [i for i, mean in enumerate(means) if not _close(mean, values[i])]
    if wrong:
        i = wrong[0]
        yield (
            f"identity {i}: hits {rows[i]} average to {means[i]:.6g}, its value is "
            f"{values[i]:.6g} ({len(wrong)} identities disagree)"
        )
    if metric.n != len(rows) * len(rows[0]):
        yield f"n is {metric.n}, hits hold {len(rows)} × {len(rows[0])} samples"


def _interval(key: str, metric: MetricValue, rules: int) -> Iterator[str]:
    """The interval is the one that its values give; of set metrics, one around the value."""
    value, values, interval = metric.value or 0.0, metric.per_identity or (), metric.interval
    if interval is None:
        if len(values) > 1:
            yield "its interval is missing"
        if metric.interval_over is not None:
            yield f"there is no interval over {metric.interval_over!r}"
        return
    low, high = interval
    shown = f"its interval [{low:.6g}, {high:.6g}]"
    over = "identity subsamples" if key in _SETS else "identities"
    if metric.interval_over != over:
        yield f"{shown} is over {metric.interval_over!r} instead of {over!r}"
    slack = _TOLERANCE * max(1, abs(value))
    if not low - slack <= value <= high + slack:
        yield f"{shown} does not hold its value {value:.6g}"
    if key in _SETS:
        # The lower end stops at 0.
        around = _close(high - value, value - low) if low > 0 else high >= 2 * value - slack
        if low < 0 or not around:
            yield f"{shown} does not lie around its value {value:.6g}"
    elif len(values) < 2:
        yield f"{shown} is of one identity"
    else:
        least, most = _bootstrap(values, rules, key in _MEDIANS)
        if not (_close(low, least) and _close(high, most)):
            yield f"{shown} is [{least:.6g}, {most:.6g}] of its values per identity"


@functools.lru_cache(maxsize=4096)  # floors and ceiling are the same in many records
def _bootstrap(values: tuple[float, ...], rules: int, median: bool) -> tuple[float, float]:
    import torch

    from mibench.metrics import bootstrap_interval, means, medians

    some, centre = torch.tensor(values, dtype=torch.float64), medians if median else means
    return bootstrap_interval(some, 0, rules=rules, centre=centre)


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
        if key in _BEST:
            expected = counts.get(HEADLINE)
        if key == "fid_successful" and rows is not None:
            expected = sum(row.count("1") for row in rows)
        if expected is not None and metric.n != expected:
            yield f"{key}: n is {metric.n} instead of {expected}"
    yield from _audit(there)
    yield from _ranks(there)
    for inner, outer in _WITHIN:
        some = there[inner].hits if inner in there else None
        more = there[outer].hits if outer in there else None
        pairs = zip("".join(some or ()), "".join(more or ()), strict=False)
        if any(a > b for a, b in pairs):
            yield f"a hit of {inner} is no hit of {outer}"


def _ranks(there: Mapping[str, MetricValue]) -> Iterator[str]:
    """Bits, leaks and median ranks are those that the ranks give."""
    said = there.get("median_rank")
    if said is None or said.ranks is None or said.among is None:
        return
    among, rows = said.among, said.ranks
    if not all(rows) or not all(1 <= rank <= among for row in rows for rank in row):
        yield f"median_rank: some of its ranks are none among {among}"
        return
    if said.n != sum(map(len, rows)):
        yield f"median_rank: n is {said.n}, there are ranks of {sum(map(len, rows))} samples"
        return
    bits = [math.fsum(math.log2(among / rank) for rank in row) / len(row) for row in rows]
    found: dict[str, Sequence[float]] = {
        "median_rank": [statistics.median(row) for row in rows],
        "identity_bits": bits,
    }
    for key, alpha in LEAKS.items():
        most = math.floor(alpha * among)
        found[key] = [sum(rank <= most for rank in row) / len(row) for row in rows]
    for key, values in found.items():
        own = there[key].per_identity if key in there else None
        if own is not None and not (len(own) == len(values) and all(map(_close, own, values))):
            yield f"{key}: its values per identity are not those that the ranks give"
    best = there["identity_bits_best"].per_identity if "identity_bits_best" in there else None
    for identity, (row, guess) in enumerate(zip(rows, best or (), strict=False)):
        if not any(_close(math.log2(among / rank), guess) for rank in row):
            yield f"identity_bits_best: {guess:.6g} is the bits of no rank of identity {identity}"
            return


def _audit(there: Mapping[str, MetricValue]) -> Iterator[str]:
    """The audited ε is the bound that the two-choice guesses give."""
    said, guesses = there.get("epsilon_lower_bound"), there.get("two_choice_accuracy")
    if said is None:
        return
    if guesses is None or not guesses.hits:
        yield "epsilon_lower_bound has a number, and no guesses are there"
        return
    from mibench.metrics import epsilon_lower_bound

    bound = epsilon_lower_bound(sum(row == "1" for row in guesses.hits), len(guesses.hits))
    if not _close(said.value or 0.0, bound):
        yield f"epsilon_lower_bound is {said.value}, its guesses give {bound:.6g}"


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= _TOLERANCE * max(1.0, abs(a), abs(b))
