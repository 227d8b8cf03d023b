"""A filter of answers in a cell: it stands before the undefended target, and all ask through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mibench
from mibench.cell.measures import References
from mibench.errors import NotApplicableError
from mibench.models.classifiers import predict
from tests.kit.cells import bench, graph

pytestmark = pytest.mark.usefixtures("tiny")


def test_a_filter_stands_before_the_undefended_target(tiny_store: Path) -> None:
    place, found = bench(tiny_store), {}
    for defense in ("none", "label-only"):
        request: dict[str, Any] = {"protocol": "tiny", "attack": "lookup", "defense": defense}
        found[defense] = graph(**request)
    plain, filtered = (place.get(found[name].target).model for name in ("none", "label-only"))
    own = filtered.state_dict()
    assert plain.state_dict().keys() == own.keys()
    assert all(torch.equal(value, own[key]) for key, value in plain.state_dict().items())
    assert found["none"].target.key != found["label-only"].target.key
    test = place.get(found["none"].images).test.images
    plainly, answered = (predict(each, test)[0] for each in (plain, filtered))
    assert torch.equal(plainly.argmax(1), answered.argmax(1)), "which is what natural accuracy asks"
    assert not torch.equal(plainly, answered)
    # The evaluation's own look-up asks as an attack does.
    references = found["label-only"].references
    assert isinstance(references, References)
    evaluation = references.evaluation(place)
    public = place.get(found["label-only"].images).public.images
    labels = predict(plain, public)[0].argmax(1)
    for label, best in enumerate(evaluation.lookup):
        hits = int((labels == label).sum())
        assert (labels[best] == label).sum() == min(hits, len(best))


def test_a_run_of_a_white_box_attack_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError, match="whoever has the weights takes that off"):
        mibench.run(protocol="tiny", attack="gmi", defense="ssd", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
