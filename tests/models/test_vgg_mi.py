"""The papers' VGG16: its size, its layers against a plain computation, the places it is used."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg16_bn

from mibench.defenses import bido
from mibench.defenses._per_image_gradients import (
    check_no_batch_statistics,
    check_vectorises,
    looped_gradients,
    replace_batch_norm,
    trainable,
    vectorised_gradients,
)
from mibench.errors import RequestError
from mibench.models.classifiers import Classifier
from mibench.models.freeze import freeze
from mibench.streams import seeded, stream
from mibench.training.defense import DEFENSES
from mibench.training.loop import TrainState

NAME = "vgg16_bn_mi"
PLAN = [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]  # 0: pooling


def images(count: int = 3, size: int = 64) -> Tensor:
    return torch.rand(count, 3, size, size, generator=stream(0, "images"))


@pytest.fixture(scope="module")
def model() -> Classifier:
    """In evaluation mode, with normalisations that do something; tests must not change it."""
    with seeded(0):
        made = Classifier(NAME, 10, 64).eval()
        for layer in made.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
    return made


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_number_of_parameters_is_that_of_the_released_network() -> None:
    convolutions, before = 0, 3
    for channels in PLAN:
        if channels:
            # 3×3 kernels and biases; BatchNorm's scale and shift
            convolutions += channels * (9 * before + 1) + 2 * channels
            before = channels
    assert convolutions == 14_723_136
    # The published number for vgg16_bn less its three fully connected layers.
    linear = 25_088 * 4_096 + 4_096 + 4_096 * 4_096 + 4_096 + 4_096 * 1_000 + 1_000
    assert 138_365_992 - linear == convolutions  # torchvision's number
    with torch.device("meta"):
        network = timm.create_model(NAME, num_classes=1000)
    assert parameters(network) == convolutions + 2 * 2_048 + 2_048 * 1_000 + 1_000 == 16_776_232
    # BatchNorm1d's shift is frozen.
    assert sum(p.numel() for p in trainable(network).values()) == 16_776_232 - 2_048


def test_the_convolutions_are_torchvisions() -> None:
    with torch.device("meta"):
        ours, theirs = timm.create_model(NAME).features, vgg16_bn().features
    expected = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == expected
    assert [type(layer) for layer in ours] == [type(layer) for layer in theirs]


def plain(model: Classifier, batch: Tensor) -> tuple[list[Tensor], Tensor]:
    """Pooled maps and features by the state dict alone."""
    state, at = model.backbone.state_dict(), 0
    hidden = (batch - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    pooled = []
    for channels in PLAN:
        if channels == 0:
            hidden, at = F.max_pool2d(hidden, 2), at + 1
            pooled.append(hidden)
            continue
        conv, norm = f"features.{at}.", f"features.{at + 1}."
        hidden = F.conv2d(hidden, state[conv + "weight"], state[conv + "bias"], padding=1)
        names = ("running_mean", "running_var", "weight", "bias")
        hidden = F.relu(F.batch_norm(hidden, *(state[norm + name] for name in names)))
        at += 3
    features = hidden.flatten(1) - state["bn.running_mean"]
    features = features / (state["bn.running_var"] + 1e-5).sqrt() * state["bn.weight"]
    return pooled, features


def test_layers_features_and_logits_are_those_of_a_plain_computation(model: Classifier) -> None:
    with torch.no_grad():
        pooled, features = plain(model, images())
        outputs = model.outputs(images(), stages=True)
        # Without stages the pass is another one.
        torch.testing.assert_close(model.features(images()), features, rtol=1e-4, atol=1e-4)
    assert model.feature_size == 2_048
    assert [tuple(stage.shape[1:]) for stage in outputs.stages] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
        (512, 2, 2),
    ]
    for stage, expected in zip(outputs.stages, pooled, strict=True):
        torch.testing.assert_close(stage, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs.features, features, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs.logits, model.head(outputs.features))


def test_feature_info_names_the_stages(model: Classifier) -> None:
    with torch.no_grad():
        stages = model.outputs(images(1), stages=True).stages
        for stage, info in zip(stages, model.backbone.feature_info, strict=True):
            assert stage.shape[1:3] == (info["num_chs"], 64 // info["reduction"])
            assert isinstance(model.backbone.get_submodule(info["module"]), nn.MaxPool2d)


@pytest.mark.parametrize(("resolution", "features"), [(32, 512), (96, 4_608)])
def test_other_multiples_of_32_have_other_numbers_of_features(
    resolution: int, features: int
) -> None:
    other = Classifier(NAME, 4, resolution).eval()
    assert other.feature_size == features
    with torch.no_grad():
        assert other.outputs(images(2, resolution)).features.shape == (2, features)


@pytest.mark.parametrize("resolution", [16, 48, 100])
def test_other_resolutions_are_refused(resolution: int) -> None:
    with pytest.raises(RequestError, match=f"images of {resolution}×{resolution}: .* 32 divides"):
        Classifier(NAME, 4, resolution)


def test_timm_does_not_load_weights_unchecked() -> None:
    with pytest.raises(RequestError, match="initialise"):
        timm.create_model(NAME, pretrained=True)


def test_the_frozen_network_computes_the_same(model: Classifier) -> None:
    frozen = freeze(model, images(2))
    left = [m for m in frozen.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(left) == 1  # BatchNorm1d stands behind no convolution
    with torch.no_grad():
        torch.testing.assert_close(frozen(images()), model(images()), rtol=1e-3, atol=1e-3)


def test_bido_reads_four_pooled_maps_and_the_features(
    model: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    defense, seen = DEFENSES.get("bido")(DEFENSES.get("bido").Config()), []
    usual = bido.gaussian_gram
    monkeypatch.setattr(
        bido, "gaussian_gram", lambda z, sigma: seen.append(z.shape[1]) or usual(z, sigma)
    )
    labels = torch.tensor([0, 1, 1])
    with torch.no_grad():
        defense.loss(model, images(), labels, TrainState(0, 0, 1, 1, torch.Generator()))
    assert seen[1:] == [64 * 32**2, 128 * 16**2, 256 * 8**2, 512 * 4**2, 2_048]


def test_a_step_trains_all_but_the_frozen_shift() -> None:
    torch.manual_seed(0)
    network = Classifier(NAME, 3, 32).train()
    before = {name: value.clone() for name, value in network.named_parameters()}
    optimizer = torch.optim.SGD((p for p in network.parameters() if p.requires_grad), 0.1)
    F.cross_entropy(network(images(4, 32)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    still = {n for n, value in network.named_parameters() if torch.equal(value, before[n])}
    # A bias before batch normalisation has no effect: its gradient is rounding.
    assert "backbone.bn.bias" in still
    assert all("bias" in name for name in still)
    assert not network.backbone.bn.bias.any()


def test_dp_sgd_replaces_all_its_norms_and_finds_its_gradients() -> None:
    torch.manual_seed(0)
    network = Classifier(NAME, 3, 32)
    assert len(replace_batch_norm(network)) == 14
    assert isinstance(network.backbone.bn, nn.GroupNorm)
    assert not network.backbone.bn.bias.requires_grad
    check_no_batch_statistics(network)
    check_vectorises(network)
    batch, labels = images(2, 32), torch.tensor([0, 2])
    assert "backbone.bn.bias" not in trainable(network)
    looped, at_once = (
        gradients(network, batch, labels) for gradients in (looped_gradients, vectorised_gradients)
    )
    torch.testing.assert_close(at_once[0], looped[0])
    for one, other in zip(at_once[1], looped[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("defense", ["none", "mid"])
def test_defenses_prepare_it(defense: str) -> None:
    cls: Any = DEFENSES.get(defense)
    network = cls(cls.Config()).built(Classifier(NAME, 3, 32)).eval()
    with torch.no_grad():
        outputs = network.outputs(images(2, 32))
    assert outputs.logits.shape == (2, 3)
    assert outputs.features.shape == (2, 512)


def test_the_command_line_knows_it() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "mibench", "list", "targets", NAME, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f'"{NAME}"' in found.stdout, found.stderr
