"""What is published, what the page says of it, and what the code has: all three must agree.

`published.toml` lists the published settings, docs/parity.md their rows; neither is made of the
other, so that a setting without a row, and a row without its setting, are noticed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from mibench.cell.request import Request
from mibench.cell.resolve import Cell, resolve
from mibench.inversion.attack import ATTACKS
from mibench.priors._conditional import ConditionalGenerator, ProjectionDiscriminator
from mibench.priors._networks import Critic, Generator
from mibench.priors.inversion_gan import Discriminator
from mibench.protocols import PROTOCOLS
from mibench.training.defense import DEFENSES
from tests.kit.methods import attack_names
from tests.kit.problems import PAPERS

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "docs" / "parity.md"
PUBLISHED: dict[str, dict[str, Any]] = tomllib.loads((HERE / "published.toml").read_text())
NO_FIELD = "—"
# What no paper of the method states: means of this suite, and what is chosen by an attack's name.
OF_NO_PAPER = {"lookup", "lookup-label-only"}
OURS = {
    "attack.max_rows",
    "prior.source",
    "attack.augment",
    "attack.repeat",
    "attack.repeats.times",
    "attack.repeats.noise",
    "attack.identity.objective",
    "attack.identity.views",
    "attack.identity.eot",
    "attack.untrap",
    "defense.scale",
}

# What PPA's paper alone states: the others start from latents as they are drawn, and keep them all.
OF_PPA = {"attack.selection.pool", "attack.selection.candidates", "attack.selection.crops"}

# Fields of defenses for which no paper of inversion states a number that we know.
UNPUBLISHED = {
    "purifier": ("hidden", "latent", "kl_weight", "steps", "batch_size", "learning_rate"),
    "pruning": ("sparsity", "updates"),
    "weight-decay": ("decay",),
    "rounding": ("step",),
    "top-k": ("k",),
    "dp-sgd": (
        "noise_multiplier", "max_grad_norm", "delta", "target_epsilon", "accountant", "gradients",
        "gradient_memory",
    ),
}  # fmt: skip

Row = tuple[str, ...]


def rows(text: str) -> list[Row]:
    """Rows of the only table in a part of the page, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [tuple(each.strip() for each in line.strip("|").split("|")) for line in lines[1:]]


ROWS, PRIORS, NETWORKS = map(rows, TABLE.read_text().split("\n## "))


@cache
def cell(of: str) -> Cell:
    """The cell that a row is about; no weights are at hand, and none are needed for its fields."""
    name, _, protocol = of.partition(" on ")
    request: dict[str, Any] = {"protocol": protocol or "celeba-64", "attack": "gmi"}
    kinds = {"protocol": PROTOCOLS, "attack": attack_names(), "defense": DEFENSES.names()}
    (kind,) = [kind for kind, names in kinds.items() if name in names]
    if kind == "defense" and DEFENSES.get(name).filters():
        request["attack"] = "lookup"
    scratch = {"protocol.initialisation": {}}
    return resolve(Request(**{**request, kind: name}, overrides=scratch))


def value(of: str, path: str) -> Any:
    """What the code has: a field of the resolved cell, or a constant."""
    if path.startswith("mibench."):
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)
    part, *fields = path.split(".")
    found = cell(of)
    configs = {"protocol": PROTOCOLS[found.protocol.name], "target": found.training}
    configs |= {"defense": found.defense_config, "attack": found.attack_config}
    configs |= {"prior": found.prior_config}
    result = configs[part].model_dump(mode="json")
    for field in fields:
        result = result[field]
    return result


def shown(found: Any) -> str:
    """A value as the page has it."""
    if isinstance(found, list):
        return ", ".join(map(shown, found))
    if found is None or isinstance(found, bool):
        return {None: "null", True: "true", False: "false"}[found]
    return f"{found:g}" if isinstance(found, float) else str(found)


