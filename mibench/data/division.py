"""Which picture is used for what: one rule, in which each kind of protocol makes the choices.

1. *Usable.* All pictures; but where nobody has the published ones any more (FaceScrub, image
   folders), those that show one picture count once, and not at all if they are of several
   identities, since nothing tells whom they show.
2. *Private.* Some identities (:meth:`Rule.private`); each one's pictures are divided into training,
   validation and test (:meth:`Rule.parts`).
3. *Decoys*, if any are wanted: people whom nobody trains on, and whom ranks compare with
   (:meth:`Rule.strangers`); a draw of as many pictures of each as a template takes.
4. *Public.* All usable pictures of the identities that are left, or of another data set, or a draw
   of them (:meth:`Rule.public`).

Draws are permutations by :func:`mibench.streams.stream`, with a stream of its own for every
identity and purpose, over pictures in their one order. So a division depends on names, counts and
the rule only, not on the order of files on the disk or on the platform.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mibench.data.divided import Counts, Data
from mibench.data.source import few
from mibench.errors import RequestError
from mibench.streams import stream

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Pictures:
    """What is divided; the fields are those of :class:`mibench.data.source.Listing`.

    Attributes:
        usable: rows that may be used, in order.
        lists: whether a published list names each row, ``bool`` ``(n,)``, by the list's name.
    """

    dataset: str
    where: str  # what a message calls their place
    names: tuple[str, ...]
    labels: NDArray[np.int32]
    parts: NDArray[np.uint8]
    sources: Sequence[str]
    usable: Rows
    lists: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def counts(self) -> list[int]:
        """Usable pictures of each identity."""
        found = np.bincount(self.labels[self.usable], minlength=len(self.names))
        return [int(count) for count in found]

    def listed(self, lists: Mapping[str, Sequence[str]]) -> Pictures:
        """The same with published lists of pictures' names.

        Raises:
            RequestError: a list names a picture that is not there.
        """
        place, rows = {self.sources[row]: row for row in self.usable.tolist()}, {}
        for name, pictures in lists.items():
            if absent := [each for each in pictures if each not in place]:
                raise RequestError(
                    f"{self.where} lacks {len(absent):,} of the {len(pictures):,} pictures that "
                    f"{name} names ({few(absent)}): prepare the complete data set"
                )
            rows[name] = np.zeros(len(self.labels), dtype=bool)
            rows[name][[place[each] for each in pictures]] = True
        return replace(self, lists=rows)


class Rule(Data):
    """The choices; each raises RequestError where there are too few pictures or identities."""

    decoy_images: int = Field(
        1, ge=1, le=10**6, description="images behind each template of a decoy or private person"
    )

    @abstractmethod
    def strangers(self, pictures: Pictures, private: Sequence[int]) -> list[int]:
        """Labels of the decoys, where some are wanted."""

    @property
    @abstractmethod
    def draws(self) -> int:
        """Seed of all draws."""

    @abstractmethod
    def private(self, pictures: Pictures) -> list[int]:
        """Labels of the private identities, in the order of their labels in the division."""

    @abstractmethod
    def parts(self, pictures: Pictures, name: str, rows: Rows) -> tuple[Rows, Rows, Rows]:
        """Training, validation and test rows of one identity."""

    def public(self, pictures: Pictures, rows: Rows) -> Rows:
        """Those of the rows that may be public which are."""
        return rows


class CountedRule(Rule):
    """Private are people with many pictures."""

    min_images: int
    decoys: Literal["drawn", "rare"] | None = Field(
        None,
        description="people whom nobody trains on, for judges to rank among: `drawn`: those with "
        "min_images who were not drawn to be private; `rare`: those with decoy_images pictures in "
        "all, whose ranks are nominal; None: nobody",
    )

    @model_validator(mode="after")
    def _decoys_have_enough(self) -> CountedRule:
        if self.decoys == "drawn" and self.decoy_images > self.min_images:
            raise ValueError("decoy_images is more than min_images, which some have no more than")
        if self.decoys == "rare" and self.decoy_images >= self.min_images:
            raise ValueError("decoy_images is no less than min_images: such people are private")
        if self.decoys is None and self.decoy_images != 1:
            raise ValueError("decoy_images does nothing without decoys")
        return self

    def strangers(self, pictures: Pictures, private: Sequence[int]) -> list[int]:
        """Those with enough pictures who were not drawn, or those with few; see `decoys`."""
        if self.decoys is None:
            return []
        least, most = self.min_images, max(pictures.counts)
        if self.decoys == "rare":
            least = most = self.decoy_images
        own = set(private)
        found = [
            label
            for label, count in enumerate(pictures.counts)
            if least <= count <= most and label not in own
        ]
        if not found:
            advice = "make fewer identities private"
            if self.decoys == "rare":
                advice = "choose another decoy_images"
            raise RequestError(
                f"{pictures.where}: no identity is left to be a decoy (decoys = "
                f"{self.decoys!r}): {advice}"
            )
        return found


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
        decoys: rows of the private data set that nobody trains on, with decoy_names; or None.
        digest: SHA-256 of which picture is used for what, by its name and its identity's.
    """

    names: tuple[str, ...]
    public_names: tuple[str, ...]
    train: Part
    val: Part
    test: Part
    public: Part
    digest: str
    decoys: Part | None = None
    decoy_names: tuple[str, ...] = ()

    @property
    def uses(self) -> dict[str, tuple[Part, tuple[str, ...]]]:
        """The parts that there are with their identities' names, by their use."""
        own = {use: (getattr(self, use), self.names) for use in ("train", "val", "test")}
        found = {**own, "public": (self.public, self.public_names)}
        return found if self.decoys is None else found | {"decoys": (self.decoys, self.decoy_names)}

    @property
    def counts(self) -> Counts:
        train, val, test, public = map(len, (self.train, self.val, self.test, self.public))
        decoys, images = len(self.decoy_names), len(self.decoys or ())
        each, least = images // max(decoys, 1), int(np.bincount(self.test.labels).min())
        return Counts(len(self.names), train, val, test, public, least, decoys, each)


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
    strangers = rule.strangers(private, labels)
    other, rows = public or private, (public or private).usable
    if public is None:
        rows = rows[~np.isin(private.labels[rows], [*labels, *strangers])]
    rows = np.sort(rule.public(other, rows))
    present, others = np.unique(other.labels[rows], return_inverse=True)
    rest = Part(rows, others.astype(np.int64))
    hashed = hashlib.sha256()
    own = [("train", private, train), ("val", private, val), ("test", private, test)]
    uses = [*own, ("public", other, rest)]
    decoys = None
    if strangers:
        decoys = of_each(private, strangers, rule.draws, rule.decoy_images)
    if decoys is not None:
        fewest, name = min(zip(np.bincount(test.labels).tolist(), names, strict=True))
        if fewest < rule.decoy_images:
            raise RequestError(
                f"{private.where}: {name!r} has {fewest} test images, decoys have "
                f"{rule.decoy_images} each, and templates are of equally many: lower decoy_images, "
                "or raise min_images or test_fraction"
            )
        uses.append(("decoys", private, decoys))
    for use, pictures, part in uses:
        for row in part.rows.tolist():
            who = pictures.names[pictures.labels[row]]
            hashed.update(f"{use}\t{pictures.dataset}\t{who}\t{pictures.sources[row]}\n".encode())
    public_names = tuple(other.names[label] for label in present.tolist())
    return Division(
        names,
        public_names,
        train,
        val,
        test,
        rest,
        hashed.hexdigest(),
        decoys,
        tuple(private.names[label] for label in strangers),
    )


def of_each(pictures: Pictures, labels: Sequence[int], seed: int, images: int) -> Part:
    """So many usable rows of each decoy, who has no fewer: as many as a template takes."""
    rows = []
    for label in labels:
        own = pictures.usable[pictures.labels[pictures.usable] == label]
        own = drawn(own, seed, "decoys", pictures.names[label])
        rows.append(np.sort(own[:images]))
    return Part(np.concatenate(rows), np.repeat(np.arange(len(labels)), images))


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
