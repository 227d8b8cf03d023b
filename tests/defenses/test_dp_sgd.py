"""DP-SGD: accounting, clipping, noise, sampling, and that it takes a step on timm's families."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from opacus.accountants import PRVAccountant, RDPAccountant
from pydantic import ValidationError
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mibench.data.images import ImageSet
from mibench.defenses._per_image_gradients import (
    check_no_batch_statistics,
    group_count,
    looped_gradients,
    replace_batch_norm,
    trainable,
    vectorised_gradients,
)
from mibench.defenses.dp_sgd import DpSgd
from mibench.errors import RequestError
from mibench.models.classifiers import Classifier
from mibench.streams import seeded, stream
from mibench.training.defense import DEFENSES
from mibench.training.loop import Job, TrainingConfig, TrainState
from mibench.training.loop import train as train_job
from tests.kit import training

STATE = TrainState(0, 0, 1, 1, stream(0))
SGD = TrainingConfig(
    epochs=2,
    batch_size=4,
    optimizer="sgd",
    learning_rate=0.1,
    momentum=0.0,
    weight_decay=0.0,
    schedule="constant",
    warmup=0.0,
)
QUIET = 1e-9  # a noise multiplier too small to see


def make(architecture: str = "test_vit", resolution: int = 32, seed: int = 0) -> Classifier:
    with seeded(seed):
        return Classifier(architecture, 4, resolution)


def data(count: int = 12) -> ImageSet:
    generator = stream(0, "images")
    images = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % 4, ("a", "b", "c", "d"))


def batch(count: int, resolution: int = 32) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 3, resolution, resolution, generator=stream(1, "batch"))
    return images, torch.arange(count) % 4


def train(
    defense: DpSgd, architecture: str = "test_vit", seed: int = 0, count: int = 12
) -> Classifier:
    model = defense.built(make(architecture))
    wanted = training.job(data(count), SGD, model, stream(seed, "train"))
    train_job(wanted, defense)
    return wanted.model


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def weights(model: nn.Module) -> Tensor:
    return flat(list(model.parameters()))


def gradient_sum(
    images: Tensor, labels: Tensor, architecture: str = "test_vit", **options: object
) -> Tensor:
    """What the optimizer is left with for a batch, times the expected batch size of 4."""
    defense = DpSgd(DpSgd.Config(**{"noise_multiplier": QUIET, **options}))
    model = defense.built(make(architecture))
    optimizer = defense.optimizer(training.job(data(), SGD, model, stream(0, "noise")))
    optimizer.zero_grad(set_to_none=True)
    defense.backward(model, images, labels, STATE)
    optimizer.step()
    return flat([p.grad for p in model.parameters() if p.grad is not None]) * 4


# Accounting


def integer_order_epsilon(q: float, sigma: float, steps: int, delta: float) -> float:
    """Mironov, Talwar and Zhang 2019, section 3.3, over whole orders only, converted as in
    Balle et al. 2020, theorem 21: never below the accountant's minimum over more orders."""
    best = math.inf
    for order in range(2, 64):
        terms = [
            math.log(math.comb(order, k))
            + (order - k) * math.log1p(-q)
            + k * math.log(q)
            + (k * k - k) / (2 * sigma**2)
            for k in range(order + 1)
        ]
        top = max(terms)
        renyi = steps * (top + math.log(sum(math.exp(t - top) for t in terms))) / (order - 1)
        tail = math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        best = min(best, renyi + tail)
    return best


@pytest.mark.parametrize(("name", "accountant"), [("rdp", RDPAccountant), ("prv", PRVAccountant)])
def test_epsilon_is_the_accountants_for_the_steps_taken(name: str, accountant: type) -> None:
    defense = DpSgd(DpSgd.Config(noise_multiplier=1.3, accountant=name))
    train(defense, count=10)  # 10 images in batches of 4: 3 steps an epoch, q = 0.4
    direct = accountant()
    direct.history = [(1.3, 0.4, 6)]
    result = defense.guarantee()
    assert result["delta"] == pytest.approx(10**-1.1)
    assert result["epsilon"] == pytest.approx(direct.get_epsilon(10**-1.1), rel=1e-6)
    assert result["noise_multiplier"] == 1.3


