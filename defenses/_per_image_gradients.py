"""What DP-SGD needs of a classifier: no batch statistics, and a gradient for every image.

Opacus reads per-image gradients off hooks on single layers. On timm models that breaks (in-place
activations and residual sums on hooked outputs, parameters that belong to no layer such as class
tokens) or is silently another quantity (windowed attention folds positions into the batch). Here
the gradients come from running the classifier on each image alone, so they are exact for every
architecture in which the images of a batch do not mix. On one CPU core this also was six times as
fast as hooks for a ResNet-18 at 32×32 (19 ms an image instead of 115 ms).
"""

from __future__ import annotations

import math

import torch
from timm.layers.norm_act import GroupNormAct
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mibench.errors import RequestError
from mibench.models.classifiers import Classifier
from mibench.streams import seeded

_MAX_GROUPS = 32  # Wu and He, "Group Normalization", ECCV 2018
_MIN_CHANNELS = 4  # a channel that is normalised alone is erased wherever its map is 1×1


def group_count(channels: int) -> int:
    """The most groups, up to 32, that divide ``channels`` into equal groups of at least 4."""
    most = max(1, min(_MAX_GROUPS, channels // _MIN_CHANNELS))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def replace_batch_norm(model: nn.Module) -> list[str]:
    """Put group normalisation in the place of every batch normalisation, in ``model`` itself.

    timm's fused norm-and-activation layers keep their activation. Weights and biases are kept too
    (timm starts some at 0), so the trainable parameters have the same shapes as before.

    Returns:
        The names of the layers replaced.
    """
    replaced = []
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(layer, _BatchNorm):
            continue
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, _group_norm(layer))
        replaced.append(name)
    return replaced


def _group_norm(layer: _BatchNorm) -> nn.GroupNorm:
    channels, affine = layer.num_features, layer.affine
    norm: nn.GroupNorm
    if hasattr(layer, "act"):  # timm: normalisation, dropout and activation in one layer
        fused = GroupNormAct(channels, group_count(channels), eps=layer.eps, affine=affine)
        fused.drop, fused.act = layer.get_submodule("drop"), layer.get_submodule("act")
        norm = fused
    else:
        norm = nn.GroupNorm(group_count(channels), channels, eps=layer.eps, affine=affine)
    if affine:
        norm.weight, norm.bias = layer.weight, layer.bias
    return norm


def check_no_batch_statistics(model: Classifier) -> None:
    """Refuse a model that records statistics of its training images.

    Running statistics enter the deployed model without clipping or noise, so no guarantee would
    hold. They are found by a forward pass in training mode; the buffers are put back.

    Raises:
        RequestError: naming the buffers and the layers that they belong to.
    """
    buffers = dict(model.named_buffers())
    before = {name: value.clone() for name, value in buffers.items()}
    was_training = model.training
    with seeded(0), torch.no_grad():
        model.train()(_probe(model))
    model.train(was_training)
    changed = []
    for name, value in buffers.items():
        if not torch.equal(value, before[name]):
            layer = type(model.get_submodule(name.rpartition(".")[0])).__name__
            changed.append(f"{name} ({layer})")
            value.copy_(before[name])
    if changed:
        raise RequestError(
            f"dp-sgd cannot train {model.architecture!r}: it records statistics of the training "
            f"images outside the privacy guarantee, in {', '.join(changed)}. Choose an "
            "architecture without running statistics, or with batch normalisation (it is replaced)"
        )


def check_vectorises(model: Classifier) -> None:
    """Raise a :class:`RequestError` where :func:`vectorised_gradients` cannot run the model."""
    images = _probe(model)
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    with seeded(0):
        try:
            vectorised_gradients(model, images, labels)
        except RuntimeError as error:
            raise RequestError(
                f"dp-sgd cannot vectorise {model.architecture!r} ({str(error).splitlines()[0]}): "
                "use --set defense.gradients=loop"
            ) from error


def _probe(model: Classifier) -> Tensor:
    """Two different images; not random, so that no generator moves."""
    shape = (2, 3, model.resolution, model.resolution)
    like = next(model.parameters())
    return torch.linspace(0, 1, math.prod(shape), device=like.device, dtype=like.dtype).view(shape)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def looped_gradients(
    model: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Cross-entropy and its gradient for each image, by one backward pass an image.

    The fastest way on CPUs, where a batched weight gradient of convolutions has no good kernel.

    Args:
        images: ``(n, 3, h, w)`` in [0, 1], n ≥ 1.
        labels: ``(n,)``.

    Returns:
        Losses ``(n,)`` and, in the order of :func:`trainable`, gradients ``(n, *shape)``; a
        parameter that the loss does not depend on gets zeros.
    """
    parameters = list(trainable(model).values())
    losses, rows = [], []
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        loss = F.cross_entropy(model(image), label)
        rows.append(torch.autograd.grad(loss, parameters, materialize_grads=True))
        losses.append(loss.detach())
    if len(rows) == 1:  # no copy of what may be a large model's gradient
        return torch.stack(losses), [gradient[None] for gradient in rows[0]]
    return torch.stack(losses), [torch.stack(column) for column in zip(*rows, strict=True)]


def vectorised_gradients(
    model: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The same as :func:`looped_gradients` in one vectorised pass, for GPUs."""
    parameters = trainable(model)

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, values, (image[None],)), label[None])

    each = vmap(grad_and_value(loss), in_dims=(None, 0, 0), randomness="different")
    detached = {name: p.detach() for name, p in parameters.items()}
    gradients, losses = each(detached, images, labels)
    return losses, [gradients[name] for name in parameters]
