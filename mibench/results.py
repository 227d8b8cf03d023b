"""From a cell's reconstructions to its record: the stages `references` and `metrics`."""

from __future__ import annotations

import datetime
import json
import shlex
from pathlib import Path
from typing import Any

import torch

from mibench import provenance
from mibench.artifacts import Artifact, save_json, save_tensors
from mibench.data.division import PreparedSplit
from mibench.errors import DivergedError
from mibench.evaluate import Evaluation, absent, dump, load
from mibench.files import write_atomic
from mibench.pictures import reconstructions_picture
from mibench.stages import Stages
from mibench.types import INCOMPLETE, RULES_VERSION, Part, Record, RunSpec, StageCost


def references(stages: Stages, evaluation: Evaluation | None = None) -> dict[str, Any]:
    """Floors, ceiling and accuracies: the stage ``references``."""

    def compute(folder: Path) -> dict[str, Any]:
        judges = evaluation or Evaluation(stages)
        values = {name: dump(judges(each)) for name, each in judges.references().items()}
        save_json(
            folder / "references.json", {"references": values, "utility": judges.accuracies()}
        )
        return {}

    artifact = stages.stage("references", stages.references_key, stages.judging_inputs, compute)
    values: dict[str, Any] = artifact.load_json("references.json")
    return values


def result(stages: Stages) -> Artifact:
    """The last stage, ``metrics``: metrics and picture of the reconstructions, and references."""
    cell = stages.cell

    def compute(folder: Path) -> dict[str, Any]:
        outcome = stages.target_result
        if outcome["diverged"]:
            reason = f"the target diverged: {outcome['diverged']}"
            return _no_metrics(stages, folder, reason, {"references": {}, "utility": {}})
        try:
            images = stages.reconstructions
        except DivergedError as error:
            return _no_metrics(stages, folder, f"the attack diverged: {error}", references(stages))
        evaluation = Evaluation(stages)
        bounds = references(stages, evaluation)
        save_json(folder / "metrics.json", {"metrics": dump(evaluation(images)), **bounds})
        train = evaluation.real
        first = [train.images[train.labels == label][0] for label in stages.labels]
        reconstructions_picture(
            folder / "reconstructions.png",
            torch.stack(first).float() / 255,
            images,
            evaluation.confidence(images),
            [train.names[label] for label in stages.labels.tolist()],
            f"{cell.attack.full} against {cell.architecture} under {cell.spec.defense} "
            f"({cell.protocol.name}, seed {stages.seed})",
        )
        tensors = {"images": images.contiguous(), "labels": stages.labels}
        save_tensors(folder / "reconstructions.safetensors", tensors)
        _save_summary(stages, folder, "complete")
        return {}

    return stages.stage("metrics", stages.metrics_key, stages.judging_inputs, compute)


def _no_metrics(
    stages: Stages, folder: Path, reason: str, bounds: dict[str, Any]
) -> dict[str, Any]:
    """Store that the cell diverged: a status and a reason, no number."""
    save_json(folder / "metrics.json", {"metrics": dump(absent(reason)), **bounds})
    _save_summary(stages, folder, "diverged")
    return {}


def _save_summary(stages: Stages, folder: Path, status: str) -> None:
    """Keep what a record needs of the earlier stages, which may be removed from the store."""
    costs = {}
    for task in stages.plan().values():
        manifest = stages.store.manifest(task.stage, task.key)
        if manifest is not None:
            costs[task.name] = {"key": task.key, **manifest.cost}
    summary = {"status": status, "target": stages.target_result, "costs": costs}
    save_json(folder / "summary.json", summary)


def _costs(stages: Stages, artifact: Artifact) -> tuple[StageCost, ...]:
    stored = dict(artifact.load_json("summary.json")["costs"])
    stored["metrics"] = {"key": artifact.manifest.key, **artifact.manifest.cost}
    return tuple(
        StageCost(stage=name, cached=name not in stages.computed, **cost)
        for name, cost in stored.items()
    )


def record(stages: Stages, artifact: Artifact, command: str | None) -> Record:
    """The record of a cell whose last stage is done; None as ``command`` reconstructs one."""
    cell, values = stages.cell, artifact.load_json("metrics.json")
    summary = artifact.load_json("summary.json")
    complete, outcome = summary["status"] == "complete", summary["target"]
    protocol = cell.protocol
    guarantee = outcome["guarantee"]
    # What was measured stands behind what a defense says of itself, which cannot overwrite it.
    utility: dict[str, float | str | None] = {
        "epsilon": None,
        "delta": None,
        **guarantee,
        "natural_accuracy": None,
        "evaluator_accuracy": None,
        "privacy_unit": cell.defense_class.card.privacy_unit if guarantee else None,
        **values["utility"],
        "validation_accuracy": outcome.get("validation_accuracy"),
    }
    artifacts = {
        "target": stages.target_key,
        "prior": stages.prior_key,
        "reconstructions": stages.reconstructions_key,
        "metrics": artifact.manifest.key,
        **{f"asset {role}": asset.sha256 for role, asset in protocol.assets.items()},
    }
    if isinstance(stages.split, PreparedSplit):
        artifacts |= {"split": stages.split.split, "images": stages.split.digest}
        if not stages.split.complete:
            artifacts[INCOMPLETE] = stages.split.digest
    if complete:
        entry = artifact.manifest.files["reconstructions.safetensors"]
        artifacts["reconstructions.safetensors"] = entry.sha256
    attack_config = cell.attack_config.model_dump(mode="json")
    return Record(
        rules=RULES_VERSION,
        status="complete" if complete else "diverged",
        protocol=Part(
            name=protocol.name,
            version=protocol.version,
            passed=cell.passed("protocol"),
            resolved={**protocol.model_dump(mode="json"), "digest": protocol.digest},
        ),
        target=Part(
            name=cell.architecture,
            passed=cell.passed("target"),
            resolved=cell.training.model_dump(mode="json"),
        ),
        defense=Part(
            name=cell.spec.defense.rpartition(":")[2],
            passed=cell.passed("defense"),
            resolved=cell.defense_config.model_dump(mode="json"),
        ),
        attack=Part(name=cell.attack.full, passed=cell.passed("attack"), resolved=attack_config),
        seed=stages.seed,
        access=cell.attack_class.access,
        prior=cell.prior,
        utility=utility,
        metrics=load(values["metrics"]),
        references={name: load(each) for name, each in values["references"].items()},
        costs=_costs(stages, artifact),
        artifacts=artifacts,
        environment=provenance.environment(stages.device),
        command=command or command_of(cell.spec),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def command_of(spec: RunSpec) -> str:
    """The command line that asks for a cell."""
    parts = ["mibench", "run", "--protocol", spec.protocol, "--attack", spec.attack]
    parts += ["--defense", spec.defense, "--seed", str(spec.seed)]
    if spec.target:
        parts += ["--target", spec.target]
    if spec.root:
        parts += ["--root", spec.root]
    if spec.data:
        parts += ["--data", spec.data]
    if spec.budget != 1:
        parts += ["--budget", repr(spec.budget)]
    for path, value in spec.overrides.items():
        parts += ["--set", f"{path}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(parts)


def write(folder: Path, record: Record, artifact: Artifact) -> None:
    """Fill the run folder; every file is replaced whole."""
    for name in ("reconstructions.safetensors", "reconstructions.png"):
        if name in artifact.manifest.files:
            source, place = artifact.file(name), folder / name
            if not place.exists() or place.read_bytes() != source.read_bytes():
                write_atomic(place, source.read_bytes())
    save_json(folder / "record.json", record.model_dump(mode="json"))
