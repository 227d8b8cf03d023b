"""Attacks, one file each; import them as ``mibench.attacks.<name>``."""
