"""RoLSS: one block of each family against its formula, and which blocks are changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from mibench.data.images import ImageSet
from mibench.defenses import rolss
from mibench.defenses.rolss import FAMILIES, Rolss
from mibench.errors import RequestError
from mibench.models.classifiers import Classifier
from mibench.models.freeze import freeze
from mibench.streams import seeded, stream
from mibench.training.loop import TrainingConfig, train
from tests.kit import training

ARCHITECTURES = (
    "test_resnet",
    "test_byobnet",
    "test_convnext",
    "test_vit",
    "test_nfnet",
    "test_mambaout",
    "regnetx_002",
    "mobilenetv3_small_050",
    "edgenext_xx_small",
    "ghostnet_050",
    "densenet121",
)


def classifier(architecture: str, removed: float | None = None, resolution: int = 32) -> Classifier:
    """Its weights all differ from each other, as trained ones do; None: without RoLSS."""
    with seeded(3), torch.no_grad():
        model = Classifier(architecture, 4, resolution).eval()
        for values in model.backbone.parameters():  # type: ignore[attr-defined]
            values.add_(0.1 * torch.randn_like(values))
        for name, values in model.backbone.named_buffers():  # type: ignore[attr-defined]
            if name.endswith("running_var"):
                values.mul_(0.5 + torch.rand_like(values))
    return model if removed is None else Rolss(Rolss.Config(removed=removed)).built(model)


def basic(block: Any, x: Tensor, s: float) -> Tensor:
    branch = block.bn2(block.conv2(block.act1(block.bn1(block.conv1(x)))))
    return F.relu(branch + s * (x if block.downsample is None else block.downsample(x)))


def regnet(block: Any, x: Tensor, s: float) -> Tensor:
    branch = block.conv3(block.conv2(block.conv1(x)))
    return F.relu(branch + s * block.downsample(x))


def byob(block: Any, x: Tensor, s: float) -> Tensor:
    branch = block.conv2b_kxk(block.conv2_kxk(block.conv1_1x1(x)))
    return block.act(block.conv3_1x1(block.attn(branch)) + s * block.shortcut(x))  # type: ignore[no-any-return]


def convnext(block: Any, x: Tensor, s: float) -> Tensor:
    hidden = block.conv_dw(x).permute(0, 2, 3, 1)
    branch = (block.mlp(block.norm(hidden)) * block.gamma).permute(0, 3, 1, 2)
    return branch + s * x


def inverted(block: Any, x: Tensor, s: float) -> Tensor:
    hidden = block.bn2(block.conv_dw(block.bn1(block.conv_pw(x))))
    return block.bn3(block.conv_pwl(block.se(hidden))) + s * x  # type: ignore[no-any-return]


def ghost(block: Any, x: Tensor, s: float) -> Tensor:
    hidden = block.ghost1(x)
    if block.conv_dw is not None:
        hidden = block.bn_dw(block.conv_dw(hidden))
    hidden = hidden if block.se is None else block.se(hidden)
    return block.ghost2(hidden) + s * block.shortcut(x)  # type: ignore[no-any-return]


def gated(block: Any, x: Tensor, s: float) -> Tensor:
    gate, plain, seen = block.fc1(block.norm(x)).split(block.split_indices, -1)
    seen = block.conv(seen.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return block.ls(block.fc2(block.act(gate) * torch.cat([plain, seen], -1))) + s * x  # type: ignore[no-any-return]


def norm_free(block: Any, x: Tensor, s: float) -> Tensor:
    start = block.act1(x) * block.beta
    out = block.conv2(block.act2(block.conv1(start)))
    out = out if block.conv2b is None else block.conv2b(block.act2b(out))
    out = block.attn_gain * block.attn_last(block.conv3(block.act3(out)))
    skip = x if block.downsample is None else block.downsample(start)
    gain = 1 if block.skipinit_gain is None else block.skipinit_gain
    return block.alpha * gain * out + s * skip  # type: ignore[no-any-return]


def attention(block: Any, x: Tensor, s: float) -> Tensor:
    """A transformer block from its weights alone."""
    count, tokens, size = x.shape
    heads = block.attn.num_heads
    normed = F.layer_norm(x, (size,), block.norm1.weight, block.norm1.bias, block.norm1.eps)
    q, k, v = (
        part.view(count, tokens, heads, -1).transpose(1, 2)
        for part in block.attn.qkv(normed).chunk(3, -1)
    )
    weights = (q @ k.transpose(-1, -2) / (size // heads) ** 0.5).softmax(-1)
    mixed = (weights @ v).transpose(1, 2).reshape(count, tokens, size)
    x = s * x + block.ls1(block.attn.proj(mixed))
    normed = F.layer_norm(x, (size,), block.norm2.weight, block.norm2.bias, block.norm2.eps)
    return s * x + block.ls2(block.mlp.fc2(F.gelu(block.mlp.fc1(normed))))  # type: ignore[no-any-return]


def windows(block: Any, x: Tensor, s: float) -> Tensor:
    x = s * x + block.ls1(block._partition_attn(block.norm1(x)))
    return s * x + block.ls2(block.mlp(block.norm2(x)))  # type: ignore[no-any-return]


def mbconv(block: Any, x: Tensor, s: float) -> Tensor:
    hidden = block.norm1(block.conv1_1x1(block.down(block.pre_norm(x))))
    hidden = block.norm2(block.conv2_kxk(hidden))
    return block.conv3_1x1(block.se(hidden)) + s * block.shortcut(x)  # type: ignore[no-any-return]


Formula = Callable[[Any, Tensor, float], Tensor]
BLOCKS: list[tuple[str, str, Formula]] = [
    ("test_resnet", "layer4.0", basic),  # its skip is projected
    ("resnet18", "layer4.1", basic),  # and here it is not
    ("regnetx_002", "s4.b1", regnet),
    ("regnetx_002", "s4.b2", regnet),
    ("test_byobnet", "stages.3.0", byob),
    ("test_convnext", "stages.1.blocks.1", convnext),
    ("edgenext_xx_small", "stages.3.blocks.0", convnext),
    ("mobilenetv2_035", "blocks.5.1", inverted),
    ("mobilenetv3_small_050", "blocks.4.1", inverted),
    ("ghostnet_050", "blocks.8.0", ghost),
    ("test_mambaout", "stages.3.blocks.0", gated),
    ("test_nfnet", "stages.3.0", norm_free),
    ("dm_nfnet_f0", "stages.3.1", norm_free),
    ("test_vit", "blocks.0", attention),
    ("deit_tiny_patch16_224", "blocks.0", attention),
    ("maxvit_pico_rw_256", "stages.1.blocks.0.attn_grid", windows),
    ("maxvit_pico_rw_256", "stages.0.blocks.1.conv", mbconv),
]


@pytest.mark.parametrize(
    ("architecture", "name", "formula"), BLOCKS, ids=[f"{each[0]}-{each[1]}" for each in BLOCKS]
)
def test_blocks_compute_the_formula(architecture: str, name: str, formula: Formula) -> None:
    """F(x) + s·x, for no skip, a half, and with the whole one what timm's own block computes."""
    size = 64 if "_224" in architecture or "maxvit" in architecture else 32
    size = 32 if architecture.startswith("deit") else size
    plain = classifier(architecture, resolution=size)
    seen: list[Tensor] = []
    block: Any = plain.backbone.get_submodule(name)  # type: ignore[attr-defined]
    hook = block.register_forward_hook(lambda _, given, out: seen.extend((given[0].clone(), out)))
    with torch.no_grad():
        plain(torch.rand(3, 3, size, size, generator=stream(0)))
        hook.remove()
        x, out = seen
        torch.testing.assert_close(formula(block, x.clone(), 1), out, rtol=1e-4, atol=1e-4)
        for removed in (1.0, 0.5):
            defended: Any = classifier(architecture, removed, size).backbone
            found = defended.get_submodule(name)(x.clone())
            expected = formula(block, x.clone(), 1 - removed)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(found, out, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("removed", [1.0, 0.5])
def test_dense_layers_see_their_predecessor_whole_and_the_others_scaled(removed: float) -> None:
    plain: Any = classifier("densenet121").backbone
    found: Any = classifier("densenet121", removed).backbone
    x = torch.rand(2, 128, 4, 4, generator=stream(0))
    made = [x]
    with torch.no_grad():
        for layer in plain.features.denseblock2.values():
            inputs = torch.cat([*((1 - removed) * each for each in made[:-1]), made[-1]], 1)
            made.append(layer.conv2(layer.norm2(layer.conv1(layer.norm1(inputs)))))
        torch.testing.assert_close(found.features.denseblock2(x), torch.cat(made, 1))
        first = plain.features.denseblock1(x[:, :64]), found.features.denseblock1(x[:, :64])
        assert torch.equal(*first)


def test_the_sum_around_edgenexts_attention_is_left() -> None:
    """The block as a whole loses its skip: F(x) is what it computes, less its input."""
    name, x = "stages.3.blocks.1", torch.rand(2, 168, 2, 2, generator=stream(0))
    plain: Any = classifier("edgenext_xx_small").backbone
    found: Any = classifier("edgenext_xx_small", 0.75).backbone
    with torch.no_grad():
        expected = plain.get_submodule(name)(x) - 0.75 * x
        torch.testing.assert_close(found.get_submodule(name)(x), expected)


CHANGED = {
    "resnet18": ["layer4.0", "layer4.1"],
    "resnet50": ["layer4.0", "layer4.1", "layer4.2"],
    "densenet121": [f"features.denseblock2.denselayer{k}" for k in range(1, 13)],
    "densenet161": [f"features.denseblock1.denselayer{k}" for k in range(1, 7)],
    "densenet169": [f"features.denseblock1.denselayer{k}" for k in range(1, 7)],
    "convnext_atto": [f"stages.{k}.blocks.{i}" for k in (0, 1) for i in (0, 1)],
    "test_vit": ["blocks.0"],
    "deit_tiny_patch16_224": ["blocks.0"],
    # Its last stage is of two groups: three blocks, the first without a skip, and one without.
    "mobilenetv2_035": ["blocks.5.1", "blocks.5.2"],
    "efficientnet_b0": [f"blocks.5.{k}" for k in (1, 2, 3)],
    "efficientnet_b1": [*(f"blocks.5.{k}" for k in (1, 2, 3, 4)), "blocks.6.1"],
    "test_mambaout": ["stages.3.blocks.0"],
    "ghostnet_050": [f"blocks.8.{k}" for k in range(4)],
}


@pytest.mark.parametrize("architecture", CHANGED)
def test_the_published_stages_are_changed_and_no_others(architecture: str) -> None:
    with torch.device("meta"):
        backbone: Any = Rolss(Rolss.Config()).built(Classifier(architecture, 2, 32)).backbone
    found = []
    for name, module in backbone.named_modules():
        if isinstance(module, rolss.Scale):  # the last of what stands for the block's skip
            found.append(name.rsplit(".", 2)[0])
        elif type(module).__module__ == rolss.__name__:
            found.append(name)
    assert found == CHANGED[architecture]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_control_has_whole_skips(architecture: str) -> None:
    images = torch.rand(2, 3, 32, 32, generator=stream(0))
    plain, control = classifier(architecture), classifier(architecture, 0)
    assert torch.equal(plain(images), control(images))
    assert plain.state_dict().keys() == control.state_dict().keys()
    weakened = [classifier(architecture, r)(images) for r in Rolss.strengths[1:]]
    known = [plain(images)]
    for logits in weakened:  # each strength is another network
        assert all((logits - each).abs().max() > 1e-5 for each in known)
        known.append(logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_rebuilt_copied_and_folded(architecture: str) -> None:
    images = torch.rand(2, 3, 32, 32, generator=stream(0))
    model = classifier(architecture, 0.5)
    with seeded(9):
        again = Rolss(Rolss.Config(removed=0.5)).built(Classifier(architecture, 4, 32)).eval()
    again.load_state_dict(model.state_dict())
    expected = model(images)
    torch.testing.assert_close(again(images), expected)
    assert torch.equal(copy.deepcopy(model)(images), expected)
    torch.testing.assert_close(freeze(model, images)(images), expected, rtol=1e-3, atol=1e-3)
    outputs = model.outputs(images, stages=True)
    torch.testing.assert_close(outputs.logits, expected)
    assert outputs.stages


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_built_without_memory(architecture: str) -> None:
    with torch.device("meta"):
        model = Rolss(Rolss.Config()).built(Classifier(architecture, 2, 32))
    assert all(values.is_meta for values in model.parameters())


def from_scratch(architecture: str, removed: float = 1) -> Classifier:
    with seeded(3):
        return Rolss(Rolss.Config(removed=removed)).built(Classifier(architecture, 4, 32))


def reached(model: Classifier, weight: str = "") -> bool:
    """Whether the loss reaches the first layer, and images tell in the features."""
    images = torch.rand(8, 3, 32, 32, generator=stream(0))
    features = model.train().features(images)
    loss = F.cross_entropy(model.head.read(features)[0], torch.arange(8) % 4)
    first = next(p for p in model.backbone.parameters() if p.ndim == 4)  # type: ignore[attr-defined]
    (slope,) = torch.autograd.grad(loss, first)
    return bool(features.std(0).mean() > 1e-3 and slope.abs().max() > 1e-6)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "resnet18"])
