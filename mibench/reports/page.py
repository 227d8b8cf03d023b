"""A report: one static HTML file from a record and its pictures, readable without a network.

It shares style and script with the boards' page, and its policy: a browser runs the page's own
script only, and loads nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mibench.leaderboard.board import CLASSES, measure_of
from mibench.leaderboard.html import environment, policy
from mibench.leaderboard.names import command_of_record, method_label
from mibench.metrics import METRICS
from mibench.progress import ABSENT, duration
from mibench.record import (
    CEILING,
    FLOOR_PRIOR,
    FLOOR_PUBLIC,
    LEAKS,
    LOOKALIKE,
    MetricValue,
    Record,
    ordinal,
    shown_rank,
)
from mibench.reports import charts, words
from mibench.reports.people import Person, people
from mibench.reports.pictures import BEST, MEDIAN, PRIVATE, Pictures
from mibench.reports.pictures import LOOKALIKE as ALIKE
from mibench.settings import flat

if TYPE_CHECKING:
    from markupsafe import Markup

_LONG = 300  # characters of a setting that a page shows
_PARTS = ("protocol", "target", "defense", "attack", "prior")
# What the attack's bits lie between, from what knows nothing to what knows all.
_SCALE = {
    FLOOR_PRIOR: ("random samples", "of the attacker's image prior: nothing known of the person"),
    FLOOR_PUBLIC: ("look-up", "the public images that the classifier scores highest: no attack"),
    LOOKALIKE: ("look-alike", "the public image most like the person, found with private images"),
    CEILING: ("private test images", "of the same person: all that there is to know"),
}


def render_report(record: Record, pictures: Pictures, hidden: str = "") -> str:
    """The report of a run. Equal arguments give equal pages.

    Args:
        record: what it is of.
        pictures: of its people.
        hidden: why there are no pictures and no names, where they are left out; a sentence.
    """
    every, script = people(record), _script()
    shown = [_person(pictures, each) for each in every]
    rank = record.metrics.get("median_rank")
    among = rank.among if rank else None
    return (
        environment("mibench.reports")
        .get_template("report.html")
        .render(
            title=f"{record.attack.name} against {words.attacked(record)}",
            setting=f"{record.access} attack · {words.setting(record)} · {record.created[:10]}",
            verdict=words.verdict(record),
            tiles=_tiles(record, every),
            scale=_scale(record),
            warnings=words.warnings(record),
            notes=words.notes(record),
            table=words.metric_table(record),
            meanings={key: METRICS[key].definition for key in METRICS},
            missing=words.missing_reasons(record),
            what="class" if measure_of(record) is CLASSES else "person",
            whats="classes" if measure_of(record) is CLASSES else "people",
            people=shown,
            ranked=bool(among) and any(each.ranks for each in every),
            among=among,
            near=_near(among),
            named=bool(pictures.names),
            lacking=[*pictures.lacking, hidden] if hidden else list(pictures.lacking),
            private=record.people and bool(pictures.shown),
            pixelated=pictures.side <= 64,
            ranks=charts.rank_curves(record),
            bits=charts.bits_by_person(every, among),
            charts=charts,
            utility=words.utility(record),
            costs=[(stage, rest) for stage, *rest in words.costs(record)],
            total=duration(sum(cost.seconds for cost in record.costs)),
            settings=_settings(record),
            provenance=_provenance(record),
            artifacts=sorted(record.artifacts.items()),
            makers=_makers(record),
            command=command_of_record(record),
            repeating=list(_repeating(record)),
            policy=policy(script, "data:"),
            script=script,
            data={
                "people": [_numbers(each, found) for each, found in zip(every, shown, strict=True)]
            },
        )
    )


def _script() -> Markup:
    from markupsafe import Markup

    return Markup(environment("mibench.reports").get_template("report.js").render())


def _tiles(record: Record, every: list[Person]) -> list[dict[str, str]]:
    """The numbers that say most, large: each with its unit, and what it is to be held against."""
    rank, bits = record.metrics.get("median_rank"), record.metrics.get("identity_bits")
    if rank is None or rank.value is None or not rank.among or bits is None or bits.value is None:
        return []
    lookup = record.references.get(FLOOR_PUBLIC, {})
    found = [
        {
            "title": "Typical rank of the person",
            "value": shown_rank(rank.value),
            "unit": f"of {rank.among:,}",
            "beside": f"look-up {words.rank_of(lookup.get('median_rank'))}, chance "
            f"{words.chance_rank(record, rank.among)}",
        },
        {
            "title": "Known of who the person is",
            "value": f"{bits.value:.1f}",
            "unit": f"bits {_interval(bits)}".rstrip(),
            "beside": f"look-up {_bits(lookup)}, at most {math.log2(rank.among):.1f}",
        },
    ]
    if near := _near(rank.among):
        one, most = near
        guesses = [each.best for each in every if each.best is not None]
        if guesses:
            found.append(
                {
                    "title": f"Best guess within 1 in {one:,}",
                    "value": f"{sum(each <= most for each in guesses):,}",
                    "unit": f"of {len(guesses):,} people",
                    "beside": f"by chance {len(guesses) / one:.2g}",
                }
            )
    closer = [each.closer for each in every if each.closer is not None]
    if closer:
        found.append(
            {
                "title": "Closer than any public picture",
                "value": f"{sum(closer):,}",
                "unit": f"of {len(closer):,} people",
                "beside": "the best guess, beside the look-alike",
            }
        )
    return found


def _near(among: int | None) -> tuple[int, int] | None:
    """The smallest share of people that ranks can tell: one in how many, and up to which rank."""
    for key, alpha in reversed(LEAKS.items()):
        if among and key != "leak_at_1e-4" and alpha * among >= 10:
            return round(1 / alpha), math.floor(alpha * among)
    return None


def _bits(reference: Mapping[str, MetricValue]) -> str:
    found = reference.get("identity_bits")
    return ABSENT if found is None or found.value is None else f"{found.value:.1f}"


def _interval(entry: MetricValue) -> str:
    if entry.interval is None:
        return ""
    return "[{:.1f}, {:.1f}]".format(*entry.interval)


def _scale(record: Record) -> list[dict[str, Any]]:
    """The attack's bits among the references', from the least: shares of what can be known."""
    rank, own = record.metrics.get("median_rank"), record.metrics.get("identity_bits")
    if rank is None or not rank.among or rank.among < 2 or own is None or own.value is None:
        return []
    rows: list[tuple[str, str, MetricValue, bool]] = [("this attack", "", own, True)]
    for key, (name, said) in _SCALE.items():
        found = record.references.get(key, {}).get("identity_bits")
        if found is not None and found.value is not None:
            rows.append((name, said, found, False))
    most = math.log2(rank.among)
    rows.sort(key=lambda row: row[2].value or 0.0)

    def share(bits: float) -> float:
        return round(100 * min(max(bits / most, 0), 1), 2)

    return [
        {
            "name": name,
            "said": said,
            "own": mine,
            "text": f"{value.value or 0:.1f}",
            "interval": _interval(value) if mine else "",
            "share": share(value.value or 0),
            "ends": [share(end) for end in value.interval] if mine and value.interval else None,
        }
        for name, said, value, mine in rows
    ]


def _person(pictures: Pictures, person: Person) -> dict[str, Any]:
    """What the template shows of a person."""
    alike = pictures.lookalike_ranks.get(person.index)
    captions = {
        PRIVATE: "",
        BEST: "" if person.best is None else ordinal(person.best),
        MEDIAN: "" if person.median is None else ordinal(round(person.median)),
        ALIKE: "" if alike is None else ordinal(alike),
    }
    return {
        "number": person.index + 1,
        "name": pictures.names.get(person.index, ""),
        "of": person,
        "alike": alike,
        "pictures": [
            (what, address, captions[what])
            for what, address in pictures.shown.get(person.index, {}).items()
        ],
    }


def _numbers(person: Person, shown: Mapping[str, Any]) -> dict[str, Any]:
    """What the script knows of a person: to sort, to filter, and to tell in the dialog."""
    return {
        "number": shown["number"],
        "name": shown["name"],
        "best": person.best,
        "median": person.median,
        "bits": person.bits,
        "excess": person.excess,
        "lookup": person.lookup,
        "alike": shown["alike"],
        "closer": person.closer,
        "hits": person.hits,
        "samples": person.samples,
        "ranks": person.ranks,
    }


def _settings(record: Record) -> list[dict[str, Any]]:
    """Of each part its name, what was passed, and what that resolved to."""
    found = []
    for key in _PARTS:
        if key == "defense" and record.given is not None:
            continue  # nobody here knows it
        part = getattr(record, key)
        label = part.recipe if key == "prior" else method_label(part)
        if key == "target" and record.given is not None:
            label = record.given
        passed = [(path, _text(value)) for path, value in sorted(part.passed.items())]
        resolved = [(path, _text(value)) for path, value in flat(part.resolved)]
        found.append({"part": key, "label": label, "passed": passed, "resolved": resolved})
    return found


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


def _provenance(record: Record) -> list[tuple[str, str]]:
    place = record.environment
    commit = place.commit or "unknown: not from a checkout"
    if place.dirty:
        commit += ", with uncommitted changes"
    return [
        ("made", record.created),
        ("mibench", place.mibench),
        ("commit", commit),
        ("python", place.python),
        ("torch, timm, opacus", f"{place.torch}, {place.timm}, {place.opacus}"),
        ("device", f"{place.device}, {place.threads} threads"),
        ("platform", place.platform),
        *([("processor", place.processor)] if place.processor else []),
        ("digest of the protocol", str(record.protocol.resolved.get("digest", ""))),
        ("rules of the metrics", f"version {record.rules}"),
        *(
            (
                f"digest of the {key} that was given"
                if record.given is not None and key in ("target", "prior")
                else f"code of the {key}, not mibench's own",
                source,
            )
            for key in _PARTS
            if (source := getattr(record, key).source)
        ),
    ]


def _makers(record: Record) -> list[tuple[str, str, str]]:
    """Each stage, its key, and the commit that made it where that is another one."""
    last = record.environment.commit
    return [
        (
            cost.stage,
            cost.key,
            ""
            if cost.maker is None or cost.maker.commit == last
            else (cost.maker.commit or f"mibench {cost.maker.mibench}"),
        )
        for cost in record.costs
    ]


def _repeating(record: Record) -> Iterator[str]:
    """What the command alone does not say."""
    if record.given is not None:
        yield "Names in capitals stand for files and folders, which a record does not know."
    elif any(getattr(record, key).source for key in ("defense", "attack", "prior")):
        yield "FILE.py stands for the file of the method, which a record does not hold."
    if record.protocol.source:
        yield (
            "The protocol is its author's own, or has code of its author's: name its file in the "
            "place of its name."
        )
    if record.protocol.name == "folder":
        yield "Add --root with the image folder: a record does not say where that lies."
    yield (
        "The same seed gives the same numbers with the same versions on the same kind of machine; "
        "stages that your store holds are not computed again."
    )
