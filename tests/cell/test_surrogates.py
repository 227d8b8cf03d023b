"""The stages of a transfer attack: what is asked, what is learned, and what is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mibench
from mibench.cell.graph import Graph
from mibench.cell.request import Request
from mibench.cell.resolve import check, resolve
from mibench.errors import RequestError
from mibench.inversion.attack import Problem
from mibench.models.classifiers import Classifier
from mibench.protocols import Protocol
from tests.kit.cells import bench, graph

pytestmark = pytest.mark.usefixtures("tiny")
LOKT = {"protocol": "tiny", "attack": "lokt"}


def stages(**request: Any) -> Graph:
    return graph(**{**LOKT, **request})


def test_a_record_counts_what_each_stage_asked(tiny_store: Path, tmp_path: Path) -> None:
    """By hand, of the tiny protocol's five identities."""
    record = mibench.run(**LOKT, store=tiny_store, out=tmp_path)  # type: ignore[arg-type]
    assert record.status == "complete"
    assert record.access == "label-only"
    assert {cost.stage: cost.queries for cost in record.costs if cost.queries is not None} == {
        "prior": 2 * 3 * 8,  # steps after the warm-up, of the discriminator, images in each
        "labelled-images": 5 * 7,
        "reconstructions": 0,
    }
    iterations = {cost.stage: cost.iterations for cost in record.costs}
    # An epoch over 35 images in batches of 16.
    assert iterations["surrogate test_byobnet"] == iterations["surrogate test_convnext"] == 3
    assert record.prior.kind == "t-acgan"
    again = mibench.run(**LOKT, store=tiny_store, out=tmp_path)  # type: ignore[arg-type]
    assert all(cost.cached for cost in again.costs)
    assert [cost.queries for cost in again.costs] == [cost.queries for cost in record.costs]


def test_images_are_labelled_by_the_target_in_eight_bits(tiny_store: Path) -> None:
    made, place = stages(), bench(tiny_store)
    labelled = place.get(made.surrogates[0].labelled)
    assert labelled.images.dtype == torch.uint8
    assert len(labelled) == 5 * 7
    assert len(labelled.images.flatten(1).unique(dim=0)) > 5, "not one of each class, many times"
    answers = place.get(made.target).frozen(labelled.images / 255).argmax(1)
    assert torch.equal(labelled.labels, answers)
    again = bench(tiny_store).get(stages().surrogates[1].labelled)
    assert torch.equal(again.images, labelled.images)


def test_keys_hold_what_surrogates_learn_from() -> None:
    first = stages()
    keys = [each.key for each in (*first.surrogates, first.reconstructions)]
    assert len(set(keys)) == 3
    for override in (
        {"attack.surrogates.images_per_class": 8},
        {"attack.surrogates.training.epochs": 2},
        {"prior.identity_weight": 1.0},
    ):
        other = stages(overrides=override)
        assert {each.key for each in other.surrogates}.isdisjoint(keys), override
    head = stages(overrides={"attack.surrogates.prior_head": True})
    assert [each.key for each in head.surrogates] == keys[:2], "it takes no part in their training"
    assert head.reconstructions.key != keys[2]
    assert stages(seed=1).surrogates[0].key != keys[0]
    assert graph(protocol="tiny", attack="gmi").surrogates == []


def loss_of(
    monkeypatch: pytest.MonkeyPatch, store: Path, out: Path, **request: Any
) -> tuple[Problem, Any]:
    """The problem of a run, and its identity loss."""
    from mibench.attacks.lokt import Lokt

    seen: list[Problem] = []
    invert = Lokt.invert

    def spy(self: Lokt, problem: Problem) -> torch.Tensor:
        seen.append(problem)
        return invert(self, problem)

    monkeypatch.setattr(Lokt, "invert", spy)
    mibench.run(**{**LOKT, **request}, store=store, out=out)
    return seen[0], seen[0].transfer_loss()


def test_an_attack_gets_the_surrogates_and_the_priors_head(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    override = {"attack.surrogates.prior_head": True}
    problem, loss = loss_of(monkeypatch, tiny_store, tmp_path, overrides=override)
    images = torch.rand(3, 3, 32, 32)
    labels = torch.tensor([0, 1, 2])
    place, made = bench(tiny_store), stages()
    models = [place.get(each) for each in made.surrogates]
    logits = [model(images) for model in models] + [problem.prior.logits(images)]
    margins = []
    for each in logits:
        own = each[torch.arange(3), labels]
        others = each.masked_fill(torch.eye(5)[labels].bool(), -torch.inf)
        margins.append(others.amax(1) - own)
    found = loss(images, labels, problem.streams("test"))
    torch.testing.assert_close(found, sum(margins) / 3, rtol=1e-4, atol=1e-5)
    assert all(isinstance(each, Classifier) for each in models)


def test_a_prior_without_identities_does_and_has_no_head(tiny_store: Path, tmp_path: Path) -> None:
    """Surrogates then learn labels of images that nobody asked an identity of."""
    record = mibench.run(**LOKT, prior="gan", store=tiny_store, out=tmp_path)  # type: ignore[arg-type]
    assert record.status == "complete"
    assert record.prior.kind == "gan"
    with pytest.raises(RequestError, match=r"prior_head=true: the prior 'gan' tells no identities"):
        stages(prior="gan", overrides={"attack.surrogates.prior_head": True})


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"prior": "inversion-gan"}, "label-only attack 'lokt' has not"),
        ({"attack": "lokt+ma"}, "no identity loss of the target itself, so it has no variants"),
        ({"attack": "lokt+taa"}, "so it has no variants"),
        ({"overrides": {"attack.identity.objective": "logit"}}, "choose it by the attack's name"),
        ({"overrides": {"attack.surrogates.architectures": []}}, "at least 1 item"),
        ({"overrides": {"attack.surrogates.architectures": ["no_net"]}}, "no timm architecture"),
        ({"overrides": {"attack.surrogates.start": "imagenet"}}, "the ImageNet weights of"),
        ({"overrides": {"attack.surrogates.images_per_class": 0}}, "greater than or equal to 1"),
        ({"overrides": {"prior.steps": 0}}, "greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_refused_before_work(request_: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check(resolve(Request(**{**LOKT, **request_})))


def test_published_surrogates_start_from_imagenets_weights() -> None:
    """Which are not on this machine: the message says how to get all of them."""
    overrides: dict[str, Any] = {"protocol.initialisation": {}}
    request = Request(protocol="celeba-64", attack="lokt", overrides=overrides)
    cell = resolve(request)
    assert cell.attack_config.surrogates.start == "imagenet"  # type: ignore[attr-defined]
    with pytest.raises(RequestError) as found:
        check(cell)
    for network in ("densenet121", "densenet161", "densenet169"):
        assert f"hf download timm/{network}.tv_in1k" in str(found.value)


def test_a_share_of_the_budget_is_one_of_each_stage(tiny: Protocol) -> None:
    whole, part = (
        resolve(Request(protocol="celeba-64", attack="lokt", budget=budget))
        for budget in (1.0, 0.01)
    )
    assert (whole.prior_config.steps, part.prior_config.steps) == (19_000, 190)  # type: ignore[attr-defined]
    surrogates = part.attack_config.surrogates  # type: ignore[attr-defined]
    assert surrogates.images_per_class == 5
    assert surrogates.training.epochs == pytest.approx(0.12)
    assert part.attack_config.iterations == 6  # type: ignore[attr-defined]
