"""What every registered judge must keep, and one that is a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import BaseModel

import mibench
from mibench.cell.request import Request
from mibench.cell.resolve import check, resolve
from mibench.data.images import ImageSet
from mibench.errors import MibenchError, RequestError
from mibench.judges.evaluators import (
    EVALUATORS,
    Evaluator,
    EvaluatorConfig,
    EvaluatorJob,
    train_evaluator,
)
from mibench.models.classifiers import Outputs
from mibench.models.initialisation import Initialisation
from mibench.progress import SILENT
from mibench.protocols import Protocol
from mibench.streams import stream
from mibench.training.loop import TrainingConfig
from tests.kit.guide import FILES, forget_afterwards

NAMES = EVALUATORS.names()
OF_THE_GUIDE = "nearest_mean.py"


def colours(count: int = 48, classes: int = 3) -> ImageSet:
    """Each class a colour, with noise: what any judge learns."""
    rng = stream(0, "colours")
    labels = torch.arange(count) % classes
    means = torch.eye(classes)[labels][:, :3, None, None]
    noise = 0.2 * torch.rand(count, 3, 32, 32, generator=rng)
    return ImageSet(((0.8 * means + noise) * 255).to(torch.uint8), labels, tuple("abc"[:classes]))


def config(name: str) -> EvaluatorConfig:
    training = TrainingConfig(epochs=8, batch_size=16, optimizer="adamw", learning_rate=2e-3)
    return EvaluatorConfig(kind=name, architecture="test_resnet", resolution=24, training=training)


def trained(kind: type[Evaluator], name: str, seed: int = 0) -> Evaluator:
    job = EvaluatorJob(colours(), lambda _: Initialisation(), stream(seed, "x"), SILENT, "judge")
    kind.check(config(name), "protocol.evaluator")
    judge, result = train_evaluator(kind, config(name), 3, job)
    assert result.diverged is None
    return judge


def described(options: type[BaseModel]) -> None:
    for name, field in options.model_fields.items():
        assert field.description, f"{name} needs a description"


@pytest.fixture(params=[*NAMES, OF_THE_GUIDE])
def kind(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> type[Evaluator]:
    """Every registered judge, and that of the guide."""
    if request.param != OF_THE_GUIDE:
        return EVALUATORS.get(request.param)
    forget_afterwards(monkeypatch)
    (tmp_path / OF_THE_GUIDE).write_text(FILES[OF_THE_GUIDE])
    return EVALUATORS.get(f"{tmp_path / OF_THE_GUIDE}:NearestMean")


def test_it_says_what_it_is_and_learns_what_is_plain(kind: type[Evaluator]) -> None:
    assert kind.title
    described(kind.Options)
    name = EVALUATORS.name_of(kind)
    judge, images = trained(kind, name), colours()
    for size in (32, 64):  # it resizes images itself
        shown = torch.nn.functional.interpolate(images.images.float(), size=size).byte()
        logits, features = judge(shown)
        assert logits.shape == (48, 3)
        assert features.shape[0] == 48
        assert features.ndim == 2
        assert torch.isfinite(logits).all()
        assert (logits.argmax(1) == images.labels).float().mean() > 0.9
    as_float = judge(images.images.float() / 255)
    torch.testing.assert_close(as_float[0], judge(images.images)[0], rtol=1e-4, atol=1e-4)


def test_its_tensors_are_the_whole_of_it(kind: type[Evaluator]) -> None:
    name = EVALUATORS.name_of(kind)
    judge, images = trained(kind, name), colours().images
    state = {key: value.clone() for key, value in judge.network.state_dict().items()}
    again = kind(config(name), 3).restore(state)
    for found, expected in zip(again(images), judge(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not any(each.requires_grad for each in again.network.parameters())
    same = trained(kind, name).network.state_dict()
    assert all(torch.equal(same[key], value) for key, value in state.items()), "its seed decides it"


def test_a_judge_of_a_file_judges_a_cell(
    tiny: Protocol, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is trained once, and known by its name and its code, not by its path."""
    forget_afterwards(monkeypatch)
    place = tmp_path / OF_THE_GUIDE
    place.write_text(FILES[OF_THE_GUIDE])
    settings = {
        "protocol.second.kind": f"{place}:NearestMean",
        "protocol.second.resolution": 8,
        "protocol.second.options": {"sharpness": 2},
    }

    def run(name: str) -> mibench.record.Record:  # type: ignore[name-defined]
        return mibench.run(
            protocol="tiny",
            attack="gmi",
            overrides=settings,
            store=tiny_store,
            out=tmp_path / name,
        )

    record = run("a")
    assert record.status == "complete"
    assert record.protocol.resolved["second"]["kind"] == "nearest-mean"
    assert record.protocol.source is not None
    assert str(tmp_path) not in str(record.protocol.resolved)
    assert record.metrics["attack_accuracy_both"].value is not None
    assert record.protocol.resolved["digest"] != tiny.digest
    plain = resolve(Request(protocol="tiny", attack="gmi"))
    assert plain.protocol.digest == tiny.digest
    assert plain.protocol_source is None
    (cost,) = [each for each in record.costs if each.stage == "evaluator second"]
    place.write_text(FILES[OF_THE_GUIDE].replace(".mean(0)", ".median(0).values"))
    edited = run("b")
    (again,) = [each for each in edited.costs if each.stage == "evaluator second"]
    assert again.key != cost.key, "an edit of its file makes another judge"
    assert edited.protocol.source != record.protocol.source


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "clasifier"}, "did you mean 'classifier'"),
        ({"options": {"depth": 3}}, "protocol.evaluator.options.depth"),
        (
            {"architecture": ""},
            "protocol.evaluator.architecture: an evaluator of kind 'classifier'",
        ),
        ({"architecture": "resnet81"}, "resnet81"),
    ],
)
def test_what_a_kind_cannot_be_is_refused_at_once(
    settings: dict[str, object], said: str, tiny: Protocol
) -> None:
    overrides = {f"protocol.evaluator.{name}": value for name, value in settings.items()}
    with pytest.raises(RequestError, match=said.replace("(", r"\(")):
        check(resolve(Request(protocol="tiny", attack="gmi", overrides=overrides)))


def test_outputs_of_a_wrong_shape_name_the_judge() -> None:
    class Wrong(EVALUATORS.get("classifier")):  # type: ignore[misc]
        def outputs(self, images: torch.Tensor) -> Outputs:
            return Outputs(images.flatten(1), images)

    with pytest.raises(MibenchError, match=r"Wrong.outputs\(\) gave logits of shape"):
        Wrong(config("classifier"), 3)(colours().images)
