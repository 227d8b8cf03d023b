from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mibench.errors import RequestError
from mibench.models.classifiers import Classifier, predict
from mibench.models.freeze import freeze
from mibench.priors._networks import Generator
from mibench.streams import seeded, stream

FAMILIES = [
    "test_resnet",
    "test_efficientnet",
    "test_byobnet",
    "test_convnext",
    "test_vit",
    "test_nfnet",
    "mobilenetv3_small_050",
    "ghostnet_050",
    "edgenext_xx_small",
]
# The share of BatchNorms that stand behind a convolution, and so are folded away.
FOLDED = {
    "test_resnet": 1.0,
    "test_efficientnet": 1.0,  # BatchNormAct2d
    "test_byobnet": 1.0,  # BatchNormAct2d
    "mobilenetv3_small_050": 1.0,  # BatchNormAct2d
    "ghostnet_050": 0.9,
    "densenet121": 0.4,  # half of its BatchNorms stand before the convolution
}


def images(count: int = 3, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=stream(0, "images"))


def classifier(architecture: str, classes: int = 4) -> Classifier:
    """A classifier in evaluation mode whose normalisations do something."""
    with seeded(0):
        model = Classifier(architecture, classes, 32).eval()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
    return model


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_classifier_is_its_head_on_its_features(architecture: str) -> None:
    model, batch = classifier(architecture), images()
    with torch.no_grad():
        outputs = model.outputs(batch)
        features = model.features(batch)
        assert features.shape == (3, model.feature_size)
        assert torch.equal(outputs.features, features)
        assert torch.equal(outputs.logits, model.head(features))
        assert torch.equal(model(batch), outputs.logits)
    assert outputs.logits.shape == (3, 4)
    assert (outputs.stages, outputs.extra) == ((), {})


@pytest.mark.parametrize("architecture", FAMILIES)
def test_stages_belong_to_the_same_pass(architecture: str) -> None:
    model, batch = classifier(architecture), images()
    with torch.no_grad():
        plain, staged = model.outputs(batch), model.outputs(batch, stages=True)
    torch.testing.assert_close(staged.logits, plain.logits)
    torch.testing.assert_close(staged.features, plain.features)
    sizes = [stage.shape[-1] for stage in staged.stages]
    assert len(sizes) >= 3
    assert sizes == sorted(sizes, reverse=True)  # coarsest last
    assert all(len(stage) == 3 for stage in staged.stages)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_the_stages_are_what_the_layers_compute(architecture: str) -> None:
    """Each stage output is seen, unchanged, at the output of some layer of the plain pass."""
    model, seen = classifier(architecture), []
    hooks = [
        m.register_forward_hook(lambda _m, _i, out: seen.append(out) if torch.is_tensor(out) else 0)
        for m in model.backbone.modules()
    ]
    with torch.no_grad():
        model(images())
        for hook in hooks:
            hook.remove()
        for stage in model.outputs(images(), stages=True).stages:
            # A transformer's tokens are laid out as a picture, without the class token.
            assert any(_same_numbers(stage, out) for out in seen)


def _same_numbers(stage: Tensor, output: Tensor) -> bool:
    if output.ndim == 3:
        tokens = output[:, -stage.shape[2] * stage.shape[3] :]
        return tokens.shape[2] == stage.shape[1] and torch.allclose(
            stage.flatten(2).mT, tokens, atol=1e-6
        )
    return output.shape == stage.shape and torch.allclose(stage, output, atol=1e-6)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_normalisation_is_inside(architecture: str) -> None:
    model = classifier(architecture)
    config = model.backbone.default_cfg
    channel = [(0.25 - m) / s for m, s in zip(config["mean"], config["std"], strict=True)]
    gray = torch.full((2, 3, 32, 32), 0.25)
    expected = torch.tensor(channel).view(1, 3, 1, 1).expand_as(gray)
    torch.testing.assert_close(model.normalise(gray), expected)
    with torch.no_grad():
        hidden = model.backbone.forward_features(expected)
        features = model.backbone.forward_head(hidden, pre_logits=True)
        torch.testing.assert_close(model.features(gray), features)


def test_an_output_filter_changes_the_deployed_models_logits_and_nothing_else() -> None:
    model = classifier("test_resnet")
    names = set(model.state_dict())
    with torch.no_grad():
        before = model.outputs(images())
        model.output = nn.Softmax(1)
        after = model.outputs(images())
        assert torch.equal(model(images()), before.logits.softmax(1))
        # Training steps on logits, whatever is answered later.
        assert not torch.allclose(model.train()(images()).sum(1), torch.ones(3))
    assert torch.equal(after.features, before.features)
    model.output = nn.Linear(4, 4)
    assert set(model.state_dict()) - names == {"output.weight", "output.bias"}


