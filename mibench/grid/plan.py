"""One plan for many cells: their stages merged, so that what they share is computed once."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mibench.cell.enough import require_enough
from mibench.cell.keys import Keys, Task, needed
from mibench.cell.pipeline import run_folder, split_of
from mibench.cell.request import Request
from mibench.cell.resolve import resolve
from mibench.data.divided import Divided
from mibench.errors import RequestError
from mibench.progress import SILENT
from mibench.store.store import Store
from mibench.types import digest


@dataclass(frozen=True)
class GridCell:
    """A cell of a grid: its request, its run folder and its stages by name."""

    spec: Request
    folder: Path
    stages: dict[str, Task]
    split: Divided

    @property
    def goal(self) -> str:
        """Key of the stage that ends the cell."""
        return self.stages["metrics"].key

    @property
    def name(self) -> str:
        """What progress and tables call the cell."""
        return self.folder.name


@dataclass(frozen=True)
class Node:
    """A stage to compute, for all the cells that want it.

    Attributes:
        task: the stage. cell: index of the first cell that wants it, which computes it.
        parents: keys of the nodes that must be done before.
        cells: indices of all cells that want it.
    """

    task: Task
    cell: int
    parents: frozenset[str]
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What a grid has to compute.

    Attributes:
        cells: the cells, those that equal an earlier one left out.
        nodes: stages that the store does not hold, and the last stage of each cell, by key;
            parents come first.
        cached: stages that the store holds, by key.
        separately: stages that a script would compute which runs cell after cell without a store.
    """

    cells: tuple[GridCell, ...]
    nodes: dict[str, Node]
    cached: dict[str, Task]
    separately: int
    seconds: dict[str, float | None] = field(default_factory=dict)

    @property
    def to_compute(self) -> list[Node]:
        """The nodes whose artifact is missing."""
        return [node for key, node in self.nodes.items() if key not in self.cached]

    def estimate(self) -> tuple[float, int]:
        """Seconds of computing that are left, and of how many stages nothing is known."""
        known = [self.seconds.get(node.task.key) for node in self.to_compute]
        return sum(each for each in known if each is not None), known.count(None)


def make_plan(specs: Iterable[Request], store: Store | Path, out: Path | None = None) -> Plan:
    """Resolve all cells and merge their stages; nothing is computed.

    Args:
        specs: the cells.
        store: what it holds is not computed again; one named by its folder is made when no cell
            was refused.
        out: folder of the run folders; None: ``mibench-runs``.

    Raises:
        RequestError: a cell is wrong; the message names it.
    """
    cells: list[GridCell] = []
    splits: dict[str, Divided] = {}
    seen: set[str] = set()
    for spec in specs:
        cell = _cell(spec, splits, out)
        if cell.goal not in seen:
            seen.add(cell.goal)
            cells.append(cell)
    if not cells:
        raise RequestError("the grid has no cells")
    store = store if isinstance(store, Store) else Store(store)
    manifests = {
        task.key: store.manifest(task.stage, task.key)
        for task in {task.key: task for cell in cells for task in cell.stages.values()}.values()
    }
    wanted: dict[str, list[int]] = defaultdict(list)
    found: dict[str, tuple[Task, int, frozenset[str]]] = {}
    cached: dict[str, Task] = {}
    for index, cell in enumerate(cells):
        for task in cell.stages.values():
            if manifests[task.key] is not None:
                cached[task.key] = task
        for task in needed(cell.stages, lambda t: manifests[t.key] is not None):
            if task.key in cached and task.key != cell.goal:
                continue  # read by whoever needs it
            parents = (cell.stages[name].key for name in task.parents)
            missing = frozenset(key for key in parents if manifests[key] is None)
            found.setdefault(task.key, (task, index, missing))
            wanted[task.key].append(index)
    nodes = {
        key: Node(task, index, parents, tuple(wanted[key]))
        for key, (task, index, parents) in found.items()
    }
    separately = sum(len(cell.stages) for cell in cells)
    plan = Plan(tuple(cells), nodes, cached, separately)
    plan.seconds.update(estimates([node.task for node in plan.to_compute], store))
    return plan


def _cell(spec: Request, splits: dict[str, Divided], out: Path | None) -> GridCell:
    try:
        cell = resolve(spec)
        card = cell.protocol
        options = card.data.model_dump(mode="json")
        place = digest([spec.root, spec.data, card.resolution, options])
        if place not in splits:
            splits[place] = split_of(cell, SILENT)
        split = splits[place]
        require_enough(cell, split)
        folder = run_folder(cell, None if split.split is None else split.digest)
        if out is not None:
            folder = out.joinpath(*folder.parts[1:])
        return GridCell(cell.spec, folder, Keys(cell, split).plan(), split)
    except RequestError as error:
        where = f"{spec.attack} on {spec.target or 'the default target'} under {spec.defense}"
        raise RequestError(f"cell {where}, seed {spec.seed}: {error}") from error


def estimates(tasks: Iterable[Task], store: Store) -> dict[str, float | None]:
    """Seconds that each task may take, from what the store's most similar stages took.

    Similar are stages of the same kind whose inputs agree in the most fields; of equally similar
    ones it is the median. None where no stage of the kind was measured.
    """
    measured: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
    for info in store.ls():
        manifest = store.manifest(info.stage, info.key)
        if manifest is not None and "seconds" in manifest.cost:
            sample = (_flat(manifest.inputs), float(manifest.cost["seconds"]))
            measured[info.stage].append(sample)
    return {task.key: _estimate(_flat(task.inputs), measured[task.stage]) for task in tasks}


def _estimate(inputs: dict[str, str], measured: list[tuple[dict[str, str], float]]) -> float | None:
    if not measured:
        return None
    scores = [sum(inputs.get(k) == v for k, v in each.items()) for each, _ in measured]
    best = max(scores)
    alike = [took for score, (_, took) in zip(scores, measured, strict=True) if score == best]
    return statistics.median(alike)


def _flat(inputs: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in inputs.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = repr(value)
    return flat
