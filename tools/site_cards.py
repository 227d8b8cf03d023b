"""Pages of the site that follow from cards: one for each method, source, judge and protocol."""

from __future__ import annotations

import html
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from mibench.cli.describe import describe
from mibench.cli.known import listing, registry
from mibench.inversion.attack import ATTACKS
from mibench.names import VIEWS, AttackName
from mibench.training.defense import DEFENSES

FOLDERS = {  # of pages: what they are about, their heading, and where to read on
    "attacks": (
        ("attack",),
        "Attacks",
        "[What they do, and their variants](../methods.md#attacks).",
    ),
    "defenses": (("defense",), "Defenses", "[What they change](../methods.md#defenses)."),
    "priors": (
        ("prior",),
        "Priors",
        "[What attackers know of images before they attack](../methods.md#priors).",
    ),
    "judges": (
        ("judge", "evaluator"),
        "Judges and evaluators",
        "Networks that no attack sees, and that say what leaked: "
        "[judges](../methods.md#judges-and-decoys) and [evaluators](../methods.md#evaluators).",
    ),
    "sources": (
        ("source",),
        "Sources of images",
        "Data sets, and the layouts of anyone's own pictures: [how to prepare them](../data.md).",
    ),
    "protocols": (
        ("protocol",),
        "Protocols",
        "What numbers can be compared within: [which is for what](../methods.md#protocols).",
    ),
}


