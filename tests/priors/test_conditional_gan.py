"""PLG-MI's conditional GAN: pseudo-labels, views and losses, its training, and every field."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

import mibench
from mibench.cell.request import Request
from mibench.cell.resolve import resolve
from mibench.data.images import ImageSet
from mibench.errors import RequestError
from mibench.models.access import BlackBoxTarget, WhiteBoxTarget
from mibench.models.classifiers import Classifier
from mibench.models.margin import margin
from mibench.priors import GanConfig, PriorConfig, PriorJob
from mibench.priors import conditional_gan as module
from mibench.priors._conditional import ConditionalGenerator
from mibench.priors._networks import Critic, Generator
from mibench.priors.conditional_gan import (
    ConditionalGan,
    ConditionalGanPrior,
    augmented,
    confidences,
    pseudo_labels,
)
from mibench.priors.gan import GanPrior, hinge_loss
from mibench.progress import SILENT
from mibench.protocols import Protocol
from mibench.streams import RowStreams, seeded, stream
from tests.kit.problems import (
    CLASSES,
    CPU,
    LATENT,
    RESOLUTION,
    drawn_images,
    public_images,
    tiny_classifier,
    tiny_generator,
)


def normal(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=stream(0, name))


# --- pseudo-labels ----------------------------------------------------------------------------


def test_pseudo_labels_by_hand() -> None:
    """The third class is no image's likeliest, and the second image is one of every class."""
    seen = torch.tensor(
        [[0.90, 0.08, 0.02], [0.45, 0.45, 0.10], [0.10, 0.70, 0.20], [0.60, 0.35, 0.05]]
    )
    assert pseudo_labels(seen, 2).tolist() == [[0, 3], [2, 1], [2, 1]]
    assert pseudo_labels(seen, 3).tolist() == [[0, 3, 1], [2, 1, 3], [2, 1, 3]]
    assert pseudo_labels(seen, 9).shape == (3, 4), "as many as there are"


def test_of_equal_confidences_the_first_images_are_taken() -> None:
    seen = torch.zeros(40, 2)
    seen[[7, 30], 1] = 1
    assert pseudo_labels(seen, 3).tolist() == [[0, 1, 2], [7, 30, 0]]


def test_confidences_are_the_targets_on_every_public_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ROWS", 5)
    target = WhiteBoxTarget(tiny_classifier())
    found = confidences(target, public_images())
    with torch.no_grad():
        wanted = tiny_classifier()(public_images().images / 255).softmax(1)
    torch.testing.assert_close(found.exp(), wanted, rtol=1e-4, atol=1e-6)
    assert target.queries == len(public_images())


# --- losses and views -------------------------------------------------------------------------


def test_the_hinge_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, -0.5, 1.0])
    # (0 + .5 + 2)/3 and (0 + .5 + 2)/3
    assert hinge_loss(real, fake).item() == pytest.approx(5 / 3)
    assert hinge_loss(fake, real).item() == pytest.approx((3 + 1.5 + 0) / 3 * 2)


def test_the_margin_by_hand() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [3.0, -1.0, 0.0], [0.5, 0.5, 0.0]], requires_grad=True)
    found = margin(logits, torch.tensor([1, 2, 0]))
    assert found.tolist() == [-2.0, 3.0, 0.0]
    found[:2].sum().backward()
    assert logits.grad is not None
    assert logits.grad[:2].tolist() == [[0, -1, 1], [1, 0, -1]]


def test_views_are_crops_of_80_percent_or_more_turned_and_jittered() -> None:
    crop = module.CROP
    assert (crop.scale, crop.ratio, crop.mirror, crop.degrees) == ((0.8, 1), (1, 1), True, 5)
    assert (module.JITTER, module.JITTERED) == (0.2, 0.5)
    flat = torch.full((300, 3, 8, 8), 0.5)
    rows = [stream(0, "view", row) for row in range(300)]
    values = augmented(flat, RowStreams(rows, CPU), 0.5, mirror=True)
    assert (values.flatten(1).amax(1) - values.flatten(1).amin(1)).max() < 1e-5
    level = values[:, 0, 0, 0]
    still = (level - 0.5).abs() < 1e-6
    assert 0.4 < still.float().mean() < 0.6
    # Of a flat image contrast changes nothing, and brightness at most a fifth.
    assert 0.4 - 1e-6 <= level.min() < 0.41
    assert 0.59 < level.max() <= 0.6 + 1e-6
    always = augmented(flat, RowStreams(rows, CPU), 1, mirror=True)[:, 0, 0, 0]
    assert ((always - 0.5).abs() < 1e-6).float().mean() < 0.05


