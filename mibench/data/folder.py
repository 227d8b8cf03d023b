"""A user's own pictures, divided and read as they are, by the rule of :mod:`mibench.data.division`.

They lie in a folder, or in another layout that :mod:`mibench.data.layout` knows.

Identities with at least ``min_images`` usable images are private, or a random ``max_private`` of
them; all others are public, but for decoys where some are wanted. Of a private identity's n images,
``max(1, floor(n * val_fraction))`` go to validation, as many by its own fraction to testing, and
the rest to training.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from mibench.data.divided import Divided, Place
from mibench.data.division import (
    CountedRule,
    Division,
    Part,
    Pictures,
    Rows,
    copies,
    divide,
    drawn,
    share,
)
from mibench.data.images import Dataset, ImageSet
from mibench.data.layout import files_in, layout_of
from mibench.data.pixels import decode, image_bytes, inspect_header, picture
from mibench.data.source import Source, UnusableImage, few, reasons
from mibench.data.sources.folder import Folder
from mibench.data.workers import on_threads
from mibench.errors import RequestError
from mibench.files import user_path
from mibench.progress import SILENT, Progress
from mibench.store.artifact import save_json
from mibench.types import digest

SPLIT = "split.json"

_ROOT = "the image folder (--root)"
_CHECK_RESOLUTION = 8  # small, so that JPEG's draft mode makes the check of the contents cheap

_log = logging.getLogger("mibench.data")


class FolderOptions(CountedRule):
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
    skip_unreadable: bool = Field(
        False, description="leave out unusable files and list them, instead of refusing the folder"
    )
    image_column: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="column or array of the pictures or of their paths, where the images lie in a "
        "file; None: it is found by its name",
    )
    label_column: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="column or array of who is shown, in the same way",
    )

    @property
    def of_people(self) -> bool:
        """See :class:`mibench.data.divided.Data`."""
        return Folder.card.of_people  # and so of every layout

    @property
    def of_root(self) -> bool:
        """See :class:`mibench.data.divided.Data`."""
        return True

    def divide(
        self,
        *,
        resolution: int,
        root: Place = None,
        data: Place = None,
        progress: Progress = SILENT,
    ) -> FolderImages:
        """See :class:`mibench.data.divided.Data`; checks every picture of ``root``.

        Structure, headers and the number of identities are checked first, so a wrong request fails
        within seconds; then every picture is hashed and decoded once, which finds truncated ones.

        A picture that is there twice counts once: equal are those whose bytes are, or whose pixels
        are once they are decoded in full; a picture that was scaled, cropped or compressed again is
        another one. All that are left out are listed.
        """
        base = user_path(str(root or ""), _ROOT)
        source = layout_of(base, self.image_column, self.label_column)
        listing = source.listing(base)
        files, skipped = listing.files, dict(listing.unusable)
        for note in listing.notes:
            _log.warning("%s: %s", base, note)
        if isinstance(source, Folder) and (unread := files_in(base)):
            _log.warning("%s of %s is not read: to use it, name it by --root", few(unread), base)

        def usable() -> Pictures:
            rows = np.array([r for r, file in enumerate(files) if file not in skipped], np.int64)
            found = (listing.names, listing.labels, listing.parts, listing.sources, rows)
            return Pictures(source.card.name, str(base), *found)

        def skip(found: Iterable[tuple[str, str | None]]) -> Pictures:
            skipped.update({file: reason for file, reason in found if reason})
            if skipped and not self.skip_unreadable:
                raise _refused(base, skipped)
            return usable()

        headers = files if source.separate else ()  # others' are read with all that follows them
        found = on_threads(lambda file: inspect_header(source, base, file), headers)
        pictures = skip(zip(headers, found, strict=True))
        self.private(pictures)  # whether there are enough, before any is decoded
        rows = pictures.usable.tolist()
        checked = on_threads(lambda row: _check(source, base, files[row]), rows)
        skip((files[row], reason) for row, (reason, _, _) in zip(rows, checked, strict=True))
        checks = {row: each for row, each in zip(rows, checked, strict=True) if not each[0]}
        # Files whose thumbnails differ are different: few are left to be decoded in full.
        alike = Counter(thumbnail for _, _, thumbnail in checks.values())
        rows = [row for row, (_, _, thumbnail) in checks.items() if alike[thumbnail] > 1]
        groups = defaultdict(list)
        for row, pixels in zip(
            rows, on_threads(lambda r: _pixels(source, base, files[r]), rows), strict=True
        ):
            groups[pixels].append(row)
        twice = {}
        for row, other, doubtful in copies(groups.values(), listing.labels):
            reason = f"the same picture as {files[other]}"
            twice[files[row]] = f"{reason}, of another identity" if doubtful else reason
        if twice:
            _log.warning(
                "%d pictures of %s are left out, being there more than once: as %s, %s",
                *(len(twice), base, file := min(twice), twice[file]),
            )
            skipped |= twice
        pictures = usable()
        made = divide(self, pictures)
        sums = {files[row]: checks[row][1] for row in pictures.usable.tolist()}
        return FolderImages(
            digest=digest([made.digest, sums]),
            split=made.digest,
            complete=True,
            counts=made.counts,
            of_people=self.of_people,
            options=self,
            source=source,
            root=str(base),
            resolution=resolution,
            division=made,
            files=tuple(files),
            sums=sums,
            skipped=skipped,
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
        source: reads the layout.
        files: names of the pictures by row, as the source has them.
        sums: SHA-256 of each encoded picture that is used.
        skipped: what was left out, with the reason.
    """

    options: FolderOptions
    source: Source
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
        rows = np.concatenate([part.rows for part, _ in made.uses.values()]).tolist()
        images = torch.empty(len(rows), 3, self.resolution, self.resolution, dtype=torch.uint8)
        pixels = images.numpy()  # shares memory: threads write their rows into the tensor

        def load(place: int) -> None:
            pixels[place] = self._decoded(self.files[rows[place]])

        progress.begin(len(rows), "pictures")
        try:  # in the order in which files that hold many have them
            on_threads(load, np.argsort(rows, kind="stable").tolist(), progress)
        finally:
            progress.end()
        sets: dict[str, Any] = {}
        start = 0
        for use, (part, names) in made.uses.items():
            held = images[start : start + len(part)]
            sets[use] = ImageSet(held, torch.from_numpy(part.labels), names)
            start += len(part)
        return Dataset(**sets)

    def _decoded(self, file: str) -> NDArray[np.uint8]:
        root, remake = Path(self.root), "restore it, or start anew (other numbers follow)"
        shown = self.source.shown(root, file)
        try:
            data = image_bytes(self.source, root, file)
            if hashlib.sha256(data).hexdigest() != self.sums[file]:
                raise RequestError(f"{shown} has changed since the folder was divided: {remake}")
            return decode(data, self.source, self.resolution)
        except UnusableImage as error:
            raise RequestError(
                f"{shown} {error}, though it was whole when the folder was divided: {remake}"
            ) from error

    def listing(self) -> dict[str, Any]:
        """Which image is used for what, and what was left out; JSON values."""
        made = self.division

        def files(part: Part, label: int) -> list[str]:
            return [self.files[row] for row in part.rows[part.labels == label]]

        uses = {"train": made.train, "val": made.val, "test": made.test}
        decoys = [
            {"name": name, "files": files(made.decoys, label)}
            for label, name in enumerate(made.decoy_names)
            if made.decoys is not None
        ]
        return {
            "version": 1,
            "layout": self.source.card.name,
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


def _check(source: Source, root: Path, file: str) -> tuple[str, str, bytes]:
    """Why a picture cannot be decoded, if so; its SHA-256, and its pixels at a few by a few."""
    try:
        data = image_bytes(source, root, file)
        thumbnail = decode(data, source, _CHECK_RESOLUTION).tobytes()
    except UnusableImage as error:
        return str(error), "", b""
    return "", hashlib.sha256(data).hexdigest(), thumbnail


def _pixels(source: Source, root: Path, file: str) -> bytes:
    """SHA-256 of an image's pixels in full, which was decoded before."""
    try:
        image = picture(image_bytes(source, root, file), source)
    except UnusableImage as error:
        raise RequestError(
            f"{source.shown(root, file)} changed while it was read: {error}"
        ) from error
    return hashlib.sha256(f"{image.size} ".encode() + image.tobytes()).digest()


def _refused(root: Path, skipped: Mapping[str, str]) -> RequestError:
    return RequestError(
        f"{len(skipped)} entries of {root} cannot be used:\n{reasons(sorted(skipped.items()))}\n"
        "Repair or delete them, or leave them out with --set protocol.skip_unreadable=true (the "
        "split file lists them)"
    )
