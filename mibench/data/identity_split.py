"""Which pictures of prepared data sets are private and public, by a rule that needs no split file.

The rule, for a data set whose identities are those of its prepared folder:

1. *Private identities.* ``classes`` names them, and their order is that of the labels. Otherwise
   they are the ``identities`` with the most pictures among those with at least ``min_images``, or
   all of those; of equal ones the first by name are taken. Labels follow the sorted names.
2. *Test.* With ``test_fraction`` a draw of ``max(1, floor(n · test_fraction))`` of each private
   identity's n pictures; without, its pictures in the official part ``test``.
3. *Validation.* A draw of ``max(1, floor(m · val_fraction))`` of the m pictures that are left to
   the identity.
4. *Training.* The rest, or a draw of ``max_train`` of them for each identity.
5. *Public.* All pictures of the other identities (in every official part), or all of
   ``public_dataset``; or a draw of ``public_images`` of them.

Where nobody has a data set's published pictures any more (FaceScrub), those with equal pixels count
once, and not at all if they are of several identities. Complete sets are divided as published:
there, :attr:`Split.repeated` counts the pictures that are in several parts.

Draws are permutations by :func:`mibench.streams.stream`, with a stream of its own for every
identity and purpose, over pictures sorted by name. So a split depends on names, counts and the
specification only, not on the order of files on the disk or on the platform.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mibench.data.catalog import NAMES, reader
from mibench.data.images import Dataset, ImageSet
from mibench.data.prepared import Prepared, open_prepared
from mibench.data.source import PARTS
from mibench.errors import RequestError
from mibench.streams import stream
from mibench.types import Frozen

_TEST = PARTS.index("test")

Rows = NDArray[np.int64]


class IdentitySplit(Frozen):
    """How prepared data sets are divided; see the rule in this module's docstring."""

    dataset: str = Field(description="data set of the private identities")
    crop: int | None = Field(
        None, ge=1, le=65_536, description="its crop in pixels; None: the data set's own"
    )
    public_dataset: str | None = Field(
        None, description="data set of the public images; None: the other identities of `dataset`"
    )
    public_crop: int | None = Field(
        None, ge=1, le=65_536, description="crop of `public_dataset`, in pixels"
    )
    identities: int | None = Field(
        None, ge=2, le=10**9, description="how many private identities; None: all with `min_images`"
    )
    classes: tuple[str, ...] | None = Field(
        None,
        min_length=2,
        max_length=10**6,
        description="names of the private identities, instead of a number",
    )
    min_images: int = Field(
        3, ge=3, le=10**9, description="images that an identity needs to be private"
    )
    val_fraction: float = Field(
        0.1, gt=0, le=0.4, description="share of an identity's images for validation, test apart"
    )
    test_fraction: float | None = Field(
        0.1, gt=0, le=0.4, description="share for testing; None: the official test part"
    )
    max_train: int | None = Field(
        None, ge=1, le=10**9, description="most training images of an identity; None: no limit"
    )
    public_images: int | None = Field(
        None, ge=1, le=10**9, description="how many public images; None: all there are"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of all draws")

    @model_validator(mode="after")
    def _consistent(self) -> IdentitySplit:
        for name in filter(None, (self.dataset, self.public_dataset)):
            if name not in NAMES:
                raise ValueError(f"there is no data set {name!r}; data sets: {', '.join(NAMES)}")
        if self.public_dataset == self.dataset:
            raise ValueError("leave public_dataset out for other identities of the same data set")
        if self.public_crop and not self.public_dataset:
            raise ValueError("public_crop is that of public_dataset, which is not given")
        if self.classes is not None:
            if self.identities is not None:
                raise ValueError("give either identities (a number) or classes (names)")
            if len(set(self.classes)) != len(self.classes):
                raise ValueError("classes names an identity twice")
        return self


@dataclass(frozen=True)
class Split:
    """Rows of prepared data sets, identity by identity.

    Attributes:
        private, public: identity names; labels are positions in them.
        train, val, test: rows of the private data set, ``int64``.
        public_rows: rows of the public data set, or of the same one.
        train_labels, val_labels, test_labels, public_labels: label of each row, ``int64``.
        repeated: pictures whose pixels are also those of a picture in another part.
        digest: SHA-256 of which picture is used for what, by its name and its identity's.
    """

    private: tuple[str, ...]
    public: tuple[str, ...]
    train: Rows
    val: Rows
    test: Rows
    public_rows: Rows
    train_labels: Rows
    val_labels: Rows
    test_labels: Rows
    public_labels: Rows
    repeated: int
    digest: str


def split(spec: IdentitySplit, private: Prepared, public: Prepared | None = None) -> Split:
    """Divide prepared data sets by the rule in this module's docstring.

    Args:
        private: the prepared ``spec.dataset``.
        public: the prepared ``spec.public_dataset``, where there is one.

    Raises:
        RequestError: the data set has too few identities or pictures for the specification.
    """
    labels = _choose(spec, private)
    chosen = [_divide(spec, private, label) for label in labels]
    names = tuple(private.names[label] for label in labels)
    other = public or private
    rows = _usable(other)
    if public is None:
        rows = rows[~np.isin(private.labels[rows], labels)]
    rows = _public(spec, other, rows)
    present, public_labels = np.unique(other.labels[rows], return_inverse=True)
    parts = list(zip(*chosen, strict=True))
    sets = [np.concatenate(part) for part in parts]
    counts = [np.repeat(np.arange(len(names)), [len(r) for r in part]) for part in parts]
    hashed = hashlib.sha256()
    for title, source, index in (
        *zip(("train", "val", "test"), (private,) * 3, sets, strict=True),
        ("public", other, rows),
    ):
        for row in index.tolist():
            who = source.names[source.labels[row]]
            line = f"{title}\t{source.index.dataset}\t{who}\t{source.sources[row]}\n"
            hashed.update(line.encode())
    return Split(
        private=names,
        public=tuple(other.names[label] for label in present.tolist()),
        train=sets[0],
        val=sets[1],
        test=sets[2],
        public_rows=rows,
        train_labels=counts[0],
        val_labels=counts[1],
        test_labels=counts[2],
        public_labels=public_labels.astype(np.int64),
        repeated=_repeated(private, [*sets, rows] if public is None else sets),
        digest=hashed.hexdigest(),
    )


def open_split(
    spec: IdentitySplit, resolution: int, data_folder: str | Path | None = None
) -> tuple[Split, Prepared, Prepared]:
    """A split of prepared data sets, and the private and the public one; no image is read.

    Args:
        spec: how the data is divided.
        resolution: height and width in pixels, as prepared.
        data_folder: see :func:`mibench.data.prepared.data_root`.

    Raises:
        RequestError: a data set is not prepared, or too small for the specification.
        MibenchError: a prepared file is damaged.
    """
    private = open_prepared(spec.dataset, resolution, data_folder, crop=spec.crop)
    if spec.public_dataset is None:
        return split(spec, private), private, private
    public = open_prepared(spec.public_dataset, resolution, data_folder, crop=spec.public_crop)
    return split(spec, private, public), private, public


def load_split(
    spec: IdentitySplit, resolution: int, data_folder: str | Path | None = None
) -> Dataset:
    """Copy a split's images into memory, where nothing else of the prepared files is kept.

    Arguments and errors are those of :func:`open_split`.

    Returns:
        ``uint8`` image sets ``(n, 3, resolution, resolution)`` on the CPU.
    """
    return gather(*open_split(spec, resolution, data_folder))


def gather(made: Split, private: Prepared, public: Prepared) -> Dataset:
    """Copy the images of an opened split into memory; see :func:`load_split`."""

    def images(source: Prepared, rows: Rows, labels: Rows, names: tuple[str, ...]) -> ImageSet:
        mirror = reader(source.index.dataset).card.mirror
        return ImageSet(source.rows(rows), torch.from_numpy(labels), names, mirror)

    return Dataset(
        train=images(private, made.train, made.train_labels, made.private),
        val=images(private, made.val, made.val_labels, made.private),
        test=images(private, made.test, made.test_labels, made.private),
        public=images(public, made.public_rows, made.public_labels, made.public),
    )


def _usable(data: Prepared) -> Rows:
    """The rows that may be used, in order; see the rule in this module's docstring."""
    rows = np.arange(len(data.labels))
    if not reader(data.index.dataset).card.always_partial:
        return rows
    alike, doubtful = data.copies()
    return rows[~np.isin(rows, [*alike, *doubtful])]


def _repeated(data: Prepared, parts: list[Rows]) -> int:
    """How many pictures have the pixels of a picture in another part."""
    part = np.full(len(data.labels), -1)
    for number, rows in enumerate(parts):
        part[rows] = number
    found = 0
    for group in data.index.equal or ():
        used = part[list(group)]
        used = used[used >= 0]
        found += len(used) if len(set(used.tolist())) > 1 else 0
    return found


def _choose(spec: IdentitySplit, data: Prepared) -> list[int]:
    """Labels of the private identities in ``data``, in the order of their labels in the split."""
    counts = np.bincount(data.labels[_usable(data)], minlength=len(data.names)).tolist()
    if spec.classes is not None:
        unknown = [name for name in spec.classes if name not in data.names]
        if unknown:
            raise RequestError(
                f"{data.folder} has no identity {unknown[0]!r}; it has {len(data.names):,}, "
                f"{data.names[0]!r} to {data.names[-1]!r}"
            )
        chosen = [data.names.index(name) for name in spec.classes]
        small = [name for name in chosen if counts[name] < spec.min_images]
        if small:
            raise RequestError(
                f"{data.folder}: {data.names[small[0]]!r} has {counts[small[0]]} images, fewer "
                f"than min_images = {spec.min_images}"
            )
        return chosen
    fit = [label for label, count in enumerate(counts) if count >= spec.min_images]
    wanted = spec.identities or max(2, len(fit))
    if len(fit) < wanted:
        raise RequestError(
            f"{data.folder}: {len(fit)} of {len(counts):,} identities have {spec.min_images} or "
            f"more images, but {wanted:,} private ones are asked for: prepare the complete data "
            "set, or ask for fewer"
        )
    most = sorted(fit, key=lambda label: (-counts[label], data.names[label]))[:wanted]
    return sorted(most, key=data.names.__getitem__)


def _divide(spec: IdentitySplit, data: Prepared, label: int) -> tuple[Rows, Rows, Rows]:
    """Sorted training, validation and test rows of one identity."""
    name = data.names[label]
    rows = _usable(data)
    rows = _by_source(data, rows[data.labels[rows] == label])
    if spec.test_fraction is None:
        official = data.parts[rows] == _TEST
        test, rest = rows[official], rows[~official]
        if not len(test) or len(rest) < 2:
            raise RequestError(
                f"{data.folder}: {name!r} has {len(test)} images in the official test part and "
                f"{len(rest)} outside it, but 1 and 2 are the least: give a test_fraction"
            )
    else:
        order = _draw(spec, rows, "test", name)
        count = _share(len(rows), spec.test_fraction)
        test, rest = order[:count], _by_source(data, order[count:])
    order = _draw(spec, rest, "val", name)
    count = _share(len(rest), spec.val_fraction)
    val, train = order[:count], _by_source(data, order[count:])
    if spec.max_train is not None:
        train = _draw(spec, train, "train", name)[: spec.max_train]
    return _by_source(data, train), _by_source(data, val), _by_source(data, test)


def _public(spec: IdentitySplit, data: Prepared, rows: Rows) -> Rows:
    """The public rows out of those that may be public."""
    wanted = spec.public_images or max(1, len(rows))
    if len(rows) < wanted:
        advice = "take public images from another data set (public_dataset), or ask for fewer"
        if spec.public_dataset is None:
            advice = f"make fewer identities private, {advice}"
        raise RequestError(
            f"{data.folder}: {len(rows):,} images can be public, but {wanted:,} are asked for: "
            f"{advice}"
        )
    ordered = _by_source(data, rows)
    if spec.public_images is None:
        return ordered
    return _by_source(data, _draw(spec, ordered, "public", data.index.dataset)[:wanted])


def _by_source(data: Prepared, rows: Rows) -> Rows:
    """Rows in the order of their pictures' names, which is that of a prepared folder."""
    return np.array(sorted(rows.tolist(), key=data.sources.__getitem__), dtype=np.int64)


def _draw(spec: IdentitySplit, rows: Rows, purpose: str, name: str) -> Rows:
    """The rows in a random order."""
    generator = stream(spec.seed, "identity-split", spec.dataset, purpose, name)
    return rows[torch.randperm(len(rows), generator=generator).numpy()]


def _share(count: int, fraction: float) -> int:
    """Rounded down, but at least 1; the small term keeps 0.29 · 100 = 28.999… from losing one."""
    return max(1, math.floor(count * fraction + 1e-9))
