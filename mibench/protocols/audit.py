"""The protocol of audits: a network that somebody else trained, on pictures that they have."""

from __future__ import annotations

from mibench.data.audited import AuditData
from mibench.data.folder import FolderOptions
from mibench.judges import JudgeCard
from mibench.protocols._card import Protocol
from mibench.protocols.folder import folder_protocol
from mibench.record import AUDIT, GIVEN
from mibench.types import Preset


def audit_protocol(
    data: AuditData, size: int, preset: Preset = "paper", images: int | None = None
) -> Protocol:
    """The protocol of an image folder, but for its target, which is there already.

    Args:
        data: how the pictures are used; where there are decoys, dlib's descriptor judges.
        size: height and width of the images that the network takes, in pixels.
        preset, images: as :func:`~mibench.protocols.folder.folder_protocol` takes them; of the
            private images, those that the evaluators learn from.
    """
    return folder_protocol(FolderOptions(), preset, images).model_copy(
        update={
            "name": AUDIT,
            "title": "A network that was trained elsewhere, on its owner's pictures",
            "data": data,
            "resolution": size,
            "target": GIVEN,
            "judges": (JudgeCard(kind="dlib"),) if data.decoys else (),
        }
    )
