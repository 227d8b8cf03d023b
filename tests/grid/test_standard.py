"""The standard set: what it runs, what it comes to, and who knows its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import click
import pytest

import mibench
from mibench import protocols
from mibench.cli.options import ACCESSES, offered
from mibench.cli.show.standard import in_words
from mibench.errors import RequestError
from mibench.grid.grid import expand, make_grid, read_grids
from mibench.grid.standard import standard_grid, worst_case
from mibench.inversion.attack import ATTACKS, Attack
from mibench.leaderboard.board import TOP1
from mibench.leaderboard.ranking import worst_of_target
from mibench.metrics.intervals import bootstrap_interval
from mibench.protocols import Protocol
from mibench.record import BoardCard, Record
from mibench.training.defense import DEFENSES, Defense
from mibench.types import Access, DefenseCard
from tests.conftest import TINY
from tests.kit.board_records import diverged, make
from tests.kit.command_line import invoke

BOARD = BoardCard(
    headline="gmi",
    worst_case=("lookup", "gmi"),
    black_box=("lookup",),
    label_only=("lookup-label-only",),
    list_version=7,
)
EVERY = ("lookup", "gmi", "lookup-label-only")


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Protocol:
    """The protocol ``tiny`` with short lists of attacks that are here."""
    card = TINY.model_copy(update={"board": BOARD})
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", card)
    return card


@pytest.fixture
def of_output(monkeypatch: pytest.MonkeyPatch) -> str:
    """A defense that changes the answers only."""

    class Filter(Defense[Any]):
        card = DefenseCard(kind="output", title="A filter", authors="", year=2026, venue="", url="")

    monkeypatch.setattr(
        DEFENSES, "get", lambda name, get=DEFENSES.get: Filter if name == "filter" else get(name)
    )
    return "filter"


def asked(access: Access | None = None, defense: str = "none", **fields: Any) -> list[str]:
    options = {"protocol": "tiny", "target": None, "seed": 3, "overrides": {}, **fields}
    cells = expand([standard_grid(access, defense=defense, **options)])
    assert {(each.protocol, each.defense, each.seed) for each in cells} == {("tiny", defense, 3)}
    return [each.attack for each in cells]


# -- grids ------------------------------------------------------------------------------------


def test_a_grid_knows_the_set_as_one_name(listed: Protocol) -> None:
    fields = {"protocol": "tiny", "attacks": ["kedmi", "standard", "gmi"], "seeds": "0-1"}
    cells = expand([make_grid(fields, "test")])
    assert [each.attack for each in cells] == ["kedmi", *EVERY] * 2, "each once"


def test_a_grid_leaves_white_box_attacks_out_of_defenses_of_the_output(
    listed: Protocol, of_output: str
) -> None:
    fields = {"protocol": "tiny", "attacks": ["standard"], "defenses": ["none", of_output]}
    cells = expand([make_grid(fields, "test")])
    assert [(each.defense, each.attack) for each in cells] == [
        *(("none", attack) for attack in EVERY),
        (of_output, "lookup"),
        (of_output, "lookup-label-only"),
    ]


def test_an_override_may_name_an_attack_of_the_set(listed: Protocol, tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    text = 'protocol = "tiny"\nattacks = ["standard"]\n[[override]]\nattack = "{}"\n'
    path.write_text(text.format("gmi") + 'set = { "attack.iterations" = 2 }\n')
    cells = expand(read_grids(path))
    assert [each.overrides for each in cells] == [{}, {"attack.iterations": 2}, {}]
    for wrong in ("gmo", "standard"):
        path.write_text(text.format(wrong) + "set = {}\n")
        with pytest.raises(RequestError, match=f"the grid has no attack '{wrong}'"):
            read_grids(path)


def test_the_lists_of_a_run(listed: Protocol, of_output: str) -> None:
    assert asked() == list(EVERY)
    assert asked("white-box") == ["lookup", "gmi"]
    assert asked("label-only") == ["lookup-label-only"]
    assert asked(defense=of_output) == ["lookup", "lookup-label-only"]
    with pytest.raises(
        RequestError, match=r"filter changes the answers only.*takes the filter off"
    ):
        asked("white-box", of_output)


def test_a_protocol_without_a_list_says_so(tiny: Protocol) -> None:
    with pytest.raises(RequestError, match="the protocol tiny has no list of label-only attacks"):
        asked("label-only")
    with pytest.raises(RequestError, match="access 'grey-box': there are white-box"):
        asked("grey-box")  # type: ignore[arg-type]


# -- worst cases ------------------------------------------------------------------------------


def test_the_worst_case_is_that_of_boards_with_an_interval_over_identities() -> None:
    first, second = (
        ["1110", "0000", "1111", "0100", "0000"],
        ["1010", "1111", "0000", "0000", "0001"],
    )
    made = {"lookup": make(first, attack="lookup"), "gmi": make(second, attack="gmi")}
    found = worst_case(BOARD, "white-box", made, {})
    values = worst_of_target([[[float(h) for h in row] for row in own] for own in (first, second)])
    assert found.value == pytest.approx(sum(values) / 5)
    assert found.interval == pytest.approx(bootstrap_interval(values, 0))
    assert (found.attacks, found.list_version, found.measure) == (("lookup", "gmi"), 7, TOP1)
    assert not found.missing
    assert in_words(found) == (
        f"Worst case, white-box: {100 * sum(values) / 5:.1f} % "
        f"[{100 * found.interval[0]:.1f}, {100 * found.interval[1]:.1f}]"
    )
    over_seeds = BOARD.model_copy(update={"interval": "seeds"})
    assert worst_case(over_seeds, "white-box", made, {}).interval is None


def test_what_a_worst_case_is_without_is_said() -> None:
    made = {"lookup": make(10, attack="lookup"), "gmi": diverged(attack="gmi")}
    found = worst_case(BOARD, "white-box", made, {})
    assert found.value == pytest.approx(0.5)
    assert found.missing == {"gmi": "diverged"}
    assert in_words(found).endswith("; without gmi (diverged), so that it may well be more")
    lost = worst_case(BOARD, "label-only", made, {"lookup-label-only": "failed in metrics: no"})
    assert (lost.value, lost.interval) == (None, None)
    assert lost.missing == {"lookup-label-only": "failed in metrics: no"}
    assert "none, as no attack" in in_words(lost)
    assert worst_case(BOARD, "black-box", {}, {}).dump() == {
        "access": "black-box",
        "attacks": ["lookup"],
        "list_version": 7,
        "metric": None,
        "value": None,
        "interval": None,
        "missing": {"lookup": "not run"},
    }


# -- running it -------------------------------------------------------------------------------


def test_run_prints_records_and_worst_cases_and_resumes(
    listed: Protocol, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = ("--store", str(tiny_store), "--out", "runs", "--device", "cpu", "--quiet")
    command = ("run", "--protocol", "tiny", "--attack", "standard", *where)
    result = invoke(*command, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    made = [Record.model_validate(each) for each in printed["records"]]
    assert [each.attack.name for each in made] == list(EVERY)
    assert {path.parent.parent.name for path in Path("runs").rglob("record.json")} == {"tiny"}
    assert len(list(Path("runs").rglob("record.json"))) == 3
    assert [each["access"] for each in printed["worst_cases"]] == list(get_args(Access))
    assert all(each["interval"] and not each["missing"] for each in printed["worst_cases"])
    again = invoke(*command, "--access", "black-box")
    assert again.exit_code == 0, again.output
    assert "1 cells, 0 stages to compute" in again.stdout
    assert "Worst case, black-box: " in again.stdout
    assert "white-box" not in again.stdout
    # From Python, the same numbers.
    found = mibench.standard(protocol="tiny", store=tiny_store, out="runs", device="cpu")
    assert [each.dump() for each in found.worst_cases] == printed["worst_cases"]
    assert list(found.records) == list(EVERY)
    assert not found.failed


def test_a_cell_that_fails_is_missing_in_the_worst_case_and_the_exit_code(
    listed: Protocol, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ATTACKS.get("lookup-label-only"), "invert", fails)
    options = ("--protocol", "tiny", "--store", str(tiny_store), "--seed", "0", "--quiet")
    setting = ("--set", "attack.copies=3")  # a cell of its own
    result = invoke("run", "--attack", "standard", *options, "--access", "label-only", *setting)
    assert "failed in reconstructions: RuntimeError: no luck" in result.stdout, result.output
    assert "Worst case, label-only: none, as no attack of the list" in result.stdout
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--access", "black-box"), "--access is for --attack standard"),
        (("--attack", "standard", "--prior", "gan"), "each of the standard set has its own"),
        (("--attack", "standard", "--defense", "bidoo"), "did you mean 'bido'"),
        (("--attack", "standard", "--set", "iterations=2"), "paths start with"),
        (("--attack", "improved-standard"), "is no attack of its own, but a set"),
        (("--attack", "standart"), "did you mean 'standard'"),
    ],
)
def test_wrong_requests_are_refused(tiny: Protocol, args: tuple[str, ...], said: str) -> None:
    result = invoke("run", "--protocol", "tiny", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


# -- its name ---------------------------------------------------------------------------------


def test_no_attack_can_have_its_name() -> None:
    class Mine(Attack[Any]):
        def invert(self, problem: Any) -> Any: ...

    with pytest.raises(RequestError, match="registers 'standard', which is a set of attacks"):
        ATTACKS.register("standard")(Mine)
    assert "standard" not in ATTACKS.names()
    with pytest.raises(RequestError, match=r"mibench\.standard"):
        mibench.run(attack="standard")


def test_listings_explanations_and_shells_know_it(listed: Protocol) -> None:
    (entry,) = json.loads(invoke("list", "attacks", "stand*", "--json").stdout)
    assert entry["name"] == "standard"
    told = json.loads(invoke("info", "standard", "--protocol", "tiny", "--json").stdout)
    assert told["white-box"] == ["lookup", "gmi"]
    assert told["label-only"] == ["lookup-label-only"]
    assert told["of_protocol"] == "tiny, list 7"
    assert "standard" in invoke("info", "standart").stderr
    context, option = click.Context(click.Command("run")), click.Option(["--attack"])
    complete = offered("attacks")
    assert [each.value for each in complete(context, option, "gmi,stan")] == ["gmi,standard"]
    assert "improved-gmi" in [each.value for each in complete(context, option, "improved")]
    assert get_args(Access) == ACCESSES
