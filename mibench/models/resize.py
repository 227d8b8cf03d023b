"""The one resize between a protocol's resolution and an evaluator's."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate


def resize(images: Tensor, resolution: int) -> Tensor:
    """Resize images in floating point, on their device, antialiased bilinear.

    Nothing is clamped or rounded: the filter's weights are non-negative and sum to 1, so values
    stay within the input's range (up to rounding), and gradients pass.

    Args:
        images: floating point ``(n, C, H, W)``.
        resolution: side of the square result, in pixels.

    Returns:
        ``(n, C, resolution, resolution)``; ``images`` itself when it has that size.

    Raises:
        ValueError: not floating point (8-bit images would be rounded), or not four dimensions.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"expected floating point (n, C, H, W), got {images.dtype} {tuple(images.shape)}"
        )
    size = (resolution, resolution)
    if images.shape[-2:] == size:
        return images
    return interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
