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

import numpy as np
from pydantic import Field, model_validator

from mibench.data.division import CountedRule, Pictures, Rows, drawn, share
from mibench.data.prepared_division import PreparedRule
from mibench.data.source import PARTS, source_named
from mibench.errors import RequestError


class IdentityDivision(PreparedRule, CountedRule):
    """How prepared data sets are divided; see the rule in this module's docstring."""

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

    @model_validator(mode="after")
    def _consistent(self) -> IdentityDivision:
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
