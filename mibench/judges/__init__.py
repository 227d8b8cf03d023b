"""Networks that judge reconstructions. One kind a file, registered under its file's name."""

from __future__ import annotations

from mibench.judges._judge import (
    JUDGED_AT_ONCE,
    JUDGES,
    Judge,
    JudgeConfig,
    JudgeJob,
    register_judge,
    restored_judge,
    train_judge,
)

__all__ = [
    "JUDGED_AT_ONCE",
    "JUDGES",
    "Judge",
    "JudgeConfig",
    "JudgeJob",
    "register_judge",
    "restored_judge",
    "train_judge",
]
