"""SSD: its projection against a solver, its budget, its draws and what it fits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from mibench.defenses.ssd import GRID, Shield, StealthyShield, entropy, nearest
from mibench.errors import RequestError
from mibench.models.access import BlackBoxTarget, RepeatConfig, access_to
from mibench.models.classifiers import Classifier, predict
from mibench.streams import RowStreams, noise_from, stream
from mibench.training.loop import TrainingConfig, train
from tests.defenses.test_contract import private
from tests.kit.training import classifier, job

CPU = torch.device("cpu")


def drawn(rows: int, classes: int, scale: float, name: str) -> Tensor:
    """Distributions ``(rows, classes)``, the surer the larger the scale."""
    logits = torch.randn(rows, classes, generator=stream(0, name, scale))
    return (scale * logits).double().softmax(1)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p‖q)."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


def solved(f: Tensor, q: Tensor, budget: float) -> float:
    """The least KL(p‖q) in reach, by a general solver over u, v ≥ 0, where p = f + u − v."""
    f_, q_, k = f.numpy(), q.numpy(), len(f)

    def p_of(uv: np.ndarray) -> np.ndarray:
        return np.maximum(f_ + uv[:k] - uv[k:], 1e-300)

    def slope(uv: np.ndarray) -> np.ndarray:
        inside = np.log(p_of(uv) / q_) + 1
        return np.concatenate([inside, -inside])

    found = minimize(
        lambda uv: float((p_of(uv) * np.log(p_of(uv) / q_)).sum()),
        np.zeros(2 * k),
        jac=slope,
        bounds=[(0, 1)] * k + [(0, float(each)) for each in f_],
        constraints=[
            {"type": "eq", "fun": lambda uv: uv[:k].sum() - uv[k:].sum()},
            {"type": "ineq", "fun": lambda uv: budget - uv.sum()},
        ],
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    return float(found.fun)


@pytest.mark.parametrize("scale", [0.3, 1, 3])
@pytest.mark.parametrize("budget", [0.05, 0.3, 0.9])
def test_the_projection_is_what_a_solver_finds(scale: float, budget: float) -> None:
    f, q = drawn(4, 6, scale, "f"), drawn(4, 6, 2, "q")
    p = nearest(f, q, torch.full((4,), budget).double())
    for row in range(4):
        assert float(divergence(p[row], q[row])) == pytest.approx(
            solved(f[row], q[row], budget), abs=2e-6
        )


@pytest.mark.parametrize("classes", [2, 3, 100])
@pytest.mark.parametrize("scale", [0, 0.1, 1, 5, 30])
def test_the_projection_is_in_reach_and_spends_all(classes: int, scale: float) -> None:
    """‖p − f‖₁ is the budget where q is further, and half of it is moved up and half down."""
    f, q = drawn(32, classes, scale, "f"), drawn(32, classes, 1, "q")
    budget = torch.linspace(0, 1.5, 32).double()
    p = nearest(f, q, budget)
    assert p.min() >= 0
    torch.testing.assert_close(p.sum(1), torch.ones(32).double())
    near = (f - q).abs().sum(1) <= budget
    assert torch.equal(p[near], q[near])
    up, down = (p - f).clamp_min(0).sum(1), (f - p).clamp_min(0).sum(1)
    torch.testing.assert_close(up[~near], budget[~near] / 2)
    torch.testing.assert_close(down[~near], budget[~near] / 2)
    assert near.any() or scale >= 5
    assert not near.all()


def test_the_projection_by_hand() -> None:
    """f = (.8, .1, .1), q uniform, budget .2: .1 goes from the first, .05 to each of the others."""
    f, q = torch.tensor([[0.8, 0.1, 0.1]], dtype=torch.float64), torch.full((1, 3), 1 / 3).double()
    p = nearest(f, q, torch.tensor([0.2], dtype=torch.float64))
    torch.testing.assert_close(p, torch.tensor([[0.7, 0.15, 0.15]], dtype=torch.float64))


def test_awkward_rows() -> None:
    """Equal ratios, f = q, scores of 0, one-hot answers, and a budget of nothing."""
    one_hot = torch.eye(4).double()[:1]
    even = torch.full((1, 4), 0.25).double()
    half = torch.tensor([[0.5, 0.5, 0, 0]]).double()
    tiny = torch.tensor([[1 - 3e-12, 1e-12, 1e-12, 1e-12]]).double()
    for f in (one_hot, even, half, tiny):
        for q in (even, tiny, drawn(1, 4, 1, "q")):
            for size in (0.0, 1e-9, 0.4, 5.0):
                p = nearest(f, q, torch.tensor([size], dtype=torch.float64))
                assert torch.isfinite(p).all()
                assert float(p.sum()) == pytest.approx(1)
                assert float((p - f).abs().sum()) <= size + 1e-12
    assert torch.equal(nearest(half, even, torch.zeros(1).double()), half)


def test_entropy_is_in_nats() -> None:
    assert float(entropy(torch.full((1, 8), 1 / 8))) == pytest.approx(math.log(8))
    assert float(entropy(torch.tensor([[1.0, 0.0]]))) == 0


def shield(hashed: bool = True, epsilon: float = 0.5, classes: int = 5) -> Shield:
    made = Shield(classes, epsilon, 0.1, hashed)
    made.typical.copy_((0.8 * torch.eye(classes) + 0.2 / classes).float())
    return made


def test_an_answer_is_the_projection_of_its_scores_to_the_drawn_class() -> None:
    logits = torch.randn(64, 5, generator=stream(0, "logits"))
    made = shield()
    f = logits.double().softmax(1)
    p = made(logits).double().softmax(1)
    projected = [nearest(f, made.typical[[y] * 64].double(), 0.5 * entropy(f)) for y in range(5)]
    apart = torch.stack([(p - each).abs().sum(1) for each in projected])
    assert apart.min(0).values.max() < 1e-6
    chosen = apart.argmin(0)
    assert 0.5 < (chosen == f.argmax(1)).double().mean() < 1, "mostly the likeliest, not always"


def test_the_draw_is_by_a_softmax_of_scores() -> None:
    """T = .1 and f = (.6, .4): y is the first with e⁶ / (e⁶ + e⁴)."""
    uniform = torch.linspace(0, 1, 10_001)[:-1, None].double()
    y = shield(classes=2).draw(torch.tensor([[0.6, 0.4]]).double().expand(10_000, 2), uniform)
    assert float((y == 0).double().mean()) == pytest.approx(1 / (1 + math.exp(-2)), abs=2e-4)
    assert y[0] == 0
    assert y[-1] == 1


def test_hashed_draws_are_the_answers_own_and_fresh_ones_are_not() -> None:
    logits = 0.1 * torch.randn(256, 5, generator=stream(0, "unsure"))
    hashed, fresh = shield(), shield(hashed=False)
    once = hashed(logits)
    assert torch.equal(once, hashed(logits))
    order = torch.randperm(256, generator=stream(0, "order"))
    assert torch.equal(once[order], hashed(logits[order]))
    assert torch.equal(once[7:8], hashed(logits[7:8]))
    near = logits + 1e-6 * torch.randn(256, 5, generator=stream(0, "noise"))
    same = (hashed(near) - once).abs().amax(1) < 1e-3
    assert same.double().mean() > 0.99, "the rounding of another batch is no other question"
    moved = (hashed(logits + 2 * GRID) - once).abs().amax(1) > 1e-3
    assert moved.double().mean() > 0.3, "a small change is"
    draws = [RowStreams([stream(n, row) for row in range(256)], CPU) for n in (0, 0, 1)]
    answers = []
    for each in draws:
        with noise_from(each):
            answers.append(fresh(logits))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    assert not torch.equal(fresh(logits), fresh(logits))
    assert hashed(logits[:0]).shape == (0, 5)


def test_fresh_draws_have_the_right_shares() -> None:
    made = shield(hashed=False, classes=2)
    logits = torch.tensor([[0.6, 0.4]]).log().expand(4000, 2)
    with noise_from(RowStreams([stream(0, row) for row in range(4000)], CPU)):
        shown = made(logits).softmax(1)[:, 0]
    raised = (shown > 0.6).double().mean()
    assert float(raised) == pytest.approx(1 / (1 + math.exp(-2)), abs=0.02)


class Shielded(Classifier):
    """A network behind a shield, whose logits move with the brightness of a corner."""

    def __init__(self, hashed: bool) -> None:
        super().__init__("test_resnet", 5, 32)
        self.shield = shield(hashed, epsilon=1.5)

    def plain(self, images: Tensor) -> Tensor:
        return (
            4
            * images[..., :3, :3].mean((1, 2, 3))[:, None]
            * torch.tensor([1.0, 0.9, 0.3, 0.2, 0.1])
        )

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.shield(self.plain(images))
        return found


@pytest.mark.parametrize(
    ("hashed", "noise", "undone"), [(True, 0.1, True), (True, 0, False), (False, 0, True)]
)
def test_repeated_questions_average_the_draws(hashed: bool, noise: float, undone: bool) -> None:
    """Fresh draws by asking again; a hash by asking a little otherwise, and not by asking again."""
    images = torch.rand(16, 3, 32, 32, generator=stream(0, "images"))
    model = Shielded(hashed)
    with torch.no_grad():
        f = model.plain(images).double().softmax(1)
        shares = (f / 0.1).softmax(1)
        typical = model.shield.typical.double()
        mean = sum(
            shares[:, y, None] * nearest(f, typical[[y] * 16], 1.5 * entropy(f)) for y in range(5)
        )
    config = RepeatConfig(times=64, noise=noise)
    off = []
    for repeats in (None, config):
        target = access_to(model, "black-box", repeats)
        assert isinstance(target, BlackBoxTarget)
        streams = RowStreams([stream(1, row) for row in range(16)], CPU)
        off.append((target.scores(images, streams) - mean).abs().sum(1).mean())
    assert (off[1] < 0.35 * off[0]) == undone, off


def test_what_is_typical_is_the_mean_answer_of_validation_images() -> None:
    defense = StealthyShield(StealthyShield.Config())
    model, val = defense.build(classifier()), private(8)
    given = job(private(), TrainingConfig(epochs=1, batch_size=16), model, stream(0), val=val)
    assert train(given, defense).diverged is None
    plain = classifier()
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("output")}
    plain.load_state_dict(own)
    scores = predict(plain.eval(), val.images)[0].softmax(1)
    assert isinstance(model.output, Shield)
    for label in range(4):
        mean = scores[val.labels == label].mean(0)
        torch.testing.assert_close(model.output.typical[label], mean, rtol=1e-4, atol=1e-6)


def test_a_class_without_validation_images_is_refused_before_training() -> None:
    defense = StealthyShield(StealthyShield.Config())
    config = TrainingConfig(epochs=1, batch_size=16)
    model = defense.build(classifier())
    for val, said in ((private(3), "1 of 4 have none"), (None, "there are none")):
        with pytest.raises(RequestError, match=f"ssd is fitted on validation images.*{said}"):
            train(job(private(), config, model, stream(0), val=val), defense)


def test_noise_decides_whether_the_target_is_stochastic() -> None:
    for noise, stochastic in (("hashed", False), ("fresh", True)):
        defense = StealthyShield(StealthyShield.Config.model_validate({"noise": noise}))
        assert defense.built(classifier()).stochastic == stochastic
    assert not StealthyShield.stochastic