def test_epsilon_agrees_with_the_formula() -> None:
    defense = DpSgd(DpSgd.Config(noise_multiplier=1.5, delta=1e-4))
    train(defense, count=12)
    epsilon = float(defense.guarantee()["epsilon"])
    whole = integer_order_epsilon(4 / 12, 1.5, 6, 1e-4)
    assert epsilon <= whole * (1 + 1e-9)
    assert epsilon == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize(("options", "target"), [({}, 8.0), ({"target_epsilon": 2.0}, 2.0)])
def test_noise_reaches_the_target(options: dict[str, float], target: float) -> None:
    defense = DpSgd(DpSgd.Config(**options))
    train(defense)
    assert target - 0.011 <= float(defense.guarantee()["epsilon"]) <= target


def test_impossible_target_is_refused() -> None:
    with pytest.raises(RequestError, match=r"target_epsilon=1e-07.*raise target_epsilon"):
        train(DpSgd(DpSgd.Config(target_epsilon=1e-7, delta=1e-9)))


PLAN = {"noise_multiplier": 1.0}


def planned(images: int, config: TrainingConfig) -> Job:
    """A training of so many images, which is only looked at."""
    return training.job(training.blank(torch.zeros(images, dtype=torch.int64)), config)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        # ε is too large for the accountant of privacy loss variables: gigabytes, then infinite.
        ({"noise_multiplier": 0.005, "accountant": "prv"}, r"prv knows no ε.*accountant=rdp"),
        ({"target_epsilon": 1e-3, "accountant": "prv"}, "prv knows no noise.*too large, lower"),
        ({"noise_multiplier": 1e-200}, r"rdp knows no ε.*1e-200.*0 is the control"),
        ({"target_epsilon": 0.01, "delta": 1e-5}, "rdp knows no noise.*raise target_epsilon"),
        ({**PLAN, "delta": 1 / 3000}, r"δ = 0\.000333.*set defense\.delta below 0\.000333"),
    ],
)
def test_what_has_no_epsilon_is_refused_before_training(
    options: dict[str, Any], match: str
) -> None:
    """With the images and steps of ``synthfaces-32``."""
    config = SGD.model_copy(update={"batch_size": 64, "epochs": 30})
    with pytest.raises(RequestError, match=match):
        DpSgd(DpSgd.Config(**options)).check(planned(3000, config))


def test_noise_beyond_any_accountant_is_no_setting() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1000000"):
        DpSgd.Config(noise_multiplier=1e12)


def test_noise_that_only_one_accountant_can_account_for_passes_with_it() -> None:
    config = SGD.model_copy(update={"batch_size": 64, "epochs": 30})
    DpSgd(DpSgd.Config(noise_multiplier=0.005)).check(planned(3000, config))
    DpSgd(DpSgd.Config(target_epsilon=1000)).check(planned(3000, config))
    DpSgd(DpSgd.Config(target_epsilon=0.05, accountant="prv")).check(planned(3000, config))
    DpSgd(DpSgd.Config(noise_multiplier=0, accountant="prv", delta=0.5)).check(
        planned(3000, config)
    )


def test_a_training_that_ends_early_has_the_epsilon_that_was_planned() -> None:
    class Lost(DpSgd):
        def backward(self, model, images, labels, state):
            super().backward(model, images, labels, state)
            return images.new_tensor(math.nan if state.step == 2 else 1.0)

        def guarantee(self):
            return super().guarantee()

    whole, lost = DpSgd(DpSgd.Config(**PLAN)), Lost(DpSgd.Config(**PLAN))
    train(whole)
    result = train_job(training.job(data(), SGD, lost.built(make())), lost)
    assert result.diverged is not None
    assert result.steps == 3
    assert lost.guarantee() == whole.guarantee()


# A guarantee is dp-sgd's own


def batches_in_order(self: object, job: Job) -> Iterator[Tensor]:
    yield from torch.arange(len(job.train)).split(job.config.batch_size)


