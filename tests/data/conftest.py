"""What tests register is forgotten after each."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from mibench.data.source import SOURCES


@pytest.fixture(autouse=True)
def known_sources() -> Iterator[None]:
    """Sources of files that a test loads are of that test only."""
    before = copy.copy(SOURCES.__dict__)
    SOURCES.__dict__.update({k: v.copy() for k, v in before.items() if isinstance(v, dict)})
    yield
    SOURCES.__dict__.update(before)
