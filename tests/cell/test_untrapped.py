"""The copy that an attack makes of a trapped target: in the target's place everywhere it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mibench
from mibench.models.classifiers import predict
from mibench.models.trapdoors import triggers_of
from mibench.protocols import Protocol
from mibench.training.students import Untrapping
from tests.kit.cells import bench, graph


def asked(attack: str, **fields: Any) -> dict[str, Any]:
    return {"protocol": "tiny", "attack": attack, "defense": "trap-mid", **fields}


def test_all_of_an_attack_sees_the_copy(tiny: Protocol) -> None:
    """Students and a prior that needs the target, too; what is measured of the target does not."""
    plain, blind = (graph(**asked(f"improved-kedmi{last}")) for last in ("", "+untrap"))
    copied = blind.reconstructions.target
    assert copied.kind == "untrapped"
    assert copied.parents[0] is blind.target
    assert blind.target.key == plain.target.key == blind.references.target.key
    for graph_, target in ((plain, plain.target), (blind, copied)):
        for stage in (graph_.reconstructions, graph_.prior, *graph_.students):
            assert target in stage.parents
            assert {each.kind for each in stage.parents} & {"target", "untrapped"} == {target.kind}
    longer = {"attack.students.training.epochs": 2}
    trained = graph(**asked("improved-kedmi+untrap", overrides=longer))
    seeded = graph(**asked("improved-kedmi+untrap", seed=1))
    keys = {each.reconstructions.target.key for each in (blind, trained, seeded)}
    assert len(keys) == 3


def test_a_copy_is_trained_stored_and_attacked(
    tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[bool] = []
    loss = Untrapping.loss

    def noted(self: Untrapping, *given: Any) -> Any:
        shown.append(True)
        return loss(self, *given)

    monkeypatch.setattr(Untrapping, "loss", noted)
    store = tmp_path / "store"
    places = {"store": store, "device": "cpu"}
    record = mibench.run(**asked("gmi+untrap"), **places, out=tmp_path / "first")
    assert record.status == "complete"
    assert record.attack.name == "gmi+untrap"
    assert record.attack.resolved["untrap"] is True
    assert {cost.stage for cost in record.costs} >= {"target", "untrapped", "reconstructions"}
    assert shown == [True] * 2  # 32 public images in batches of 16
    again = mibench.run(**asked("gmi+untrap"), **places, out=tmp_path / "again")
    assert all(cost.cached for cost in again.costs)
    made, place = graph(**asked("gmi+untrap")), bench(store)
    target, copied = place.get(made.target), place.get(made.reconstructions.target)
    assert not place.computed
    mine, theirs = triggers_of(copied.model), triggers_of(target.model)
    assert mine is not None
    assert theirs is not None
    assert torch.equal(mine.patterns, theirs.patterns)
    images = place.get(made.images).public.images
    answers = predict(copied.model, images)[0]
    torch.testing.assert_close(predict(copied.frozen, images)[0], answers, rtol=1e-3, atol=1e-3)
    assert not torch.equal(answers, predict(target.model, images)[0])
