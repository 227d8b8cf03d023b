"""Listings and descriptions as tables for a terminal."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from mibench.progress import ABSENT, size

if TYPE_CHECKING:
    from mibench.store.hub import Entry, Shipped
    from mibench.store.store import ArtifactInfo

_WIDTH = 160  # of tables in files and pipes, which have none of their own
_WIDE = 120  # of a terminal that has room for a table with titles
_HIDDEN = {  # of what `info` knows: said otherwise than as a row
    *("kind", "name", "fields", "card", "assets", "protocols", "attacks", "priors", "defenses"),
    *("in_protocol", "judges", "acceptance"),
}
whole = functools.partial(Column, no_wrap=True)
folded = functools.partial(Column, overflow="fold")
right = functools.partial(Column, justify="right")


def console(stream: TextIO | None = None) -> Console:
    """A console on a stream (default: standard output)."""
    stream = stream or sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _WIDTH)


def table(rows: Iterable[Sequence[str | Text]], *columns: str | Column, **options: Any) -> Table:
    """A table whose cells are text and no markup; a title stands at its left."""
    made = Table(*columns, title_justify="left", caption_justify="left", **options)
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def pairs(rows: Iterable[tuple[str | Text, str]], **options: Any) -> Table:
    """Names and what there is to say of each."""
    return table(rows, whole(), folded(), show_header=False, **options)


def show_listing(entries: Sequence[Mapping[str, Any]], out: Console) -> None:
    """Print a listing: bare names where there is nothing else, a table otherwise.

    Where a table would leave little room for titles, these stand above all else that is said.
    """
    if not entries:
        return
    if list(entries[0]) == ["name"]:
        for entry in entries:
            print(entry["name"], file=out.file)
        return
    if out.width < _WIDE and "title" in entries[0]:
        rows = []
        for entry in entries:
            facts = {k: _cell(v) for k, v in entry.items() if k not in ("name", "title")}
            said = ", ".join(f"{k} {v}" for k, v in facts.items() if v != ABSENT)
            text = Text(entry["title"]).append(f"\n{said}" if said else "", style="dim")
            rows.append((entry["name"], text))
        out.print(table(rows, whole(), folded(), show_header=False, box=None, pad_edge=False))
        return
    columns = [whole(name) if name == "name" else name for name in entries[0]]
    out.print(table(([*map(_cell, each.values())] for each in entries), *columns))


def show_variants(said: Mapping[tuple[str, str], Sequence[str]], out: Console) -> None:
    """Print what variants of attacks are called and do, by the attacks X that have them."""
    groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for variant, attacks in said.items():
        groups.setdefault(tuple(attacks), []).append(variant)
    for attacks, rows in groups.items():
        out.print(Text(f"Variants of X: {', '.join(attacks)}", style="italic"))
        out.print(pairs(rows, box=None, pad_edge=False))


def show_description(entry: Mapping[str, Any], out: Console) -> None:
    """Print what ``mibench info`` knows of a name."""
    out.print(Text(f"{entry['kind']} {entry['name']}", style="bold"))
    shown = {**entry.get("card", {}), **{k: v for k, v in entry.items() if k not in _HIDDEN}}
    for key, empty in (("deviations", "none known"), ("notes", "")):
        if key in shown:
            shown[key] = "\n".join(f"• {each}" for each in shown[key]) or empty
    if "adaptive_attack" in shown:
        shown["adaptive_attack"] = shown["adaptive_attack"] or "none named"
    facts = [
        (Text(k.replace("_", " "), style="dim"), _cell(v))
        for k, v in shown.items()
        if v not in (None, {}, [], "")
    ]
    out.print(pairs(facts, box=None, pad_edge=False))
    for key in ("protocols", "attacks", "priors", "defenses"):
        for name, settings in entry.get(key, {}).items():
            text = ", ".join(f"{path}={_cell(value)}" for path, value in settings.items())
            place = f"in the protocol {name}" if key == "protocols" else f"{key[:-1]} {name}"
            out.print(Text(f"{place}: {text}"))
    if assets := entry.get("assets"):
        rows = [(role, asset["file"], asset["sha256"]) for role, asset in assets.items()]
        out.print(table(rows, "pinned network", "file", folded("sha256"), title="Assets"))
    if judges := entry.get("judges"):
        files = [
            (j["kind"], *((j[k] or {}).get("file", "") for k in ("network", "decoys")))
            for j in judges
        ]
        out.print(table(files, "judge", "network", "decoys", title="Judges"))
    if found := entry.get("acceptance"):
        title = "What the judges' acceptance tests found"
        out.print(pairs(((name, _said(value)) for name, value in found.items()), title=title))
    if fields := entry.get("fields"):
        out.print(_fields(fields, entry.get("in_protocol")))


def _fields(fields: Sequence[Mapping[str, Any]], protocol: str | None) -> Table:
    settable = any(each["settable"] for each in fields)
    rows = []
    for each in fields:
        fixed = settable and not each["settable"]
        values = [_cell(each["default"])]
        if protocol:
            same = each["in_protocol"] == each["default"]
            values.append("=" if same else _cell(each["in_protocol"]))
        meaning = each["meaning"] + (" (follows from the attack's name)" if fixed else "")
        rows.append((each["path"], each["type"], *values, meaning))
    columns = ("type", "default", *([f"in {protocol}"] if protocol else []), "meaning")
    title = "Fields, for `--set path=value`" if settable else "Fields (frozen with the protocol)"
    return table(rows, whole("path"), *map(folded, columns), title=title)


def show_artifacts(artifacts: Sequence[ArtifactInfo], root: str, out: Console) -> None:
    """Print a store's listing with its total."""
    rows, now = [], time.time()
    for each in artifacts:
        days = max(0.0, (now - each.used) / 86_400)
        used = "today" if days < 1 else f"{days:.0f} days ago"
        made = each.mibench or "unreadable: see `mibench store verify`"
        rows.append((each.stage, each.key[:12], size(each.size), used, made))
    if artifacts:
        columns = map(right, ("size", "last used", "made by mibench"))
        out.print(table(rows, "stage", "key", *columns))
    total = size(sum(each.size for each in artifacts))
    out.print(Text(f"{len(artifacts)} artifacts, {total}, in {root}"), soft_wrap=True)


