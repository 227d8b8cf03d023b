"""The table of the papers' hyper-parameters holds what the protocol cards and methods hold."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mibench.methods import DEFENSES
from mibench.protocols import PROTOCOLS
from mibench.resolve import Cell, attack_names, resolve
from mibench.types import RunSpec

TABLE = Path(__file__).resolve().parent.parent / "docs" / "parity.md"
LINES = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
ROWS = [[each.strip() for each in line.strip("|").split("|")] for line in LINES[1:]]


@cache
def cell(of: str) -> Cell:
    """The cell that a row is about; no weights are at hand, and none are needed for its fields."""
    request: dict[str, Any] = {"protocol": "celeba-64", "attack": "gmi"}
    kinds = {"protocol": PROTOCOLS, "attack": attack_names(), "defense": DEFENSES.names()}
    (kind,) = [kind for kind, names in kinds.items() if of in names]
    scratch = {"protocol.initialisation": {}}
    return resolve(RunSpec(**{**request, kind: of}, overrides=scratch))


def value(of: str, path: str) -> Any:
    part, *fields = path.split(".")
    found = cell(of)
    configs = {"protocol": found.protocol, "target": found.training}
    configs |= {"defense": found.defense_config, "attack": found.attack_config}
    result = configs[part].model_dump(mode="json")
    for field in fields:
        result = result[field]
    return result


def read(text: str) -> Any:
    """A cell of the table as JSON has it; lists are written with commas."""
    if ", " in text:
        return text.split(", ")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[2]}-{row[4]}")
def test_defaults_are_what_the_table_says(row: list[str]) -> None:
    source, what, of, published, path, default, remark = row
    assert source
    assert what
    found, stated = value(of, path), read(default)
    assert found == stated
    assert read(published) == stated or remark, "a departure needs its reason"


@pytest.mark.parametrize("name", sorted(attack_names()))
def test_every_attack_of_the_papers_is_in_the_table(name: str) -> None:
    base = re.sub(r"^improved-|\+.*$", "", name)
    paths = [row[4] for row in ROWS if row[2] in (base, f"improved-{base}")]
    assert len(paths) == len(set(paths))
    fields = cell(base).attack_config.model_dump()
    shared = {"identity", "augment", "students", "prior", "max_rows", "prior_weight"}
    own = {f"attack.{field}" for field in set(fields) - shared - {"prior_training"}}
    # What no paper states: how many draws a step takes, the family that is the default, and width.
    ours = {f"attack.{field}" for field in ("samples_per_step", "family", "flow_width")}
    assert own - ours - {"attack.iterations"} <= set(paths)
