"""Random views of images that gradients flow through, each row's from a stream of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mibench.streams import RowStreams

GRAY = (0.299, 0.587, 0.114)  # what red, green and blue add to it (ITU-R BT.601)


@dataclass(frozen=True)
class Views:
    """A random crop that is enlarged to the whole, mirrored and turned.

    Attributes:
        scale: least and largest area of the crop, as a share of the image's.
        ratio: least and largest width of the crop for its height; its logarithm is uniform.
        mirror: whether half of the views are mirrored.
        degrees: views are turned by up to so much either way.
        crops, turns: share of the views that are cropped and that are turned.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float] = (1.0, 1.0)
    mirror: bool = False
    degrees: float = 0.0
    crops: float = 1.0
    turns: float = 1.0

    def __call__(self, images: Tensor, streams: RowStreams, mirror: bool = True) -> Tensor:
        """One view of each image, bilinear and differentiable in the images.

        What turning brings in is the image's surroundings of the crop, and its edge repeated.

        Args:
            images: ``(n, 3, h, w)``.
            streams: a row an image; each gives six numbers, whatever the view makes of them, and
                two more where some views alone are cropped or turned.
            mirror: False where a mirrored image is none of its class, as with digits.
        """
        area, ratio, top, left, side, turn = streams.uniform(6).unbind(1)
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * area
        low, high = (math.log(each) for each in self.ratio)
        root = torch.exp((low + (high - low) * ratio) / 2)
        # Of the image's width and height; published code draws anew what does not fit.
        w, h = (area.sqrt() * root).clamp_max(1), (area.sqrt() / root).clamp_max(1)
        angle = (2 * turn - 1) * math.radians(self.degrees)
        if min(self.crops, self.turns) < 1:
            some = streams.uniform(2)
            w, h = (torch.where(some[:, 0] < self.crops, each, 1.0) for each in (w, h))
            angle = torch.where(some[:, 1] < self.turns, angle, 0.0)
        sign = torch.where((side < 0.5) & (self.mirror and mirror), -1.0, 1.0)
        # From places in the view, both axes −1 to 1, to places in the image: turned, mirrored,
        # shrunk to the crop, and moved to its centre.
        cos, sin = angle.cos(), angle.sin()
        x = torch.stack([w * sign * cos, -w * sign * sin, 2 * left * (1 - w) + w - 1], 1)
        y = torch.stack([h * sin, h * cos, 2 * top * (1 - h) + h - 1], 1)
        places = F.affine_grid(torch.stack([x, y], 1), list(images.shape), align_corners=False)
        seen = F.grid_sample(images, places, padding_mode="border", align_corners=False)
        return seen.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Jitter:
    """Random brightness and contrast, what torchvision's ColorJitter makes of these two.

    Attributes:
        most: both factors are uniform in [1 − most, 1 + most].
        share: of the images that are changed; the others stay as they are.
    """

    most: float
    share: float = 1.0

    def __call__(self, images: Tensor, streams: RowStreams) -> Tensor:
        """x ← clip(b·x), then x ← clip(c·x + (1 − c)·m), where m is the mean of x in gray.

        Args:
            images: ``(n, 3, h, w)`` in [0, 1].
            streams: a row an image; each gives three numbers.
        """
        chance, brightness, contrast = streams.uniform(3)[:, :, None, None, None].unbind(1)
        b, c = (
            torch.where(chance < self.share, 1 + self.most * (2 * each - 1), 1.0)
            for each in (brightness, contrast)
        )
        x = (b * images).clamp(0, 1)
        gray = (x * images.new_tensor(GRAY)[:, None, None]).sum(1, keepdim=True)
        return (c * x + (1 - c) * gray.mean((2, 3), keepdim=True)).clamp(0, 1)
