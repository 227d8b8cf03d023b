"""Prepared data sets whose division needs no split file.

The rule of :mod:`mibench.data.division`, in which

1. *private* are the identities that ``classes`` names, in its order. Otherwise they are the
   ``identities`` with the most pictures among those with at least ``min_images``, or all of those;
   of equal ones the first by name are taken. With ``decoys = "drawn"`` they are a draw of so many
   of those, and the others are decoys. Labels follow the sorted names;
2. *test* is, with ``test_fraction``, a draw of ``max(1, floor(n · test_fraction))`` of each private
   identity's n pictures; without, its pictures in the official part ``test``;
3. *validation* is a draw of ``max(1, floor(m · val_fraction))`` of the m pictures that are left;
4. *training* is the rest, or a draw of ``max_train`` of them for each identity;
5. *public* are all pictures of the other identities (in every official part), or all of
   ``public_dataset``; or a draw of ``public_images`` of them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator

from mibench.data.divided import Divided, Place
from mibench.data.division import Division, Pictures, Rows, Rule, divide, drawn, share
from mibench.data.images import Dataset, ImageSet
from mibench.data.prepared import Prepared, open_prepared
from mibench.data.source import PARTS, check_source, source_named
from mibench.errors import MibenchError, RequestError
from mibench.progress import SILENT, Progress
from mibench.types import digest

_log = logging.getLogger("mibench.data")


class IdentityDivision(Rule):
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
    def _consistent(self) -> IdentityDivision:
        for name in filter(None, (self.dataset, self.public_dataset)):
            try:
                check_source(name)
            except RequestError as error:
                raise ValueError(str(error)) from error
        if self.public_dataset == self.dataset:
            raise ValueError("leave public_dataset out for other identities of the same data set")
        if self.public_crop and not self.public_dataset:
            raise ValueError("public_crop is that of public_dataset, which is not given")
        if self.classes is not None:
            if self.identities is not None:
                raise ValueError("give either identities (a number) or classes (names)")
            if len(set(self.classes)) != len(self.classes):
                raise ValueError("classes names an identity twice")
        if self.decoys == "drawn" and self.identities is None:
            raise ValueError(
                "decoys are those of the people with min_images who are not drawn: give identities "
                "(how many are)"
            )
        return self

    @property
    def sets(self) -> tuple[tuple[str, int | None], ...]:
        """The private and the public data set."""
        public = () if self.public_dataset is None else ((self.public_dataset, self.public_crop),)
        return ((self.dataset, self.crop), *public)

    @property
    def of_people(self) -> bool:
        """See :class:`mibench.data.divided.Data`."""
        return any(source_named(name).card.of_people for name, _ in self.sets)

    def divide(
        self,
        *,
        resolution: int,
        root: Place = None,
        data: Place = None,
        progress: Progress = SILENT,
    ) -> PreparedImages:
        """See :class:`mibench.data.divided.Data`; no image is read."""
        made, private, public = self.open(resolution, data)
        # A picture that is used several times, where one data set gives all the parts.
        part = np.full(len(private.labels), -1)
        for number, (use, (each, _)) in enumerate(made.uses.items()):
            if use != "public" or public is private:
                part[each.rows] = number
        used = [part[list(group)] for group in private.index.equal]
        repeated = sum((u >= 0).sum() for u in used if len({*u.tolist()} - {-1}) > 1)
        if repeated:
            _log.warning(
                "%d pictures of %s are, in every pixel, pictures of another part too (training, "
                "validation, test, public or decoys); the set is divided as it was published",
                repeated,
                self.dataset,
            )
        return PreparedImages(
            digest=_contents(made, private, public),
            split=made.digest,
            complete=private.index.complete and public.index.complete,
            counts=made.counts,
            of_people=self.of_people,
            card=self,
            resolution=resolution,
            data=str(data) if data else None,
        )

    def open(
        self, resolution: int, data: Place, *, check: bool = False
    ) -> tuple[Division, Prepared, Prepared]:
        """The division, the private and the public data set (or the same one).

        Raises:
            RequestError: a data set is not prepared, or too small.
            MibenchError: a prepared file is damaged, as far as it is looked at without ``check``.
        """
        sets = [open_prepared(n, resolution, data, crop=c, check=check) for n, c in self.sets]
        return divide(self, *(each.pictures() for each in sets)), sets[0], sets[-1]

    @property
    def draws(self) -> int:
        """Seed of all draws."""
        return self.seed

    def private(self, pictures: Pictures) -> list[int]:
        """See the rule."""
        names, counts = pictures.names, pictures.counts
        if self.classes is not None:
            unknown = [name for name in self.classes if name not in names]
            if unknown:
                raise RequestError(
                    f"{pictures.where} has no identity {unknown[0]!r}; it has {len(names):,}, "
                    f"{names[0]!r} to {names[-1]!r}"
                )
            chosen = [names.index(name) for name in self.classes]
            small = [label for label in chosen if counts[label] < self.min_images]
            if small:
                raise RequestError(
                    f"{pictures.where}: {names[small[0]]!r} has {counts[small[0]]} images, fewer "
                    f"than min_images = {self.min_images}"
                )
            return chosen
        fit = [label for label, count in enumerate(counts) if count >= self.min_images]
        wanted = self.identities or max(2, len(fit))
        if len(fit) < wanted:
            raise RequestError(
                f"{pictures.where}: {len(fit)} of {len(counts):,} identities have "
                f"{self.min_images} or more images, but {wanted:,} private ones are asked for: "
                "prepare the complete data set, or ask for fewer"
            )
        if self.decoys == "drawn":
            order = np.array(sorted(fit, key=names.__getitem__))
            chosen = self._drawn(order, "private", pictures.dataset)[:wanted].tolist()
        else:
            chosen = sorted(fit, key=lambda label: (-counts[label], names[label]))[:wanted]
        return sorted(chosen, key=names.__getitem__)

    def parts(self, pictures: Pictures, name: str, rows: Rows) -> tuple[Rows, Rows, Rows]:
        """See the rule."""
        if self.test_fraction is None:
            official = pictures.parts[rows] == PARTS.index("test")
            test, rest = rows[official], rows[~official]
            if not len(test) or len(rest) < 2:
                raise RequestError(
                    f"{pictures.where}: {name!r} has {len(test)} images in the official test part "
                    f"and {len(rest)} outside it, but 1 and 2 are the least: give a test_fraction"
                )
        else:
            order = self._drawn(rows, "test", name)
            count = share(len(rows), self.test_fraction)
            test, rest = order[:count], np.sort(order[count:])
        order = self._drawn(rest, "val", name)
        count = share(len(rest), self.val_fraction)
        val, train = order[:count], np.sort(order[count:])
        if self.max_train is not None:
            train = self._drawn(train, "train", name)[: self.max_train]
        return train, val, test

    def public(self, pictures: Pictures, rows: Rows) -> Rows:
        """See the rule."""
        wanted = self.public_images or max(1, len(rows))
        if len(rows) < wanted:
            advice = "take public images from another data set (public_dataset), or ask for fewer"
            if self.public_dataset is None:
                advice = f"make fewer identities private, {advice}"
            raise RequestError(
                f"{pictures.where}: {len(rows):,} images can be public, but {wanted:,} are asked "
                f"for: {advice}"
            )
        if self.public_images is None:
            return rows
        return self._drawn(rows, "public", pictures.dataset)[:wanted]

    def _drawn(self, rows: Rows, purpose: str, name: str) -> Rows:
        dataset = source_named(self.dataset).card.name if ".py:" in self.dataset else self.dataset
        return drawn(rows, self.seed, "identity-split", dataset, purpose, name)


@dataclass(frozen=True, eq=False)
class PreparedImages(Divided):
    """Images of prepared data sets, which lay in the data folder when they were divided.

    Attributes:
        data: the data folder; None: see :func:`mibench.data.prepared.data_root`.
    """

    card: IdentityDivision
    resolution: int
    data: str | None
    stored = True

    def inputs(self) -> dict[str, Any]:
        """The images' contents, and whether they may be mirrored."""
        cards = [source_named(name).card for name, _ in self.card.sets]
        mirror = {card.name: card.mirror for card in cards}
        return {"images": self.digest, "mirror": mirror, "resolution": self.resolution}

    def load(self, progress: Progress = SILENT) -> Dataset:
        """Check the prepared files, and copy what is used of them into memory."""
        for _ in progress.steps(1, "reading and checking the prepared pictures"):
            made, private, public = self.card.open(self.resolution, self.data, check=True)
            if _contents(made, private, public) != self.digest:
                raise MibenchError(
                    f"{private.folder} or {public.folder} was prepared anew while it was in use: "
                    "run the command again"
                )
        return gather(made, private, public)


def gather(made: Division, private: Prepared, public: Prepared) -> Dataset:
    """Copy the images of a division into memory: ``uint8`` sets on the CPU."""
    sets: dict[str, Any] = {}
    for use, (part, names) in made.uses.items():
        data = public if use == "public" else private
        labels, mirror = torch.from_numpy(part.labels), data.source.card.mirror
        sets[use] = ImageSet(data.rows(part.rows), labels, names, mirror)
    return Dataset(**sets)


def _contents(made: Division, private: Prepared, public: Prepared) -> str:
    return digest([made.digest, private.digest, public.digest])
