"""From a cell's reconstructions to its record: the stages `references` and `metrics`."""

from __future__ import annotations

import contextlib
import datetime
import logging
from pathlib import Path
from typing import Any

from mibench.cell.evaluate import Evaluation, absent, dump, load
from mibench.cell.picture import reconstructions_picture
from mibench.cell.request import command_of
from mibench.cell.stages import Stages
from mibench.data.division import PreparedSplit
from mibench.errors import DivergedError, MibenchError
from mibench.files import write_atomic
from mibench.record import INCOMPLETE, RULES_VERSION, Environment, Part, Record, StageCost
from mibench.store.artifact import Artifact, Manifest, save_json, save_tensors

log = logging.getLogger(__name__)

RECORD, PICTURE = "record.json", "reconstructions.png"
IMAGES = "images"  # the artifact that identifies the images, where the protocol draws none


def references(stages: Stages, evaluation: Evaluation | None = None) -> dict[str, Any]:
    """Floors, ceiling and accuracies: the stage ``references``."""

    def compute(folder: Path) -> dict[str, Any]:
        judges = evaluation or Evaluation(stages)
        values = {
            name: dump(judges(images, name.partition(":")[0]))
            for name, images in judges.references().items()
        }
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
            bounds: dict[str, Any] = {"references": {}, "utility": {}}
            with contextlib.suppress(DivergedError):  # without a general prior there is no floor
                bounds = references(stages)
            return _no_metrics(stages, folder, f"the attack diverged: {error}", bounds)
        evaluation = Evaluation(stages)
        bounds = references(stages, evaluation)
        save_json(folder / "metrics.json", {"metrics": dump(evaluation(images)), **bounds})
        private, names = stages.private_images()
        no_picture = None
        try:
            reconstructions_picture(
                folder / PICTURE,
                private,
                images,
                evaluation.confidence(images),
                names,
                f"{cell.attack.full} against {cell.architecture} under {cell.defense_name} "
                f"({cell.protocol.name}, seed {stages.seed})",
            )
        except MibenchError:  # it could not be written, so neither could the numbers
            raise
        except Exception as error:  # whatever drawing does, it costs no number
            no_picture = f"{type(error).__name__}: {error}"
        tensors = {"images": images.contiguous(), "labels": stages.labels}
        save_tensors(folder / "reconstructions.safetensors", tensors)
        _save_summary(stages, folder, "complete", no_picture)
        return {}

    return stages.stage("metrics", stages.metrics_key, stages.judging_inputs, compute)


def _no_metrics(
    stages: Stages, folder: Path, reason: str, bounds: dict[str, Any]
) -> dict[str, Any]:
    """Store that the cell diverged: a status and a reason, no number."""
    save_json(folder / "metrics.json", {"metrics": dump(absent(reason)), **bounds})
    _save_summary(stages, folder, "diverged")
    return {}


def _save_summary(stages: Stages, folder: Path, status: str, no_picture: str | None = None) -> None:
    """Keep what a record needs of the earlier stages, which may be removed from the store."""
    costs = {}
    for task in stages.plan().values():
        manifest = stages.store.manifest(task.stage, task.key)
        if manifest is not None:
            costs[task.name] = _cost(manifest)
    summary: dict[str, Any] = {"status": status, "target": stages.target_result, "costs": costs}
    summary |= {"no_picture": no_picture}
    save_json(folder / "summary.json", summary)


def _cost(manifest: Manifest) -> dict[str, Any]:
    """What a record says of a stage: its key, its cost, and who made it."""
    assert manifest.maker is not None  # keys hold the code, so whoever made it knew of makers
    maker = manifest.maker.model_dump(mode="json")
    return {"key": manifest.key, "maker": maker, **manifest.cost}


def _costs(stages: Stages, artifact: Artifact) -> tuple[StageCost, ...]:
    stored = dict(artifact.load_json("summary.json")["costs"])
    stored["metrics"] = _cost(artifact.manifest)
    return tuple(
        StageCost(stage=name, cached=name not in stages.computed, **cost)
        for name, cost in stored.items()
    )