def anything(self: object, *arguments: object) -> Any:
    raise AssertionError("it is refused before it is called")


REPLACED = {
    "sampler": batches_in_order,
    **dict.fromkeys(
        ("steps_per_epoch", "backward", "loss", "optimizer", "augment", "pretrain", "finish"),
        anything,
    ),
}


@pytest.mark.parametrize("hook", REPLACED)
def test_a_replaced_part_loses_the_guarantee(hook: str) -> None:
    changed = type("Changed", (DpSgd,), {hook: REPLACED[hook]})
    below = type("Below", (changed,), {})
    mixed = type("Mixed", (type("Mixin", (), {hook: REPLACED[hook]}), DpSgd), {})
    for cls in (changed, below, mixed):
        message = rf"{cls.__name__} replaces {hook} of dp-sgd.*override guarantee\(\)"
        with pytest.raises(RequestError, match=message):
            train(cls(DpSgd.Config(**PLAN)))
    own = type("Own", (changed,), {"guarantee": lambda self: {}})
    own(DpSgd.Config(**PLAN))._check_own_algorithm()
    changed(DpSgd.Config(noise_multiplier=0)).check(planned(12, SGD))  # claims nothing


def test_a_replaced_part_of_one_object_loses_it_too() -> None:
    defense = DpSgd(DpSgd.Config(**PLAN))
    defense.sampler = functools.partial(batches_in_order, defense)  # type: ignore[method-assign]
    with pytest.raises(RequestError, match="replaces sampler"):
        train(defense)


def test_what_is_outside_the_algorithm_may_be_replaced() -> None:
    class Other(DpSgd):
        def __init__(self, config):
            super().__init__(config)
            self.note = "mine"

        def helper(self):
            return 1

        def build(self, model):
            model.output = nn.Softsign()
            return super().build(model)

    defense = Other(DpSgd.Config(**PLAN))
    train(defense)
    assert defense.guarantee()["epsilon"] > 0


def test_batch_statistics_that_a_subclass_puts_back_are_refused() -> None:
    class Kept(DpSgd):
        def build(self, model):
            return model

    with pytest.raises(RequestError, match="BatchNorm2d"):
        train(Kept(DpSgd.Config(**PLAN)), "test_resnet")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_grad_norm", math.inf),
        ("max_grad_norm", 1e-30),
        ("noise_multiplier", math.inf),
        ("noise_multiplier", math.nan),
        ("target_epsilon", math.inf),
        ("delta", 0),
        ("delta", 1),
    ],
)
def test_impossible_values_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        DpSgd.Config(**{field: value})


def test_two_sources_of_noise_are_refused() -> None:
    with pytest.raises(ValidationError, match="not both"):
        DpSgd.Config(noise_multiplier=1.0, target_epsilon=8.0)


# Clipping and noise


