"""Cells of tests: their stages, and a bench to compute them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mibench.cell.graph import Graph
from mibench.cell.request import Request
from mibench.cell.resolve import Cell, check, resolve
from mibench.cell.run import divide
from mibench.cell.stage import Bench
from mibench.progress import SILENT
from mibench.store.store import Store


def graph_of(cell: Cell) -> Graph:
    """The stages of a resolved cell on this machine."""
    return Graph(check(cell), divide(cell, SILENT))


def graph(**request: Any) -> Graph:
    """The stages of the cell that is asked for."""
    return graph_of(resolve(Request(**request)))


def bench(store: Path) -> Bench:
    """A bench of this machine's CPU, which tells nobody."""
    return Bench(Store(store), torch.device("cpu"), SILENT)
