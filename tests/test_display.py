"""Progress as bars on a terminal and as lines elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest

from mibench.display import Bars, Lines, display


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the display's clock, which stands still otherwise."""
    now = [100.0]
    monkeypatch.setattr("mibench.display.time.monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_lines_come_every_tenth_or_ten_seconds(clock: Callable[[float], None]) -> None:
    out = io.StringIO()
    lines = Lines(out)
    lines.stage("target", "computing")
    for step in lines.steps(1000, "training"):
        clock(1.5 if step < 20 else 0.02)
        lines.report(loss=1.0 / (step + 1), kl=3.0)
    lines.stage("target", "done", 75.0)
    text = out.getvalue().splitlines()
    assert text[0] == "target: computing"
    assert text[-1] == "target: done in 1 min 15 s"
    steps = [int(re.findall(r"(\d[\d,]*)/1,000", line)[0].replace(",", "")) for line in text[1:-1]]
    assert steps[:2] == [7, 14]  # ten seconds each
    assert steps[3:] == [steps[2] + 100 * k for k in range(1, len(steps) - 2)]  # a tenth each
    assert (
        text[1] == "target (training): 7/1,000 · 1.5 s/step · loss 0.1429 · kl 3 · ETA 24 min 50 s"
    )


def test_fast_loops_are_not_shown(clock: Callable[[float], None]) -> None:
    out = io.StringIO()
    lines = Lines(out)
    for _ in lines.steps(1000, "fast"):
        clock(0.0001)
    assert out.getvalue() == ""


def test_a_loop_that_fails_is_put_away() -> None:
    lines = Lines(io.StringIO())
    lines.stage("outer", "computing")
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        for _ in lines.steps(3, "inner"):
            raise ZeroDivisionError
    assert lines.loops == []
    lines.report(loss=1.0)  # outside of any loop: nowhere to show it


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch, clock: Callable[..., None]) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    with display(out) as bars:
        assert isinstance(bars, Bars)
        bars.stage("metrics", "computing")
        bars.stage("target [2]", "computing")
        for step in bars.steps(40, "training"):
            clock(0.1)
            bars.report(loss=0.25)
            if step == 20:
                bars.bars.refresh()
        bars.stage("target [2]", "done", 4.0)
        bars.stage("prior", "cached", 4.0)
    text = out.getvalue()
    assert re.search(r"target \[2\] \(training\).*?/40 · 10\.0/s · loss 0\.25 · ETA", text)
    assert "✓ target [2]  4.0 s" in text
    assert "= prior  cached" in text
    assert bars.stages == ["metrics"]


def test_dumb_terminals_and_pipes_get_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(display(Terminal()), Lines)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(display(io.StringIO()), Lines)
