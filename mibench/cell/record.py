"""The end of a cell: its run folder, and the record in it."""

from __future__ import annotations

import datetime
import logging
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mibench.cell.graph import Graph
from mibench.cell.images import Images
from mibench.cell.measures import cost_of
from mibench.cell.picture import PICTURE
from mibench.cell.reconstructions import RECONSTRUCTIONS
from mibench.cell.request import PARTS, command_of
from mibench.cell.resolve import Cell
from mibench.cell.stage import Bench
from mibench.errors import RequestError
from mibench.files import sha256, write_atomic
from mibench.leaderboard.names import overrides
from mibench.names import cell_name, method_label
from mibench.record import (
    GALLERY,
    INCOMPLETE,
    RULES_VERSION,
    Environment,
    MetricValue,
    Part,
    Record,
    StageCost,
    strength,
)
from mibench.reports.run import REPORT, write_report
from mibench.settings import plain_settings
from mibench.store.artifact import Artifact, save_json
from mibench.types import canonical_json, digest

log = logging.getLogger(__name__)

RECORD = "record.json"
IMAGES = "images"  # the artifact that identifies the images, where the protocol draws none
RUNS = Path("mibench-runs")
_LONGEST_NAME = 200  # bytes; file systems take 255


def name_on_boards(cell: Cell) -> str:
    """What boards call a cell and the file of its record, without suffix."""
    return cell_name(
        attack=method_label(cell.attack.full, cell.attack_source),
        defense=method_label(cell.defense_name, cell.defense_source),
        target=cell.architecture,
        seed=cell.request.seed,
        passed=cell.settings,
    )


def run_folder(cell: Cell, images: Images) -> Path:
    """Where a cell's results go unless told otherwise: its name holds all that they depend on.

    It is called as on boards; what boards refuse follows: a preset, a budget, and images that
    the protocol does not draw itself.
    """
    request, name = cell.request, name_on_boards(cell)
    name += f"-{request.preset}" if request.preset is not None else ""
    name += f"-budget-{request.budget!r}" if request.budget != 1 else ""
    name += f"-data-{images.identity[:8]}" if images.identity else ""
    name += f"-{cell.given.model.source[:8]}" if cell.given is not None else ""
    if len(name.encode()) > _LONGEST_NAME:
        name = f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{digest(name)[:8]}"
    return RUNS / method_label(cell.protocol.name, cell.protocol_source) / name


def claim(folder: Path, cell: Cell, images: Images) -> Path:
    """Make a cell's run folder, unless it holds another cell's record.

    Raises:
        RequestError: it does, or it cannot be made; raised before anything is computed.
    """
    path = folder / RECORD
    try:
        folder.mkdir(parents=True, exist_ok=True)
        old = Record.model_validate_json(path.read_bytes()) if path.exists() else None
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{RECORD} there is no record"
        raise RequestError(f"the run folder {folder} cannot be used: {reason}") from error
    if old is None:
        return folder
    mine = {
        "protocol": cell.protocol.name,
        "target": cell.architecture,
        "defense": cell.defense_name,
        "attack": cell.attack.full,
        "prior": cell.prior_name,
        "seed": cell.request.seed,
        "settings": plain_settings({k: v for part in PARTS for k, v in cell.passed(part).items()}),
    }
    theirs = {
        "protocol": old.protocol.name,
        "target": old.target.name,
        "defense": old.defense.name,
        "attack": old.attack.name,
        "prior": old.prior.kind,
        "seed": old.seed,
        "settings": plain_settings(overrides(old)),
    }
    if cell.given is not None:
        mine["model"], theirs["model"] = cell.given.model.source, old.target.source
        mine["prior's source"], theirs["prior's source"] = cell.prior_source, old.prior.source
    if images.identity and IMAGES in old.artifacts:
        mine[IMAGES], theirs[IMAGES] = images.identity, old.artifacts[IMAGES]
    # As JSON, for a record's lists may have been tuples.
    other = [name for name in mine if canonical_json(mine[name]) != canonical_json(theirs[name])]
    if other:
        raise RequestError(
            f"the run folder {folder} holds the record of another cell, which would be lost "
            f"({old.attack.name} against {old.target.name} under {old.defense.name} on "
            f"{old.protocol.name}, seed {old.seed}; it differs in {', '.join(other)}): name "
            "another one with --out, or remove that record"
        )
    return folder


