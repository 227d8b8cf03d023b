"""The stage of the images: drawn or read, and divided into what each is used for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mibench.cell.stage import Bench, Stage
from mibench.data.catalog import reader
from mibench.data.division import Division, PreparedSplit
from mibench.data.folder import load_folder
from mibench.data.images import Dataset, ImageSet
from mibench.data.rendered import SynthFacesData, render_dataset
from mibench.data.splits import FolderSplit
from mibench.progress import Progress
from mibench.store.artifact import save_json, save_tensors

if TYPE_CHECKING:
    from mibench.cell.resolve import Cell

_PARTS = ("train", "val", "test", "public")


class Images(Stage[Dataset]):
    """The protocol's images on the device; those that lie prepared are read where they lie."""

    kind = "data"

    def __init__(self, cell: Cell, split: Division | None) -> None:
        self.cell, self.split = cell, split
        super().__init__(self._inputs(), None, ())
        self.stored = not isinstance(split, PreparedSplit)  # type: ignore[misc]

    def _inputs(self) -> dict[str, Any]:
        protocol, split = self.cell.protocol, self.split
        if isinstance(split, PreparedSplit):
            sets = filter(None, (split.spec.dataset, split.spec.public_dataset))
            mirror = {name: reader(name).card.mirror for name in sets}
            inputs = {"split": split.digest, "mirror": mirror}
            return {**inputs, "resolution": protocol.resolution}
        if split is not None:
            return {"split": split.digest, "resolution": protocol.resolution}
        return {"data": protocol.data.model_dump(mode="json"), "resolution": protocol.resolution}

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        dataset = self._make(bench.progress)
        tensors = {"attributes": dataset.attributes} if dataset.attributes is not None else {}
        for part in _PARTS:
            images: ImageSet = getattr(dataset, part)
            tensors[f"{part}.images"], tensors[f"{part}.labels"] = images.images, images.labels
        save_tensors(folder / "images.safetensors", tensors)
        save_json(folder / "names.json", {part: getattr(dataset, part).names for part in _PARTS})
        return {}

    def _make(self, progress: Progress) -> Dataset:
        protocol = self.cell.protocol
        if isinstance(protocol.data, SynthFacesData):
            return render_dataset(protocol.data, protocol.resolution, progress)
        assert isinstance(self.split, FolderSplit)
        assert self.cell.request.root is not None
        progress.begin(len(self.split.files), "pictures")
        try:
            return load_folder(
                self.cell.request.root,
                self.split,
                protocol.resolution,
                progress=lambda done, total: progress.advance(1),
            )
        finally:
            progress.end()

    def load(self, bench: Bench) -> Dataset:
        if isinstance(self.split, PreparedSplit):
            for _ in bench.progress.steps(1, "reading and checking the prepared pictures"):
                dataset = self.split.load().to(bench.device)
            return dataset
        artifact = bench.artifact(self)
        tensors = artifact.load_tensors("images.safetensors")
        names = artifact.load_json("names.json")
        train, val, test, public = (
            ImageSet(tensors[f"{part}.images"], tensors[f"{part}.labels"], tuple(names[part]))
            for part in _PARTS
        )
        return Dataset(train, val, test, public, tensors.get("attributes")).to(bench.device)
