"""Prepared data sets that published lists divide, as several papers' released code shares them.

The rule of :mod:`mibench.data.division`, in which

1. *private* are the identities of the pictures that ``train_list`` and ``test_list`` name. Labels
   follow the sorted names;
2. *test* are a private identity's pictures in ``test_list``;
3. *validation* is a draw of ``max(1, floor(m · val_fraction))`` of its m pictures in
   ``train_list``, and *training* the rest of them;
4. *public* are the pictures that ``public_list`` names;
5. *decoys* are the identities that no list shows, with at least ``decoy_images`` pictures.

Nobody drew the private identities: the number of their pictures, and the fame that brought them,
may tell them from decoys. So ranks among the decoys are nominal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from mibench.data.division import Pictures, Rows, drawn, share
from mibench.data.prepared_division import PreparedRule
from mibench.errors import RequestError


class ListedDivision(PreparedRule):
    """How published lists divide a prepared data set; see the rule in this module's docstring."""

    train_list: str = Field(description="published list of the private training pictures")
    test_list: str = Field(description="published list of the private test pictures")
    public_list: str = Field(description="published list of the public pictures")
    decoys: Literal["unlisted"] = Field(
        "unlisted",
        description="people whom nobody trains on, for judges to rank among: those in no list, "
        "whose ranks are nominal",
    )
    val_fraction: float = Field(
        0.1, gt=0, le=0.4, description="share of an identity's training pictures for validation"
    )

    @property
    def lists(self) -> tuple[str, ...]:
        """See :class:`mibench.data.divided.Data`."""
        return (self.train_list, self.test_list, self.public_list)

    def private(self, pictures: Pictures) -> list[int]:
        """See the rule."""
        named = pictures.lists[self.train_list] | pictures.lists[self.test_list]
        found: list[int] = np.unique(pictures.labels[named]).tolist()
        return sorted(found, key=pictures.names.__getitem__)

    def parts(self, pictures: Pictures, name: str, rows: Rows) -> tuple[Rows, Rows, Rows]:
        """See the rule."""
        rest, test = (
            rows[pictures.lists[each][rows]] for each in (self.train_list, self.test_list)
        )
        if len(rest) < 2 or not len(test):
            raise RequestError(
                f"{pictures.where}: {name!r} has {len(rest)} pictures in {self.train_list} and "
                f"{len(test)} in {self.test_list}, but 2 and 1 are the least: its identities are "
                "not the published ones; prepare the published files again"
            )
        order = drawn(rest, self.seed, "listed-division", pictures.dataset, "val", name)
        count = share(len(rest), self.val_fraction)
        return order[count:], order[:count], test

    def public(self, pictures: Pictures, rows: Rows) -> Rows:
        """See the rule."""
        named = pictures.lists[self.public_list]
        if private := int(named.sum() - named[rows].sum()):
            raise RequestError(
                f"{pictures.where}: {private:,} of the pictures in {self.public_list} show private "
                "people: its identities are not the published ones; prepare the published files "
                "again"
            )
        return rows[named[rows]]

    def strangers(self, pictures: Pictures, private: Sequence[int]) -> list[int]:
        """See the rule."""
        named = np.any([pictures.lists[name] for name in self.lists], axis=0)
        shown = set(pictures.labels[named].tolist())
        found = [
            label
            for label, count in enumerate(pictures.counts)
            if count >= self.decoy_images and label not in shown
        ]
        if not found:
            raise RequestError(
                f"{pictures.where}: no identity that is in no list has {self.decoy_images} "
                "pictures to be a decoy: lower decoy_images, or prepare the complete data set"
            )
        return found
