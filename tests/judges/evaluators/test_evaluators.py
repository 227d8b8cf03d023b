"""Judges: they see their own resolution, tell of their work, and diverge with a clear word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mibench
from mibench.assets import load_asset
from mibench.cell.measures import Evaluation
from mibench.data.images import ImageSet
from mibench.errors import MibenchError
from mibench.judges.evaluators import (
    Evaluator,
    EvaluatorConfig,
    EvaluatorJob,
    restored_evaluator,
    train_evaluator,
)
from mibench.judges.evaluators.classifier import ClassifierEvaluator
from mibench.models.classifiers import Classifier, predict
from mibench.models.initialisation import Initialisation
from mibench.models.resize import resize
from mibench.progress import SILENT, Progress, StageState
from mibench.protocols import PROTOCOLS, Protocol
from mibench.streams import stream
from mibench.training.loop import TrainingConfig, train
from tests.kit import training
from tests.kit.cells import bench, graph
from tests.kit.command_line import invoke
from tests.protocols.test_choices import change

ENDLESS = TrainingConfig(epochs=1, batch_size=16, learning_rate=1e30, warmup=0.0)


def pictures(count: int = 8, size: int = 32) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % 2, ("a", "b"))


def job(images: ImageSet) -> EvaluatorJob:
    return EvaluatorJob(images, lambda _: Initialisation(), stream(0, "x"), SILENT, "evaluator")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, ...]]:
    """Sizes of all images that reach any network of the test."""
    sizes: set[tuple[int, ...]] = set()
    usual = Classifier.normalise

    def normalise(self: Classifier, images: Tensor) -> Tensor:
        sizes.add(tuple(images.shape[-2:]))
        return usual(self, images)

    monkeypatch.setattr(Classifier, "normalise", normalise)
    return sizes


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_judge_sees_its_own_resolution(
    augment: bool, size: int, seen: set[tuple[int, ...]]
) -> None:
    """In training and judging, larger or smaller images, whether they are augmented or not."""
    training = TrainingConfig(epochs=1, batch_size=4, augment=augment)
    config = EvaluatorConfig(architecture="test_efficientnet", resolution=48, training=training)
    judge, result = train_evaluator(ClassifierEvaluator, config, 2, job(pictures(size=size)))
    assert result.diverged is None
    logits, features = judge(pictures(size=size).images)
    assert logits.shape == (8, 2)
    assert features.shape == (8, judge.network.feature_size)
    assert seen == {(48, 48)}


def test_pinned_evaluators_judge_as_they_did() -> None:
    """Resizing before the network, as it was when records were filed: the same bits."""
    tensors, description = load_asset(PROTOCOLS["synthfaces-32"].assets["evaluator"])
    judge = restored_evaluator(tensors, description)
    plain = Classifier(judge.config.architecture, judge.classes, judge.config.resolution)
    plain.load_state_dict(tensors)
    images = pictures(4).images
    before = predict(plain.eval(), resize(images.float() / 255, judge.config.resolution))
    for found, expected in zip(judge(images), before, strict=True):
        assert torch.equal(found, expected)


class Loops(Progress):
    """Remembers loops with their steps by stage, and the stages in the order of their ends."""

    def __init__(self) -> None:
        self.open, self.ended = [""], list[str]()
        self.planned: list[str] = []
        self.loops: dict[str, list[tuple[str, int]]] = {}

    def expect(self, stages: Any) -> None:
        self.planned = list(stages)

    def stage(self, name: str, state: StageState, seconds: float = 0.0) -> None:
        if state == "computing":
            self.open.append(name)
        else:
            if state == "done":
                self.open.remove(name)
            self.ended.append(name)

    def begin(self, total: int, label: str) -> None:
        self.loops.setdefault(self.open[-1], []).append((label, total))


def test_every_stage_tells_its_steps_and_the_run_its_stages(tiny: Protocol, tmp_path: Path) -> None:
    progress = Loops()
    request = {"protocol": "tiny", "store": tmp_path / "store", "out": tmp_path / "out"}
    mibench.run(**request, progress=progress)  # type: ignore[arg-type]
    assert set(progress.ended) == set(progress.planned) == {*progress.loops, "picture"}
    assert len(progress.planned) == len(set(progress.planned)) == 11
    assert {label for label, _ in progress.loops["data"]} == {"pictures"}
    labels = {label for label, _ in progress.loops["references"]}
    assert {"target on public images", "floor: second evaluator", "ceiling: metrics"} <= labels
    assert ("reconstructions: evaluator", 1) in progress.loops["metrics"]
    again = Loops()
    mibench.run(**request, progress=again)  # type: ignore[arg-type]
    assert again.planned == again.ended == ["metrics", "picture"]


@pytest.mark.parametrize(
    ("role", "named"), [("evaluator", "the evaluator"), ("second", "the second evaluator")]
)
def test_a_diverging_evaluator_is_an_error_that_names_it(
    role: str, named: str, tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the attack is computed, with exit code 1; what was computed is kept."""
    config = getattr(tiny, role).model_copy(update={"training": ENDLESS})
    change(monkeypatch, tiny, **{role: config})
    request = ("run", "--protocol", "tiny", "--attack", "gmi", "--store", str(tmp_path / "store"))
    for first in (True, False):
        result = invoke(*request, "--out", str(tmp_path / "out"))
        assert result.exit_code == 1, result.output
        assert f"error: {named} ({config.architecture}) diverged: " in result.output
        assert f"protocol.{role}.training.learning_rate" in result.output
        assert "Traceback" not in result.output
        assert ("target: done" in result.output) == first
        assert ("target: cached" in result.output) != first
        assert "reconstructions" not in result.output
    assert not (tmp_path / "out" / "record.json").exists()