def test_sum_of_clipped_gradients() -> None:
    images, labels = batch(5)
    model = make()
    rows = []
    for image, label in zip(images, labels, strict=True):
        loss = F.cross_entropy(model(image[None]), label[None])
        rows.append(flat(list(torch.autograd.grad(loss, list(model.parameters())))))
    norms = torch.stack([row.norm() for row in rows])
    bound = norms.median().item()  # some gradients are longer than it, some shorter
    expected = sum(
        row * min(1.0, bound / norm.item()) for row, norm in zip(rows, norms, strict=True)
    )
    result = gradient_sum(images, labels, max_grad_norm=bound)
    assert (result - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("how", ["loop", "vmap"])
def test_one_image_moves_the_sum_by_at_most_the_bound(how: str) -> None:
    images, labels = batch(4)
    images[3] *= 1e3  # an outlier
    bound = 0.01  # far below the gradients' norms, so the outlier is seen to be clipped to it
    with_it = gradient_sum(images, labels, max_grad_norm=bound, gradients=how)
    without = gradient_sum(images[:3], labels[:3], max_grad_norm=bound, gradients=how)
    assert (with_it - without).norm() == pytest.approx(bound, rel=1e-3)


def test_noise_of_an_empty_batch_has_the_stated_size() -> None:
    images, labels = batch(0)
    noise = gradient_sum(images, labels, noise_multiplier=2.0, max_grad_norm=0.5)
    count = noise.numel()
    assert noise.std().item() == pytest.approx(1.0, abs=5 / math.sqrt(2 * count))
    assert noise.mean().item() == pytest.approx(0.0, abs=5 / math.sqrt(count))


@pytest.mark.parametrize("options", [{"noise_multiplier": 1.0}, {"noise_multiplier": 0}])
def test_empty_batches_count_as_steps(options: dict[str, float]) -> None:
    class Empty(DpSgd):
        def sampler(self, job):
            for _ in range(self.steps_per_epoch(job)):
                yield torch.zeros(0, dtype=torch.int64)

        def guarantee(self):  # of the steps alone; without it such a sampler is refused
            return super().guarantee()

    defense = Empty(DpSgd.Config(**options))
    trained = defense.built(make())
    before = weights(trained).clone()
    result = train_job(training.job(data(), SGD, trained), defense)
    assert result.steps == 6
    assert result.diverged is None
    if options["noise_multiplier"]:
        assert (weights(trained) != before).all()
        direct = RDPAccountant()
        direct.history = [(1.0, 4 / 12, 6)]
        assert defense.guarantee()["epsilon"] == pytest.approx(direct.get_epsilon(12**-1.1))
    else:
        assert torch.equal(weights(trained), before)


def test_memory_bound_changes_no_result() -> None:
    images, labels = batch(5)
    reference = gradient_sum(images, labels, gradients="loop")
    for mebibytes in (1, 3, 512):  # test_vit has 1.4 MiB of parameters: 1, 2 and 5 images at once
        bounded = gradient_sum(images, labels, gradients="vmap", gradient_memory=mebibytes)
        assert (bounded - reference).norm() < 1e-4 * reference.norm()


def test_memory_bound_sets_how_many_images_go_at_once() -> None:
    model = make()
    size = sum(p.numel() for p in model.parameters()) * 4
    for mebibytes in (1, 64):
        defense = DpSgd(DpSgd.Config(gradients="vmap", gradient_memory=mebibytes))
        defense.optimizer(training.job(data(), SGD, model))
        assert defense._at_once == max(1, mebibytes * 2**20 // size)


# Sampling


def test_poisson_sampling() -> None:
    defense = DpSgd(DpSgd.Config())
    job = training.job(data(30), TrainingConfig(batch_size=8), rng=stream(0, "sampler"))
    epochs = [list(defense.sampler(job)) for _ in range(1000)]
    assert {len(epoch) for epoch in epochs} == {4} == {defense.steps_per_epoch(job)}
    batches = [index for epoch in epochs for index in epoch]
    assert all(len(index.unique()) == len(index) for index in batches)
    rate, draws = 8 / 30, len(batches)
    shares = torch.bincount(torch.cat(batches), minlength=30) / draws
    assert (shares - rate).abs().max() < 5 * math.sqrt(rate * (1 - rate) / draws)
    sizes = torch.tensor([len(index) for index in batches], dtype=torch.float64)
    # Independent images: the size is binomial, its variance therefore N q (1 - q).
    assert sizes.var().item() == pytest.approx(30 * rate * (1 - rate), rel=0.12)


def test_small_rates_give_empty_batches_and_full_rates_everything() -> None:
    defense = DpSgd(DpSgd.Config())
    job = training.job(data(20), TrainingConfig(batch_size=2))
    assert 0 in {len(index) for _ in range(10) for index in defense.sampler(job)}
    (whole,) = defense.sampler(training.job(data(20), TrainingConfig(batch_size=50)))
    assert whole.tolist() == list(range(20))


# The control, and what is left behind


class Plain(DpSgd):
    """The same sampler and layers with a plain loss, written without the defense's code."""

    def optimizer(self, job):
        torch.randint(2**62, (1,), generator=job.rng)
        return super(DpSgd, self).optimizer(job)

    def backward(self, model, images, labels, state):
        loss = F.cross_entropy(model(images), labels) * len(images) / 4
        loss.backward()
        return loss.detach()

    def guarantee(self):
        return {}


def test_control_is_plain_training_of_the_same_model() -> None:
    control = DpSgd(DpSgd.Config(noise_multiplier=0))
    trained = train(control, "test_resnet")
    plain = train(Plain(DpSgd.Config()), "test_resnet")
    torch.testing.assert_close(weights(trained), weights(plain), rtol=0, atol=1e-6)
    assert control.guarantee() == {}


def test_private_training_without_effective_clip_and_noise_is_the_control() -> None:
    control = train(DpSgd(DpSgd.Config(noise_multiplier=0)))
    loose = train(DpSgd(DpSgd.Config(noise_multiplier=1e-12, max_grad_norm=1e3)))
    torch.testing.assert_close(weights(control), weights(loose), rtol=1e-3, atol=1e-5)
    clipped = train(DpSgd(DpSgd.Config(noise_multiplier=1e-12, max_grad_norm=1e-3)))
    assert (weights(control) - weights(clipped)).norm() > 0.01


def test_reproducible_in_the_generator() -> None:
    first, again, other, louder = (
        weights(train(DpSgd(DpSgd.Config(noise_multiplier=sigma)), seed=seed))
        for sigma, seed in ((1.0, 0), (1.0, 0), (1.0, 1), (2.0, 0))
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, louder)


def test_nothing_is_left_behind() -> None:
    trained = train(DpSgd(DpSgd.Config(noise_multiplier=1.0)), "test_resnet")
    assert type(trained) is Classifier
    assert not trained.training
    for module in trained.modules():
        assert not isinstance(module, _BatchNorm)
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert not module._forward_pre_hooks
    for parameter in trained.parameters():
        assert vars(parameter) == {}
        assert parameter.requires_grad


def test_registered_with_its_unit() -> None:
    defense = DEFENSES.get("dp-sgd")
    assert defense is DpSgd
    assert defense.card.privacy_unit == "example"
    assert defense.strengths[0] == 0
    assert defense.strength in DpSgd.Config.model_fields
    TrainingConfig(**defense.training)


# Layers


def test_groups_are_equal_and_never_single_channels() -> None:
    assert [group_count(c) for c in (1, 3, 4, 8, 24, 30, 64, 144, 512, 1030)] == [
        *(1, 1, 1, 2, 6, 6, 16, 24, 32, 10)
    ]


def test_norms_keep_weights_and_activation() -> None:
    model = make("test_efficientnet")  # timm's fused norm-and-activation layers
    norms = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm)}
    assert sorted(replace_batch_norm(model)) == sorted(norms)
    for name, old in norms.items():
        new = model.get_submodule(name)
        assert isinstance(new, nn.GroupNorm)
        assert new.weight is old.weight
        assert new.act is old.act
        images = torch.randn(3, old.num_features, 2, 2)
        expected = old.act(F.group_norm(images, new.num_groups, old.weight, old.bias, old.eps))
        torch.testing.assert_close(new(images), expected)


