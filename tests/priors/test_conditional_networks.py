"""Class-conditional networks: the published layers, and those that start from the general prior."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from mibench.errors import RequestError
from mibench.models.freeze import freeze
from mibench.priors._conditional import (
    ConditionalBatchNorm,
    ConditionalGenerator,
    ProjectionDiscriminator,
    ProjectionHead,
    conditional_trunk,
    started_trunk,
)
from mibench.priors._networks import Critic, Generator
from mibench.streams import seeded, stream

CLASSES = 5
ARCHITECTURES = ["plg", "dcgan"]


def normal(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=stream(0, name))


def images(count: int = 4, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=stream(0, "images"))


def made(cls: Any, *args: Any, **options: Any) -> Any:
    with seeded(0):
        return cls(*args, **options)


@torch.no_grad()
def general(resolution: int = 32) -> tuple[Generator, Critic]:
    """A general prior's networks: statistics of its own latents, weights with their norm baked."""
    generator, critic = made(Generator, resolution, 7, 4), made(Critic, resolution, 8)
    for step in range(20):
        critic(generator(normal(f"general {step}", 32, 7)))
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.copy_(1 + 0.3 * normal("gain", module.num_features))
            module.bias.copy_(0.3 * normal("bias", module.num_features))
    return generator.eval(), critic.eval().bake()


@pytest.mark.parametrize("resolution", [8, 10, 32, 112])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shapes_and_range(architecture: Any, resolution: int) -> None:
    generator = made(ConditionalGenerator, resolution, CLASSES, 7, 2, architecture).eval()
    critic = made(ProjectionDiscriminator, resolution, CLASSES, 2, architecture)
    labels = torch.tensor([0, 4, 2])
    with torch.no_grad():
        pictures = generator(50 * normal("latents", 3, 7), labels)
        assert pictures.shape == (3, 3, resolution, resolution)
        assert pictures.min() >= 0
        assert pictures.max() <= 1
        assert critic(pictures, labels).shape == (3,)
        assert critic.trunk(pictures).shape == (3, critic.trunk.size)
    for make in (ConditionalGenerator, ProjectionDiscriminator):
        with pytest.raises(RequestError, match="36 is not"):
            make(36, CLASSES, architecture=architecture)  # type: ignore[operator]


