"""Reports and comparisons in a real browser, from a file: what they show, sort, filter and open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mibench
from mibench.reports.run import report
from tests.kit import browser
from tests.kit.judged_records import ATTACK, LOOKUP, judged, run_folder
from tests.reports.test_report import EVIL, hostile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with its report, and a comparison beside it."""
    place = tmp_path_factory.mktemp("runs")
    names = ["Ada", "Berta", "Çelik", "Dora", "王小明"]
    own = run_folder(place / "own", judged(ATTACK, LOOKUP, closer="10001"), names)
    other = run_folder(place / "other", judged(LOOKUP, LOOKUP, attack="kedmi"))
    report(own)
    mibench.compare(other, own, html=place / "compare.html")
    return own


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser.chromium() as started:
        yield started


def opened(driver: Any, page: Path, width: int = 1440, scheme: str = "light") -> None:
    browser.resize(driver, width, 900, mobile=width < 500)
    browser.prefer(driver, scheme)
    driver.get("about:blank")
    browser.console(driver), browser.requests(driver)
    driver.get(page.as_uri())


@pytest.fixture
def shown(driver: Any, folder: Path) -> Iterator[Any]:
    """The report as just opened; in the end it must have asked for nothing and logged nothing."""
    opened(driver, folder / "report.html")
    yield driver
    quiet(driver)


def quiet(driver: Any) -> None:
    assert not browser.console(driver)
    assert {each.partition(":")[0] for each in browser.requests(driver)} <= {"file", "data"}
    assert driver.execute_script("return window.hacked") is None


def find(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)


def cards(driver: Any) -> list[str]:
    """Numbers of the people whose pictures are shown, in their order."""
    return driver.execute_script(
        "return [...document.querySelectorAll('.people li')].filter((li) => !li.hidden)"
        ".map((li) => li.dataset.number)"
    )


def rows(driver: Any, column: str = "no.") -> list[str]:
    return driver.execute_script(
        """const table = document.querySelector("table.rows");
        const at = [...table.tHead.rows[0].cells].findIndex(
          (cell) => cell.innerText.trim().startsWith(arguments[0]));
        const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
        return rows.map((row) => row.cells[at].innerText.trim());""",
        column,
    )


def choose(driver: Any, name: str, value: str) -> None:
    find(driver, f"select[name={name}] option[value={value}]")[0].click()


def press(driver: Any, key: str) -> None:
    from selenium.webdriver import ActionChains, Keys

    ActionChains(driver).send_keys(getattr(Keys, key)).perform()


def test_what_leaked_is_the_first_that_is_read(shown: Any) -> None:
    headline = find(shown, ".verdict .headline")[0]
    assert headline.text == "More leaked than looking through public pictures shows."
    assert headline.rect["y"] < 200
    assert find(shown, ".tiles")[0].rect["y"] < 600
    own = find(shown, ".scale .own .fill")[0].rect["width"]
    every = [each.rect["width"] for each in find(shown, ".scale .fill")]
    assert every == sorted(every)
    assert every[0] < own < every[-1]


def test_pictures_are_drawn(shown: Any) -> None:
    sizes = shown.execute_script(
        "return [...document.querySelectorAll('.people img')].map((i) => i.naturalWidth)"
    )
    assert sizes == [8] * 20


def test_people_are_ordered_filtered_and_searched(shown: Any) -> None:
    assert cards(shown) == ["1", "4", "5", "2", "3"]  # best guesses 5, 7, 20, 80, 900
    assert rows(shown) == ["1", "2", "3", "4", "5"]
    choose(shown, "order", "number")
    assert cards(shown) == ["1", "2", "3", "4", "5"]
    choose(shown, "show", "closer")
    assert cards(shown) == rows(shown) == ["1", "5"]
    assert find(shown, ".count")[0].text == "2 of 5"
    choose(shown, "show", "near")  # within 1 in 1,000
    assert cards(shown) == ["1", "2", "4", "5"]
    choose(shown, "show", "less")
    assert rows(shown) == ["3"]
    choose(shown, "show", "all")
    search = find(shown, "input[type=search]")[0]
    search.send_keys("ÇELIK".lower())
    assert cards(shown) == rows(shown) == ["3"]
    search.clear()
    search.send_keys("4")
    assert cards(shown) == ["4"]
    search.clear()
    search.send_keys("nobody")
    assert cards(shown) == rows(shown) == []
    assert find(shown, "#nobody")[0].is_displayed()


