"""The VGG16 of the model inversion papers, as a timm architecture: ``vgg16_bn_mi``."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from mibench.errors import RequestError

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions
_CUT = 2 ** len(_BLOCKS)  # the five poolings divide the side by it


class VggMi(nn.Module):
    """VGG16's convolutions with batch normalisation, BatchNorm1d on the flat map, a linear layer.

    This is the network ``VGG16`` of the code released with KEDMI (ICCV 2021), with "Re-thinking
    Model Inversion Attacks" (CVPR 2023) and with BiDO (KDD 2022): the ``features`` of torchvision's
    ``vgg16_bn``, whose 2×2×512 map at 64×64 is flattened to 2,048 features; BatchNorm1d on them,
    its shift frozen at 0; and a linear layer. The features after BatchNorm1d are what the attacks
    read, and BiDO's fifth layer. ``features`` has torchvision's and timm's parameter names.

    The released code hands images in [0, 1] to the network as they are, though its ImageNet weights
    were trained on normalised ones; here they are normalised unless an
    :class:`~mibench.models.initialisation.Initialisation` says otherwise.

    Args:
        num_classes: number of classes; 0: no linear layer.
        in_chans: channels of the images.
        img_size: height and width of the images, a multiple of 32; the features number
            512·(img_size/32)².

    Shapes:
        ``(n, in_chans, img_size, img_size)`` to ``(n, num_classes)``.

    Raises:
        RequestError: ``img_size`` is no multiple of 32.
    """

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, img_size: int = 64) -> None:
        super().__init__()
        if img_size < _CUT or img_size % _CUT:
            raise RequestError(
                f"target 'vgg16_bn_mi' cannot take images of {img_size}×{img_size}: each of its "
                f"{len(_BLOCKS)} poolings halves the side; choose a resolution that {_CUT} divides"
            )
        layers: list[nn.Module] = []
        self.feature_info: list[dict[str, Any]] = []
        self._ends: list[int] = []  # positions of the poolings in ``features``
        before = in_chans
        for block, (channels, convolutions) in enumerate(_BLOCKS, 1):
            for _ in range(convolutions):
                layers += [
                    nn.Conv2d(before, channels, 3, padding=1),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(inplace=True),
                ]
                before = channels
            self._ends.append(len(layers))
            name = f"features.{len(layers)}"
            self.feature_info.append({"num_chs": channels, "reduction": 2**block, "module": name})
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.num_features = self.head_hidden_size = before * (img_size // _CUT) ** 2
        self.bn = nn.BatchNorm1d(self.num_features)
        self.bn.bias.requires_grad_(False)
        self.reset_classifier(num_classes)
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):  # as torchvision starts them
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new linear layer in the place of the last; 0 classes: none."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, images: Tensor) -> Tensor:
        """The last pooled map ``(n, 512, img_size/32, img_size/32)`` of normalised images."""
        return self.features(images)

    def forward_intermediates(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The last pooled map, and the pooled outputs of all five blocks, the last one included."""
        pooled = []
        for position, layer in enumerate(self.features):
            images = layer(images)
            if position in self._ends:
                pooled.append(images)
        return images, pooled

    def forward_head(self, hidden: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits, or with ``pre_logits`` the features ``(n, num_features)``, of the last map."""
        features = self.bn(hidden.flatten(1))
        return features if pre_logits else self.fc(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


# Read by timm's register_model under this name. Its ImageNet weights are those of vgg16_bn.
default_cfgs = generate_default_cfgs(
    {
        "vgg16_bn_mi.tv_in1k": {
            "hf_hub_id": "timm/vgg16_bn.tv_in1k",
            "input_size": (3, 64, 64),
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "features.0",
            "classifier": "fc",
            "license": "bsd-3-clause",
        }
    }
)


@register_model
def vgg16_bn_mi(pretrained: bool = False, **kwargs: Any) -> VggMi:
    """The VGG16 of the papers' released code: the convolutions of `vgg16_bn`, BatchNorm1d on 2,048
    features at 64×64, one linear layer. Its ImageNet weights are those of `vgg16_bn`.

    Raises:
        RequestError: ``pretrained`` is asked for, or ``img_size`` is no multiple of 32.
    """
    if pretrained:
        raise RequestError(
            "vgg16_bn_mi gets its weights from mibench.models.initialisation.initialise, which "
            "checks them; create it without `pretrained`"
        )
    return build_model_with_cfg(VggMi, "vgg16_bn_mi", False, **kwargs)
