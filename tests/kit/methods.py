"""Names of methods, for tests that go through all of them."""

from __future__ import annotations

from mibench.inversion.attack import ATTACKS


def attack_names() -> list[str]:
    """Every registered attack with its variants."""
    return [name for base in ATTACKS.names() for name in ATTACKS.get(base).variants(base)]
