"""What boards are written as: formats, the settings behind them, and the built files."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import mibench.leaderboard
from mibench.errors import RequestError
from mibench.leaderboard import page
from mibench.leaderboard.board import Board, Column, Table, Value
from mibench.leaderboard.build import boards, build, stale
from mibench.leaderboard.formats import (
    columns_of,
    csv_text,
    html_fragment,
    latex,
    latex_text,
    markdown,
)
from mibench.leaderboard.series import framed
from mibench.protocols import PROTOCOLS
from mibench.record import BoardCard
from tests.kit.board_records import CARDS, bido, file_all, filed, make

ROOT = Path(__file__).resolve().parents[2]
IK = "improved-kedmi"


# -- formats ------------------------------------------------------------------------------------

EXAMPLE = Table(
    "example",
    "Example",
    (
        Column("name", "name_of|it"),
        Column("share", "top-1", "percent"),
        Column("delta", "Δ", "percent"),
        Column("far", "distance", "number"),
        Column("n", "n", "count"),
    ),
    (
        {
            "name": Value(text="a_b & 50% | <i>"),
            "share": Value(number=0.63149, spread=0.0123),
            "delta": Value(number=0.218, interval=(0.183, 0.255)),
            "far": Value(number=63.25, spread=1.5),
            "n": Value(number=500),
        },
        {
            "name": Value(text="—"),
            "share": Value(text="lacks gmi"),
            "delta": Value(number=-0.05, interval=(-0.1, 0.001)),
            "far": Value(number=2.5e7),
        },
    ),
    ("± & so on.",),
)


def test_markdown() -> None:
    lines = markdown(EXAMPLE).splitlines()
    assert len({len(line) for line in lines[:4]}) == 1  # columns stand below one another
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[:4]]
    assert cells[0] == ["name_of\\|it", "top-1 %", "Δ %", "distance", "n"]
    assert [(cell[0], cell[-1]) for cell in cells[1]] == [(":", "-"), *[("-", ":")] * 4]
    assert cells[2] == [
        "a_b & 50% \\| &lt;i>", "63.1 ± 1.2", "+21.8 [18.3, 25.5]", "63.25 ± 1.50", "500",
    ]  # fmt: skip
    assert cells[3] == ["—", "lacks gmi", "-5.0 [-10.0, 0.1]", "2.50e+07", "—"]
    assert lines[4:] == ["", "± & so on."]


def test_latex_is_escaped() -> None:
    lines = latex(EXAMPLE).splitlines()
    assert lines[:5] == [
        r"% needs \usepackage{booktabs}",
        "% ± & so on.",
        r"\begingroup",
        r"\footnotesize\setlength{\tabcolsep}{2.5pt}",
        r"\begin{tabular}{lrrrr}",
    ]
    assert lines[6] == r"name\_of\textbar{}it & top-1 \% & $\Delta$ \% & distance & n \\"
    assert lines[8] == (
        r"a\_b \& 50\% \textbar{} \textless{}i\textgreater{} & 63.1 $\pm$ 1.2 & "
        r"+21.8 [18.3, 25.5] & 63.25 $\pm$ 1.50 & 500 \\"
    )
    assert lines[9] == r"--- & lacks gmi & $-$5.0 [$-$10.0, 0.1] & 2.50e+07 & --- \\"
    assert lines[-3:] == [r"\bottomrule", r"\end{tabular}", r"\endgroup"]
    assert latex_text("\\ # $ ~ ^ {x}") == (
        r"\textbackslash{} \# \$ \textasciitilde{} \textasciicircum{} \{x\}"
    )
    assert latex_text("improved-kedmi, dp-sgd, resnet-18") == "improved-kedmi, dp-sgd, resnet-18"


def test_a_latex_row_does_not_start_with_a_bracket() -> None:
    table = Table("t", "t", (Column("a", "a"),), ({"a": Value(text="[1]")},))
    assert "{}[1]" in latex(table)


def test_csv_holds_raw_numbers() -> None:
    rows = list(csv.reader(io.StringIO(csv_text(EXAMPLE))))
    assert rows[0] == [
        "name", "share", "share_std", "delta", "delta_low", "delta_high", "far", "far_std", "n",
    ]  # fmt: skip
    assert rows[1] == [
        "a_b & 50% | <i>", "0.63149", "0.0123", "0.218", "0.183", "0.255", "63.25", "1.5", "500",
    ]  # fmt: skip
    assert rows[2] == ["", "lacks gmi", "", "-0.05", "-0.1", "0.001", "25000000", "", ""]
    third = Table("t", "t", (Column("a", "a", "percent"),), ({"a": Value(number=1 / 3)},))
    assert csv_text(third) == "a\n0.333333333333\n"


def test_html_is_escaped() -> None:
    text = html_fragment(EXAMPLE)
    assert re.search(r"<td[^>]*>a_b &amp; 50% | &lt;i&gt; *</td>", text)
    assert re.search(r'<td style="text-align: right;"> *63.1 ± 1.2</td>', text)
    assert text.count("<tr>") == 3
    assert text.startswith('<table id="example">\n<caption>Example</caption>')


def test_columns_are_chosen_by_name() -> None:
    chosen = columns_of(EXAMPLE, ["n", "name"])
    assert re.split(r" *(?<!\\)\| *", markdown(chosen).splitlines()[0])[1:-1] == [
        "n",
        "name_of\\|it",
    ]
    with pytest.raises(RequestError, match=r"no column 'shre'; did you mean 'share'\?"):
        columns_of(EXAMPLE, ["shre"])
    with pytest.raises(RequestError, match="columns: name, share"):
        columns_of(EXAMPLE, ["zzz"])


# -- cards --------------------------------------------------------------------------------------


def test_every_card_says_what_its_board_shows() -> None:
    """Outside its digest: what a board shows may change, and no number with it."""
    from tests.kit.methods import attack_names

    for card in PROTOCOLS.values():
        assert {card.board.headline, *card.board.standard()} <= set(attack_names())
        other = card.model_copy(update={"board": BoardCard(headline="gmi", worst_case=())})
        assert other.digest == card.digest


def test_the_public_frame_has_a_row_a_record(tmp_path: Path) -> None:
    file_all(tmp_path, *RECORDS)
    rows = mibench.leaderboard.frame(tmp_path)
    assert len(rows) == len(RECORDS)
    row = rows.set_index("path").loc["tiny/improved-kedmi_bido-scale=0_test_resnet_seed0.json"]
    assert (row.protocol, row.defense, row.seed, row.settings) == (
        "tiny", "bido", 0, "defense.scale=0",
    )  # fmt: skip
    assert (row.knob, row.strength, row.control, row.default) == ("defense.scale", 0, True, False)
    assert (row.attack_accuracy_top1, row.natural_accuracy) == (0.95, 0.94)
    assert row.attack_accuracy_top1_low < 0.95 <= row.attack_accuracy_top1_high
    assert (row.floor_prior, row.ceiling) == (0.05, 1)
    seeds = rows[rows["default"]].groupby("cell")["attack_accuracy_top1"].agg(["mean", "count"])
    assert seeds.loc["tiny/improved-kedmi_none_test_resnet"].tolist() == [pytest.approx(0.85), 2]
    with pytest.raises(RequestError, match="there is no folder"):
        mibench.leaderboard.frame(tmp_path / "nowhere")


def test_every_column_of_the_frame_is_explained() -> None:
    text = mibench.leaderboard.frame.__doc__ or ""
    metrics = {key for record in RECORDS for key in record.metrics}
    for column in framed(filed(*RECORDS)).columns:
        plain = re.sub("_(low|high|n)$", "", column)
        assert plain in metrics or re.search(rf"\b{column}\b", text), column


# -- build --------------------------------------------------------------------------------------

RECORDS = (
    make(18, attack=IK, natural=0.95),
    make(16, attack=IK, natural=0.97, seed=1),
    make(10, attack="gmi", natural=0.96),
    make(9, attack="kedmi", natural=0.96),
    bido(12, 0.93, 3),
    bido(19, 0.94, 0),
)


def files_in(folder: Path) -> dict[str, bytes]:
    there = (p for p in sorted(folder.rglob("*")) if p.is_file())
    names = {p.relative_to(folder).as_posix(): p.read_bytes() for p in there}
    return {name: data for name, data in names.items() if not name.startswith("records/")}


def quick_page(boards: Sequence[Board], *others: object) -> str:
    """Stands for the page, which has tests of its own."""
    return f"{len(boards)} {[board.tables for board in boards]}"


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(page, "render_page", quick_page)
    folder = tmp_path / "leaderboards"
    folder.mkdir()
    file_all(folder, *RECORDS)
    build(folder, CARDS)
    return folder


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "leaderboards"
    folder.mkdir()
    file_all(folder, *RECORDS)
    build(folder, CARDS)
    first = files_in(folder)
    assert set(first) == {
        "README.md",
        "built.json",
        "index.html",
        "privacy-utility-tiny.svg",
        "record.schema.json",
        *(
            f"tables/tiny/{table}.{ending}"
            for table in ("defenses", "improvement", "cells", "published")
            for ending in ("csv", "tex")
        ),
    }
    # In another process, with other hash seeds, and in another folder.
    copy = tmp_path / "elsewhere" / "boards"
    copy.mkdir(parents=True)
    file_all(copy, *RECORDS)
    code = "import sys, pathlib; from mibench.leaderboard.build import build; "
    code += "from tests.kit.board_records import CARDS; build(pathlib.Path(sys.argv[1]), CARDS)"
    subprocess.run([sys.executable, "-c", code, str(copy)], check=True, cwd=ROOT)
    assert files_in(copy) == first
    assert str(tmp_path).encode() not in b"".join(first.values())


def test_the_readme_shows_the_main_tables(built: Path) -> None:
    text = (built / "README.md").read_text()
    assert "## tiny, version 1" in text
    assert "![Attack over natural accuracy](privacy-utility-tiny.svg)" in text
    assert re.search(r"\| +85.0 ± 7.1 \|", text)
    assert text.count("## Published numbers") == 1


def test_check_names_what_is_stale(built: Path) -> None:
    assert stale(built, CARDS) == ([], [])
    (built / "README.md").write_text("edited")
    (built / "tables/tiny/cells.csv").unlink()
    assert stale(built, CARDS) == (["README.md", "tables/tiny/cells.csv"], [])
    build(built, CARDS)
    assert stale(built, CARDS) == ([], [])


def test_check_notices_a_new_record(built: Path) -> None:
    file_all(built, make(3, attack="gmi", seed=4))
    found, _ = stale(built, CARDS)
    assert {"README.md", "index.html", "tables/tiny/cells.csv", "tables/tiny/cells.tex"} <= set(
        found
    )
    assert "record.schema.json" not in found


def test_a_figure_of_another_matplotlib_is_compared_by_its_data(built: Path) -> None:
    figure = built / "privacy-utility-tiny.svg"
    drawn = figure.read_text()
    figure.write_text(drawn.replace("stroke-linecap: butt", "stroke-linecap: round"))
    assert stale(built, CARDS)[0] == ["privacy-utility-tiny.svg"]
    older = re.sub(r"Matplotlib v[\d.]+", "Matplotlib v3.0.0", figure.read_text())
    figure.write_text(older)
    assert stale(built, CARDS)[0] == []
    figure.write_text(re.sub(r"data [0-9a-f]{64}", "data " + "0" * 64, older))
    assert stale(built, CARDS)[0] == ["privacy-utility-tiny.svg"]


def test_a_build_without_records_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no record in"):
        boards(tmp_path, CARDS)


def test_tables_need_no_torch() -> None:
    code = "import sys, mibench.leaderboard.tables, mibench.leaderboard.build, "
    code += "mibench.cli.leaderboard; assert not {'torch', 'matplotlib'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