def test_digits_have_no_mirrored_views() -> None:
    side = torch.zeros(100, 3, 8, 8)
    side[..., :3] = 1
    rows = [stream(0, "view", row) for row in range(100)]
    for mirror, least in ((True, 0.3), (False, 0.0)):
        view = augmented(side, RowStreams(rows, CPU), 1, mirror)
        right = view[..., 4:].mean((1, 2, 3)) > view[..., :4].mean((1, 2, 3))
        assert (right.float().mean() > 0.3) == mirror
        assert right.float().mean() >= least


# --- training ---------------------------------------------------------------------------------

TRAINED: dict[str, Any] = {
    "steps": 2,
    "critic_steps": 2,
    "batch_size": 8,
    "top_n": 4,
    "learning_rate": 1e-3,
    "ema": 0,
}
SCRATCH = {"start": False, "latent": 6, "generator_width": 2, "critic_width": 2}


def general() -> GanPrior:
    with seeded(3):
        critic = Critic(RESOLUTION, 4)
        generator = Generator(RESOLUTION, LATENT, 2)
        generator(torch.randn(32, LATENT))
    return GanPrior(generator, critic).eval()


def specific(
    target: Classifier | None = None,
    base: GanPrior | None = None,
    seed: int = 0,
    public: ImageSet | None = None,
    **fields: Any,
) -> ConditionalGanPrior:
    start, seen = base or general(), WhiteBoxTarget(target or tiny_classifier())
    job = PriorJob(public or public_images(), lambda: start, seen, stream(seed, "prior"), SILENT)
    return ConditionalGan(ConditionalGan.Config(**{**TRAINED, **fields})).train(job)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([each.detach().clone().reshape(-1) for each in network.parameters()])


def test_it_starts_as_the_general_prior_for_every_class() -> None:
    """Whose images a started generator makes is in test_conditional_networks.py."""
    base = general()
    start = weights(ConditionalGenerator.started(base.generator, CLASSES))
    torch.testing.assert_close(weights(specific(base=base, learning_rate=1e-12)), start)
    assert not torch.allclose(weights(specific(base=base)), start)


def test_from_scratch_it_has_the_published_networks() -> None:
    prior = specific(**SCRATCH)
    assert prior.generator.config == {
        "resolution": RESOLUTION,
        "classes": CLASSES,
        "latent": 6,
        "width": 2,
        "architecture": "plg",
    }
    assert prior.size == 6
    started = ConditionalGan(ConditionalGan.Config()).recipe()
    assert started == "class-conditional GAN, fine-tuned from the general prior"
    scratch = ConditionalGan(ConditionalGan.Config(start=False)).recipe()
    assert scratch == "class-conditional GAN, trained from scratch"


TRAININGS: list[dict[str, Any]] = [
    {"start": False},
    {"top_n": 3},
    {"steps": 3},
    {"critic_steps": 3},
    {"batch_size": 6},
    {"learning_rate": 2e-3},
    {"beta1": 0.5},
    {"beta2": 0.5},
    {"identity_weight": 3},
    {"noise": 0.1},
    {"mirror": False},
    {"ema": 0.5},
    {"latent": 7},
    {"generator_width": 3},
    {"critic_width": 3},
]


@pytest.mark.parametrize("change", TRAININGS, ids=str)
def test_every_training_field_changes_the_prior(change: dict[str, Any]) -> None:
    base = SCRATCH if change.keys() & {"latent", "generator_width", "critic_width"} else {}
    before = weights(specific(**base))
    after = weights(specific(**{**base, **change}))
    assert before.shape != after.shape or (before - after).abs().max() > 1e-6


def test_every_own_field_is_in_the_list_above() -> None:
    own = ConditionalGan.Config.model_fields.keys() - PriorConfig.model_fields.keys()
    assert {next(iter(change)) for change in TRAININGS} == own


def test_the_published_settings() -> None:
    """But for what of the general prior goes on, the steps, the average and mirroring."""
    config = ConditionalGan.Config()
    assert (config.top_n, config.critic_steps, config.batch_size) == (30, 5, 64)
    assert (config.learning_rate, config.beta1, config.beta2) == (2e-4, 0, 0.9)
    assert (config.identity_weight, config.noise, config.latent) == (0.2, 1 / 256, 128)


