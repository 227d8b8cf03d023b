"""Records made by hand, of the tests' tiny protocol: five identities, four samples each."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mibench.leaderboard.names import cell_name
from mibench.leaderboard.records import Filed
from mibench.leaderboard.verifications import Finding
from mibench.metrics import bootstrap_interval
from mibench.record import CEILING, FLOOR_PRIOR, Environment, Record, strength
from mibench.types import digest
from tests.conftest import TINY

IDENTITIES, SAMPLES = 5, 4

CARDS = {"tiny": TINY.board}


def metric(values: Sequence[float], n: int, hits: Sequence[str] | None = None) -> dict[str, Any]:
    """A metric with values per identity, as a record holds it."""
    return {
        "value": sum(values) / len(values),
        "n": n,
        "interval": list(bootstrap_interval(torch.tensor(values, dtype=torch.float64), 0, rules=1)),
        "interval_over": "identities",
        "per_identity": list(values),
        "hits": None if hits is None else list(hits),
        "reason": None,
    }


def accuracy(hits: Sequence[str]) -> dict[str, Any]:
    """An accuracy from its hits."""
    values = [row.count("1") / len(row) for row in hits]
    return metric(values, sum(map(len, hits)), hits)


def hits_of(count: int) -> list[str]:
    """Hits of the tiny protocol with so many 1s, filled identity by identity."""
    text = ("1" * count).ljust(IDENTITIES * SAMPLES, "0")
    return [text[i : i + SAMPLES] for i in range(0, len(text), SAMPLES)]


def metrics(hits: Sequence[str], run: str = "0") -> dict[str, Any]:
    """All metrics of a record, from the top-1 hits; no two runs agree in every distance."""
    every = ["1" * len(row) for row in hits]
    none = ["0" * len(row) for row in hits]
    n = sum(map(len, hits))
    distances = [10.0 + i + int(run[:6], 16) * 1e-12 for i in range(len(hits))]
    absent = {"value": None, "reason": "no Inception weights"}
    return {
        "attack_accuracy_top1": accuracy(hits),
        "attack_accuracy_top5": accuracy(every),
        "attack_accuracy_both": accuracy(none),
        "evaluator_agreement": accuracy(none),
        "knn_distance": metric(distances, n),
        "attribute_error": metric([0.2] * len(hits), n),
        "fd_evaluator": {
            "value": 20.5,
            "n": n,
            "interval": [18.0, 23.0],
            "interval_over": "identity subsamples",
        },
        "fid": absent,
    }


ENVIRONMENT = Environment(
    mibench="0.1.0",
    commit="0123456789abcdef",
    dirty=False,
    python="3.11",
    torch="2",
    timm="1",
    opacus="1",
    device="cpu",
    threads=1,
    platform="Linux",
)


def record_data(
    hits: int | Sequence[str] = 10,
    *,
    attack: str = "gmi",
    defense: str = "none",
    target: str = "test_resnet",
    seed: int = 0,
    natural: float = 0.9,
    evaluator: float = 0.95,
    passed: dict[str, Any] | None = None,
    scale: float | str | None = 3,
    epochs: int = 20,
    recipe: str = "general GAN",
    **changes: Any,
) -> dict[str, Any]:
    """A sound record as JSON. ``passed`` settings must agree with ``scale`` and ``epochs``."""
    rows = hits_of(hits) if isinstance(hits, int) else list(hits)

    def part(name: str, key: str, resolved: dict[str, Any]) -> dict[str, Any]:
        own = {k: v for k, v in (passed or {}).items() if k.startswith(f"{key}.")}
        return {"name": name, "version": None, "passed": own, "resolved": resolved}

    settings = {
        "target": {"epochs": epochs},
        "defense": {"scale": scale} if defense == "bido" else {},
    }
    prior = part("", "prior", {})
    utility: dict[str, float | str | None] = {
        "natural_accuracy": natural,
        "evaluator_accuracy": evaluator,
        "epsilon": None,
        "delta": None,
        "privacy_unit": None,
    }
    knob = {"none": "target.epochs", "bido": "defense.scale"}.get(defense)
    found = strength(knob, settings, changes.get("utility", utility)) if knob else None
    card = {**TINY.model_dump(mode="json"), "digest": TINY.digest}
    run = digest([attack, defense, target, seed, passed, rows])
    return {
        "schema_version": 3,
        "rules": 1,
        "status": "complete",
        "protocol": {"name": "tiny", "version": 1, "passed": {}, "resolved": card},
        "target": part(target, "target", settings["target"]),
        "defense": part(defense, "defense", settings["defense"]),
        "attack": part(attack, "attack", {"iterations": 3}),
        "seed": seed,
        "access": "white-box",
        "prior": {
            "kind": "gan",
            "recipe": recipe,
            "pinned": False,
            "passed": prior["passed"],
            "resolved": prior["resolved"],
        },
        "strength": found.model_dump() if found else None,
        "people": False,
        "utility": utility,
        "metrics": metrics(rows, run),
        "references": {
            FLOOR_PRIOR: {"attack_accuracy_top1": accuracy(hits_of(1))},
            CEILING: {"attack_accuracy_top1": accuracy(hits_of(20))},
        },
        "costs": [],
        "artifacts": {
            "target": digest([defense, target, seed, passed, natural]),
            "reconstructions.safetensors": run,
        },
        "environment": ENVIRONMENT.model_dump(),
        "command": f"mibench run --protocol tiny --attack {attack} --seed {seed}",
        "created": "2026-01-01T00:00:00+00:00",
        **copy.deepcopy(changes),
    }


def make(hits: int | Sequence[str] = 10, **options: Any) -> Record:
    """A sound record."""
    return Record.model_validate(record_data(hits, **options))


def bido(hits: int, natural: float, scale: float, seed: int = 0, **options: Any) -> Record:
    """A record of improved-kedmi on BiDO at a strength, by default 3."""
    passed = {} if scale == 3 else {"defense.scale": scale}
    return make(
        hits,
        attack="improved-kedmi",
        defense="bido",
        natural=natural,
        scale=scale,
        seed=seed,
        **{"passed": passed, **options},
    )


def diverged(**options: Any) -> Record:
    """The record of a cell that diverged."""
    data = record_data(**options, status="diverged", references={})
    data["metrics"] = {k: {"value": None, "reason": "diverged"} for k in data["metrics"]}
    return Record.model_validate(data)


def finding(found: Any, by: str | None = None) -> Finding:
    """What a check of a record found."""
    return Finding(found=found, by=by, at="2026-01-01", mibench="0.1.0", commit=None)


def filed(*records: Record) -> list[Filed]:
    """Records as they are when they were read from a leaderboards folder."""
    return [Filed(f"{r.protocol.name}/{cell_name(r)}.json", r) for r in records]


def file_all(folder: Path, *records: Record) -> None:
    """Put records into a leaderboards folder, unchecked."""
    for each in filed(*records):
        path = folder / "records" / each.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(each.record.model_dump(mode="json")))
