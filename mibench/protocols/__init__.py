"""Protocol cards: named, versioned evaluation settings. Numbers compare within one version only."""

from __future__ import annotations

from mibench.data.splits import FolderOptions
from mibench.errors import RequestError
from mibench.gan_training import GanConfig
from mibench.models.evaluators import JudgeConfig
from mibench.protocols import high_resolution, papers, small, synthfaces
from mibench.protocols.card import Protocol
from mibench.registry import no_such
from mibench.training import TrainingConfig

__all__ = ["PROTOCOLS", "Protocol", "folder_protocol", "protocol_named"]

# With their names as text, so that listings can read the cards without importing them.
FAMILIES = {
    "synthfaces": synthfaces,
    "small": small,
    "papers": papers,
    "high_resolution": high_resolution,
}
PROTOCOLS: dict[str, Protocol] = {
    card.name: card for module in FAMILIES.values() for card in module.CARDS
}


def protocol_named(name: str) -> Protocol:
    """The card of a built-in protocol.

    Raises:
        RequestError: there is none of that name; the message offers close ones.
    """
    if name not in PROTOCOLS:
        raise RequestError(no_such("protocol", name, [*PROTOCOLS, "folder"]))
    return PROTOCOLS[name]


def folder_protocol(options: FolderOptions) -> Protocol:
    """The protocol of an image folder; its evaluators and prior are trained on it."""
    return Protocol(
        name="folder",
        title="An image folder with one sub-folder per identity",
        data=options,
        resolution=64,
        target="resnet18",
        training=TrainingConfig(epochs=50, learning_rate=0.02, weight_decay=5e-4),
        evaluator=JudgeConfig(architecture="regnetx_002", resolution=112),
        second=JudgeConfig(architecture="mobilenetv2_050", resolution=112),
        gan=GanConfig(steps=20000),
    )
