"""Runs as pages that open without a network, and runs beside each other.

Everything is made from a run folder: its record, its reconstructions, and the gallery beside them.
"""
