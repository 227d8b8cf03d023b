"""Leaderboards: from records to tables, figures and a page; and the checks that records pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["frame"]


def frame(folder: str | Path | None = None) -> DataFrame:
    """All filed records of a leaderboards folder, a row each, ordered by protocol and file name.

    What was not measured, or does not apply, is NaN or None. Accuracies, rates and shares are
    fractions in [0, 1]. Seeds of one cell share ``cell``::

        rows = mibench.leaderboard.frame()
        rows[rows["default"]].groupby("cell")["attack_accuracy_top1"].agg(["mean", "std"])

    Columns:
        path: the record's file below ``records/``; cell: the same without its seed.
        protocol, version, target (architecture), defense, attack: names, as tables show them.
        access: what the attack may see: white-box, black-box, label-only.
        seed; status: complete, or diverged, then without numbers.
        settings: what ``--set`` changed, as text; default: whether that is nothing; swept: whether
            that is the defense's main knob alone.
        knob: path of that main knob; strength: its value; control: whether the defense is off.
        prior_kind, prior (its recipe in words), prior_pinned: the attacker's generative model.
        people: whether the reconstructions show people.
        queries: how often the target was asked for each attacked identity, by prior, students and
            attack.
        natural_accuracy, evaluator_accuracy, second_evaluator_accuracy: on private test images;
            validation_accuracy, over validation_images (count), beside chance_accuracy.
        epsilon, delta, privacy_unit: the formal guarantee.
        ``METRIC``, ``METRIC_low``, ``METRIC_high``, ``METRIC_n`` for each metric of the records:
            its value, its 95 % interval, and over how many images; ``mibench list metrics`` has
            their units.
        floor_prior, floor_public, ceiling: top-1 accuracy of what bounds every attack.
        ranked: whether boards may rank it: complete, and with a trusted evaluator.
        verification: self-reported, metrics recomputed, retrained; verified_by: who retrained it.
        seconds: what all its stages took; device; mibench, commit, dirty: where and with what it
            was made; created: when, ISO 8601; command: what makes it again.

    Args:
        folder: None: ``leaderboards`` in the working folder.

    Raises:
        MibenchError: a filed record is damaged or does not go with the others; all are named.
        RequestError: there is no such folder.
    """
    from mibench.errors import RequestError
    from mibench.leaderboard.records import load
    from mibench.leaderboard.series import framed

    place = Path(folder or "leaderboards")
    if not place.is_dir():
        raise RequestError(f"there is no folder {place.absolute()} with records")
    return framed(each for filed in load(place).values() for each in filed)
