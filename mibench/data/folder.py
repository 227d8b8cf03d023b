"""A user's own pictures, divided and read as they are, by the rule of :mod:`mibench.data.division`.

They lie in a folder, or in another layout that :mod:`mibench.data.layout` knows.

Identities with at least ``min_images`` usable images are private, or a random ``max_private`` of
them; all others are public, but for decoys where some are wanted. Of a private identity's n images,
``max(1, floor(n * val_fraction))`` go to validation, as many by its own fraction to testing, and
the rest to training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from mibench.data.checked import Album, OwnPicturesOptions, read_pictures
from mibench.data.divided import Divided, Place
from mibench.data.division import (
    CountedRule,
    Division,
    Part,
    Pictures,
    Rows,
    divide,
    drawn,
    share,
)
from mibench.data.images import Dataset, ImageSet
from mibench.data.layout import layout_of
from mibench.errors import RequestError
from mibench.files import user_path
from mibench.progress import SILENT, Progress
from mibench.store.artifact import save_json
from mibench.types import digest

SPLIT = "split.json"

_ROOT = "the image folder (--root)"


class FolderOptions(OwnPicturesOptions, CountedRule):
    """How a folder or a file of pictures is read and divided."""

    min_images: int = Field(
        15, ge=3, le=10**9, description="images an identity needs to become private"
    )
    max_private: int | None = Field(
        100,
        ge=2,
        le=10**9,
        description="most private identities; the others are public, or decoys. None: no limit",
    )
    val_fraction: float = Field(
        0.15, gt=0, le=0.4, description="share of each private identity's images for validation"
    )
    test_fraction: float = Field(
        0.15, gt=0, le=0.4, description="share of each private identity's images for testing"
    )
    split_seed: int = Field(
        0, ge=0, lt=2**63, description="seed of the choice of identities and images"
    )

    def divide(
        self,
        *,
        resolution: int,
        root: Place = None,
        data: Place = None,
        progress: Progress = SILENT,
    ) -> FolderImages:
        """See :class:`mibench.data.divided.Data`; checks every picture of ``root``."""
        base = user_path(str(root or ""), _ROOT)
        source = layout_of(base, self.image_column, self.label_column)
        checked = read_pictures(
            base, source, skip_unreadable=self.skip_unreadable, enough=self.private
        )
        made = divide(self, checked.pictures)
        return FolderImages(
            digest=digest([made.digest, checked.sums]),
            split=made.digest,
            complete=True,
            counts=made.counts,
            of_people=self.of_people,
            options=self,
            album=checked.album,
            resolution=resolution,
            division=made,
            skipped=checked.skipped,
        )

    @property
    def draws(self) -> int:
        """Seed of all draws."""
        return self.split_seed

    def private(self, pictures: Pictures) -> list[int]:
        """See the module's docstring."""
        counts = pictures.counts
        names = sum(count > 0 for count in counts)
        chosen = [label for label, count in enumerate(counts) if count >= self.min_images]
        if len(chosen) < 2:
            enough = sorted([0, 0, *counts])[-2]
            advice = (
                f"lower --set protocol.min_images to {enough} or less"
                if enough >= 3
                else "at least two identities need 3 images or more"
            )
            raise RequestError(
                f"{pictures.where}: {len(chosen)} of {names} identities have {self.min_images} or "
                f"more usable images, but 2 private identities are the least: {advice}"
            )
        if self.max_private is not None and len(chosen) > self.max_private:
            order = drawn(np.array(chosen), self.split_seed, "folder", "private")
            chosen = sorted(order[: self.max_private].tolist())
        if len(chosen) == names:
            advice = (
                f"lower --set protocol.max_private to {names // 2} or so"
                if names >= 4
                else "add identities, or raise --set protocol.min_images"
            )
            raise RequestError(
                f"{pictures.where}: all {names} identities are private, so that no public image is "
                f"left for the attacker: {advice}"
            )
        return chosen

    def parts(self, pictures: Pictures, name: str, rows: Rows) -> tuple[Rows, Rows, Rows]:
        """See the module's docstring; fractions of at most 0.4 leave an image for training."""
        order = drawn(rows, self.split_seed, "folder", "images", name)
        val = share(len(rows), self.val_fraction)
        test = val + share(len(rows), self.test_fraction)
        return order[test:], order[:val], order[val:test]

    def expected_training_images(self, root: str | Path) -> int:
        """About how many private images a folder or a file gives to training; none is opened.

        Raises:
            RequestError: it is in another layout.
        """
        base = user_path(root, _ROOT)
        labels = layout_of(base, self.image_column, self.label_column).listing(base).labels
        counts = [n for n in np.bincount(labels).tolist() if n >= self.min_images]
        private = min(len(counts), self.max_private or len(counts))
        mean = sum(counts) / max(1, len(counts))
        return round(private * mean * (1 - self.val_fraction - self.test_fraction))


@dataclass(frozen=True, eq=False)
class FolderImages(Divided):
    """Images of a folder or a file, pinned by their checksums.

    Attributes:
        album: where they lie.
        skipped: what was left out, with the reason.
    """

    options: FolderOptions
    album: Album
    resolution: int
    division: Division
    skipped: dict[str, str]

    @property
    def sums(self) -> dict[str, str]:
        """SHA-256 of each encoded picture that is used."""
        return self.album.sums

    def inputs(self) -> dict[str, Any]:
        """The images' contents."""
        return {"images": self.digest, "resolution": self.resolution}

    def load(self, progress: Progress = SILENT) -> Dataset:
        """Decode the images, checking each against its checksum."""
        made = self.division
        rows = np.concatenate([part.rows for part, _ in made.uses.values()]).tolist()
        progress.begin(len(rows), "pictures")
        try:
            images = self.album.load(rows, self.resolution, progress)
        finally:
            progress.end()
        sets: dict[str, Any] = {}
        start = 0
        for use, (part, names) in made.uses.items():
            held = images[start : start + len(part)]
            sets[use] = ImageSet(held, torch.from_numpy(part.labels), names)
            start += len(part)
        return Dataset(**sets)

    def listing(self) -> dict[str, Any]:
        """Which image is used for what, and what was left out; JSON values."""
        made = self.division

        def files(part: Part, label: int) -> list[str]:
            return [self.album.files[row] for row in part.rows[part.labels == label]]

        uses = {"train": made.train, "val": made.val, "test": made.test}
        decoys = [
            {"name": name, "files": files(made.decoys, label)}
            for label, name in enumerate(made.decoy_names)
            if made.decoys is not None
        ]
        return {
            "version": 1,
            "layout": self.album.source.card.name,
            "options": self.options.model_dump(mode="json"),
            "private": [
                {"name": name, **{use: files(part, label) for use, part in uses.items()}}
                for label, name in enumerate(made.names)
            ],
            "public": [
                {"name": name, "files": files(made.public, label)}
                for label, name in enumerate(made.public_names)
            ],
            **({"decoys": decoys} if decoys else {}),
            "skipped": [{"path": p, "reason": self.skipped[p]} for p in sorted(self.skipped)],
            "sha256": self.sums,
        }

    def write(self, folder: Path) -> None:
        """Write :meth:`listing` as ``split.json``."""
        save_json(folder / SPLIT, self.listing())
