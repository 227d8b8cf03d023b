"""Tables and figures for papers: as wide as a page, of the rows that were asked for."""

from __future__ import annotations

import functools
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mibench.errors import RequestError
from mibench.leaderboard.board import BITS, Board, Column, Curve, CurvePoint, Table, Value
from mibench.leaderboard.build import boards
from mibench.leaderboard.figure import privacy_utility_figure
from mibench.leaderboard.formats import columns_of, latex, rows_of
from mibench.leaderboard.plots import attack_axis, looks, natural_axis, position
from mibench.leaderboard.series import curves_of
from mibench.protocols import PROTOCOLS, Protocol
from tests.kit.board_records import bido, file_all, make
from tests.kit.command_line import invoke

ROOT = Path(__file__).resolve().parents[2]
IK = "improved-kedmi"
TEXTWIDTH, TEXTHEIGHT = 345, 550  # points, of LaTeX's article


# -- tables for papers ----------------------------------------------------------------------------


@functools.cache
def shipped() -> list[tuple[str, Table]]:
    cards = {name: card.board for name, card in PROTOCOLS.items()}
    made = boards(ROOT / "leaderboards", cards).boards
    return [(board.protocol, table) for board in made for table in board.tables]


def widest_line(text: str) -> float:
    """Points that the widest row of a table takes at least: digits of \\footnotesize, 4 pt each."""
    found = 0.0
    for line in text.splitlines():
        if line.endswith(r" \\"):
            cells = []
            for cell in line.removesuffix(r" \\").split(" & "):
                inner = re.sub(r"\\begin\{tabular\}\[.\]\{@\{\}.@\{\}\}|\\end\{tabular\}", "", cell)
                lines = [re.sub(r"\\[a-z]+|[${}\\]", "", each) for each in inner.split(r" \\ ")]
                cells.append(max(map(len, lines)))
            found = max(found, 3.3 * sum(cells) + 5 * len(cells))
    return found


def test_the_boards_tables_are_no_wider_than_a_page() -> None:
    for protocol, table in shipped():
        text = latex(table)
        scaled = r"\resizebox{\textwidth}{!}{" in text
        turned = r"\begin{landscape}" in text
        room = TEXTHEIGHT if turned else TEXTWIDTH
        assert scaled or widest_line(text) <= room, (protocol, table.key)
        assert not turned or widest_line(text) > TEXTWIDTH, (protocol, table.key)
        assert turned == ("pdflscape" in text.splitlines()[0])
        assert not (scaled and widest_line(text) > 2 * TEXTWIDTH), (protocol, table.key)
        # By lines, of which a row may have several.
        assert "longtable" in text or len(table.rows) <= 50
        assert "longtable" not in text or len(table.rows) > 25


