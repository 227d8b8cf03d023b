"""A hook of mkdocs: pages that lie outside of docs/ or follow from the code, and all links.

A document is written once, with links that work where the repository is shown. Here these come to
lead to the site's pages, or to a copy of a file that has none; of a folder's link the text stays.
"""

from __future__ import annotations

import functools
import html
import posixpath
import re
import urllib.parse
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter
from pymdownx.slugs import slugify
from site_cards import pages  # mkdocs puts this folder on the path while it loads the hook

ROOT = Path(__file__).resolve().parent.parent
GUIDES = {  # documents that have a page, besides those of docs/
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "docs/tutorial.ipynb": "tutorial.md",
    "leaderboards/README.md": "leaderboards.md",
}
SECTIONS = {  # of CONTRIBUTING.md, which have a page each
    "a-defense-in-thirty-minutes": "add-a-defense.md",
    "an-attack": "add-an-attack.md",
    "a-prior": "add-a-prior.md",
    "a-source": "add-a-source.md",
    "an-evaluator": "add-an-evaluator.md",
    "a-judge": "add-a-judge.md",
    "a-protocol": "add-a-protocol.md",
}
REFERENCE = (  # modules whose public names are explained
    "mibench",
    "mibench.training.defense",
    "mibench.training.loop",
    "mibench.inversion.attack",
    "mibench.models.access",
    "mibench.models.classifiers",
    "mibench.priors",
    "mibench.data.source",
    "mibench.data.images",
    "mibench.judges",
    "mibench.judges.evaluators",
    "mibench.protocols",
    "mibench.metrics",
    "mibench.record",
    "mibench.leaderboard",
    "mibench.types",
    "mibench.errors",
    "mibench.streams",
)
# Tables of numbers, in which a search would find all there is.
UNSEARCHED = {"leaderboards.md", "parity.md", "changelog.md"}

_DOCUMENTS = {page: document for document, page in GUIDES.items()}
_DOCUMENTS |= dict.fromkeys(SECTIONS.values(), "CONTRIBUTING.md")
_LINK = re.compile(
    r"(?P<code>^(?P<fence>```+).*?^(?P=fence)$|`[^`\n]*`)"
    r"|(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<to>[^()\s]+)\)",
    re.DOTALL | re.MULTILINE,
)
_FENCE = re.compile(r"^(```\w+) .*$", re.MULTILINE)
_SOURCE = re.compile(r'\bsrc="([^":]+)"')
_slug = slugify(case="lower")


def on_config(config: MkDocsConfig) -> None:
    """Fill the folders that ``nav`` names."""

    def filled(entry: Any) -> Any:
        if isinstance(entry, dict):
            return {title: filled(each) for title, each in entry.items()}
        if isinstance(entry, list):
            return [filled(each) for each in entry]
        if entry.endswith("/"):
            return [uri for uri in _made() if uri.startswith(entry)]
        return entry

    config.nav = filled(config.nav)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for uri, content in _made().items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a document lead to pages of the site."""
    uri = page.file.src_uri
    if uri in UNSEARCHED:
        page.meta["search"] = {"exclude": True}
    document = _DOCUMENTS.get(uri, f"docs/{uri}")
    if not (ROOT / document).exists():
        return markdown  # made of cards or code, with links of its own

    def led(link: re.Match[str]) -> str:
        if link["code"] or "://" in link["to"]:
            return link[0]
        path, _, anchor = link["to"].partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(document), path))
        place = place if path else document
        if (ROOT / place).is_dir():
            said = link["text"].strip("`/") == place
            return link["text"] if said else f"{link['text']} (`{place}` of the repository)"
        if place == "CONTRIBUTING.md" and anchor in SECTIONS:
            target, anchor = SECTIONS[anchor], ""
        else:
            target = GUIDES.get(place) or place.removeprefix("docs/")
        if target == place and (ROOT / place).is_file():
            _copy(place, files, config)
        target = posixpath.relpath(target, posixpath.dirname(uri) or ".")
        return f"{link['image']}[{link['text']}]({target}{anchor and '#'}{anchor})"

    # What the forge shows and Markdown of Python does not: tables in details, words behind a fence.
    markdown = markdown.replace("<details>", '<details markdown="1">')
    return _LINK.sub(led, _FENCE.sub(r"\1", markdown))


def _copy(place: str, files: Files, config: MkDocsConfig) -> None:
    """Put a file of the repository into the site, and the pictures that it shows."""
    if files.get_file_from_path(place) is not None:
        return
    files.append(File.generated(config, place, abs_src_path=str(ROOT / place)))
    if place.endswith(".html"):
        for address in _SOURCE.findall((ROOT / place).read_text(encoding="utf-8")):
            picture = urllib.parse.unquote(html.unescape(address))
            _copy(posixpath.join(posixpath.dirname(place), picture), files, config)


@functools.cache
def _made() -> dict[str, str | bytes]:
    """What docs/ does not hold, by its address in the site."""
    made: dict[str, str | bytes] = {}
    for document, uri in GUIDES.items():
        if document.endswith(".ipynb"):
            folder = {"output_files_dir": uri.removesuffix(".md")}
            text, extra = MarkdownExporter().from_filename(str(ROOT / document), folder)
            made |= {uri: text, **extra["outputs"]}
        else:
            made[uri] = (ROOT / document).read_text(encoding="utf-8")
    made |= _sections(str(made["contributing.md"]))
    made |= dict(pages())
    listed = "".join(f"- [`{name}`]({name}.md)\n" for name in REFERENCE)
    made["reference/index.md"] = f"# Reference\n\nFrom the docstrings.\n\n{listed}"
    for name in REFERENCE:
        made[f"reference/{name}.md"] = f"# {name}\n\n::: {name}\n"
    return made


def _sections(text: str) -> dict[str, str]:
    """The pages of CONTRIBUTING.md: sections that add something, and one of all others.

    Raises:
        ValueError: a section that has a page is not there.
    """
    first, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    pages, others = {}, [first]
    for part in parts:
        uri = SECTIONS.get(_slug(part.partition("\n")[0], "-"))
        if uri:
            pages[uri] = "# " + re.sub(r"^#(##+ )", r"\1", part, flags=re.MULTILINE)
        else:
            others.append(f"## {part}")
    if missing := SECTIONS.values() - pages.keys():
        raise ValueError(f"CONTRIBUTING.md has no section for {', '.join(sorted(missing))}")
    return {"contributing.md": "".join(others), **pages}
