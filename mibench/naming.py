"""Names of cells, as run folders and boards use them."""

from __future__ import annotations

import json
import re
from typing import Any

from mibench.types import digest

_READABLE = re.compile(r"[A-Za-z0-9+.-]{1,24}")


def setting_token(passed: dict[str, Any]) -> str:
    """A short text for what was passed through ``--set``: ``scale=0``, else a digest."""
    plain = plain_settings(passed)
    if len(plain) == 1:
        path, value = next(iter(plain.items()))
        text = json.dumps(value) if not isinstance(value, str) else value
        if path.startswith(("defense.", "target.")) and _READABLE.fullmatch(text):
            return f"{path.removeprefix('defense.')}={text}"
    return digest(plain)[:8]


def plain_settings(value: Any) -> Any:
    """Settings as they count: 0 and 0.0 are one, in tables and lists too."""
    if isinstance(value, dict):
        return {key: plain_settings(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_settings(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
