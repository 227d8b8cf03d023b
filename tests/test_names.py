"""Names of attacks and cells, taken apart and put together."""

from __future__ import annotations

import pytest

from mibench.errors import RequestError
from mibench.names import AttackName, asking_variants, cell_name, method_label, variants


@pytest.mark.parametrize(
    ("name", "lom", "ma", "full"),
    [
        ("gmi", False, False, "gmi"),
        ("gmi+lom", True, False, "gmi+lom"),
        ("gmi+ma", False, True, "gmi+ma"),
        ("gmi+lom+ma", True, True, "improved-gmi"),
        ("gmi+ma+lom", True, True, "improved-gmi"),
        ("improved-gmi", True, True, "improved-gmi"),
        ("my-own+ma", False, True, "my-own+ma"),
    ],
)
def test_attack_names(name: str, lom: bool, ma: bool, full: str) -> None:
    parsed = AttackName.parse(name)
    assert (parsed.lom, parsed.ma, parsed.full) == (lom, ma, full)
    assert parsed.base == ("my-own" if "my-own" in name else "gmi")
    assert AttackName.parse(parsed.full) == parsed


def test_names_of_attacks_are_taken_apart_behind_the_path() -> None:
    parsed = AttackName.parse("improved-/a+b/c.py:Mine")
    assert parsed == AttackName("/a+b/c.py:Mine", lom=True, ma=True)
    assert AttackName.parse("a+b/c.py:Mine+ma") == AttackName("a+b/c.py:Mine", ma=True)
    with pytest.raises(RequestError, match="already holds"):
        AttackName.parse("improved-c.py:Mine+ma")


def test_a_strangers_name_is_taken_apart_all_the_same() -> None:
    for name, base in (("gmi+x", "gmi"), ("improved-gmi+lom", "gmi"), ("My+lom@1234", "My")):
        assert AttackName.parse(name, strict=False).base == base
        with pytest.raises(RequestError):
            AttackName.parse(name)


@pytest.mark.parametrize(
    ("name", "views", "full"),
    [
        ("gmi+taa", "taa", "gmi+taa"),
        ("improved-gmi+taa", "taa", "improved-gmi+taa"),
        ("gmi+paa+lom+ma", "paa", "improved-gmi+paa"),
        ("gmi+taa+lom", "taa", "gmi+lom+taa"),
    ],
)
def test_views_go_with_any_improvement(name: str, views: str, full: str) -> None:
    parsed = AttackName.parse(name)
    assert (parsed.base, parsed.views, parsed.full) == ("gmi", views, full)
    assert AttackName.parse(full) == parsed


def test_repeating_stands_alone() -> None:
    parsed = AttackName.parse("lookup+repeat")
    assert parsed == AttackName("lookup", repeat=True)
    assert parsed.full == "lookup+repeat"
    assert not parsed.improves
    assert asking_variants("a+b/c.py:Mine") == ["a+b/c.py:Mine", "a+b/c.py:Mine+repeat"]
    assert AttackName.parse("a+b/c.py:Mine+repeat").base == "a+b/c.py:Mine"
    for name in ("gmi+lom+repeat", "gmi+repeat+taa", "improved-gmi+repeat"):
        with pytest.raises(RequestError, match=r"\+repeat is for attacks that only ask"):
            AttackName.parse(name)
        assert AttackName.parse(name, strict=False).repeat
    with pytest.raises(RequestError, match="once each; or repeat"):
        AttackName.parse("lookup+repeat+repeat")
    with pytest.raises(RequestError, match="once each; or repeat"):
        AttackName.parse("lookup+repeats")


def test_two_kinds_of_views_exclude_each_other() -> None:
    with pytest.raises(RequestError, match=r"\+taa and \+paa .* choose one"):
        AttackName.parse("gmi+taa+paa")
    with pytest.raises(RequestError, match="once each"):
        AttackName.parse("gmi+taa+taa")


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("gmi+untrap", "gmi+untrap"),
        ("gmi+untrap+taa+ma+lom", "improved-gmi+taa+untrap"),
        ("improved-c.py:Mine+untrap", "improved-c.py:Mine+untrap"),
    ],
)
def test_untrap_goes_with_everything_and_comes_last(name: str, full: str) -> None:
    parsed = AttackName.parse(name)
    assert parsed.untrap
    assert parsed.full == full
    assert AttackName.parse(full) == parsed
    assert not AttackName.parse("gmi+taa").untrap
    with pytest.raises(RequestError, match="untrap, once each"):
        AttackName.parse("gmi+untrap+untrap")


def test_variants_are_all_spellings_of_an_attack() -> None:
    of_the_target = [
        *("gmi", "gmi+lom", "gmi+ma", "improved-gmi"),
        *("gmi+taa", "gmi+lom+taa", "gmi+ma+taa", "improved-gmi+taa"),
        *("gmi+paa", "gmi+lom+paa", "gmi+ma+paa", "improved-gmi+paa"),
    ]
    assert variants("gmi") == [*of_the_target, *(f"{each}+untrap" for each in of_the_target)]
    assert [AttackName.parse(each).full for each in variants("a.py:B")] == variants("a.py:B")


def test_names_of_cells() -> None:
    cell = {"attack": "gmi", "defense": method_label("Mine", "ab" * 32), "target": "resnet18"}

    def name(**passed: object) -> str:
        return cell_name(**cell, seed=3, passed={k.replace("_", "."): v for k, v in passed.items()})

    assert name() == "gmi_Mine@abababab_resnet18_seed3"
    assert (
        name(defense_scale=0)
        == name(defense_scale=0.0)
        == "gmi_Mine@abababab-scale=0_resnet18_seed3"
    )
    assert name(target_epochs=2) == "gmi_Mine@abababab-target.epochs=2_resnet18_seed3"
    others = {name(attack_clip=1), name(attack_clip=2), name(attack_clip=1, defense_scale=0)}
    assert len(others) == 3
    assert all(len(each) == len("gmi_Mine@abababab-12345678_resnet18_seed3") for each in others)
