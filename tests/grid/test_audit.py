"""A network that was trained outside, audited end to end on folders of rendered faces."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import mibench
from mibench.cell.judges import NOBODY
from mibench.errors import NotApplicableError, RequestError
from mibench.grid.audit import Audited, audit_plan, audit_request
from mibench.judges.dlib import DlibJudge
from mibench.leaderboard.checks import incomplete
from mibench.record import AUDIT, GIVEN, IDENTITY_METRICS, Record
from mibench.reports import words
from mibench.types import Access
from mibench.verify.settings import check
from tests.kit.audits import PEOPLE, SETTINGS, make_audit, said
from tests.kit.guide import forget_afterwards

JUDGE = """
from torch import nn

from mibench.judges import Judge, register_judge
from mibench.models.resize import resize


@register_judge("coarse")
class Coarse(Judge):
    title = "Coarse pixels"

    @classmethod
    def restored(cls, network):
        return cls({}, {})

    def build(self):
        return nn.Identity()

    def embed(self, images):
        coarse = self.network(resize(images, 8)).flatten(1)
        return coarse - coarse.mean(1, keepdim=True)
"""
GMI = {**SETTINGS, "attack.iterations": 3}


@pytest.fixture(autouse=True)
def unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge of a file is known to no other test."""
    forget_afterwards(monkeypatch)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_audit(tmp_path_factory.mktemp("audit"))
    (root / "judge.py").write_text(JUDGE)
    return root


def judged(place: Path) -> dict[str, Any]:
    return {**SETTINGS, "protocol.judges": [{"kind": f"{place / 'judge.py'}:Coarse"}]}


def audit(place: Path, **changes: Any) -> Audited:
    fields = {"overrides": GMI, "attack": "gmi", "store": place / "store", "preset": "small"}
    return mibench.audit(**said(place, **(fields | changes)))


def plan(place: Path, attacks: tuple[str, ...], access: Access | None = None, **model: Any) -> Any:
    given = said(place, **model)
    own = {"size", "mean", "std", "model", "weights", "answers", "stochastic", "channels"}
    request = audit_request(
        {
            "model": {k: v for k, v in given.items() if k in own},
            "prior": {},
            "public": given["public"],
        },
        images=given["images"],
        overrides=SETTINGS,
        preset="small",
    )
    return audit_plan(request, attacks, access, place / "store", place / "planned")


@pytest.fixture(scope="module")
def found(place: Path) -> Audited:
    """Two attacks, judged among people of a folder of their own."""
    return audit(
        place,
        attack=("lookup", "gmi"),
        decoys=place / "decoys",
        overrides=judged(place),
        out=place / "out",
        trained_on=True,
    )


# -- what an audit comes to -----------------------------------------------------------------------


def test_records(place: Path, found: Audited) -> None:
    assert set(found.records) == {"lookup", "gmi"}
    assert found.worst is found.records["gmi"], "look-up is what it is held against"
    assert not found.failed
    assert found.known.accuracy > 0.9
    assert found.known.images == 12 * PEOPLE
    for attack, record in found.records.items():
        written = (place / "out" / attack / "record.json").read_text()
        assert Record.model_validate_json(written) == record
        assert (record.protocol.name, record.target.name, record.defense.name) == (
            *(AUDIT, GIVEN, GIVEN),
        )
        assert record.given == "model.py:build"
        assert record.target.source is not None
        assert record.target.resolved["files"].keys() == {"model.py", "weights.safetensors"}
        assert record.target.resolved["last_layer"] == "head"
        assert record.strength is None
        assert record.utility["natural_accuracy"] is not None
        assert record.utility["validation_images"] == 12 * PEOPLE
        assert record.metrics["median_rank"].among == 4 + 1
        assert list(incomplete(record)) == []
        told = {name: record.metrics[name].value for name in IDENTITY_METRICS[:3]}
        assert None not in told.values()


