"""What every protocol must keep, and those of somebody's file: TOML, or a name in Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import mibench
from mibench.cell.record import run_folder
from mibench.cell.request import Request
from mibench.cell.resolve import resolve
from mibench.errors import RequestError
from mibench.protocols import PROTOCOLS, Protocol, protocol_named
from mibench.protocols._file import faults
from tests.kit.cells import graph
from tests.kit.command_line import invoke
from tests.kit.guide import FILES, ROOT, forget_afterwards

QUICK = (ROOT / "docs" / "quick-faces.toml").read_text()


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_a_card_holds_together(name: str) -> None:
    """Names, what is pinned, and each method's settings, which its config takes."""
    card = protocol_named(name)
    assert card.name == name
    assert not list(faults(card))
    assert Protocol.model_validate_json(card.model_dump_json()) == card
    for attack in card.attacks:
        resolve(Request(protocol=name, attack=attack))
    for defense in card.defenses:
        resolve(Request(protocol=name, attack="lookup", defense=defense))


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    path = tmp_path / "quick-faces.toml"
    path.write_text(QUICK)
    return path


def test_a_file_is_a_protocol(quick: Path, tiny_store: Path, tmp_path: Path) -> None:
    """It runs, says whose it is, and an edit of a text or of its place makes no other cell."""
    record = mibench.run(
        protocol=str(quick), attack="gmi", budget=0.02, store=tiny_store, out=tmp_path / "out"
    )
    assert record.status == "complete"
    assert record.protocol.name == "quick-faces"
    assert record.protocol.resolved["digest"] == resolve_digest(str(quick), budget=0.02)
    cell = resolve(Request(protocol=str(quick), attack="gmi"))
    assert record.protocol.source == cell.protocol_source
    moved = tmp_path / "elsewhere.toml"
    moved.write_text("# Mine.\n" + QUICK.replace("# rendered", "# drawn"))
    assert resolve(Request(protocol=str(moved))).protocol_source == cell.protocol_source
    moved.write_text(QUICK.replace('"attack.iterations" = 60', '"attack.iterations" = 61', 1))
    other = resolve(Request(protocol=str(moved)))
    assert other.protocol.digest == cell.protocol.digest, "methods' settings are outside of it"
    assert other.protocol_source != cell.protocol_source


def resolve_digest(protocol: str, budget: float = 1) -> str:
    return resolve(Request(protocol=protocol, attack="gmi", budget=budget)).protocol.digest


def test_its_runs_go_where_no_other_cards_do(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(quick.parent)
    words = ("grid", "--protocol", quick.name, "--attacks", "gmi", "--dry-run")
    assert invoke(*words).exit_code == 0
    folders = set()
    for samples in (4, 5):
        quick.write_text(QUICK.replace("samples = 4", f"samples = {samples}"))
        made = graph(protocol=quick.name)
        folders.add(run_folder(made.cell, made.images).parent.name)
    assert len(folders) == 2
    assert all(folder.startswith("quick-faces@") for folder in folders)


def test_no_board_takes_its_records(quick: Path, tiny_store: Path, tmp_path: Path) -> None:
    mibench.run(
        protocol=str(quick), attack="gmi", budget=0.02, store=tiny_store, out=tmp_path / "out"
    )
    result = invoke(
        "leaderboard", "add", str(tmp_path / "out"), "--folder", str(tmp_path / "board")
    )
    assert result.exit_code == 1
    assert "'quick-faces' is someone's own card" in result.output


def test_listings_do_not_know_it_and_info_does(quick: Path) -> None:
    assert "quick-faces" not in invoke("list", "protocols").output
    result = invoke("info", str(quick), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["name"] == "quick-faces"
    named = invoke("info", "gmi", "--protocol", str(quick), "--json")
    fields = {each["path"]: each for each in json.loads(named.stdout)["fields"]}
    assert fields["attack.iterations"]["in_protocol"] == 60


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "quick-faces"', 'name = "synthfaces-32"', "mibench's own"),
        ('name = "quick-faces"', 'name = "folder"', "mibench's own"),
        ('name = "quick-faces"', 'name = "../x"', "at most 64 lower-case letters"),
        ("samples = 4", "samples = 0", "samples: Input should be greater than or equal to 1"),
        ("samples = 4", 'samples = "4"', "samples: Input should be a valid integer"),
        ("samples = 4", "samples = true", "samples: Input should be a valid integer"),
        ("samples = 4", "sample = 4", "sample: there is no such field; did you mean 'samples'"),
        ("samples = 4", "samples = 2026-01-01", "samples: datetime.date"),
        ("samples = 4", "samples = nan", "samples: nan is no finite number"),
        ("identities = 12", "identitys = 12", "data.identitys: there is no such field; did you"),
        ("identities = 12", "identities = 1", "data.identities: Input should be greater"),
        ("learning_rate = 0.05", "rate = 0.05", "training.rate: there is no such field"),
        ('architecture = "test_convnext"', 'kind = "mine.py:Mine"', "evaluator.kind: a TOML card"),
        ("[attacks.gmi]", "[attacks.improved-gmi]", "attacks.improved-gmi: settings are those"),
        ("[attacks.gmi]", '[attacks."gmi+ma"]', "attacks.gmi+ma: settings are those"),
        ('"attack.iterations" = 60', '"iterations" = 60', "paths of settings begin with attack."),
        ("[gan] ", '[assets.prior]\nfile = "x"\nsha256 = "0"\n[gan] ', "assets.prior: the pinned"),
        ("[gan] ", '[assets.x]\nfile = "x"\nsha256 = "0"\n[gan] ', "assets.x: nothing of this"),
        ("[gan] ", '[assets.prior]\nfile = "../x"\nsha256 = "0"\n[gan] ', "no file of mibench's"),
        ("samples = 4", "samples = ", "is no TOML"),
    ],
)
def test_a_bad_field_is_refused_with_its_place(old: str, new: str, said: str, quick: Path) -> None:
    assert old in QUICK
    quick.write_text(QUICK.replace(old, new, 1))
    with pytest.raises(RequestError) as refused:
        protocol_named(str(quick))
    assert said in str(refused.value)
    assert str(quick) in str(refused.value)