def make_record(graph: Graph, bench: Bench, command: str | None) -> Record:
    """The record of a cell, computing what is missing; None as ``command`` reconstructs one."""
    cell, artifact = graph.cell, bench.get(graph.metrics)
    values, summary = artifact.load_json("metrics.json"), artifact.load_json("summary.json")
    outcome, protocol = summary["target"], cell.protocol
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
        "target": graph.target.key,
        "prior": graph.prior.key,
        "reconstructions": graph.reconstructions.key,
        "metrics": graph.metrics.key,
        **{f"asset {role}": asset.sha256 for role, asset in protocol.assets.items()},
        **summary["reconstructions"],
    }
    divided = graph.images.divided
    if divided.split is not None:
        artifacts |= {"split": divided.split, IMAGES: divided.digest}
    if not divided.complete:
        artifacts[INCOMPLETE] = divided.digest
    costs = _costs(summary["costs"], artifact, bench)
    parts = {
        "target": cell.training.model_dump(mode="json"),
        "defense": cell.defense_config.model_dump(mode="json"),
    }
    if cell.given is not None:
        parts = {"target": {**cell.given.facts(), "hint": outcome["hint"]}, "defense": {}}
    return Record(
        rules=RULES_VERSION,
        status=summary["status"],
        protocol=Part(
            name=protocol.name,
            version=protocol.version,
            source=cell.protocol_source,
            passed=cell.passed("protocol"),
            resolved={**protocol.model_dump(mode="json"), "digest": protocol.digest},
        ),
        target=Part(
            name=cell.architecture,
            source=cell.given.model.source if cell.given is not None else None,
            passed=cell.passed("target"),
            resolved=parts["target"],
        ),
        defense=Part(
            name=cell.defense_name,
            source=cell.defense_source,
            passed=cell.passed("defense"),
            resolved=parts["defense"],
        ),
        attack=Part(
            name=cell.attack.full,
            source=cell.attack_source,
            passed=cell.passed("attack"),
            resolved=cell.attack_config.model_dump(mode="json"),
        ),
        prior=cell.prior,
        strength=strength(cell.knob, parts, utility) if cell.knob else None,
        seed=cell.request.seed,
        access=cell.attack_class.access,
        people=divided.of_people,
        utility=utility,
        metrics=_read(values["metrics"]),
        references={name: _read(each) for name, each in values["references"].items()},
        costs=costs,
        artifacts=artifacts,
        environment=_environment(costs),
        command=command or command_of(cell.request),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _read(values: dict[str, Any]) -> dict[str, MetricValue]:
    return {name: MetricValue.model_validate(value) for name, value in values.items()}


def _costs(earlier: dict[str, Any], metrics: Artifact, bench: Bench) -> tuple[StageCost, ...]:
    costs = {**earlier, "metrics": cost_of(metrics.manifest)}
    return tuple(
        StageCost(stage=name, cached=name not in bench.computed, **cost)
        for name, cost in costs.items()
    )


def _environment(costs: tuple[StageCost, ...]) -> Environment:
    """What made the last stage; it counts as dirty if what made any other one was."""
    makers = [cost.maker for cost in costs if cost.maker is not None]
    dirty = True if any(maker.dirty for maker in makers) else makers[-1].dirty
    return makers[-1].model_copy(update={"dirty": dirty})


def write(folder: Path, record: Record, graph: Graph, bench: Bench) -> None:
    """Fill the run folder; every file is replaced whole, and the record comes last.

    The reconstructions are those of the store, by another name, where both lie on one disk. The
    report is made from what lies in the folder. A picture that could not be drawn is a warning,
    each time, and so is a report that could not be written.
    """
    picture = bench.get(graph.picture)
    shards = {k: v for k, v in record.artifacts.items() if k.startswith(f"{RECONSTRUCTIONS}.")}
    for path in folder.glob(f"{RECONSTRUCTIONS}.*"):  # of an earlier run
        if path.name not in shards or sha256(path) != shards[path.name]:
            path.unlink()
    for name in (GALLERY, REPORT):
        (folder / name).unlink(missing_ok=True)
    for name in shards:
        if not (folder / name).exists():
            _place(bench.get(graph.reconstructions).artifact.file(name), folder / name)
    for name in (PICTURE, GALLERY):
        if name in picture.manifest.files:
            _place(picture.file(name), folder / name)
    if reason := picture.load_json("picture.json")["not drawn"]:
        log.warning(
            "%s: the record is complete, but its picture could not be drawn (%s)", folder, reason
        )
    graph.images.divided.write(folder)
    save_json(folder / RECORD, record.model_dump(mode="json"))
    try:
        write_report(folder, record, folder / REPORT, check=False)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        log.warning(
            "%s: the record is complete, but its report could not be written (%s)", folder, reason
        )


def _place(source: Path, place: Path) -> None:
    """Give a file of the store a second name in the run folder, or a copy on another disk."""
    try:
        os.link(source, place)
    except OSError:
        write_atomic(place, source.read_bytes())