def test_running_statistics_are_refused_by_name_and_put_back() -> None:
    model = make("test_resnet")
    norm = nn.InstanceNorm2d(32, track_running_stats=True)
    model.backbone.maxpool = nn.Sequential(norm, model.backbone.maxpool)
    replace_batch_norm(model)
    with pytest.raises(RequestError, match=r"maxpool\.0\.running_mean \(InstanceNorm2d\)"):
        check_no_batch_statistics(model)
    assert torch.equal(norm.running_mean, torch.zeros(32))
    assert model.training


def test_batch_norm_would_be_refused() -> None:
    with pytest.raises(RequestError, match="BatchNorm2d"):
        check_no_batch_statistics(make("test_resnet"))


def test_what_cannot_be_vectorised_is_refused_with_the_way_out() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum().item() > 0 else -x

    defense = DpSgd(DpSgd.Config(noise_multiplier=1.0, gradients="vmap"))
    model = defense.built(make())
    model.backbone.norm_pre = Branching()
    with pytest.raises(RequestError, match="gradients=loop"):
        defense.optimizer(training.job(data(), SGD, model))


# Families

FAMILIES = (
    *("resnet18", "resnext26ts", "seresnet18", "resnetv2_18", "densenet121", "dla46_c"),
    *("efficientnet_b0", "mobilenetv2_035", "mobilenetv3_small_050", "mnasnet_050", "lcnet_035"),
    *("ghostnet_050", "regnetx_002", "repvgg_a0", "hrnet_w18_small", "starnet_s1"),
    *("convnext_atto", "inception_next_atto", "edgenext_xx_small", "vit_tiny_patch16_224"),
    *("deit_tiny_patch16_224", "xcit_nano_12_p16_224", "pvt_v2_b0", "levit_128s:64"),
)
HEAVY = (
    *("skresnet18", "gernet_s", "nf_regnet_b0", "regnety_002", "mixer_s32_224", "poolformer_s12"),
    *("res2net50_26w_4s", "cspresnet50", "vovnet39a", "swin_tiny_patch4_window7_224:64"),
    *("coatnet_nano_rw_224:64", "inception_v3:96", "mobilevit_xxs", "fastvit_t8"),
    *("cait_xxs24_224", "dpn48b", "xception41"),
)