@pytest.mark.parametrize("attack", ["gmi", "kedmi"])
def test_a_general_prior_that_diverges_is_a_status(
    attack: str, tiny: Protocol, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, tiny, gan=tiny.gan.model_copy(update={"learning_rate": 1e30}))
    record = mibench.run(
        protocol="tiny", attack=attack, store=tiny_store, out=tmp_path, device="cpu"
    )
    assert record.status == "diverged"
    assert "the general prior's training diverged" in str(record.metrics["knn_distance"].reason)
    assert record.utility["validation_accuracy"] is not None


def test_weights_that_the_last_step_blows_up_have_diverged() -> None:
    """The loss was finite each time that it was looked at."""
    config = TrainingConfig(epochs=1, batch_size=8, learning_rate=1e30, weight_decay=1e9, warmup=0)
    model = Classifier("test_resnet", 2, 32)
    result = train(training.job(pictures(8), config, model))
    assert result.steps == 1
    assert "weights are not finite after step 1 of 1" in str(result.diverged)


def test_outputs_that_are_not_finite_name_their_network(
    tiny: Protocol, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Evaluator.__call__

    def sometimes(judge: Evaluator, images: Tensor, progress: Any, label: str) -> Any:
        if "second evaluator on" in label:
            return torch.full((20, 5), float("nan")), torch.zeros(20, 5)
        return usual(judge, images, progress, label)

    monkeypatch.setattr(Evaluator, "__call__", sometimes)
    with pytest.raises(MibenchError, match="second evaluator accuracy: the network's outputs"):
        mibench.run(protocol="tiny", attack="gmi", store=tmp_path / "store", out=tmp_path / "out")


def test_references_are_the_same_in_parts(
    tiny: Protocol, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of some protocols hold more than memory does."""
    evaluation = Evaluation(graph(protocol="tiny", attack="gmi").references, bench(tiny_store))
    whole = {name: list(parts) for name, parts in evaluation.references().items()}
    monkeypatch.setattr("mibench.cell.measures.PART_BYTES", 2 * 4 * 4 * 3 * 32 * 32)
    parts = {name: list(each) for name, each in evaluation.references().items()}
    for name, each in parts.items():
        assert [len(part) for part in each] == [2, 2, 1]
        torch.testing.assert_close(torch.cat(each), *whole[name])


def test_an_evaluation_follows_the_records_rules(tiny: Protocol, tiny_store: Path) -> None:
    """Intervals of old records are computed as they were."""
    references = graph(protocol="tiny", attack="gmi").references
    images = torch.rand(5, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    old, new = (Evaluation(references, bench(tiny_store), rules)([images])[0] for rules in (1, 2))
    for name, value in new.items():
        assert value.value == old[name].value, name
        if value.interval is not None and old[name].interval is not None:
            (low, high), (a, b) = value.interval, old[name].interval or (0, 0)
            assert low <= a <= b <= high, name
    assert new["fd_evaluator"].interval != old["fd_evaluator"].interval
    assert new["knn_distance"].interval != old["knn_distance"].interval
