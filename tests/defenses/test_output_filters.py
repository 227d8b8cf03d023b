"""Rounding, top-k and label-only: what an answer shows, and that the label stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mibench.cell.request import Request
from mibench.cell.resolve import check, resolve
from mibench.defenses._answers import LEAST
from mibench.defenses.label_only import LabelOf
from mibench.defenses.rounding import Rounded
from mibench.defenses.top_k import Largest, TopK
from mibench.errors import RequestError
from mibench.streams import stream
from mibench.training.defense import DEFENSES
from mibench.training.loop import TrainingConfig, train
from tests.defenses.test_contract import QUICK, private
from tests.kit.training import classifier, job


def logits_of(*scores: float) -> Tensor:
    return torch.tensor([scores]).log()


def answered(module: nn.Module, *scores: float) -> list[float]:
    found: list[float] = module(logits_of(*scores)).softmax(1)[0].tolist()
    return found


@pytest.mark.parametrize(
    ("step", "scores", "shown"),
    [
        (0.1, (0.62, 0.26, 0.12), (0.6, 0.3, 0.1)),
        (0.01, (0.621, 0.263, 0.116), (0.62, 0.26, 0.12)),
        (0.1, (0.76, 0.16, 0.08), (8 / 11, 2 / 11, 1 / 11)),  # they sum to 1.1
        (0.5, (0.7, 0.2, 0.1), (1, 0, 0)),
        (0.5, (0.3, 0.2, 0.2, 0.2, 0.1), (1, 0, 0, 0, 0)),
        (1, (0.3, 0.3, 0.4), (0, 0, 1)),  # all round to 0
    ],
)
def test_rounding(step: float, scores: tuple[float, ...], shown: tuple[float, ...]) -> None:
    assert answered(Rounded(step), *scores) == pytest.approx(shown, abs=1e-5)


@pytest.mark.parametrize(
    ("k", "scores", "shown"),
    [
        (1, (0.2, 0.5, 0.3), (0, 1, 0)),
        (2, (0.2, 0.5, 0.3), (0, 5 / 8, 3 / 8)),
        (3, (0.2, 0.5, 0.3), (0.2, 0.5, 0.3)),
    ],
)
def test_top_k(k: int, scores: tuple[float, ...], shown: tuple[float, ...]) -> None:
    assert answered(Largest(k), *scores) == pytest.approx(shown, abs=1e-6)


@pytest.mark.parametrize("k", [4, 5])
def test_a_top_k_that_would_hide_nothing_is_refused(k: int) -> None:
    given = job(private(), TrainingConfig(epochs=1, batch_size=16), classifier(), stream(0, "same"))
    with pytest.raises(RequestError, match=f"{k} scores shows all 4 of this target.*k=1 to 3"):
        train(given, TopK(TopK.Config(k=k)))
    TopK(TopK.Config(k=3)).check(given)


def test_what_top_k_hides_is_known_when_there_are_identities() -> None:
    """A request is looked at before its data are, on a target of two classes."""
    for k in (2, 10):
        check(
            resolve(
                Request(
                    protocol="synthfaces-32",
                    attack="lookup-label-only",
                    defense="top-k",
                    overrides={"defense.k": k},
                )
            )
        )


def test_label_only() -> None:
    assert answered(LabelOf(), 0.2, 0.5, 0.3) == pytest.approx((0, 1, 0), abs=1e-11)


FILTERS = [Rounded(step) for step in (0.001, 0.1, 0.5, 1)] + [Largest(k) for k in (1, 2, 5)]
FILTERS += [LabelOf()]


@pytest.mark.parametrize("scale", [0, 1e-4, 0.1, 1, 5, 100, 1e4])
@pytest.mark.parametrize("module", FILTERS)
def test_answers_are_finite_scores_of_the_same_label(module: nn.Module, scale: float) -> None:
    """Of answers sure and unsure, some of which are equal for several identities."""
    logits = scale * torch.randn(64, 7, generator=stream(0, "logits"))
    logits = torch.cat([logits, (logits * 2).round() / 2])
    found = module(logits)
    assert torch.isfinite(found).all()
    assert found.dtype == logits.dtype
    scores = found.softmax(1)
    torch.testing.assert_close(scores.sum(1), torch.ones(128))
    assert scores.min() >= LEAST / 2
    assert torch.equal(found.argmax(1), logits.argmax(1))
    assert torch.equal(scores.argmax(1), logits.argmax(1))


def test_a_tie_that_rounding_makes_leaves_the_label() -> None:
    found = Rounded(0.1)(logits_of(0.41, 0.44, 0.15))
    first, second, _ = found.softmax(1)[0].tolist()
    assert second > first == pytest.approx(second, rel=2e-5)


@pytest.mark.parametrize("module", [Rounded(0), Largest(0)])
def test_the_control_answers_as_the_network_does(module: nn.Module) -> None:
    logits = torch.randn(5, 4, generator=stream(0))
    assert torch.equal(module(logits), logits)


@pytest.mark.parametrize("name", ["rounding", "top-k", "label-only", "ssd", "purifier"])
def test_training_does_not_see_the_filter(name: str) -> None:
    """So a filter stands before the network that is trained without one."""
    weights = []
    for each in ("none", name):
        cls: Any = DEFENSES.get(each)
        defense = cls(cls.Config(**QUICK.get(each, {})))
        model = defense.build(classifier())
        config = TrainingConfig(epochs=1, batch_size=16)
        given = job(private(), config, model, stream(0, "same"), val=private(8))
        assert train(given, defense).diverged is None
        weights.append({k: v for k, v in model.state_dict().items() if "output" not in k})
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
