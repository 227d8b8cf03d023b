"""Networks that judge reconstructions. One kind a file, registered under its file's name."""

from __future__ import annotations

from mibench.judges.evaluators._evaluator import (
    EVALUATORS,
    JUDGED_AT_ONCE,
    Evaluator,
    EvaluatorConfig,
    EvaluatorJob,
    register_evaluator,
    restored_evaluator,
    train_evaluator,
)

__all__ = [
    "EVALUATORS",
    "JUDGED_AT_ONCE",
    "Evaluator",
    "EvaluatorConfig",
    "EvaluatorJob",
    "register_evaluator",
    "restored_evaluator",
    "train_evaluator",
]
