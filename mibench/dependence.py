"""Kernel measures of the dependence between two views of a batch: HSIC and COCO.

A measure compares two Gram matrices ``(..., m, m)`` of the same m samples; leading dimensions are
batches. H = I − 11ᵀ/m centres. The measures are due to Gretton et al. ("Measuring Statistical
Dependence with Hilbert-Schmidt Norms", ALT 2005; "Kernel Methods for Measuring Independence", JMLR
2005); the forms here are those of BiDO's released code (KDD 2022), which normalises HSIC and takes
COCO's Frobenius norm where Gretton et al. take the spectral one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-5  # ε of normalised HSIC, times m


def gaussian_gram(values: Tensor, sigma: float) -> Tensor:
    """Gram matrix exp(−‖a − b‖² / (2σ²·d)) − 1 of ``values`` ``(m, d)``: ``(m, m)``.

    The factor d keeps one σ usable for layers of any size. The kernel without the −1 has the same
    centred Gram matrix, but where samples lie close its entries are all nearly 1, and ``float32``
    would keep few digits of what tells them apart.
    """
    # Neither distances nor their gradients change when the mean is taken off, but their rounding
    # errors shrink.
    values = values - values.mean(0).detach()
    products = linear_gram(values)
    squares = products.diagonal()
    distances = squares[:, None] + squares[None, :] - 2 * products
    return torch.expm1(-distances.clamp_min(0) / (2 * sigma**2 * values.shape[1]))


def linear_gram(values: Tensor) -> Tensor:
    """Gram matrix of dot products of ``values`` ``(m, d)``: ``(m, m)``."""
    return values @ values.T


def centred(gram: Tensor) -> Tensor:
    """HKH: the Gram matrix of the same samples with their mean at the origin."""
    gram = gram - gram.mean(-1, keepdim=True)
    return gram - gram.mean(-2, keepdim=True)


def normalised(gram: Tensor) -> Tensor:
    """R = K_c (K_c + εm·I)⁻¹ with K_c = HKH and ε = 1e-5.

    Released code has K_c = KH. That gives another R but the same :func:`trace_of_product` of two of
    them, since R = RH there; HKH is symmetric, and so better conditioned.
    """
    size = gram.shape[-1]
    inner = centred(gram)
    ridge = RIDGE * size * torch.eye(size, dtype=gram.dtype, device=gram.device)
    # solve_ex: activations that are not finite give a loss that is not finite, not an exception.
    return torch.linalg.solve_ex(inner + ridge, inner)[0]


def trace_of_product(first: Tensor, second: Tensor) -> Tensor:
    """Σ A ∘ Bᵀ = tr(AB), ``(...)``."""
    return (first * second.mT).sum((-2, -1))


def root_of_norm(first: Tensor, second: Tensor) -> Tensor:
    """sqrt(‖AB‖_F) / m, ``(...)``; 0 without a gradient where A or B is constant."""
    norm = torch.linalg.matrix_norm(first @ second)
    # The root's slope at 0 is infinite, which the chain rule would multiply by 0.
    zero = norm == 0
    return norm.masked_fill(zero, 1).sqrt().masked_fill(zero, 0) / first.shape[-1]


@dataclass(frozen=True)
class Measure:
    """A measure of dependence, split so that each Gram matrix is transformed only once.

    Attributes:
        transform: of one Gram matrix.
        compare: of two transformed ones.
    """

    transform: Callable[[Tensor], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Dependence ``(...)`` of two Gram matrices ``(..., m, m)``; 0 without any."""
        return self.compare(self.transform(first), self.transform(second))


HSIC = Measure(normalised, trace_of_product)
"""Normalised HSIC: Σ R_x ∘ R_yᵀ with R of :func:`normalised`."""
COCO = Measure(centred, root_of_norm)
"""Constrained covariance: sqrt(‖HKH·HLH‖_F) / m."""
