"""BiDO: HSIC and COCO against the formulas in plain numpy, the batches, and every field."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from mibench.data.images import ImageSet
from mibench.defenses.bido import COCO, HSIC, Bido, Measure, gaussian_gram, linear_gram
from mibench.errors import RequestError
from mibench.models.classifiers import Classifier
from mibench.streams import stream
from mibench.training.defense import DEFENSES
from mibench.training.loop import Hooks, Job, TrainingConfig, TrainState, train
from tests.kit import training

Array = npt.NDArray[np.float64]
STATE = TrainState(0, 0, 1, 1, stream(0))
CLASSES = 8


def kernel(values: Array, sigma: float) -> Array:
    """Gaussian kernel, entry by entry."""
    count, size = values.shape
    gram = np.empty((count, count))
    for i in range(count):
        for j in range(count):
            distance = sum((a - b) ** 2 for a, b in zip(values[i], values[j], strict=True))
            gram[i, j] = math.exp(-distance / (2 * sigma**2 * size))
    return gram


def hsic(first: Array, second: Array) -> float:
    """Σ R_x ∘ R_yᵀ, R = K_c(K_c + 1e-5·m·I)⁻¹, K_c = KH: as the released code has it."""
    count = len(first)
    centre = np.eye(count) - np.ones((count, count)) / count
    parts = []
    for gram in (first, second):
        inner = gram @ centre
        parts.append(inner @ np.linalg.inv(inner + 1e-5 * count * np.eye(count)))
    return float(sum(parts[0][i, j] * parts[1][j, i] for i in range(count) for j in range(count)))


def coco(first: Array, second: Array) -> float:
    """sqrt(‖HKH·HLH‖_F) / m."""
    count = len(first)
    centre = np.eye(count) - np.ones((count, count)) / count
    product = centre @ first @ centre @ centre @ second @ centre
    return math.sqrt(math.sqrt((product**2).sum())) / count


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Images, a layer that depends on them, and one-hot labels, 12 samples of 3 identities."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(3).repeat_interleave(4)
    images = torch.rand(3, 27, generator=generator)[labels]
    images = 0.7 * images + 0.3 * torch.rand(12, 27, generator=generator)
    layer = images @ torch.randn(27, 10, generator=generator) + 3
    return images, layer, F.one_hot(labels, 4).float()


MEASURES = {"hsic": (HSIC, hsic), "coco": (COCO, coco)}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("sigma", [5.0, 0.7])
def test_measures_equal_the_formulas(name: str, sigma: float) -> None:
    measure, reference = MEASURES[name]
    images, layer, targets = scene()
    x, z, y = (value.double().numpy() for value in (images, layer, targets))
    gram_z, gram_x, gram_y = (
        gaussian_gram(layer, sigma),
        gaussian_gram(images, sigma),
        linear_gram(targets),
    )
    on_images = reference(kernel(z, sigma), kernel(x, sigma))
    on_labels = reference(kernel(z, sigma), y @ y.T)
    assert measure(gram_z, gram_x).item() == pytest.approx(on_images, rel=2e-4)
    assert measure(gram_z, gram_y).item() == pytest.approx(on_labels, rel=2e-4)


def test_gaussian_gram_is_the_kernel_less_one() -> None:
    _, layer, _ = scene()
    expected = torch.from_numpy(kernel(layer.double().numpy(), 0.7)) - 1
    torch.testing.assert_close(gaussian_gram(layer.double(), 0.7), expected)


@pytest.mark.parametrize("measure", [HSIC, COCO], ids=["hsic", "coco"])
@pytest.mark.parametrize(("spread", "offset"), [(1.0, 0.0), (0.001, 1.0), (0.1, 30.0)])
def test_float32_is_enough(measure: Measure, spread: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(64, 300, generator=generator, dtype=torch.float64) * spread + offset
    targets = F.one_hot(torch.arange(16).repeat_interleave(4)).double()
    values, slopes = [], []
    for dtype in (torch.float32, torch.float64):
        # Both start from the same float32 numbers: what is compared is the computation.
        layer = base.float().to(dtype).requires_grad_()
        value = measure(gaussian_gram(layer, 5.0), linear_gram(targets.to(dtype)))
        (slope,) = torch.autograd.grad(value, layer)
        values.append(value.double())
        slopes.append(slope.double())
    torch.testing.assert_close(values[0], values[1], rtol=1e-3, atol=0)
    assert (slopes[0] - slopes[1]).norm() < 2e-3 * slopes[1].norm()


@pytest.mark.parametrize("measure", [HSIC, COCO], ids=["hsic", "coco"])
@pytest.mark.parametrize("samples", [1, 2, 28])
def test_one_identity_has_no_dependence_and_no_gradient(measure: Measure, samples: int) -> None:
    """Its label kernel is constant, and so 0 when centred."""
    layer = torch.randn(samples, 5, generator=stream(0), requires_grad=True)
    labels = linear_gram(F.one_hot(torch.full((samples,), 2)).float())
    grams = measure.transform(torch.stack([labels, gaussian_gram(layer, 5.0)]))
    value = measure.compare(grams[1], grams[0])
    (slope,) = torch.autograd.grad(value, layer)
    assert value == 0
    assert (slope == 0).all()


@pytest.mark.parametrize("measure", [HSIC, COCO], ids=["hsic", "coco"])
def test_a_batch_without_dependence_leaves_the_others_their_gradient(measure: Measure) -> None:
    _, layer, targets = scene()
    layer.requires_grad_()
    constant = torch.zeros(12, dtype=torch.int64)
    labels = torch.stack([linear_gram(targets), linear_gram(F.one_hot(constant).float())])
    values = measure(gaussian_gram(layer, 5.0), labels)
    assert values[0] > 0 == values[1]
    (both,) = torch.autograd.grad(values.sum(), layer, retain_graph=True)
    (first,) = torch.autograd.grad(values[0], layer)
    torch.testing.assert_close(both, first)


@pytest.mark.parametrize("measure", [HSIC, COCO], ids=["hsic", "coco"])
def test_a_collapsed_layer_has_no_dependence_and_a_finite_gradient(measure: Measure) -> None:
    layer = torch.ones(8, 5, requires_grad=True)
    targets = linear_gram(F.one_hot(torch.arange(8) % 4).float())
    value = measure(gaussian_gram(layer, 5.0), targets)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert layer.grad is not None
    assert torch.isfinite(layer.grad).all()


def test_activations_that_are_not_finite_give_such_a_loss() -> None:
    layer = torch.full((8, 5), math.inf)
    assert not torch.isfinite(HSIC(gaussian_gram(layer, 5.0), torch.eye(8)))


@pytest.mark.parametrize("measure", [HSIC, COCO], ids=["hsic", "coco"])
def test_dependence_is_larger_on_labels_than_on_shuffled_ones(measure: Measure) -> None:
    _, layer, targets = scene()
    shuffled = targets[torch.randperm(12, generator=torch.Generator().manual_seed(9))]
    # Normalised HSIC counts directions that stand out of its ridge; a wide layer fills them all.
    gram = gaussian_gram(layer / 30, 5.0)
    assert measure(gram, linear_gram(targets)) > 1.1 * measure(gram, linear_gram(shuffled))


def classifier(architecture: str = "test_resnet") -> Classifier:
    return training.classifier(architecture, CLASSES)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(32, 3, 32, 32, generator=generator), torch.arange(CLASSES).repeat(4)


def trained_weights(hooks: Hooks) -> Tensor:
    """All weights after four steps of the shared loop."""
    images, labels = batch()
    data = ImageSet((images * 255).byte(), labels, tuple("abcdefgh"))
    config = TrainingConfig(epochs=2, batch_size=16, learning_rate=0.01)
    model = classifier()
    result = train(training.job(data, config, model, stream(1)), hooks)
    assert result.steps == 4
    assert result.diverged is None
    return torch.cat([p.detach().flatten() for p in model.parameters()])


CHANGES: dict[str, Any] = {
    "measure": "coco",
    "scale": 2.0,
    "lambda_x": 5.0,
    "lambda_y": 5.0,
    "sigma": 0.5,
    "images_per_identity": 2,
}


@pytest.fixture(scope="module")
def default_weights() -> Tensor:
    return trained_weights(Bido(Bido.Config()))


def test_every_field_has_a_change() -> None:
    assert set(CHANGES) == set(Bido.Config.model_fields)


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_changes_what_is_trained(field: str, default_weights: Tensor) -> None:
    changed = trained_weights(Bido(Bido.Config(**{field: CHANGES[field]})))
    assert not torch.allclose(changed, default_weights, atol=1e-4)


def test_training_repeats(default_weights: Tensor) -> None:
    assert torch.equal(trained_weights(Bido(Bido.Config())), default_weights)


def test_the_control_is_cross_entropy_on_the_same_batches() -> None:
    class OnlyBatches(Hooks):
        sampler = Bido(Bido.Config()).sampler
        steps_per_epoch = Bido(Bido.Config()).steps_per_epoch

    control = trained_weights(Bido(Bido.Config(scale=0)))
    assert torch.equal(control, trained_weights(OnlyBatches()))


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("name", MEASURES)
def test_loss_is_the_formula_over_stages_and_features(architecture: str, name: Any) -> None:
    model, (images, labels) = classifier(architecture).eval(), batch()
    defense = Bido(Bido.Config(measure=name, lambda_x=0.3, lambda_y=0.7, scale=2))
    loss = defense.loss(model, images, labels, STATE)
    outputs = model.outputs(images, stages=True)
    layers = [stage.flatten(1) for stage in outputs.stages[:-1]] + [outputs.features]
    assert len(layers) == {"test_resnet": 5, "test_vit": 6, "test_efficientnet": 5}[architecture]
    reference = MEASURES[name][1]
    x, y = fast_kernel(images.flatten(1)), F.one_hot(labels, CLASSES).double().numpy()
    expected = F.cross_entropy(outputs.logits, labels).item()
    for layer in layers:
        z = fast_kernel(layer)
        expected += 2 * (0.3 * reference(z, x) - 0.7 * reference(z, y @ y.T))
    assert loss.item() == pytest.approx(expected, rel=1e-3, abs=1e-3)
    loss.backward()
    reached = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(slope is not None and torch.isfinite(slope).all() for slope in reached)


def fast_kernel(values: Tensor) -> Array:
    values = values.detach().double()
    distances = (values[:, None] - values[None]).square().sum(-1)
    return torch.exp(-distances / (2 * 25 * values.shape[1])).numpy()


def test_the_first_weight_is_of_the_images_and_lowers_dependence() -> None:
    """λ_x alone, minimised, lowers d(Z, X); λ_y alone raises d(Z, Y)."""
    images, labels = batch()
    x = gaussian_gram(images.flatten(1), 5.0)
    y = linear_gram(F.one_hot(labels, CLASSES).float())
    for weights, gram, sign in (((1.0, 0.0), x, -1), ((0.0, 1.0), y, 1)):
        defense = Bido(Bido.Config(lambda_x=weights[0], lambda_y=weights[1], scale=10))
        model = classifier()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        seen = []
        for _ in range(8):
            with torch.no_grad():
                features = model.features(images)
                seen.append(HSIC(gaussian_gram(features, 5.0), gram).item())
            optimizer.zero_grad()
            defense.loss(model, images, labels, STATE).backward()
            optimizer.step()
        assert sign * (seen[-1] - seen[0]) > 0.1


def test_weights_default_to_the_measures_published_pair() -> None:
    assert Bido.Config().weights == (0.05, 0.5)
    assert Bido.Config(measure="coco").weights == (5, 25)
    assert Bido.Config(measure="coco", lambda_x=1, scale=3).weights == (3, 75)


def test_inert_weights_are_refused_and_the_explicit_control_is_not() -> None:
    with pytest.raises(ValidationError, match="scale=0"):
        Bido.Config(lambda_x=0, lambda_y=0)
    assert Bido.Config(lambda_x=0, lambda_y=0, scale=0).weights == (0, 0)
    assert Bido.Config(lambda_x=0).weights == (0, 0.5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("measure", "COCO"), ("scale", -1), ("lambda_x", math.nan), ("sigma", 0)],
)
def test_impossible_values_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Bido.Config(**{field: value})


def job(labels: Tensor, batch_size: int, rng: torch.Generator | None = None) -> Job:
    config = TrainingConfig(batch_size=batch_size)
    return training.job(training.blank(labels), config, rng=rng)


def uneven() -> Tensor:
    """Shuffled labels of 40 identities with 1 to 11 images each."""
    counts = torch.arange(40) % 11 + 1
    labels = torch.arange(40).repeat_interleave(counts)
    return labels[torch.randperm(len(labels), generator=stream(0, "labels"))]


# People of LFW with 20 pictures or more: 62, the most frequent with as many as the next three.
PEOPLE = torch.tensor(
    [371, 165, 85, 76, *(54, 50, 46, 37, 36, 34, 33, 31, 29, 29), *[14 + i % 15 for i in range(48)]]
)


@pytest.mark.parametrize("measure", MEASURES)
def test_unbalanced_people_stay_finite_over_an_epoch(measure: Any) -> None:
    labels = torch.arange(62).repeat_interleave(PEOPLE)
    images = torch.randint(256, (len(labels), 3, 32, 32), generator=stream(0), dtype=torch.uint8)
    images = images // 8 + (labels * 3)[:, None, None, None].byte()
    names = tuple(map(str, range(62)))
    model = training.classifier(classes=62, seed=0)
    defense = Bido(Bido.Config(measure=measure))
    config = TrainingConfig(epochs=1, batch_size=32, **Bido.training)
    wanted = training.job(ImageSet(images, labels, names), config, model, stream(1))
    result = train(wanted, defense)
    assert result.diverged is None
    assert all(p.isfinite().all() for p in model.parameters())


def test_batches_of_one_identity_are_dropped_and_no_others() -> None:
    labels = torch.arange(62).repeat_interleave(PEOPLE)
    defense = Bido(Bido.Config())
    wanted = job(labels, 32)
    batches = list(defense.sampler(wanted))
    groups = int(PEOPLE.add(3).div(4, rounding_mode="floor").sum())
    # 93 groups of the first, and 32 of them would have been batches of their own.
    assert len(batches) == defense.steps_per_epoch(wanted) < math.ceil(groups / 8)
    shown = torch.cat(batches).bincount(minlength=len(labels)) > 0
    assert shown[labels > 0].all()
    assert 0.5 < shown[labels == 0].float().mean() < 1
    again = torch.cat(list(defense.sampler(job(labels, 32, stream(1))))).bincount(
        minlength=len(labels)
    )
    assert (shown | (again > 0))[labels == 0].sum() > shown[labels == 0].sum()  # not the same ones


@settings(max_examples=100, deadline=None)
@given(
    images=st.lists(
        st.one_of(st.integers(0, 12), st.integers(0, 400)), min_size=2, max_size=40
    ).filter(lambda counts: sum(count > 0 for count in counts) > 1),
    size=st.integers(2, 6),
    places=st.integers(2, 12),
    spare=st.integers(0, 1),
    seed=st.integers(0, 3),
)
def test_every_batch_has_two_identities(
    images: list[int], size: int, places: int, spare: int, seed: int
) -> None:
    labels = torch.arange(len(images)).repeat_interleave(torch.tensor(images))
    defense, batch_size = Bido(Bido.Config(images_per_identity=size)), places * size + spare
    wanted = job(labels, batch_size, stream(seed))
    batches = list(defense.sampler(wanted))
    assert len(batches) == defense.steps_per_epoch(wanted) > 0
    for index in batches:
        counts = labels[index].bincount()
        assert len(index) <= batch_size
        assert (counts > 0).sum() > 1
        assert (counts % size == 0).all()
    groups = [math.ceil(count / size) for count in images]
    dropped = sum(groups) - sum(len(index) // size for index in batches)
    # What is dropped is of one identity, or the one group that is left of an odd number.
    missing = {
        int(label) for label in labels[torch.cat(batches).bincount(minlength=len(labels)) == 0]
    }
    assert len(missing) <= 1
    if dropped and places > 2:
        assert max(groups) > sum(groups) / places
    again = list(defense.sampler(job(labels, batch_size, stream(seed))))
    assert all(map(torch.equal, batches, again))


@pytest.mark.parametrize(
    ("people", "images", "expected"),
    [
        (100, 30, "8d75a5f8a43319bdf14268d1e02113a2e26a610d00e38d728186cf2223d02c81"),
        (5, 1800, "8d0a932b8f1603320289e9997f6806754fb51acbf5ec2da5c59551c74e127feb"),
    ],
    ids=["synthfaces-32", "mnist-32-small"],
)
def test_batches_behind_filed_records(people: int, images: int, expected: str) -> None:
    """Balanced sets keep the batches that they had before leftovers were dropped."""
    found = hashlib.sha256()
    labels = torch.arange(people).repeat_interleave(images)
    for index in Bido(Bido.Config()).sampler(job(labels, 64, stream(0, "batches"))):
        found.update(index.numpy().tobytes() + b"|")
    assert found.hexdigest() == expected


def test_one_identity_is_refused_before_training() -> None:
    data = ImageSet(torch.zeros(40, 3, 32, 32, dtype=torch.uint8), torch.full((40,), 3), ("a",) * 4)
    config = TrainingConfig(epochs=1, batch_size=16)
    with pytest.raises(RequestError, match="show 1: give at least two"):
        train(training.job(data, config, classifier()), Bido(Bido.Config()))


@pytest.mark.parametrize(
    ("labels", "size"),
    [
        (torch.arange(30).repeat(8), 4),
        (uneven(), 4),
        (uneven() + 5, 3),  # labels 0–4 have no image
        (torch.arange(3).repeat(70), 4),  # fewer identities than places in a batch
    ],
    ids=["even", "uneven", "gaps", "few"],
)
def test_batches(labels: Tensor, size: int) -> None:
    defense = Bido(Bido.Config(images_per_identity=size))
    wanted = job(labels, 64)
    batches = list(defense.sampler(wanted))
    assert len(batches) == defense.steps_per_epoch(wanted)
    shown = torch.cat(batches).bincount(minlength=len(labels))
    assert shown.min() == 1  # every image is there
    for label in labels.unique().tolist():
        images = int((labels == label).sum())
        own = shown[labels == label]
        assert own.sum() == math.ceil(images / size) * size
        assert own.max() - own.min() <= 1  # repeated evenly
    few = len(labels.unique()) < 64 // size
    for index in batches:
        _, counts = labels[index].unique(return_counts=True)
        assert len(index) <= 64
        assert (counts % size == 0).all() if few else (counts == size).all()
        assert len(counts) > 1
    sizes = [len(index) for index in batches]
    assert max(sizes) - min(sizes) <= 2 * size


def test_a_full_batch_is_16_identities_of_4_different_images() -> None:
    labels = torch.arange(32).repeat(8)
    for index in Bido(Bido.Config()).sampler(job(labels, 64)):
        assert len(index.unique()) == 64
        assert len(labels[index].unique()) == 16


def test_batches_follow_the_generator() -> None:
    labels = torch.arange(30).repeat(8)
    defense = Bido(Bido.Config())
    first, again, other = (
        torch.cat(list(defense.sampler(job(labels, 64, stream(seed))))) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_batch_without_room_for_two_identities_is_refused() -> None:
    with pytest.raises(RequestError, match=r"target\.batch_size=7.*8 or more"):
        Bido(Bido.Config()).steps_per_epoch(job(torch.arange(30), 7))


def test_registered_with_a_control() -> None:
    assert DEFENSES.get("bido") is Bido
    assert Bido.strengths[0] == 0
    assert Bido.strength in Bido.Config.model_fields
    assert set(Bido.training) <= set(TrainingConfig.model_fields)
