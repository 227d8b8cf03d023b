"""A folder that Hugging Face's ``datasets`` wrote, by ``save_to_disk``.

It holds ``state.json``, which names its tables, and ``dataset_info.json``, which names its classes;
or ``dataset_dict.json`` and such a folder for each split. All splits are read, as one set of
pictures: who is private and what is trained on is the protocol's choice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mibench.data import own, tables
from mibench.data import source as data
from mibench.errors import RequestError
from mibench.files import read_file

SPLITS, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"


@data.register_source("huggingface")
class HuggingFace(tables.Tables):
    """Pictures in Arrow streams, and names of classes in the features."""

    card = data.DatasetCard(
        name="huggingface",
        title="A folder of Hugging Face's `datasets`",
        licence="that of its pictures",
        of_people=True,
        layout=(
            "├── data-00000-of-00001.arrow, …\n"
            "├── dataset_info.json\n"
            "└── state.json\n"
            "or\n"
            "├── dataset_dict.json\n"
            "└── train/, test/, …, each as above"
        ),
        how_to_get=(
            "Write it with `datasets`: load_dataset(…).save_to_disk(DIR). It is read with pyarrow: "
            "pip install 'mibench[arrow]'."
        ),
        preprocessing=own.PREPROCESSING,
        always_partial=True,
    )

    def shards(self, root: Path) -> Sequence[str]:
        """As the states say, split by split."""
        if (root / SPLITS).exists():
            splits = self._object(root / SPLITS).get("splits")
            return [
                f"{each}/{s}"
                for each in self._names(root / SPLITS, splits)
                for s in self._tables(root / each)
            ]
        return self._tables(root)

    def _tables(self, folder: Path) -> list[str]:
        state = self._object(folder / STATE)
        if any(value for key, value in state.items() if key.startswith("_indices")):
            raise self.refuse(
                f"{folder / STATE} lists indices into the tables, as old releases of `datasets` "
                "wrote them: call flatten_indices() before save_to_disk()"
            )
        files = state.get("_data_files")
        held = files if isinstance(files, list) else []
        named = [each.get("filename") if isinstance(each, dict) else None for each in held]
        return self._names(folder / STATE, named)

    def _names(self, path: Path, names: Any) -> list[str]:
        """Names of what lies beside a file; paths are not followed."""
        if not isinstance(names, list) or not names:
            raise self.refuse(f"{path} names no table or split")
        for name in names:
            if not isinstance(name, str) or name in ("", ".", "..") or {*name} & {*"/\\#\0\n"}:
                raise self.refuse(f"{path} names {str(name)[:100]!r}, which is no name of a file")
        if len(set(names)) < len(names):
            raise self.refuse(f"{path} names one twice")
        return names

    def features(self, root: Path, shard: str, table: tables.Table) -> dict[str, Any]:
        """As ``dataset_info.json`` says, else the table's own."""
        path = (root / shard).with_name(INFO)
        features = self._object(path).get("features") if path.exists() else None
        return features if isinstance(features, dict) else table.features

    def _object(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(read_file(path, "the file"))
        except (ValueError, RecursionError) as error:
            raise self.refuse(f"{path} is no JSON: {error}") from error
        except RequestError as error:
            raise self.refuse(str(error)) from error
        if not isinstance(found, dict):
            raise self.refuse(f"{path} holds no JSON object")
        return found
