"""Which picture is used for what: one rule, in which each kind of protocol makes the choices.

1. *Usable.* All pictures; but where nobody has the published ones any more (FaceScrub, image
   folders), those that show one picture count once, and not at all if they are of several
   identities, since nothing tells whom they show.
2. *Private.* Some identities (:meth:`Rule.private`); each one's pictures are divided into training,
   validation and test (:meth:`Rule.parts`).
3. *Public.* All usable pictures of the other identities, or of another data set, or a draw of them
   (:meth:`Rule.public`).

Draws are permutations by :func:`mibench.streams.stream`, with a stream of its own for every
identity and purpose, over pictures in their one order. So a division depends on names, counts and
the rule only, not on the order of files on the disk or on the platform.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mibench.data.divided import Counts, Data
from mibench.streams import stream

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Pictures:
    """What is divided; the fields are those of :class:`mibench.data.source.Listing`."""

    dataset: str
    where: str  # what a message calls their place
    names: tuple[str, ...]
    labels: NDArray[np.int32]
    parts: NDArray[np.uint8]
    sources: Sequence[str]
    usable: Rows  # that may be used, in order

    @property
    def counts(self) -> list[int]:
        """Usable pictures of each identity."""
        found = np.bincount(self.labels[self.usable], minlength=len(self.names))
        return [int(count) for count in found]


class Rule(Data):
    """The choices; each raises RequestError where there are too few pictures or identities."""

    @abstractmethod
    def private(self, pictures: Pictures) -> list[int]:
        """Labels of the private identities, in the order of their labels in the division."""

    @abstractmethod
    def parts(self, pictures: Pictures, name: str, rows: Rows) -> tuple[Rows, Rows, Rows]:
        """Training, validation and test rows of one identity."""

    def public(self, pictures: Pictures, rows: Rows) -> Rows:
        """Those of the rows that may be public which are."""
        return rows


@dataclass(frozen=True)
class Part:
    """Rows with one use, and the label of each, both ``int64``."""

    rows: Rows
    labels: Rows

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Division:
    """The rows of data sets by their use, identity by identity.

    Attributes:
        names, public_names: private and public identities; labels are positions in them.
        train, val, test: rows of the private data set.
        public: rows of the public data set, or of the same one.
        digest: SHA-256 of which picture is used for what, by its name and its identity's.
    """

    names: tuple[str, ...]
    public_names: tuple[str, ...]
    train: Part
    val: Part
    test: Part
    public: Part
    digest: str

    @property
    def uses(self) -> tuple[Part, Part, Part, Part]:
        """Training, validation, test, public."""
        return self.train, self.val, self.test, self.public

    @property
    def counts(self) -> Counts:
        return Counts(len(self.names), *map(len, self.uses))


def divide(rule: Rule, private: Pictures, public: Pictures | None = None) -> Division:
    """Divide a data set by the rule in this module's docstring; ``public`` may be another one.

    Raises:
        RequestError: there are too few identities or pictures for the rule.
    """
    labels = rule.private(private)
    names = tuple(private.names[label] for label in labels)
    divided = []
    for name, label in zip(names, labels, strict=True):
        rows = private.usable[private.labels[private.usable] == label]
        divided.append([np.sort(part) for part in rule.parts(private, name, rows)])
    parts = []
    for pieces in zip(*divided, strict=True):
        owners = np.repeat(np.arange(len(names)), [len(rows) for rows in pieces])
        parts.append(Part(np.concatenate(pieces), owners))
    train, val, test = parts
    other, rows = public or private, (public or private).usable
    if public is None:
        rows = rows[~np.isin(private.labels[rows], labels)]
    rows = np.sort(rule.public(other, rows))
    present, others = np.unique(other.labels[rows], return_inverse=True)
    rest = Part(rows, others.astype(np.int64))
    hashed = hashlib.sha256()
    uses = (("train", private, train), ("val", private, val), ("test", private, test))
    for use, pictures, part in (*uses, ("public", other, rest)):
        for row in part.rows.tolist():
            who = pictures.names[pictures.labels[row]]
            hashed.update(f"{use}\t{pictures.dataset}\t{who}\t{pictures.sources[row]}\n".encode())
    public_names = tuple(other.names[label] for label in present.tolist())
    return Division(names, public_names, train, val, test, rest, hashed.hexdigest())


def drawn(rows: Rows, seed: int, *names: str) -> Rows:
    """The rows in a random order, by the stream of these names."""
    return rows[torch.randperm(len(rows), generator=stream(seed, *names)).numpy()]


def share(count: int, fraction: float) -> int:
    """Rounded down, but at least 1; the small term keeps 0.29 · 100 = 28.999… from losing one."""
    return max(1, math.floor(count * fraction + 1e-9))


def copies(
    groups: Iterable[Sequence[int]], labels: NDArray[np.int32]
) -> Iterator[tuple[int, int, bool]]:
    """The rows to leave out of groups that show one picture each.

    Yields:
        The row, another that shows the same, and whether that is of another identity.
    """
    for group in groups:
        if len({int(labels[row]) for row in group}) == 1:
            yield from ((row, group[0], False) for row in group[1:])
        else:
            for row in group:
                yield row, next(each for each in group if labels[each] != labels[row]), True
