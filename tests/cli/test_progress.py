"""Progress as bars on a terminal and as lines elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest

from mibench.cli.show.progress import Bars, Lines, display


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the display's clock, which stands still otherwise."""
    now = [100.0]
    monkeypatch.setattr("mibench.cli.show.progress.time.monotonic", lambda: now[0])

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


def test_lines_say_which_stage_of_how_many(clock: Callable[[float], None]) -> None:
    out = io.StringIO()
    lines = Lines(out)
    lines.stage("split", "computing")
    lines.stage("split", "done")
    lines.expect(["target", "student a", "references", "metrics"])
    lines.stage("target", "cached")
    lines.stage("student a", "computing")
    for _ in lines.steps(2, "student a"):
        clock(20)
    lines.stage("student a", "done", 40)
    lines.stage("metrics", "computing")
    lines.stage("references", "computing")
    for _ in lines.steps(1, "floor: evaluator"):
        clock(20)
    lines.stage("references", "done", 20)
    lines.stage("metrics", "done", 21)
    assert out.getvalue().splitlines() == [
        "split: computing",
        "split: done in 0.0 s",
        "[1/4] target: cached",
        "[2/4] student a: computing",
        "[2/4] student a: 1/2 · 20.0 s/step · ETA 20.0 s",
        "[2/4] student a: 2/2 · 20.0 s/step",
        "[2/4] student a: done in 40.0 s",
        "[3/4] metrics: computing",
        "[3/4] references: computing",
        "[3/4] references (floor: evaluator): 1/1 · 20.0 s/step",
        "[3/4] references: done in 20.0 s",
        "[4/4] metrics: done in 21.0 s",
    ]


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
    assert "[1/" not in text  # no plan was told


def test_a_terminal_says_which_stage_of_how_many(
    monkeypatch: pytest.MonkeyPatch, clock: Callable[..., None]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    with display(out) as bars:
        assert isinstance(bars, Bars)
        bars.expect(["target", "[red]x[/]"])
        bars.stage("target", "cached")
        bars.stage("[red]x[/]", "computing")
        bars.bars.refresh()
        for _ in bars.steps(2, "[bold]steps[/]"):
            clock(1)
            bars.bars.refresh()
        bars.stage("[red]x[/]", "done", 2)
    text = out.getvalue()
    assert "[1/2] = target  cached" in text
    assert re.search(r"\[2/2\] \[red\]x\[/\] \(\[bold\]steps\[/\]\)", text)
    assert "[2/2] ✓ [red]x[/]  2.0 s" in text


def test_dumb_terminals_and_pipes_get_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(display(Terminal()), Lines)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(display(io.StringIO()), Lines)
