"""The pictures of an audit: a network's own people, public ones, and others to rank among.

They lie in folders or files of their own, in whatever layout :mod:`mibench.data.layout` knows, and
private ones are used to judge only:

1. *Private* are the network's classes, in its order. Of a person's n pictures, ``min(n - 1,
   max(decoy_images + 1, floor(n * test_fraction)))`` are test images, of which templates are made;
   from the rest the evaluators learn. There is no validation, for nothing is chosen by it.
2. *Decoys* are the people of a folder of their own with at least ``decoy_images`` pictures; else,
   where public pictures are labelled, a draw of half of the public people, who then are no longer
   public. Of each, a draw of ``decoy_images`` pictures counts.
3. *Public* are all pictures of the others. They need no labels: one folder of pictures will do.

A picture that is private and public, or a decoy's, is refused: the attacker would hold the answer.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from mibench.data.checked import Album, Checked, OwnPicturesOptions, read_pictures
from mibench.data.divided import Counts, Divided, Place
from mibench.data.division import Part, Pictures, Rows, drawn, of_each
from mibench.data.folder import SPLIT
from mibench.data.images import Dataset, ImageSet
from mibench.data.layout import layout_of
from mibench.data.own import PREPROCESSING, OwnPictures
from mibench.data.source import DatasetCard, Listing, Source, few, listed
from mibench.data.sources.folder import Folder
from mibench.errors import RequestError
from mibench.files import user_path
from mibench.progress import SILENT, Progress
from mibench.store.artifact import save_json
from mibench.types import digest

IMAGES, PUBLIC, DECOYS = "--images", "--public", "--decoys"  # as messages call the folders

_SHOWN = 3  # pairs of pictures that a message lists
_log = logging.getLogger("mibench.data")


class Unlabelled(OwnPictures):
    """Pictures in one folder, of nobody knows whom."""

    card = DatasetCard(
        name="unlabelled",
        title="Pictures in one folder, without labels",
        licence="that of its pictures",
        of_people=True,
        layout="├── 000001.jpg   (or another image format, under any file name)\n└── …",
        preprocessing=PREPROCESSING,
        always_partial=True,
    )

    def listing(self, root: Path, *, incomplete: bool = False) -> Listing:
        """The pictures by name, as if all were of one person."""
        files = listed(root)[1]
        return Listing(
            layout="unlabelled",
            sources=files,
            files=files,
            names=("unlabelled",),
            labels=np.zeros(len(files), dtype=np.int32),
            parts=np.zeros(len(files), dtype=np.uint8),
        )


class AuditData(OwnPicturesOptions):
    """How the pictures of an audit are used; see the rules in this module's docstring."""

    trained_on: bool | None = Field(
        None,
        description="whether the network was trained on the private images; null: it was not said",
    )
    decoys: Literal["given", "public"] | None = Field(
        None,
        description="people to rank among: `given`: in a folder of their own; `public`: half of "
        "the public people, whose ranks are nominal; null: nobody",
    )
    decoy_images: int = Field(
        1, ge=1, le=10**6, description="images behind each template of a decoy or private person"
    )
    test_fraction: float = Field(
        0.3, gt=0, le=0.9, description="share of each private person's images for testing"
    )
    split_seed: int = Field(0, ge=0, lt=2**63, description="seed of all draws of people and images")

    def listing(self, place: Place, option: str) -> Listing:
        """What a folder or a file shows, and whom; no picture is opened.

        Args:
            option: what the place was given by: ``"--images"``.

        Raises:
            RequestError: it cannot be listed.
        """
        with _said_of(option):
            base, source = self._layout(place, option)
            return source.listing(base)

    def divide(
        self,
        *,
        resolution: int,
        root: Place = None,
        data: Place = None,
        progress: Progress = SILENT,
        names: Sequence[str] = (),
        public: Place = None,
        decoys: Place = None,
    ) -> AuditImages:
        """See :class:`mibench.data.divided.Data`; checks every picture.

        Args:
            root: the private images.
            names: of the network's classes, in its order; empty: the people of ``root``, sorted.
            public, decoys: where those images lie.
        """
        private, others = self._read(root, IMAGES), self._read(public, PUBLIC)
        strangers = None if decoys is None else self._read(decoys, DECOYS)
        sets = {IMAGES: private, PUBLIC: others}
        if strangers is not None:
            sets[DECOYS] = strangers
        _refuse_shared(sets)
        _warn_of_names(sets)
        names = tuple(names) or private.pictures.names
        train, test = self._parts(private.pictures, names)
        chosen: list[int] = []
        if self.decoys == "public":
            chosen = self._drawn_decoys(others.pictures)
        rest = [label for label in _labels(others.pictures) if label not in set(chosen)]
        held = others if strangers is None else strangers
        if strangers is not None:
            counts = strangers.pictures.counts
            chosen = [label for label, n in enumerate(counts) if n >= self.decoy_images]
            if few_images := len(_labels(strangers.pictures)) - len(chosen):
                _log.warning(
                    "%d people of %s have fewer than %d pictures (decoy_images), and are no decoys",
                    *(few_images, strangers.root, self.decoy_images),
                )
        if self.decoys is not None and not chosen:
            raise RequestError(
                f"{held.root}: nobody there has {self.decoy_images} pictures or more, to be a "
                "decoy: lower --set protocol.decoy_images"
            )
        uses = {
            "train": (private.album, train, names),
            "val": (private.album, Part(_none(), _none()), names),
            "test": (private.album, test, names),
            "public": (
                others.album,
                _part(others.pictures, rest),
                tuple(others.pictures.names[label] for label in rest),
            ),
        }
        if chosen:
            uses["decoys"] = (
                held.album,
                of_each(held.pictures, chosen, self.split_seed, self.decoy_images),
                tuple(held.pictures.names[label] for label in chosen),
            )
        return AuditImages.of(self, resolution, uses, sets)

    def _layout(self, place: Place, option: str) -> tuple[Path, Source]:
        """Where pictures lie, and what reads them."""
        base = user_path(str(place or ""), f"the folder or file of {option}")
        if base.is_dir() and option == PUBLIC:
            folders, loose = listed(base)
            if loose and not folders:
                return base, Unlabelled()
        source = layout_of(base)
        if not isinstance(source, Folder):
            source = layout_of(base, self.image_column, self.label_column)
        return base, source

    def _read(self, place: Place, option: str) -> Checked:
        with _said_of(option):
            return read_pictures(*self._layout(place, option), skip_unreadable=self.skip_unreadable)

    def _parts(self, pictures: Pictures, names: Sequence[str]) -> tuple[Part, Part]:
        """Rows that evaluators learn from, and test images."""
        _check_classes(pictures, names)
        parts: tuple[list[Rows], list[Rows]] = ([], [])
        for name in names:
            label = pictures.names.index(name)
            rows = pictures.usable[pictures.labels[pictures.usable] == label]
            least = max(2, self.decoy_images + 1)
            if len(rows) < least:
                raise RequestError(
                    f"{pictures.where}: {name!r} has {len(rows)} usable images, but {least} are "
                    "the least: one for the evaluators to learn from, and as many for a template "
                    "as decoys have (protocol.decoy_images)"
                )
            order = drawn(rows, self.split_seed, "audit", "images", name)
            share = max(least, math.floor(len(rows) * self.test_fraction + 1e-9))
            count = min(len(rows) - 1, share)
            for part, own in zip(parts, (order[count:], order[:count]), strict=True):
                part.append(np.sort(own))
        train, test = (
            Part(np.concatenate(own), np.repeat(np.arange(len(own)), [len(r) for r in own]))
            for own in parts
        )
        return train, test

    def _drawn_decoys(self, pictures: Pictures) -> list[int]:
        people, counts = _labels(pictures), pictures.counts
        order = drawn(np.array(people, np.int64), self.split_seed, "audit", "decoys").tolist()
        able = [label for label in order if counts[label] >= self.decoy_images]
        return sorted(able[: len(people) // 2])


@dataclass(frozen=True, eq=False)
class AuditImages(Divided):
    """The pictures of an audit, pinned by their checksums.

    Attributes:
        uses: for each use where the pictures lie, their rows with labels, and what these name.
        skipped: what was left out, with the reason, by the option that names the folder.
    """

    options: AuditData
    resolution: int
    uses: dict[str, tuple[Album, Part, tuple[str, ...]]]
    skipped: dict[str, dict[str, str]]

    @classmethod
    def of(
        cls,
        options: AuditData,
        resolution: int,
        uses: dict[str, tuple[Album, Part, tuple[str, ...]]],
        sets: dict[str, Checked],
    ) -> AuditImages:
        """The images of a division, with what identifies them."""
        told, sums = [], []
        for use, (album, part, names) in uses.items():
            for row, label in zip(part.rows.tolist(), part.labels.tolist(), strict=True):
                told.append([use, names[label], album.files[row]])
                sums.append(album.sums[album.files[row]])
        counts = {use: len(part) for use, (_, part, _) in uses.items()}
        decoys = len(uses["decoys"][2]) if "decoys" in uses else 0
        return cls(
            digest=digest([told, sums]),
            split=digest(told),
            complete=True,
            counts=Counts(
                identities=len(uses["test"][2]),
                train=counts["train"],
                val=0,
                test=counts["test"],
                public=counts["public"],
                least_test=int(np.bincount(uses["test"][1].labels).min()),
                decoys=decoys,
                decoy_images=options.decoy_images if decoys else 0,
            ),
            of_people=options.of_people,
            options=options,
            resolution=resolution,
            uses=uses,
            skipped={option: each.skipped for option, each in sets.items() if each.skipped},
        )

    def inputs(self) -> dict[str, Any]:
        """The images' contents."""
        return {"images": self.digest, "resolution": self.resolution}

    def load(self, progress: Progress = SILENT) -> Dataset:
        """Decode the images, checking each against its checksum."""
        sets: dict[str, Any] = {}
        progress.begin(sum(len(part) for _, part, _ in self.uses.values()), "pictures")
        try:
            for use, (album, part, names) in self.uses.items():
                images = album.load(part.rows.tolist(), self.resolution, progress)
                sets[use] = ImageSet(images, torch.from_numpy(part.labels), names)
        finally:
            progress.end()
        return Dataset(**sets)

    def write(self, folder: Path) -> None:
        """Write which picture is used for what, and what was left out, as ``split.json``."""
        files: dict[str, dict[str, list[str]]] = {}
        for use, (album, part, names) in self.uses.items():
            files[use] = {name: [] for name in names}
            for row, label in zip(part.rows.tolist(), part.labels.tolist(), strict=True):
                files[use][names[label]].append(album.files[row])
        said = {"version": 1, "options": self.options.model_dump(mode="json"), **files}
        save_json(folder / SPLIT, {**said, "skipped": self.skipped})


@contextlib.contextmanager
def _said_of(option: str) -> Iterator[None]:
    """Messages about a folder name the option that it was given by."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{option}: {str(error).replace('--root', option)}") from error


def _none() -> Rows:
    return np.empty(0, np.int64)


def _labels(pictures: Pictures) -> list[int]:
    """Labels of the people who have usable pictures."""
    return [label for label, count in enumerate(pictures.counts) if count]


def _part(pictures: Pictures, labels: Sequence[int]) -> Part:
    """All usable rows of some people."""
    rows = [pictures.usable[pictures.labels[pictures.usable] == label] for label in labels]
    owners = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    return Part(np.concatenate([*rows, _none()]), owners.astype(np.int64))


def _check_classes(pictures: Pictures, names: Sequence[str]) -> None:
    """Refuse people who are no classes, and classes of whom there is no picture."""
    there = {pictures.names[label] for label in _labels(pictures)}
    if absent := [name for name in names if name not in there]:
        raise RequestError(
            f"{pictures.where} has no picture of {len(absent)} of the network's {len(names)} "
            f"classes ({few(absent)}): each needs some, under the very name that --classes has"
        )
    if more := sorted(there - set(names)):
        raise RequestError(
            f"{pictures.where} shows {len(more)} people whom --classes does not name ({few(more)})"
            ": the network does not know them; take them out, or add them in the network's order"
        )


def _refuse_shared(sets: dict[str, Checked]) -> None:
    """Refuse a picture that is in two sets."""
    options = list(sets)
    for index, first in enumerate(options):
        for second in options[index + 1 :]:
            one, other = sets[first], sets[second]
            if pairs := one.same(other):
                told = ", ".join(
                    f"{one.files[a]} is {other.files[b]}" for a, b in sorted(pairs)[:_SHOWN]
                )
                why = "the attacker would hold what is to be reconstructed"
                if first != IMAGES:
                    why = "decoys are people whom neither the network nor the attacker knows"
                raise RequestError(
                    f"{len(pairs)} pictures of {second} {other.root} are also in {first} "
                    f"{one.root} ({told}{', …' if len(pairs) > _SHOWN else ''}): {why}. Take them "
                    f"out of {second}, with all others of those people"
                )


def _warn_of_names(sets: dict[str, Checked]) -> None:
    """Warn of people of one name in two sets, who may be the same."""
    private = {name.casefold() for name in sets[IMAGES].pictures.names}
    public = {name.casefold() for name in sets[PUBLIC].pictures.names}
    for option, known in ((PUBLIC, private), (DECOYS, private | public)):
        if option in sets:
            found = [name for name in sets[option].pictures.names if name.casefold() in known]
            if found:
                _log.warning(
                    "%d people of %s are called as some whom %s shows (%s): if they are the same "
                    "people, take them out; what leaks would be overstated or understated",
                    *(len(found), option, IMAGES if option == PUBLIC else "another folder"),
                    few(found),
                )