def _environment(costs: tuple[StageCost, ...]) -> Environment:
    """What made the last stage; it counts as dirty if what made any other one was."""
    makers = [cost.maker for cost in costs if cost.maker is not None]
    dirty = True if any(maker.dirty for maker in makers) else makers[-1].dirty
    return makers[-1].model_copy(update={"dirty": dirty})


def record(stages: Stages, artifact: Artifact, command: str | None) -> Record:
    """The record of a cell whose last stage is done; None as ``command`` reconstructs one."""
    cell, values = stages.cell, artifact.load_json("metrics.json")
    summary = artifact.load_json("summary.json")
    complete, outcome = summary["status"] == "complete", summary["target"]
    protocol = cell.protocol
    utility: dict[str, float | str | None] = {
        **outcome["guarantee"],  # first: nothing of a defense's own stands in an accuracy's place
        "epsilon": outcome["guarantee"].get("epsilon"),
        "delta": outcome["guarantee"].get("delta"),
        "privacy_unit": cell.defense_class.card.privacy_unit if outcome["guarantee"] else None,
        "natural_accuracy": None,
        "evaluator_accuracy": None,
        "validation_accuracy": outcome.get("validation_accuracy"),
        "validation_images": outcome.get("validation_images"),
        "chance_accuracy": 1 / outcome["identities"],
        **values["utility"],
    }
    artifacts = {
        "target": stages.target_key,
        "prior": stages.prior_key,
        "reconstructions": stages.reconstructions_key,
        "metrics": artifact.manifest.key,
        **{f"asset {role}": asset.sha256 for role, asset in protocol.assets.items()},
    }
    if stages.split is not None:
        artifacts |= {"split": stages.split.split, IMAGES: stages.split.digest}
    if isinstance(stages.split, PreparedSplit) and not stages.split.complete:
        artifacts[INCOMPLETE] = stages.split.digest
    if complete:
        entry = artifact.manifest.files["reconstructions.safetensors"]
        artifacts["reconstructions.safetensors"] = entry.sha256
    attack_config = cell.attack_config.model_dump(mode="json")
    costs = _costs(stages, artifact)
    return Record(
        rules=RULES_VERSION,
        status="complete" if complete else "diverged",
        protocol=Part(
            name=protocol.name,
            version=protocol.version,
            source=cell.protocol_source,
            passed=cell.passed("protocol"),
            resolved={**protocol.model_dump(mode="json"), "digest": protocol.digest},
        ),
        target=Part(
            name=cell.architecture,
            passed=cell.passed("target"),
            resolved=cell.training.model_dump(mode="json"),
        ),
        defense=Part(
            name=cell.defense_name,
            source=cell.defense_source,
            passed=cell.passed("defense"),
            resolved=cell.defense_config.model_dump(mode="json"),
        ),
        attack=Part(
            name=cell.attack.full,
            source=cell.attack_source,
            passed=cell.passed("attack"),
            resolved=attack_config,
        ),
        seed=stages.seed,
        access=cell.attack_class.access,
        prior=cell.prior,
        utility=utility,
        metrics=load(values["metrics"]),
        references={name: load(each) for name, each in values["references"].items()},
        costs=costs,
        artifacts=artifacts,
        environment=_environment(costs),
        command=command or command_of(cell.spec),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def write(folder: Path, record: Record, artifact: Artifact) -> None:
    """Fill the run folder; every file is replaced whole.

    A picture that could not be drawn is a warning, each time.
    """
    for name in ("reconstructions.safetensors", PICTURE):
        if name in artifact.manifest.files:
            source, place = artifact.file(name), folder / name
            if not place.exists() or place.read_bytes() != source.read_bytes():
                write_atomic(place, source.read_bytes())
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier run
    if reason := artifact.load_json("summary.json").get("no_picture"):
        log.warning(
            "%s: the record is complete, but its picture could not be drawn (%s)", folder, reason
        )
    save_json(folder / RECORD, record.model_dump(mode="json"))
