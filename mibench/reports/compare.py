"""``mibench compare``: from run folders to a comparison and its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mibench.errors import MibenchError
from mibench.files import output_folder, user_path, write_atomic
from mibench.leaderboard.board import CLASSES, measure_of
from mibench.leaderboard.html import environment, policy
from mibench.leaderboard.records import HOSTILE
from mibench.record import ordinal
from mibench.reports import charts
from mibench.reports.comparison import Comparison, Run, compared, differing
from mibench.reports.people import Person, people
from mibench.reports.pictures import BEST, PRIVATE, Pictures, read_pictures
from mibench.reports.run import told
from mibench.reports.words import setting, verdict

_MOST_PICTURES = 100  # people whose pictures a page of a comparison holds


def compare(*runs: str | Path, html: str | Path | None = None) -> Comparison:
    """Put runs beside each other, with paired differences to the first and 95 % intervals.

    Args:
        runs: run folders, or files of records: two or more of one protocol, on the same
            identities.
        html: a file to write the comparison to as a page, which opens without a network. It holds
            pictures only where the images show nobody real.

    Returns:
        The comparison.

    Raises:
        RequestError: there is no such run, fewer than two, or the place cannot be written to.
        MibenchError: a record cannot be read, or two do not compare; the message says why.
    """
    place = None if html is None else user_path(html, "--html")
    if place is not None:
        output_folder(place.parent, "--html")
    try:
        found = compared([(each.path, each.record) for each in told(runs)])
        if place is not None:
            write_atomic(place, render_comparison(found).encode("utf-8", "replace"))
    except HOSTILE as error:
        raise MibenchError(
            f"these records cannot be compared: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    return found


def render_comparison(comparison: Comparison) -> str:
    """The page of a comparison."""
    from markupsafe import Markup

    templates, runs = environment("mibench.reports"), comparison.runs
    script = Markup(templates.get_template("compare.js").render())
    every = [people(run.record) for run in runs]
    rank = runs[0].record.metrics.get("median_rank")
    among = rank.among if rank else None
    return templates.get_template("compare.html").render(
        title=", ".join(run.letter for run in runs[:-1]) + f" and {runs[-1].letter}",
        setting=setting(runs[0].record).rpartition(" · ")[0],
        comparison=comparison,
        what="class" if measure_of(runs[0].record) is CLASSES else "person",
        whats="classes" if measure_of(runs[0].record) is CLASSES else "people",
        verdicts=[verdict(run.record) for run in runs],
        differing=differing(runs),
        people=_people(runs, every),
        among=among,
        pairs=[
            (run.letter, drawing)
            for run, others in zip(runs[1:], every[1:], strict=True)
            if (drawing := charts.pairs(every[0], others, among)) is not None
        ],
        charts=charts,
        pictured=not any(run.record.people for run in runs),
        policy=policy(script, "data:"),
        script=script,
    )


def _people(runs: Sequence[Run], every: Sequence[Sequence[Person]]) -> list[dict[str, Any]]:
    """Each person with what each run knows, those first of whom the runs know unlike much."""
    shown = [Pictures() for _ in runs]
    if not any(run.record.people for run in runs):
        shown = [
            read_pictures(run.path.parent, run.record, known, most=_MOST_PICTURES)
            for run, known in zip(runs, every, strict=True)
        ]
    found = []
    for persons in zip(*every, strict=False):
        first = persons[0]
        known = [pictures.shown.get(first.index, {}) for pictures in shown]
        private = next((each[PRIVATE] for each in known if PRIVATE in each), None)
        pictures = [("private", private, "")] if private else []
        for run, person, own in zip(runs, persons, known, strict=True):
            if BEST in own:
                rank = "" if person.best is None else ordinal(person.best)
                pictures.append((run.letter, own[BEST], rank))
        bits = [person.bits for person in persons]
        apart = [None if each is None or bits[0] is None else each - bits[0] for each in bits[1:]]
        found.append(
            {
                "number": first.index + 1,
                "name": next((n for p in shown if (n := p.names.get(first.index))), ""),
                "bits": bits,
                "apart": apart,
                "best": [person.best for person in persons],
                "hits": [person.hits for person in persons],
                "pictures": pictures,
            }
        )
    found.sort(key=lambda each: -max((abs(a) for a in each["apart"] if a is not None), default=0))
    return found
