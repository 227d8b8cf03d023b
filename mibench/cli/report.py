"""``mibench report``: runs as pages."""

from __future__ import annotations

import click


@click.command(short_help="Write a run's report: one page that opens without a network.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--out",
    metavar="PATH",
    help="File for the page, or a folder for the pages of several runs; without it, report.html in "
    "each run folder. Outside its run folder, a page of real people has no pictures and no names.",
)
def report(runs: tuple[str, ...], out: str | None) -> None:
    """Write the report of each RUN, which is a run folder or the file of a record.

    `mibench run` writes one by itself. The page is one HTML file: what leaked, the rank and the
    pictures of every person, curves, all numbers, cost, settings, provenance, and the command that
    makes the run again. It is made of what lies in the run folder; nothing is computed.
    """
    from mibench.reports.run import report as write

    for place in write(*runs, out=out):
        click.echo(place)
