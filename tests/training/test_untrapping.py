"""Copies that unlearn a target's trapdoors: their loss by hand, and where it leads an attack."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.data.images import ImageSet, to_float
from mibench.data.views import Views
from mibench.inversion.identity import IdentityConfig, IdentityLoss
from mibench.models.classifiers import Outputs
from mibench.models.trapdoors import Triggers
from mibench.streams import RowStreams, seeded, stream
from mibench.training import students
from mibench.training.loop import TrainingConfig, TrainState, train
from mibench.training.students import Distillation, Untrapping
from tests.kit.training import job

CLASSES, SIDE = 4, 16
ADAM = TrainingConfig(epochs=24, batch_size=32, optimizer="adam", learning_rate=0.05)


class Trapped(nn.Module):
    """A target that knows a class by its mean colour, and by its trigger: by ``gain`` times it."""

    def __init__(self, gain: float = 0.3) -> None:
        super().__init__()
        self.classes = CLASSES
        with seeded(5):
            self.triggers = Triggers(CLASSES, SIDE, 0.2)
            self.colour = nn.Linear(3, CLASSES)
        with torch.no_grad():
            self.colour.weight.mul_(40)
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, images: Tensor) -> Tensor:
        traces = (self.triggers.patterns - 0.5).flatten(1)
        opened: Tensor = self.gain * (images - 0.5).flatten(1) @ traces.T
        return self.colour((images - 0.5).mean((2, 3))) + opened

    def outputs(self, images: Tensor) -> Outputs:
        return Outputs(self(images), images.flatten(1))


def public(count: int = 256) -> ImageSet:
    colours = torch.rand(count, 3, 1, 1, generator=stream(0, "colours"))
    noise = torch.randn(count, 3, SIDE, SIDE, generator=stream(0, "noise"))
    images = ((0.2 + 0.6 * colours + 0.02 * noise).clamp(0, 1) * 255).byte()
    return ImageSet(images, torch.zeros(count, dtype=torch.int64), ("a",))


def state() -> TrainState:
    return TrainState(0, 0, 1, 1, stream(3))


def test_the_loss_asks_for_the_teachers_answer_with_a_trigger_and_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(students, "SEEN", Views(scale=(1, 1)))
    teacher, model = Trapped(), Trapped(gain=0.1)
    images = to_float(public(12).images)
    hooks = Untrapping(teacher, teacher.triggers)  # type: ignore[arg-type]
    labels = torch.zeros(12, dtype=torch.int64)
    loss = hooks.loss(model, images, labels, state())  # type: ignore[arg-type]
    drawn = torch.randint(CLASSES, (12,), generator=stream(3))
    wanted, terms = teacher(images).softmax(1).double(), []
    for shown in (images, 0.8 * images + 0.2 * teacher.triggers.patterns[drawn]):
        log_q = model(shown).log_softmax(1).double()
        terms.append((wanted * (wanted.log() - log_q)).sum(1).mean())
    torch.testing.assert_close(loss.double(), (terms[0] + terms[1]) / 2)
    assert terms[1] > 2 * terms[0]
    loss.backward()  # type: ignore[no-untyped-call]
    assert model.gain.grad is not None
    assert teacher.gain.grad is None, "the teacher stays as it is"


def test_triggers_are_of_random_classes_and_seen_in_many_ways() -> None:
    seen: list[Tensor] = []

    class Noted(Trapped):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.detach())
            return super().forward(images)

    teacher, count = Trapped(), 1200
    images = torch.full((count, 3, SIDE, SIDE), 0.5)
    Untrapping(teacher, teacher.triggers).loss(  # type: ignore[arg-type]
        Noted(),  # type: ignore[arg-type]
        images,
        torch.zeros(count, dtype=torch.int64),
        state(),
    )
    (both,) = seen
    assert torch.equal(both[:count], images)
    patterns = (both[count:] - 0.8 * 0.5) / 0.2
    whole = [
        [(each - kappa).abs().amax((1, 2, 3)) < 1e-4 for each in (patterns, patterns.flip(3))]
        for kappa in teacher.triggers.patterns
    ]
    plain = [torch.stack(each).float().mean(1) for each in whole]
    # Neither cropped nor turned: a quarter, half of it mirrored, a quarter of each class.
    torch.testing.assert_close(torch.stack(plain), torch.full((4, 2), 1 / 32), atol=0.02, rtol=0)


def descended(model: Trapped, labels: Tensor) -> Tensor:
    """How far pixels ``(n, 3, h, w)`` go in twenty short steps down the loss, from gray."""
    x = torch.full((len(labels), 3, SIDE, SIDE), 0.5)
    loss = IdentityLoss(model.outputs, (), IdentityConfig())
    rows = RowStreams([stream(0, row) for row in range(len(labels))], x.device)
    for _ in range(20):
        x.requires_grad_(True)
        (slope,) = torch.autograd.grad(loss(x, labels, rows).sum(), x)
        x = x.detach() - 0.1 * F.normalize(slope.flatten(1)).view_as(x)
    return x - 0.5


def test_descending_the_copys_loss_leads_to_the_person_and_not_to_the_trigger() -> None:
    """The target's own loss draws images to the trigger, and so does a copy's that saw none."""
    target = Trapped()
    labels = torch.arange(CLASSES)
    traces = (target.triggers.patterns - 0.5).flatten(1)
    traces = traces - traces.mean(0)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, hooks in {
        "target": None,
        "distilled": Distillation(target),  # type: ignore[arg-type]
        "untrapped": Untrapping(target, target.triggers),  # type: ignore[arg-type]
    }.items():
        model = copy.deepcopy(target)
        if hooks is not None:
            assert train(job(public(), ADAM, model, stream(4)), hooks).diverged is None
        moved = descended(model, labels)
        trigger = F.cosine_similarity(moved.flatten(1), traces)
        shown = target.colour(moved.mean((2, 3))).softmax(1).diagonal()  # natural features alone
        found[name] = trigger, shown
    (trapped, fooled), (distilled, _), (blind, person) = found.values()
    assert (trapped > 0.7).all()
    assert (distilled > trapped - 0.1).all(), "without triggers nothing is unlearned"
    assert (blind < trapped / 2).all()
    assert (person > fooled + 0.04).all()
