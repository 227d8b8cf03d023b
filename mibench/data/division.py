"""How a cell's images were divided, where a protocol does not draw them itself."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from mibench.data.identity_split import IdentitySplit, Split, gather, open_split
from mibench.data.images import Dataset
from mibench.data.prepared import Prepared, verify
from mibench.data.rendered import SynthFacesData
from mibench.data.splits import FolderOptions, FolderSplit
from mibench.errors import MibenchError
from mibench.types import digest

_log = logging.getLogger("mibench.data")


@dataclass(frozen=True)
class Counts:
    """How many private identities there are, and how many images of each use."""

    identities: int
    train: int
    val: int
    test: int
    public: int


@dataclass(frozen=True)
class PreparedSplit:
    """A split of prepared data sets that were there when it was made.

    Attributes:
        spec: the rule.
        resolution: height and width in pixels.
        data: the data folder; None: see :func:`mibench.data.prepared.data_root`.
        split: SHA-256 of which picture is used for what.
        complete: whether the data sets are the published ones, by their counts.
        digest: SHA-256 of that and of the pictures' contents.
        counts: how many identities and images there are.
    """

    spec: IdentitySplit
    resolution: int
    data: str | None
    split: str
    complete: bool
    digest: str
    counts: Counts

    def load(self) -> Dataset:
        """The images, in memory on the CPU.

        Raises:
            MibenchError: the files are damaged, or others than when the split was made.
        """
        made, private, public = open_split(self.spec, self.resolution, self.data)
        for folder in {private.folder, public.folder}:
            if problems := verify(folder):
                raise MibenchError(problems[0])
        if _contents(made, private, public) != self.digest:
            raise MibenchError(
                f"{private.folder} or {public.folder} was prepared anew while it was in use: "
                "run the command again"
            )
        return gather(made, private, public)


Division = FolderSplit | PreparedSplit


def prepared_split(spec: IdentitySplit, resolution: int, data: str | Path | None) -> PreparedSplit:
    """Divide prepared data sets; no image is read.

    Raises:
        RequestError: a data set is not prepared (says how to) or too small.
        MibenchError: a prepared file is damaged.
    """
    made, private, public = open_split(spec, resolution, data)
    if made.repeated:
        _log.warning(
            "%d pictures of %s are, in every pixel, pictures of another part too (training, "
            "validation, test or public); the set is divided as it was published",
            made.repeated,
            spec.dataset,
        )
    complete = private.index.complete and public.index.complete
    contents = _contents(made, private, public)
    where = str(data) if data else None
    counts = Counts(
        identities=len(made.private),
        train=len(made.train),
        val=len(made.val),
        test=len(made.test),
        public=len(made.public_rows),
    )
    return PreparedSplit(spec, resolution, where, made.digest, complete, contents, counts)


def counts_of(
    data: SynthFacesData | FolderOptions | IdentitySplit, split: Division | None
) -> Counts:
    """How many identities and images a division has; of rendered ones, as specified."""
    if isinstance(split, PreparedSplit):
        return split.counts
    if isinstance(split, FolderSplit):
        return Counts(
            identities=len(split.private),
            train=sum(len(each.train) for each in split.private),
            val=sum(len(each.val) for each in split.private),
            test=sum(len(each.test) for each in split.private),
            public=sum(len(each.files) for each in split.public),
        )
    assert isinstance(data, SynthFacesData)
    return Counts(
        identities=data.identities,
        train=data.identities * data.train,
        val=data.identities * data.val,
        test=data.identities * data.test,
        public=data.public_identities * data.public_images,
    )


def _contents(made: Split, private: Prepared, public: Prepared) -> str:
    return digest([made.digest, private.digest, public.digest])
