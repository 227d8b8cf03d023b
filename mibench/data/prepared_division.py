"""Divisions of prepared data sets: what they are of, and their images."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator

from mibench.data.divided import Divided, Place
from mibench.data.division import Division, Rule, divide
from mibench.data.images import Dataset, ImageSet
from mibench.data.lists import kept_lists
from mibench.data.prepared import Prepared, open_prepared
from mibench.data.source import check_source, source_named
from mibench.errors import MibenchError, RequestError
from mibench.progress import SILENT, Progress
from mibench.types import digest

_log = logging.getLogger("mibench.data")


class PreparedRule(Rule):
    """A rule for data sets that lie prepared in the data folder."""

    dataset: str = Field(description="data set of the private identities")
    crop: int | None = Field(
        None, ge=1, le=65_536, description="its crop in pixels; None: the data set's own"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of all draws")

    @model_validator(mode="after")
    def _sources_exist(self) -> PreparedRule:
        for name, _ in self.sets:
            try:
                check_source(name)
            except RequestError as error:
                raise ValueError(str(error)) from error
        return self

    @property
    def sets(self) -> tuple[tuple[str, int | None], ...]:
        """The private data set, and the public one where that is another."""
        return ((self.dataset, self.crop),)

    @property
    def draws(self) -> int:
        """Seed of all draws."""
        return self.seed

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
            RequestError: a data set is not prepared, or too small; or published lists are absent.
            MibenchError: a prepared file is damaged, as far as it is looked at without ``check``.
        """
        lists = kept_lists(self.dataset, self.lists, resolution, data) if self.lists else None
        sets = [open_prepared(n, resolution, data, crop=c, check=check) for n, c in self.sets]
        private, *public = (each.pictures() for each in sets)
        if lists is not None:
            private = private.listed(lists)
        return divide(self, private, *public), sets[0], sets[-1]


@dataclass(frozen=True, eq=False)
class PreparedImages(Divided):
    """Images of prepared data sets, which lay in the data folder when they were divided.

    Attributes:
        data: the data folder; None: see :func:`mibench.data.prepared.data_root`.
    """

    card: PreparedRule
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
