"""``mibench data fetch``: weights that metrics need and that no run downloads by itself."""

from __future__ import annotations

import click

from mibench.cli.options import quiet_option


@click.command()
@click.argument("name", type=click.Choice(["inception"]))
@quiet_option
def fetch(name: str, quiet: bool) -> None:
    """Download the weights NAME, once, and check them.

    `inception`: Inception-v3 as published FIDs use it (91 MiB), without which FID is missing.
    """
    from mibench.cli.show.progress import display
    from mibench.metrics.inception import fetch_inception

    with display(quiet=quiet) as progress:
        place = fetch_inception(progress)
    click.echo(f"{name}: checked, at {place}")
