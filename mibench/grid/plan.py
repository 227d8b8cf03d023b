"""One plan for many cells: their stages merged, so that what they share is computed once."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mibench.cell.enough import require_enough
from mibench.cell.graph import Graph
from mibench.cell.record import name_on_boards, run_folder
from mibench.cell.request import Request
from mibench.cell.resolve import check, resolve
from mibench.cell.run import divide, settled
from mibench.cell.stage import Stage, has
from mibench.data.divided import Divided
from mibench.errors import NotApplicableError, RequestError
from mibench.progress import SILENT
from mibench.settings import flat
from mibench.store.hub import Hub
from mibench.store.store import Store
from mibench.types import digest

Settings = dict[str, Any]


@dataclass(frozen=True)
class GridCell:
    """A cell of a grid: its stages and its run folder."""

    graph: Graph
    folder: Path

    @property
    def goal(self) -> str:
        """Key of the stage that ends the cell."""
        return self.graph.picture.key

    @property
    def name(self) -> str:
        """What progress and tables call the cell."""
        return self.folder.name

    @property
    def on_boards(self) -> tuple[str, int | None, str]:
        """Name and version of the protocol, and what boards call the cell."""
        card = self.graph.cell.protocol
        return card.name, card.version, name_on_boards(self.graph.cell)


@dataclass(frozen=True)
class PlannedStage:
    """A stage to compute, for all the cells that want it.

    Attributes:
        stage: the stage. cell: index of the first cell that wants it, which computes it.
        parents: keys of the stages that must be done before.
        cells: indices of all cells that want it.
    """

    stage: Stage[Any]
    cell: int
    parents: frozenset[str]
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What a grid has to compute.

    Attributes:
        cells: the cells, those that equal an earlier one left out.
        planned: stages that the store does not hold, and the last stage of each cell, by key;
            parents come first.
        cached: stages that the store holds, or the hub, by key.
        separately: stages that a script would compute which runs cell after cell without a store.
        left_out: pairs of attack and defense that are not applicable (n/a), with the number of
            cells of each, in order.
        filed: how many cells were left out because their records are there.
    """

    cells: tuple[GridCell, ...]
    planned: dict[str, PlannedStage]
    cached: dict[str, Stage[Any]]
    separately: int
    seconds: dict[str, float | None] = field(default_factory=dict)
    left_out: dict[tuple[str, str], int] = field(default_factory=dict)
    filed: int = 0

    @property
    def to_compute(self) -> list[PlannedStage]:
        """The stages whose artifact is missing."""
        return [planned for key, planned in self.planned.items() if key not in self.cached]

    def estimate(self) -> tuple[float, int]:
        """Seconds of computing that are left, and of how many stages nothing is known."""
        known = [self.seconds.get(planned.stage.key) for planned in self.to_compute]
        return sum(each for each in known if each is not None), known.count(None)


def make_plan(
    requests: Iterable[Request],
    store: Store | Path,
    out: Path | None = None,
    hub: Hub | None = None,
    filed: Container[tuple[str, int | None, str]] = (),
) -> Plan:
    """Resolve all cells and merge their stages; nothing is computed.

    Args:
        requests: the cells; those whose attack takes their defense off are left out.
        store: what it holds is not computed again; one named by its folder is made when no cell
            was refused.
        out: folder of the run folders; None: ``mibench-runs``.
        hub: what it holds is fetched when it is needed.
        filed: name and version of the protocol, and a cell's name on boards, of the records that
            are there: these cells are left out.

    Raises:
        RequestError: a cell is wrong, and the message names it; or none is left.
    """
    cells: list[GridCell] = []
    divided: dict[str, Divided] = {}
    seen: set[str] = set()
    there: list[GridCell] = []
    left_out: Counter[tuple[str, str]] = Counter()
    for request in requests:
        try:
            cell = _cell(request, divided, out)
        except NotApplicableError as error:
            left_out[request.attack, request.defense] += 1
            reason = str(error)
            continue
        if cell.goal not in seen:
            seen.add(cell.goal)
            (there if cell.on_boards in filed else cells).append(cell)
    if there and not cells:
        raise RequestError(f"all {len(there)} cells of the grid are filed: nothing is left to do")
    if left_out and not cells:
        raise RequestError(f"no cell of the grid is left: {reason}")
    if not cells:
        raise RequestError("the grid has no cells")
    store = store if isinstance(store, Store) else Store(store)
    stages = {each.key: each for cell in cells for each in cell.graph.stages.values()}
    wanted: dict[str, list[int]] = defaultdict(list)
    found: dict[str, tuple[Stage[Any], int, frozenset[str]]] = {}
    cached = {key: each for key, each in stages.items() if has(each, store, hub)}
    for index, cell in enumerate(cells):
        for stage in cell.graph.needed(lambda each: each.key in cached):
            if stage.key in cached and stage.key != cell.goal:
                continue  # read by whoever needs it
            parents = (each.key for each in stage.parents if each.stored)
            missing = frozenset(key for key in parents if key not in cached)
            found.setdefault(stage.key, (stage, index, missing))
            wanted[stage.key].append(index)
    planned = {
        key: PlannedStage(stage, index, parents, tuple(wanted[key]))
        for key, (stage, index, parents) in found.items()
    }
    separately = sum(len(cell.graph.stages) for cell in cells)
    plan = Plan(tuple(cells), planned, cached, separately, {}, dict(left_out), len(there))
    plan.seconds.update(estimates([planned.stage for planned in plan.to_compute], store))
    return plan


def _cell(request: Request, divided: dict[str, Divided], out: Path | None) -> GridCell:
    try:
        cell = check(resolve(settled(request)))
        card = cell.protocol
        options = card.data.model_dump(mode="json")
        audit = request.audit and request.audit.model_dump(mode="json", exclude={"model", "prior"})
        place = digest([request.root, request.data, card.resolution, options, audit])
        if place not in divided:
            divided[place] = divide(cell, SILENT)
        images = divided[place]
        require_enough(cell, images)
        graph = Graph(cell, images)
        folder = run_folder(cell, graph.images)
        if out is not None:
            folder = out.joinpath(*folder.parts[1:])
        return GridCell(graph, folder)
    except NotApplicableError:
        raise
    except RequestError as error:
        if request.audit is not None:  # all its cells are of one network
            raise
        where = (
            f"{request.attack} on {request.target or 'the default target'} under {request.defense}"
        )
        raise RequestError(f"cell {where}, seed {request.seed}: {error}") from error


def estimates(stages: Iterable[Stage[Any]], store: Store) -> dict[str, float | None]:
    """Seconds that each stage may take, from what the store's most similar stages took.

    Similar are stages of the same kind whose inputs agree in the most fields; of equally similar
    ones it is the median. None where no stage of the kind was measured.
    """
    measured: dict[str, list[tuple[Settings, float]]] = defaultdict(list)
    for info in store.ls():
        manifest = store.manifest(info.stage, info.key)
        if manifest is not None and "seconds" in manifest.cost:
            sample = (dict(flat(manifest.inputs)), float(manifest.cost["seconds"]))
            measured[info.stage].append(sample)
    return {each.key: _estimate(dict(flat(each.inputs)), measured[each.kind]) for each in stages}


def _estimate(inputs: Settings, measured: list[tuple[Settings, float]]) -> float | None:
    if not measured:
        return None
    scores = [sum(inputs.get(k) == v for k, v in each.items()) for each, _ in measured]
    best = max(scores)
    alike = [took for score, (_, took) in zip(scores, measured, strict=True) if score == best]
    return statistics.median(alike)
