"""Networks ready to be attacked: frozen, in evaluation mode, BatchNorm folded, channels last."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from mibench.streams import seeded

Network = TypeVar("Network", bound=nn.Module)
_Pair = tuple[nn.Module, nn.modules.batchnorm._BatchNorm]


def freeze(network: Network, sample: Tensor, *, fold: bool = True) -> Network:
    """A copy of ``network`` for attacks: only its inputs get gradients.

    BatchNorm in evaluation mode is an affine map, so it is folded into the convolution before it.
    The folded copy must give the outputs of the original on ``sample``; otherwise the copy is
    returned unfolded.

    Args:
        network: any module; it is left as it was.
        sample: an input that ``network`` takes.
        fold: False: leave BatchNorm where it is, for attacks that read its running statistics.
    """
    plain = copy.deepcopy(network).eval().requires_grad_(False)
    plain = plain.to(memory_format=torch.channels_last)
    if not fold:
        return plain
    folded = copy.deepcopy(plain)
    with torch.no_grad():
        for conv, norm in _pairs(folded, sample):
            _fold(folded, conv, norm)
        folded = folded.to(memory_format=torch.channels_last)
        same = _agree(plain, folded, sample)
    return folded if same else plain


def _pairs(network: nn.Module, sample: Tensor) -> list[_Pair]:
    """Convolutions (or linear layers) whose output goes into one BatchNorm, and that BatchNorm."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}
    calls: dict[nn.Module, int] = {}
    pairs: list[_Pair] = []

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            source = made.get(id(inputs[0]))
            if source is not None:
                pairs.append((source[0], module))
        else:
            made[id(output)] = (module, output)  # the tensor is kept, so its id stays its own

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.modules.batchnorm._BatchNorm)
    hooks = [m.register_forward_hook(after) for m in network.modules() if isinstance(m, kinds)]
    network(sample)
    for hook in hooks:
        hook.remove()
    return [(conv, norm) for conv, norm in pairs if calls[conv] == calls[norm] == 1]


def _fold(network: nn.Module, conv: nn.Module, norm: nn.modules.batchnorm._BatchNorm) -> None:
    merged: nn.Module
    if isinstance(conv, nn.Linear):
        merged = fuse_linear_bn_eval(conv, norm)
    elif isinstance(conv, nn.Conv2d):
        merged = fuse_conv_bn_eval(conv, norm)
    else:
        assert isinstance(conv, nn.ConvTranspose2d)
        merged = fuse_conv_bn_eval(conv, norm, transpose=True)
    # timm's BatchNormAct2d applies its activation itself.
    rest = getattr(norm, "act", None)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child is conv:
                setattr(parent, name, merged.requires_grad_(False))
            elif child is norm:
                setattr(parent, name, rest if isinstance(rest, nn.Module) else nn.Identity())


def _agree(plain: nn.Module, folded: nn.Module, sample: Tensor) -> bool:
    outputs = []
    for network in (plain, folded):
        with seeded(0):  # a stochastic network draws the same noise twice
            outputs.append(network(sample))
    before, after = outputs
    scale = before.abs().max().clamp_min(1e-6)
    return bool(((before - after).abs().max() / scale) < 1e-3)