def test_an_untrained_network_without_skips_is_not_silent(architecture: str) -> None:
    assert reached(from_scratch(architecture))


@pytest.mark.parametrize("architecture", ["test_resnet", "regnetx_002", "test_nfnet"])
def test_it_would_be_without_the_factors_that_start_at_one(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rolss, "_wake", lambda block: None)
    assert not reached(from_scratch(architecture))


@pytest.mark.parametrize("architecture", ["test_resnet", "regnetx_002", "test_nfnet"])
def test_the_control_starts_as_the_weakened_network_does(architecture: str) -> None:
    """So that between them stands the skip, and not how a branch starts."""

    def start(removed: float) -> list[Tensor]:
        return list(from_scratch(architecture, removed).state_dict().values())

    with seeded(3):
        plain = list(Classifier(architecture, 4, 32).state_dict().values())
    control, weakened = start(0), start(1)
    assert all(map(torch.equal, control, weakened))
    assert not all(map(torch.equal, control, plain))


def test_factors_of_other_stages_and_of_trained_weights_are_kept() -> None:
    plain, found = classifier("test_convnext"), classifier("test_convnext", 1)
    mine = {name.replace(".block.", "."): value for name, value in found.state_dict().items()}
    assert all(torch.equal(value, mine[name]) for name, value in plain.state_dict().items())
    fresh = training.classifier("test_convnext").state_dict()
    woken = from_scratch("test_convnext").state_dict()
    changed = {n for n in fresh if not torch.equal(fresh[n], woken[n])}
    assert changed == {
        f"backbone.stages.{place}.gamma" for place in ("0.blocks.0", "1.blocks.0", "1.blocks.1")
    }
    assert all((woken[name] == 1).all() for name in changed)


