"""RoLSS: skip connections scaled down, or removed, in the stages where attacks need them most."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn

from mibench.errors import RequestError
from mibench.models.classifiers import Classifier
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.types import DefenseCard

# timm's blocks, as module and class, by how their skip can be reached. Blocks that compute a sum
# and then an activation, or that project the skip, hold a module for it under a name; None there
# is an identity in the first table, no skip at all in the second.
_IDENTITY_IF_NONE = {
    "resnet.BasicBlock": "downsample",
    "resnet.Bottleneck": "downsample",
    "resnest.ResNestBottleneck": "downsample",
    "res2net.Bottle2neck": "downsample",
    "sknet.SelectiveKernelBasic": "downsample",
    "sknet.SelectiveKernelBottleneck": "downsample",
}
_ABSENT_IF_NONE = {
    "regnet.Bottleneck": "downsample",
    "regnet.PreBottleneck": "downsample",
    "byobnet.BasicBlock": "shortcut",
    "byobnet.BottleneckBlock": "shortcut",
    "byobnet.DarkBlock": "shortcut",
    "byobnet.EdgeBlock": "shortcut",
    "byobnet.SelfAttnBlock": "shortcut",
    "convnext.ConvNeXtBlock": "shortcut",
    "ghostnet.GhostBottleneck": "shortcut",
    "ghostnet.GhostBottleneckV3": "shortcut",
    "maxxvit.MbConvBlock": "shortcut",
    "maxxvit.ConvNeXtBlock": "shortcut",
}
# Blocks that end with F(x) + x where `has_skip` says so.
_FLAGGED = {
    "_efficientnet_blocks.ConvBnAct",
    "_efficientnet_blocks.DepthwiseSeparableConv",
    "_efficientnet_blocks.InvertedResidual",
    "_efficientnet_blocks.CondConvResidual",
    "_efficientnet_blocks.EdgeResidual",
    "_efficientnet_blocks.UniversalInvertedResidual",
}
# Blocks that always end with F(x) + x.
_ENDING = {
    "mambaout.GatedConvBlock",
    "edgenext.ConvBlock",
    "edgenext.SplitTransposeBlock",
}
_NORM_FREE, _DENSE = "nfnet.NormFreeBlock", "densenet.DenseLayer"
_ATTENTION = {"vision_transformer.Block", "maxxvit.PartitionAttentionCl"}
_KNOWN = {*_IDENTITY_IF_NONE, *_ABSENT_IF_NONE, *_FLAGGED, *_ENDING, *_ATTENTION}
_KNOWN |= {_NORM_FREE, _DENSE}

FAMILIES = (
    "resnet",
    "resnest",
    "res2net",
    "sknet",
    "regnet",
    "byobnet",
    "convnext",
    "efficientnet",
    "mobilenetv2",
    "mobilenetv3",
    "ghostnet",
    "edgenext",
    "mambaout",
    "nfnet",
    "densenet",
    "vit",
    "deit",
    "maxvit",
)
"""Families of timm's architectures whose skips can be scaled."""

# Factors that a residual branch ends with, and up to which value they start so near 0 that without
# the skip nothing would come through: norms, weight-standardised convolutions, layer scale.
_SCALES = {"weight": 0.0, "gain": 0.0, "skipinit_gain": 0.0, "gamma": 0.05}


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        return self.factor * values


class WithoutSkip(nn.Module):
    """F(x) + s·x of a block that computes F(x) + x."""

    def __init__(self, block: nn.Module, factor: float) -> None:
        super().__init__()
        self.block, self.removed = block, 1 - factor

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.block(values) - self.removed * values
        return result


class DenseWithoutSkip(nn.Module):
    """A dense layer that sees the features before its predecessor's times s."""

    def __init__(self, layer: nn.Module, factor: float) -> None:
        super().__init__()
        self.layer, self.factor = layer, factor

    def forward(self, features: Tensor | list[Tensor]) -> Tensor:
        if isinstance(features, list):
            features = [*(self.factor * each for each in features[:-1]), features[-1]]
        result: Tensor = self.layer(features)
        return result


