"""An image folder that is divided and read as it is, by the rule of :mod:`mibench.data.division`.

Identities with at least ``min_images`` usable images are private, or a random ``max_private`` of
them; all others are public. Of a private identity's n images, ``max(1, floor(n * val_fraction))``
go to validation, as many by its own fraction to testing, and the rest to training.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from mibench.data.divided import Divided
from mibench.data.division import Division, Part, Pictures, Rows, Rule, copies, divide, drawn, share
from mibench.data.images import Dataset, ImageSet
from mibench.data.pixels import decode, image_bytes, inspect_header, picture
from mibench.data.source import Listing, UnusableImage
from mibench.data.sources.folder import Folder
from mibench.data.workers import on_threads
from mibench.errors import RequestError
from mibench.files import user_path
from mibench.progress import SILENT, Progress
from mibench.store.artifact import save_json
from mibench.types import digest

SPLIT = "split.json"

_SHOWN = 10  # files that an error message lists
_CHECK_RESOLUTION = 8  # small, so that JPEG's draft mode makes the check of the contents cheap

_log = logging.getLogger("mibench.data")
_SOURCE = Folder()


class FolderOptions(Rule):
    """How an image folder is divided."""

    min_images: int = Field(
        default=15, ge=3, le=10**9, description="images an identity needs to become private"
    )
    max_private: int | None = Field(
        default=100,
        ge=2,
        le=10**9,
        description="most private identities; the others are public. None: no limit",
    )
    val_fraction: float = Field(
        default=0.15,
        gt=0,
        le=0.4,
        description="share of each private identity's images for validation",
    )
    test_fraction: float = Field(
        default=0.15,
        gt=0,
        le=0.4,
        description="share of each private identity's images for testing",
    )
    split_seed: int = Field(
        default=0, ge=0, lt=2**63, description="seed of the choice of identities and images"
    )
    skip_unreadable: bool = Field(
        default=False,
        description="leave out unusable files and list them, instead of refusing the folder",
    )

    @property
    def of_people(self) -> bool:
        """See :class:`mibench.data.divided.Data`."""
        return _SOURCE.card.of_people

    def divide(
        self,
        *,
        resolution: int,
        root: str | Path | None = None,
        data: str | Path | None = None,
        progress: Progress = SILENT,
    ) -> FolderImages:
        """See :class:`mibench.data.divided.Data`; checks every file of the folder ``root``.

        Structure, headers and the number of identities are checked first, so a wrong request fails
        within seconds; then every file is hashed and decoded once, which finds truncated ones.

        A picture that is there twice counts once: equal are files whose bytes are, or whose pixels
        are once they are decoded in full; a picture that was scaled, cropped or compressed again is
        another one. All that are left out are listed.

        Raises:
            RequestError: the folder has another layout, holds unusable files (unless
                ``skip_unreadable``), or yields fewer than two private identities or no public
                image.
        """
        assert root is not None
        place = user_path(root, "the image folder (--root)")
        listing = _SOURCE.listing(place)
        skipped = dict(listing.unusable)

        def pictures() -> Pictures:
            usable = [row for row, file in enumerate(listing.files) if file not in skipped]
            rows = np.array(usable, dtype=np.int64)
            return _pictures(place, listing, rows)

        found = on_threads(lambda file: inspect_header(place / file), listing.files)
        skipped |= {file: why for file, why in zip(listing.files, found, strict=True) if why}
        self._refuse(place, skipped)
        self.private(pictures())  # whether there are enough, before any is decoded
        progress.begin(len(pictures().usable), "pictures")
        rows = pictures().usable.tolist()
        checked = on_threads(lambda row: _check(place / listing.files[row]), rows, progress)
        progress.end()
        sums: dict[int, str] = {}
        thumbnails: dict[int, bytes] = {}
        for row, result in zip(rows, checked, strict=True):
            if isinstance(result, str):
                skipped[listing.files[row]] = result
            else:
                sums[row], thumbnails[row] = result
        self._refuse(place, skipped)
        alike = {}
        for row, other, doubtful in copies(
            _equal(place, listing.files, thumbnails), listing.labels
        ):
            reason = f"the same picture as {listing.files[other]}"
            alike[listing.files[row]] = f"{reason}, of another identity" if doubtful else reason
        if alike:
            _log.warning(
                "%d pictures of %s are left out, being there more than once: as %s, %s",
                *(len(alike), place, file := min(alike), alike[file]),
            )
        skipped |= alike
        usable = pictures()
        made = divide(self, usable)
        used = {listing.files[row]: sums[row] for row in usable.usable.tolist()}
        return FolderImages(
            digest=digest([made.digest, used]),
            split=made.digest,
            complete=True,
            counts=made.counts,
            of_people=self.of_people,
            options=self,
            root=str(place),
            resolution=resolution,
            division=made,
            files=tuple(listing.files),
            sums=used,
            skipped=skipped,
        )

    def private(self, pictures: Pictures) -> list[int]:
        """See the module's docstring."""
        counts = pictures.counts
        names = sum(count > 0 for count in counts)
        candidates = [label for label, count in enumerate(counts) if count >= self.min_images]
        if len(candidates) < 2:
            enough = sorted([0, 0, *counts], reverse=True)[1]
            advice = (
                f"lower --set protocol.min_images to {enough} or less"
                if enough >= 3
                else "at least two identities need 3 images or more"
            )
            raise RequestError(
                f"{pictures.where}: {len(candidates)} of {names} identities have "
                f"{self.min_images} or more usable images, but 2 private identities are the "
                f"least: {advice}"
            )
        chosen = candidates
        if self.max_private is not None and len(candidates) > self.max_private:
            order = drawn(np.array(candidates), self.split_seed, "folder", "private")
            chosen = sorted(order[: self.max_private].tolist())
        if len(chosen) == names:
            raise RequestError(
                f"{pictures.where}: all {names} identities are private, so that no public image is "
                "left for the attacker: "
                + (
                    f"lower --set protocol.max_private to {names // 2} or so"
                    if names >= 4
                    else "add identities, or raise --set protocol.min_images"
                )
            )
        return chosen

    def parts(self, pictures: Pictures, name: str, rows: Rows) -> tuple[Rows, Rows, Rows]:
        """See the module's docstring; fractions of at most 0.4 leave an image for training."""
        order = drawn(rows, self.split_seed, "folder", "images", name)
        val = share(len(rows), self.val_fraction)
        test = val + share(len(rows), self.test_fraction)
        return order[test:], order[:val], order[val:test]

    def expected_training_images(self, root: str | Path) -> int:
        """About how many private images a folder gives to training; no image is opened.

        Raises:
            RequestError: the folder has another layout.
        """
        listing = _SOURCE.listing(user_path(root, "the image folder (--root)"))
        counts = [n for n in Counter(listing.labels.tolist()).values() if n >= self.min_images]
        private = min(len(counts), self.max_private or len(counts))
        mean = sum(counts) / max(1, len(counts))
        return round(private * mean * (1 - self.val_fraction - self.test_fraction))

    def _refuse(self, root: Path, skipped: Mapping[str, str]) -> None:
        """Refuse a folder that holds what cannot be used, unless that is to be left out."""
        if not skipped or self.skip_unreadable:
            return
        lines = [f"  {path}: {skipped[path]}" for path in sorted(skipped)[:_SHOWN]]
        if len(skipped) > _SHOWN:
            lines.append(f"  ... and {len(skipped) - _SHOWN} more")
        listed = "\n".join(lines)
        raise RequestError(
            f"{len(skipped)} entries of {root} cannot be used:\n{listed}\nRepair or delete them, "
            "or leave them out with --set protocol.skip_unreadable=true (the split file lists them)"
        )