def test_a_network_without_skips_learns() -> None:
    labels = torch.arange(40) % 4
    colours = torch.rand(4, 3, 1, 1, generator=stream(0))[labels]
    images = (255 * colours.expand(-1, -1, 32, 32)).byte()
    data, config = ImageSet(images, labels, tuple("abcd")), TrainingConfig(epochs=15, batch_size=20)
    model = from_scratch("test_resnet")
    train(training.job(data, config, model), Rolss(Rolss.Config()))
    assert (model(images.float() / 255).argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("removed", [0.0, 1.0])
@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("vgg11", "'vgg11' has none that it knows"),
        ("vgg16_bn_mi", "has none"),
        ("test_efficientnet", "has none"),  # none of its blocks has a skip
        ("repvgg_a0", "has none"),
        ("edgenext_small_rw", r"edgenext\.ConvBlock"),  # a skip from within the block
        ("mobilenetv4_hybrid_medium", r"_efficientnet_blocks\.MobileAttention"),
    ],
)
def test_other_networks_are_refused_with_a_list(
    architecture: str, message: str, removed: float
) -> None:
    with torch.device("meta"):
        model = Classifier(architecture, 2, 64)
    with pytest.raises(RequestError, match=message) as raised:
        Rolss(Rolss.Config(removed=removed)).built(model)
    assert "choose" in str(raised.value)
    assert all(family in str(raised.value) for family in FAMILIES)


@pytest.mark.parametrize("removed", [-0.1, 1.1])
def test_impossible_shares_are_refused(removed: float) -> None:
    with pytest.raises(ValidationError, match="removed"):
        Rolss.Config(removed=removed)