def test_each_identity_gets_images_that_the_target_takes_for_it() -> None:
    """Of images of the tiny prior, whose identity its latents tell, and a general prior of them."""
    z, found = normal("z", 40, LATENT), []
    for seed in range(3):
        with seeded(seed):
            base = GanPrior(tiny_generator(fold=False), Critic(RESOLUTION, 8)).eval()
        made = specific(
            base=base,
            public=drawn_images(512),
            steps=120,
            critic_steps=1,
            batch_size=32,
            top_n=20,
            learning_rate=1e-2,
        )
        with torch.no_grad():
            before = tiny_classifier()(base.images(z)).softmax(1).mean()
            for label in range(CLASSES):
                own = made.images(z, torch.full((40,), label))
                gained = tiny_classifier()(own).softmax(1)[:, label].mean() - before
                found.append(gained.item())
    assert sum(found) / len(found) > 0.2, found


def test_the_head_keeps_full_precision_where_convolutions_do_not() -> None:
    with seeded(0):
        critic = module.ProjectionDiscriminator(RESOLUTION, CLASSES, 8).eval()
    images, labels = public_images().images[:4] / 255, torch.arange(4)
    with torch.autocast("cpu", torch.bfloat16):
        features, scores = critic.trunk(images), critic(images, labels)
    assert features.dtype is torch.bfloat16
    assert scores.dtype is torch.float32
    torch.testing.assert_close(scores, critic.head(features.float(), labels), rtol=0, atol=0)