def test_nothing_says_where_things_lie(place: Path, found: Audited) -> None:
    """But for the command, which is its author's own word."""
    for record in found.records.values():
        text = record.model_copy(update={"command": ""}).model_dump_json()
        for name in ("private", "public", "decoys", "model.py", "weights"):
            assert str(place / name) not in text
        assert record.command.startswith("mibench audit --model ")
        again = words_of_command(record.command)
        assert again["--images"] == str(place / "private")
        assert again["--decoys"] == str(place / "decoys")


def words_of_command(command: str) -> dict[str, str]:
    parts = itertools.pairwise(shlex.split(command))
    return {name: value for name, value in parts if name.startswith("--")}


def test_boards_take_none(found: Audited) -> None:
    (reason,) = check(found.records["gmi"])
    assert "audit of a network that was trained elsewhere" in reason


def test_the_report_speaks_of_the_network(place: Path, found: Audited) -> None:
    assert "gmi (white-box) against model.py:build" in words.headline(found.records["gmi"])
    page = (place / "out" / "gmi" / "report.html").read_text()
    assert "gmi against model.py:build" in page
    assert "mibench audit --model MODEL --weights WEIGHTS --images PRIVATE --public PUBLIC" in page
    assert "--decoys DECOYS" in page
    assert "--trained-on" in page
    text = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    assert "under given" not in text
    assert "leaderboard" not in text
    notes = words.notes(found.records["gmi"])
    assert any("was trained on the private images" in each for each in notes)
    assert not any("nominal" in each for each in notes)


def test_the_overview_puts_runs_side_by_side(found: Audited) -> None:
    assert found.overview is not None
    page = found.overview.read_text()
    assert "All runs attack the same trained target" in page
    assert "data:image" not in page