def test_the_table_sorts_by_number(shown: Any) -> None:
    def sort_by(title: str) -> None:
        (head,) = [h for h in find(shown, "table.rows th") if h.text.startswith(title)]
        head.find_element("css selector", "button.sort").click()

    sort_by("best guess")
    assert rows(shown, "best guess") == ["5", "7", "20", "80", "900"]
    sort_by("best guess")
    assert rows(shown, "best guess") == ["900", "80", "20", "7", "5"]
    sort_by("look-alike")
    assert rows(shown, "look-alike") == ["3", "4", "11", "21", "1,600"]


def test_a_person_opens_with_all_that_is_known(shown: Any) -> None:
    find(shown, ".person")[0].click()
    dialog = find(shown, "#person")[0]
    assert dialog.find_element("css selector", "h2").text == "1 Ada"
    assert "5, 9, 40, 1" in dialog.text
    assert "Closer than any public picture\nyes" in dialog.text.replace(" yes", "\nyes")
    images = dialog.find_elements("css selector", "img")
    assert len(images) == 4
    assert images[0].rect["width"] > 100
    press(shown, "ARROW_RIGHT")
    assert dialog.find_element("css selector", "h2").text == "4 Dora"
    press(shown, "ARROW_LEFT")
    press(shown, "ARROW_LEFT")
    assert dialog.find_element("css selector", "h2").text == "3 Çelik"
    press(shown, "ESCAPE")
    assert not dialog.is_displayed()


def test_the_keyboard_opens_a_person(shown: Any) -> None:
    shown.execute_script("arguments[0].focus()", find(shown, ".person")[0])
    press(shown, "ENTER")
    assert find(shown, "#person")[0].is_displayed()


def test_the_command_is_copied(shown: Any) -> None:
    find(shown, "[data-copy]")[0].click()
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(shown, 10).until(lambda d: find(d, "[data-copy]")[0].text == "Copied")


@pytest.mark.parametrize("name", ["own/report.html", "compare.html"])
def test_a_phone_needs_no_sideways_scrolling(name: str, driver: Any, folder: Path) -> None:
    opened(driver, folder.parent / name, 390)
    assert driver.execute_script("return innerWidth") == 390
    driver.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert driver.execute_script("return document.documentElement.scrollWidth") == 390
    for each in find(driver, ".drawing > svg"):
        assert each.rect["width"] <= 390
    if people := find(driver, "button.person"):
        people[0].click()
        assert find(driver, "#person")[0].rect["width"] <= 390
        assert driver.execute_script("return document.documentElement.scrollWidth") == 390
    quiet(driver)


def contrast(one: str, other: str) -> float:
    """WCAG's contrast of two colours as CSS computes them, ``rgb(r, g, b)``."""

    def light(colour: str) -> float:
        parts = [float(x) / 255 for x in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        r, g, b = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_verdicts_can_be_read_by_day_and_night(scheme: str, driver: Any, folder: Path) -> None:
    opened(driver, folder / "report.html", scheme=scheme)
    for level in ("leaked", "public", "nothing", "classes", "unmeasured", "diverged"):
        colours = driver.execute_script(
            """const box = document.querySelector(".verdict");
            box.className = `verdict ${arguments[0]}`;
            const style = (place) => getComputedStyle(place);
            return [style(box).backgroundColor, style(box.firstElementChild).color,
              style(box.lastElementChild).color];""",
            level,
        )
        assert all(contrast(colours[0], each) >= 4.5 for each in colours[1:]), (level, colours)
    background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (contrast(background, "rgb(255,255,255)") > 10) == (scheme == "dark")
    quiet(driver)


def test_a_comparison_sorts_and_says_who_leaks_more(driver: Any, folder: Path) -> None:
    opened(driver, folder.parent / "compare.html")
    assert find(driver, ".headline")[0].text.startswith("B (gmi) leaks more than A (kedmi): +")
    assert find(driver, ".leaks-more")
    assert len(find(driver, ".people img")) == 15
    (head,) = [h for h in find(driver, "table.rows th") if h.text.startswith("B − A")]
    head.find_element("css selector", "button.sort").click()
    numbers = [float(each) for each in rows(driver, "B − A")]
    assert numbers == sorted(numbers, reverse=True)
    quiet(driver)


def test_no_script_of_strangers_runs(driver: Any, tmp_path: Path) -> None:
    """Names and texts of a record, and what got into the page all the same."""
    (page,) = report(run_folder(tmp_path, hostile(), EVIL[:5]))
    page.write_text(page.read_text().replace("<main>", f"<main>{EVIL[0]}{EVIL[1]}"))
    opened(driver, page)
    find(driver, ".person")[0].click()
    assert EVIL[0] in "".join(each.text for each in find(driver, "#person h2, .person .name"))
    assert driver.execute_script("return window.hacked") is None
    assert {each.partition(":")[0] for each in browser.requests(driver)} <= {"file", "data"}
