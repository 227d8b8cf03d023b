"""An attack sees of the target what its access says, and queries are counted.

What holds here is what an attack can come to by mistake: attributes, items and gradients. Python
has no walls, and who goes through closures or stack frames means to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import mibench
from mibench.inversion.attack import ATTACKS, Attack, AttackConfig, Problem, TransferConfig
from mibench.models.access import (
    ACCESS,
    BlackBoxTarget,
    RepeatConfig,
    RepeatedScores,
    TargetAccess,
    WhiteBoxTarget,
    access_to,
    asked_for,
)
from mibench.models.classifiers import Classifier
from mibench.streams import RowStreams, noise_like, stream
from mibench.types import Access
from tests.kit.problems import (
    CLASSES,
    SURROGATES,
    public_images,
    reconstruct,
    tiny_classifier,
    tiny_problem,
    tiny_surrogate,
)

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


@pytest.mark.parametrize("name", [n for n in ATTACKS.names() if ATTACKS.get(n).asks()])
def test_what_an_attack_holds_leads_to_no_weights(name: str) -> None:
    """Its problem before and its own state after it has run, with the answers that it keeps."""
    cls = ATTACKS.get(name)
    few: dict[str, Any] = {"queries": 40, "pool": 40, "images": 8}
    fields = {name: n for name, n in few.items() if name in cls.Config.model_fields}
    attack = cls(cls.Config.model_validate(fields))
    given: list[Problem] = []
    invert = attack.invert

    def seen(problem: Problem) -> Tensor:
        given.append(problem)
        return invert(problem)

    attack.__dict__["invert"] = seen
    reconstruct(attack, tiny_problem(cls))
    for problem in given:
        networks, places = models_and_weights(problem)
        assert networks == []
        assert not places & weights(tiny_classifier())
    assert not hasattr(given[0].target, "model")
    assert hasattr(given[0].target, "scores") == (cls.access == "black-box")
    kept = list(reachable(vars(attack)))
    assert not any(each is tiny_classifier() for each in kept)


def test_white_box_access_leads_to_them() -> None:
    """The search above finds what there is to find."""
    model, student = tiny_classifier(), tiny_classifier(seed=1)
    networks, places = models_and_weights(tiny_problem(of("white-box"), students=1))
    assert model in networks
    assert student in networks
    assert places >= weights(model) | weights(student)


def values(model: nn.Module) -> list[Tensor]:
    """What a model has learned: of a few numbers others may have the same."""
    return [each for each in model.state_dict().values() if each.numel() > 16]


@pytest.mark.parametrize("access", LOWER)
def test_surrogates_lead_to_themselves_and_to_no_weights_of_the_target(access: Access) -> None:
    attack = of(access)
    attack.Config = type("Config", (TransferConfig,), {})
    problem = tiny_problem(attack)
    surrogates = [tiny_surrogate(seed) for seed in SURROGATES]
    networks, places = models_and_weights(problem)
    own = {id(each) for surrogate in surrogates for each in surrogate.modules()}
    assert {id(each) for each in networks} == own
    for surrogate in surrogates:
        assert places >= weights(surrogate)
    assert not places & weights(tiny_classifier())
    problem.transfer_loss()(IMAGES, torch.tensor([0, 1, 2]), problem.streams("noise"))
    assert problem.target.queries == 0, "what surrogates show is nothing that the target is asked"
    with pytest.raises(TypeError, match="no white-box access"):
        problem.white_box()


@pytest.mark.parametrize("access", ACCESS)
def test_an_attack_without_surrogates_has_no_loss_of_theirs(access: Access) -> None:
    with pytest.raises(TypeError, match="has no surrogates"):
        tiny_problem(of(access)).transfer_loss()


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
    asks = everything - {"classes", "queries", "own_queries", "times"}
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
            return noise_like(torch.zeros(len(images), CLASSES))

    target = BlackBoxTarget(Noisy())
    draws = RowStreams([stream(0, row) for row in range(3)], torch.device("cpu"))
    expected = torch.stack([torch.randn(CLASSES, generator=stream(0, row)) for row in range(3)])
    torch.testing.assert_close(target.scores(IMAGES, draws), expected.softmax(1))


def test_what_is_asked_for_an_identity_is_its_own() -> None:
    target = WhiteBoxTarget(tiny_classifier())
    target.predict(IMAGES)
    with asked_for(torch.tensor([4, 1, 4])):
        target.predict(IMAGES)
        target.scores(IMAGES)
        with asked_for(torch.tensor([0])):
            target.outputs(IMAGES[:1])
        target.outputs(IMAGES)
    target.scores(IMAGES[:2])
    assert target.queries == 3 + 3 * 3 + 1 + 2
    assert target.own_queries.tolist() == [1, 3, 0, 0, 6]


def test_a_question_names_an_identity_for_each_image() -> None:
    target = BlackBoxTarget(tiny_classifier())
    with (
        asked_for(torch.tensor([1, 2])),
        pytest.raises(ValueError, match="3 images for 2 identities"),
    ):
        target.scores(IMAGES)


@pytest.mark.parametrize(
    ("name", "fields", "shared", "own"),
    [
        ("gmi", {"iterations": 3}, 0, 3 * 2),
        ("gmi+taa", {"iterations": 3}, 0, 3 * 2 * 2),
        ("gmi", {"iterations": 3, "selection": {"pool": 20}}, 2 * 20, 3 * 2),
        (
            "ppa",
            {"iterations": 3, "selection": {"pool": 20, "candidates": 4, "crops": 5}},
            2 * 20,
            3 * 4 + 5 * 4,
        ),
        ("pixel", {"iterations": 3}, 0, 2 * 3 * 2),
        ("deepinversion", {"iterations": 3, "batch": 5}, 0, 3 * 5),
        ("lookup", {}, 16, 0),
        ("lookup-label-only", {"copies": 2}, 3 * 16, 0),
    ],
)
def test_attacks_say_for_whom_they_ask(
    name: str, fields: dict[str, Any], shared: int, own: int
) -> None:
    cls = ATTACKS.get(name.removesuffix("+taa"))
    given = tiny_problem(cls, (3, 1), views="taa" if name.endswith("+taa") else "none")
    reconstruct(cls(cls.Config.model_validate(fields)), given)
    assert given.target.own_queries.tolist() == [0, own, 0, own, 0]
    assert given.target.queries == shared + 2 * own


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


@pytest.mark.usefixtures("tiny")
def test_what_a_transfer_attack_is_handed_leads_to_no_target(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither surrogates nor the prior, which both learned from its labels, hold any of it."""
    seen: list[Problem] = []
    targets: list[Classifier] = []
    call, access = Attack.__call__, TargetAccess.__init__

    def spy(self: Attack[Any], problem: Problem) -> Iterator[Tensor]:
        seen.append(problem)
        return call(self, problem)

    def told(self: TargetAccess, model: Classifier) -> None:
        targets.append(model)
        access(self, model)

    monkeypatch.setattr(Attack, "__call__", spy)
    monkeypatch.setattr(TargetAccess, "__init__", told)
    head = {"attack.surrogates.prior_head": True}
    mibench.run(
        protocol="tiny", attack="lokt", overrides=head, seed=1, store=tiny_store, out=tmp_path
    )
    (problem,), target = seen, targets[-1]
    found = list(reachable(problem))
    assert {id(each) for each in target.modules()}.isdisjoint(map(id, found))
    tensors = [each for each in found if isinstance(each, Tensor)]
    places = {each.untyped_storage().data_ptr() for each in tensors}
    assert not places & weights(target)
    for learned in values(target):  # nor a copy
        assert not any(each.shape == learned.shape and each.equal(learned) for each in tensors)
    surrogates = [each for each in found if isinstance(each, Classifier)]
    assert [each.architecture for each in surrogates].count("test_byobnet") == 1
    assert len(surrogates) == 2
    assert type(problem.target) is TargetAccess


