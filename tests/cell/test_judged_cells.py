"""Cells of a protocol that pins embedding judges: what their records say, and who can check it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mibench
from mibench import protocols
from mibench.data.images import to_float
from mibench.data.rendered import SynthFacesData
from mibench.errors import RequestError
from mibench.leaderboard.checks import faults, incomplete
from mibench.metrics import bootstrap_interval
from mibench.record import CEILING, FLOOR_PRIOR, FLOOR_PUBLIC, IDENTITY_METRICS, LOOKALIKE, Record
from tests.conftest import TINY
from tests.kit import command_line
from tests.kit.cells import bench, graph

assert isinstance(TINY.data, SynthFacesData)
JUDGED = TINY.model_copy(
    update={
        "judges": protocols.PROTOCOLS["synthfaces-32-dev"].judges,
        "data": TINY.data.model_copy(update={"test": 10, "coins": True}),
    }
)


@pytest.fixture(autouse=True)
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol ``tiny`` with judges."""
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", JUDGED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the store and of two runs."""
    return tmp_path_factory.mktemp("judged")


def run(folder: Path, attack: str) -> Record:
    return mibench.run(protocol="tiny", attack=attack, store=folder / "store", out=folder / attack)


def test_a_record_says_how_much_is_known_of_the_people(folder: Path) -> None:
    record = run(folder, "gmi")
    assert [*faults(record), *incomplete(record)] == []
    values = {name: record.metrics[name] for name in IDENTITY_METRICS}
    assert all(each.value is not None for each in values.values())
    assert values["leak_at_1e-4"].n == 20
    assert values["identity_bits_best"].n == 5
    references = record.references
    bits = {name: each["identity_bits"].value or 0 for name, each in references.items()}
    assert bits[CEILING] > 14
    assert bits[FLOOR_PRIOR] < bits[LOOKALIKE] < bits[CEILING]
    assert references[FLOOR_PUBLIC]["excess_bits"].value == 0
    assert references[CEILING]["two_choice_accuracy"].value == 1
    assert references[LOOKALIKE].keys() < references[CEILING].keys()


def test_lookup_is_the_floor_of_public_images(folder: Path) -> None:
    record = run(folder, "lookup")
    floor = record.references[FLOOR_PUBLIC]
    for name, metric in record.metrics.items():
        if name != "epsilon_lower_bound":
            assert metric == floor[name]
    assert record.metrics["excess_bits"].value == record.metrics["excess_bits_best"].value == 0
    assert record.access == "black-box"
    assert record.results() == run(folder, "lookup").results()


def verified(place: Path, folder: Path) -> Any:
    return command_line.invoke("leaderboard", "verify", str(place), "--store", f"{folder}/store")