@pytest.mark.slow
@pytest.mark.parametrize("which", range(12))
def test_latex_takes_the_boards_tables(which: int, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex on PATH")
    if which >= len(shipped()):
        pytest.skip(f"the boards have {len(shipped())} tables")
    _, table = shipped()[which]
    text = latex(table)
    first = text.splitlines()[0].removeprefix("% needs ")
    document = rf"\documentclass{{article}}{first}\begin{{document}}\noindent" + "\n"
    document += text + r"\end{document}"
    (tmp_path / "a.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "a.tex"], cwd=tmp_path, capture_output=True
    )
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log
    over = [float(each) for each in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(over, default=0) < 5, log


def wide(columns: int, detail: bool = False) -> Table:
    heads = tuple(Column(f"c{k}", f"attack {k}", "percent", detail=detail) for k in range(columns))
    rows = tuple(
        {f"c{k}": Value(number=0.5 + 0.01 * row, spread=0.01) for k in range(columns)}
        for row in range(3)
    )
    return Table("t", "t", heads, rows)


def test_a_table_that_stays_too_wide_is_scaled_and_says_so() -> None:
    assert r"\resizebox" not in latex(wide(6))
    text = latex(wide(20))
    assert text.startswith(r"% needs \usepackage{booktabs} \usepackage{graphicx}")
    assert re.search(r"^% about \d+ pt wide, 345 pt are there: choose fewer --columns", text, re.M)
    assert r"\resizebox{\textwidth}{!}{\begin{tabular}" in text
    assert r"\end{tabular}}" in text


def test_chosen_columns_are_all_there() -> None:
    table = wide(3)
    detail = Column("d", "extra", detail=True)
    one = Column("same", "target")
    rows = tuple({**r, "d": Value(text="x"), "same": Value(text="net")} for r in table.rows)
    table = Table("t", "t", (*table.columns, detail, one), rows)
    usual = latex(table)
    assert "extra" not in usual
    assert "% target: net in all rows" in usual
    chosen = latex(columns_of(table, ["d", "same", "c1"]))
    assert r"extra & target & attack 1 \% \\" in chosen


def test_headings_and_long_texts_are_broken() -> None:
    columns = (
        Column("a", "setting of the defense"),
        Column("b", "attack at matched accuracy", "percent"),
    )
    rows = (
        {"a": Value(text="defense.noise_multiplier=0.005 (control)"), "b": Value(number=0.5)},
        {"a": Value(text="defaults"), "b": Value(text="no point within 1 point of 94.4 %")},
    )
    text = latex(Table("t", "t", columns, rows))
    assert r"\begin{tabular}[b]{@{}r@{}}attack at \\ matched \\ accuracy\% \\" not in text
    assert r"defense.noise\_ \\ multiplier=0.005 \\ (control)\end{tabular}" in text
    assert "within 1 point" not in text  # why a number is missing stands in the notes
    assert re.search(r"defaults & --- \\\\", text)


def test_more_rows_than_a_page_holds_make_a_long_table() -> None:
    rows = tuple({"a": Value(text=f"row {k}"), "b": Value(number=k)} for k in range(60))
    text = latex(Table("t", "t", (Column("a", "a"), Column("b", "b", "count")), rows))
    assert text.startswith(r"% needs \usepackage{booktabs} \usepackage{longtable}")
    assert r"\endhead" in text
    assert "tabular" not in text


# -- rows -----------------------------------------------------------------------------------------

TABLE = Table(
    "cells",
    "All cells",
    (Column("attack", "attack"), Column("defense", "defense"), Column("top1", "top-1", "percent")),
    tuple(
        {"attack": Value(text=a), "defense": Value(text=d), "top1": Value(number=n)}
        for a, d, n in (("gmi", "bido", 0.25), ("gmi", "mid", 0.5), ("kedmi", "bido", 0.75))
    ),
    files=(("1",), ("2",), ("3",)),
)


def test_rows_are_chosen_by_their_columns() -> None:
    assert rows_of(TABLE, {"defense": {"bido"}}).files == (("1",), ("3",))
    assert rows_of(TABLE, {"defense": {"bido"}, "attack": {"kedmi"}}).files == (("3",),)
    assert rows_of(TABLE, {"attack": {"gmi", "kedmi"}}) == TABLE
    assert rows_of(TABLE, {"top1": {"0.5"}}).files == rows_of(TABLE, {"top1": {"50.0"}}).files
    assert rows_of(TABLE, {}) == TABLE
    with pytest.raises(RequestError, match=r"no row of the table cells has defense=bidu; there"):
        rows_of(TABLE, {"defense": {"bidu"}})
    with pytest.raises(RequestError, match=r"no column 'defens'; did you mean 'defense'\?"):
        rows_of(TABLE, {"defens": {"bido"}})


@pytest.fixture
def folder(tmp_path: Path, tiny: Protocol) -> Path:
    place = tmp_path / "board"
    place.mkdir()
    file_all(place, make(16, attack=IK), make(18, attack=IK, seed=1), make(10), bido(9, 0.9, 3))
    return place


def export(folder: Path, *options: str) -> tuple[int, str, str]:
    result = invoke(
        "leaderboard", "export", "--folder", str(folder), "--protocol", "tiny", *options
    )
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def test_export_filters_rows(folder: Path) -> None:
    every = export(folder, "--table", "cells", "--format", "csv")[1].splitlines()
    some = export(
        folder, "--table", "cells", "--format", "csv", "--where", "defense=none",
        "--where", f"attack={IK}", "--columns", "attack,defense,top1",
    )[1].splitlines()  # fmt: skip
    assert len(every) == 4
    assert some[0] == "attack,defense,top1,top1_std"
    assert len(some) == 2
    assert some[1].startswith(f"{IK},none,0.85,")
    code, out, error = export(folder, "--where", "defense")
    assert (code, out) == (2, "")
    assert "write COLUMN=VALUE" in error
    assert export(folder, "--where", "defense=nothing")[0] == 2


def test_a_figure_is_written_as_pdf_or_svg(folder: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "a.pdf", tmp_path / "b.pdf"
    assert export(folder, "--figure", str(first)) == (0, f"wrote {first}\n", "")
    assert export(folder, "--figure", str(again))[0] == 0
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes().startswith(b"%PDF")
    assert b"CreationDate" not in first.read_bytes()
    one = tmp_path / "c.svg"
    assert export(folder, "--figure", str(one), "--where", "defense=bido")[0] == 0
    assert one.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--figure", "x.png"], "ends in .pdf or .svg"),
        (["--figure", ""], "the path is empty"),
        (["--figure", "a\0.pdf"], "NUL byte"),
        (
            ["--figure", "x.pdf", "--where", "attack=gmi"],
            "have defense and target, and no 'attack'",
        ),
        (["--figure", "x.pdf", "--where", "defense=mid"], "there is no such curve of tiny"),
    ],
)
def test_a_figure_that_cannot_be_is_a_wrong_request(
    options: list[str], reason: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = export(folder, *options)
    assert code == 2
    assert reason in " ".join(error.split())
    assert not list(tmp_path.glob("x.*"))


# -- axes -----------------------------------------------------------------------------------------


def point(natural: float, attack: float, spread: float | None = None) -> CurvePoint:
    return CurvePoint(1.0, natural, attack, spread, spread, (0,), False, ())


def test_the_error_is_on_a_logarithmic_scale() -> None:
    assert [position(each) for each in (0.0, 0.9, 0.99)] == pytest.approx([0, 1, 2])
    assert position(1.0) == position(0.9995) == 3  # no error cannot be drawn
    assert position(1.5) == 3
    assert position(-0.5) == 0


def test_points_are_spread_over_the_axes() -> None:
    """The board of digits: a control at 40 %, everything else above 95 %."""
    points = [point(n, 0.6) for n in (0.397, 0.956, 0.993, 0.994, 0.997)]
    axis = natural_axis(points)
    places = [(position(p.natural) - axis.low) / (axis.high - axis.low) for p in points]
    assert 0.02 < min(places) < 0.1
    assert 0.9 < max(places) < 0.98
    assert sum(place > 0.9 for place in places) <= 2
    assert [text for _, text in axis.ticks][-3:] == ["98", "99", "99.5"]


@pytest.mark.parametrize(
    "naturals", [(0.85, 0.92), (0.915,), (0.0,), (1.0,), (0.0, 1.0), (0.63, 0.92)]
)
def test_every_axis_has_ticks_within_it(naturals: tuple[float, ...]) -> None:
    axis = natural_axis([point(natural, 0.5, 0.01) for natural in naturals])
    assert axis.low < axis.high
    assert axis.ticks
    assert all(axis.low <= place <= axis.high for place, _ in axis.ticks)
    texts = [text for _, text in axis.ticks]
    assert len(set(texts)) == len(texts) <= 14
    for place, text in axis.ticks:
        assert place == pytest.approx(-math.log10(max(1 - float(text) / 100, 0.001)), abs=0.01)


def test_the_attack_axis_ends_above_the_points() -> None:
    low = attack_axis([point(0.9, 0.1), point(0.9, 0.05)], [0.01, 0.99])
    assert 10 < low.high < 12  # the ceiling is far above, and named only
    near = attack_axis([point(0.9, 0.65, 0.03)], [0.01, 0.99])
    assert 99 < near.high < 106
    assert attack_axis([point(0.9, 0.0)], []).high >= 1
    assert all(0 <= place <= near.high for place, _ in near.ticks)


def test_bits_far_from_all_points_are_drawn_closer_together() -> None:
    axis = attack_axis([point(0.9, 5.2, 0.1), point(0.9, 6.6)], [1.0, 6.0, 12.2, 16.3], BITS)
    assert axis.near is not None
    # At full scale from 4.5, below 5.1 − .25, to 7, above 6.6 + .25.
    assert axis.at(7) - axis.at(4.5) == pytest.approx(2.5)
    assert (axis.at(4.5), axis.at(7)) == axis.near
    assert axis.at(6.5) - axis.at(5.5) == pytest.approx(1)
    assert axis.at(0) == axis.low == 0
    assert axis.at(4.5) == pytest.approx(0.15 * 2.5)
    assert axis.high - axis.at(7) == pytest.approx(0.3 * 2.5)
    assert axis.apart() == [(0, axis.near[0]), (axis.near[1], axis.high)]
    values = [0, 0.3, 1, 4.4, 4.5, 5, 6.9, 7, 9, 12.2, 16.3]
    places = [axis.at(value) for value in values]
    assert places == sorted(set(places))
    assert places[-1] < axis.high
    assert all(place == pytest.approx(axis.at(float(text))) for place, text in axis.ticks)
    assert {"0", "5", "6", "7"} < {text for _, text in axis.ticks}
    drawn = {"y": 12.2, "band": [12.0, 12.4], "name": "look-alike"}
    placed = axis.placed(drawn)
    assert placed["value"] == 12.2
    assert placed["band"][0] < placed["y"] < placed["band"][1] < axis.high
    # Points over half of the axis, and other measures, are drawn as they are.
    for plain in (
        attack_axis([point(0.9, 2.0), point(0.9, 12.0)], [16.3], BITS),
        attack_axis([point(0.9, 0.5), point(0.9, 0.55)], [0.01]),
    ):
        assert (plain.near, plain.apart(), plain.at(1.5)) == (None, [], 1.5)


def test_many_lines_look_different() -> None:
    found = looks(["none", *(f"defense {i:02}" for i in range(36))])
    assert len(set(found.values())) == len(found) == 36
    assert [found[f"defense {i:02}"] for i in (0, 1, 6, 7)] == [(0, 0), (1, 1), (0, 1), (1, 2)]


def board(*curves: Curve, **options: object) -> Board:
    return Board("tiny", 1, "Tiny", (), curves, headline=IK, **options)  # type: ignore[arg-type]


def test_curves_are_chosen_by_name() -> None:
    both = board(*(Curve(name, IK, "net", "scale", (point(0.9, 0.5),)) for name in ("a", "b")))
    assert [curve.defense for curve in curves_of(both, {"defense": {"b"}}).curves] == ["b"]
    with pytest.raises(RequestError, match="there are: a on net, b on net"):
        curves_of(both, {"target": {"other"}})


def test_a_figure_names_bounds_that_lie_above_it() -> None:
    bounds = (("floor: strangers", Value(number=0.8)), ("floor: chance", Value(number=0.01)))
    line = Curve("a", IK, "net", "scale", (point(1.0, 0.1, 0.2), point(0.0, 0.0)))
    svg = privacy_utility_figure(board(line, references=bounds, reference_target="net")).decode()
    assert "<!-- ↑ floor: strangers 80.0 -->" in svg
    assert "<!-- floor: chance 1.0 -->" in svg
