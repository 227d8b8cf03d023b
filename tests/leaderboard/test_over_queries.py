"""Curves over queries: which records are points, where they lie, and how they are drawn."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from mibench.errors import RequestError
from mibench.leaderboard.board import Board
from mibench.leaderboard.build import build
from mibench.leaderboard.figure import queries_figure
from mibench.leaderboard.over_queries import queries_axis, query_plots
from mibench.leaderboard.series import query_curves_of
from mibench.record import FLOOR_PUBLIC, Record
from tests.conftest import TINY
from tests.kit.board_records import CARDS, accuracy, file_all, hits_of, make, record_data
from tests.kit.boards import board_of
from tests.kit.command_line import invoke


def asked(hits: int, queries: int | None, *, budget: int = 100, **options: Any) -> Record:
    """A record of `edges` on five identities, asked for by a budget that is 100 by default."""
    given: dict[str, Any] = {"attack": "edges", "access": "label-only", **options}
    if budget != 100:
        given["passed"] = {"attack.queries": budget, **given.get("passed", {})}
    stage = {"stage": "reconstructions", "key": "a" * 64, "cached": False, "seconds": 1.0}
    data = record_data(hits, **given, costs=[{**stage, "queries": queries}])
    data["attack"]["resolved"]["queries"] = budget
    data["references"][FLOOR_PUBLIC] = {"attack_accuracy_top1": accuracy(hits_of(7))}
    return Record.model_validate(data)


def three(**options: Any) -> list[Record]:
    """Budgets of 100 and two others, at seeds 0 and 1."""
    return [
        asked(hits + seed, 5 * budget, budget=budget, seed=seed, **options)
        for budget, hits in ((100, 8), (1000, 12), (10, 4))
        for seed in (0, 1)
    ]


def test_a_curve_has_a_point_for_each_budget_at_what_was_asked() -> None:
    (curve,) = board_of(*three()).over_queries
    assert (curve.attack, curve.access, curve.target) == ("edges", "label-only", "test_resnet")
    assert [(p.queries, p.setting, p.seeds) for p in curve.points] == [
        (10, "attack.queries = 10", (0, 1)),
        (100, "", (0, 1)),
        (1000, "attack.queries = 1000", (0, 1)),
    ]
    assert [p.attack for p in curve.points] == pytest.approx([4.5 / 20, 8.5 / 20, 12.5 / 20])
    assert curve.points[0].attack_spread == pytest.approx(0.05 / math.sqrt(2))
    assert curve.points[1].files == (
        "tiny/edges_none_test_resnet_seed0.json",
        "tiny/edges_none_test_resnet_seed1.json",
    )


def test_what_is_no_point() -> None:
    """Fewer than three make no curve; nor do other settings, defenses, or attacks with weights."""
    assert not board_of(*three()[:4]).over_queries
    assert not board_of(*three(defense="other")).over_queries
    assert not board_of(*three(access="white-box")).over_queries
    assert not board_of(*three()[:4], asked(3, None, budget=50)).over_queries, "it does not tell"
    more = [
        asked(3, 250, budget=50, passed={"attack.radius": 2}),
        asked(3, 250, budget=60, passed={"target.epochs": 20}),
        asked(3, 250, budget=70, passed={"prior.steps": 20}),
    ]
    assert not board_of(*three()[:4], *more).over_queries
    # The default budget asked for by name: the default's own cell counts.
    again = asked(20, 500, passed={"attack.queries": 100})
    (curve,) = board_of(*three(), again).over_queries
    assert [p.attack for p in curve.points][1] == pytest.approx(8.5 / 20)


def test_where_the_prior_asks_its_steps_are_the_budget() -> None:
    made = []
    for steps, hits in ((200, 6), (50, 3), (800, 9)):
        passed = {} if steps == 200 else {"prior.steps": steps}
        data = asked(hits, 5, passed=passed).model_dump(mode="json")
        del data["attack"]["resolved"]["queries"]
        data["prior"] |= {"kind": "t-acgan", "resolved": {"steps": steps}}
        prior = {"stage": "prior", "key": "b" * 64, "cached": False, "seconds": 1.0}
        data["costs"].append({**prior, "queries": 64 * steps})
        made.append(Record.model_validate(data))
    (curve,) = board_of(*made).over_queries
    assert [p.queries for p in curve.points] == [(5 + 64 * n) / 5 for n in (50, 200, 800)]
    assert [p.setting for p in curve.points] == ["prior.steps = 50", "", "prior.steps = 800"]


def test_a_plot_is_logarithmic_with_look_up_as_a_line() -> None:
    board = board_of(*three(), make(10))
    (plot,) = query_plots(board)
    (curve,) = plot["curves"]
    assert [point["x"] for point in curve["points"]] == pytest.approx([1, 2, 3])
    assert [point["y"] for point in curve["points"]] == pytest.approx([22.5, 42.5, 62.5])
    assert [point["default"] for point in curve["points"]] == [False, True, False]
    assert "1,000 queries an identity" in curve["points"][2]["lines"]
    assert [(each["name"], each["y"]) for each in plot["references"]] == [("look-up", 35)]
    assert plot["x"].low < 1 < 3 < plot["x"].high
    assert [text for _, text in plot["x"].ticks] == ["10", "100", "1,000"]
    assert plot["y"].high > 65
    assert not query_plots(board_of(make(10)))


def test_ticks_of_a_narrow_axis() -> None:
    axis = queries_axis([1200, 4000])
    assert [text for _, text in axis.ticks] == ["2,000", "3,000", "4,000"]
    assert [at for at, _ in axis.ticks] == pytest.approx([math.log10(n) for n in (2e3, 3e3, 4e3)])
    assert queries_axis([500]).low < math.log10(500) < queries_axis([500]).high


def test_the_figure_depends_on_the_board_alone() -> None:
    board = board_of(*three(), make(10))
    drawn = queries_figure(board)
    assert drawn == queries_figure(board_of(*three(), make(10)))
    assert queries_figure(board, "pdf").startswith(b"%PDF")
    (curve,) = board.over_queries
    fewer = dataclasses.replace(curve, points=curve.points[:2])
    assert queries_figure(dataclasses.replace(board, over_queries=(fewer,))) != drawn


def test_curves_are_chosen_by_attack_and_target() -> None:
    board: Board = board_of(*three(), *three(attack="mirror"))
    (kept,) = query_curves_of(board, {"attack": {"mirror"}}).over_queries
    assert kept.attack == "mirror"
    with pytest.raises(RequestError, match="there are: edges on test_resnet, mirror on"):
        query_curves_of(board, {"attack": {"gmi"}})
    with pytest.raises(RequestError, match="have attack and target, and no 'defense'"):
        query_curves_of(board, {"defense": {"none"}})


def test_the_figure_is_built_and_on_the_page_and_can_be_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "board"
    file_all(folder, *three(), asked(10, None, attack="gmi", access="white-box"))
    build(folder, CARDS)
    assert (
        "![Attack over queries of the target](queries-tiny.svg)"
        in (folder / "README.md").read_text()
    )
    drawn = (folder / "queries-tiny.svg").read_bytes()
    page = (folder / "index.html").read_text()
    assert 'href="queries-tiny.svg"' in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    (plot,) = data["plots"]["tiny-v1-queries"]
    assert plot["across"] == "queries an identity"
    assert [each["facets"] for each in plot["curves"]] == [{"attack": ["edges"]}]
    assert '<td class="measured">1,000</td>' in page, "for who cannot see the plot"
    monkeypatch.setattr("mibench.cli.leaderboard.board_cards", lambda: {"tiny": TINY.board})
    out = tmp_path / "queries.svg"
    options = ("--folder", str(folder), "--protocol", "tiny", "--plot", "queries")
    result = invoke("leaderboard", "export", *options, "--figure", str(out))
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == drawn
    # Without records it goes with the next build.
    for each in (folder / "records/tiny").glob("edges*"):
        each.unlink()
    build(folder, CARDS)
    assert not (folder / "queries-tiny.svg").exists()
    result = invoke("leaderboard", "export", *options, "--figure", str(out))
    assert (result.exit_code, "there are: none" in result.stderr) == (2, True)
