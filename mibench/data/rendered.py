"""The data of the ``synthfaces`` protocols: private and public identities, rendered on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mibench.data.divided import Counts, Data, Divided, Place
from mibench.data.images import Dataset, ImageSet
from mibench.data.synthfaces import (
    FAMILY,
    render_identities,
    sample_apart,
    sample_identities,
)
from mibench.progress import SILENT, Progress
from mibench.streams import stream
from mibench.types import digest


class SynthFacesData(Data):
    """Which faces are rendered; equal specifications give equal images on one machine."""

    private_name: str = Field(description="names the draw of private identities")
    public_name: str = Field(description="names the draw of public identities")
    seed: int = Field(2026, ge=0, lt=2**63, description="seed of all draws")
    identities: int = Field(100, ge=2, le=10**6, description="private identities")
    train: int = Field(30, ge=1, le=10**6, description="training images of a private identity")
    val: int = Field(10, ge=1, le=10**6, description="validation images of a private identity")
    test: int = Field(10, ge=1, le=10**6, description="test images of a private identity")
    coins: bool = Field(
        False,
        description="a coin chooses each private identity from two; nobody trains on the other",
    )
    public_identities: int = Field(4000, ge=1, le=10**6, description="public identities")
    public_images: int = Field(5, ge=1, le=10**6, description="images of a public identity")
    decoys: int | None = Field(
        None,
        ge=FAMILY,
        le=10**6,
        multiple_of=FAMILY,
        description="identities that nobody trains on, for judges that bring no decoys to rank "
        "among; None: nobody",
    )
    decoy_images: int = Field(
        1, ge=1, le=10**6, description="images behind each template of a decoy or private person"
    )

    @model_validator(mode="after")
    def _images_need_decoys(self) -> SynthFacesData:
        if self.decoys is None and self.decoy_images != 1:
            raise ValueError("decoy_images does nothing without decoys")
        if self.decoys is not None and self.decoy_images > self.test:
            raise ValueError("decoy_images is more than test, the images of a private identity")
        return self

    def divide(
        self,
        *,
        resolution: int,
        root: Place = None,
        data: Place = None,
        progress: Progress = SILENT,
    ) -> RenderedFaces:
        """See :class:`mibench.data.divided.Data`; nothing is rendered yet."""
        train, val, test = (self.identities * n for n in (self.train, self.val, self.test))
        public = self.public_identities * self.public_images
        decoys = (self.decoys, self.decoy_images) if self.decoys else ()
        counts = Counts(self.identities, train, val, test, public, self.test, *decoys)
        key = digest([self.model_dump(mode="json"), resolution])
        return RenderedFaces(key, None, True, counts, False, self, resolution)


@dataclass(frozen=True, eq=False)
class RenderedFaces(Divided):
    """Faces that are rendered when they are loaded."""

    data: SynthFacesData
    resolution: int

    def inputs(self) -> dict[str, Any]:
        """The specification, which the images follow from."""
        return {"data": self.data.model_dump(mode="json"), "resolution": self.resolution}

    def load(self, progress: Progress = SILENT) -> Dataset:
        """Render them."""
        return render_dataset(self.data, self.resolution, progress)


def private_attributes(data: SynthFacesData) -> tuple[Tensor, Tensor | None]:
    """True attributes ``(identities, attributes)`` of the private identities, in [0, 1].

    Returns:
        Theirs, and with :attr:`SynthFacesData.coins` those of the identities that the coins passed
        by, in the same order.
    """
    generator = stream(data.seed, data.private_name, "private", "identities")
    if not data.coins:
        return sample_identities(data.identities, generator), None
    # Of families of their own: an image of one private person says nothing of another.
    pairs = sample_apart(data.identities, 2, generator)
    generator = stream(data.seed, data.private_name, "private", "coins")
    fell = torch.randint(2, (data.identities,), generator=generator)
    every = torch.arange(data.identities)
    return pairs[every, fell], pairs[every, 1 - fell]


def public_attributes(data: SynthFacesData) -> Tensor:
    """True attributes of the public identities."""
    generator = stream(data.seed, data.public_name, "public", "identities")
    return sample_identities(data.public_identities, generator)


def render_public(data: SynthFacesData, resolution: int, progress: Progress = SILENT) -> ImageSet:
    """Public images with their public identities as labels."""
    generator = stream(data.seed, data.public_name, "public", "images")
    attributes = public_attributes(data)
    images = render_identities(attributes, data.public_images, resolution, generator, progress)
    return _labelled(images, _names("public", len(attributes)))


def render_dataset(data: SynthFacesData, resolution: int, progress: Progress = SILENT) -> Dataset:
    """Private splits and public images of a ``synthfaces`` protocol."""
    generator = stream(data.seed, data.private_name, "private", "images")
    attributes, passed_by = private_attributes(data)
    per_identity = data.train + data.val + data.test
    images = render_identities(attributes, per_identity, resolution, generator, progress)
    images = images.view(len(attributes), per_identity, *images.shape[1:])
    names = _names("private", len(attributes))

    def part(start: int, count: int) -> ImageSet:
        return _labelled(images[:, start : start + count].flatten(0, 1).clone(), names)

    foils = None
    if passed_by is not None:
        generator = stream(data.seed, data.private_name, "foils", "images")
        pictures = render_identities(passed_by, data.test, resolution, generator, progress)
        foils = _labelled(pictures, names)

    decoys = None
    if data.decoys is not None:
        generator = stream(data.seed, data.private_name, "decoys")
        families = [sample_identities(FAMILY, generator) for _ in range(data.decoys // FAMILY)]
        strangers = torch.cat(families)
        pictures = render_identities(strangers, data.decoy_images, resolution, generator, progress)
        decoys = _labelled(pictures, _names("decoy", data.decoys))

    return Dataset(
        train=part(0, data.train),
        val=part(data.train, data.val),
        test=part(data.train + data.val, data.test),
        public=render_public(data, resolution, progress),
        attributes=attributes,
        foils=foils,
        decoys=decoys,
    )


def _labelled(images: Tensor, names: tuple[str, ...]) -> ImageSet:
    """Images of identities, as many of each, one identity after the other."""
    labels = torch.arange(len(names)).repeat_interleave(len(images) // len(names))
    return ImageSet(images, labels, names)


def _names(kind: str, count: int) -> tuple[str, ...]:
    return tuple(f"{kind}-{index:04d}" for index in range(count))
