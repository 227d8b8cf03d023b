"""The command line. Everything slow to import is imported by the command that needs it."""

from __future__ import annotations

import contextlib
import io
import logging
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mibench import __version__
from mibench.cli.data import data_commands
from mibench.cli.grid import grid
from mibench.cli.leaderboard import leaderboard_commands
from mibench.cli.options import (
    budget_option,
    data_option,
    json_option,
    preset_option,
    print_json,
    store_option,
)
from mibench.cli.store import store_commands
from mibench.errors import MibenchError
from mibench.text import printable

if TYPE_CHECKING:
    from mibench.record import Record
    from mibench.types import Preset

_ARGUMENTS = "mibench.arguments"
_HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
KINDS = ("attacks", "defenses", "targets", "protocols", "metrics")  # as in listing, unimported


class Stopped(KeyboardInterrupt):
    """Another signal that ends mibench as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, _frame: object) -> None:
    raise Stopped(number)


class Main(click.Group):
    """The top command: keeps the command line as it was typed, and turns errors into exit codes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember the arguments before they are taken apart."""
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command.

        Exit codes: 0 done, 1 it failed, 2 the request was wrong, 128 + N stopped by signal N (130:
        Ctrl-C).
        """
        try:
            return super().invoke(ctx)
        except MibenchError as error:
            shown = printable(str(error), keep="\n")
            click.echo(f"error: {shown}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as error:
            click.echo("stopped; the same command continues", err=True)
            ctx.exit(128 + (error.number if isinstance(error, Stopped) else signal.SIGINT))


@click.group(cls=Main, context_settings=_HELP)
@click.version_option(__version__, prog_name="mibench", message="%(prog)s %(version)s")
def cli() -> None:
    """Measure how much model inversion attacks read out of defended classifiers.

    A first run that needs no download: mibench run
    """


def main() -> None:
    """Entry point of the command `mibench`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± is no reason to fail
    for name in ("SIGTERM", "SIGHUP"):  # of a scheduler, of a terminal that closes
        number = getattr(signal, name, None)  # Windows lacks the second
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # as under nohup
            signal.signal(number, _stop)
    cli(prog_name="mibench")


@cli.command(short_help="Run one cell: train, attack, measure.")
@click.option(
    "--protocol",
    default="synthfaces-32",
    show_default=True,
    help="Evaluation setting: data, evaluators and budgets. A name of `mibench list protocols`, or "
    "your own as path/to/mine.toml or path/to/mine.py:CARD.",
)
@click.option(
    "--target",
    metavar="ARCHITECTURE",
    help="Architecture of the attacked classifier, a timm name such as resnet18. Without it, the "
    "protocol's own is taken.",
)
@click.option(
    "--defense",
    default="none",
    show_default=True,
    help="Defense that the target is trained under: a name of `mibench list defenses`, or your "
    "own as path/to/mine.py:MyDefense.",
)
@click.option(
    "--attack",
    default="improved-kedmi",
    show_default=True,
    help="Attack on the target: a name of `mibench list attacks`, or your own as "
    "path/to/mine.py:MyAttack.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of target, prior, students and attack. The same seed gives the same result.",
)
@click.option(
    "--root",
    metavar="DIR",
    help="Image folder with one sub-folder for each identity. Only the protocol `folder` takes it.",
)
@preset_option
@click.option(
    "--set",
    "settings",
    metavar="PATH=VALUE",
    multiple=True,
    help="Override one field, as attack.iterations=600; can be given several times. "
    "`mibench info NAME` shows the fields.",
)
@data_option
@budget_option
@store_option
@click.option(
    "--out",
    metavar="DIR",
    help="Run folder for record, reconstructions and picture. Without it, a folder below "
    "mibench-runs/ is made, named after the cell.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where to compute: auto, cpu, cuda, cuda:N or mps. auto takes a CUDA GPU where there is "
    "one.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the record as JSON on standard output. Tables then go to standard error.",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def run(
    ctx: click.Context,
    protocol: str,
    target: str | None,
    defense: str,
    attack: str,
    seed: int,
    root: str | None,
    preset: Preset | None,
    data: str | None,
    settings: tuple[str, ...],
    budget: float | None,
    store: str | None,
    out: str | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run one cell: train a target under a defense, attack it, measure what leaked.

    Stages that the store holds are not computed again, so a second attack on the same target
    trains no target, and a command that was stopped continues where it was.
    """
    from mibench.cell.request import check_device, make_request
    from mibench.cli.listing import refuse_unknown
    from mibench.files import output_folder
    from mibench.progress import SILENT
    from mibench.settings import parse_setting

    check_device(device)
    spec = make_request(
        protocol=protocol,
        target=target,
        defense=defense,
        attack=attack,
        seed=seed,
        root=root,
        preset=preset,
        data=data,
        overrides=dict(map(parse_setting, settings)),
        budget=1 if budget is None else budget,
    )
    refuse_unknown(spec)
    kept = None if store is None else output_folder(store, "--store")
    folder = None if out is None else output_folder(out, "--out")

    from mibench.cell.pipeline import run_folder
    from mibench.cell.resolve import resolve
    from mibench.cell.results import IMAGES
    from mibench.cell.run import run as run_cell
    from mibench.cli.show.progress import display
    from mibench.store.store import default_root

    cell = resolve(spec)  # which refuses what is wrong
    shown = contextlib.nullcontext(SILENT) if quiet else display()
    # What a method prints must not end up in the record's JSON.
    with contextlib.redirect_stdout(sys.stderr), shown as progress, _logged_to_stderr():
        record = run_cell(
            **spec.model_dump(),
            store=store,
            out=folder,
            device=device,
            progress=progress,
            command=_text(shlex.join(["mibench", *ctx.meta[_ARGUMENTS]])),
        )
    if folder is None:
        folder = run_folder(cell, record.artifacts.get(IMAGES))
    _show_record(record, folder, kept or default_root(), as_json)


def _text(command: str) -> str:
    """A command line as a record can hold it: bytes that are no text are written as escapes."""
    return command.encode("utf-8", "backslashreplace").decode()


def _show_record(record: Record, folder: Path, store: Path, as_json: bool) -> None:
    from mibench.cli.show.record import show_record
    from mibench.cli.show.tables import console

    stream = sys.stderr if as_json else sys.stdout
    show_record(record, console(stream), folder.absolute(), store.absolute())
    if as_json:
        print_json(record.model_dump(mode="json"))


@contextlib.contextmanager
def _logged_to_stderr() -> Iterator[None]:
    """Show the core's messages (a stage that another process computes, a corrupt artifact)."""
    log = logging.getLogger("mibench")
    level, handler = log.level, _Echo()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Echo(logging.Handler):
    """Writes messages to what standard error is at that moment, which a live display redirects."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


@cli.command("list")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("pattern", required=False)
@json_option
def list_(kind: str, pattern: str | None, as_json: bool) -> None:
    """List what there is of a KIND.

    PATTERN narrows the names with wildcards: mibench list targets 'resnet*'
    """
    from mibench.cli.listing import listing
    from mibench.cli.show.tables import console, show_listing

    entries = listing(kind, pattern)
    if as_json:
        print_json(entries)
    else:
        show_listing(entries, console())
    if not entries:
        click.echo(f"no {kind} match {pattern!r}; `*` stands for any characters", err=True)


@cli.command()
@click.argument("name")
@click.option(
    "--protocol",
    help="Show what an attack's, a defense's or a target's fields are in this protocol, which has "
    "budgets and strengths of its own. Without it, in synthfaces-32.",
)
@json_option
def info(name: str, protocol: str | None, as_json: bool) -> None:
    """Explain NAME: an attack, defense, protocol, metric or target.

    Shows where it comes from, how it differs from its source, and its fields for `--set`: their
    defaults, what they are in a protocol, and their meaning.
    """
    from mibench.cli.listing import check_protocol, refuse_misspelt

    if protocol is not None:
        check_protocol(protocol)
    refuse_misspelt(name)

    from mibench.cli.info import describe
    from mibench.cli.show.tables import console, show_description

    entry = describe(name, protocol)
    if as_json:
        print_json(entry)
    else:
        show_description(entry, console())


cli.add_command(data_commands)
cli.add_command(grid)
cli.add_command(leaderboard_commands)
cli.add_command(store_commands)


@cli.command(short_help="Show what this machine has, and what is missing.")
@store_option
@json_option
@click.pass_context
def doctor(ctx: click.Context, store: str | None, as_json: bool) -> None:
    """Show versions, device, memory, threads and store; what is missing, and how to get it."""
    from mibench.cli.doctor import examine
    from mibench.cli.show.tables import console, show_checks
    from mibench.files import user_path
    from mibench.store.store import default_root

    root = default_root() if store is None else user_path(store, "--store").absolute()
    checks = examine(root)
    broken = any(check.status == "broken" for check in checks)
    if as_json:
        found = [check.model_dump() for check in checks]
        print_json({"status": "broken" if broken else "ok", "checks": found})
    else:
        show_checks(checks, console())
    ctx.exit(1 if broken else 0)
