"""Initial and final selection on a target whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mibench.attacks.gmi import Gmi
from mibench.attacks.kedmi import Kedmi
from mibench.attacks.ppa import Ppa
from mibench.attacks.vmi import Vmi
from mibench.data.views import Views
from mibench.inversion import selection
from mibench.inversion.attack import Attack, Problem
from mibench.inversion.selection import CROPS, Pool, SelectionConfig, scored_pool, surest
from mibench.models.access import TargetAccess
from mibench.progress import SILENT
from mibench.settings import scaled
from tests.kit.problems import CPU, OfIdentities, reconstruct, tiny_classifier, tiny_problem


def scores(images: Tensor) -> Tensor:
    with torch.no_grad():
        return tiny_classifier()(images).softmax(1)


def test_the_best_of_a_pool_are_an_identitys_own() -> None:
    latents = torch.arange(6.0)[:, None]
    table = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [0.7, 0.3], [0.2, 0.8], [0.3, 0.7]])
    found = Pool(latents, table).best(torch.tensor([1, 0]), 2)
    assert found.squeeze(2).tolist() == [[0, 4], [1, 3]]


def pool_of(size: int, mirror: bool = True, seed: int = 0) -> tuple[Pool, Problem]:
    given = tiny_problem(Gmi)
    pool = scored_pool(
        given.black_box(),
        given.prior,
        given.labels,
        size,
        seed=seed,
        mirror=mirror,
        device=CPU,
        progress=SILENT,
    )
    return pool, given


def test_a_pool_is_scored_on_image_and_mirror_image_and_counted() -> None:
    pool, given = pool_of(600)  # more than one question holds
    with torch.no_grad():
        x = given.prior.images(pool.latents)
    wanted = (scores(x) + scores(x.flip(3))) / 2
    torch.testing.assert_close(pool.scores, wanted, atol=1e-5, rtol=1e-4)
    assert given.target.queries == 2 * 600
    assert given.target.own_queries.tolist() == [0] * 5
    assert pool.own == 0
    plain, other = pool_of(600, mirror=False)
    torch.testing.assert_close(plain.scores, scores(x), atol=1e-5, rtol=1e-4)
    assert other.target.queries == 600
    assert torch.equal(plain.latents, pool.latents)
    assert torch.equal(pool_of(8)[0].latents, pool.latents[:8])
    assert not torch.equal(pool_of(8, seed=1)[0].latents, pool.latents[:8])


def test_a_pool_of_a_prior_of_identities_is_scored_for_each_attacked_one() -> None:
    def pool_for(*labels: int) -> tuple[Pool, OfIdentities, TargetAccess]:
        given, prior = tiny_problem(Gmi), OfIdentities()
        how: dict[str, Any] = {"seed": 0, "mirror": True, "device": CPU, "progress": SILENT}
        pool = scored_pool(given.black_box(), prior, torch.tensor(labels), 40, **how)
        return pool, prior, given.target

    pool, prior, target = pool_for(1, 3)
    assert prior.asked == {1, 3}
    assert target.queries == 2 * 40 * 2
    assert target.own_queries.tolist() == [0, 40 * 2, 0, 40 * 2, 0]
    assert pool.own == 40 * 2
    for label in (1, 3):
        with torch.no_grad():
            x = prior.images(pool.latents, torch.full((40,), label))
        wanted = (scores(x) + scores(x.flip(3)))[:, label] / 2
        torch.testing.assert_close(pool.scores[:, label], wanted, atol=1e-5, rtol=1e-4)
        order = wanted.argsort(descending=True)[:3]
        assert torch.equal(pool.best(torch.tensor([label]), 3)[0], pool.latents[order])
    alone = pool_for(3)[0]
    torch.testing.assert_close(alone.scores[:, 3], pool.scores[:, 3])
    assert torch.equal(alone.latents, pool.latents)
    assert torch.equal(pool.latents, pool_of(40)[0].latents), "those of a prior without identities"


@pytest.mark.parametrize("attack", [Gmi, Kedmi, Ppa, Vmi])
def test_attacks_tell_the_prior_whose_images_they_want(attack: type[Attack[Any]]) -> None:
    """Their prior may make images of identities; those that ask for realism get none here."""

    class Realistic(OfIdentities):
        def realism(self, images: Tensor) -> Tensor:
            return images.sum((1, 2, 3))

    fields: dict[str, Any] = {"iterations": 1, "learning_rate": 1e-8}
    fields["selection"] = {"pool": None, "candidates": None}
    if attack is Vmi:
        fields |= {"family": "gaussian", "samples_per_step": 2}
    found = []
    for labels in ((4, 2), (2, 4)):
        prior = Realistic()
        given = replace(tiny_problem(attack, labels), prior=prior)
        found.append(reconstruct(attack(attack.Config(**fields)), given))
        assert prior.asked == {2, 4}
    torch.testing.assert_close(found[0], found[1].flip(0), atol=1e-5, rtol=1e-4)


def test_the_surest_over_crops_are_kept() -> None:
    given = tiny_problem(Gmi, labels=(2, 4), samples=7)
    images = torch.rand(2, 7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    how: dict[str, Any] = {"crops": 4, "mirror": True, "streams": given.streams}
    kept = surest(given.black_box(), images, given.labels, 3, **how)
    rows, y = given.streams("final selection", 7), given.labels.repeat_interleave(7)
    sure = sum(scores(CROPS(images.flatten(0, 1), rows)).gather(1, y[:, None]) for _ in range(4))
    assert isinstance(sure, Tensor)
    best = sure.view(2, 7).argsort(1, descending=True)[:, :3]
    for own, order, found in zip(images, best, kept, strict=True):
        assert torch.equal(found, own[order])
    alone = surest(
        given.black_box(),
        images[1:],
        given.labels[1:],
        3,
        **{**how, "streams": given.of(given.labels[1:]).streams},
    )
    assert torch.equal(alone, kept[1:]), "whoever else is there"


@pytest.mark.parametrize("attack", [Gmi, Kedmi, Ppa, Vmi])
def test_an_attack_that_begins_with_the_pool_begins_surer(attack: type[Attack[Any]]) -> None:
    fields: dict[str, Any] = {"iterations": 1, "learning_rate": 1e-8}
    if attack is Vmi:
        fields |= {"family": "gaussian"}
    if attack is Kedmi:
        fields |= {"initial_log_variance": -9}
    confidence = {}
    for pool in (None, 200):
        config = attack.Config(**fields, selection={"pool": pool, "candidates": None})
        images = reconstruct(attack(config), tiny_problem(attack, labels=range(5)))
        own = scores(images.flatten(0, 1)).view(5, 2, 5).mean(1).diagonal()
        confidence[pool] = own
    # A Gaussian's spread stays, around the best latent.
    gain = 0.02 if attack is Vmi else 0.2
    assert confidence[200].mean() > confidence[None].mean() + gain, confidence


def test_more_candidates_make_the_kept_surer(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the tiny prior's noise a smaller crop is other noise to the tiny target.
    monkeypatch.setattr(selection, "CROPS", Views(scale=(0.98, 1)))
    fields: dict[str, Any] = {"iterations": 2}
    few = reconstruct(Gmi(Gmi.Config(**fields)), tiny_problem(Gmi))
    kept = {"candidates": 12, "crops": 4}
    many = reconstruct(Gmi(Gmi.Config(**fields, selection=kept)), tiny_problem(Gmi))
    assert few.shape == many.shape == (3, 2, 3, 32, 32)
    own = [scores(x.flatten(0, 1)).view(3, 2, 5).mean(1)[:, :3].diagonal() for x in (few, many)]
    assert own[1].mean() > own[0].mean() + 0.1


def test_a_flow_has_no_mean_to_start_from() -> None:
    with pytest.raises(ValueError, match="a flow has no mean"):
        Vmi.Config(family="flow", selection=SelectionConfig(pool=8))


def test_a_share_of_the_budget_shrinks_the_pool_and_keeps_what_is_wanted() -> None:
    config = scaled(SelectionConfig(pool=5000, candidates=20), 0.1)
    assert (config.pool, config.candidates) == (500, 2)
    assert config.made(5) == 5
    assert scaled(SelectionConfig(), 0.1) == SelectionConfig()
