"""``mibench compare``: runs beside each other."""

from __future__ import annotations

import sys

import click

from mibench.cli.options import json_option, print_json


@click.command(short_help="Put runs beside each other, with paired differences and intervals.")
@click.argument("runs", metavar="A B...", nargs=-1, required=True)
@click.option(
    "--html",
    metavar="FILE",
    help="Write the comparison to a page, too, which opens without a network.",
)
@json_option
def compare(runs: tuple[str, ...], html: str | None, as_json: bool) -> None:
    """Put runs beside each other: A, B and so on are run folders or files of records.

    Each run is compared with the first, person by person, with 95 % intervals. Runs must be of one
    protocol, version and rules, on the same identities. Excess over look-up is compared nowhere but
    on one and the same trained target.
    """
    from mibench.cli.show.comparison import show_comparison
    from mibench.cli.show.tables import console
    from mibench.reports.compare import compare as compared

    found = compared(*runs, html=html)
    show_comparison(found, console(sys.stderr if as_json else sys.stdout))
    if html is not None:
        click.echo(f"page: {html}", err=as_json)
    if as_json:
        print_json(found.as_json())
