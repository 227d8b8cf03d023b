"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from mibench.cli import cli
from mibench.record import (
    CEILING,
    FLOOR_PRIOR,
    RULES_VERSION,
    MetricValue,
    Part,
    PriorPart,
    Record,
    StageCost,
    missing,
)
from tests.kit.board_records import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
KEY = "a" * 64


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


def make_record(**changes: Any) -> Record:
    part: dict[str, Any] = {"passed": {}, "resolved": {}}
    drawn = {"data": {"private_name": "synthfaces-32"}}
    top1 = MetricValue(value=0.4312, n=500, interval=(0.3811, 0.4822), interval_over="identities")
    record = Record(
        rules=RULES_VERSION,
        status="complete",
        protocol=Part(name="synthfaces-32", version=3, passed={}, resolved=drawn),
        target=Part(name="test_resnet", **part),
        defense=Part(name="bido", **part),
        attack=Part(name="improved-kedmi", **part),
        seed=7,
        access="white-box",
        prior=PriorPart(kind="gan", recipe="general GAN", pinned=True, **part),
        strength=None,
        people=False,
        utility={
            "natural_accuracy": 0.953,
            "evaluator_accuracy": 0.981,
            "epsilon": None,
            "delta": None,
            "privacy_unit": None,
        },
        metrics={
            "attack_accuracy_top1": top1,
            "knn_distance": MetricValue(value=1234.56, n=500),
            "fid": missing("no Inception weights"),
            "fid_successful": missing("no Inception weights"),
        },
        references={
            FLOOR_PRIOR: {"attack_accuracy_top1": MetricValue(value=0.0125, n=500)},
            CEILING: {
                "attack_accuracy_top1": missing("too few images"),
                "fid": missing("no Inception weights"),
            },
        },
        costs=(
            StageCost(stage="target", key=KEY, cached=True, seconds=83.2, iterations=940),
            StageCost(stage="prior", key=KEY, cached=False, seconds=4.0, queries=12345),
        ),
        artifacts={},
        environment=ENVIRONMENT,
        command="mibench run",
        created="2026-01-01T00:00:00+00:00",
    )
    return record.model_copy(update=changes)
