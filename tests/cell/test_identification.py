"""What the judges say in a cell, against a brute-force computation, and of which images."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mibench.cell.judges import Enrolled, Identification
from mibench.judges import Judge, dequantised, leave_one_out, quantised, template

PEOPLE, IMAGES, DECOYS, PUBLIC, SAMPLES, SIZE = 6, 10, 2000, 40, 5, 16
LABELS = torch.arange(PEOPLE)


def unit(*shape: int, seed: int) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return F.normalize(made, dim=-1)


def enrolled(seed: int, foils: bool = True) -> Enrolled:
    """A judge for whom people are points, and their images lie around them."""
    people = unit(PEOPLE, 1, SIZE, seed=seed)
    test = F.normalize(people + 0.1 * unit(PEOPLE, IMAGES, SIZE, seed=seed + 1), dim=-1)
    return Enrolled(
        judge=cast(Judge, None),
        decoys=dequantised(quantised(unit(DECOYS, SIZE, seed=seed + 2))),
        own=dequantised(quantised(template(test[:, :9]))),
        held_out=dequantised(quantised(leave_one_out(test))),
        foils=unit(PEOPLE, SIZE, seed=seed + 3) if foils else None,
        test=test,
        public=unit(PUBLIC, SIZE, seed=seed + 4),
    )


JUDGES = [enrolled(0), enrolled(10)]
LOOKUP = torch.randint(PUBLIC, (PEOPLE, SAMPLES), generator=torch.Generator().manual_seed(1))
SCORES = torch.rand(PEOPLE, SAMPLES, generator=torch.Generator().manual_seed(2))


def guesses(share: float) -> list[torch.Tensor]:
    """Embeddings of reconstructions: this share of the person, the rest noise."""
    return [
        F.normalize(
            share * each.own[:, None] + (1 - share) * unit(PEOPLE, SAMPLES, SIZE, seed=20 + i),
            dim=-1,
        )
        for i, each in enumerate(JUDGES)
    ]


def brute_force(embeddings: list[torch.Tensor]) -> np.ndarray:
    """The larger p of every reconstruction, by loops."""
    p = np.zeros((PEOPLE, SAMPLES))
    for made, judge in zip(embeddings, JUDGES, strict=True):
        for person in range(PEOPLE):
            for sample in range(SAMPLES):
                image = made[person, sample].double()
                own = float(image @ judge.own[person].double())
                alike = sum(float(image @ decoy.double()) >= own for decoy in judge.decoys)
                p[person, sample] = max(p[person, sample], (1 + alike) / (DECOYS + 1))
    return p


def test_every_number_agrees_with_brute_force() -> None:
    made = guesses(0.35)
    found = Identification(JUDGES, LABELS, LOOKUP)(made, SCORES)
    p, best = brute_force(made), SCORES.argmax(1)
    lookup = brute_force([each.public[LOOKUP] for each in JUDGES])
    bits, rows = -np.log2(p), np.arange(PEOPLE)
    assert found["identity_bits"].per_identity == pytest.approx(bits.mean(1))
    assert found["identity_bits_best"].per_identity == pytest.approx(bits[rows, best])
    among = found["median_rank"].among
    assert among == DECOYS + 1
    assert found["median_rank"].value == np.median(np.median((p * among).round(), axis=1))
    assert found["leak_at_1e-2"].value == pytest.approx((p <= 0.01).mean())
    assert found["leak_at_1e-3"].value is None  # of 2,000 decoys
    assert found["excess_bits"].per_identity == pytest.approx(
        bits.mean(1) + np.log2(lookup).mean(1)
    )
    assert found["excess_bits_best"].per_identity == pytest.approx(
        bits[rows, best] + np.log2(lookup[:, 0])
    )
    wins = [
        all(
            float(each[person, best[person]] @ judge.own[person])
            > max(float(image @ judge.own[person]) for image in judge.public)
            for each, judge in zip(made, JUDGES, strict=True)
        )
        for person in range(PEOPLE)
    ]
    assert found["beats_lookalike"].hits == tuple("01"[win] for win in wins)
    first = JUDGES[0]
    assert first.foils is not None
    right = [
        float(made[0][i, best[i]] @ first.own[i]) > float(made[0][i, best[i]] @ first.foils[i])
        for i in range(PEOPLE)
    ]
    assert found["two_choice_accuracy"].hits == tuple("01"[each] for each in right)


def test_lookup_exceeds_itself_by_nothing() -> None:
    found = Identification(JUDGES, LABELS, LOOKUP)(
        [each.public[LOOKUP] for each in JUDGES], torch.arange(SAMPLES, 0, -1.0).expand(PEOPLE, -1)
    )
    assert found["excess_bits"].per_identity == found["excess_bits_best"].per_identity == (0.0,) * 6
    assert found["beats_lookalike"].value == 0


def test_the_lookalike_itself_is_no_win() -> None:
    """Its score, summed in another order, has other last digits for a third of people."""
    people, size = 200, 64
    each = replace(
        enrolled(50),
        own=unit(people, size, seed=51),
        public=unit(PUBLIC, size, seed=52),
        foils=None,
    )
    each = replace(each, decoys=unit(DECOYS, size, seed=53), held_out=None)
    alike = each.public[(each.public @ each.own.T).argmax(dim=0)][:, None]
    identification = Identification([each], torch.arange(people), torch.zeros(people, 1).long())
    assert identification([alike], torch.ones(people, 1))["beats_lookalike"].value == 0
    assert not identification.of_each_guess([alike])["beats_lookalike"].any()
    closer = F.normalize(alike + 0.01 * each.own[:, None], dim=-1)
    assert identification([closer], torch.ones(people, 1))["beats_lookalike"].value == 1


def test_private_test_images_meet_templates_without_themselves() -> None:
    """Images that say nothing of their person are recognised by themselves alone."""
    people = 300
    judges = []
    for seed in (30, 40):
        test = unit(people, 3, SIZE, seed=seed)  # three images an identity, of nobody in particular
        judges.append(
            replace(
                enrolled(seed),
                own=dequantised(quantised(template(test[:, :2]))),
                held_out=dequantised(quantised(leave_one_out(test))),
                foils=unit(people, SIZE, seed=seed + 5),
                test=test,
                public=unit(PUBLIC, SIZE, seed=seed + 6),
            )
        )
    labels, first = torch.arange(people), torch.ones(people, 1)
    identification = Identification(judges, labels, torch.zeros(people, 1, dtype=torch.long))
    shown = [each.test[:, :1] for each in judges]
    honest = identification(shown, first, held_out=True)
    flattered = identification(shown, first)
    assert honest["identity_bits"].value == pytest.approx(0.72, abs=0.2)
    assert honest["two_choice_accuracy"].value == pytest.approx(0.5, abs=0.1)
    assert (flattered["identity_bits"].value or 0) > 4
    assert (flattered["two_choice_accuracy"].value or 0) > 0.9


def test_each_guess_is_what_the_best_one_would_be() -> None:
    identification, made = Identification(JUDGES, LABELS, LOOKUP), guesses(0.5)
    every = identification.of_each_guess(made)
    for best in range(SAMPLES):
        scores = torch.eye(SAMPLES)[best].expand(PEOPLE, -1)
        found = identification(made, scores)
        for name, values in every.items():
            assert found[name].per_identity == pytest.approx(values[:, best].tolist())


def test_lookups_best_guess_is_the_first_of_its_answers() -> None:
    identification = Identification(JUDGES, LABELS, LOOKUP)
    found = identification.of_lookup()
    assert found["excess_bits"].value == found["excess_bits_best"].value == 0
    own = brute_force([each.public[LOOKUP] for each in JUDGES])
    assert found["identity_bits_best"].per_identity == pytest.approx(-np.log2(own[:, 0]))


def test_the_lookalike_is_each_judges_own() -> None:
    found = Identification(JUDGES, LABELS, LOOKUP).of_lookalikes()
    made = []
    for judge in JUDGES:
        which = (judge.public @ judge.own.T).argmax(0)
        made.append(judge.public[which][:, None].expand(-1, SAMPLES, -1))
    assert found["identity_bits"].per_identity == pytest.approx(-np.log2(brute_force(made))[:, 0])
    leaks = {"leak_at_1e-2", "leak_at_1e-3", "leak_at_1e-4"}
    assert found.keys() == {"identity_bits", "median_rank", *leaks}


def test_what_a_picture_shows_of_samples() -> None:
    identification, made = Identification(JUDGES, LABELS, LOOKUP), guesses(0.35)
    shown = identification.of_samples(made, SCORES)
    assert shown["rank"].numpy() == pytest.approx(brute_force(made) * (DECOYS + 1))
    assert torch.equal(shown["best"], SCORES.argmax(1))
    first = JUDGES[0]
    assert torch.equal(shown["lookalike"], (first.public @ first.own.T).argmax(0))
    for person, image in enumerate(shown["lookalike"].tolist()):
        larger = max(
            1 + int((j.public[image] @ j.decoys.T >= j.public[image] @ j.own[person]).sum())
            for j in JUDGES
        )
        assert shown["lookalike_rank"][person] == larger
    assert "best" not in identification.of_samples(made, None)


def test_without_the_target_nothing_is_said_of_its_choice() -> None:
    found = Identification(JUDGES, LABELS, None)(guesses(0.35), None)
    assert found["identity_bits"].value is not None
    for name in ("identity_bits_best", "excess_bits", "two_choice_accuracy", "epsilon_lower_bound"):
        assert found[name].value is None
        assert "target is not at hand" in (found[name].reason or "")


def test_without_coins_there_is_no_audit() -> None:
    judges = [enrolled(0, foils=False), enrolled(10, foils=False)]
    found = Identification(judges, LABELS, LOOKUP)(guesses(0.35), SCORES)
    for name in ("two_choice_accuracy", "epsilon_lower_bound"):
        assert found[name].reason == "no coin chose the private identities"


def test_some_of_the_identities() -> None:
    """Attacks on the first identities alone are judged for these."""
    few = torch.arange(2)
    made = [each[:2] for each in guesses(0.35)]
    found = Identification(JUDGES, few, LOOKUP[:2])(made, SCORES[:2])
    whole = Identification(JUDGES, LABELS, LOOKUP)(guesses(0.35), SCORES)
    for name in ("identity_bits", "excess_bits_best", "beats_lookalike", "two_choice_accuracy"):
        assert found[name].per_identity == (whole[name].per_identity or ())[:2]