def test_a_wrong_file_ends_with_2_before_anything(quick: Path, tmp_path: Path) -> None:
    quick.write_text(QUICK.replace("samples = 4", "sample = 4"))
    words = ("run", "--protocol", str(quick), "--out", str(tmp_path / "out"))
    result = invoke(*words, "--store", str(tmp_path / "store"))
    assert result.exit_code == 2
    assert "sample: there is no such field" in result.output
    assert not (tmp_path / "out").exists()
    absent = invoke("run", "--protocol", str(tmp_path / "none.toml"))
    assert absent.exit_code == 2
    assert "there is no such file" in absent.output


def test_what_a_cell_cannot_use_of_a_card_is_refused_by_name(quick: Path) -> None:
    quick.write_text(QUICK.replace('"attack.iterations" = 60', '"attack.steps" = 60', 1))
    with pytest.raises(RequestError, match=r"attack\.steps: there is no such field"):
        resolve(Request(protocol=str(quick), attack="gmi"))


def test_a_card_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_afterwards(monkeypatch)
    path = tmp_path / "four_samples.py"
    path.write_text(FILES[path.name])
    card = protocol_named(f"{path}:CARD")
    assert (card.name, card.samples) == ("synthfaces-64-four", 4)
    shutil.copy(path, tmp_path / "copy.py")
    sources = {
        resolve(Request(protocol=f"{each}:CARD")).protocol_source
        for each in (path, tmp_path / "copy.py")
    }
    assert len(sources) == 1
    for wrong, said in (
        (f"{path}:CARDS", "did you mean 'CARD'"),
        (str(path), "path/to/mine.py:CARD"),
        (f"{tmp_path}/none.py:CARD", "there is no such file"),
    ):
        with pytest.raises(RequestError, match=said):
            protocol_named(wrong)


def test_a_card_of_an_image_folder_takes_its_folder(quick: Path, tmp_path: Path) -> None:
    start, _, rest = QUICK.partition("[data]")
    quick.write_text(
        start + "[data]\nmin_images = 12\n\n[training]" + rest.partition("[training]")[2]
    )
    with pytest.raises(RequestError, match="needs its image folder: --root DIR"):
        resolve(Request(protocol=str(quick)))
    cell = resolve(Request(protocol=str(quick), root=str(tmp_path)))
    assert cell.protocol.data.min_images == 12  # type: ignore[union-attr]


def test_what_a_card_of_a_file_holds_is_what_it_says(quick: Path) -> None:
    """The same as in Python: TOML is another way of writing a card, not another card."""
    card = protocol_named(str(quick))
    written: dict[str, Any] = card.model_dump(exclude_unset=True)
    assert Protocol.model_validate(written).digest == card.digest
