"""The command line: its commands, exit codes and signals.

A command's file is imported when the command is called. What loads torch is imported inside its
function, once the request has been found right as far as that can be seen without it.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from mibench import __version__
from mibench.cli.options import ARGUMENTS
from mibench.errors import MibenchError, printable

_LOAD = Path("/proc/loadavg")  # its fourth field: threads that run now / all of them
COMMANDS = {  # where each is, and its line of help
    "run": ("run:run", "Run one cell: train, attack, measure."),
    "audit": (
        "audit:audit",
        "Measure how much a network of your own leaks of the people it knows.",
    ),
    "report": ("report:report", "Write a run's report: one page that opens without a network."),
    "compare": (
        "compare:compare",
        "Put runs beside each other, with paired differences and intervals.",
    ),
    "list": ("listing:list_", "List what there is of a KIND."),
    "info": (
        "info:info",
        "Explain NAME: an attack, defense, prior, source, judge, target, protocol or metric.",
    ),
    "data": ("data:data_commands", "Prepare the papers' data sets, and look after them."),
    "grid": ("grid:grid", "Run many cells; what they share is computed once."),
    "leaderboard": (
        "leaderboard:leaderboard_commands",
        "File records, build the boards, and check claims.",
    ),
    "store": ("store:store_commands", "Look after the folder of cached stages."),
    "zoo": (
        "zoo:zoo_commands",
        "Share trained targets, priors, judges and records through a hub.",
    ),
    "doctor": ("doctor:doctor", "Show what this machine has, and what is missing."),
}


class Lazy(click.Command):
    """A command that is imported when it is called."""

    def __init__(self, name: str, place: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self.place = place

    def load(self) -> click.Command:
        """The command itself."""
        module, _, attribute = self.place.partition(":")
        found: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        return found

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Where click turns to the command, which is the imported one from here on."""
        return self.load().make_context(*args, **extra)


class Main(click.Group):
    """The top command: keeps the command line as it was typed, and turns errors into exit codes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember the arguments before they are taken apart."""
        ctx.meta[ARGUMENTS] = [*args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command.

        Exit codes: 0 done, 1 it failed, 2 the request was wrong, 128 + N stopped by signal N (130:
        Ctrl-C).
        """
        try:
            return super().invoke(ctx)
        except MibenchError as error:
            click.echo(f"error: {printable(str(error), keep=chr(10))}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as error:
            click.echo("stopped; the same command continues", err=True)
            ctx.exit(128 + (error.number if isinstance(error, Stopped) else signal.SIGINT))


@click.group(
    cls=Main,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    commands=[Lazy(name, *where) for name, where in COMMANDS.items()],
)
@click.version_option(__version__, prog_name="mibench", message="%(prog)s %(version)s")
def cli() -> None:
    """Measure how much model inversion attacks read out of defended classifiers.

    A first run that needs no download: mibench run
    """


class Stopped(KeyboardInterrupt):
    """Another signal that ends mibench as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, _frame: object) -> None:
    raise Stopped(number)


def main() -> None:
    """Entry point of the command `mibench`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± is no reason to fail
    for name in ("SIGTERM", "SIGHUP"):  # of a scheduler, of a terminal that closes
        number = getattr(signal, name, None)  # Windows lacks the second
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # as under nohup
            signal.signal(number, _stop)
    _share_cores()
    cli(prog_name="mibench")


def _share_cores() -> None:
    """Let threads wait without spinning for long where others use the machine, too.

    Torch's threads meet after each layer, and OpenMP's spin until the last is there. Where another
    process has its core, all of them burn theirs meanwhile: on two busy cores a step takes five
    times as long. On an idle machine spinning is a tenth faster. It is read when torch is imported.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        return
    try:
        running, _, _ = _LOAD.read_text().split()[3].partition("/")
    except OSError:  # no Linux
        return
    if 2 * (int(running) - 1) >= (os.cpu_count() or 1):  # without this process
        os.environ["GOMP_SPINCOUNT"] = "10000"  # some 30 µs
