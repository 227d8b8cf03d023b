"""A share of a budget, for trying things out: fewer epochs and steps, fewer things to judge."""

from __future__ import annotations

import sys
from typing import Any, TypeVar, get_args

from mibench.types import Frozen

Model = TypeVar("Model", bound=Frozen)

LEAST_IDENTITIES = 8  # attacked by the smallest share: intervals over identities need a few


def share_of(count: int, share: float, least: int = 1) -> int:
    """How many of ``count`` things a share of them is: ``least`` at least, or all there are."""
    return count if share == 1 else min(count, max(least, round(count * share)))


def scaled(config: Model, share: float) -> Model:
    """A copy whose budgeted fields, nested ones too, are ``share`` of what they were.

    A field is budgeted when it was declared with ``json_schema_extra=BUDGETED``, to which
    ``"least"`` may be added. Whole numbers stay whole and at least that, or 1, unless the field
    also takes fractions, as epochs do; None stays None.

    Args:
        config: any of the frozen models.
        share: over 0; 1 changes nothing.
    """
    if share == 1:
        return config
    changed: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value, extra = getattr(config, name), field.json_schema_extra
        if isinstance(value, Frozen):
            changed[name] = scaled(value, share)
        elif isinstance(extra, dict) and extra.get("budgeted") and value is not None:
            if field.annotation is float or float in get_args(field.annotation):
                # Above 0, as a field of epochs is: one step is taken.
                changed[name] = max(value * share, sys.float_info.min)
            else:
                changed[name] = share_of(value, share, int(str(extra.get("least", 1))))
    return config.model_copy(update=changed)
