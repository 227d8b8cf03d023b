"""mibench: a benchmark suite for defenses against model inversion attacks."""

from __future__ import annotations

from pathlib import Path

# In a checkout (and an editable install of it) attacks/ and defenses/ lie beside this folder.
_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "pyproject.toml").exists() and (_CHECKOUT / "attacks").is_dir():
    __path__.append(str(_CHECKOUT))

from mibench.cell.run import run  # noqa: E402  (after the shim)

__version__ = "0.1.0"
__all__ = ["__version__", "run"]
