"""The stage of the images: drawn or read, and divided into what each is used for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mibench.cell.stage import Bench, Stage
from mibench.data.images import Dataset, ImageSet
from mibench.settings import LEAST_IDENTITIES, share_of
from mibench.store.artifact import save_json, save_tensors

if TYPE_CHECKING:
    from mibench.cell.resolve import Cell
    from mibench.data.divided import Divided

_PARTS = ("train", "val", "test", "public", "foils", "decoys")


class Images(Stage[Dataset]):
    """The protocol's images on the device; those that lie prepared are read where they lie."""

    kind = "data"

    def __init__(self, divided: Divided) -> None:
        self.divided, self.stored = divided, not divided.stored
        super().__init__(divided.inputs(), None, (), [type(divided)])

    @property
    def identity(self) -> str | None:
        """Digest of the images; None where the protocol draws them itself."""
        return None if self.divided.split is None else self.divided.digest

    def attacked(self, cell: Cell) -> int:
        """How many identities are attacked, the first ones: all, unless card or budget say less."""
        there, number = self.divided.counts.identities, cell.protocol.attacked
        if number is None:  # a share of what there is, where the card states no number
            number = share_of(there, cell.request.budget, LEAST_IDENTITIES)
        return min(number, there)

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        dataset = self.divided.load(bench.progress)
        tensors = {"attributes": dataset.attributes} if dataset.attributes is not None else {}
        parts = [part for part in _PARTS if getattr(dataset, part) is not None]
        for part in parts:
            images: ImageSet = getattr(dataset, part)
            tensors[f"{part}.images"], tensors[f"{part}.labels"] = images.images, images.labels
        save_tensors(folder / "images.safetensors", tensors)
        save_json(folder / "names.json", {part: getattr(dataset, part).names for part in parts})
        return {}

    def load(self, bench: Bench) -> Dataset:
        if self.divided.stored:
            return self.divided.load(bench.progress).to(bench.device)
        artifact = bench.artifact(self)
        tensors = artifact.load_tensors("images.safetensors")
        names = artifact.load_json("names.json")
        parts = {
            part: ImageSet(tensors[f"{part}.images"], tensors[f"{part}.labels"], tuple(own))
            for part, own in names.items()
        }
        return Dataset(**parts, attributes=tensors.get("attributes")).to(bench.device)
