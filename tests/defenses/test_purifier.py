"""Purifier: its loss by hand, the round trip of its autoencoder, and who is swapped."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from mibench.defenses.purifier import (
    Purified,
    Purifier,
    Reformer,
    distances,
    drawn_to_swap,
)
from mibench.streams import seeded, stream
from mibench.training.loop import TrainingConfig, train
from tests.defenses.test_contract import private
from tests.kit.training import classifier, job

CLASSES = 6


def answers(count: int = 300, scale: float = 2) -> Tensor:
    """Scores ``(count, CLASSES)``, sure and unsure ones."""
    generator = stream(0, "answers", scale)
    logits = torch.randn(count, CLASSES, generator=generator)
    return (scale * logits).softmax(1)


def fitted(kl_weight: float, scores: Tensor, steps: int = 150) -> Reformer:
    config = Purifier.Config(
        kl_weight=kl_weight,
        label_weight=0.01,
        steps=steps,
        hidden=64,
        latent=8,
        learning_rate=3e-3,
    )
    reformer = Reformer(CLASSES, 64, 8)
    Purifier(config).fit(reformer, scores, stream(0, "fit"))
    return reformer


def reformed(reformer: Reformer, scores: Tensor) -> Tensor:
    filtered = Purified(CLASSES, 64, 8, 5e-5)
    filtered.reformer = reformer
    with torch.no_grad():
        return filtered(scores.log()).softmax(1)


def test_the_loss_is_its_three_terms() -> None:
    with seeded(0):
        reformer = Reformer(CLASSES, 16, 3).double()
    scores, noise = answers(5).double(), torch.randn(5, 3, generator=stream(0)).double()
    labels = scores.argmax(1)
    mean, log_variance = reformer.code(scores, labels)
    deviation = torch.exp(log_variance) ** 0.5
    kl = kl_divergence(Normal(mean, deviation), Normal(torch.zeros(1), torch.ones(1))).sum(1)
    decoded = reformer.logits(mean + deviation * noise, labels).softmax(1)
    ce = -decoded[range(5), labels].log()
    apart = torch.linalg.vector_norm(decoded - scores, dim=1) ** 2
    torch.testing.assert_close(reformer.loss(scores, 0.7, 0.3, noise), apart + 0.7 * ce + 0.3 * kl)


def test_the_condition_is_the_label() -> None:
    with seeded(0):
        reformer = Reformer(CLASSES, 16, 3)
    scores = answers(4)
    one, two = (reformer.code(scores, torch.full((4,), label))[0] for label in (0, 1))
    assert not torch.allclose(one, two)
    code = torch.zeros(4, 3)
    assert not torch.allclose(
        reformer.logits(code, torch.zeros(4, dtype=torch.int64)),
        reformer.logits(code, torch.ones(4, dtype=torch.int64)),
    )


def test_a_fitted_reformer_gives_answers_back_and_keeps_their_labels() -> None:
    scores = answers()
    found = reformed(fitted(0.001, scores, steps=300), scores)
    typical = torch.stack([scores[scores.argmax(1) == k].mean(0) for k in range(CLASSES)])[
        scores.argmax(1)
    ]
    assert (found - scores).norm(dim=1).mean() < 0.5 * (typical - scores).norm(dim=1).mean()
    assert (found.argmax(1) == scores.argmax(1)).double().mean() > 0.97


def test_the_more_divergence_counts_the_more_typical_are_answers() -> None:
    """In the end an answer tells its label and no more."""
    scores = answers()
    spread = []
    for weight in (0.001, 1):
        found = reformed(fitted(weight, scores), scores)
        own = [found[scores.argmax(1) == k] for k in range(CLASSES)]
        spread.append(float(torch.stack([each.std(0).mean() for each in own]).mean()))
    assert spread[0] > 10 * spread[1]


def test_an_answer_is_the_same_in_any_batch_and_at_any_time() -> None:
    scores = answers(20)
    reformer = fitted(0.1, scores, steps=20)
    found = reformed(reformer, scores)
    assert torch.equal(found, reformed(reformer, scores))
    torch.testing.assert_close(found[3:4], reformed(reformer, scores[3:4]), rtol=1e-4, atol=1e-6)


# --- the label swapper ------------------------------------------------------------------------


def test_as_many_are_swapped_as_make_the_accuracies_equal() -> None:
    right = torch.ones(200, dtype=torch.bool)
    right[:20] = False  # 90 %
    chosen = drawn_to_swap(right, 0.75, stream(0))
    assert int(chosen.sum()) == 30
    assert not chosen[:20].any()
    assert (right & ~chosen).double().mean() == 0.75
    assert not drawn_to_swap(right, 0.95, stream(0)).any()
    assert not torch.equal(chosen, drawn_to_swap(right, 0.75, stream(1)))


def swapper(stored: Tensor, swapped: Tensor) -> Purified:
    with seeded(0):
        filtered = Purified(CLASSES, 16, 3, 5e-5).eval()
    filtered.store(stored, swapped)
    return filtered


def test_the_two_highest_scores_of_a_stored_answer_are_exchanged() -> None:
    scores = answers(40)
    marked = torch.arange(40) < 8
    filtered, plain = swapper(scores, marked), swapper(scores, torch.zeros(40, dtype=torch.bool))
    with torch.no_grad():
        before, after = (each(scores.log()).softmax(1) for each in (plain, filtered))
    assert torch.equal(before[8:], after[8:])
    first, second = before.topk(2, dim=1).indices.T
    for row in range(8):
        one, two = int(first[row]), int(second[row])
        assert after[row, two] == pytest.approx(float(before[row, one]), rel=1e-5)
        assert after[row, one] == pytest.approx(float(before[row, two]), rel=1e-5)
        others = [k for k in range(CLASSES) if k not in (one, two)]
        torch.testing.assert_close(after[row, others], before[row, others])
    assert torch.equal(after.argmax(1)[:8], second[:8])


def moved(scores: Tensor, distance: float) -> Tensor:
    """Scores at an L2 distance, which sum to 1 still."""
    step = torch.zeros_like(scores)
    step[:, 0], step[:, 1] = 1, -1
    return scores + distance / math.sqrt(2) * step


@pytest.mark.parametrize(("distance", "found"), [(0, True), (4e-5, True), (6e-5, False)])
def test_a_query_is_a_members_within_the_radius(distance: float, found: bool) -> None:
    """Also of so many answers that a matrix product would tell distances by."""
    scores = answers(100)
    filtered = swapper(scores, torch.ones(100, dtype=torch.bool))
    assert filtered.members(moved(scores, distance)).all() == found
    assert filtered.members(moved(scores, distance)).any() == found


def test_the_nearest_stored_answer_decides() -> None:
    """One that is swapped and one that is not, within the radius of the same question."""
    scores = answers(1)
    both = torch.cat([scores, moved(scores, 4e-5)])
    filtered = swapper(torch.cat([both, answers(50, 3)]), torch.arange(52) == 0)
    assert len(filtered.stored) == 2, "no other can be nearest to what is swapped"
    assert filtered.members(moved(scores, 1e-5)).tolist() == [True]
    assert filtered.members(moved(scores, 3e-5)).tolist() == [False]


def test_tiny_distances_are_exact() -> None:
    scores = answers(64).double()
    apart = distances(moved(scores, 1e-5), scores).diagonal()
    torch.testing.assert_close(apart, torch.full((64,), 1e-5).double(), rtol=1e-6, atol=0)


def trained(**settings: float) -> tuple[Purified, Tensor, Tensor]:
    """A filter after a training, and the network's logits of training and validation images."""
    defense = Purifier(Purifier.Config.model_validate({"steps": 20, **settings}))
    model, val = defense.build(classifier()), private(8)
    given = job(private(), TrainingConfig(epochs=2, batch_size=16), model, stream(0), val=val)
    assert train(given, defense).diverged is None
    filtered, model.output = model.output, torch.nn.Identity()
    assert isinstance(filtered, Purified)
    with torch.no_grad():
        logits = [model(each.images / 255) for each in (private(), val)]
    return filtered, logits[0], logits[1]


def test_what_is_stored_comes_back_with_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many answers there are to be swapped is known only after training."""
    everyone = torch.ones(32, dtype=torch.bool)
    monkeypatch.setattr(
        "mibench.defenses.purifier.drawn_to_swap", lambda right, accuracy, rng: everyone
    )
    filtered, logits, _ = trained()
    assert len(filtered.stored) == 32
    assert filtered.members(logits.softmax(1)).all()
    again = Purified(4, 256, 32, 5e-5)
    assert not again.members(logits.softmax(1)).any()
    again.load_state_dict(filtered.state_dict())
    assert torch.equal(filtered(logits), again(logits))


def test_training_images_are_right_as_often_as_validation_images() -> None:
    filtered, logits, val = trained()
    train_right = logits.argmax(1) == private().labels
    val_right = val.argmax(1) == private(8).labels
    wanted = max(0, int(train_right.sum()) - round(float(val_right.double().mean()) * 32))
    assert int(filtered.swapped.sum()) == wanted