@pytest.mark.parametrize(
    "name", [*FAMILIES, *(pytest.param(n, marks=pytest.mark.slow) for n in HEAVY)]
)
def test_takes_a_step_on(name: str) -> None:
    architecture, _, side = name.partition(":")
    resolution = int(side or 32)
    defense = DpSgd(DpSgd.Config(noise_multiplier=1.0))
    # Doubles: normalised 1×1 maps of random networks amplify float32's rounding to per cents.
    model = defense.built(make(architecture, resolution)).double()
    model.backbone.drop_rate = 0.0  # GhostNet's dropout would differ between the two passes,
    for module in model.modules():  # and so would Swin's stochastic depth
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    images, labels = batch(2, resolution)
    images = images.double()
    losses, gradients = looped_gradients(model, images, labels)
    loss = F.cross_entropy(model(images), labels, reduction="sum")
    together = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    torch.testing.assert_close(losses.sum(), loss.detach())
    # Images that influenced each other in a batch would break this.
    total = flat([gradient.sum(0) for gradient in gradients])
    assert (total - flat(list(together))).norm() <= 1e-6 * total.norm()
    assert [g.shape[1:] for g in gradients] == [p.shape for p in model.parameters()]
    assert all(len(g) == 2 and g.isfinite().all() for g in gradients)

    optimizer = defense.optimizer(training.job(data(4), SGD, model))
    before = [p.detach().clone() for p in model.parameters()]
    defense.backward(model, images[:1], labels[:1], STATE)
    assert all(p.grad_sample.shape == (1, *p.shape) for p in model.parameters())
    optimizer.step()
    for (key, after), old in zip(trainable(model).items(), before, strict=True):
        assert (after != old).any(), key


@pytest.mark.slow
def test_takes_a_step_on_vgg() -> None:
    """VGG's 129 million parameters, in single precision and with one image."""
    defense = DpSgd(DpSgd.Config(noise_multiplier=1.0))
    model = defense.built(make("vgg11_bn"))
    before = model.head.weight.detach().clone()
    optimizer = defense.optimizer(training.job(data(4), SGD, model))
    defense.backward(model, *batch(1), STATE)
    assert all(p.grad_sample.shape == (1, *p.shape) for p in model.parameters())
    optimizer.step()
    assert (model.head.weight != before).all()


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "test_efficientnet", "test_vit", "convnext_atto", "mobilenetv3_small_050"],
)
def test_vectorised_gradients_equal_looped_ones(name: str) -> None:
    model = make(name)
    replace_batch_norm(model)
    images, labels = batch(3)
    losses, looped = looped_gradients(model, images, labels)
    also, vectorised = vectorised_gradients(model, images, labels)
    torch.testing.assert_close(losses, also)
    difference = flat(looped) - flat(vectorised)
    assert difference.norm() <= 1e-3 * flat(looped).norm()
