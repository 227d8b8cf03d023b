"""What a run does: select the place, go through the stages, assemble and write the record."""

from __future__ import annotations

import datetime
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import torch

from mibench import provenance
from mibench.data.folder import make_split, write_split
from mibench.data.splits import FolderOptions, FolderSplit
from mibench.errors import DivergedError, RequestError
from mibench.evaluate import Evaluation, absent, dump, load
from mibench.pictures import reconstructions_picture
from mibench.progress import Progress
from mibench.resolve import Cell, resolve
from mibench.stages import Stages
from mibench.store import Artifact, Store, default_root, save_json, stage_key, write_atomic
from mibench.types import Part, Record, RunSpec, StageCost, digest

RUNS = Path("mibench-runs")
_NEEDED_BYTES = 2**30  # what a cell may write at most before space is refused


def run_cell(
    spec: RunSpec,
    *,
    store: str | Path | None,
    out: str | Path | None,
    device: str,
    progress: Progress,
    command: str | None,
) -> Record:
    """Run the cell that ``spec`` asks for; :func:`mibench.run` says what the arguments mean."""
    cell = resolve(spec)
    place = select_device(device)
    artifacts = Store(store or default_root())
    artifacts.require_space(_NEEDED_BYTES)
    folder = Path(out) if out is not None else run_folder(cell)
    folder.mkdir(parents=True, exist_ok=True)
    split = _split(cell, folder, progress)
    stages = Stages(cell, artifacts, place, progress, split)
    result = _result(stages)
    record = _record(stages, result, command or _command(spec))
    _write(folder, record, result)
    return record


def select_device(name: str) -> torch.device:
    """The device that a name stands for.

    Raises:
        RequestError: the name is none of torch's, or asks for a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"--device {name!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise RequestError(
            f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "devices here; use --device cpu, or see `mibench doctor`"
        )
    return device


def run_folder(cell: Cell) -> Path:
    """Where a cell's results go unless told otherwise."""
    defense = cell.spec.defense.rpartition(":")[2]
    changed = f"-set-{digest(cell.spec.overrides)[:8]}" if cell.spec.overrides else ""
    name = f"{cell.attack.full}_{defense}_{cell.architecture}_seed{cell.spec.seed}{changed}"
    return RUNS / cell.protocol.name / name


def _split(cell: Cell, folder: Path, progress: Progress) -> FolderSplit | None:
    options = cell.protocol.data
    if not isinstance(options, FolderOptions):
        return None
    assert cell.spec.root is not None
    progress.stage("split", "computing")
    split = make_split(cell.spec.root, **options.model_dump())
    write_split(split, folder / "split.json")
    progress.stage("split", "done")
    return split


def _references(stages: Stages, evaluation: Evaluation) -> Artifact:
    """Floors, ceiling and accuracies: they depend on the target, not on the attack."""
    inputs, parents, source = _judging(stages)
    key = stage_key("references", inputs, stages.seed, parents, source)

    def compute(folder: Path) -> dict[str, Any]:
        references = evaluation.references()
        values = {name: dump(evaluation(each)) for name, each in references.items()}
        save_json(
            folder / "references.json", {"references": values, "utility": evaluation.accuracies()}
        )
        return {}

    return stages.stage("references", key, inputs, compute)


def _judging(stages: Stages) -> tuple[dict[str, Any], list[str], str]:
    """Inputs, parents and source of every stage that judges images."""
    protocol = stages.cell.protocol
    fields = {"name", "version", "samples", "attacked", "chance_kappa"}
    inputs = protocol.model_dump(mode="json", include=fields)
    pinned = {role: asset.sha256 for role, asset in protocol.assets.items()}
    parents = [
        stages.target_key,
        stages.evaluator_key("evaluator"),
        stages.evaluator_key("second"),
        stages.general_prior_key,
    ]
    source = provenance.source_digest("mibench.evaluate", "mibench.metrics")
    return {**inputs, "pinned": pinned}, parents, source


