"""Every registered defense on every family of networks: it trains, answers and is rebuilt."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mibench.data.images import to_float
from mibench.errors import RequestError
from mibench.models.classifiers import Classifier
from mibench.streams import RowStreams, noise_from, seeded, stream
from mibench.training.defense import DEFENSES
from mibench.training.loop import Job, TrainingConfig, train
from tests.defenses.test_contract import QUICK, private
from tests.kit.training import job

# Each by its smallest member, at 32 pixels: residual, mobile, plain and gated convolutions;
# transformers, and both in one; batch, layer, group and no normalisation.
FAMILIES = (
    "test_resnet",
    "test_efficientnet",
    "test_efficientnet_gn",
    "test_byobnet",
    "test_convnext",
    "test_vit",
    "test_nfnet",
    "test_mambaout",
    "test_maxvit",
    "test_coatnet",
    "regnetx_002",
    "mobilenetv3_small_050",
    "edgenext_xx_small",
    "ghostnet_050",
)
# A filter of answers sees no more of a network than logits: one family stands for all.
DEFENSES_ON_FAMILIES = [
    (name, family)
    for name in DEFENSES.names()
    for family in (FAMILIES[:1] if DEFENSES.get(name).filters() else FAMILIES)
]
# What a defense cannot work with, and how it says so before it trains: here alone it may refuse.
REFUSED: dict[tuple[str, str], str] = {  # whose blocks have no skips at these sizes
    ("rolss", "test_efficientnet"): "has none that it knows",
    ("rolss", "test_efficientnet_gn"): "has none that it knows",
}


def built(name: str, family: str) -> tuple[Any, Classifier]:
    """A defense with its defaults, and its target before training."""
    cls = DEFENSES.get(name)
    defense = cls(cls.Config(**QUICK.get(name, {})))
    with seeded(0):
        return defense, defense.built(Classifier(family, 4, 32))


def trained(name: str, family: str) -> Job:
    """A training of two steps, or as many as the defense's batches make."""
    defense, model = built(name, family)
    config = TrainingConfig(**{**defense.training, "epochs": 1, "batch_size": 8})
    given = job(private(16), config, model, stream(0, family), val=private(8), public=private(16))
    result = train(given, defense)
    assert result.diverged is None
    assert 1 <= result.steps <= 4
    return given


@pytest.mark.parametrize(("name", "family"), DEFENSES_ON_FAMILIES)
def test_a_defense_on_a_family(name: str, family: str) -> None:
    if (name, family) in REFUSED:
        with pytest.raises(RequestError, match=REFUSED[name, family]):
            trained(name, family)
        return
    given = trained(name, family)
    _, fresh = built(name, family)
    fresh.load_state_dict(given.model.state_dict())
    images = to_float(private(4).images).requires_grad_(True)
    answers = []
    for model in (given.model, fresh.eval()):
        with noise_from(RowStreams([stream(0, i) for i in range(4)], torch.device("cpu"))):
            answers.append(model(images))
    assert answers[0].shape == (4, 4)
    assert torch.isfinite(answers[0]).all()
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-3, atol=1e-4)
    if not DEFENSES.get(name).filters():
        (gradient,) = torch.autograd.grad(answers[0].square().sum(), images)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().amax((1, 2, 3)).min() > 0
    with seeded(0):
        untrained = Classifier(family, 4, 32).state_dict()
    learned = given.model.state_dict()
    same = [torch.equal(learned[key], untrained[key]) for key in learned.keys() & untrained.keys()]
    assert not all(same), "nothing was trained"


def test_the_families_are_many() -> None:
    """Of every defense, by timm's own files: a second member of a family is none."""
    modules = {name: type(Classifier(name, 4, 32).backbone).__module__ for name in FAMILIES}
    for name in DEFENSES.names():
        if not DEFENSES.get(name).filters():
            assert len({modules[each] for each in FAMILIES if (name, each) not in REFUSED}) >= 10
    assert {name for name, _ in REFUSED} <= set(DEFENSES.names())
    assert {family for _, family in REFUSED} <= set(FAMILIES)