# --- the same question several times -------------------------------------------------------------


class Answers(Classifier):
    """A target with noise in its answers, which remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__("test_resnet", CLASSES, 32)
        self.asked: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.asked.append(images)
        return torch.arange(CLASSES) + 2 * noise_like(images.new_zeros(len(images), CLASSES))


def draws(rows: range) -> RowStreams:
    return RowStreams([stream(0, row) for row in rows], torch.device("cpu"))


def repeated(access: Access, **config: Any) -> tuple[Answers, TargetAccess]:
    model = Answers()
    return model, access_to(model, access, RepeatConfig(**config), seed=0)


def test_who_asks_once_has_the_plain_access() -> None:
    for access, kind in ACCESS.items():
        assert type(access_to(tiny_classifier(), access)) is kind


def test_repeated_scores_are_a_mean_of_counted_questions() -> None:
    _, target = repeated("black-box", times=7, noise=0)
    assert isinstance(target, RepeatedScores)
    assert isinstance(target, BlackBoxTarget)
    noise = draws(range(3))
    each = [(torch.arange(CLASSES) + 2 * noise.normal(CLASSES)).softmax(1) for _ in range(7)]
    torch.testing.assert_close(target.scores(IMAGES, draws(range(3))), sum(each) / 7)
    assert target.queries == 21
    torch.testing.assert_close(target.scores(IMAGES[1:2], draws(range(1, 2))), (sum(each) / 7)[1:2])


@pytest.mark.parametrize("access", LOWER)
def test_repeated_labels_are_a_vote_of_counted_questions(access: Access) -> None:
    _, target = repeated(access, times=9, noise=0)
    assert isinstance(target, BlackBoxTarget) == (access == "black-box")
    many = IMAGES[:1].expand(64, -1, -1, -1)
    noise = draws(range(64))
    labels = torch.stack(
        [(torch.arange(CLASSES) + 2 * noise.normal(CLASSES)).argmax(1) for _ in range(9)]
    )
    found = target.predict(many, draws(range(64)))
    assert found.dtype == torch.int64
    assert target.queries == 9 * 64
    ties = 0
    for label, given in zip(found.tolist(), labels.T, strict=True):
        votes = torch.bincount(given, minlength=CLASSES)
        most = (votes == votes.max()).nonzero()[:, 0].tolist()
        ties += len(most) > 1
        assert label == (int(given[0]) if int(given[0]) in most else most[0])
    assert ties > 3
    assert (found == CLASSES - 1).double().mean() > (labels == CLASSES - 1).double().mean() + 0.1


@pytest.mark.parametrize("noise", [0, 0.01])
def test_copies_are_other_questions_where_noise_makes_them(noise: float) -> None:
    """The same noise for each image, so that no answer depends on what else is asked."""
    model, target = repeated("label-only", times=4, noise=noise)
    gray = torch.full((2, 3, 32, 32), 0.5)
    target.predict(gray)
    assert len(model.asked) == 4
    for copy in model.asked:
        assert torch.equal(copy[0], copy[1])
        assert float((copy - gray).std()) == pytest.approx(noise, rel=0.05)
    assert torch.equal(model.asked[0], model.asked[1]) == (noise == 0)
    target.predict(torch.cat([torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)]))
    asked = torch.stack(model.asked[4:])
    assert (asked.min(), asked.max()) == (0, 1), "copies are images in [0, 1], too"


@pytest.mark.parametrize("access", LOWER)
def test_a_repeated_access_leads_to_no_weights(access: Access) -> None:
    model = tiny_classifier()
    target = access_to(model, access, RepeatConfig(times=2))
    networks, places = models_and_weights(replace(tiny_problem(of(access)), target=target))
    assert networks == []
    assert not places & weights(model)


@pytest.mark.usefixtures("tiny")
def test_a_run_that_repeats_counts_all_its_questions(tiny_store: Path, tmp_path: Path) -> None:
    made = {}
    for name, overrides in (("lookup", {}), ("lookup+repeat", {"attack.repeats.times": 3})):
        made[name] = mibench.run(
            protocol="tiny",
            attack=name,
            overrides=overrides,
            store=tiny_store,
            out=tmp_path / name,
        )
    assert made["lookup+repeat"].attack.name == "lookup+repeat"
    queries = {
        name: next(c.queries for c in record.costs if c.stage == "reconstructions")
        for name, record in made.items()
    }
    assert queries["lookup+repeat"] == 3 * (queries["lookup"] or 0) > 0