@dataclass(frozen=True, eq=False)
class FolderImages(Divided):
    """Images of an image folder, pinned by their checksums.

    Attributes:
        files: pictures of the folder by row, relative to ``root``.
        sums: SHA-256 of each file that is used.
        skipped: what was left out, with the reason.
    """

    options: FolderOptions
    root: str
    resolution: int
    division: Division
    files: tuple[str, ...]
    sums: dict[str, str]
    skipped: dict[str, str]

    def inputs(self) -> dict[str, Any]:
        """The images' contents."""
        return {"images": self.digest, "resolution": self.resolution}

    def load(self, progress: Progress = SILENT) -> Dataset:
        """Decode the images, checking each against its checksum."""
        made = self.division
        parts = (made.train, made.val, made.test, made.public)
        rows = np.concatenate([part.rows for part in parts]).tolist()
        images = torch.empty(len(rows), 3, self.resolution, self.resolution, dtype=torch.uint8)
        pixels = images.numpy()  # shares memory: threads write their rows into the tensor

        def load(place: int) -> None:
            pixels[place] = self._decoded(self.files[rows[place]])

        progress.begin(len(rows), "pictures")
        try:
            on_threads(load, range(len(rows)), progress)
        finally:
            progress.end()
        pieces = iter(images.split([len(part) for part in parts]))

        def part(each: Part, names: tuple[str, ...]) -> ImageSet:
            return ImageSet(next(pieces), torch.from_numpy(each.labels), names)

        train, val, test = (part(each, made.names) for each in parts[:3])
        return Dataset(train, val, test, part(made.public, made.public_names))

    def _decoded(self, file: str) -> np.ndarray:
        path, remake = (
            Path(self.root, file),
            "restore the file, or start anew: other numbers follow",
        )
        try:
            data = image_bytes(path)
        except UnusableImage as error:
            raise RequestError(
                f"{path} {error}, but it was there when the folder was divided: {remake}"
            ) from error
        if hashlib.sha256(data).hexdigest() != self.sums[file]:
            raise RequestError(f"{path} has changed since the folder was divided: {remake}")
        try:
            return decode(data, _SOURCE, self.resolution)
        except UnusableImage as error:
            # Its contents passed the check when the folder was divided: another build of Pillow.
            raise RequestError(
                f"{path} {error}, though it could be when the folder was divided: install a Pillow "
                "with the codecs that it needs"
            ) from error

    def listing(self) -> dict[str, Any]:
        """Which image is used for what, and what was left out; JSON values."""
        made = self.division

        def files(part: Part, label: int) -> list[str]:
            return [self.files[row] for row in part.rows[part.labels == label]]

        uses = {"train": made.train, "val": made.val, "test": made.test}
        return {
            "version": 1,
            "options": self.options.model_dump(mode="json"),
            "private": [
                {"name": name, **{use: files(part, label) for use, part in uses.items()}}
                for label, name in enumerate(made.names)
            ],
            "public": [
                {"name": name, "files": files(made.public, label)}
                for label, name in enumerate(made.public_names)
            ],
            "skipped": [{"path": p, "reason": self.skipped[p]} for p in sorted(self.skipped)],
            "sha256": self.sums,
        }

    def write(self, folder: Path) -> None:
        """Write :meth:`listing` as ``split.json``."""
        save_json(folder / SPLIT, self.listing())


