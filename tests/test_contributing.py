"""CONTRIBUTING.md works: its files are written, its commands run, on the smallest problem."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest
import torch

from mibench.training.defense import DEFENSES
from tests.kit import guide
from tests.kit.command_line import invoke
from tests.kit.guide import ROOT, TEXT, commands, forget_afterwards, tried, write_files
from tests.test_layout import FLOORS

DEFENSE = "A defense in thirty minutes"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def desk(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the guide's files."""
    forget_afterwards(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIBENCH_STORE", str(store))
    monkeypatch.setenv("MIBENCH_DATA", str(tmp_path / "data"))
    return write_files(tmp_path)


def records(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("record.json"))]


def test_a_defense_is_run_and_its_control_beside_it(desk: Path) -> None:
    for command in commands(DEFENSE):
        printed = tried(command).output
    assert "Penalizing Confident Output Distributions" in printed, "the card is shown"
    made = records(desk / "mibench-runs")
    assert [each["defense"]["name"] for each in made] == ["confidence-penalty"] * 2
    assert {each["defense"]["resolved"]["beta"] for each in made} == {0, 0.1}
    assert all(each["status"] == "complete" for each in made)


def test_a_defense_becomes_a_row_of_the_board(desk: Path) -> None:
    """Grids are planned and not run; a record that is no board's is refused with the reason."""
    tried(commands(DEFENSE)[0])
    DEFENSES.get("confidence_penalty.py:ConfidencePenalty")  # as if the file lay in defenses/
    for command in commands(DEFENSE, "board"):
        if command[1] == "grid":
            tried([*command, "--dry-run"])
        elif command[1:3] == ["leaderboard", "add"]:
            result = invoke(*command[1:3], *map(str, (desk / "mibench-runs").glob("*/*")))
            assert result.exit_code == 1, result.output
            assert "quick-faces" in result.output
        else:
            assert command[1:] == ["leaderboard", "build"]
            assert invoke(*command[1:], "--help").exit_code == 0


def test_the_defense_is_the_confidence_penalty(desk: Path) -> None:
    cls = DEFENSES.get("confidence_penalty.py:ConfidencePenalty")
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])

    def loss(beta: float) -> torch.Tensor:
        return cls(cls.Config(beta=beta)).loss(lambda _: logits, None, labels, None)  # type: ignore

    plain = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(loss(0), plain)
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    torch.testing.assert_close(loss(0.3), plain - 0.3 * entropy)
    # By hand: entropies of (.880797, .119203) and (.268941, .731059) in nats.
    torch.testing.assert_close(loss(1), torch.tensor(0.720095 - (0.365334 + 0.582203) / 2))


def test_the_defense_keeps_the_contract(desk: Path) -> None:
    from tests.defenses import test_contract as contract

    DEFENSES.get("confidence_penalty.py:ConfidencePenalty")
    asked = 0
    for name, test in vars(contract).items():
        if name.startswith("test_") and list(inspect.signature(test).parameters) == ["name"]:
            test("confidence-penalty")
            asked += 1
    assert asked >= 6


def test_an_attack(desk: Path) -> None:
    for command in commands("An attack"):
        tried(command)
    made = records(desk / "mibench-runs")
    assert {each["attack"]["name"] for each in made} == {"adam-search", "improved-adam-search"}


def test_a_prior(desk: Path) -> None:
    for command in commands("A prior"):
        tried(command)
    made = records(desk / "mibench-runs")
    assert [each["prior"]["kind"] for each in made] == ["eigenfaces"] * 2
    assert {each["prior"]["resolved"]["components"] for each in made} == {8, 64}


def test_a_source(desk: Path) -> None:
    pictures = make_pictures(desk / "pictures")
    for command in commands("A source"):
        tried(command)
    (made,) = records(desk / "mibench-runs")
    assert "flat" in made["protocol"]["resolved"]["data"]["dataset"]
    assert made["people"] is True
    assert len(list((desk / "data").iterdir())) >= 1
    assert pictures


def make_pictures(folder: Path) -> list[Path]:
    """Rendered faces, flat: five of 14 pictures, eight of 5."""
    from PIL import Image

    from mibench.data.rendered import render_dataset
    from tests.conftest import TINY

    folder.mkdir()
    data = render_dataset(TINY.data, 32)  # type: ignore[arg-type]
    for kind, part in (("private", data.train), ("private", data.test), ("public", data.public)):
        for image, label in zip(part.images, part.labels.tolist(), strict=True):
            name = f"{kind}{label}"
            count = len(list(folder.glob(f"{name}_*")))
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{name}_{count:02d}.png")
    return list(folder.iterdir())


def test_an_evaluator(desk: Path) -> None:
    for command in commands("An evaluator"):
        tried(command)
    (made,) = records(desk / "mibench-runs")
    assert made["protocol"]["resolved"]["second"]["kind"] == "nearest-mean"
    assert made["protocol"]["source"]


def test_a_judge(desk: Path) -> None:
    make_pictures(desk / "pictures")
    tried(commands("A source")[0])
    for command in commands("A judge"):  # whole: a share of the budget leaves it at chance
        assert invoke(*command[1:]).exit_code == 0
    (made,) = records(desk / "mibench-runs")
    assert made["protocol"]["resolved"]["judges"][0]["kind"] == "coarse-pixels"
    assert made["metrics"]["median_rank"]["among"] == 3  # three of five are private
    ranks = made["metrics"]["median_rank"]["ranks"]
    assert len(ranks) == 3
    assert {rank for row in ranks for rank in row} <= {1, 2, 3}


def test_a_protocol(desk: Path) -> None:
    for command in commands("A protocol"):
        tried(command)
    (made,) = records(desk / "mibench-runs")
    assert made["protocol"]["name"] == "quick-faces"


def test_every_block_is_executed() -> None:
    """No block of Python is without a name, and no command is in a block that nobody runs."""
    assert TEXT.count("```python") == len(guide.FILES)
    titles = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
    run = [
        command for title in titles for mark in ("", "board") for command in commands(title, mark)
    ]
    assert len(run) == len(re.findall(r"^mibench ", TEXT, re.MULTILINE))
    assert {command[0] for command in run} == {"mibench"}


def test_the_map_is_the_tree() -> None:
    """Every room of mibench's has a line, and every line a room."""
    drawn = guide.section("Where things are").partition("```\n")[2].partition("```")[0]
    above, _, below = drawn.partition("mibench/\n")
    rooms = set(re.findall(r"^  (\w+) ", below, re.MULTILINE))
    package = ROOT / "mibench"
    there = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    assert rooms == there - {"__init__", "__main__"}
    for name in re.findall(r"^(\w+)/ ", above, re.MULTILINE):
        assert (ROOT / name).is_dir(), name
    drawn = guide.section("Where things are").partition("\n> ")[2].partition("\n\n")[0]
    floors = [set(re.findall(r"[a-z]+", floor)) for floor in drawn.split("→")]
    assert floors == [each for each in FLOORS if each != {"__main__"}]


def test_every_path_that_is_named_is_there() -> None:
    named = set(re.findall(r"\b(?:tests|tools|mibench|docs)/[\w./-]+\.(?:py|toml|md)\b", TEXT))
    made = {"tests/defenses/test_confidence_penalty.py"}  # by the reader
    assert not [path for path in named - made if not (ROOT / path).exists()]
