"""Image priors of attackers: one kind a file, registered in :data:`PRIORS`.

What an author of a kind needs can be imported from here; torch is loaded when it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mibench.priors._prior import (
        PRIORS,
        GanConfig,
        Prior,
        PriorConfig,
        PriorJob,
        PriorKind,
        register_prior,
    )

__all__ = [
    "PRIORS",
    "GanConfig",
    "Prior",
    "PriorConfig",
    "PriorJob",
    "PriorKind",
    "register_prior",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(name)
    from mibench.priors import _prior

    return getattr(_prior, name)