def test_predict_batches_and_takes_bytes() -> None:
    model = classifier("test_resnet")
    bytes_ = (images(7) * 255).to(torch.uint8)
    logits, features = predict(model, bytes_, batch_size=3)
    with torch.no_grad():
        expected = model.outputs(bytes_.float() / 255)
    torch.testing.assert_close(logits, expected.logits)
    torch.testing.assert_close(features, expected.features)
    assert not logits.requires_grad


def test_an_unknown_architecture_is_refused_with_close_names() -> None:
    with pytest.raises(RequestError, match=r"no timm architecture; did you mean .*resnet18"):
        Classifier("resnet_18", 4, 32)


@pytest.mark.parametrize(("architecture", "resolution"), [("inception_v3", 32), ("test_vit", 8)])
def test_a_resolution_that_does_not_fit_is_refused(architecture: str, resolution: int) -> None:
    with pytest.raises(RequestError, match=f"cannot take images of {resolution}×{resolution}"):
        Classifier(architecture, 4, resolution)


def test_a_transformer_is_made_for_the_resolution() -> None:
    with torch.no_grad():
        assert Classifier("test_vit", 4, 64)(images(2, 64)).shape == (2, 4)


@pytest.mark.parametrize("architecture", FOLDED)
def test_freezing_folds_batchnorm_and_keeps_outputs_and_input_gradients(architecture: str) -> None:
    model = classifier(architecture)
    before = copy.deepcopy(model.state_dict())
    frozen = freeze(model, images(2))
    assert norms(frozen) <= (1 - FOLDED[architecture]) * norms(model)
    assert norms(frozen) < norms(model)
    gradients = []
    for network in (model, frozen):
        batch = images(4)[1:].requires_grad_(True)
        logits = network(batch)
        (gradient,) = torch.autograd.grad((logits * torch.arange(4)).sum(), batch)
        gradients.append((logits.detach(), gradient))
    for plain, folded in zip(*gradients, strict=True):
        torch.testing.assert_close(folded, plain, rtol=1e-3, atol=1e-3 * plain.abs().max().item())
    # The original is as it was, and can still be trained.
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "test_vit"])
def test_only_the_inputs_of_a_frozen_network_get_gradients(architecture: str) -> None:
    frozen = freeze(classifier(architecture).train(), images(2))
    assert not frozen.training
    active = [m for m in frozen.modules() if not isinstance(m, nn.Identity)]
    assert not any(module.training for module in active)
    assert not any(p.requires_grad for p in frozen.parameters())
    batch = images().requires_grad_(True)
    frozen(batch).sum().backward()
    assert batch.grad is not None
    assert batch.grad.abs().max() > 0
    assert all(p.grad is None for p in frozen.parameters())


def test_freezing_uses_the_running_statistics() -> None:
    model = classifier("test_resnet").train()  # as it is left by training
    frozen = freeze(model, images(2))
    with torch.no_grad():
        torch.testing.assert_close(frozen(images()), model.eval()(images()), rtol=1e-3, atol=1e-3)


class Shared(nn.Module):
    """A convolution whose output goes into BatchNorm and, unnormalised, elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, batch: Tensor) -> Tensor:
        hidden = self.conv(batch)
        return self.norm(hidden) + hidden


class Twice(Shared):
    """A convolution that runs twice, only once into BatchNorm."""

    def forward(self, batch: Tensor) -> Tensor:
        return self.norm(self.conv(batch)) + self.conv(batch.flip(0))


class Between(Shared):
    """An in-place activation between the convolution and BatchNorm."""

    def forward(self, batch: Tensor) -> Tensor:
        return self.norm(self.conv(batch).relu_())


@pytest.mark.parametrize("kind", [Shared, Twice, Between])
def test_what_cannot_be_folded_is_left_alone(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model: Any = kind()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    frozen = freeze(model, images(2))
    with torch.no_grad():
        torch.testing.assert_close(frozen(images(4)), model.eval()(images(4)))


def test_a_generators_transposed_convolutions_are_folded() -> None:
    torch.manual_seed(0)
    generator = Generator(32, 16, 4)
    for _ in range(5):
        generator(torch.randn(32, 16))
    latents = torch.randn(4, 16)
    frozen = freeze(generator, latents)
    assert norms(frozen) == 0
    assert norms(generator) == 4
    with torch.no_grad():
        torch.testing.assert_close(frozen(latents), generator.eval()(latents), rtol=1e-4, atol=1e-5)
