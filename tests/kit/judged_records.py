"""Records with ranks, made by hand, and run folders with pictures around them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from mibench import metrics
from mibench.record import (
    CEILING,
    FLOOR_PRIOR,
    FLOOR_PUBLIC,
    GALLERY,
    LEAKS,
    LOOKALIKE,
    MetricValue,
    Record,
)
from mibench.store.artifact import save_tensors
from tests.kit.board_records import IDENTITIES, SAMPLES, record_data

DECOYS = 100_000
SIDE = 8

Ranks = Sequence[Sequence[int]]

# Of five people, four samples each: the attack, and what it is to be held against.
ATTACK: Ranks = ((5, 9, 40, 1), (80, 70, 60, 50), (900, 10, 700, 600), (7, 8, 3, 2), (20, 30, 9, 4))
LOOKUP: Ranks = ((400, 90, 4000, 100), (8000, 700, 600, 5000), (90, 1000, 70, 600), (700, 8, 3, 20),
                 (2000, 300, 90, 40))  # fmt: skip
RANDOM: Ranks = ((50_000, 9000, 70_000, 30_000),) * 4 + ((99_000, 40_000, 1000, 60_000),)


def of_ranks(ranks: Ranks) -> dict[str, MetricValue]:
    """What the metrics say of ranks."""
    p = torch.tensor(ranks, dtype=torch.float64) / (DECOYS + 1)
    labels = torch.arange(len(p))
    found = {
        "identity_bits": metrics.identity_bits(p, labels),
        "median_rank": metrics.median_rank(p, labels, DECOYS),
    }
    leaks: dict[str, Fraction] = LEAKS
    return found | {key: metrics.leak(p, labels, a, DECOYS) for key, a in leaks.items()}


def judged(
    ranks: Ranks = ATTACK, lookup: Ranks = LOOKUP, closer: str = "00000", **options: Any
) -> Record:
    """A record whose first sample of each person is the best guess.

    Args:
        ranks: the attack's; lookup: look-up's.
        closer: of which people the best guess is closer than the look-alike.
        options: as of :func:`tests.kit.board_records.record_data`.
    """
    changes = {key: options.pop(key) for key in ("metrics", "references") if key in options}
    data = record_data(**options)
    data["protocol"]["resolved"]["judges"] = [{"kind": "embedding"}]
    p, theirs = (torch.tensor(each, dtype=torch.float64) / (DECOYS + 1) for each in (ranks, lookup))
    labels = torch.arange(len(p))
    won = torch.tensor([[float(each) for each in closer]])
    own = of_ranks(ranks) | {
        "identity_bits_best": metrics.identity_bits(p[:, :1], labels),
        "excess_bits": metrics.excess_bits(p, theirs, labels),
        "excess_bits_best": metrics.excess_bits(p[:, :1], theirs[:, :1], labels),
        "beats_lookalike": metrics.beats_lookalike(won, torch.full_like(won, 0.5), labels),
    }
    references = {
        FLOOR_PRIOR: of_ranks(RANDOM),
        FLOOR_PUBLIC: of_ranks(lookup),
        LOOKALIKE: of_ranks([[3]] * len(p)),
        CEILING: of_ranks([[1, 2]] * len(p)),
    }
    dumped = {key: value.model_dump(mode="json") for key, value in own.items()}
    data["metrics"] = {**data["metrics"], **dumped, **changes.get("metrics", {})}
    for name, values in references.items():
        found = {key: value.model_dump(mode="json") for key, value in values.items()}
        data["references"][name] = {**data["references"].get(name, {}), **found}
    data["references"] |= changes.get("references", {})
    return Record.model_validate(data)


def pictures(seed: int, count: int = IDENTITIES) -> Tensor:
    """Random pictures, uint8."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, SIDE, SIDE)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def run_folder(
    folder: Path, record: Record, names: Sequence[str] | None = None, gallery: bool = True
) -> Path:
    """A run folder: the record, its reconstructions, and the gallery."""
    folder.mkdir(parents=True, exist_ok=True)
    every = torch.stack([pictures(seed) for seed in range(SAMPLES)], dim=1)
    data = save({"images": every.float() / 255, "labels": torch.arange(IDENTITIES)})
    (folder / "reconstructions.safetensors").write_bytes(data)
    if gallery:
        tensors = {
            "identities": torch.arange(IDENTITIES),
            "private": pictures(100),
            "lookalike": pictures(101),
            "best": torch.zeros(IDENTITIES, dtype=torch.int64),
            "median": torch.full((IDENTITIES,), 2),
            "lookalike_rank": torch.tensor([3, 4, 11, 1_600, 21]),
        }
        called = [f"Person {k}" for k in range(IDENTITIES)] if names is None else [*names]
        save_tensors(folder / GALLERY, tensors, {"names": json.dumps(called)})
    artifacts = {
        **record.artifacts,
        "reconstructions.safetensors": hashlib.sha256(data).hexdigest(),
    }
    record = record.model_copy(update={"artifacts": artifacts})
    (folder / "record.json").write_text(record.model_dump_json())
    return folder
