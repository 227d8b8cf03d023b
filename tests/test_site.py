"""The documents as a site: built strictly, whole, and without asking another host for anything."""

from __future__ import annotations

import functools
import html.parser
import http.server
import importlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from pydantic import BaseModel

from mibench.inversion.attack import ATTACKS
from mibench.priors import PRIORS
from mibench.protocols import PROTOCOLS
from mibench.training.defense import DEFENSES
from tests.kit.browser import chromium, console, prefer, requests, resize

ROOT = Path(__file__).resolve().parent.parent
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


def build(place: Path) -> subprocess.CompletedProcess[str]:
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python", "nbconvert"):
        pytest.importorskip(package, reason="pip install 'mibench[docs]'")
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", place],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; workers of one run of the tests share it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    place, built = shared / "the-site", shared / "the-site.built"
    with FileLock(f"{place}.lock"):
        if not built.exists():
            done = build(place)
            assert done.returncode == 0, done.stdout + done.stderr
            built.touch()
    return place


class Loads(html.parser.HTMLParser):
    """What a page loads by itself, and the ids and links in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if (address := said.get(LOADED.get(tag, ""))) is not None:
            self.loaded.append(address)
        if tag == "a" and said.get("href"):
            self.links.append(str(said["href"]))


def pages(site: Path) -> dict[str, str]:
    return {
        str(path.relative_to(site).parent): path.read_text(encoding="utf-8")
        for path in sorted(site.rglob("index.html"))
        if path.parent.name != "leaderboards" or path.parent.parent != site
    }


def words(page: str) -> str:
    """The text of a page's article."""
    article = page.partition("<article")[2].partition("</article>")[0]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", article)).split())


def test_every_method_and_protocol_has_a_page_made_of_its_card(site: Path) -> None:
    held = pages(site)
    for kind, registry in (("attacks", ATTACKS), ("defenses", DEFENSES), ("priors", PRIORS)):
        own = [name for name in registry.names() if registry.file(name)]
        assert {f"{kind}/{name}" for name in own} <= held.keys()
    assert {f"protocols/{name}" for name in [*PROTOCOLS, "folder"]} <= held.keys()
    assert {"sources/folder", "sources/lfw", "judges/embedding", "judges/classifier"} <= held.keys()
    for kind, registry in (("attacks", ATTACKS), ("defenses", DEFENSES)):
        for name in registry.names():
            card, said = registry.get(name).card, words(held[f"{kind}/{name}"])
            told = [card.title, card.authors, f"{card.venue} {card.year}", card.url]
            told += card.deviations
            fields = registry.get(name).Config.model_fields.values()
            told += [e.description for e in fields if not isinstance(e.default, BaseModel)]
            for each in filter(None, told):
                plain = " ".join(each.replace("`", " ").split())
                assert squeezed(plain) in squeezed(said), (name, each)
    bido = words(held["defenses/bido"])
    assert "Adaptive attack improved-gmi+taa" in bido
    assert "Strengths of curves 0, 0.5, 1, 2, 5" in bido
    assert "Guarantee ε, δ for one example" in words(held["defenses/dp-sgd"])
    assert "improved-gmi ; each of them" in words(held["attacks/gmi"])
    assert "lookup+repeat" in words(held["attacks/lookup"])


