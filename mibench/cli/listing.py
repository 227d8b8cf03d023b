"""``mibench list``."""

from __future__ import annotations

from dataclasses import replace

import click

from mibench.cli.known import KINDS, listing
from mibench.cli.options import json_option, print_json
from mibench.cli.show.tables import console, show_listing, show_variants
from mibench.names import AttackName


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("pattern", required=False)
@json_option
def list_(kind: str, pattern: str | None, as_json: bool) -> None:
    """List what there is of a KIND.

    PATTERN narrows the names with wildcards: mibench list targets 'resnet*'. Without one, attacks
    are listed once, and their variants below them.
    """
    entries = listing(kind, pattern)
    if as_json:
        print_json(entries)
    elif kind == "attacks" and pattern is None:
        names = [AttackName.parse(entry["name"]) for entry in entries]
        own = {e["name"]: e for e, n in zip(entries, names, strict=True) if e["name"] == n.base}
        out = console()
        show_listing([*own.values()], out)
        said: dict[tuple[str, str], list[str]] = {}
        for entry, name in zip(entries, names, strict=True):
            if name.full != name.base:
                what = entry["title"].removeprefix(own[name.base]["title"] + ", ")
                said.setdefault((replace(name, base="X").full, what), []).append(name.base)
        show_variants(said, out)
    else:
        show_listing(entries, console())
    if not entries:
        click.echo(f"no {kind} match {pattern!r}; `*` stands for any characters", err=True)
