"""The standard set: all attacks of a protocol's lists on one defense, and its worst cases."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mibench.cell.request import check_device
from mibench.cell.run import select_device
from mibench.errors import RequestError
from mibench.files import output_folder
from mibench.grid.grid import Grid, expand, make_grid
from mibench.grid.local import InProcess
from mibench.grid.plan import Plan, make_plan
from mibench.grid.run import records, run_grid
from mibench.grid.schedule import Listener, Result
from mibench.leaderboard.board import Measure, measure_of
from mibench.leaderboard.ranking import samples_of, worst_of_target
from mibench.metrics.intervals import bootstrap_interval
from mibench.progress import SILENT, Progress
from mibench.protocols import card_named
from mibench.record import BoardCard, Record
from mibench.store.hub import source_of
from mibench.store.store import default_root
from mibench.training.defense import DEFENSES
from mibench.types import Access, Preset

WITHOUT_WEIGHTS = (
    "changes the answers only: no white-box attack is run, for whoever has the weights takes the "
    "filter off"
)


@dataclass(frozen=True)
class WorstCase:
    """What leaks from one target in the worst case of an access's list of attacks.

    Attributes:
        access: what the attacks may see.
        attacks: the list. list_version: its version.
        measure: what leaks: identity bits where the protocol has judges, else an accuracy; None
            without a record.
        value: mean over identities, by the rule of boards
            (:func:`mibench.leaderboard.ranking.worst_of_target`); None where no attack tells.
        interval: its 95 % bootstrap interval over identities; None where the protocol's intervals
            are over seeds, or there is one identity.
        missing: attacks that it is without, each with the reason: then it may well be more.
    """

    access: Access
    attacks: tuple[str, ...]
    list_version: int
    measure: Measure | None
    value: float | None
    interval: tuple[float, float] | None
    missing: Mapping[str, str]

    def dump(self) -> dict[str, Any]:
        """As JSON, the measure by its key."""
        return {
            "access": self.access,
            "attacks": list(self.attacks),
            "list_version": self.list_version,
            "metric": self.measure and self.measure.key,
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "missing": dict(self.missing),
        }


@dataclass(frozen=True)
class Standard:
    """What the standard set came to.

    Attributes:
        records: of the cells that ended, by attack.
        worst_cases: one an access, white-box first.
        failed: for each attack whose cell failed, the last line of its traceback.
    """

    records: Mapping[str, Record]
    worst_cases: tuple[WorstCase, ...]
    failed: Mapping[str, str]


def standard(
    *,
    protocol: str = "synthfaces-32",
    target: str | None = None,
    defense: str = "none",
    access: Access | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    preset: Preset | None = None,
    data: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    budget: float = 1.0,
    store: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    hub: str | None = None,
    progress: Progress = SILENT,
) -> Standard:
    """Run the standard set of attacks on a defense, one cell after the other: what a paper reports.

    A cell that fails does so alone. Stages that cells share, as the target, are computed once, and
    the same call again continues where the last one was stopped.

    Args:
        access: ``"white-box"``, ``"black-box"`` or ``"label-only"``: that list alone; None: the
            lists of all. A defense of the output has no white-box list.
        overrides: for all cells.
        out: folder of the run folders; None: ``mibench-runs``.

    All others are as :func:`mibench.run` takes them.

    Returns:
        The records, each also in its run folder, and the worst case of each access.

    Raises:
        RequestError: the request is wrong, or the protocol has no such list; raised before anything
            is computed.
    """
    check_device(device)
    kept = default_root() if store is None else output_folder(store, "the store")
    folder = None if out is None else output_folder(out, "the folder of run folders")
    select_device(device)
    grid = standard_grid(
        access,
        protocol=protocol,
        target=target,
        defense=defense,
        seed=seed,
        root=None if root is None else str(root),
        preset=preset,
        data=None if data is None else str(data),
        budget=budget,
        overrides=dict(overrides or {}),
    )
    source = source_of(hub, progress)
    plan = make_plan(expand([grid]), kept, folder, source)
    url = source.url if source else None
    result = run_grid(plan, kept, InProcess(progress), Listener(), device=device, hub=url)
    return summary(grid, access, plan, result, records(plan.cells, result))


def standard_grid(
    access: Access | None,
    *,
    protocol: str,
    target: str | None,
    defense: str,
    seed: int,
    overrides: Mapping[str, Any],
    **fields: Any,
) -> Grid:
    """The grid of one defense that the standard set is.

    Args:
        access: the list; None: those of all accesses.
        protocol, target, defense, seed, overrides: of all cells.
        fields: ``root``, ``preset``, ``data``, ``budget``, where they are given.

    Raises:
        RequestError: there is no such list, or something else is wrong with the request.
    """
    board, output = card_named(protocol).board, DEFENSES.get(defense).filters()
    if access is not None and access not in get_args(Access):
        raise RequestError(f"access {access!r}: there are {', '.join(get_args(Access))}")
    attacks = board.standard(access, output=output)
    if not attacks:
        reason = f"the protocol {protocol} has no list of {access or 'lower-access'} attacks"
        if output and access == "white-box":
            reason = f"{defense} {WITHOUT_WEIGHTS}"
        raise RequestError(f"--attack standard: {reason}")
    given = {name: value for name, value in fields.items() if value is not None}
    axes = {"targets": [target], "defenses": [defense], "attacks": attacks, "seeds": [seed]}
    return make_grid({"protocol": protocol, **axes, "set": dict(overrides), **given}, "the cell")


def summary(
    grid: Grid,
    access: Access | None,
    plan: Plan,
    result: Result,
    done: Mapping[int, Record],
) -> Standard:
    """Records and worst cases of a standard set that was run.

    Args:
        grid: of :func:`standard_grid`. access: what it was made of.
        plan: of its cells. result: how it ended. done: the records by the index of their cell.
    """
    found, failed = by_attack(plan, result, done)
    board, output = card_named(grid.protocol).board, DEFENSES.get(grid.defenses[0]).filters()
    wanted: tuple[Access, ...] = get_args(Access) if access is None else (access,)
    return Standard(
        records=found,
        worst_cases=tuple(
            worst_case(board, each, found, failed)
            for each in wanted
            if board.standard(each, output=output)
        ),
        failed=failed,
    )


def by_attack(
    plan: Plan, result: Result, done: Mapping[int, Record]
) -> tuple[dict[str, Record], dict[str, str]]:
    """Of cells with an attack each, the records; and why there is none, where a cell failed."""
    names = {index: cell.graph.cell.request.attack for index, cell in enumerate(plan.cells)}
    failed = {
        names[index]: f"failed in {stage}: {error.strip().splitlines()[-1]}"
        for index, (stage, error) in result.failed.items()
    }
    return {names[index]: record for index, record in done.items()}, failed


def worst_case(
    board: BoardCard,
    access: Access,
    made: Mapping[str, Record],
    failed: Mapping[str, str],
) -> WorstCase:
    """The worst case of one access against one target.

    Args:
        board: whose lists count.
        access: which of them.
        made: records against the target by attack.
        failed: why there is none, by attack.
    """
    attacks = board.attacks(access)
    measure = next((measure_of(record) for record in made.values()), None)
    missing, told = {}, []
    for attack in attacks:
        record = made.get(attack)
        if record is None or measure is None:
            missing[attack] = failed.get(attack, "not run")
        elif record.status == "diverged":
            missing[attack] = "diverged"
        elif not (rows := samples_of(record, measure)) or min(map(len, rows)) < 2:
            missing[attack] = "its record does not tell each of two or more samples"
        else:
            told.append(rows)
    values = worst_of_target(told) if told else []
    seed = next((record.seed for record in made.values()), 0)
    resampled = board.interval == "identities" and len(values) > 1
    return WorstCase(
        access=access,
        attacks=attacks,
        list_version=board.list_version,
        measure=measure,
        value=statistics.fmean(values) if values else None,
        interval=bootstrap_interval(values, seed) if resampled else None,
        missing=missing,
    )
