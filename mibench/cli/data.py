"""``mibench data``: the papers' data sets, what is there, and preparing it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mibench.cli.fetch import fetch
from mibench.cli.options import data_option, json_option, print_json, quiet_option
from mibench.errors import MibenchError, RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from mibench.data.prepared import DataFolder


@click.group("data")
def data_commands() -> None:
    """Prepare the papers' data sets, and look after them."""


data_commands.add_command(fetch)


@data_commands.command("list")
@data_option
@json_option
def list_(data: str | None, as_json: bool) -> None:
    """List the data sets: licence, size, home page, and what is prepared here."""
    from mibench.cli.show.tables import console
    from mibench.data.prepared import DataFolder

    folder = DataFolder(data)
    entries = _entries(folder)
    if as_json:
        print_json({"data": str(folder.root), "datasets": entries})
    else:
        _show(entries, folder.root, console())


@data_commands.command()
@click.argument("name")
@click.option(
    "--root",
    metavar="PATH",
    required=True,
    help="Where the original files are, or are to be downloaded to.",
)
@data_option
@click.option(
    "--resolution",
    type=click.IntRange(1, 1024),
    metavar="PIXELS",
    help="Height and width. Without it, those of the papers' setting for this data set.",
)
@click.option(
    "--crop",
    type=click.IntRange(1, 65_536),
    metavar="PIXELS",
    help="Side of the central square that is kept of the originals. Without it, the papers'. "
    "Another crop is a data set of its own, beside the papers'.",
)
@click.option("--download", is_flag=True, help="Fetch the originals first, where that is possible.")
@click.option(
    "--incomplete",
    is_flag=True,
    help="Accept fewer pictures, or other lists, than were published. The counts are recorded.",
)
@click.option(
    "--lists",
    metavar="FOLDER",
    help="Where the published lists are that a protocol divides this data set by, as celeba-64-"
    "lists does. They are checked, and kept in the folder of prepared data sets.",
)
@quiet_option
def prepare(
    name: str,
    root: str,
    data: str | None,
    resolution: int | None,
    crop: int | None,
    download: bool,
    incomplete: bool,
    lists: str | None,
    quiet: bool,
) -> None:
    """Check, crop and resize the originals of the data set NAME into one file.

    All cores are used. A command that was stopped continues where it was.
    """
    from mibench.cli.show.progress import display
    from mibench.data.lists import lists_folder
    from mibench.data.prepare import prepare as prepare_data
    from mibench.progress import size

    # What torchvision prints while downloading is progress, not a result.
    with contextlib.redirect_stdout(sys.stderr), display(quiet=quiet) as progress:
        made = prepare_data(
            name,
            root,
            data,
            resolution,
            crop=crop,
            download=download,
            incomplete=incomplete,
            lists=lists,
            progress=progress,
        )
    index = made.index
    partly = "" if index.complete else " (not the published counts)"
    click.echo(
        f"{name}: {index.images:,} images of {len(index.names):,} identities{partly}, "
        f"{size(made.images.nbytes)}, in {made.folder.parent}"
    )
    if lists is not None:
        kept = lists_folder(made.source.card.name, data)
        click.echo(f"its published lists: {', '.join(made.source.card.lists)}, in {kept}")
    for note in index.notes:
        click.echo(note)
    alike, doubtful = made.copies
    if alike or doubtful:
        click.echo(
            f"{len(alike):,} pictures equal an earlier one of their identity in every pixel, and "
            f"{len(doubtful):,} one of another identity"
        )


