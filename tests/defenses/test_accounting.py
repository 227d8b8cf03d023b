"""ε and noise: Opacus' own values where it has one, and an answer within seconds elsewhere."""

from __future__ import annotations

import math
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.utils import get_noise_multiplier

from mibench.defenses._accounting import Accountant, Mechanism

OPACUS = {"rdp": RDPAccountant, "prv": PRVAccountant}
SYNTHFACES = {"rate": 64 / 3000, "steps": 1410, "delta": 3000**-1.1}
DIGITS = {"rate": 256 / 9000, "steps": 180, "delta": 9000**-1.1}
FEW = {"rate": 0.1, "steps": 5, "delta": 1e-3}  # which spares the accountant `prv` most of its work


def opacus(accountant: str, noise: float, rate: float, steps: int, delta: float) -> float:
    tool = OPACUS[accountant]()
    tool.history = [(noise, rate, steps)]
    return float(tool.get_epsilon(delta))


@pytest.mark.parametrize("accountant", OPACUS)
@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("plan", [DIGITS, FEW, {"rate": 1.0, "steps": 3, "delta": 1e-3}])
def test_epsilon_is_opacus_own(accountant: Accountant, noise: float, plan: dict) -> None:
    expected = opacus(accountant, noise, **plan)
    assert Mechanism(accountant, **plan).epsilon(noise) == expected


def test_epsilon_of_filed_records() -> None:
    mechanism = Mechanism("rdp", **SYNTHFACES)
    assert mechanism.epsilon(0.005) == 30960410.234694824
    assert mechanism.epsilon(0.15) == 1980.622258927539
    assert mechanism.epsilon(0.4) == 61.10830184417602


@pytest.mark.parametrize(
    ("accountant", "epsilon", "plan"),
    [
        ("rdp", 8.0, SYNTHFACES),
        ("rdp", 8.0, DIGITS),
        ("rdp", 0.1, SYNTHFACES),
        ("rdp", 100.0, DIGITS),
        pytest.param("prv", 8.0, FEW, marks=pytest.mark.slow),
    ],
)
def test_least_noise_is_opacus_own(accountant: Accountant, epsilon: float, plan: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = get_noise_multiplier(
            target_epsilon=epsilon,
            target_delta=plan["delta"],
            sample_rate=plan["rate"],
            steps=plan["steps"],
            accountant=accountant,
            epsilon_tolerance=min(0.01, epsilon / 100),
        )
    assert Mechanism(accountant, **plan).least_noise(epsilon) == expected


@pytest.mark.parametrize("epsilon", [1e3, 1e4, 1e7, 1e12, 1e20])
def test_large_budgets_are_spent(epsilon: float) -> None:
    mechanism = Mechanism("rdp", **SYNTHFACES)
    noise = mechanism.least_noise(epsilon)
    assert noise is not None
    assert mechanism.epsilon(noise) == pytest.approx(epsilon, rel=1e-9, abs=0.01)
    assert mechanism.epsilon(noise) <= epsilon


@pytest.mark.parametrize(
    ("accountant", "epsilon", "plan"),
    [  # Rényi orders end at 63, which leaves ε about log(1/δ)/62; the other's error in ε is 0.01.
        *(("rdp", epsilon, SYNTHFACES) for epsilon in (0.02, 1e-9, 1e30)),
        ("prv", 1e-3, FEW),
        pytest.param("rdp", 0.01, {**FEW, "rate": 0.5}, marks=pytest.mark.slow),
        pytest.param("prv", 1e6, FEW, marks=pytest.mark.slow),
        pytest.param("prv", 1e3, SYNTHFACES, marks=pytest.mark.slow),
    ],
)
def test_budgets_that_no_noise_is_known_to_spend(
    accountant: Accountant, epsilon: float, plan: dict
) -> None:
    start = time.monotonic()
    assert Mechanism(accountant, **plan).least_noise(epsilon) is None
    assert time.monotonic() - start < 120


@pytest.mark.parametrize(
    ("accountant", "noise", "rate"),
    [
        ("rdp", 1e-155, 0.02),  # never ends in Opacus
        ("rdp", 1e-170, 0.02),  # divides by zero there
        ("rdp", 1e8, 0.02),  # raises there
        ("prv", 0.005, 0.02),  # 675 GiB there
        ("prv", 0.02, 0.02),
        ("prv", 1e-12, 0.02),
        ("prv", 1e5, 0.5),  # never ends there
        ("rdp", 0.0, 0.02),
        ("rdp", math.nan, 0.02),
    ],
)
def test_noise_without_a_known_epsilon(accountant: Accountant, noise: float, rate: float) -> None:
    start = time.monotonic()
    assert Mechanism(accountant, rate, 1410, 1e-4).epsilon(noise) == math.inf
    assert time.monotonic() - start < 10


def test_half_of_the_images_a_step_ends_too() -> None:
    """At q = 1/2 fractional orders take some 8σ terms each."""
    start = time.monotonic()
    assert 0 <= Mechanism("rdp", 0.5, 100, 1e-4).epsilon(1e5) < 0.1
    assert time.monotonic() - start < 10


def test_a_negative_bound_is_zero() -> None:
    """δ alone covers what so much noise leaves; the accountant's formula then falls below 0."""
    assert opacus("rdp", 200.0, 0.1, 1, 100**-1.1) < 0
    assert Mechanism("rdp", 0.1, 1, 100**-1.1).epsilon(200.0) == 0


@settings(max_examples=25, deadline=None)
@given(
    rate=st.one_of(st.floats(1e-6, 1), st.sampled_from([0.5, 1.0])),
    steps=st.integers(1, 10**7),
    delta=st.floats(1e-30, 0.99),
    noise=st.one_of(st.floats(1e-3, 1e2), st.floats(0, 1e300)),
)
def test_epsilon_is_a_number_and_grows(rate: float, steps: int, delta: float, noise: float) -> None:
    start = time.monotonic()
    epsilon = Mechanism("rdp", rate, steps, delta).epsilon(noise)
    assert epsilon >= 0
    assert Mechanism("rdp", rate, 2 * steps, delta).epsilon(noise) >= epsilon * (1 - 1e-9)
    assert time.monotonic() - start < 10
