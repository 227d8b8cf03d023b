"""Registries in listings: read off files they have never heard of."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mibench.cli import known
from mibench.cli.known import KINDS, ROWS, Row, listing
from mibench.inversion.attack import ATTACKS
from mibench.names import AttackName
from mibench.training.defense import DEFENSES
from tests.kit.methods import attack_names

HOME = '''
from __future__ import annotations
from typing import ClassVar
from pydantic import Field
from mibench.registry import Registry
from mibench.types import Frozen

class PriorKind:
    """What kinds of priors have in common."""
    title: ClassVar[str]
    needs: ClassVar[str | None] = None

    class Config(Frozen):
        steps: int = Field(100, ge=1, description="steps of training")

PRIORS = Registry("prior", PriorKind, "kinds", "kinds")
register_prior = PRIORS.register
'''
METHOD = '''
import sys
from kinds_room.home import PriorKind, register_prior
{before}
@register_prior("{name}")
class Mine(PriorKind):
    """A prior.

    More of it.
    """
    title = {title}
    {more}
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry of priors with its home and two kinds, one of which needs to be imported."""
    home = tmp_path / "kinds_room"
    home.mkdir()
    (home / "home.py").write_text(HOME)
    package = tmp_path / "kinds"
    package.mkdir()
    (package / "_shared.py").write_text("1 / 0")
    plain = METHOD.format(name="plain", title="'Plain'", before="1 / 0", more="needs = 'white-box'")
    (package / "plain.py").write_text(plain)
    computed = METHOD.format(name="made-up", title="'Made ' + 'up'", before="", more="")
    (package / "made_up.py").write_text(computed)
    monkeypatch.syspath_prepend(tmp_path)
    row = Row("kinds", "kinds_room.home", "PriorKind", {"needs": "needs", "title": "title"})
    monkeypatch.setitem(ROWS, "prior", row)
    monkeypatch.setattr(known, "_PACKAGE", home)
    monkeypatch.setitem(known._LISTINGS, "priors", lambda: known._registered("prior"))
    known._base.cache_clear()
    yield tmp_path
    known._base.cache_clear()
    for name in {each for each in sys.modules if each.startswith("kinds")}:
        del sys.modules[name]


def test_a_row_is_all_that_a_listing_needs_of_a_registry(folder: Path) -> None:
    (folder / "kinds" / "made_up.py").unlink()
    assert listing("priors") == [{"name": "plain", "needs": "white-box", "title": "Plain"}]
    assert not {"kinds.plain", "kinds_room.home"} & sys.modules.keys()  # its `1 / 0` was not run


def test_what_is_not_said_outright_is_imported_for(folder: Path) -> None:
    (folder / "kinds" / "plain.py").unlink()
    assert listing("priors") == [{"name": "made-up", "needs": None, "title": "Made up"}]
    assert "kinds.made_up" in sys.modules


def test_registries_are_listed_once_their_rooms_are_there() -> None:
    assert set(ROWS) >= {"attack", "defense"}
    assert {f"{kind}s" for kind in ROWS} <= set(KINDS)


def test_every_attack_is_listed_with_its_variants_beside_its_like() -> None:
    entries = listing("attacks")
    assert entries.pop()["name"] == "standard", "a set of them, named like one"
    names = [entry["name"] for entry in entries]
    assert {AttackName.parse(name).base for name in names} == set(ATTACKS.names())
    assert set(names) <= set(attack_names())
    for base in ("gmi", "kedmi", "vmi", "ppa"):
        first = names.index(base)
        assert names[first : first + 7] == [
            *(base, f"{base}+lom", f"{base}+ma", f"improved-{base}"),
            *(f"{base}+taa", f"{base}+paa", f"{base}+untrap"),
        ]
    for base in ("lookup", "lookup-label-only"):
        first = names.index(base)
        assert names[first : first + 2] == [base, f"{base}+repeat"]
        assert entries[first + 1]["title"].endswith(", each question asked several times")
    groups = [(entry["access"], entry["prior"]) for entry in entries]
    assert len(set(groups)) == 1 + sum(a != b for a, b in itertools.pairwise(groups))


def test_defenses_that_change_the_same_thing_are_listed_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the order of what they change; last those of no kind. It says where each is from."""
    entries = {entry["name"]: entry for entry in listing("defenses")}
    assert sorted(entries) == DEFENSES.names()
    assert list(entries["bido"]) == [
        "name", "kind", "title", "strength", "guarantee", "venue", "year",
    ]  # fmt: skip
    assert [entries["bido"][key] for key in ("kind", "venue", "year")] == ["loss", "KDD", 2022]
    assert entries["none"]["kind"] is None
    given = ["none", "b", "privacy", "training", "output", "loss", "data", "architecture"]
    facts = [{"name": name, "kind": None if name in ("none", "b") else name} for name in given]
    monkeypatch.setattr(known, "_registered", lambda _: facts)
    assert [entry["name"] for entry in listing("defenses")] == [
        "loss", "data", "architecture", "training", "output", "privacy", "none", "b",
    ]  # fmt: skip


def test_adaptive_attacks_are_those_of_the_cards() -> None:
    read = known.defense_facts()
    assert read.keys() == set(DEFENSES.names())
    for name, said in read.items():
        card = DEFENSES.get(name).card
        assert (said.attack, said.note) == (card.adaptive_attack, card.adaptive_note)
    assert read["none"].attack is None
    assert read["bido"].attack == "improved-gmi+taa"
    assert (read["bido"].access, read["none"].access) == ("white-box", None)
    kinds = {name: DEFENSES.get(name).card.kind for name in read}
    assert {name: said.output for name, said in read.items()} == {
        name: kind == "output" for name, kind in kinds.items()
    }
    falling = [name for name, said in read.items() if said.smaller_is_stronger]
    assert falling == ["loft", "top-k"], "the narrower, the more it protects"


def test_an_attack_without_an_identity_loss_has_no_variants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ATTACKS.get("gmi"), "optimises_identity", False)
    monkeypatch.setattr(
        known, "_read_class", lambda *_: (_ for _ in ()).throw(known.UnreadableError)
    )
    names = [entry["name"] for entry in listing("attacks")]
    assert [name for name in names if "gmi" in name] == ["gmi"]
    assert "kedmi+lom" in names


@pytest.mark.parametrize("kind", known.ROWS)
def test_a_registry_that_is_not_loaded_is_the_same(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the same names, from files and from the same packages' entry points."""
    loaded = known.registry(kind, load=True)
    monkeypatch.delitem(sys.modules, known.ROWS[kind].home)
    bare = known.registry(kind)
    assert bare is not loaded
    assert (bare.package, bare.group, bare.kind) == (loaded.package, loaded.group, loaded.kind)
