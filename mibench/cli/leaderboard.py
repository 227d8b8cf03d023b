"""``mibench leaderboard``: records, boards, and checking claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from mibench.cli.options import data_option, store_option
from mibench.errors import MibenchError, RequestError, UncheckedError
from mibench.files import user_path
from mibench.leaderboard.folder import boards_folder

if TYPE_CHECKING:
    from mibench.leaderboard.board import Board, Table
    from mibench.record import BoardCard, Record
    from mibench.verify.compare import Comparison

FORMATS = ("latex", "csv", "markdown", "html")  # as in leaderboard.formats, unimported
TABLES = (
    *("defenses", "defenses-black-box", "defenses-label-only"),
    *("cells", "improvement", "published"),
)
FIGURES = ("privacy-utility", "queries")
Body = TypeVar("Body", bound=Callable[..., Any])

folder_option = click.option(
    "--folder",
    metavar="DIR",
    default="leaderboards",
    show_default=True,
    help="Folder of the leaderboards, with records/.",
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where to compute: auto, cpu, cuda or cuda:N. auto takes a GPU where there is one.",
)


def _file_option(part: str) -> Callable[[Body], Body]:
    return click.option(
        f"--{part}",
        metavar="FILE.py:CLASS",
        help=f"Where the record's {part} is, if it is not a registered one; only with --retrain. "
        "It runs here: read it first.",
    )


@click.group("leaderboard")
def leaderboard_commands() -> None:
    """File records, build the boards, and check claims."""


@leaderboard_commands.command()
@folder_option
@click.option(
    "--check",
    is_flag=True,
    help="Write nothing; exit with 1 and the names of files that are not what the records say.",
)
def build(folder: str, check: bool) -> None:
    """Make README, tables, figures and the page from the records.

    The result depends on the records alone: building twice gives the same files. A record or a
    picture that cannot be taken is named with the reason and left out; the exit code is then 1.
    """
    from mibench.cli.known import defense_facts, papers
    from mibench.leaderboard import build as building

    place = boards_folder(folder, "--folder")
    cards, known = board_cards(), (papers(), defense_facts())
    if check:
        stale, problems = building.stale(place, cards, *known)
        for name in stale:
            click.echo(name)
        if stale:
            raise MibenchError(
                f"{len(stale)} files in {place} are not what its records say; "
                "`mibench leaderboard build` makes those that it makes, and the rest is to be "
                "removed" + _left_out(problems)
            )
        click.echo(f"all generated files in {place} are what its records say")
    else:
        written, problems, alone = building.build(place, cards, *known)
        click.echo(f"wrote {len(written)} files in {place}; start with {place / building.PAGE}")
        for name in alone:
            click.echo(f"left alone, as no build is known to have made it: {name}")
    if problems:
        raise MibenchError(_left_out(problems).lstrip("\n"))


def _left_out(problems: Sequence[str]) -> str:
    """The files that boards do without, a line each; empty if there are none."""
    if not problems:
        return ""
    return f"\n{len(problems)} left out of the boards:\n  " + "\n  ".join(problems)


@leaderboard_commands.command()
@click.argument("records", metavar="RECORD...", nargs=-1, required=True)
@folder_option
@data_option
@store_option
@device_option
def add(
    records: tuple[str, ...], folder: str, data: str | None, store: str | None, device: str
) -> None:
    """Check records and file them.

    RECORD is a record.json or a run folder. Where its reconstructions lie beside it, its metrics
    are computed anew; without them it is self-reported, and boards say so. Each record is filed on
    its own; what is refused is named with the reason, and the exit code is 1. Of rendered faces a
    small picture is filed, too.
    """
    from mibench.cli.show.progress import display
    from mibench.verify.filing import add as add_records
    from mibench.verify.recompute import Place

    files = [user_path(each, "the record") for each in records]
    board, root = user_path(folder, "--folder"), _store(store)
    with display() as progress:
        outcomes = add_records(files, board, Place(root, data, device, progress))
    for outcome in outcomes:
        where = f" as {outcome.place}, {outcome.state}" if outcome.place else ""
        click.echo(f"{outcome.status}: {outcome.source}{where}")
        for reason in outcome.reasons:
            click.echo(f"  {reason}")
        for warning in outcome.warnings:
            click.echo(f"  note: {warning}")
    refused = sum(outcome.status == "refused" for outcome in outcomes)
    if refused:
        raise MibenchError(
            f"{refused} of {len(outcomes)} records were refused, for the reasons above"
        )
    click.echo("`mibench leaderboard build` makes the boards anew")


@leaderboard_commands.command()
@click.argument("record", required=False)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Check every record of the leaderboards folder instead: all of them against their "
    "protocols, and those whose reconstructions are in the store by computing their metrics anew.",
)
@click.option(
    "--retrain",
    "again",
    is_flag=True,
    help="Run the whole cell anew in an empty store, and accept the claim if top-1 and natural "
    "accuracy lie within the seed variance of the protocol's filed records.",
)
@click.option(
    "--by",
    metavar="NAME",
    help="Note beside the filed record that NAME has run the cell anew and found the same; only "
    "with --retrain, and on success.",
)
@_file_option("defense")
@_file_option("attack")
@_file_option("prior")
@folder_option
@data_option
@store_option
@device_option
def verify(
    record: str | None,
    everything: bool,
    again: bool,
    by: str | None,
    defense: str | None,
    attack: str | None,
    prior: str | None,
    folder: str,
    data: str | None,
    store: str | None,
    device: str,
) -> None:
    """Check a claim: compute its metrics anew from its reconstructions.

    RECORD is a run folder or a record.json. The reconstructions are taken from its run folder, else
    from the store. Only a cell that was run anew (--retrain) is called verified: metrics that
    follow from reconstructions say nothing of how these were made.

    Exit codes: 0 the claim holds, 1 it does not, 2 it could not be asked for (no such file, or no
    reconstructions), 3 it holds as far as it can be checked here, but part of it cannot.
    """
    files = {"defense": defense, "attack": attack, "prior": prior}
    if (by or any(files.values())) and not again:
        raise click.UsageError("--by, --defense, --attack and --prior need --retrain")
    if everything == (record is not None) or (everything and again):
        raise click.UsageError("name one RECORD, or --all without --retrain")
    from mibench.cli.show.progress import display
    from mibench.leaderboard.checks import faults
    from mibench.leaderboard.parsing import read_record
    from mibench.leaderboard.records import filed_with
    from mibench.verify import filing, retrain
    from mibench.verify.compare import UNCHECKED, of
    from mibench.verify.recompute import Place, evaluation_of, read_images, recompute
    from mibench.verify.settings import foreign

    board, root = user_path(folder, "--folder"), _store(store)
    if record is None:
        _verify_all(boards_folder(folder, "--folder"), root, data, device)
        return
    path = user_path(record, "the record")
    path = path / "record.json" if path.is_dir() else path
    if not path.exists():
        raise RequestError(f"there is no record {path}")
    claim = read_record(path)
    problems = faults(claim)
    if claim.protocol.source is not None:
        raise RequestError(
            f"{path} is of somebody's own protocol, {claim.protocol.name}: records of mibench's "
            "protocols alone can be checked"
        )
    if reasons := foreign(claim):
        raise MibenchError(f"{path} does not compare with this mibench: {'; '.join(reasons)}")
    # All that can be wrong with the request, before anything long.
    if by:
        filing.filed_name(claim, board)
    if again:
        retrain.request_of(claim, **files)
    for problem in problems:
        click.echo(f"damaged: {problem}")
    if problems:
        raise MibenchError(f"{path} does not hold: {len(problems)} numbers do not fit together")
    images = read_images(claim, path, root) if claim.status == "complete" else None
    if images is None and not again:
        raise RequestError(
            f"the reconstructions of {path} are neither beside it nor in the store {root}: name "
            "its run folder, or run the cell anew with --retrain"
        )
    found: list[Comparison] = []
    with display() as progress:
        place = Place(root, data, device, progress)
        if images is not None:
            found += recompute(claim, images, evaluation_of(claim, place))
        if again:
            filed = [each.record for each in filed_with(claim, board)]
            found += retrain.retrain(claim, filed, **files, place=place)
    _show(claim, found)
    if differing := of("differs", found):
        raise MibenchError(f"{path} does not hold: {len(differing)} of {len(found)} numbers differ")
    if unchecked := of(UNCHECKED, found):
        raise UncheckedError(
            f"{path} holds as far as it was checked; here cannot be checked: "
            + ", ".join(each.name for each in unchecked)
        )
    if by:
        name = filing.filed_name(claim, board)  # which may be another one by now
        filing.note(board, name, "retrained", by)
        click.echo(f"{board} now says that {by} has reproduced {name}")


def _verify_all(folder: Path, store: Path, data: str | None, device: str) -> None:
    """Check all filed records, and say of each that is not as it says what is wrong."""
    from mibench.cli.show.progress import display
    from mibench.verify.compare import UNCHECKED
    from mibench.verify.filing import WRONG, verify_all
    from mibench.verify.recompute import Place

    with display() as progress:
        found = list(verify_all(folder, Place(store, data, device, progress)))
    for verdict, path, reasons in found:
        for reason in reasons:
            click.echo(f"{verdict}: {path}: {reason}")
    states = Counter(verdict for verdict, _, _ in found)
    wrong = len({path for verdict, path, _ in found if verdict == WRONG})
    unchecked = states.pop(UNCHECKED, 0)
    del states[WRONG]
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    click.echo(f"{counts or 'no records'} in {folder}")
    if wrong:
        raise MibenchError(f"{wrong} records do not hold, for the reasons above")
    if unchecked:
        raise UncheckedError(f"{unchecked} records cannot be checked wholly here")


def _store(folder: str | None) -> Path:
    from mibench.store.store import default_root

    return user_path(folder, "--store") if folder else default_root()


@leaderboard_commands.command()
@click.option(
    "--format",
    "shape",
    type=click.Choice(FORMATS),
    default="markdown",
    show_default=True,
    help="How to write the table; latex names the packages that it needs.",
)
@click.option(
    "--table",
    type=click.Choice(TABLES),
    default="defenses",
    show_default=True,
    help="Which table to write.",
)
@click.option(
    "--protocol", default="synthfaces-32", show_default=True, help="The board to take it from."
)
@click.option(
    "--columns",
    metavar="A,B,C",
    help="Only these columns, in this order, by the names that CSV has. Without it, all; in latex, "
    "those that fit a page.",
)
@click.option(
    "--where",
    "conditions",
    metavar="COLUMN=VALUE",
    multiple=True,
    help="Only rows (of a figure, curves) with this value, as defense=bido. May be repeated: one "
    "of a column's values, in all of the columns.",
)
@click.option(
    "--figure",
    metavar="FILE",
    help="Write a figure into FILE, .pdf or .svg, in place of a table.",
)
@click.option(
    "--plot",
    type=click.Choice(FIGURES),
    default="privacy-utility",
    show_default=True,
    help="Which figure: what leaks over natural accuracy, or over queries of the target.",
)
@folder_option
def export(
    shape: str,
    table: str,
    protocol: str,
    columns: str | None,
    conditions: tuple[str, ...],
    figure: str | None,
    plot: str,
    folder: str,
) -> None:
    """Write a table on standard output, or a figure into a file.

    Records that cannot be taken are named, and the exit code is 1.
    """
    from mibench.leaderboard.names import RECORDS
    from mibench.registry import closest

    wanted, place = conditions_of(conditions), boards_folder(folder, "--folder")
    drawn = None if figure is None else _figure_place(figure)
    there = sorted(each.name for each in (place / RECORDS).glob("*") if each.is_dir())
    if there and protocol not in there:  # before all records are read
        hint = closest(protocol, there) or f"boards: {', '.join(there)}"
        raise RequestError(f"there is no board of {protocol!r} in {folder}; {hint}")
    from mibench.cli.known import defense_facts
    from mibench.leaderboard.build import boards
    from mibench.leaderboard.formats import FORMATS as WRITERS

    made = boards(place, board_cards(), defense_facts())
    found = {board.protocol: board for board in made.boards}
    if protocol not in found:
        raise RequestError(f"no record of {protocol!r} in {folder} can be taken")
    if drawn is not None:
        _write_figure(found[protocol], plot, wanted, drawn)
    else:
        chosen = table_of(found[protocol], table, wanted, columns)
        click.echo(WRITERS[shape](chosen), nl=False)
    if made.problems:
        raise MibenchError(_left_out(made.problems).lstrip("\n"))


def table_of(
    board: Board, table: str, wanted: Mapping[str, Collection[str]], columns: str | None
) -> Table:
    """A table of a board with the wanted rows and, if any are named, columns ``"A,B,C"``.

    Raises:
        RequestError: there is no such table, row or column.
    """
    from mibench.leaderboard.formats import columns_of, rows_of

    tables = {each.key: each for each in board.tables}
    if table not in tables:
        raise RequestError(
            f"the board of {board.protocol} has no table {table}: it has no records of that "
            f"access; there are {', '.join(tables)}"
        )
    chosen = rows_of(tables[table], wanted)
    return columns_of(chosen, [key.strip() for key in columns.split(",")]) if columns else chosen


def conditions_of(texts: Sequence[str]) -> dict[str, set[str]]:
    """``COLUMN=VALUE`` texts as the values that each column may have."""
    found: dict[str, set[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key.strip()):
            raise RequestError(f"--where {text!r}: write COLUMN=VALUE, as defense=bido")
        found.setdefault(key.strip(), set()).add(value.strip())
    return found


def _figure_place(figure: str) -> Path:
    place = user_path(figure, "--figure")
    if place.suffix not in (".pdf", ".svg") or place.is_dir():
        raise RequestError(f"--figure {figure}: name a file that ends in .pdf or .svg")
    return place


def _write_figure(
    board: Board, plot: str, wanted: Mapping[str, Collection[str]], place: Path
) -> None:
    from mibench.files import write_atomic
    from mibench.leaderboard.figure import privacy_utility_figure, queries_figure
    from mibench.leaderboard.series import curves_of, query_curves_of

    shape: Literal["pdf", "svg"] = "pdf" if place.suffix == ".pdf" else "svg"
    if plot == "queries":
        data = queries_figure(query_curves_of(board, wanted), shape)
    else:
        data = privacy_utility_figure(curves_of(board, wanted), shape)
    write_atomic(place, data)
    click.echo(f"wrote {place}")


@leaderboard_commands.command("schema")
def schema_() -> None:
    """Print the JSON Schema of a record."""
    from mibench.leaderboard.records import schema

    click.echo(schema(), nl=False)


def board_cards() -> dict[str, BoardCard]:
    """What the board of each protocol shows."""
    from mibench.protocols import PROTOCOLS

    return {name: card.board for name, card in PROTOCOLS.items()}


def _show(record: Record, found: Sequence[Comparison]) -> None:
    from rich.table import Table as Shown
    from rich.text import Text

    from mibench.cli.show.tables import console
    from mibench.leaderboard.names import cell_name

    table = Shown(title=cell_name(record), title_justify="left")
    for column in ("metric", "claimed", "found", "verdict", "note"):
        table.add_column(column, justify="right" if column in ("claimed", "found") else "left")
    styles = {"agrees": "green", "differs": "red", "cannot be checked here": "yellow"}
    for each in found:
        numbers = ["—" if n is None else f"{n:.6g}" for n in (each.claimed, each.found)]
        verdict = Text(each.verdict, style=styles[each.verdict])
        table.add_row(Text(each.name), *numbers, verdict, Text(each.note, overflow="fold"))
    console().print(table)