def pages() -> Iterator[tuple[str, str]]:
    """Address and Markdown of each page; a folder's first one lists the others."""
    here = jinja2.FileSystemLoader(Path(__file__).parent)
    shapes = jinja2.Environment(
        loader=here, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    shapes.filters |= {"cell": _cell, "plain": _plain, "text": _text}
    index, page = map(shapes.get_template, ("site_index.md.jinja", "site_page.md.jinja"))
    for folder, (kinds, heading, about) in FOLDERS.items():
        listed = [(kind, entry) for kind in kinds for entry in _entries(kind)]
        entries = [entry for _, entry in listed]
        columns = list(dict.fromkeys(column for entry in entries for column in entry))
        found = {"heading": heading, "about": about, "columns": columns, "entries": entries}
        yield f"{folder}/index.md", index.render(found)
        for kind, entry in listed:
            yield f"{folder}/{entry['name']}.md", page.render(_said(kind, entry["name"]))


def _entries(kind: str) -> list[dict[str, Any]]:
    """What ``mibench list`` shows of a kind, without attacks' variants and installed packages."""
    entries = listing(f"{kind}s")
    if kind == "attack":
        entries = [each for each in entries if AttackName.parse(each["name"]).base == each["name"]]
    if kind == "protocol":
        return entries
    return [entry for entry in entries if registry(kind).file(entry["name"])]


def _said(kind: str, name: str) -> dict[str, Any]:
    """All that a page's template asks for."""
    entry = describe(name, kind=kind)
    card = entry.get("card") or {}
    settings = {
        f"[`{protocol}`](../protocols/{protocol}.md)": values
        for protocol, values in entry.get("protocols", {}).items()
    }
    if kind == "protocol":
        settings = {
            f"[`{method}`](../{methods}/{method}.md)": values
            for methods in ("attacks", "priors", "defenses")
            for method, values in entry[methods].items()
        }
    return {
        "kind": kind,
        "name": name,
        "title": entry.get("title", ""),
        "about": entry.get("about") or _about(kind, name),
        "card": card,
        "facts": dict(_facts(entry, card)),
        "lists": {
            "How to get it": [card["how_to_get"]] if card.get("how_to_get") else [],
            "Departures from the source": card.get("deviations", []),
            "Notes": entry.get("notes", []),
        },
        "fields": entry.get("fields", []),
        "settable": any(field["settable"] for field in entry.get("fields", [])),
        "settings": settings,
    }


def _about(kind: str, name: str) -> str:
    """The first paragraph of a method's docstring."""
    methods: Mapping[str, Any] = {"attack": ATTACKS, "defense": DEFENSES}
    text = inspect.getdoc(methods[kind].get(name)) if kind in methods else None
    return (text or "").partition("\n\n")[0]


def _facts(entry: Mapping[str, Any], card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a page's first table says, in its words; a cell is Markdown."""
    if card.get("venue"):
        yield "Authors", _text(card["authors"])
        yield "Published", _text(f"{card['venue']} {card['year']}")
        for words, key in (("Paper", "url"), ("Reference code", "reference_code")):
            if card.get(key):
                yield words, f"<{card[key]}>"
    match entry["kind"]:
        case "attack":
            yield "Access", entry["access"]
            yield "Prior", f"[`{entry['prior']}`](../priors/{entry['prior']}.md)"
            yield "Variants", _variants(entry["variants"])
        case "defense":
            yield "Changes", card["kind"] or "nothing"
            yield "Main knob", f"`{entry['strength']}`" if entry["strength"] else "none"
            if entry["strengths"]:
                values = ", ".join(map(_plain, entry["strengths"]))
                yield "Strengths of curves", f"{values} (0 is the control)"
            yield (
                "Guarantee",
                f"ε, δ for one {card['privacy_unit']}" if card["privacy_unit"] else "none",
            )
            if adaptive := card["adaptive_attack"]:
                base = AttackName.parse(adaptive).base
                adaptive = f"[`{adaptive}`](../attacks/{base}.md)"
            note = _text(card["adaptive_note"])
            yield "Adaptive attack", f"{adaptive or 'none named'}. {note}".strip()
            if entry["training"]:
                settings = (f"`{p}={_plain(value)}`" for p, value in entry["training"].items())
                yield "Training that its source prescribes", " ".join(settings)
        case "prior":
            yield "Sees of the target", entry["needs"] or "nothing"
        case "source":
            for words, key in (("Pictures", "images"), ("Identities", "identities")):
                yield words, "—" if card[key] is None else f"{card[key]:,}"
            yield "Shows real people", "yes" if card["of_people"] else "no"
            yield "Licence", _text(card["licence"])
            yield "Resolution of the papers' setting", f"{card['resolution']} pixels"
            yield "Preprocessing", _text(card["preprocessing"])
            if card["home"]:
                yield "Home page", f"<{card['home']}>"
        case "protocol":
            yield "Version", str(entry["version"])
            yield "Digest", f"`{entry['digest']}`"
            for role, asset in entry["assets"].items():
                yield f"Pinned network: {role}", f"`{asset['file']}`"


def _variants(names: Sequence[str]) -> str:
    """An attack's names but its own: those that go with each other stand once."""
    views = {f"+{each}" for each in VIEWS if each}
    alone = [f"`{name}`" for name in names[1:] if not any(map(name.endswith, {*views, "+untrap"}))]
    if len(alone) == len(names) - 1:
        return ", ".join(alone) or "none"
    return f"{', '.join(alone)}; each of them, and `{names[0]}`, with `+taa` or `+paa`, `+untrap`"


def _plain(value: Any) -> str:
    """A value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cell(value: Any) -> str:
    """A value in a table."""
    if value is None:
        return "—"
    return _text(value) if isinstance(value, str) else f"`{_plain(value)}`".replace("|", "\\|")


def _text(sentence: str) -> str:
    """A card's plain text as Markdown: only its code in backticks and its addresses are markup."""
    parts = re.split(r"(`[^`]*`|https?://[^\s,;)]*[^\s,;.)])", " ".join(sentence.split()))
    for place, part in enumerate(parts):
        if place % 2 == 0:
            parts[place] = re.sub(r"([\\*_{}\[\]#])", r"\\\1", html.escape(part, quote=False))
        elif not part.startswith("`"):
            parts[place] = f"<{part}>"
    return "".join(parts).replace("|", r"\|")
