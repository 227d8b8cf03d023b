"""A share of a budget, for trying things out: fewer epochs and steps, everything else as it is."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

from mibench.types import BUDGETED, Frozen

Model = TypeVar("Model", bound=Frozen)


def scaled(config: Model, share: float) -> Model:
    """A copy whose budgeted fields, nested ones too, are ``share`` of what they were.

    A field is budgeted when it was declared with ``json_schema_extra=BUDGETED``. Whole numbers stay
    whole and at least 1, unless the field also takes fractions, as epochs do.

    Args:
        config: any of the frozen models.
        share: over 0; 1 changes nothing.
    """
    if share == 1:
        return config
    changed: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Frozen):
            changed[name] = scaled(value, share)
        elif field.json_schema_extra == BUDGETED:
            whole = field.annotation is int
            least = sys.float_info.min  # above 0, as a field of epochs is: one step is taken
            changed[name] = max(1, round(value * share)) if whole else max(value * share, least)
    return config.model_copy(update=changed)
