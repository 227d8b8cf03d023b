"""Protocol cards: named, versioned evaluation settings. Numbers compare within one version only."""

from __future__ import annotations

from mibench.data.folder import FolderOptions
from mibench.errors import RequestError
from mibench.protocols import high_resolution, papers, small, synthfaces
from mibench.protocols._card import Protocol
from mibench.protocols._file import card_of_file, is_file
from mibench.protocols.audit import audit_protocol
from mibench.protocols.folder import folder_protocol
from mibench.record import AUDIT
from mibench.registry import no_such

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "audit_protocol",
    "card_named",
    "folder_protocol",
    "is_file",
    "protocol_named",
]

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
    """The card of a protocol of mibench's, or of ``mine.toml`` or ``mine.py:CARD``.

    Raises:
        RequestError: there is none of that name (the message offers close ones), or something is
            wrong with the file.
    """
    if is_file(name):
        return card_of_file(name, [*PROTOCOLS, "folder", AUDIT])
    if name not in PROTOCOLS:
        raise RequestError(no_such("protocol", name, [*PROTOCOLS, "folder"]))
    return PROTOCOLS[name]


def card_named(name: str) -> Protocol:
    """As :func:`protocol_named`, or that of ``folder`` before any pictures are known.

    Raises:
        RequestError: as :func:`protocol_named`.
    """
    return folder_protocol(FolderOptions()) if name == "folder" else protocol_named(name)