class AttentionWithoutSkips(nn.Module):
    """s·x + A(x), then s·x + M(x), of a block with attention A and MLP M."""

    def __init__(self, block: nn.Module, factor: float) -> None:
        super().__init__()
        self.block, self.factor = block, factor

    def forward(self, values: Tensor, **masks: Any) -> Tensor:
        block: Any = self.block
        attention = getattr(block, "_partition_attn", None) or block.attn
        branch = block.ls1(attention(block.norm1(values), **masks))
        values = self.factor * values + block.drop_path1(branch)
        branch = block.ls2(block.mlp(block.norm2(values)))
        result: Tensor = self.factor * values + block.drop_path2(branch)
        return result


@register_defense("rolss")
class Rolss(Defense["Rolss.Config"]):
    """F(x) + (1 − r)·x in the place of F(x) + x, in the stages where removing skips helps most.

    Skips carry gradients past the residual branches, and with them what an attack follows to the
    image.

    References:
        Koh, Ho, Nguyen, Cheung. "On the Vulnerability of Skip Connections to Model Inversion
        Attacks". ECCV 2024.
    """

    card = DefenseCard(
        kind="architecture",
        title="On the Vulnerability of Skip Connections to Model Inversion Attacks",
        authors="Koh Jun Hao, Sy-Tuyen Ho, Ngoc-Bao Nguyen, Ngai-Man Cheung",
        year=2024,
        venue="ECCV",
        url="https://arxiv.org/abs/2409.01696",
        reference_code="https://github.com/Pillowkoh/RoLSS",
        deviations=(
            "Which stages lose their skips is as the code has it for ResNet, DenseNet-121, -161 "
            "and -169, ConvNeXt, MaxViT, ViT, DeiT and MobileNetV2; other DenseNets are treated as "
            "the -161, and all other families as ResNets: in the last stage that has skips.",
            "A stage ends where timm's `feature_info` says, so that MobileNet's last one holds two "
            "of its groups of blocks; what follows the last of these ends is one more.",
            "ResNet-18 is published with 0.6 of its last skips left, which is `removed` 0.4; here "
            "all of them are removed by default, as in the deeper ResNets.",
            "Skips that a block projects are scaled as identities are. In DenseNet a layer sees "
            "its predecessor's features whole and all earlier ones scaled; what a block hands on "
            "to the transition is whole. In EdgeNeXt the sum within a block, around its attention, "
            "is left.",
            "A residual branch whose last factor starts at 0 or nearly (BatchNorm's, layer scale, "
            "NFNet's gain, which comes with a constant) starts at 1 where its skip is scaled, "
            "without which a network that is trained from scratch would start, and stay, silent; "
            "the control's, too. Weights that are loaded have other factors, and keep them.",
            "The code's `split` builds a part of the third stage without skips, too, in every "
            "ResNet that it makes, undefended ones included; here that is left as it is.",
            "The two-stage training of the paper is left out. Optimizer, schedule and "
            "augmentation are the protocol's.",
        ),
        adaptive_attack="improved-gmi+taa",
        adaptive_note="Its students have skips, and gradients averaged over views are smoother.",
    )

    class Config(DefenseConfig):
        """Options of RoLSS."""

        removed: float = Field(
            1.0,
            ge=0,
            le=1,
            description="share of the skip that is taken away, r in F(x) + (1 − r)·x; 0: the "
            "control, with whole skips",
        )

    strength = "removed"
    strengths = (0, 0.25, 0.5, 0.75, 1)

    def build(self, model: Classifier) -> Classifier:
        """Scale the skips of the architecture's stages, in the model itself.

        Raises:
            RequestError: it has no skips, or some that are not known here.
        """
        backbone: Any = model.backbone
        blocks = _weakened(model.architecture, backbone)
        factor = 1 - self.config.removed
        for name in blocks:
            block = backbone.get_submodule(name)
            _wake(block)
            if factor == 1:
                continue
            parent, _, attribute = name.rpartition(".")
            setattr(backbone.get_submodule(parent), attribute, _scaled(block, factor))
        return model


def _kind(module: nn.Module) -> str:
    """Module and class as the tables name them."""
    return f"{type(module).__module__.rpartition('.')[2]}.{type(module).__name__}"


