"""The command line of a cell."""

from __future__ import annotations

import shlex

from mibench.request import write_setting
from mibench.types import Part, Record, RunSpec


def command_of(spec: RunSpec) -> str:
    """The command line that asks for a cell."""
    parts = ["mibench", "run", "--protocol", spec.protocol, "--attack", spec.attack]
    parts += ["--defense", spec.defense, "--seed", str(spec.seed)]
    if spec.target:
        parts += ["--target", spec.target]
    if spec.root:
        parts += ["--root", spec.root]
    if spec.preset:
        parts += ["--preset", spec.preset]
    if spec.data:
        parts += ["--data", spec.data]
    if spec.budget != 1:
        parts += ["--budget", repr(spec.budget)]
    for path, value in spec.overrides.items():
        parts += ["--set", write_setting(path, value)]
    return shlex.join(parts)


def command_of_record(record: Record) -> str:
    """The command line that makes a record again, from its parts; its own word is not taken.

    A method of somebody's file stands as ``FILE.py:NAME``: where that file is, a record can't know.
    """
    cell = (record.protocol, record.target, record.defense, record.attack)
    overrides = {path: value for part in cell for path, value in part.passed.items()}
    usual = record.protocol.resolved.get("target")
    # Unchecked: this is text, and whether today's mibench takes such a request is for it to say.
    spec = RunSpec.model_construct(
        protocol=record.protocol.name,
        target=None if record.target.name == usual else record.target.name,
        defense=_method(record.defense),
        attack=_method(record.attack),
        seed=record.seed,
        preset=overrides.pop("preset", None),
        budget=overrides.pop("budget", 1),
        overrides=overrides,
    )
    return command_of(spec)


def _method(part: Part) -> str:
    """A method as ``--attack`` and ``--defense`` take it, without a path that a record names."""
    if part.source is None and ":" not in part.name:
        return part.name
    prefix = "improved-" if part.name.startswith("improved-") else ""
    return f"{prefix}FILE.py:{part.name.removeprefix(prefix).rpartition(':')[2]}"