def faults(page: list[Row], published: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where the page's rows are not the published settings, each once, with their values."""
    listed = {
        (of, what): shown(found) for of, each in published.items() for what, found in each.items()
    }
    stated = {(row[2], row[1]): row[3] for row in page}
    found = [f"{of}: no row for {what!r}" for of, what in listed.keys() - stated.keys()]
    found += [f"{of}: {what!r} is not published" for of, what in stated.keys() - listed.keys()]
    for key in listed.keys() & stated.keys():
        if listed[key] != stated[key]:
            found.append(f"{key[0]}: {key[1]!r} is {listed[key]}, and {stated[key]} in its row")
    if len(stated) < len(page):
        found.append("a setting has two rows")
    return found


def test_every_published_setting_has_its_row_and_every_row_its_setting() -> None:
    assert faults(ROWS, PUBLISHED) == []


@pytest.mark.parametrize("index", range(len(ROWS)))
def test_a_row_that_is_missing_or_wrong_is_noticed(index: int) -> None:
    source, what, of, published, *rest = ROWS[index]
    left = [*ROWS[:index], *ROWS[index + 1 :]]
    assert faults(left, PUBLISHED) == [f"{of}: no row for {what!r}"]
    (fault,) = faults([*left, (source, what, of, published + "1", *rest)], PUBLISHED)
    assert fault.endswith("1 in its row")
    assert faults([*ROWS, ROWS[index]], PUBLISHED) == ["a setting has two rows"]
    less = {name: dict(each) for name, each in PUBLISHED.items()}
    del less[of][what]
    assert faults(ROWS, less) == [f"{of}: {what!r} is not published"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[2]}-{row[1]}")
def test_ours_is_what_the_code_has(row: Row) -> None:
    source, what, of, published, path, ours, remark = row
    assert source
    assert what
    if path != NO_FIELD:
        assert shown(value(of, path)) == ours
    assert remark or (published == ours and path != NO_FIELD), "a departure needs its reason"


def leaves(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Dotted paths of all fields that hold a value."""
    for name, found in values.items():
        if isinstance(found, Mapping):
            yield from leaves(found, f"{prefix}{name}.")
        else:
            yield prefix + name


def paths(*of: str) -> set[str]:
    return {row[4] for row in ROWS if row[2] in of}


@pytest.mark.parametrize("name", sorted(set(ATTACKS.names()) - OF_NO_PAPER))
def test_every_field_of_the_papers_attacks_has_a_row(name: str) -> None:
    """Its own fields and its prior's; those that many have are in the rows of one of them."""
    fields = set(leaves(cell(name).attack_config.model_dump(), "attack."))
    fields |= set(leaves(cell(name).prior_config.model_dump(), "prior."))
    shared = {each for each in paths("gmi") if each.startswith(("prior.", "attack.identity."))}
    shared |= {
        each for each in paths("improved-kedmi", "gmi+taa", "gmi+paa") if each.startswith("attack.")
    }
    if name != "ppa":
        shared |= OF_PPA
    assert fields - shared - OURS <= paths(name)


@pytest.mark.parametrize("name", ["none", "mid", "bido", "label-smoothing", "midre"])
def test_every_field_of_the_papers_defenses_and_their_training_has_a_row(name: str) -> None:
    found = cell(name)
    fields = set(leaves(found.defense_config.model_dump(), "defense."))
    fields |= set(leaves(found.training.model_dump(), "target."))
    adam = {"target.momentum"} if found.training.optimizer != "sgd" else set()
    assert fields - adam - OURS <= paths(name)


@pytest.mark.parametrize("name", DEFENSES.names())
def test_every_field_of_a_defense_has_a_row_or_nothing_is_published_of_it(name: str) -> None:
    fields = set(leaves(cell(name).defense_config.model_dump(), "defense."))
    unpublished = {f"defense.{each}" for each in UNPUBLISHED.get(name, ())}
    assert fields - OURS == (paths(name) & fields) | unpublished
    assert not unpublished & paths(name)


def test_the_priors_networks_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        made = (
            Generator(64, 100, 64, "gmi"),
            Critic(64, 64, norm="instance", architecture="gmi"),
            Discriminator(64, 64, 1000, "instance", "kedmi"),
            ConditionalGenerator(64, 1000),
            ProjectionDiscriminator(64, 1000),
        )
    counts = [f"{sum(each.numel() for each in network.parameters()):,}" for network in made]
    assert counts == [row[1] for row in PRIORS] == [row[3] for row in PRIORS]
    assert counts == ["5,142,083", "4,316,545", "18,888,936", "17,973,379", "11,165,441"]


@pytest.mark.parametrize("row", NETWORKS, ids=lambda row: row[0])
def test_networks_have_the_published_number_of_parameters(row: Row) -> None:
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
