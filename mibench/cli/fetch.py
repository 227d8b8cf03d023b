"""``mibench data fetch``: weights that metrics need and that no run downloads by itself."""

from __future__ import annotations

import click


@click.command()
@click.argument("name", type=click.Choice(["inception"]))
@click.option("--quiet", is_flag=True, help="Show no progress.")
def fetch(name: str, quiet: bool) -> None:
    """Download the weights NAME, once, and check them.

    `inception`: Inception-v3 as published FIDs use it (91 MiB), without which FID is missing.
    """
    import contextlib

    from mibench.cli.show.progress import display
    from mibench.metrics.inception import fetch_inception
    from mibench.progress import SILENT

    with contextlib.nullcontext(SILENT) if quiet else display() as progress:
        place = fetch_inception(progress)
    click.echo(f"{name}: checked, at {place}")