def changed(place: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a run folder with another record."""
    shutil.copytree(place, to)
    told = json.loads((to / "record.json").read_text())
    change(told)
    (to / "record.json").write_text(json.dumps(told))
    return to


def test_a_record_is_checked_without_the_target(folder: Path) -> None:
    run(folder, "gmi")
    found = verified(folder / "gmi", folder)
    assert found.exit_code == 0, found.output
    for name in ("identity_bits ", "best guesses ", "look-alike"):
        (line,) = [each for each in found.stdout.splitlines() if name in each]
        assert "agrees" in line


def test_a_best_guess_is_one_guess(folder: Path, tmp_path: Path) -> None:
    """The bits of the best rank, and a win over the look-alike that no guess has, are found."""
    run(folder, "gmi")

    def better(told: dict[str, Any]) -> None:
        metrics = told["metrics"]
        bits = [math.log2(100_001 / min(row)) for row in metrics["median_rank"]["ranks"]]
        floor = told["references"][FLOOR_PUBLIC]["identity_bits_best"]["per_identity"]
        excess = [own - each for own, each in zip(bits, floor, strict=True)]
        claims = {"identity_bits_best": bits, "excess_bits_best": excess}
        for key, values in {**claims, "beats_lookalike": [1.0] * 5}.items():
            interval = list(bootstrap_interval(torch.tensor(values, dtype=torch.float64), 0))
            metrics[key] |= {"value": sum(values) / 5, "per_identity": values, "interval": interval}
        metrics["beats_lookalike"]["hits"] = ["1"] * 5

    place = changed(folder / "gmi", tmp_path / "forged", better)
    assert faults(Record.model_validate_json((place / "record.json").read_text())) == []
    found = verified(place, folder)
    assert found.exit_code == 1
    assert "best guesses" in found.stdout
    assert "no guess at identity" in found.stdout


def test_numbers_that_do_not_fit_together_are_faults(folder: Path) -> None:
    told = json.loads(run(folder, "gmi").model_dump_json())

    def with_metric(key: str, **values: Any) -> list[str]:
        metrics = {**told["metrics"], key: {**told["metrics"][key], **values}}
        return faults(Record.model_validate({**told, "metrics": metrics}))

    assert "excess_bits is not identity_bits minus" in str(
        with_metric("excess_bits", value=9.0, per_identity=[9.0] * 5, interval=[9.0, 9.0])
    )
    known = told["metrics"]["median_rank"]
    assert "its values per identity have the median" in str(with_metric("median_rank", value=1.0))
    assert "ranks are among a number of people" in str(with_metric("median_rank", among=None))
    assert "ranks are among a number of people" in str(with_metric("identity_bits", among=9))
    assert "is [" in str(with_metric("median_rank", interval=[1.0, 100_001.0]))
    outside = [*known["ranks"][:-1], [100_002] * len(known["ranks"][0])]
    assert "ranks are none among 100001" in str(with_metric("median_rank", ranks=outside))
    better = [*known["ranks"][:-1], [1] * len(known["ranks"][0])]
    wrong = str(with_metric("median_rank", ranks=better))
    for key in ("median_rank", "identity_bits", "leak_at_1e-2", "leak_at_1e-4"):
        assert f"{key}: its values per identity are not those that the ranks give" in wrong
    longer = [[*row, row[-1]] for row in known["ranks"]]
    assert "ranks hold another number of samples" in str(with_metric("median_rank", ranks=longer))
    hidden = {"value": None, "reason": "x", "per_identity": None, "interval": None, "n": None}
    hidden |= {"interval_over": None}
    assert "and no number" in str(with_metric("median_rank", **hidden))
    assert "ranks are among 5000, 100001 people at once" in str(
        with_metric("median_rank", among=5000)
    )
    absent = {**hidden, "hits": None}
    assert "leak_at_1e-3 is missing, and 100001 people are enough" in str(
        with_metric("leak_at_1e-3", **absent)
    )
    assert "identity_bits_best: 3 is the bits of no rank of identity 0" in str(
        with_metric("identity_bits_best", value=3.0, per_identity=[3.0] * 5, interval=[3.0, 3.0])
    )
    assert "3 values per identity, the protocol attacks 5" in str(
        with_metric("median_rank", ranks=known["ranks"][:3])
    )
    assert "its guesses give" in str(with_metric("epsilon_lower_bound", value=3.0))
    assert "hit of leak_at_1e-4 is no hit of leak_at_1e-3" in str(
        with_metric(
            "leak_at_1e-4", value=1.0, per_identity=[1.0] * 5, hits=["1111"] * 5, interval=[1, 1]
        )
    )


def test_leaving_the_numbers_out_is_seen(folder: Path) -> None:
    told = json.loads(run(folder, "gmi").model_dump_json())
    for change in ({"value": None, "reason": "none of your business"}, None):
        metrics = {k: v for k, v in told["metrics"].items() if k != "identity_bits_best"}
        if change:
            metrics["identity_bits_best"] = change
        record = Record.model_validate({**told, "metrics": metrics})
        assert "identity_bits_best" in str(list(incomplete(record)))
    older = Record.model_validate({**told, "metrics": metrics, "rules": 2})
    assert "identity_bits_best" in str(list(incomplete(older)))


def test_a_stochastic_targets_record_holds(folder: Path) -> None:
    """Its scores of one image differ from batch to batch; what is said of look-up does not."""
    record = mibench.run(
        protocol="tiny",
        attack="gmi",
        defense="mid",
        overrides={"defense.beta": 5.0},
        store=folder / "store",
        out=folder / "mid",
    )
    assert [*faults(record), *incomplete(record)] == []
    assert verified(folder / "mid", folder).exit_code == 0


def test_a_part_of_the_identities(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(folder, "gmi")
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", JUDGED.model_copy(update={"attacked": 3}))
    store, out = folder / "store", folder / "part"
    some = mibench.run(protocol="tiny", attack="gmi", store=store, out=out)
    assert [*faults(some), *incomplete(some)] == []
    for name in ("identity_bits", "beats_lookalike", "two_choice_accuracy", "excess_bits_best"):
        assert some.metrics[name].per_identity == (whole.metrics[name].per_identity or ())[:3]


def test_lookups_answers_are_public_images(folder: Path, tmp_path: Path) -> None:
    """Of any other attack they are copies: nobody reconstructs a public image."""
    run(folder, "lookup")
    found = verified(folder / "lookup", folder)
    assert found.exit_code == 0, found.output

    gmi = json.loads(run(folder, "gmi").model_dump_json())
    known = json.loads((folder / "lookup" / "record.json").read_text())

    def renamed(told: dict[str, Any]) -> None:
        told["attack"], told["access"] = gmi["attack"], "white-box"

    found = verified(changed(folder / "lookup", tmp_path / "gmi", renamed), folder)
    assert found.exit_code == 1
    assert "is public image" in found.stdout

    def lookup(told: dict[str, Any]) -> None:
        told["attack"], told["access"] = known["attack"], "black-box"

    found = verified(changed(folder / "gmi", tmp_path / "lookup", lookup), folder)
    assert "20 of 20 answers are no public images" in found.stdout


def test_embeddings_are_kept(folder: Path) -> None:
    run(folder, "gmi")
    cell = graph(protocol="tiny", attack="gmi")
    stages = [name for name in cell.stages if name.startswith("enrolment")]
    assert stages == ["enrolment first", "enrolment second", "enrolment third"]
    held = bench(folder / "store")
    enrolled = [held.get(each) for each in cell.references.enrolments]
    data = held.get(cell.images)
    for each in enrolled:
        assert each.own.shape == (5, 64)
        assert each.test.shape == (5, 10, 64)
        shown = each.judge(to_float(data.public.images[:3]))
        torch.testing.assert_close(each.public[:3], shown, rtol=0, atol=1e-5)
    assert not held.computed


def test_too_few_test_images_for_a_template_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", JUDGED.model_copy(update={"data": TINY.data}))
    with pytest.raises(RequestError, match="needs 10 test images"):
        mibench.run(protocol="tiny", attack="gmi", store=tmp_path / "store", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
