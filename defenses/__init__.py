"""Defenses, one file each; import them as ``mibench.defenses.<name>``."""
