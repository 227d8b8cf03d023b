"""``mibench list`` and ``mibench info``."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mibench.cli import known
from mibench.cli.known import KINDS
from mibench.cli.show.tables import show_listing
from mibench.inversion.attack import ATTACKS
from mibench.names import REPEATED
from mibench.protocols import PROTOCOLS
from mibench.reading import UnreadableError
from mibench.training.defense import DEFENSES
from tests.kit.command_line import invoke


def listed(*args: str) -> list[dict[str, Any]]:
    result = invoke("list", *args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_lists() -> None:
    attacks = {entry["name"]: entry for entry in listed("attacks")}
    assert {"kedmi", "kedmi+lom", "kedmi+ma", "improved-kedmi"} <= attacks.keys()
    assert attacks["improved-gmi"]["access"] == "white-box"
    assert sorted(entry["name"] for entry in listed("defenses")) == DEFENSES.names()
    assert [entry["name"] for entry in listed("protocols")] == [*PROTOCOLS, "folder"]
    assert "attack_accuracy_top1" in [entry["name"] for entry in listed("metrics")]
    assert len(listed("targets")) > 500
    assert [entry["name"] for entry in listed("targets", "test_resnet*")] == ["test_resnet"]


@pytest.mark.parametrize("kind", KINDS)
def test_lists_as_text_hold_the_names(kind: str) -> None:
    result = invoke("list", kind, "*s*")
    assert result.exit_code == 0
    for entry in listed(kind, "*s*"):
        assert entry["name"] in result.stdout


def test_attacks_are_listed_once_and_their_variants_below_them() -> None:
    shown = invoke("list", "attacks").stdout
    table, _, notes = shown.partition("Variants of X: ")
    rows = [line.split()[1] for line in table.splitlines() if line.startswith("│ ")]
    assert {"gmi", "lookup", "standard"} <= set(rows)
    assert not [row for row in rows if "+" in row or row.startswith("improved-")]
    whites, _, others = notes.partition("Variants of X: ")
    assert "kedmi" in whites.splitlines()[0]
    assert "improved-X" in whites
    assert "X+untrap" in whites
    assert others.splitlines()[0].startswith("lookup, mirror-blackbox")
    assert others.splitlines()[1].split() == ["X+repeat", *REPEATED.split()]
    assert "gmi+lom" in invoke("list", "attacks", "gmi*").stdout, "asked for by name"


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("kind", ["attacks", "defenses", "protocols", "metrics"])
def test_listings_stay_readable_in_a_narrow_terminal(kind: str, width: int) -> None:
    """Nothing is cut off, and a title has a line of its own width."""
    entries = known.listing(kind)
    stream = io.StringIO()
    show_listing(entries, Console(file=stream, width=width))
    shown = stream.getvalue()
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    assert len(shown.splitlines()) <= 4 * len(entries)
    words = shown.split()
    for entry in entries:
        assert entry["name"] in words


def test_a_pattern_without_matches_says_so() -> None:
    result = invoke("list", "targets", "resnet-18")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "'resnet-18'" in result.stderr
    assert listed("attacks", "none*") == []


def test_an_unknown_kind_exits_2() -> None:
    result = invoke("list", "atacks")
    assert result.exit_code == 2
    assert "'attacks'" in result.stderr


def explained(name: str) -> dict[str, Any]:
    result = invoke("info", name, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def paths(entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["path"]: each for each in entry["fields"]}


def test_info_of_an_attack_and_its_variant() -> None:
    entry = explained("improved-kedmi")
    assert (entry["kind"], entry["name"], entry["access"]) == (
        "attack",
        "improved-kedmi",
        "white-box",
    )
    assert entry["card"] == ATTACKS.get("kedmi").card.model_dump(mode="json")
    known = paths(entry)
    eot = known["attack.identity.eot"]
    assert (eot["type"], eot["default"], eot["settable"]) == ("int (≥ 1, ≤ 10000)", 4, True)
    assert "stochastic target" in eot["meaning"]
    objectives = "cross-entropy | logit | max-margin | top-k-margin | poincare"
    assert known["attack.identity.objective"]["type"] == objectives
    assert not known["attack.identity.objective"]["settable"], "its name says +lom"
    assert paths(explained("kedmi"))["attack.identity.objective"]["settable"]
    assert not known["attack.identity.views"]["settable"]
    assert known["attack.identity.objective"]["default"] == "logit"
    assert known["attack.augment"]["default"] is True
    assert not known["attack.augment"]["settable"]
    assert paths(explained("kedmi+lom"))["attack.augment"]["default"] is False
    assert explained("kedmi+lom+ma") == entry


def test_every_field_of_every_method_has_a_meaning() -> None:
    for name in [*ATTACKS.names(), *DEFENSES.names(), "synthfaces-32", "folder", "resnet18"]:
        for path, each in paths(explained(name)).items():
            assert each["meaning"] or path in ("protocol.evaluator", "protocol.second"), path


def test_info_of_a_defense() -> None:
    entry = explained("dp-sgd")
    assert entry["strength"] == "defense.noise_multiplier"
    assert entry["strengths"][0] == 0
    assert entry["card"]["privacy_unit"] == "example"
    assert paths(entry)["defense.max_grad_norm"]["type"] == "float (≥ 1e-09, ≤ 1000000000.0)"
    assert paths(entry)["defense.delta"]["type"].startswith("float | null")


def test_info_of_a_defense_says_what_it_changes_and_who_knows_of_it() -> None:
    lines = {  # of the names to the left
        name: {
            " ".join(line.split()[:2]): line for line in invoke("info", name).stdout.splitlines()
        }
        for name in ("bido", "dp-sgd")
    }
    assert lines["bido"]["kind loss"]
    assert lines["bido"]["adaptive attack"].split()[2:] == ["improved-gmi+taa"]
    assert "AlignMI" in lines["bido"]["adaptive note"]
    assert lines["dp-sgd"]["kind privacy"]
    assert lines["dp-sgd"]["adaptive attack"].split()[2:] == ["none", "named"]
    assert "adaptive attack" not in invoke("info", "gmi").stdout


def test_info_describes_a_kind_of_prior() -> None:
    entry = explained("inversion-gan")
    assert (entry["kind"], entry["needs"]) == ("prior", "black-box")
    assert paths(entry)["prior.steps"]["in_protocol"] == 200
    assert entry["protocols"]["celeba-64"]["prior.critic"] == "kedmi"
    assert explained("kedmi")["prior"] == "inversion-gan"
    assert "prior.steps" in invoke("info", "inversion-gan").stdout
    result = invoke("run", "--prior", "inversion-gam")
    assert result.exit_code == 2
    assert "did you mean 'inversion-gan'?" in result.output


def test_info_shows_what_a_protocol_makes_of_the_fields() -> None:
    """KEDMI's own 2,400 iterations are 200 in the default protocol, which `run` takes."""
    known = paths(explained("kedmi"))["attack.iterations"]
    assert (known["default"], known["in_protocol"]) == (2400, 200)
    result = invoke("info", "kedmi", "--protocol", "lfw-64-small", "--json")
    entry = json.loads(result.stdout)
    assert entry["in_protocol"] == "lfw-64-small"
    fields = paths(entry)
    assert fields["prior.steps"]["in_protocol"] == 200
    assert fields["prior.gan.steps"]["in_protocol"] == 2000
    assert fields["attack.coupled"]["in_protocol"] == fields["attack.coupled"]["default"]
    bido = paths(json.loads(invoke("info", "bido", "--protocol", "folder", "--json").stdout))
    assert bido["target.learning_rate"]["in_protocol"] == 1e-4  # BiDO's own, over the protocol's
    assert "in lfw-64-small" in invoke("info", "kedmi", "--protocol", "lfw-64-small").stdout
    for name, protocol, said in (
        ("kedmi", "lfw-64-smal", "'lfw-64-small'"),
        ("fid", "folder", "--protocol is for attacks, defenses, priors and targets"),
    ):
        result = invoke("info", name, "--protocol", protocol)
        assert result.exit_code == 2
        assert said in result.stderr


