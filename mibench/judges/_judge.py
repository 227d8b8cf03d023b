"""What the author of a judge implements, and how a protocol pins one."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.assets import Asset, load_asset
from mibench.data.images import batches
from mibench.errors import ArtifactError, MibenchError, RequestError
from mibench.judges._templates import Gallery
from mibench.judges.evaluators import JUDGED_AT_ONCE
from mibench.progress import SILENT, Progress
from mibench.registry import Registry
from mibench.types import Frozen


class JudgeCard(Frozen):
    """An embedding judge that a protocol pins, with its decoys."""

    kind: str = Field("embedding", min_length=1, description="kind of judge")
    network: Asset | None = Field(
        None, description="its weights; null: those that its kind brings itself"
    )
    decoys: Asset | None = Field(
        None,
        description="its templates of identities from the private ones' source that nobody "
        "trained on; null: it makes them of the data's decoys",
    )


class Judge(ABC):
    """Base class of embedding judges; register with :func:`register_judge`.

    It says how alike two faces are by the cosine of their embeddings, and has seen neither private
    nor public identities nor decoys: private identities and decoys are exchangeable for it.

    Class attributes:
        title: what it is, in a line.

    Attributes:
        description: what its asset says of it.
        network: what :meth:`build` made, with the asset's tensors, frozen.
    """

    title: ClassVar[str]

    def __init__(self, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
        self.description = description
        self.network = self.build()
        self.network.load_state_dict(dict(tensors))
        self.network.eval().requires_grad_(False)

    @classmethod
    def absent(cls) -> str | None:
        """Why this judge cannot be had here, and what to do; None where it can."""
        return None

    @classmethod
    def restored(cls, network: Asset | None) -> Judge:
        """The judge with the weights that a card names.

        Raises:
            RequestError: the card names none, and this kind brings none.
            ArtifactError: the file is missing, is not the pinned one, or holds no tensors.
        """
        if network is None:
            raise RequestError(
                f"a judge of kind {JUDGES.name_of(cls)!r} brings no weights: name them, `network = "
                "{ file = PATH, sha256 = … }`"
            )
        return cls(*load_asset(network))

    @abstractmethod
    def build(self) -> nn.Module:
        """The network as it is before its stored tensors are loaded."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Embeddings ``(n, d)`` of a batch ``(n, 3, h, w)`` in [0, 1], of any size."""

    @final
    @torch.no_grad()
    def __call__(
        self, images: Tensor, progress: Progress = SILENT, label: str = "judging"
    ) -> Tensor:
        """Unit embeddings ``(n, d)`` of images.

        Args:
            images: ``(n, 3, h, w)``, uint8 or in [0, 1].
            progress: told of each batch under ``label``.

        Raises:
            MibenchError: :meth:`embed` gives another shape.
        """
        found = []
        for batch in batches(images, JUDGED_AT_ONCE, progress, label):
            made = self.embed(batch)
            if made.ndim != 2 or len(made) != len(batch):
                raise MibenchError(
                    f"{type(self).__name__}.embed() gave shape {tuple(made.shape)}, wanted one "
                    "vector an image"
                )
            found.append(F.normalize(made, dim=1))
        return torch.cat(found)

    def to(self, device: torch.device) -> Judge:
        """The same judge, moved."""
        self.network.to(device)
        return self


JUDGES: Registry[Judge] = Registry("judge", Judge, "mibench.judges", "mibench.judges")
register_judge = JUDGES.register


def restored_judge(
    card: JudgeCard, kind: type[Judge] | None = None
) -> tuple[Judge, Gallery | None]:
    """The judge that a card pins, and its decoys, where it pins some.

    Args:
        card: of a protocol.
        kind: what the card's kind names, if that is known.

    Raises:
        RequestError: it can't be had here.
        ArtifactError: a file is missing, is not the pinned one, or the two are not of one network.
    """
    judge = (kind or JUDGES.get(card.kind)).restored(card.network)
    if card.decoys is None:
        return judge, None
    gallery, network = pinned_decoys(card.decoys)
    if card.network is None or network != card.network.sha256:
        raise ArtifactError(f"the decoys {card.decoys.file} are of another network than its judge")
    return judge, gallery


@functools.lru_cache(maxsize=3)  # unpacking takes a third of a second, and a cell asks twice
def pinned_decoys(asset: Asset) -> tuple[Gallery, str]:
    """Decoys that a card pins, and the SHA-256 of the network that they are of.

    Raises:
        ArtifactError: the file is missing, is not the pinned one, or holds no decoys.
    """
    pool, said = load_asset(asset)
    if not {"network", "images"} <= said.keys() or "templates" not in pool:
        raise ArtifactError(
            f"{asset.file} holds no decoys: it needs the tensor `templates`, and a description "
            "with `network` (the judge's SHA-256) and `images` (behind each template)"
        )
    return Gallery(pool["templates"], int(said["images"])), said["network"]