def guide_text() -> str:
    return (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def squeezed(text: str) -> str:
    """Without spaces, which stand around what was markup."""
    return re.sub(r"\s", "", text)


def test_the_guide_is_there_page_by_page_and_whole(site: Path) -> None:
    held = pages(site)
    guide = [uri for uri in held if uri.startswith("add-") or uri == "contributing"]
    assert len(guide) == 8
    told = squeezed(" ".join(words(held[uri]) for uri in guide))
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", guide_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) > 20
    for block in blocks:
        assert squeezed(block) in told


def test_no_markup_is_left_over(site: Path) -> None:
    """What Markdown of Python reads otherwise than the forge would stand there as it is written."""
    for place, text in pages(site).items():
        said = words(re.sub(r"<(pre|code)\b.*?</\1>", "", text, flags=re.DOTALL))
        for left in ("```", "](", "**", "|--", ":::", ":func:", ":class:", ":meth:", "``"):
            assert left not in said, f"{place}: {left}"


def test_no_page_loads_anything_of_another_host(site: Path) -> None:
    found = 0
    for path in site.rglob("*.html"):
        for address in Loads(path.read_text(encoding="utf-8")).loaded:
            assert not re.match(r"(\w+:)?//", address), f"{path}: {address}"
            found += 1
    assert found > 500
    styles = [*site.rglob("*.css")]
    assert styles
    for path in styles:
        addresses = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", path.read_text())
        assert not [each for each in addresses if re.match(r"(https?:)?//", each)], path


def test_links_lead_to_pages_and_files_of_the_site(site: Path) -> None:
    """mkdocs checks links of documents; these are those of cards, code and copies as well."""
    for place, text in pages(site).items():
        for link in Loads(text).links:
            path = link.partition("#")[0]
            if path and not re.match(r"\w+:", path):
                target = (site / place / path).resolve()
                assert (target / "index.html").exists() or target.is_file(), f"{place}: {link}"


@pytest.fixture(scope="module")
def hook() -> Any:
    """The module that turns documents into pages."""
    pytest.importorskip("mkdocs", reason="pip install 'mibench[docs]'")
    pytest.importorskip("nbconvert")
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module("site_pages")
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.mark.parametrize(
    ("uri", "written", "led"),
    [
        ("methods.md", "[a](parity.md)", "[a](parity.md)"),
        ("methods.md", "[a](data.md#image-folders)", "[a](data.md#image-folders)"),
        ("methods.md", "[a](../CONTRIBUTING.md#a-judge)", "[a](add-a-judge.md)"),
        ("methods.md", "[a](../CONTRIBUTING.md#rules)", "[a](contributing.md#rules)"),
        (
            "add-a-judge.md",
            "[a](docs/data.md) [b](#rules)",
            "[a](data.md) [b](contributing.md#rules)",
        ),
        ("contributing.md", "[a](#an-attack)", "[a](add-an-attack.md)"),
        ("index.md", "[a](docs/results.md#digits)", "[a](results.md#digits)"),
        ("results.md", "[a](../leaderboards/README.md)", "[a](leaderboards.md)"),
        (
            "results.md",
            "[`leaderboards/records`](../leaderboards/records)",
            "`leaderboards/records`",
        ),
        (
            "leaderboards.md",
            "[tables/](tables)",
            "tables/ (`leaderboards/tables` of the repository)",
        ),
        ("leaderboards.md", "[p](index.html)", "[p](leaderboards/index.html)"),
        ("results.md", "[a](https://b.c/d.md)", "[a](https://b.c/d.md)"),
        ("results.md", "[a](nowhere.md)", "[a](nowhere.md)"),
        ("add-a-judge.md", "```\nx[0](rules.md)\n```\n`y[1](docs/data.md)`", None),
        ("attacks/gmi.md", "[a](../methods.md#attacks)", None),
    ],
)
def test_links_of_the_repository_become_those_of_the_site(
    hook: Any, uri: str, written: str, led: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What leads nowhere stays as it is, for mkdocs to refuse."""
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import File, Files
    from mkdocs.structure.pages import Page

    config = MkDocsConfig()
    config.load_dict({"site_name": "mibench", "docs_dir": str(ROOT / "docs")})
    config.validate()
    monkeypatch.setattr(config.plugins, "_current_plugin", "test", raising=False)  # as in a build
    files = Files([])
    page = Page(None, File.generated(config, uri, content=""), config)
    assert hook.on_page_markdown(written, page, config, files) == (led or written)
    copied = {file.src_uri for file in files}
    if "index.html" in written:
        assert "leaderboards/index.html" in copied
        assert any(each.startswith("leaderboards/galleries/") for each in copied)
    else:
        assert not copied


def test_every_document_is_in_the_navigation(site: Path) -> None:
    start = Loads((site / "index.html").read_text(encoding="utf-8")).links
    held = {path.removesuffix("/").removeprefix("./") for path in start}
    tabs = {path.stem for path in (ROOT / "docs").glob("*.md")}
    reached = set(held)
    for tab in ("results", "methods", "contributing"):
        links = Loads((site / tab / "index.html").read_text(encoding="utf-8")).links
        reached |= {Path(os.path.normpath(f"{tab}/{each}")).name for each in links}
    assert tabs <= reached


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    serve = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


# What sticks out of the page without a box of its own to scroll in.
STICKS_OUT = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll("article *")].filter(each => {
  const box = each.getBoundingClientRect();
  if (box.width === 0 || box.right <= width + 1) return false;
  for (let above = each.parentElement; above; above = above.parentElement)
    if (getComputedStyle(above).overflowX !== "visible"
        && above.getBoundingClientRect().right <= width + 1) return false;
  return true;
}).map(each => each.outerHTML.slice(0, 100));
"""
LOOKED_AT = ("", "attacks/gmi/", "boards/", "leaderboards/", "parity/", "tutorial/")


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (390, "light")])
def test_pages_fit_their_window_by_day_and_by_night(address: str, width: int, scheme: str) -> None:
    with chromium(width) as driver:
        resize(driver, width, 900, mobile=width < 500)
        prefer(driver, scheme)
        for place in (*LOOKED_AT, "reference/mibench.data.source/"):
            driver.get(address + place)
            assert driver.execute_script(STICKS_OUT) == [], place
            sizes = "return [document.documentElement.scrollWidth, window.innerWidth]"
            page, window = driver.execute_script(sizes)
            assert page <= window, place
            shade = "return getComputedStyle(document.body).backgroundColor"
            red = int(re.findall(r"[0-9]+", driver.execute_script(shade))[0])
            assert (red < 64) == (scheme == "dark")
        assert console(driver) == []
        asked = [each for each in requests(driver) if not each.startswith("data:")]
        assert len(asked) > len(LOOKED_AT)
        assert [each for each in asked if not each.startswith(address)] == []


def test_the_search_finds_a_method(address: str) -> None:
    with chromium() as driver:
        driver.get(address)
        driver.find_element("css selector", "input.md-search__input").send_keys("trapdoor")
        found = "a.md-search-result__link"
        for _ in range(100):
            links = [
                each.get_attribute("href") for each in driver.find_elements("css selector", found)
            ]
            if links:
                break
            time.sleep(0.05)
        assert any("trap-mid" in each or "methods" in each for each in links)
        assert console(driver) == []
