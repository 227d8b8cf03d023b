"""``mibench list``."""

from __future__ import annotations

import click

from mibench.cli.known import KINDS, listing
from mibench.cli.options import json_option, print_json
from mibench.cli.show.tables import console, show_listing


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("pattern", required=False)
@json_option
def list_(kind: str, pattern: str | None, as_json: bool) -> None:
    """List what there is of a KIND.

    PATTERN narrows the names with wildcards: mibench list targets 'resnet*'
    """
    entries = listing(kind, pattern)
    if as_json:
        print_json(entries)
    else:
        show_listing(entries, console())
    if not entries:
        click.echo(f"no {kind} match {pattern!r}; `*` stands for any characters", err=True)
