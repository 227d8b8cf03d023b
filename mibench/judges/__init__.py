"""Embedding judges: whom an image resembles, among people that nobody trained on.

A judge is one file here, registered under its file's name. Evaluators, the classifiers of the
attacked identities, are in :mod:`mibench.judges.evaluators`.
"""

from __future__ import annotations

from mibench.judges._judge import (
    JUDGES,
    Judge,
    JudgeCard,
    pinned_decoys,
    register_judge,
    restored_judge,
)
from mibench.judges._templates import (
    ROUNDING,
    Gallery,
    dequantised,
    leave_one_out,
    quantised,
    ranks,
    template,
)

__all__ = [
    "JUDGES",
    "ROUNDING",
    "Gallery",
    "Judge",
    "JudgeCard",
    "dequantised",
    "leave_one_out",
    "pinned_decoys",
    "quantised",
    "ranks",
    "register_judge",
    "restored_judge",
    "template",
]
