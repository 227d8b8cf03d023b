"""mibench: a benchmark suite for defenses against model inversion attacks."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

# In a checkout (and an editable install of it) attacks/ and defenses/ lie beside this folder.
_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "pyproject.toml").exists() and (_CHECKOUT / "attacks").is_dir():
    __path__.append(str(_CHECKOUT))

if TYPE_CHECKING:
    from mibench.cell.run import run
    from mibench.cell.zoo import load_target
    from mibench.grid.audit import audit
    from mibench.grid.standard import standard
    from mibench.reports.compare import compare
    from mibench.reports.run import report

__version__ = "0.1.0"
__all__ = ["__version__", "audit", "compare", "load_target", "report", "run", "standard"]

_PLACES = {
    "audit": "mibench.grid.audit",
    "compare": "mibench.reports.compare",
    "load_target": "mibench.cell.zoo",
    "report": "mibench.reports.run",
    "run": "mibench.cell.run",
    "standard": "mibench.grid.standard",
}


def __getattr__(name: str) -> Any:
    """What imports torch, when it is first asked for: the package itself is there in no time."""
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
