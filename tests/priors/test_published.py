"""The published networks of GMI and KEDMI: what they compute, and that the whole path takes them.

Sources: generator.py and discri.py of KEDMI's and the seed paper's released code, whose classes are
`Generator`, `DGWGAN` and `MinibatchDiscriminator`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

import mibench
from mibench.attacks.gmi import Gmi
from mibench.attacks.kedmi import Kedmi
from mibench.attacks.vmi import Vmi
from mibench.cell.request import Request
from mibench.cell.resolve import resolve
from mibench.inversion.attack import Attack
from mibench.models.access import WhiteBoxTarget
from mibench.models.freeze import freeze
from mibench.priors import GanConfig, Prior, PriorConfig, PriorJob
from mibench.priors._networks import Critic, Generator
from mibench.priors.gan import Gan, GanPrior
from mibench.priors.inversion_gan import (
    Discriminator,
    InversionGan,
    InversionGanPrior,
)
from mibench.progress import SILENT
from mibench.protocols import Protocol
from mibench.streams import stream
from tests.kit.problems import (
    CLASSES,
    LATENT,
    RESOLUTION,
    public_images,
    reconstruct,
    tiny_classifier,
    tiny_problem,
)

SCRATCH = {"protocol.initialisation": {}}


def parameters(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def seeded(make: Any, *args: Any, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(*args, **options)


def gmi_generator(resolution: int = RESOLUTION, latent: int = LATENT, width: int = 4) -> Generator:
    """With BatchNorm statistics of its own latents."""
    generator: Generator = seeded(Generator, resolution, latent, width, "gmi")
    with torch.no_grad():
        for step in range(20):
            generator(torch.randn(64, latent, generator=stream(0, step)))
    return generator.eval()


@pytest.mark.parametrize("protocol", ["celeba-64", "celeba-ffhq-64", "lfw-64"])
def test_the_papers_protocols_have_networks_of_the_published_sizes(protocol: str) -> None:
    cell = resolve(Request(protocol=protocol, attack="kedmi", overrides=SCRATCH))
    own = cell.prior_config
    assert isinstance(own, InversionGan.Config)
    gan = own.gan
    with torch.device("meta"):
        generator = Generator(64, gan.latent, gan.generator_width, gan.architecture)
        general = Critic(64, gan.critic_width, norm="instance", architecture=gan.architecture)
        specific = Discriminator(64, gan.critic_width, 1000, "instance", "kedmi")
    assert own.critic == "kedmi"
    assert parameters(generator) == 5_142_083
    assert parameters(general) == 4_316_545
    assert parameters(specific) == 18_888_936


def test_the_papers_protocols_train_as_long_as_published() -> None:
    """30,000 images in batches of 64: GMI's loader keeps the last 48, KEDMI's drops them."""
    cell = resolve(Request(protocol="celeba-64", attack="kedmi", overrides=SCRATCH))
    own = cell.prior_config
    assert isinstance(own, InversionGan.Config)
    gan = own.gan
    assert gan.steps == 280 * 469 // gan.critic_steps == 26_264
    assert (own.steps, own.steps // own.generator_every) == (56_160, 11_232)
    assert (gan.schedule, gan.ema, gan.mirror, gan.recipe) == ("constant", 0, False, "wgan-gp")
    assert (own.start, own.ema, own.mirror, own.fresh_batch) == (False, 0, False, True)


def test_the_pinned_networks_stay_this_suites_own() -> None:
    for protocol in ("synthfaces-32", "synthfaces-64", "lfw-64-small", "mnist-32-small"):
        cell = resolve(Request(protocol=protocol, attack="kedmi"))
        assert isinstance(cell.prior_config, InversionGan.Config)
        assert cell.prior_config.gan.architecture == "dcgan"
        assert cell.prior_config.critic == "general"


def test_the_generator_is_linear_and_four_transposed_convolutions() -> None:
    generator = gmi_generator(64, 10, 2)
    weights = generator.state_dict()
    latents = torch.randn(3, 10, generator=stream(0, "latents"))

    def normed(hidden: Tensor, at: int) -> Tensor:
        kept = [f"blocks.{at}.{name}" for name in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(hidden, *(weights[name] for name in kept)))

    hidden = normed(latents @ weights["project.weight"].T, 0).view(3, 16, 4, 4)
    for at, channels in ((3, 8), (6, 4), (9, 2)):
        kernel = weights[f"blocks.{at}.weight"]
        assert kernel.shape[1:] == (channels, 5, 5)
        up = F.conv_transpose2d(hidden, kernel, stride=2, padding=2, output_padding=1)
        hidden = normed(up, at + 1)
    last, bias = weights["to_rgb.weight"], weights["to_rgb.bias"]
    images = F.conv_transpose2d(hidden, last, bias, stride=2, padding=2, output_padding=1).sigmoid()
    assert images.shape == (3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(generator(latents), images)


def test_gmis_critic_is_five_convolutions_on_images_as_they_are() -> None:
    critic: Critic = seeded(Critic, 64, 2, "instance", "gmi")
    weights, images = critic.state_dict(), torch.rand(3, 3, 64, 64, generator=stream(0, "images"))
    hidden = images
    for at, norm in ((0, None), (2, 3), (5, 6), (8, 9)):
        kernel, bias = weights[f"trunk.{at}.weight"], weights[f"trunk.{at}.bias"]
        hidden = F.conv2d(hidden, kernel, bias, stride=2, padding=2)
        if norm is not None:
            scale = (weights[f"trunk.{norm}.weight"], weights[f"trunk.{norm}.bias"])
            hidden = F.instance_norm(hidden, weight=scale[0], bias=scale[1])
        hidden = F.leaky_relu(hidden, 0.2)
    assert hidden.shape == (3, 16, 4, 4)
    whole = weights["head.weight"].view(1, 16, 4, 4)  # its last convolution covers the map
    with torch.no_grad():
        found = critic(images)
    torch.testing.assert_close(found, F.conv2d(hidden, whole, weights["head.bias"]).view(-1))


@pytest.mark.parametrize(("resolution", "kernels"), [(32, [5, 5, 5]), (64, [5, 5, 5, 3])])
def test_kedmis_critic_is_normed_convolutions_on_images_as_they_are(
    resolution: int, kernels: list[int]
) -> None:
    critic: Discriminator = seeded(Discriminator, resolution, 2, 7, "instance", "kedmi")
    weights = critic.state_dict()
    images = torch.rand(3, 3, resolution, resolution, generator=stream(0, "images"))
    hidden = images
    for stage, kernel in enumerate(kernels):
        at = 3 * stage
        convolution = weights[f"trunk.{at}.weight"]
        assert convolution.shape[0] == (2, 4, 8, 8)[stage]
        assert convolution.shape[2:] == (kernel, kernel)
        bias = weights[f"trunk.{at}.bias"]
        hidden = F.conv2d(hidden, convolution, bias, stride=2, padding=kernel // 2)
        scale = (weights[f"trunk.{at + 1}.weight"], weights[f"trunk.{at + 1}.bias"])
        hidden = F.leaky_relu(F.instance_norm(hidden, weight=scale[0], bias=scale[1]), 0.2)
    features = hidden.flatten(1)
    assert features.shape == (3, 128)
    with torch.no_grad():
        torch.testing.assert_close(critic.trunk(images), features)
        assert critic(images).shape == (3, 7)
    assert critic.minibatch.project.weight.shape == (64 * 50, 128)


@pytest.mark.parametrize(
    ("architecture", "std", "alive"),
    [("kedmi", 1.0, False), ("kedmi", 0.002, True), ("dcgan", 0.02, True)],
)
def test_the_released_kernels_are_dead_and_ours_are_alive(
    architecture: str, std: float, alive: bool
) -> None:
    """At a deviation of 1 every exponential of 4,096 features underflows, gradients with it."""
    images = torch.rand(8, 3, 64, 64, generator=stream(0, "images"))
    critic = seeded(Discriminator, 64, 64, 5, "instance", architecture, kernel_std=std)
    for bank in (None, critic.minibatch.embed(critic.trunk(images.flip(0)[:3]))):
        closeness = critic.minibatch(critic.trunk(images), bank)[:4, -64:]
        kernels = critic.minibatch.project.weight
        (gradient,) = torch.autograd.grad(closeness.sum(), kernels, retain_graph=True)
        assert bool((closeness > 0).any()) == alive
        assert bool((gradient != 0).any()) == alive


def test_published_critics_have_instance_normalisation() -> None:
    with pytest.raises(ValueError, match="have instance normalisation, not 'spectral'"):
        Critic(32, 4, architecture="gmi")
    for architecture in ("gmi", "kedmi"):
        with pytest.raises(ValueError, match="have instance normalisation, not 'none'"):
            Discriminator(32, 4, 5, architecture=architecture)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="trained by the recipe `wgan-gp`, not `hinge`"):
        GanConfig(architecture="gmi")
    with pytest.raises(ValidationError, match="cannot start from it: set start=false"):
        InversionGan.Config(critic="kedmi")


@pytest.mark.parametrize("resolution", [8, 10, 32, 112])
def test_shapes_and_range_at_other_resolutions(resolution: int) -> None:
    generator: Generator = seeded(Generator, resolution, 7, 2, "gmi").eval()
    with torch.no_grad():
        images = generator(50 * torch.randn(3, 7, generator=stream(0, "latents")))
        assert images.shape == (3, 3, resolution, resolution)
        assert images.min() >= 0
        assert images.max() <= 1
        assert seeded(Critic, resolution, 2, "instance", "gmi")(images).shape == (3,)
        for architecture in ("gmi", "kedmi"):
            critic = seeded(Discriminator, resolution, 2, 5, "instance", architecture)
            assert critic(images).shape == (3, 5)


def test_all_batchnorms_of_the_published_generator_are_folded() -> None:
    generator = gmi_generator()
    latents = torch.randn(5, LATENT, generator=stream(0, "latents"))
    folded = freeze(generator, latents)
    norms = nn.modules.batchnorm._BatchNorm
    assert sum(isinstance(each, norms) for each in generator.modules()) == 3
    assert not any(isinstance(each, norms) for each in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(latents), generator(latents), rtol=1e-4, atol=1e-5)


def published_prior(kind: str) -> Prior:
    """A small frozen prior of published networks."""
    generator = gmi_generator()
    if kind == "gan":
        critic = seeded(Critic, RESOLUTION, 4, "instance", "gmi")
        return GanPrior(generator, critic).eval().requires_grad_(False)
    discriminator = seeded(Discriminator, RESOLUTION, 4, CLASSES, "instance", "kedmi")
    with torch.no_grad():
        images = generator(torch.randn(59, LATENT, generator=stream(0, "bank")))
        bank = discriminator.minibatch.embed(discriminator.trunk(images))
    return InversionGanPrior(generator, discriminator, bank).eval().requires_grad_(False)


KINDS = {"gan": Gan, "inversion-gan": InversionGan}


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_prior_survives_being_written_down(kind: str) -> None:
    prior = published_prior(kind)
    again = KINDS[kind].load(prior.description(), prior.tensors())
    critic = "critic" if kind == "gan" else "discriminator"
    assert again.description()["generator"]["architecture"] == "gmi"
    assert again.description()[critic]["architecture"] == ("gmi" if kind == "gan" else "kedmi")
    latents = torch.randn(3, LATENT, generator=stream(0, "latents"))
    with torch.no_grad():
        images = prior.images(latents)
        assert torch.equal(again.images(latents), images)
        torch.testing.assert_close(again.realism(images), prior.realism(images))


ATTACKS: list[tuple[type[Attack], dict[str, Any]]] = [
    (Gmi, {"iterations": 3, "learning_rate": 1}),
    (Kedmi, {"iterations": 3, "learning_rate": 0.1}),
    (Vmi, {"iterations": 2, "samples_per_step": 2}),
]


@pytest.mark.usefixtures("double_precision")
def test_attacks_run_on_published_priors() -> None:
    """Identities stay independent of their batch mates, and the prior is left as it was."""
    for attack, fields in ATTACKS:
        frozen = published_prior(str(attack.prior)).frozen(public_images().images[:2] / 255)

        def run(labels: tuple[int, ...]) -> Tensor:
            problem = dataclasses.replace(tiny_problem(attack, labels), prior=frozen)  # noqa: B023
            return reconstruct(attack(attack.Config(**fields)), problem)  # noqa: B023

        together = run((0, 1, 2))
        assert together.shape == (3, 2, 3, RESOLUTION, RESOLUTION)
        torch.testing.assert_close(run((1,)), together[1:2], rtol=0, atol=1e-9)
        assert all(each.grad is None for each in frozen.parameters())


def test_gradients_reach_the_latents_through_both_critics() -> None:
    for kind in KINDS:
        prior = published_prior(kind)
        latents = torch.randn(4, LATENT, generator=stream(0, "latents")).requires_grad_(True)
        (gradient,) = torch.autograd.grad(prior.realism(prior.images(latents)).sum(), latents)
        assert torch.isfinite(gradient).all()
        assert (gradient.abs().sum(1) > 0).all()


def test_a_cell_with_the_published_priors_and_what_its_record_says(
    tiny: Protocol, tiny_store: Path, tmp_path: Path
) -> None:
    general = {"recipe": "wgan-gp", "architecture": "gmi", "ema": 0, "mirror": False}
    own = {"start": False, "critic": "kedmi", "kernel_std": 1, "fresh_batch": True, "ema": 0}
    settings = {f"prior.gan.{name}": value for name, value in general.items()}
    settings |= {f"prior.{name}": value for name, value in own.items()}
    record = mibench.run(
        protocol=tiny.name, attack="kedmi", overrides=settings, store=tiny_store, out=tmp_path
    )
    assert record.status == "complete"
    assert record.prior.recipe == "target-specific GAN, trained from scratch"
    assert record.prior.resolved["gan"]["architecture"] == "gmi"
    usual = mibench.run(protocol=tiny.name, attack="kedmi", store=tiny_store, out=tmp_path / "b")
    assert usual.prior.recipe == "target-specific GAN, fine-tuned from the general prior"


SMALL: dict[str, Any] = {
    "recipe": "wgan-gp",
    "architecture": "gmi",
    "schedule": "constant",
    "mirror": False,
    "steps": 4,
    "critic_steps": 2,
    "batch_size": 8,
    "latent": LATENT,
    "generator_width": 4,
    "critic_width": 4,
}


def general(ema: float = 0.0, seed: int = 0) -> GanPrior:
    config = PriorConfig(gan=GanConfig(**{**SMALL, "ema": ema}))
    rng = stream(seed, "gan")
    job = PriorJob(public_images(), lambda: pytest.fail("it is the general one"), None, rng, SILENT)
    return Gan(config).train(job)


def test_the_published_gans_train_from_scratch_and_the_seed_alone_decides() -> None:
    cell = resolve(Request(protocol="celeba-64", attack="kedmi", overrides=SCRATCH))
    assert isinstance(cell.prior_config, InversionGan.Config)
    brief = {"steps": 4, "generator_every": 2, "batch_size": 8}
    kind = InversionGan(cell.prior_config.model_copy(update=brief))

    def specific(seed: int) -> tuple[GanPrior, InversionGanPrior]:
        base, target = general(seed=seed), WhiteBoxTarget(tiny_classifier())
        rng = stream(seed, "prior")
        return base, kind.train(PriorJob(public_images(), lambda: base, target, rng, SILENT))

    base, first = specific(0)
    assert kind.recipe() == "target-specific GAN, trained from scratch"
    assert first.generator.config == base.generator.config
    assert first.discriminator.config == {
        **base.critic.config,
        "architecture": "kedmi",
        "classes": CLASSES,
    }
    for own, other in zip(first.generator.parameters(), base.generator.parameters(), strict=True):
        assert own.dim() < 2 or not torch.allclose(own, other, atol=1e-3)
    tensors = first.tensors()
    assert all(torch.isfinite(each).all() for each in tensors.values())
    again, elsewhere = specific(0)[1].tensors(), specific(1)[1].tensors()
    assert all(torch.equal(value, again[name]) for name, value in tensors.items())
    name = "generator.project.weight"
    assert not torch.equal(tensors[name], elsewhere[name])


def test_published_networks_keep_pytorchs_initial_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing starts normal with deviation 0.02, as this suite's generators do."""
    monkeypatch.setattr(nn.init, "normal_", lambda *_, **__: pytest.fail("a normal start"))
    assert general().generator.config["architecture"] == "gmi"


def test_without_a_moving_average_the_last_weights_are_kept() -> None:
    assert (vector(general(0)) - vector(general(0.5))).abs().max() > 1e-5


def vector(prior: GanPrior) -> Tensor:
    return torch.cat([each.detach().reshape(-1) for each in prior.generator.parameters()])