@pytest.mark.parametrize("start", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_without_the_targets_loss_it_learns_what_its_images_look_like(start: bool) -> None:
    """Dark images: a generator that learned nothing draws gray ones."""
    images = torch.randint(0, 40, (32, 3, 32, 32), generator=stream(0, "d")).to(torch.uint8)
    dark = ImageSet(images, torch.zeros(32, dtype=torch.long), ("dark",))
    fields: dict[str, Any] = {"critic_steps": 1, "batch_size": 16, "learning_rate": 1e-2}
    made = specific(
        public=dark, steps=40, identity_weight=0, **fields, **({} if start else SCRATCH)
    )
    with torch.no_grad():
        drawn = made.images(normal("z", 30, made.size), torch.arange(30) % CLASSES)
    assert drawn.mean() < 0.35


def test_the_generators_loss_is_less_realism_and_the_weighted_margin_of_a_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Read off the gradients of one step, which are linear in the weight α."""
    base, target, found = general(), tiny_classifier(), {}
    for weight in (0.0, 1.0, 3.0):
        grads: list[Tensor] = []

        class Watched(torch.optim.Adam):
            def step(self, closure: Any = None) -> None:  # type: ignore[override]
                network = [each for group in self.param_groups for each in group["params"]]
                grads.append(torch.cat([each.grad.flatten() for each in network]))  # noqa: B023

        monkeypatch.setattr(torch.optim, "Adam", Watched)
        specific(target, base, steps=1, critic_steps=1, identity_weight=weight)
        assert len(grads) == 2, "one step of each network"
        found[weight] = grads[1]
    margin = found[1.0] - found[0.0]
    assert margin.norm() > 1e-4
    # Convolutions compute in bfloat16.
    torch.testing.assert_close(
        found[3.0], found[0.0] + 3 * margin, rtol=0.1, atol=0.1 * float(margin.abs().max())
    )


def test_real_images_have_noise_from_0_and_are_of_their_pseudo_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the discriminator is shown: the first half of each batch are real images."""
    shown: list[tuple[Tensor, Tensor]] = []
    forward = module.ProjectionDiscriminator.forward

    def watched(self: Any, images: Tensor, labels: Tensor) -> Tensor:
        shown.append((images.detach(), labels))
        return forward(self, images, labels)

    monkeypatch.setattr(module.ProjectionDiscriminator, "forward", watched)
    public = dataclasses.replace(public_images(), mirror=False)
    specific(public=public, noise=0.25 / 255, top_n=2)
    whole = public.images / 255
    chosen = pseudo_labels(confidences(WhiteBoxTarget(tiny_classifier()), public), 2)
    for images, labels in shown[:2]:
        real, own = images[:8], labels[:8]
        assert len(images) == 16
        added = (real[:, None] - whole[None]).flatten(2)
        nearest = added.abs().amax(2).argmin(1)
        noise = added[torch.arange(8), nearest]
        assert noise.min() >= -1e-6
        assert 0.2 / 255 < noise.max() <= 0.25 / 255 + 1e-6
        for image, label in zip(nearest.tolist(), own.tolist(), strict=True):
            assert image in chosen[label].tolist()
    assert len(shown[2][0]) == 8, "the generator's step"


def test_it_needs_white_box_access_and_leaves_the_target_alone() -> None:
    seen = BlackBoxTarget(tiny_classifier())
    job = PriorJob(public_images(), general, seen, stream(0, "prior"), SILENT)
    with pytest.raises(TypeError, match="white-box access"):
        ConditionalGan(ConditionalGan.Config()).train(job)
    target = tiny_classifier()
    before = weights(target)
    specific(target)
    assert all(each.grad is None for each in target.parameters())
    assert torch.equal(weights(target), before)


# --- what cannot be ---------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["latent", "generator_width", "critic_width"])
def test_sizes_are_of_training_from_scratch(field: str) -> None:
    with pytest.raises(ValidationError, match=f"{field} is of networks that are trained from"):
        ConditionalGan.Config.model_validate({field: 32})
    assert ConditionalGan.Config.model_validate({field: 32, "start": False})


def test_it_starts_from_a_general_prior_of_the_same_layers_alone() -> None:
    for gan in (GanConfig(recipe="wgan-gp"), GanConfig(recipe="wgan-gp", architecture="gmi")):
        with pytest.raises(RequestError, match=r"set prior\.start=false"):
            ConditionalGan(ConditionalGan.Config(gan=gan)).check_general()
        ConditionalGan(ConditionalGan.Config(gan=gan, start=False)).check_general()
    wanted: dict[str, Any] = {"protocol": "celeba-64", "attack": "plg-mi"}
    scratch = {"protocol.initialisation": {}}
    assert resolve(Request(**wanted, overrides=scratch))
    with pytest.raises(RequestError, match=r"this one is `gmi` and `wgan-gp`: set prior\.start=f"):
        resolve(Request(**wanted, overrides={**scratch, "prior.start": True}))


def test_a_cell_with_it_and_what_its_record_says(
    tiny: Protocol, tiny_store: Path, tmp_path: Path
) -> None:
    where: dict[str, Any] = {"protocol": tiny.name, "store": tiny_store}
    usual = mibench.run(**where, attack="plg-mi", out=tmp_path / "a")
    assert usual.status == "complete"
    assert usual.prior.recipe == "class-conditional GAN, fine-tuned from the general prior"
    scratch = {f"prior.{name}": value for name, value in SCRATCH.items()}
    pool = {"attack.selection.pool": 8, "attack.selection.candidates": None}
    fields = {**scratch, **pool, "attack.iterations": 2}
    record = mibench.run(
        **where, attack="ppa", prior="conditional-gan", out=tmp_path / "b", overrides=fields
    )
    assert record.status == "complete"
    assert record.prior.recipe == "class-conditional GAN, trained from scratch"
    (cost,) = (each for each in record.costs if each.stage == "reconstructions")
    # Eight latents of each of 5 identities and their mirror images, then 4 rows of each in 2 steps.
    assert cost.queries == 2 * 8 * 5 + 5 * 4 * 2


def test_attacks_that_ask_for_realism_cannot_have_it() -> None:
    for attack in ("gmi", "kedmi"):
        with pytest.raises(RequestError, match="does not score how real images look"):
            resolve(Request(protocol="synthfaces-32", attack=attack, prior="conditional-gan"))
    for attack in ("vmi", "ppa"):
        cell = resolve(Request(protocol="synthfaces-32", attack=attack, prior="conditional-gan"))
        assert cell.prior_name == "conditional-gan"


def test_the_margin_is_a_ratio_of_probabilities() -> None:
    """The same number by another way: the largest softmax ratio of another class, as logarithm."""
    logits, labels = 3 * normal("logits", 20, 6), torch.arange(20) % 6
    p = F.softmax(logits.double(), 1).numpy()
    wanted = [
        np.log(np.delete(row, label).max() / row[label])
        for row, label in zip(p, labels.tolist(), strict=True)
    ]
    np.testing.assert_allclose(margin(logits, labels), wanted, rtol=1e-5, atol=1e-6)
