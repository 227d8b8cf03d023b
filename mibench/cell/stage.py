"""A stage: one step of a cell, with what its key is made of and the work that it is."""

from __future__ import annotations

import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch

from mibench.progress import Progress, StageState
from mibench.store.artifact import Artifact
from mibench.store.environment import peak_memory_bytes
from mibench.store.hub import Hub
from mibench.store.source import code_digest
from mibench.store.store import Store, stage_key

T = TypeVar("T")
V = TypeVar("V")


class Stage(ABC, Generic[T]):
    """One step of a cell; a file in this folder each, and a line in ``graph.py``.

    Its key is made of all that affects its result, and known without computing anything: so a
    finished cell touches no image and no network, and a grid knows what its cells share. The code
    of a stage is what its file and its methods' reach by import (:func:`code_digest`).

    Args:
        inputs: the settings that its result depends on, JSON values.
        seed: None for a stage without randomness of its own.
        parents: the stages that it reads.
        methods: classes of the methods that it runs, and modules that it finds by name.
        detail: tells stages of one kind in a cell apart, as an architecture does.

    Class attributes:
        kind: the store's folder.
        stored: whether its result is an artifact; what is pinned or lies prepared is read as it is.
    """

    kind: ClassVar[str]
    stored: bool = True

    def __init__(
        self,
        inputs: dict[str, Any],
        seed: int | None,
        parents: Sequence[Stage[Any]],
        methods: Iterable[type | str | ModuleType] = (),
        detail: str = "",
    ) -> None:
        self.inputs, self.seed, self.parents = inputs, seed, tuple(parents)
        self.methods, self.detail = tuple(methods), detail

    @property
    def name(self) -> str:
        """As progress shows it: ``"target"``, ``"student resnet18"``."""
        return f"{self.kind} {self.detail}".rstrip()

    @functools.cached_property
    def code(self) -> str:
        """Digest of the code behind the stage."""
        return code_digest(type(self).__module__, *self.methods)

    @functools.cached_property
    def key(self) -> str:
        """Key of its artifact; equal keys are one artifact, in whatever cells."""
        parents = [parent.key for parent in self.parents]
        return stage_key(self.kind, self.inputs, self.seed, parents, self.code)

    def lineage(self) -> list[Stage[Any]]:
        """All stages that it stands on, and itself; parents come first."""
        found: dict[str, Stage[Any]] = {}
        for parent in self.parents:
            found |= {each.key: each for each in parent.lineage()}
        return [*found.values(), self]

    @abstractmethod
    def load(self, bench: Bench) -> T:
        """Its result: read from its artifact, which is computed if need be.

        Raises:
            DivergedError: the stage ended, but left the numbers.
        """

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        """Write the artifact's files into an empty folder; returns what that cost (JSON)."""
        raise NotImplementedError


class Bench:
    """Where stages are computed, and what of them is in memory.

    Attributes:
        store: where artifacts live. device: where tensors live. progress: told of stages and steps.
        hub: where artifacts are taken from before they are computed; None: nowhere.
        computed: names of the stages that the store did not hold.
    """

    def __init__(
        self, store: Store, device: torch.device, progress: Progress, hub: Hub | None = None
    ) -> None:
        self.store, self.device, self.progress, self.hub = store, device, progress, hub
        self.computed: set[str] = set()
        self._told: set[str] = set()  # names of the stages that progress was told of
        self._within: list[float] = [0.0]  # seconds of the stages computed inside each open one
        self._held: dict[object, Any] = {}

    @property
    def seconds(self) -> float:
        """Seconds spent in computing stages so far."""
        return self._within[0]

    def get(self, stage: Stage[T]) -> T:
        """A stage's result: from memory, from the store, or computed with all that it reads.

        Raises:
            DivergedError: the stage, or one that it reads, left the numbers.
        """
        return self.once(stage.key, lambda: stage.load(self))

    def once(self, key: object, make: Callable[[], V]) -> V:
        """What ``make`` returns, kept in memory for whoever asks for ``key`` again."""
        if key not in self._held:
            self._held[key] = make()
        return cast(V, self._held[key])

    def artifact(self, stage: Stage[Any]) -> Artifact:
        """The artifact of a stage, fetched or computed if need be; its cost is kept with it."""

        def timed(folder: Path) -> dict[str, Any]:
            self.progress.stage(stage.name, "computing")
            start = time.monotonic()
            self._within.append(0.0)
            try:
                cost = stage.compute(folder, self)
            finally:
                inside = self._within.pop()
            elapsed = time.monotonic() - start
            self._within[-1] += elapsed
            memory = peak_memory_bytes(self.device)
            return {"seconds": round(elapsed - inside, 3), "peak_memory_bytes": memory, **cost}

        offer = self.hub.offer(stage.kind, stage.key) if self.hub else None
        fetched: list[Path] = []

        def fetch(folder: Path) -> None:
            assert offer is not None
            offer(folder)
            fetched.append(folder)

        artifact = self.store.get_or_compute(
            stage.kind, stage.key, stage.inputs, timed, self.device, fetch if offer else None
        )
        if not artifact.cached:
            self.computed.add(stage.name)
        if not artifact.cached or stage.name not in self._told:
            seconds = float(artifact.manifest.cost.get("seconds", 0))
            found: StageState = "fetched" if fetched else "cached"
            self.progress.stage(stage.name, found if artifact.cached else "done", seconds)
        self._told.add(stage.name)
        return artifact


def has(stage: Stage[Any], store: Store, hub: Hub | None) -> bool:
    """Whether the artifact of a stage is in a store, or on a hub, as these say."""
    held = store.manifest(stage.kind, stage.key) is not None
    return held or (hub is not None and (stage.kind, stage.key) in hub.entries)
