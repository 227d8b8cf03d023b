"""Listings and descriptions as tables for a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mibench.cli.show.progress import size

if TYPE_CHECKING:
    from mibench.cli.doctor import Check
    from mibench.store.store import ArtifactInfo

_WIDTH = 160  # of tables in files and pipes, which have none of their own
_HIDDEN = {
    *("kind", "name", "fields", "card", "assets", "protocols", "attacks", "priors", "defenses"),
    "in_protocol",
}
_DAY = 86400.0


def console(stream: TextIO | None = None) -> Console:
    """A console on a stream (default: standard output)."""
    stream = stream or sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _WIDTH)


def show_listing(entries: Sequence[Mapping[str, Any]], out: Console) -> None:
    """Print a listing: bare names where there is nothing else, a table otherwise."""
    if not entries:
        return
    if list(entries[0]) == ["name"]:
        for entry in entries:
            print(entry["name"], file=out.file)
        return
    table = Table()
    for column in entries[0]:
        table.add_column(column, no_wrap=column == "name")
    for entry in entries:
        table.add_row(*(Text(_cell(value)) for value in entry.values()))
    out.print(table)


def show_description(entry: Mapping[str, Any], out: Console) -> None:
    """Print what ``mibench info`` knows of a name."""
    out.print(Text(f"{entry['kind']} {entry['name']}", style="bold"))
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    shown = {**entry.get("card", {}), **{k: v for k, v in entry.items() if k not in _HIDDEN}}
    for key, value in shown.items():
        if key == "deviations":
            value = _points(value) or "none known"
        if key == "notes":
            value = _points(value)
        if value not in (None, {}, []):
            facts.add_row(Text(key.replace("_", " ")), Text(_cell(value)))
    out.print(facts)
    for key in ("protocols", "attacks", "priors", "defenses"):
        for name, settings in entry.get(key, {}).items():
            text = ", ".join(f"{path}={_cell(value)}" for path, value in settings.items())
            place = f"in the protocol {name}" if key == "protocols" else f"{key[:-1]} {name}"
            out.print(Text(f"{place}: {text}"))
    if entry.get("assets"):
        table = Table("pinned network", "file", "sha256", title="Assets", title_justify="left")
        for role, asset in entry["assets"].items():
            table.add_row(Text(role), Text(asset["file"]), Text(asset["sha256"], overflow="fold"))
        out.print(table)
    if entry.get("fields"):
        out.print(_fields(entry))


def _points(sentences: Sequence[str]) -> str:
    return "\n".join(f"• {each}" for each in sentences)


def show_artifacts(artifacts: Sequence[ArtifactInfo], root: str, out: Console) -> None:
    """Print a store's listing with its total."""
    table = Table("stage", "key")
    for column in ("size", "last used", "made by mibench"):
        table.add_column(column, justify="right")
    now = time.time()
    for each in artifacts:
        days = max(0.0, (now - each.used) / _DAY)
        used = "today" if days < 1 else f"{days:.0f} days ago"
        made = each.mibench or "unreadable: see `mibench store verify`"
        table.add_row(*map(Text, (each.stage, each.key[:12], size(each.size), used, made)))
    if artifacts:
        out.print(table)
    total = size(sum(each.size for each in artifacts))
    out.print(Text(f"{len(artifacts)} artifacts, {total}, in {root}"), soft_wrap=True)


def show_checks(checks: Sequence[Check], out: Console) -> None:
    """Print what ``mibench doctor`` found, and what there is to do."""
    styles = {"ok": "green", "absent": "yellow", "broken": "red"}
    table = Table(show_header=False)
    for check in checks:
        status = Text(check.status, style=styles[check.status])
        table.add_row(Text(check.name), status, Text(check.found, overflow="fold"))
    out.print(table)
    for check in checks:
        if check.remedy:
            style = styles[check.status]
            out.print(Text(f"{check.name}: {check.remedy}", style=style), soft_wrap=True)


def _fields(entry: Mapping[str, Any]) -> Table:
    settable = any(each["settable"] for each in entry["fields"])
    title = "Fields, for `--set path=value`" if settable else "Fields (frozen with the protocol)"
    table = Table(title=title, title_justify="left")
    protocol = entry.get("in_protocol")
    for column in ("path", "type", "default", *([f"in {protocol}"] if protocol else []), "meaning"):
        table.add_column(column, overflow="fold", no_wrap=column == "path")
    for each in entry["fields"]:
        fixed = settable and not each["settable"]
        meaning = each["meaning"] + (" (follows from the attack's name)" if fixed else "")
        values = [_cell(each["default"])]
        if protocol:
            same = each["in_protocol"] == each["default"]
            values.append("=" if same else _cell(each["in_protocol"]))
        table.add_row(*map(Text, (each["path"], each["type"], *values, meaning)))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)
