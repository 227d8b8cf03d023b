"""What several commands share."""

from __future__ import annotations

import json
import math
from typing import Any

import click

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else there."
)
store_option = click.option(
    "--store",
    metavar="DIR",
    help="Folder of cached stages. Without it, the environment variable MIBENCH_STORE names the "
    "folder, else it is `mibench` in your cache folder.",
)
data_option = click.option(
    "--data",
    metavar="DIR",
    help="Folder of prepared data sets. Without it, the environment variable MIBENCH_DATA names "
    "the folder, else it is `mibench/data` in your cache folder.",
)


def _number(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):  # it passes every range
        raise click.BadParameter("nan is no number")
    return value


budget_option = click.option(
    "--budget",
    type=click.FloatRange(0, 1, min_open=True),
    callback=_number,
    help="Share of all epochs and steps, and of the identities, samples and images that are "
    "judged, as 0.01 for trying out; without it, all of them. Boards refuse records of less.",
)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))
