"""mibench: a benchmark suite for defenses against model inversion attacks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

# In a checkout (and an editable install of it) attacks/ and defenses/ lie beside this folder.
_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "pyproject.toml").exists() and (_CHECKOUT / "attacks").is_dir():
    __path__.append(str(_CHECKOUT))

if TYPE_CHECKING:
    from mibench.cell.run import run

__version__ = "0.1.0"
__all__ = ["__version__", "run"]


def __getattr__(name: str) -> Any:
    """What imports torch, when it is first asked for: the package itself is there in no time."""
    if name == "run":
        from mibench.cell.run import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