def _pictures(root: Path, listing: Listing, usable: Rows) -> Pictures:
    return Pictures(
        dataset=_SOURCE.card.name,
        where=str(root),
        names=listing.names,
        labels=listing.labels,
        parts=listing.parts,
        sources=listing.sources,
        usable=usable,
    )


def _check(path: Path) -> tuple[str, bytes] | str:
    """A file's SHA-256 and its pixels at a few by a few; or why it cannot be decoded."""
    try:
        data = image_bytes(path)
        thumbnail = decode(data, _SOURCE, _CHECK_RESOLUTION).tobytes()
    except UnusableImage as error:
        return str(error)
    return hashlib.sha256(data).hexdigest(), thumbnail


def _equal(root: Path, files: Sequence[str], thumbnails: Mapping[int, bytes]) -> list[list[int]]:
    """Groups of rows that show one picture, decoded in full."""
    # Files whose thumbnails differ are different: few are left to be decoded.
    alike = Counter(thumbnails.values())
    rows = [row for row, thumbnail in thumbnails.items() if alike[thumbnail] > 1]

    def pixels(row: int) -> bytes:
        path = root / files[row]
        try:
            image = picture(image_bytes(path), _SOURCE)
        except UnusableImage as error:
            raise RequestError(f"{path} changed while it was read: {error}") from error
        return hashlib.sha256(f"{image.size} ".encode() + image.tobytes()).digest()

    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, shown in zip(rows, on_threads(pixels, rows), strict=True):
        groups[shown].append(row)
    return list(groups.values())
