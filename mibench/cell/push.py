"""What a store has of cells, and of run folders, put on a hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mibench.cell.graph import Graph
from mibench.cell.record import RECORD
from mibench.cell.request import Request
from mibench.cell.resolve import check, resolve
from mibench.cell.run import divide, settled
from mibench.cell.stage import Stage
from mibench.cell.zoo import name_of, wanted
from mibench.errors import NotApplicableError, RequestError
from mibench.files import read_file, write_atomic
from mibench.leaderboard.names import cell_name
from mibench.leaderboard.parsing import parse
from mibench.names import method_label
from mibench.progress import SILENT
from mibench.store.artifact import Artifact
from mibench.store.hub import Entry, Hub, entry_of
from mibench.store.store import Store, stage_key

# What is shared unless more is asked for: networks that other cells are measured with.
NETWORKS = ("target", "general-prior", "evaluator")
# Networks and numbers; other stages hold pictures, or what judges see in them.
WITHOUT_PICTURES = (
    *NETWORKS,
    *("prior", "student", "surrogate", "untrapped", "references", "metrics"),
)
STAGES = (*WITHOUT_PICTURES, "data", "enrolment", "labelled-images", "reconstructions", "picture")


@dataclass(frozen=True)
class Shared:
    """A stage that may go on a hub, with what it is called there."""

    stage: Stage[Any]
    name: str | None


def shared_by_name(names: Iterable[str]) -> list[Shared]:
    """The targets of these names, but those whose key this machine cannot tell.

    Raises:
        RequestError: one is no name.
    """
    found = (wanted(name) for name in names)
    return [Shared(each.stage, each.name) for each in found if each.key is not None]


def shared_by_cells(requests: Iterable[Request], stages: Collection[str]) -> list[Shared]:
    """The stages of cells, of these kinds; each once, those that read others after them.

    Raises:
        RequestError: a cell is wrong; or pictures of people would be shared.
    """
    found: dict[str, Shared] = {}
    for request in requests:
        try:
            cell = check(resolve(settled(request)))
        except NotApplicableError:
            continue
        graph = Graph(cell, divide(cell, SILENT))
        private = set(stages) - set(WITHOUT_PICTURES)
        if graph.images.divided.of_people and private:
            raise RequestError(
                f"{cell.protocol.name} shows people: of such cells networks and numbers alone are "
                f"shared, and not {', '.join(sorted(private))}"
            )
        label = method_label(cell.protocol.name, cell.protocol_source)
        for stage in graph.stages.values():
            name = name_of(cell) if stage is graph.target else None
            if stage.kind in ("general-prior", "evaluator"):
                name = f"{label}/{stage.name.replace(' ', '-')}"
            if stage.kind in stages:
                found.setdefault(stage.key, Shared(stage, name))
    return list(found.values())


@dataclass(frozen=True)
class Pushed:
    """How a push ended: how many artifacts were sent or there, lay there of others, are not here.

    Attributes:
        entries: of those that are there as they are here. others: keys of those of other machines.
        absent: what the store has not.
    """

    entries: tuple[Entry, ...]
    others: tuple[Entry, ...]
    absent: tuple[str, ...]


def push(
    shared: Iterable[Shared],
    records: Iterable[Path],
    store: Store,
    hub: Hub,
    told: Callable[[Entry], None] = lambda entry: None,
) -> Pushed:
    """Put what the store has on a hub; the index comes last, and the same call again goes on.

    Args:
        shared: stages, of which those go that the store has.
        records: run folders, or files of records.
        told: called with each artifact that is there.

    Raises:
        RequestError: the hub cannot be written to; or there is no such record.
        HubError: it does not answer, or its index is none.
        MibenchError: it could not be written to; or a file holds no record.
    """
    hub.open_for_push()
    absent: list[str] = []
    mine: list[Entry] = []
    others: list[Entry] = []
    for artifact, entry in _of_store(shared, records, store, absent):
        if hub.push(entry, artifact):
            mine.append(entry)
            told(entry)
        else:
            others.append(hub.entries[entry.kind, entry.key])
    if mine:
        hub.publish(mine)
    return Pushed(tuple(mine), tuple(others), tuple(absent))


def _of_store(
    shared: Iterable[Shared], records: Iterable[Path], store: Store, absent: list[str]
) -> Iterator[tuple[Artifact, Entry]]:
    for each in shared:
        stage = each.stage
        artifact = store.find(stage.kind, stage.key)
        if artifact is None:
            absent.append(each.name or f"{stage.name} {stage.key[:12]}")
            continue
        parents = [parent.key for parent in stage.parents]
        names = [each.name] if each.name else []
        yield artifact, entry_of(artifact, names, stage.seed, parents, stage.code)
    for place in records:
        yield _record(place, store)


def _record(place: Path, store: Store) -> tuple[Artifact, Entry]:
    """A record as an artifact of the store, whose key follows from what it says.

    Raises:
        MibenchError: it is none.
    """
    data = read_file(place / RECORD if place.is_dir() else place, "the record")
    record = parse(data)
    inputs = {"sha256": hashlib.sha256(data).hexdigest()}

    def compute(folder: Path) -> dict[str, Any]:
        write_atomic(folder / RECORD, data)
        return {}

    key = stage_key("record", inputs, None, [], "")
    artifact = store.get_or_compute("record", key, inputs, compute)
    protocol = method_label(record.protocol.name, record.protocol.source)
    return artifact, entry_of(artifact, [f"{protocol}/{cell_name(record)}"], None, [], "")