def count(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def test_the_published_networks_have_their_sizes() -> None:
    """At 64 pixels and for 1,000 classes: 128 → 4×4×1024 → 512 → 256 → 128 → 64 → 3, and back."""
    with torch.device("meta"):
        generator = ConditionalGenerator(64, 1000)
        critic = ProjectionDiscriminator(64, 1000)
        small, wide = ConditionalGenerator(32, 1000), ConditionalGenerator(224, 1000, width=32)
    # An up-block a → b: gains and biases 2·1000·(a + b), 9ab + b, 9bb + b, 1×1: ab + b.
    widths = [(1024, 512), (512, 256), (256, 128), (128, 64)]
    blocks = [2_000 * (a + b) + 9 * a * b + 9 * b * b + a * b + 3 * b for a, b in widths]
    for block, expected in zip(generator.blocks, blocks, strict=True):
        assert count(block) == expected
    # The linear layer 128·16,384 + 16,384; at the end BatchNorm 2·64 and 1×1: 3·64 + 3.
    assert count(generator) == 2_113_536 + sum(blocks) + 128 + 195
    # 3 → 64: 1,792 + 36,928 + 256; a → 2a: 9aa + a, 18aa + 2a, 2aa + 2a; the linear head 1,025.
    downs = [38_976] + [29 * a * a + 5 * a for a in (64, 128, 256, 512)]
    assert [count(each) for each in critic.trunk][:5] == downs
    assert count(critic) == sum(downs) + 1_025 + 1_024_000
    assert [len(each.blocks) for each in (small, generator, wide)] == [3, 4, 5]
    assert [each.project[0].out_features for each in (small, wide)] == [512 * 16, 1024 * 49]


def test_the_published_generator_layer_by_layer() -> None:
    """Twice BatchNorm of the class, ReLU, 3×3; what is added is enlarged before its 1×1."""
    generator = made(ConditionalGenerator, 16, CLASSES, 6, 2)
    with torch.no_grad():
        for module in generator.modules():
            if isinstance(module, ConditionalBatchNorm):
                module.gain.copy_(1 + 0.3 * normal("gain", *module.gain.shape))
                module.bias.copy_(0.3 * normal("bias", *module.bias.shape))
        for step in range(20):
            generator(normal(f"warm {step}", 32, 6), torch.arange(32) % CLASSES)
    generator.eval()
    weights, z, y = generator.state_dict(), normal("z", 4, 6), torch.tensor([3, 0, 3, 1])

    def normed(maps: Tensor, at: str) -> Tensor:
        mean, var = (weights[f"{at}.norm.running_{each}"] for each in ("mean", "var"))
        rows = [
            F.batch_norm(
                maps[i : i + 1], mean, var, weights[f"{at}.gain"][k], weights[f"{at}.bias"][k]
            )
            for i, k in enumerate(y.tolist())
        ]
        return torch.cat(rows).relu()

    def conv(maps: Tensor, at: str) -> Tensor:
        weight = weights[f"{at}.weight"]
        return F.conv2d(maps, weight, weights[f"{at}.bias"], padding=weight.shape[2] // 2)

    hidden = F.linear(z, weights["project.0.weight"], weights["project.0.bias"]).view(4, 8, 4, 4)
    for block in ("blocks.0", "blocks.1"):
        up = nn.Upsample(scale_factor=2, mode="bilinear")
        residual = conv(up(normed(hidden, f"{block}.norm1")), f"{block}.conv1")
        residual = conv(normed(residual, f"{block}.norm2"), f"{block}.conv2")
        hidden = residual + conv(up(hidden), f"{block}.shortcut")
    assert hidden.shape == (4, 2, 16, 16)
    last = [weights[f"to_rgb.0.{each}"] for each in ("running_mean", "running_var")]
    affine = [weights[f"to_rgb.0.{each}"] for each in ("weight", "bias")]
    expected = conv(F.batch_norm(hidden, *last, *affine).relu(), "to_rgb.2").sigmoid()
    with torch.no_grad():
        torch.testing.assert_close(generator(z, y), expected, rtol=1e-4, atol=1e-5)


def test_the_published_discriminator_layer_by_layer() -> None:
    critic = made(ProjectionDiscriminator, 16, CLASSES, 2).eval()
    x, y = images(4, 16), torch.tensor([3, 0, 3, 1])

    def conv(maps: Tensor, layer: nn.Module) -> Tensor:
        weight = layer.parametrizations.weight.original  # type: ignore[union-attr,index]
        u, v = (getattr(layer.parametrizations.weight[0], f"_{each}") for each in "uv")  # type: ignore[index,union-attr]
        weight = weight / (u @ weight.flatten(1) @ v)
        return F.conv2d(maps, weight, layer.bias, padding=weight.shape[2] // 2)  # type: ignore[arg-type]

    hidden = x
    for at, block in enumerate(list(critic.trunk)[:3]):
        residual = conv(hidden if at == 0 else hidden.relu(), block.conv1)
        residual = F.avg_pool2d(conv(residual.relu(), block.conv2), 2)
        hidden = residual + F.avg_pool2d(conv(hidden, block.shortcut), 2)
    assert hidden.shape == (4, 8, 2, 2)
    features = hidden.relu().sum((2, 3))
    w, v = critic.head.linear.weight[0], critic.head.embedding.weight
    expected = features @ w + critic.head.linear.bias + (features * v[y]).sum(1)
    with torch.no_grad():
        torch.testing.assert_close(critic.trunk(x), features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(critic(x, y), expected, rtol=1e-4, atol=1e-5)


def test_every_layer_of_the_discriminators_has_spectral_norm() -> None:
    for architecture in ("plg", "dcgan"):
        critic = made(ProjectionDiscriminator, 32, CLASSES, 4, architecture)
        layers = [m for m in critic.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(layers) == {"plg": 13, "dcgan": 5}[architecture]
        for _ in range(60):  # power iterations
            critic(images(), torch.zeros(4, dtype=torch.long))
        for layer in [*layers, *([critic.head.embedding] if architecture == "plg" else [])]:
            assert is_parametrized(layer, "weight")
            value = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
            assert value.item() == pytest.approx(1, abs=0.05)


def test_the_projection_by_hand() -> None:
    head = ProjectionHead(3, 2, normed=False).eval()
    with torch.no_grad():
        head.linear.weight = torch.tensor([[0.6, 0.0, 0.8]])
        head.linear.bias.fill_(0.5)
        for _ in range(5):
            head.train()(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long))
        head.embedding.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 0.0]]))
        features = torch.tensor([[1.0, 2.0, 0.5], [1.0, 2.0, 0.5]])
        found = head.eval()(features, torch.tensor([0, 1]))
    # .6 + .4 + .5 = 1.5, and 1 + 4 + 1.5 of the first class, −2 of the second.
    np.testing.assert_allclose(found, [8.0, -0.5], rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_batchnorm_of_a_class_by_hand(training: bool) -> None:
    layer = ConditionalBatchNorm(2, 3)
    with torch.no_grad():
        layer.gain.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        layer.bias.copy_(torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]))
        layer.norm.running_mean.copy_(torch.tensor([0.5, -0.5]))  # type: ignore[union-attr]
        layer.norm.running_var.copy_(torch.tensor([4.0, 9.0]))  # type: ignore[union-attr]
    maps, labels = normal("maps", 4, 2, 3, 3), torch.tensor([2, 0, 1, 2])
    mean, var = np.array([0.5, -0.5]), np.array([4.0, 9.0])
    if training:
        mean, var = (getattr(maps.numpy(), each)((0, 2, 3)) for each in ("mean", "var"))
    expected = (maps.numpy() - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
    for row, label in enumerate(labels.tolist()):
        gain, bias = layer.gain[label].detach().numpy(), layer.bias[label].detach().numpy()
        expected[row] = gain[:, None, None] * expected[row] + bias[:, None, None]
    with torch.no_grad():
        np.testing.assert_allclose(layer.train(training)(maps, labels), expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_class_has_its_own_images_and_a_row_no_batch_mates(architecture: Any) -> None:
    generator = made(ConditionalGenerator, 16, CLASSES, 6, 2, architecture).eval()
    z = normal("z", 1, 6).expand(CLASSES, 6)
    labels = torch.arange(CLASSES)
    with torch.no_grad():
        same = generator(z, labels)
        torch.testing.assert_close(same, same[:1].expand_as(same))
        for module in generator.modules():
            if isinstance(module, ConditionalBatchNorm):
                module.gain[2] *= 2
        own = generator(z, labels)
        changed = (own - same).abs().amax((1, 2, 3))
        assert changed[2] > 1e-3
        assert changed[[0, 1, 3, 4]].max() < 1e-6
        torch.testing.assert_close(generator(z[2:3], labels[2:3]), own[2:3])


def test_a_started_generator_makes_the_general_priors_images_of_any_class() -> None:
    generator, _ = general()
    own = ConditionalGenerator.started(generator, CLASSES)
    z, y = normal("z", 8, 7), torch.arange(8) % CLASSES
    with torch.no_grad():
        torch.testing.assert_close(own.eval()(z, y), generator(z), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(own.train()(z, y), generator.train()(z), rtol=1e-5, atol=1e-5)
    assert own.config == {
        "resolution": 32,
        "classes": CLASSES,
        "latent": 7,
        "width": 4,
        "architecture": "dcgan",
    }


def test_a_started_discriminator_scores_as_the_general_critic_for_any_class() -> None:
    _, critic = general()
    own = ProjectionDiscriminator.started(critic, CLASSES)
    x, y = images(8), torch.arange(8) % CLASSES
    with torch.no_grad():
        scores = critic(x)
        assert scores.std() > 1e-3
        for training in (False, True):
            torch.testing.assert_close(own.train(training)(x, y), scores, rtol=2e-2, atol=2e-3)
        torch.testing.assert_close(started_trunk(critic)(x), critic.trunk(x), rtol=2e-2, atol=2e-3)
    own(x, y).sum().backward()
    gradient = own.head.embedding.weight.grad
    assert gradient is not None
    assert (gradient.abs().sum(1) > 0).all(), "classes can come apart"


def test_networks_start_from_those_of_the_same_layers_alone() -> None:
    for network in (made(Generator, 32, 7, 4, "gmi"), made(Critic, 32, 4, "instance", "gmi")):
        cls = ConditionalGenerator if isinstance(network, Generator) else ProjectionDiscriminator
        with pytest.raises(ValueError, match="of the architecture `dcgan`, not from"):
            cls.started(network, CLASSES)
    with pytest.raises(ValueError, match="of the architecture `dcgan`, not from"):
        started_trunk(made(Critic, 32, 4))  # its spectral norm is not baked


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_generator_is_frozen_for_attacks(architecture: Any) -> None:
    generator = made(ConditionalGenerator, 16, CLASSES, 6, 2, architecture)
    z, y = normal("z", 3, 6), torch.tensor([1, 1, 4])
    frozen = freeze(generator, z, fold=False)
    assert not any(each.requires_grad for each in frozen.parameters())
    rows = z.clone().requires_grad_(True)
    pictures = frozen(rows, y)
    pictures.sum().backward()
    assert rows.grad is not None
    assert (rows.grad.abs().sum(1) > 0).all()
    with torch.no_grad():
        torch.testing.assert_close(pictures, generator.eval()(z, y), rtol=1e-4, atol=1e-5)


def test_other_heads_go_on_the_same_trunk() -> None:
    trunk = made(conditional_trunk, 32, 4)
    assert trunk.size == 32
    assert nn.Linear(trunk.size, 7)(trunk(images())).shape == (4, 7)
