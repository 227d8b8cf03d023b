"""An attack sees of the target what its access says, and queries are counted.

What holds here is what an attack can come to by mistake: attributes, items and gradients. Python
has no walls, and who goes through closures or stack frames means to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import mibench
from mibench.inversion.attack import Attack, AttackConfig, Problem
from mibench.models.access import ACCESS, BlackBoxTarget, TargetAccess, WhiteBoxTarget
from mibench.models.classifiers import Classifier
from mibench.streams import RowStreams, stream
from mibench.types import Access
from tests.kit.problems import CLASSES, public_images, tiny_classifier, tiny_problem

LOWER: list[Access] = ["black-box", "label-only"]
IMAGES = public_images().images[:3].float() / 255


def of(access: Access) -> type[Attack[AttackConfig]]:
    """An attack of this access."""

    class Some(Attack[AttackConfig]):
        def invert(self, problem: Problem) -> Tensor:
            return torch.zeros(0)

    Some.access = access
    return Some


def reachable(root: object) -> Iterator[object]:
    """Whatever can be got at from an object through attributes and items, itself included."""
    pending, seen = [root], dict[int, object]()
    while pending:
        found = pending.pop()
        if id(found) in seen or isinstance(found, type | ModuleType | Tensor | str | bytes):
            if isinstance(found, Tensor):
                yield found
            continue
        seen[id(found)] = found  # kept, so that its id stays its own
        yield found
        if isinstance(found, Mapping):
            pending += [*found.keys(), *found.values()]
        elif isinstance(found, list | tuple | set | frozenset):
            pending += found
        pending += getattr(found, "__dict__", {}).values()
        names = [n for c in type(found).__mro__ for n in getattr(c, "__slots__", ())]
        pending += [getattr(found, name, None) for name in names if isinstance(name, str)]
        if hasattr(found, "__self__"):  # of a bound method
            pending.append(found.__self__)


def weights(model: nn.Module) -> set[int]:
    return {each.untyped_storage().data_ptr() for each in model.state_dict().values()}


def models_and_weights(problem: Problem) -> tuple[list[object], set[int]]:
    """Networks other than the prior's that a problem leads to, and where its tensors lie."""
    own = {id(each) for each in reachable(problem.prior)}
    found = [each for each in reachable(problem) if id(each) not in own]
    networks = [each for each in found if isinstance(each, nn.Module)]
    tensors = [each for each in found if isinstance(each, Tensor)]
    return networks, {each.untyped_storage().data_ptr() for each in tensors}


@pytest.mark.parametrize("access", LOWER)
def test_a_lower_access_leads_to_no_weights(access: Access) -> None:
    networks, places = models_and_weights(tiny_problem(of(access)))
    assert networks == []
    assert not places & weights(tiny_classifier())


def test_white_box_access_leads_to_them() -> None:
    """The search above finds what there is to find."""
    model, student = tiny_classifier(), tiny_classifier(seed=1)
    networks, places = models_and_weights(tiny_problem(of("white-box"), students=1))
    assert model in networks
    assert student in networks
    assert places >= weights(model) | weights(student)


@pytest.mark.parametrize("access", LOWER)
def test_a_lower_access_gives_no_white_box(access: Access) -> None:
    problem = tiny_problem(of(access))
    assert problem.identity_loss is None
    with pytest.raises(TypeError, match="no white-box access"):
        problem.white_box()


@pytest.mark.parametrize(
    ("access", "may"),
    [
        ("label-only", {"predict"}),
        ("black-box", {"predict", "scores"}),
        ("white-box", {"predict", "scores", "outputs", "model"}),
    ],
)
def test_each_level_can_do_so_much_and_no_more(access: Access, may: set[str]) -> None:
    target = ACCESS[access](tiny_classifier())
    everything = {each for each in dir(target) if not each.startswith("__")}
    asks = everything - {"classes", "queries"}
    assert {each.removeprefix("_") for each in asks} == may


def test_labels_say_nothing_but_labels() -> None:
    target = TargetAccess(tiny_classifier())
    labels = target.predict(IMAGES.clone().requires_grad_(True))
    assert labels.dtype == torch.int64
    assert labels.tolist() == tiny_classifier()(IMAGES).argmax(1).tolist()
    assert target.queries == 3


def test_scores_are_softmax_and_lead_to_no_logits() -> None:
    target = BlackBoxTarget(tiny_classifier())
    scores = target.scores(IMAGES)
    assert scores.shape == (3, CLASSES)
    torch.testing.assert_close(scores.sum(1), torch.ones(3))
    torch.testing.assert_close(scores, tiny_classifier()(IMAGES).softmax(1))
    assert scores._base is None


def test_scores_have_no_gradients() -> None:
    target = BlackBoxTarget(tiny_classifier())
    with torch.enable_grad():
        scores = target.scores(IMAGES.clone().requires_grad_(True))
    assert scores.grad_fn is None
    assert not scores.requires_grad
    with forward_ad.dual_level():  # which torch.no_grad() does not keep out
        dual = forward_ad.make_dual(IMAGES, torch.ones_like(IMAGES))
        assert forward_ad.unpack_dual(target.scores(dual)).tangent is None
    _, change = torch.func.jvp(target.scores, (IMAGES,), (torch.ones_like(IMAGES),))
    assert change.abs().max() == 0
    gradient = torch.func.grad(lambda images: target.scores(images).square().sum())(IMAGES)
    assert gradient.abs().max() == 0


def test_white_box_outputs_have_gradients() -> None:
    target, images = WhiteBoxTarget(tiny_classifier()), IMAGES.clone().requires_grad_(True)
    outputs = target.outputs(images)
    (outputs.logits.sum() + outputs.features.sum()).backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    assert target.queries == 3


def test_a_noisy_target_draws_a_rows_noise_from_its_stream() -> None:
    class Noisy(Classifier):
        def __init__(self) -> None:
            super().__init__("test_resnet", CLASSES, 32)

        def forward(self, images: Tensor) -> Tensor:
            from mibench.streams import noise_like

            return noise_like(torch.zeros(len(images), CLASSES))

    target = BlackBoxTarget(Noisy())
    draws = RowStreams([stream(0, row) for row in range(3)], torch.device("cpu"))
    expected = torch.stack([torch.randn(CLASSES, generator=stream(0, row)) for row in range(3)])
    torch.testing.assert_close(target.scores(IMAGES, draws), expected.softmax(1))


SPY = """
import torch

from mibench.inversion.attack import Attack
from mibench.types import AttackCard


class Spy(Attack):
    access = "{access}"
    optimises_identity = False
    card = AttackCard(
        title="Spy",
        authors="Nobody",
        year=2026,
        venue="test",
        url="https://example.org",
    )

    def invert(self, problem):
        problem.target.predict(torch.rand(2, 3, 32, 32))
        return torch.rand(len(problem.labels), problem.samples, 3, 32, 32)
"""


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("access", LOWER)
def test_what_a_run_hands_to_an_attack_leads_to_no_target(
    access: Access, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spy.py").write_text(SPY.format(access=access))
    seen: list[Problem] = []
    call = Attack.__call__

    def spy(self: Attack[Any], problem: Problem) -> Iterator[Tensor]:
        seen.append(problem)
        return call(self, problem)

    monkeypatch.setattr(Attack, "__call__", spy)
    record = mibench.run(
        protocol="tiny",
        attack=f"{tmp_path / 'spy.py'}:Spy",
        store=tiny_store,
        out=tmp_path / "out",
    )
    assert record.access == access
    (problem,) = seen
    assert models_and_weights(problem)[0] == []
    assert problem.identity_loss is None
    assert problem.target.queries == 2
