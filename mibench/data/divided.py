"""Where a protocol's images come from, and what they are once each has its use."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mibench.data.images import Dataset
from mibench.progress import SILENT, Progress
from mibench.types import Frozen

Place = str | Path | None


@dataclass(frozen=True)
class Counts:
    """How many private identities there are, and how many images of each use.

    Attributes:
        least_test: the fewest test images that an identity has.
        decoys: people to rank among, in the data themselves.
        decoy_images: images of each of these, which are no part of any other use.
    """

    identities: int
    train: int
    val: int
    test: int
    public: int
    least_test: int
    decoys: int = 0
    decoy_images: int = 0


@dataclass(frozen=True, eq=False)
class Divided:
    """A protocol's images, each of which has its use; none is in memory.

    It is sent to the workers of a grid. Its module loads the images, so that module is what their
    stage's key names.

    Attributes:
        digest: SHA-256 that identifies the images.
        split: SHA-256 of which picture is used for what; None where pictures are drawn.
        complete: whether data sets are the published ones, by their counts.
        of_people: whether they show people, whose reconstructions are not published.
        stored: whether the images lie prepared and are read where they lie: no stage holds them.
    """

    digest: str
    split: str | None
    complete: bool
    counts: Counts
    of_people: bool
    stored: ClassVar[bool] = False

    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """What identifies the images in the keys of stages; JSON values."""

    @abstractmethod
    def load(self, progress: Progress = SILENT) -> Dataset:
        """The images, in memory on the CPU.

        Raises:
            MibenchError: files are damaged, or others than those that were divided.
        """

    def write(self, folder: Path) -> None:
        """Write which picture is used for what beside a record, where no source lists them."""


class Data(Frozen):
    """Where a protocol's images come from, as its card says it."""

    @property
    def sets(self) -> tuple[tuple[str, int | None], ...]:
        """Names and crops of the prepared data sets that are read."""
        return ()

    @property
    def lists(self) -> tuple[str, ...]:
        """Names of the published lists of the first of them that are read."""
        return ()

    @property
    def of_people(self) -> bool:
        """Whether the images show people, whose reconstructions are not published."""
        return False

    @property
    def of_root(self) -> bool:
        """Whether the images lie in a folder that whoever runs it names (``--root``)."""
        return False

    @abstractmethod
    def divide(
        self,
        *,
        resolution: int,
        root: Place = None,
        data: Place = None,
        progress: Progress = SILENT,
    ) -> Divided:
        """Settle which image is used for what, of an image folder ``root`` or of a data folder.

        Nothing is written.

        Raises:
            RequestError: files are missing, unusable or too few.
            MibenchError: a prepared file is damaged.
        """
