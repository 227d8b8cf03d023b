"""The worst case over a fixed set of attacks, within one target.

For each identity the attack is chosen on one half of its samples and scored on the other half, and
the other way round; the two scores are averaged. Choosing and scoring on the same samples would
take the luck of the draw for strength.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mibench.leaderboard.board import Value
from mibench.leaderboard.checks import HEADLINE
from mibench.leaderboard.groups import Group, over_seeds


def worst_of_target(hits: Sequence[Sequence[str]]) -> float:
    """Worst-case top-1 accuracy against one target, a fraction in [0, 1].

    Args:
        hits: for each attack, for each identity, a text of 0s and 1s, a character a sample. The
            halves are the samples at even and at odd positions. Attacks that tie on the choosing
            half share the score of their mean.

    Raises:
        ValueError: attacks differ in identities or samples, or there are fewer than two samples.
    """
    shapes = {tuple(len(row) for row in attack) for attack in hits}
    if len(shapes) != 1 or min(next(iter(shapes)), default=0) < 2:
        raise ValueError("attacks need hits of the same identities and samples, two or more each")
    identities = len(hits[0])
    scores = []
    for identity in range(identities):
        rows = [attack[identity] for attack in hits]
        even, odd = [row[::2] for row in rows], [row[1::2] for row in rows]
        scores.append((_scored(even, odd) + _scored(odd, even)) / 2)
    return math.fsum(scores) / identities


def _scored(choose: Sequence[str], score: Sequence[str]) -> float:
    most = max(row.count("1") for row in choose)
    chosen = [other for row, other in zip(choose, score, strict=True) if row.count("1") == most]
    return math.fsum(row.count("1") / len(row) for row in chosen) / len(chosen)


def worst_case(groups: Mapping[str, Group], attacks: Sequence[str]) -> Value:
    """Worst case over ``attacks``, mean and spread over the seeds that have all of them.

    Args:
        groups: cells of one defense and architecture by attack.
        attacks: the fixed set.

    Returns:
        The fraction; without a number and with the reason as text where an attack is missing, or
        where the attacks did not see one and the same target.
    """
    by_attack = {
        attack: {each.record.seed: each.record for each in groups[attack].complete}
        for attack in attacks
        if attack in groups
    }
    missing = [attack for attack in attacks if not by_attack.get(attack)]
    if missing:
        return Value(text=f"lacks {', '.join(missing)}")
    seeds = set.intersection(*(set(records) for records in by_attack.values()))
    values = []
    for seed in sorted(seeds):
        records = [records[seed] for records in by_attack.values()]
        hits = [record.metrics[HEADLINE].hits for record in records]
        if len({record.artifacts.get("target") for record in records}) > 1:
            continue
        if all(rows and min(map(len, rows)) > 1 for rows in hits):
            values.append(worst_of_target([rows for rows in hits if rows]))
    if not seeds:
        return Value(text="no seed has all its attacks")
    if not values:
        return Value(text="its attacks saw different targets, or have one sample an identity")
    return over_seeds(values)