@data_commands.command()
@click.argument("name", required=False)
@data_option
@json_option
def check(name: str | None, data: str | None, as_json: bool) -> None:
    """Check prepared data sets, or only NAME, against their checksums.

    Exit code 1 if a file is damaged. Sets whose originals have changed since are named.
    """
    from mibench.data.prepare import stale
    from mibench.data.prepared import DataFolder, open_prepared, prepare_command
    from mibench.data.source import source_named

    folder = DataFolder(data)
    card = source_named(name).card if name else None
    wanted = card.name if card else None
    sets = folder.sets(wanted)
    if card and name and not sets:
        command = prepare_command(name, card.resolution, data_folder=folder.root)
        raise RequestError(
            f"{name} is not prepared in {folder.root}: run {command}, or name another folder with "
            "--data"
        )
    problems = {each: folder.problem(each) for each in sets}
    changed = []
    for each in sets:
        named, resolution, crop = folder.parts(each)
        with contextlib.suppress(MibenchError):  # damaged, or by a source that has no name here
            if stale(open_prepared(named, resolution, folder.root, crop=crop)):
                changed.append(each)
    bad = [problem for problem in problems.values() if problem]
    if as_json:
        checked = {each: [problem] if problem else [] for each, problem in problems.items()}
        print_json({"data": str(folder.root), "checked": checked, "originals_changed": changed})
    for problem in bad if not as_json else ():
        click.echo(problem)
    if bad:
        raise MibenchError(
            f"{len(bad)} of {len(sets)} prepared data sets in {folder.root} are damaged"
        )
    if as_json:
        return
    for each in changed:
        again = prepare_command(*folder.parts(each), folder.root)
        click.echo(
            f"{folder.root / each} is intact, but its originals have changed since: to make it "
            f"again, run {again}"
        )
    for path in folder.unfinished(f"{wanted}-*" if wanted else "*"):
        click.echo(f"{path} was not finished: the same `mibench data prepare` continues it")
    if sets:
        click.echo(f"{len(sets)} prepared data sets in {folder.root} are intact")
    else:
        where = "--data or MIBENCH_DATA name another folder"
        click.echo(f"nothing is prepared in {folder.root}; {where}")


def _entries(folder: DataFolder) -> list[dict[str, Any]]:
    """The cards, each with what is prepared of it; a damaged set with what is wrong."""
    from mibench.data.prepared import open_prepared
    from mibench.data.source import SOURCES, source_named

    entries = []
    for name in SOURCES.names():
        entry = source_named(name).card.model_dump(mode="json")
        entry["prepared"] = found = []
        entries.append(entry)
        for each in folder.sets(name):
            held: dict[str, Any] = {"name": each, "folder": str(folder.folder(each))}
            found.append(held)
            _, resolution, crop = folder.parts(each)
            try:
                made = open_prepared(name, resolution, folder.root, crop=crop)
            except MibenchError as error:
                held["problem"] = str(error)
                continue
            fields = {"images", "resolution", "crop", "complete"}
            held |= made.index.model_dump(mode="json", include=fields)
            held |= {"identities": len(made.names), "digest": made.digest}
            held["bytes"] = sum(path.stat().st_size for path in made.folder.iterdir())
    return entries


def _cell(held: dict[str, Any], size: Callable[[float], str]) -> str:
    """A prepared set in a word or two."""
    name = held["name"]
    if "problem" in held:
        return f"{name}: damaged"
    partly = "" if held["complete"] else f" ({held['images']:,} images)"
    return f"{name}{partly}: {size(held['bytes'])}"


def _show(entries: list[dict[str, Any]], root: Path, out: Console) -> None:
    from rich.text import Text

    from mibench.cli.show.tables import folded, right, table, whole
    from mibench.progress import size

    columns = [whole("name")]
    columns += [right(name, no_wrap=True) for name in ("images", "identities", "originals")]
    columns += map(folded, ("--download", "licence", "home page", "prepared here"))
    rows = []
    for entry in entries:
        here = [_cell(each, size) for each in entry["prepared"]]
        identities = entry["identities"]
        cells = (
            entry["name"],
            "—" if entry["images"] is None else f"{entry['images']:,}",
            "—" if identities is None else f"{identities:,}",
            size(entry["original_bytes"]) if entry["original_bytes"] else "—",
            "yes" if entry["download"] else "no",
            entry["licence"],
            entry["home"] or "—",
            "\n".join(here) or "—",
        )
        rows.append(cells)
    out.print(table(rows, *columns))
    out.print(Text(f"data folder: {root}"), soft_wrap=True)
    advice = "mibench data prepare NAME --root DIR says where files belong if they are not there"
    out.print(Text(advice), soft_wrap=True)
