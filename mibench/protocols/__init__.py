"""Protocol cards: named, versioned evaluation settings. Numbers compare within one version only."""

from __future__ import annotations

from mibench.errors import RequestError
from mibench.protocols import high_resolution, papers, small, synthfaces
from mibench.protocols.card import Protocol
from mibench.protocols.folder import folder_protocol
from mibench.registry import closest

__all__ = ["PROTOCOLS", "Protocol", "folder_protocol", "protocol_named"]

PROTOCOLS: dict[str, Protocol] = {
    card.name: card
    for module in (synthfaces, small, papers, high_resolution)
    for card in module.CARDS
}


def protocol_named(name: str) -> Protocol:
    """The card of a built-in protocol.

    Raises:
        RequestError: there is none of that name; the message offers close ones.
    """
    if name not in PROTOCOLS:
        known = [*PROTOCOLS, "folder"]
        hint = closest(name, known) or f"there are {', '.join(known)}"
        raise RequestError(f"there is no protocol {name!r}; {hint}")
    return PROTOCOLS[name]
