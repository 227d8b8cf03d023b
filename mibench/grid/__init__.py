"""Grids: from a description to cells, from cells to shared stages, and who computes them."""