def show_hub(entries: Sequence[Entry], held: Sequence[bool], url: str, out: Console) -> None:
    """Print what is on a hub, and whether the store holds it."""
    rows = []
    for each, here in zip(entries, held, strict=True):
        made = _made(each.mibench, each.commit)
        names = "\n".join(each.names)
        rows.append((each.kind, names, each.key[:12], size(each.size), made, _yes(here)))
    if rows:
        columns = ("stage", folded("name"), "key", right("size"), "made by mibench", "in the store")
        out.print(table(rows, *columns))
    total = size(sum(each.size for each in entries))
    out.print(Text(f"{len(entries)} artifacts, {total}, on {url}"), soft_wrap=True)


def show_boards_targets(targets: Sequence[Shipped], held: Sequence[bool], out: Console) -> None:
    """Print the targets of the boards, and whether the store holds them."""
    rows = []
    for each, here in zip(targets, held, strict=True):
        made = _made(each.mibench, each.commit)
        rows.append((each.name, each.key[:12], made, _yes(bool(each.manifest)), _yes(here)))
    if rows:
        out.print(table(rows, folded("name"), "key", "made by mibench", "pinned", "in the store"))
    text = f"{len(rows)} targets of the boards; no hub is named (URL or MIBENCH_HUB)"
    out.print(Text(text), soft_wrap=True)


def _made(version: str | None, commit: str | None) -> str:
    return f"{version or ''} {(commit or '')[:10]}".strip() or ABSENT


def _yes(value: bool) -> str:
    return "yes" if value else ""


def _said(value: Any) -> str:
    """Nested findings in words: ``both: 0.01: 1.0, 0.001: 0.99; each judge: …``."""
    if not isinstance(value, Mapping):
        return _cell(value)
    deep = any(isinstance(each, Mapping | list) for each in value.values())
    return ("; " if deep else ", ").join(f"{name}: {_said(each)}" for name, each in value.items())


def _cell(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)
