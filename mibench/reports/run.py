"""From run folders to pages: what ``mibench report`` does, and what a run does at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mibench.errors import MibenchError, RequestError
from mibench.files import output_folder, user_path, write_atomic
from mibench.leaderboard.parsing import read_record
from mibench.leaderboard.records import HOSTILE
from mibench.record import Record
from mibench.reports.page import render_report
from mibench.reports.people import people
from mibench.reports.pictures import Pictures, read_pictures

REPORT = "report.html"
_RECORD = "record.json"


def report(*runs: str | Path, out: str | Path | None = None) -> list[Path]:
    """Write the report of each run: one HTML file, which opens without a network.

    Pictures and names of people are written into their own run folder only: a page that goes
    elsewhere holds none, and may be shown to others.

    Args:
        runs: run folders, or files of records.
        out: where the page goes: a file for one run, a folder for several, in which each page is
            called as its run folder; None: ``report.html`` in each run folder.

    Returns:
        The pages, in the order of the runs.

    Raises:
        RequestError: there is no such run, or the place cannot be written to.
        MibenchError: a record cannot be read or shown; the message names it.
    """
    if not runs:
        raise RequestError("name a run folder, as mibench-runs/synthfaces-32/…")
    found = told(runs)
    places = _places(found, out)
    for each, place in zip(found, places, strict=True):
        at_home = os.path.realpath(place.parent) == os.path.realpath(each.folder)
        try:
            write_report(each.folder, each.record, place, private=at_home)
        except HOSTILE as error:
            raise MibenchError(
                f"{each.path} cannot be shown: {type(error).__name__}: {str(error)[:200]}"
            ) from error
    return places


def write_report(
    folder: Path, record: Record, place: Path, *, private: bool = True, check: bool = True
) -> None:
    """Write the report of a run.

    Args:
        folder: the run folder, where its pictures lie.
        record: its record.
        place: the file to write.
        private: whether pictures and names of people may be in it.
        check: whether the reconstructions are compared with what the record names.
    """
    pictures, hidden = Pictures(), ""
    if record.people and not private:
        hidden = (
            "Pictures and names of people are left out, as this page lies outside the run folder; "
            f"{REPORT} there has them."
        )
    elif record.status == "complete":
        pictures = read_pictures(folder, record, people(record), check)
    write_atomic(place, render_report(record, pictures, hidden).encode("utf-8", "replace"))


@dataclass(frozen=True)
class Told:
    """A record that a user named, and the folder that it lies in."""

    path: Path
    record: Record

    @property
    def folder(self) -> Path:
        """The run folder, where its pictures are; of a filed record, which has none, its own."""
        return self.path.parent

    @property
    def of_run(self) -> bool:
        """Whether the record lies in a run folder."""
        return self.path.name == _RECORD


def told(runs: Sequence[str | Path]) -> list[Told]:
    """The records of run folders, or of files by themselves, which anyone may have made.

    Raises:
        RequestError: there is no such run.
        MibenchError: it has no record that can be read; the message names it.
    """
    paths = []
    for run in runs:
        path = user_path(run, "the run")
        if path.is_dir():
            path /= _RECORD
            if not os.path.lexists(path):
                raise RequestError(
                    f"the run {run} holds no {_RECORD}: name the folder of one run, as "
                    "`mibench run` prints it"
                )
        paths.append(path)
    found = []
    for path in paths:
        try:
            found.append(Told(path, read_record(path)))
        except RequestError:
            raise
        except MibenchError as error:
            raise MibenchError(f"{path}: {error}") from error
    return found


def _places(found: Sequence[Told], out: str | Path | None) -> list[Path]:
    if out is None:
        if alone := next((each.path for each in found if not each.of_run), None):
            raise RequestError(f"{alone} lies in no run folder: say by --out where its page goes")
        return [output_folder(each.folder, "the run folder") / REPORT for each in found]
    place = user_path(out, "--out")
    if len(found) == 1 and not place.is_dir():
        output_folder(place.parent, "--out")
        return [place]
    where = output_folder(place, "--out")
    names = [
        f"{each.folder.resolve().name if each.of_run else each.path.stem}.html" for each in found
    ]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"--out {place}: two pages would be called {twice}; make one at a time")
    return [where / name for name in names]
