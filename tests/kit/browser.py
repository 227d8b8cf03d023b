"""A headless Chromium for tests of pages; where there is none, they are skipped with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[Any]:
    """A selenium driver that keeps the page's console and its requests (``logs``)."""
    webdriver = pytest.importorskip("selenium.webdriver")
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in paths.items():
        if path is None:
            pytest.skip(f"no {name} on PATH: pages are tested in a real browser")
    options = webdriver.ChromeOptions()
    options.binary_location = paths["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(paths["chromedriver"]))
    try:
        resize(driver, width, height)
        yield driver
    finally:
        driver.quit()


def resize(driver: Any, width: int, height: int, mobile: bool = False) -> None:
    """Give the page a size in CSS pixels; windows themselves cannot be as narrow as a phone."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile},
    )


def prefer(driver: Any, scheme: str) -> None:
    """Let the page see a reader who prefers ``light`` or ``dark``."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def console(driver: Any) -> list[str]:
    """What the page wrote to its console since the last call: warnings and errors."""
    entries = driver.get_log("browser")
    return [each["message"] for each in entries if each["level"] in ("WARNING", "SEVERE")]


def requests(driver: Any) -> list[str]:
    """The addresses that the page asked for since the last call."""
    events = [json.loads(each["message"])["message"] for each in driver.get_log("performance")]
    sent = (each for each in events if each["method"] == "Network.requestWillBeSent")
    return [each["params"]["request"]["url"] for each in sent]
