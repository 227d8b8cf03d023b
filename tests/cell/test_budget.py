"""A share of a budget: what it scales, what it leaves, and where it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field, ValidationError

import mibench
from mibench.cell.record import run_folder
from mibench.cell.request import Request, command_of
from mibench.cell.resolve import resolve
from mibench.errors import RequestError
from mibench.grid.grid import make_grid
from mibench.models.classifiers import Classifier, predict
from mibench.protocols import PROTOCOLS, Protocol
from mibench.record import FLOOR_PRIOR, IDENTITY_METRICS, Record
from mibench.reports.words import warnings
from mibench.settings import scaled
from mibench.streams import stream
from mibench.training.defense import DEFENSES
from mibench.training.loop import TrainingConfig, train
from mibench.types import BUDGETED, Frozen
from mibench.verify.settings import foreign
from tests.kit.cells import graph
from tests.kit.command_line import invoke
from tests.kit.training import job
from tests.training.test_training import Recorder, faces


class Inner(Frozen):
    steps: int = Field(200, json_schema_extra=BUDGETED)


class Outer(Frozen):
    rate: float = 0.5
    epochs: int | float = Field(20, json_schema_extra=BUDGETED)
    inner: Inner = Inner()


def test_budgeted_fields_are_scaled_wherever_they_are() -> None:
    assert scaled(Outer(), 0.1) == Outer(epochs=2.0, inner=Inner(steps=20))
    assert scaled(Outer(), 0.001) == Outer(epochs=0.02, inner=Inner(steps=1))
    assert scaled(Outer(), 1) == Outer()


def test_the_least_share_is_a_step() -> None:
    part = scaled(TrainingConfig(epochs=0.5), 5e-324)
    assert part.epochs > 0
    assert part.steps(per_epoch=100) == 1


@pytest.mark.parametrize("attack", ["improved-gmi", "improved-kedmi", "improved-vmi"])
def test_every_stage_of_a_cell_gets_its_share(attack: str) -> None:
    whole = resolve(Request(attack=attack, defense="mid"))
    part = resolve(Request(attack=attack, defense="mid", budget=0.1))
    assert (whole.training.epochs, part.training.epochs) == (20, 2)
    students = [cell.attack_config.students.training.epochs for cell in (whole, part)]
    assert students == [2, pytest.approx(0.2)]
    iterations = [cell.attack_config.iterations for cell in (whole, part)]
    assert iterations[1] == round(iterations[0] / 10)
    assert part.prior_config.gan.steps == 990
    assert part.protocol.evaluator.training.epochs == 2.5
    if attack == "improved-kedmi":
        assert part.prior_config.model_dump()["steps"] == 20
    assert part.defense_config == whole.defense_config
    assert part.protocol.data == whole.protocol.data


@pytest.mark.parametrize("epochs", ["Infinity", float("inf"), float("nan"), 0, -1])
def test_epochs_that_do_not_end_are_refused(epochs: Any) -> None:
    with pytest.raises(RequestError, match="epochs"):
        resolve(Request(attack="gmi", overrides={"target.epochs": epochs}))


def test_whole_numbers_of_epochs_are_one_setting() -> None:
    keys = [
        graph(attack="gmi", overrides={"target.epochs": epochs}).target.key
        for epochs in (2, 2.0, 2.5)
    ]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("attacked", {1: 200, 0.5: 100, 0.1: 20, 0.02: 8, 1e-9: 8}),
        ("samples", {1: 20, 0.5: 10, 0.1: 4, 1e-9: 4}),
    ],
)
def test_fewer_identities_and_samples_are_attacked(field: str, values: dict[float, int]) -> None:
    """Never so few that a metric has no meaning: recall needs 4 samples, intervals identities."""
    card = PROTOCOLS["synthfaces-32"].model_copy(update={"attacked": 200, "samples": 20})
    assert {share: getattr(scaled(card, share), field) for share in values} == values
    few = card.model_copy(update={"attacked": 3, "samples": 2})
    assert getattr(scaled(few, 0.01), field) == getattr(few, field)
    assert scaled(PROTOCOLS["synthfaces-32"], 0.01).attacked is None  # a share of what there is


def test_keys_differ_by_the_share_and_a_whole_budget_changes_none() -> None:
    whole, again, half, third = (graph(attack="gmi", budget=share) for share in (1, 1.0, 0.5, 0.3))
    for name in ("reconstructions", "references", "metrics"):
        assert getattr(whole, name).key == getattr(again, name).key
        assert len({getattr(each, name).key for each in (whole, half, third)}) == 3
    for made, attacked, judged in (
        (whole, 100, {"test": 1000, "public": 20_000}),
        (third, 30, None),
    ):
        assert made.references.inputs["attacked"] == made.reconstructions.inputs["attacked"]
        assert made.references.inputs["attacked"] == attacked
        assert judged in (None, made.references.inputs["judged"])
    assert whole.images.key == half.images.key  # the images are the same


def test_what_bounds_memory_is_in_no_key() -> None:
    """It is stated, and a stage that differs in nothing else is the same."""
    settings = {"defense.gradient_memory": 7, "attack.max_rows": 9}
    asked = {"attack": "gmi", "defense": "dp-sgd"}
    usual, tight = graph(**asked), graph(**asked, overrides=settings)
    assert usual.reconstructions.key == tight.reconstructions.key
    assert "max_grad_norm" in tight.target.inputs["config"]
    assert "gradient_memory" not in tight.target.inputs["config"]
    assert tight.cell.passed("defense") == {"defense.gradient_memory": 7}


def test_what_was_set_is_scaled_too() -> None:
    overrides = {"target.epochs": 4, "attack.iterations": 10}
    cell = resolve(Request(attack="gmi", overrides=overrides, budget=0.5))
    assert (cell.training.epochs, cell.attack_config.iterations) == (2, 5)


@pytest.mark.parametrize(
    ("epochs", "per_epoch", "steps"),
    [(3, 4, 12), (0.25, 4, 1), (1.5, 4, 6), (0.07, 100, 7), (0.001, 10, 1), (1e-12, 10, 1)],
)
def test_steps_of_a_fraction_of_an_epoch(epochs: float, per_epoch: int, steps: int) -> None:
    assert TrainingConfig(epochs=epochs).steps(per_epoch) == steps


@pytest.mark.parametrize(("epochs", "seen"), [(1, [0, 0, 0]), (1.5, [0, 0, 0, 1, 1])])
def test_training_ends_within_an_epoch(epochs: float, seen: list[int]) -> None:
    hooks = Recorder()
    config = TrainingConfig(epochs=epochs, batch_size=8)
    data = faces()
    model = Classifier("test_resnet", 3, 32)
    result = train(job(data, config, model, stream(0, "x")), hooks)
    assert [state.epoch for state in hooks.states] == seen  # 24 images are 3 batches
    assert result.steps == len(seen)
    assert {(s.epochs, s.steps) for s in hooks.states} == {(epochs, result.steps)}


def test_noise_is_for_the_steps_that_are_taken() -> None:
    """The same ε over fewer steps needs less noise; ε of what was taken is at most the target."""
    cls = DEFENSES.get("dp-sgd")
    noise, data = [], faces()
    for epochs in (2, 0.5):
        config = TrainingConfig(epochs=epochs, batch_size=8)
        defense = cls(cls.Config(noise_multiplier=None, target_epsilon=3.0))
        model = defense.built(Classifier("test_resnet", 3, 32))
        train(job(data, config, model, stream(0, "x")), defense)
        guarantee = defense.guarantee()
        assert guarantee["epsilon"] <= 3.0 + 1e-2
        noise.append(guarantee["noise_multiplier"])
    assert noise[1] < noise[0]


def test_folder_command_and_grid_name_the_share() -> None:
    spec = Request(attack="gmi", budget=0.05)
    made = graph(attack="gmi", budget=0.05)
    assert run_folder(made.cell, made.images).name.endswith("_seed0-budget-0.05")
    assert command_of(spec).endswith("--budget 0.05")
    assert "--budget" not in command_of(Request())
    (cell,) = make_grid({"budget": 0.05}, "test").cells()
    assert cell.budget == 0.05


def test_boards_refuse_it(tiny_record: dict[str, Any]) -> None:
    record = Record.model_validate(tiny_record)
    (reason,) = foreign(record)
    assert "0.01 of the protocol's budget" in reason
    assert "without --budget" in reason


@pytest.fixture
def tiny_record() -> dict[str, Any]:
    """A record of synthfaces-32 that was made with a hundredth of its budget."""
    from tests.kit.command_line import make_record

    card = PROTOCOLS["synthfaces-32"]
    part = {"name": card.name, "version": 1, "passed": {"budget": 0.01}}
    part["resolved"] = {"digest": card.digest}
    found: dict[str, Any] = json.loads(make_record().model_dump_json())
    return {**found, "protocol": part}


def test_the_record_says_it(tiny: object, tmp_path: Path) -> None:
    record = mibench.run(protocol="tiny", attack="gmi", budget=0.5, store=tmp_path, out=tmp_path)
    assert record.protocol.passed == {"budget": 0.5}
    *_, warning = warnings(record)
    assert "Made with --budget 0.5" in warning
    assert "20 reconstructions of 5 identities" in warning
    assert record.target.resolved["epochs"] == 0.5
    assert "--budget 0.5" in record.command
    verified = invoke("leaderboard", "verify", str(tmp_path), "--store", str(tmp_path))
    assert verified.exit_code == 1
    assert "made with 0.5 of the protocol's budget" in verified.stderr
    assert torch.isfinite(torch.tensor(record.metrics["attack_accuracy_top1"].value))


def test_a_smoke_run_judges_little(
    tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 15 identities and 20 samples, 8 and 4; of 150 test and 240 public images, 100 each."""
    faces = tiny.data.model_copy(  # type: ignore[union-attr]
        update={"identities": 15, "test": 10, "public_identities": 60}
    )
    card = tiny.model_copy(update={"data": faces, "samples": 20})
    monkeypatch.setitem(PROTOCOLS, "tiny", card)
    judged: dict[str, int] = {}

    def count(model: object, images: torch.Tensor, *args: object, **options: object) -> object:
        label = str(options.get("label", args[-1] if args else ""))
        judged[label] = judged.get(label, 0) + len(images)
        return predict(model, images, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("mibench.cell.measures.predict", count)
    monkeypatch.setattr("mibench.judges.evaluators._evaluator.predict", count)
    record = mibench.run(protocol="tiny", attack="gmi", budget=0.02, store=tmp_path, out=tmp_path)
    metrics = [*record.metrics.values(), *record.references[FLOOR_PRIOR].values()]
    assert {value.n for value in metrics if value.value is not None} == {32}
    # As at any budget here.
    undefined = {"fid", "fid_successful", "attribute_error", *IDENTITY_METRICS}
    assert {name for name, value in record.metrics.items() if value.value is None} <= undefined
    assert all(value.interval for value in record.metrics.values() if value.value is not None)
    assert record.protocol.resolved["samples"] == 4
    assert judged["target on public images"] == judged["target on test images"] == 100
    assert judged["private images"] == 8 * 6
    assert judged["reconstructions: evaluator"] == 32
    assert sum(judged.values()) < 900


@pytest.mark.parametrize("share", ["0", "-1", "1.5", "nan", "all"])
def test_shares_outside_of_0_to_1_are_refused(share: str) -> None:
    for command in ("run", "grid"):
        result = invoke(command, "--budget", share)
        assert result.exit_code == 2
        assert "budget" in result.output
    if share != "all":
        with pytest.raises(ValidationError):
            Request(budget=float(share))
        with pytest.raises(RequestError, match=r"budget: Input should be .* \(got"):
            mibench.run(budget=float(share))
