"""The views that attacks average their loss over, whatever attack it is."""

from __future__ import annotations

from mibench.data.views import Views

# TAA's, of AlignMI (NeurIPS 2025, arXiv 2509.20177).
TRANSFORMED = Views(scale=(0.8, 1.0), ratio=(0.9, 1.1), mirror=True, degrees=5)