def _result(stages: Stages) -> Artifact:
    """The last stage: metrics and picture of the reconstructions, beside the references."""
    cell = stages.cell
    inputs, parents, source = _judging(stages)
    drawing = provenance.source_digest("mibench.pictures")
    parents = [*parents, stages.reconstructions_key]
    key = stage_key("metrics", inputs, stages.seed, parents, source + drawing)

    def compute(folder: Path) -> dict[str, Any]:
        outcome = stages.target_result
        if outcome["diverged"]:
            reason = f"the target diverged: {outcome['diverged']}"
            return _no_metrics(stages, folder, reason, {"references": {}, "utility": {}})
        evaluation = Evaluation(stages)
        try:
            images = stages.reconstructions
        except DivergedError as error:
            references = _references(stages, evaluation).load_json("references.json")
            return _no_metrics(stages, folder, f"the attack diverged: {error}", references)
        references = _references(stages, evaluation).load_json("references.json")
        save_json(folder / "target.json", {**outcome, "status": "complete"})
        save_json(folder / "metrics.json", {"metrics": dump(evaluation(images)), **references})
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
        stored = stages.artifacts["reconstructions"].file("reconstructions.safetensors")
        shutil.copyfile(stored, folder / "reconstructions.safetensors")
        save_json(folder / "costs.json", [cost.model_dump() for cost in _costs(stages)])
        return {}

    return stages.stage("metrics", key, inputs, compute)


def _no_metrics(
    stages: Stages, folder: Path, reason: str, references: dict[str, Any]
) -> dict[str, Any]:
    """Store that the cell diverged: a status and a reason, no number."""
    save_json(folder / "target.json", {**stages.target_result, "status": "diverged"})
    save_json(folder / "metrics.json", {"metrics": dump(absent(reason)), **references})
    save_json(folder / "costs.json", [cost.model_dump() for cost in _costs(stages)])
    return {}


def _costs(stages: Stages) -> list[StageCost]:
    costs = []
    for name, artifact in stages.artifacts.items():
        cost = artifact.manifest.cost
        costs.append(
            StageCost(
                stage=name,
                key=artifact.manifest.key,
                cached=artifact.cached,
                seconds=float(cost["seconds"]),
                iterations=cost.get("iterations"),
                queries=cost.get("queries"),
                peak_memory_bytes=cost.get("peak_memory_bytes"),
            )
        )
    return costs


def _record(stages: Stages, result: Artifact, command: str) -> Record:
    cell, values = stages.cell, result.load_json("metrics.json")
    outcome = result.load_json("target.json")
    complete = outcome["status"] == "complete"
    costs = [StageCost.model_validate(cost) for cost in result.load_json("costs.json")]
    if result.cached:
        costs = [cost.model_copy(update={"cached": True}) for cost in costs]
    protocol = cell.protocol
    utility: dict[str, float | str | None] = {
        "natural_accuracy": None,
        "evaluator_accuracy": None,
        "epsilon": None,
        "delta": None,
        "privacy_unit": cell.defense_class.card.privacy_unit if outcome["guarantee"] else None,
    }
    utility |= values["utility"]
    utility |= {"validation_accuracy": outcome.get("validation_accuracy"), **outcome["guarantee"]}
    artifacts = {
        "target": stages.target_key,
        "prior": stages.prior_key,
        "reconstructions": stages.reconstructions_key,
        "metrics": result.manifest.key,
        **{f"asset {role}": asset.sha256 for role, asset in protocol.assets.items()},
    }
    if complete:
        entry = result.manifest.files["reconstructions.safetensors"]
        artifacts["reconstructions.safetensors"] = entry.sha256
    attack_config = cell.attack_config.model_dump(mode="json")
    return Record(
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
        prior=f"{cell.attack_class.card.prior_recipe}"
        + (" (general prior pinned by the protocol)" if "prior" in protocol.assets else ""),
        utility=utility,
        metrics=load(values["metrics"]),
        references={name: load(each) for name, each in values["references"].items()},
        costs=tuple(costs),
        artifacts=artifacts,
        environment=provenance.environment(stages.device),
        command=command,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _command(spec: RunSpec) -> str:
    parts = ["mibench", "run", "--protocol", spec.protocol, "--attack", spec.attack]
    parts += ["--defense", spec.defense, "--seed", str(spec.seed)]
    if spec.target:
        parts += ["--target", spec.target]
    if spec.root:
        parts += ["--root", spec.root]
    for path, value in spec.overrides.items():
        parts += ["--set", f"{path}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(parts)


def _write(folder: Path, record: Record, result: Artifact) -> None:
    """Fill the run folder; every file is replaced whole."""
    for name in ("reconstructions.safetensors", "reconstructions.png"):
        if name in result.manifest.files:
            source, place = result.file(name), folder / name
            if not place.exists() or place.read_bytes() != source.read_bytes():
                write_atomic(place, source.read_bytes())
    save_json(folder / "record.json", record.model_dump(mode="json"))
