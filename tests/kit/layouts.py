"""The same pictures in each of the layouts that people have; Arrow's need pyarrow."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

COUNTS = {"Ann": 8, "Bob": 8, "Cyd": 5, "Dan": 2, "Eve": 1}
SIDE = 12


def pixels(seed: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def rows(counts: dict[str, int] = COUNTS) -> list[tuple[str, np.ndarray]]:
    """Identity and pixels of each picture, all different, sorted by identity."""
    people = [who for who in sorted(counts) for _ in range(counts[who])]
    return [(who, pixels(seed)) for seed, who in enumerate(people)]


def folder(root: Path, counts: dict[str, int] = COUNTS) -> Path:
    for i, (who, array) in enumerate(rows(counts)):
        (root / who).mkdir(parents=True, exist_ok=True)
        (root / who / f"{i:03d}.png").write_bytes(encoded(array))
    return root


def csv_file(root: Path, counts: dict[str, int] = COUNTS) -> Path:
    folder(root / "photos", counts)
    path = root / "faces.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for i, (who, _) in enumerate(rows(counts)):
            writer.writerow([f"photos/{who}/{i:03d}.png", who])
    return path


def npz_file(root: Path, counts: dict[str, int] = COUNTS, save: Any = np.savez) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    images = np.stack([array for _, array in rows(counts)])
    save(root / "faces.npz", images=images, labels=[who for who, _ in rows(counts)])
    return root / "faces.npz"


def columns(counts: dict[str, int] = COUNTS) -> dict[str, list[Any]]:
    """As ``datasets`` has them: encoded pictures in a struct, and numbers of classes."""
    names = sorted(counts)
    cells = [{"bytes": encoded(array), "path": None} for _, array in rows(counts)]
    return {"image": cells, "label": [names.index(who) for who, _ in rows(counts)]}


def features(counts: dict[str, int] = COUNTS) -> dict[str, Any]:
    classes = {"names": sorted(counts), "_type": "ClassLabel"}
    return {"image": {"_type": "Image"}, "label": classes}


def table(held: dict[str, list[Any]], about: dict[str, Any] | None = None) -> Any:
    """An Arrow table, with features in its metadata."""
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'mibench[arrow]'")
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = {"image": cell} if isinstance(next(iter(held.values()))[0], dict) else {}
    arrays = {name: pa.array(values, kinds.get(name)) for name, values in held.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": about}})} if about else None
    made = pa.table(arrays)
    return made.replace_schema_metadata(metadata)


def write_stream(path: Path, made: Any, batch: int = 10) -> Path:
    """As ``datasets`` writes its shards."""
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made, max_chunksize=batch)
    return path


def write_arrow(path: Path, made: Any, options: Any = None, batch: int = 10) -> Path:
    import pyarrow as pa

    with (
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_file(sink, made.schema, options=options) as writer,
    ):
        writer.write_table(made, max_chunksize=batch)
    return path


def write_parquet(path: Path, made: Any, group: int = 7) -> Path:
    import pyarrow.parquet

    pyarrow.parquet.write_table(made, str(path), row_group_size=group)
    return path


def arrow_file(root: Path, counts: dict[str, int] = COUNTS) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    return write_arrow(root / "faces.arrow", table(columns(counts), features(counts)))


def parquet_file(root: Path, counts: dict[str, int] = COUNTS) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    return write_parquet(root / "faces.parquet", table(columns(counts), features(counts)))


def save_to_disk(root: Path, made: Any, about: dict[str, Any] | None, shards: int = 2) -> Path:
    """What ``datasets.Dataset.save_to_disk`` leaves (release 5.2)."""
    root.mkdir(parents=True, exist_ok=True)
    names = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    size = -(-len(made) // shards)
    for i, name in enumerate(names):
        write_stream(root / name, made.slice(i * size, size))
    info = {"citation": "", "description": "", "features": about, "homepage": "", "license": ""}
    (root / "dataset_info.json").write_text(json.dumps(info, indent=2))
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "0e26bdb412e8b3d0",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (root / "state.json").write_text(json.dumps(state, indent=2))
    return root


def hugging_face(root: Path, counts: dict[str, int] = COUNTS) -> Path:
    return save_to_disk(root, table(columns(counts)), features(counts))


def splits(root: Path, parts: dict[str, Sequence[int]], counts: dict[str, int] = COUNTS) -> Path:
    """What ``datasets.DatasetDict.save_to_disk`` leaves."""
    whole = table(columns(counts))
    for name, held in parts.items():
        save_to_disk(root / name, whole.take(list(held)), features(counts), 1)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "csv": csv_file,
    "npz": npz_file,
    "npz-compressed": lambda root: npz_file(root, save=np.savez_compressed),
    "arrow": arrow_file,
    "parquet": parquet_file,
    "huggingface": hugging_face,
}
"""Makes the pictures of :func:`folder`, in the same order, and returns what is the root."""