def _has_skip(block: Any) -> bool:
    """Whether a block that is in one of the tables adds its input to its output."""
    kind = _kind(block)
    if kind in _ABSENT_IF_NONE:
        return getattr(block, _ABSENT_IF_NONE[kind]) is not None
    return bool(block.has_skip) if kind in _FLAGGED else True


def _weakened(architecture: str, backbone: nn.Module) -> list[str]:
    """Names of the blocks whose skips are to be scaled.

    Raises:
        RequestError: there are none, or some that are not known.
    """
    modules = dict(backbone.named_modules())
    places = {name: place for place, name in enumerate(modules)}
    ends = []  # of the stages that timm's features come from
    for stage in getattr(backbone, "feature_info", ()):
        inside = f"{stage['module']}."
        ends.append(max((places[n] for n in modules if f"{n}.".startswith(inside)), default=-1))
    stages: dict[int, list[str]] = {}
    for name, module in modules.items():
        if _kind(module) in _KNOWN and _has_skip(module):
            stage = next((k for k, end in enumerate(ends) if places[name] <= end), len(ends))
            stages.setdefault(stage, []).append(name)
    groups = [stages[k] for k in sorted(stages)]
    if not groups:
        raise RequestError(
            f"rolss scales skip connections, and the target {architecture!r} has none that it "
            f"knows: choose one of timm's {', '.join(FAMILIES)}"
        )
    family = _kind(modules[groups[0][0]]).partition(".")[0]
    if family in ("convnext", "maxxvit"):
        groups = groups[:2]
    elif family == "densenet":
        groups = groups[1:2] if architecture.startswith("densenet121") else groups[:1]
    elif family == "vision_transformer":
        groups = groups[:1]
    else:
        groups = groups[-1:]
    chosen = [name for group in groups for name in group]
    _check_all_known(architecture, modules, chosen)
    return chosen


def _check_all_known(architecture: str, modules: dict[str, nn.Module], chosen: list[str]) -> None:
    """Refuse an architecture with other skips than the known ones between the chosen blocks."""
    places = list(modules)
    span = places[places.index(chosen[0]) : places.index(chosen[-1]) + 1]
    for name in span:
        module: Any = modules[name]
        within = any(f"{name}.".startswith(f"{block}.") for block in chosen)
        residual = getattr(module, "has_skip", False) or any(
            hasattr(module, drop) for drop in ("drop_path", "drop_path1")
        )
        late = getattr(module, "shortcut_after_dw", False)
        if late or (residual and not within and _kind(module) not in _KNOWN):
            raise RequestError(
                f"rolss does not know the skip connections of {_kind(module)} in the target "
                f"{architecture!r}: choose another of timm's {', '.join(FAMILIES)}"
            )


def _scaled(block: Any, factor: float) -> nn.Module:
    """The block with its skip times ``factor``."""
    kind = _kind(block)
    attribute = _IDENTITY_IF_NONE.get(kind) or _ABSENT_IF_NONE.get(kind)
    if kind == _NORM_FREE and block.downsample is not None:
        attribute = "downsample"  # of the activated input; without one the input itself is added
    if attribute is not None:
        skip = getattr(block, attribute) or nn.Identity()
        setattr(block, attribute, nn.Sequential(skip, Scale(factor)))
        return block  # type: ignore[no-any-return]
    if kind == _DENSE:
        return DenseWithoutSkip(block, factor)
    if kind in _ATTENTION:
        return AttentionWithoutSkips(block, factor)
    return WithoutSkip(block, factor)


def _wake(block: nn.Module) -> None:
    """Set factors to 1 that start near 0, which is harmless beside a whole skip alone.

    Untrained ones are known by having one value everywhere. An NFNet's undo the factor α, too, that
    its branches end with.
    """
    alpha: Any = getattr(block, "alpha", 1.0)
    for name, values in block.named_parameters():
        most = _SCALES.get(name.rpartition(".")[2])
        one_each = values.numel() == max(values.shape, default=1)  # channel
        if most is not None and one_each and not values.is_meta:
            first = values.detach().flatten()[0]
            if first.abs() <= most and (values == first).all():
                nn.init.constant_(values, 1 / alpha)
