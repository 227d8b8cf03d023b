"""``mibench data``: the papers' data sets, what is there, and preparing it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mibench.cli.fetch import fetch
from mibench.cli.options import data_option, json_option, print_json
from mibench.errors import MibenchError, RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from mibench.data.prepared import Prepared


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
    from mibench.data.prepared import data_root

    root = data_root(data)
    entries = _entries(root)
    if as_json:
        print_json({"data": str(root), "datasets": entries})
    else:
        _show(entries, root, console())


@data_commands.command()
@click.argument("name")
@click.option(
    "--root",
    metavar="DIR",
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
@click.option("--quiet", is_flag=True, help="Show no progress.")
def prepare(
    name: str,
    root: str,
    data: str | None,
    resolution: int | None,
    crop: int | None,
    download: bool,
    incomplete: bool,
    quiet: bool,
) -> None:
    """Check, crop and resize the originals of the data set NAME into one file.

    All cores are used. A command that was stopped continues where it was.
    """
    import contextlib

    from mibench.cli.show.progress import display, size
    from mibench.data.prepare import prepare as prepare_data
    from mibench.progress import SILENT

    shown = contextlib.nullcontext(SILENT) if quiet else display()
    # What torchvision prints while downloading is progress, not a result.
    with contextlib.redirect_stdout(sys.stderr), shown as progress:
        made = prepare_data(
            name,
            root,
            data,
            resolution,
            crop=crop,
            download=download,
            incomplete=incomplete,
            progress=progress,
        )
    index = made.index
    partly = "" if index.complete else " (not the published counts)"
    click.echo(
        f"{name}: {index.images:,} images of {len(index.names):,} identities{partly}, "
        f"{size(made.images.nbytes)}, in {made.folder}"
    )
    for note in (*index.notes, *_copies(made)):
        click.echo(note)


@data_commands.command()
@click.argument("name", required=False)
@data_option
@json_option
def check(name: str | None, data: str | None, as_json: bool) -> None:
    """Check prepared data sets, or only NAME, against their checksums.

    Exit code 1 if a file is damaged. Sets whose originals have changed since are named.
    """
    from mibench.data.catalog import reader
    from mibench.data.prepare import stale
    from mibench.data.prepared import (
        data_root,
        partial_folders,
        prepare_command,
        prepared_folders,
        read_index,
        verify,
    )

    root = data_root(data)
    card = reader(name).card if name else None
    folders = prepared_folders(root, name)
    if card and not folders:
        raise RequestError(
            f"{name} is not prepared in {root}: "
            f"run {prepare_command(card.name, card.resolution, data_folder=root)}, or name another "
            "folder with --data"
        )
    problems = {folder.name: verify(folder) for folder in folders}
    bad = [problem for found in problems.values() for problem in found]
    if as_json:
        changed = [folder.name for folder in folders if not problems[folder.name] and stale(folder)]
        print_json({"data": str(root), "checked": problems, "originals_changed": changed})
    for problem in bad if not as_json else ():
        click.echo(problem)
    if bad:
        count = sum(map(bool, problems.values()))
        raise MibenchError(f"{count} of {len(folders)} prepared data sets in {root} are damaged")
    if as_json:
        return
    for folder in folders:
        if stale(folder):
            index = read_index(folder)
            again = prepare_command(index.dataset, index.resolution, index.crop, root)
            click.echo(
                f"{folder} is intact, but its originals have changed since: to make it again, run "
                f"{again}"
            )
    for folder in partial_folders(root, name):
        click.echo(f"{folder} was not finished: the same `mibench data prepare` continues it")
    if folders:
        click.echo(f"{len(folders)} prepared data sets in {root} are intact")
    else:
        click.echo(f"nothing is prepared in {root}; --data or MIBENCH_DATA name another folder")


def _copies(made: Prepared) -> list[str]:
    """A sentence on pictures that are there several times, if there are any."""
    alike, doubtful = made.copies()
    if not (alike or doubtful):
        return []
    return [
        f"{len(alike):,} pictures equal an earlier one of their identity in every pixel, and "
        f"{len(doubtful):,} one of another identity"
    ]


def _entries(root: Path) -> list[dict[str, Any]]:
    """The cards, each with what is prepared of it."""
    from mibench.data.catalog import NAMES, reader

    entries = []
    for name in NAMES:
        entry = reader(name).card.model_dump(mode="json")
        entry["prepared"] = _prepared(root, name)
        entries.append(entry)
    return entries


def _prepared(root: Path, name: str) -> list[dict[str, Any]]:
    """Prepared folders of one data set; an unreadable one is listed with what is wrong."""
    from mibench.data.prepared import prepared_folders, read_index

    found: list[dict[str, Any]] = []
    for folder in prepared_folders(root, name):
        try:
            index = read_index(folder)
        except MibenchError as error:
            found.append({"folder": str(folder), "problem": str(error)})
            continue
        entry = index.model_dump(mode="json", include={"images", "resolution", "crop", "complete"})
        entry |= {"identities": len(index.names), "folder": str(folder), "digest": index.digest}
        entry["bytes"] = sum(file.size for file in index.files.values())
        found.append(entry)
    return found


def _cell(held: dict[str, Any], size: Callable[[float], str]) -> str:
    """A prepared folder in a word or two."""
    name = Path(held["folder"]).name
    if "problem" in held:
        return f"{name}: damaged"
    partly = "" if held["complete"] else f" ({held['images']:,} images)"
    return f"{name}{partly}: {size(held['bytes'])}"


def _show(entries: list[dict[str, Any]], root: Path, out: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from mibench.cli.show.progress import size

    table = Table()
    table.add_column("name", no_wrap=True)
    for column in ("images", "identities", "originals"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("--download", "licence", "home page", "prepared here"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        here = [_cell(each, size) for each in entry["prepared"]]
        identities = entry["identities"]
        cells = (
            entry["name"],
            f"{entry['images']:,}",
            "—" if identities is None else f"{identities:,}",
            size(entry["original_bytes"]),
            "yes" if entry["download"] else "no",
            entry["licence"],
            entry["home"],
            "\n".join(here) or "—",
        )
        table.add_row(*map(Text, cells))
    out.print(table)
    out.print(Text(f"data folder: {root}"), soft_wrap=True)
    advice = "mibench data prepare NAME --root DIR says where files belong if they are not there"
    out.print(Text(advice), soft_wrap=True)
