"""The tables of hyper-parameters and of networks hold what cards, methods and networks hold."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from mibench.methods import DEFENSES
from mibench.protocols import PROTOCOLS
from mibench.resolve import Cell, attack_names, resolve
from mibench.types import RunSpec
from tests.problems import PAPERS

TABLE = Path(__file__).resolve().parent.parent / "docs" / "parity.md"


def rows(text: str) -> list[list[str]]:
    """Rows of the only table in a part of the page, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[each.strip() for each in line.strip("|").split("|")] for line in lines[1:]]


ROWS, NETWORKS = map(rows, TABLE.read_text().split("## Sizes of networks"))


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


@pytest.mark.parametrize("row", NETWORKS, ids=lambda row: row[0])
def test_networks_have_the_published_number_of_parameters(row: list[str]) -> None:
    architecture, published, where, ours = row
    with torch.device("meta"):
        network = timm.create_model(architecture, num_classes=1000)
    count = sum(each.numel() for each in network.parameters())
    assert f"{count:,}" == ours
    assert where
    if published.endswith(" M"):
        assert f"{count / 1e6:.2f} M" == published
    else:
        assert published == ours


@pytest.mark.parametrize("name", PAPERS)
def test_every_network_of_the_papers_protocols_is_in_the_table(name: str) -> None:
    card = PROTOCOLS[name]
    judges = (card.evaluator.architecture, card.second.architecture)
    used = {card.target, *judges, *card.students.architectures, *card.initialisation}
    assert used <= {row[0] for row in NETWORKS}