@pytest.mark.parametrize("kind", ["attacks", "defenses", "protocols", "metrics"])
def test_what_is_read_off_the_files_is_what_is_imported(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = listed(kind)

    def unreadable(*_: Any) -> None:
        raise UnreadableError

    monkeypatch.setattr(known, "_read_class", unreadable)
    monkeypatch.setattr(known, "_read_protocols", unreadable)
    monkeypatch.setattr(known, "read_module", unreadable)
    assert listed(kind) == read


def test_nothing_registered_has_to_be_imported_for_a_listing() -> None:
    """Cards say it outright; a new one that does not makes every listing slow."""
    assert [each["name"] for each in known._read_protocols()] == [*PROTOCOLS, "folder"]
    for kind, row in known.ROWS.items():
        for name in known.registry(kind).names():
            found = known._read_class(kind, name, row.columns)
            for path in " ".join(row.columns.values()).split():
                known._read(found, known._base(kind), path)


def test_info_of_protocols() -> None:
    entry, card = explained("synthfaces-32"), PROTOCOLS["synthfaces-32"]
    assert entry["frozen"]
    assert entry["assets"]["prior"]["sha256"] == card.assets["prior"].sha256
    assert entry["attacks"] == card.attacks
    assert entry["digest"] == card.digest
    known = paths(entry)
    assert known["protocol.samples"]["default"] == card.samples
    assert known["protocol.data.identities"]["default"] == 100
    assert not any(each["settable"] for each in known.values())
    text = invoke("info", "synthfaces-32").stdout
    assert card.assets["prior"].file in text
    folder = paths(explained("folder"))
    assert folder["protocol.data.min_images"]["settable"]


def test_info_of_metrics_and_targets() -> None:
    assert explained("knn_distance")["direction"] == "lower leaks more"
    entry = explained("resnet18")
    assert entry["kind"] == "target"
    assert "about" not in entry  # timm's own networks are documented there
    assert "BatchNorm1d on 2,048 features" in " ".join(explained("vgg16_bn_mi")["about"].split())
    assert paths(entry)["target.epochs"]["default"] == PROTOCOLS["synthfaces-32"].training.epochs


def test_info_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from mibench.defenses.none import *\n"
        "from mibench.training.defense import Defense\n"
        "from mibench.types import DefenseCard\n"
        "class Mine(Defense):\n"
        "    card = DefenseCard(title='Mine alone', authors='A', year=2026, venue='V',\n"
        "                       url='https://example.org', adaptive_attack='kedmi')\n"
    )
    assert explained(f"{file}:Mine")["card"]["title"] == "Mine alone"
    result = invoke("info", f"{file}:Other")
    assert result.exit_code == 2
    assert "Mine" in result.stderr


@pytest.mark.parametrize("name", ["improved-kedmi", "bido", "synthfaces-32", "fid", "resnet18"])
def test_info_as_text(name: str) -> None:
    result = invoke("info", name)
    assert result.exit_code == 0
    entry = explained(name)
    assert f"{entry['kind']} {name}" in result.stdout
    for each in entry.get("fields", []):
        assert each["path"] in result.stdout


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("improved-kedm", "improved-kedmi"),
        ("dp_sgd", "dp-sgd"),
        ("synthfaces32", "synthfaces-32"),
        ("knn-distance", "knn_distance"),
        ("vgg16bn", "vgg16_bn"),
        ("improved-gmi+lom", "improved-gmi"),
        ("zzzzzz", "mibench list attacks"),
    ],
)
def test_info_offers_close_names_of_all_kinds(name: str, close: str) -> None:
    result = invoke("info", name)
    assert result.exit_code == 2
    assert close in result.stderr
    assert result.stdout == ""
