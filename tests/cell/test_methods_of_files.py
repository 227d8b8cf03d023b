"""Slips in a method's file, or in what a card says of methods: refused at once, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mibench.cell.request import Request
from mibench.cell.resolve import resolve
from mibench.cli.known import listing
from mibench.errors import RequestError
from mibench.protocols import PROTOCOLS, Protocol
from tests.kit.command_line import invoke
from tests.kit.guide import forget_afterwards

START = """
from pydantic import BaseModel
from mibench.inversion.attack import Attack, AttackConfig
from mibench.priors import PriorConfig, PriorKind
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.types import AttackCard, DefenseCard

said = dict(title="t", authors="a", year=2026, venue="v", url="u")
"""
DEFENSE = """
class Mine(Defense):
    card = DefenseCard(**said, adaptive_attack="gmi")
"""
ATTACK = """
class Mine(Attack):
    card = AttackCard(**said)
    def invert(self, problem): ...
"""
PRIOR = """
class Mine(PriorKind):
    title = "mine"
    def train(self, job): ...
    @classmethod
    def load(cls, description, tensors): ...
"""
SLIPS = [
    ("defense", "class Mine(Defense): pass", "Mine has no card; write `card = DefenseCard"),
    ("defense", f"{DEFENSE}    strength = 'alhpa'", "Mine.strength is 'alhpa'"),
    ("defense", f"{DEFENSE}    class Config(DefenseConfig):\n        alpha: float", "alpha: every"),
    ("defense", f"{DEFENSE}    class Config(BaseModel): pass", "must extend DefenseConfig"),
    ("defense", f"@register_defense('bido'){DEFENSE}", "mine.py:Mine registers 'bido', .* own"),
    (
        "defense",
        f"{DEFENSE}    training = dict(epoch=3)",
        r"training: target\.epoch: .*epochs",
    ),
    ("defense", "class Mine: pass", r"mine\.py:Mine is no defense: .*training\.defense\.Defense"),
    ("attack", ATTACK.replace("def invert", "def inver"), r"mine\.py:Mine lacks invert\(\)"),
    ("attack", f"{ATTACK}    access = 'gray-box'", "'gray-box' is no access; write one of white-b"),
    ("attack", f"{ATTACK}    prior = 3", "its prior is 3; write a registered name"),
    ("prior", f"{PRIOR}    needs = 'greybox'", "'greybox' is no access"),
    ("prior", f"{PRIOR}    class Config: pass", "must extend PriorConfig"),
    ("prior", PRIOR.replace("def train", "def trai"), r"lacks train\(\), which every prior has"),
    ("prior", f"{PRIOR}    def f(:", r"SyntaxError: .* \(.*mine\.py, line \d+\)"),
    ("prior", f"DefenseCard(title=1)\n{PRIOR}", r"\(.*mine\.py, line 9\)"),
]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    forget_afterwards(monkeypatch)
    return tmp_path / "mine.py"


@pytest.mark.parametrize(("kind", "text", "said"), SLIPS)
def test_a_slip_in_a_methods_file_is_said_at_once(
    mine: Path, tiny: Protocol, kind: str, text: str, said: str
) -> None:
    mine.write_text(START + text)
    asked: dict[str, Any] = {"protocol": tiny.name, "attack": "vmi", kind: f"{mine}:Mine"}
    with pytest.raises(RequestError, match=said):
        resolve(Request(**asked))
    if kind != "prior":
        described = invoke("info", f"{mine}:Mine")
        assert described.exit_code == 2
        assert "Traceback" not in described.stderr


def test_a_slip_in_a_cards_table_of_methods_is_said(
    tiny: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(**fields: Any) -> None:
        monkeypatch.setitem(PROTOCOLS, "tiny", tiny.model_copy(update=fields))
        resolve(Request(protocol="tiny", attack="kedmi"))

    asked(attacks={"my-attack": {"attack.steps": 3}})  # of a file, which other cells run
    for fields, said in (
        (
            {"attacks": {"kedm": {}}},
            r"tiny, attacks\.kedm: nothing is called so; did you mean",
        ),
        ({"defenses": {"bidoo": {}}}, r"defenses\.bidoo: .*'bido'"),
        (
            {"attacks": {"kedmi": {"attack.iteration": 3}}},
            r"protocol tiny, attacks\.kedmi: att",
        ),
        ({"priors": {"inversion-gan": {"prior.step": 3}}}, r"priors\.inversion-gan: prior\.step"),
    ):
        with pytest.raises(RequestError, match=said) as caught:
            asked(**fields)
        assert "--set" not in str(caught.value)


def test_settings_that_nothing_would_read_are_refused() -> None:
    with pytest.raises(RequestError, match=r"pins its general prior.*add --set prior\.source=scr"):
        resolve(Request(overrides={"prior.gan.steps": 5}))
    found = resolve(Request(overrides={"prior.gan.steps": 5, "prior.source": "scratch"}))
    assert found.prior_config.gan.steps == 5
    with pytest.raises(RequestError, match=r"defense\.scale: .*it has no settings at all"):
        resolve(Request(overrides={"defense.scale": 2}))


def test_a_prior_that_scores_no_realism_is_refused_to_who_asks_for_it(
    mine: Path, tiny: Protocol
) -> None:
    mine.write_text(START + PRIOR)
    kind = f"{mine}:Mine"
    resolve(Request(protocol=tiny.name, attack="vmi", prior=kind))
    for attack in ("gmi", "kedmi"):
        with pytest.raises(RequestError, match=f"prior 'Mine' does not score .* attack '{attack}'"):
            resolve(Request(protocol=tiny.name, attack=attack, prior=kind))


def test_an_attack_without_white_box_access_has_no_variants(mine: Path, tiny: Protocol) -> None:
    mine.write_text(f"{START}{ATTACK}    access = 'label-only'")
    resolve(Request(protocol=tiny.name, attack=f"{mine}:Mine"))
    with pytest.raises(RequestError, match="so it has no variants"):
        resolve(Request(protocol=tiny.name, attack=f"improved-{mine}:Mine"))
    assert all(each["access"] == "white-box" for each in listing("attacks", "*+lom"))


def test_options_of_a_judge_can_be_set_by_their_paths(mine: Path, tiny: Protocol) -> None:
    """As ``mibench info`` shows them; the judge's own class knows what there is."""
    mine.write_text(
        "from pydantic import BaseModel\n"
        "from mibench.judges.evaluators import Evaluator\n"
        "class Mine(Evaluator):\n"
        "    title = 'mine'\n"
        "    class Options(BaseModel, extra='forbid'):\n"
        "        sharpness: float = 1\n"
        "    def train(self, job): ...\n"
        "    def outputs(self, images): ...\n"
        "    def build(self): ...\n"
    )
    options = "protocol.second.options"
    asked = {"protocol.second.kind": f"{mine}:Mine", f"{options}.sharpness": 2}
    found = resolve(Request(protocol=tiny.name, overrides=asked))
    assert found.protocol.second.options == {"sharpness": 2}
    with pytest.raises(RequestError, match=r"protocol\.second.*sharpnes"):
        resolve(Request(protocol=tiny.name, overrides={**asked, f"{options}.sharpnes": 2}))