def test_content_decides_and_not_the_place(
    place: Path, found: Audited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same files elsewhere: nothing is computed again; another weight: all of it is."""
    for name in ("private", "public", "decoys"):
        shutil.copytree(place / name, tmp_path / name)
    for name in ("model.py", "weights.safetensors", "judge.py"):
        shutil.copy(place / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    again = audit(
        tmp_path,
        model="model.py:build",
        attack=("lookup", "gmi"),
        decoys="decoys",
        overrides={**judged(tmp_path)},
        store=place / "store",
        trained_on=True,
    )
    assert again.records["gmi"].metrics == found.records["gmi"].metrics
    assert all(each.cached for each in again.records["gmi"].costs)
    assert again.folder.parent == Path("mibench-runs/audit")
    assert again.folder.name.startswith("model.py-")


def test_another_audit_is_not_overwritten(place: Path, found: Audited) -> None:
    with pytest.raises(RequestError, match=r"holds the record of another cell.*differs in"):
        audit(place, attack="gmi", out=place / "out")
    assert (place / "out" / "gmi" / "record.json").exists()


# -- what attacks see -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "accesses"),
    [
        ("logits", ("white-box", "black-box", "label-only")),
        ("scores", ("black-box", "label-only")),
        ("labels", ("label-only",)),
    ],
)
def test_the_lists_of_what_there_is(place: Path, answers: str, accesses: tuple[str, ...]) -> None:
    function = {"logits": "build"}.get(answers, answers)
    own = {} if answers == "logits" else {"weights": None, "mean": None, "std": None}
    planned = plan(
        place, ("standard",), model=f"{place / 'model.py'}:{function}", answers=answers, **own
    )
    assert planned.accesses == accesses
    seen = [cell.graph.cell.attack_class.access for cell in planned.plan.cells]
    assert set(seen) <= set(accesses) | {"black-box", "label-only"}
    assert ("white-box" in seen) == (answers == "logits")
    assert ("black-box" in seen) == (answers != "labels")
    assert not planned.left_out


@pytest.mark.parametrize("answers", ["scores", "labels"])
def test_a_function_that_answers(place: Path, answers: str) -> None:
    """The same network behind a function: look-up finds the same public pictures."""
    own = {"weights": None, "mean": None, "std": None, "answers": answers}
    attack = "lookup" if answers == "scores" else "lookup-label-only"
    model = f"{place / 'model.py'}:{answers}"
    found = audit(place, model=model, attack=attack, overrides=SETTINGS, **own)
    record = found.records[attack]
    assert record.status == "complete"
    assert record.target.resolved["answers"] == answers
    assert found.known.accuracy > 0.9
    with pytest.raises(NotApplicableError, match="needs white-box access"):
        audit(place, model=model, attack="gmi", **own)
    with pytest.raises(RequestError, match=r"there is (black-box|label-only) access"):
        audit(place, model=model, attack="standard", access="white-box", **own)


def test_what_an_exported_network_lacks_is_left_out(place: Path) -> None:
    space: dict[str, Any] = {}
    exec((place / "model.py").read_text(), space)
    torch.jit.trace(space["loaded"](), torch.rand(2, 3, 32, 32)).save(str(place / "exported.pt"))
    own = {"model": str(place / "exported.pt"), "weights": None}
    planned = plan(place, ("standard",), "white-box", **own)
    assert planned.left_out.keys() == {"improved-gmi", "improved-gmi+taa"}
    assert "no linear layer" in planned.left_out["improved-gmi"]
    assert [each.graph.cell.attack.full for each in planned.plan.cells] == [
        *("lookup", "plg-mi", "ppa", "ppa+ma"),
    ]
    with pytest.raises(NotApplicableError, match="Choose gmi"):
        plan(place, ("improved-gmi",), **own)
    with pytest.raises(RequestError, match=r"leave .untrap out"):
        plan(place, ("gmi+untrap",))


def test_a_prior_of_others(place: Path) -> None:
    few = {"attack.selection.pool": 8, "attack.selection.candidates": 2, "attack.iterations": 2}
    found = audit(
        place,
        attack="ppa",
        prior=f"{place / 'prior.py'}:build",
        overrides={**SETTINGS, **few, "protocol.samples": 4},
    )
    record = found.records["ppa"]
    assert record.status == "complete"
    assert (record.prior.kind, record.prior.recipe) == (GIVEN, "given")
    assert record.prior.resolved["files"].keys() == {"prior.py"}
    assert not any("prior" in each.stage for each in record.costs), "none is trained"
    with pytest.raises(NotApplicableError, match="how real images look"):
        audit(place, attack="gmi", prior=f"{place / 'prior.py'}:build")


def test_nobody_to_rank_among(place: Path) -> None:
    overrides = {k: v for k, v in GMI.items() if k != "protocol.judges"}
    found = audit(place, public=place / "flat", overrides=overrides)
    record = found.records["gmi"]
    assert record.metrics["identity_bits"].reason == NOBODY
    assert words.verdict(record).level == "unmeasured"
    assert found.dump()["records"][0]["metrics"]["identity_bits"]["reason"] == NOBODY
    json.dumps(found.dump())


def test_half_of_the_public_people_are_nominal(place: Path) -> None:
    found = audit(place, overrides=judged(place))
    record = found.records["gmi"]
    assert record.nominal == "a half of the public people"
    assert record.metrics["median_rank"].among == 4 + 1
    assert any("nominal" in each for each in words.notes(record))
    assert any("was not said" in each for each in words.notes(record))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("target.epochs", "nobody trains it here"),
        ("defense.scale", "nobody trains it here"),
        ("protocol.decoys", "say it by --decoys"),
        ("protocol.data.trained_on", "say it by --trained-on or --held-out"),
        ("protocol.resolution", "say it by --size"),
        ("protocol.name", "fixed"),
    ],
)
def test_settings_that_are_said_otherwise(place: Path, path: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        audit(place, overrides={**GMI, path: 1})


def test_without_a_judge_there_is_a_sentence_all_the_same(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default judge is one that its extra brings."""
    monkeypatch.setattr(DlibJudge, "absent", classmethod(lambda cls: "dlib-bin is not installed"))
    overrides = {k: v for k, v in GMI.items() if k != "protocol.judges"}
    found = audit(place, overrides=overrides)
    assert found.worst is not None
    verdict = words.verdict(found.worst)
    assert verdict.level == "unmeasured"
    assert "not installed" in str(verdict.reasons)
