"""The acceptance of the judges that protocols pin: what the cards print passes, and is of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy import stats
from scipy.special import betaincinv

from mibench.assets import load_json
from mibench.protocols import PROTOCOLS, Protocol
from tests.kit import command_line

# Judges of photographs, and of images of another size, rank among the data's own decoys.
JUDGED = [card for card in PROTOCOLS.values() if any(each.decoys for each in card.judges)]
each_card = pytest.mark.parametrize("card", JUDGED, ids=lambda card: card.name)
STRANGERS = 1000


def acceptance(card: Protocol) -> dict[str, Any]:
    assert card.acceptance is not None, f"the judges of {card.name} were never accepted"
    found: dict[str, Any] = load_json(card.acceptance)
    return found


def test_a_protocol_has_judges() -> None:
    assert {card.name for card in JUDGED} >= {"synthfaces-32", "synthfaces-32-dev"}


@each_card
def test_it_is_of_the_cards_own_judges(card: Protocol) -> None:
    found = acceptance(card)
    assert found["judges"] == [[each.network.sha256, each.decoys.sha256] for each in card.judges]
    assert found["decoys"] == 100_000


def pushes(found: dict[str, Any]) -> list[tuple[str, dict[str, Any], int]]:
    """Each push by its name, and of how many strangers."""
    told = dict(found["adversarial negatives"])
    strangers = told.pop("strangers")
    assert strangers >= 4000  # of fewer, more matches than α pass
    return [(name, push, strangers) for name, push in told.items()]


def gates(found: dict[str, Any]) -> list[str]:
    """What the figures refuse."""
    failed = []
    accepts = found["true accepts of private test images"]["both"]["0.001"]
    if accepts < 0.95:
        failed.append(f"{accepts:.1%} of private test images")
    for name, push, strangers in pushes(found):
        for rate, share in push["match"].items():
            matches = round(share * strangers)
            lower = betaincinv(matches, strangers - matches + 1, 0.05) if matches else 0
            if lower > float(rate):
                failed.append(f"strangers pushed by {name} match")
    for name, gain in found["look-up"]["gained by a push"].items():
        if gain > 0.5:
            failed.append(f"look-up's images gain {gain:.2f} bits by {name}")
    return failed


@each_card
def test_no_gate_refuses_them(card: Protocol) -> None:
    found = acceptance(card)
    assert gates(found) == []
    assert found["refused"] == []


@each_card
def test_the_push_moves_the_target(card: Protocol) -> None:
    for _, push, _ in pushes(acceptance(card)):
        assert push["named by the target"] > 0.1  # of 100 people


@each_card
def test_what_knows_nothing_shows_nothing(card: Protocol) -> None:
    found = acceptance(card)
    for null in (found["null"], *found["nobody"].values()):
        assert min(null["Kolmogorov–Smirnov p"]) > 1e-3
        assert all(
            each == pytest.approx(1 / math.log(2), abs=0.2) for each in null["bits of each judge"]
        )
        assert 0.6 < null["bits"] < 1.6
        for rate, share in null["match"].items():
            assert share * STRANGERS <= stats.binom(STRANGERS, float(rate)).ppf(0.999)


@each_card
def test_info_prints_it(card: Protocol) -> None:
    shown = command_line.invoke("info", card.name)
    assert shown.exit_code == 0
    for name in acceptance(card):
        assert name in " ".join(shown.stdout.split())
