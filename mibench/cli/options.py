"""What several commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

ACCESSES = ("white-box", "black-box", "label-only")  # as in mibench.types, unimported
ARGUMENTS = "mibench.arguments"  # in click's `Context.meta`: the command line as it was typed

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else there."
)
store_option = click.option(
    "--store",
    metavar="DIR",
    help="Folder of cached stages. Without it, the environment variable MIBENCH_STORE names the "
    "folder, else it is `mibench` in your cache folder.",
)
hub_option = click.option(
    "--from",
    "hub",
    metavar="URL",
    help="Hub that stages are taken from before they are computed: http(s)://…, s3://…, hf://… or "
    "a folder. Without it, the environment variable MIBENCH_HUB may name one.",
)
data_option = click.option(
    "--data",
    metavar="DIR",
    help="Folder of prepared data sets. Without it, the environment variable MIBENCH_DATA names "
    "the folder, else it is `mibench/data` in your cache folder.",
)
settings_option = click.option(
    "--set",
    "settings",
    metavar="PATH=VALUE",
    multiple=True,
    help="Override one field, as attack.iterations=600; can be given several times. "
    "`mibench info NAME` shows the fields.",
)
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")
preset_option = click.option(
    "--preset",
    type=click.Choice(["small", "paper"]),
    help="Size of the protocol `folder`: networks and budgets for two CPU cores, or the papers', "
    "for a GPU. Without it, paper where there is a GPU, else small.",
)


class FiniteRange(click.FloatRange):
    """A number in a range. Without this, NaN lies in every range and infinity in half of them."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number, or click's error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


budget_option = click.option(
    "--budget",
    type=FiniteRange(0, 1, min_open=True),
    help="Share of all epochs and steps, and of the identities, samples and images that are "
    "judged, as 0.05 for trying out; without it, all of them. Boards refuse records of less.",
)


def offered(kind: str) -> Callable[..., list[CompletionItem]]:
    """What a shell offers where names of a kind go (``"attacks"``); of a list, for the last one."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from mibench.cli.known import listing

        before, comma, begun = incomplete.rpartition(",")
        return [
            CompletionItem(f"{before}{comma}{entry['name']}", help=entry["title"])
            for entry in listing(kind)
            if entry["name"].startswith(begun)
        ]

    return complete


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))
