"""``mibench info``."""

from __future__ import annotations

import click

from mibench.cli.known import refuse_misspelt, refuse_unknown
from mibench.cli.options import json_option, print_json
from mibench.cli.show.tables import console, show_description


@click.command()
@click.argument("name")
@click.option(
    "--protocol",
    help="Show what an attack's, a defense's or a target's fields are in this protocol, which has "
    "budgets and strengths of its own. Without it, in synthfaces-32.",
)
@json_option
def info(name: str, protocol: str | None, as_json: bool) -> None:
    """Explain NAME: an attack, defense, prior, source, judge, target, protocol or metric.

    Shows where it comes from, how it differs from its source, and its fields for `--set`: their
    defaults, what they are in a protocol, and their meaning.
    """
    if protocol is not None:
        refuse_unknown(protocol, (), ())
    refuse_misspelt(name)
    from mibench.cli.describe import describe  # all that there is, with torch and timm

    entry = describe(name, protocol)
    if as_json:
        print_json(entry)
    else:
        show_description(entry, console())
