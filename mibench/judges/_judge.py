"""What the author of a judge implements, and how a protocol pins one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.assets import Asset, load_asset
from mibench.data.images import to_float
from mibench.errors import ArtifactError, MibenchError
from mibench.judges._templates import Gallery
from mibench.progress import SILENT, Progress
from mibench.registry import Registry
from mibench.types import Frozen

_AT_ONCE = 128  # on CPUs, resized images of larger batches leave the cache


class JudgeCard(Frozen):
    """An embedding judge that a protocol pins, with its decoys."""

    kind: str = Field("embedding", min_length=1, description="kind of judge")
    network: Asset = Field(description="its weights")
    decoys: Asset = Field(
        description="its templates of identities from the private ones' source that nobody "
        "trained on"
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
        found, batches = [], images.split(_AT_ONCE)
        for index in progress.steps(len(batches), label):
            batch = batches[index]
            if batch.dtype == torch.uint8:
                batch = to_float(batch)
            made = self.embed(batch.contiguous(memory_format=torch.channels_last))
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


def restored_judge(card: JudgeCard) -> tuple[Judge, Gallery]:
    """The judge that a card pins, and its decoys.

    Raises:
        ArtifactError: a file is missing, is not the pinned one, or the two are not of one network.
    """
    tensors, description = load_asset(card.network)
    pool, of_pool = load_asset(card.decoys)
    if of_pool["network"] != card.network.sha256:
        raise ArtifactError(
            f"the decoys {card.decoys.file} are of another network than {card.network.file}"
        )
    judge = JUDGES.get(card.kind)(tensors, description)
    return judge, Gallery(pool["templates"], int(of_pool["images"]))
